"""Summarise the digits study: means with intervals, and differences paired by seed.

    python -m analysis.digits.summarise runs/digits analysis/digits

prints the tables of README.md and writes results.csv, a row for each run, and differences.svg.
"""

from __future__ import annotations

import itertools

from analysis.paired import Questions, command

SPARSITIES = (0.5, 0.75, 0.9)
METHODS = ("static", "set", "rigl")


def labels() -> dict[str, str]:
    """The label of each cell, by the name of its runs without the seed."""
    cells = [(s, method) for s in SPARSITIES for method in sorted(METHODS)]
    return {"dense": "dense"} | {f"sparse_wide-s{s:g}-{method}": f"wide {s:g} {method}" for s, method in cells}


def questions() -> Questions:
    """At each sparsity the methods against each other and against dense; then each method along the sparsities."""
    pairs = []
    for s in SPARSITIES:
        static, set_, rigl = (f"wide {s:g} {method}" for method in METHODS)
        pairs += [(set_, static), (rigl, static), (rigl, set_)]
        pairs += [(model, "dense") for model in (static, set_, rigl)]
    for method in METHODS:
        pairs += [(f"wide {high:g} {method}", f"wide {low:g} {method}") for low, high in itertools.pairwise(SPARSITIES)]
    return {"methods and sparsities": pairs}


if __name__ == "__main__":
    command(__doc__, labels(), questions())
