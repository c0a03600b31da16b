"""Summarise the shapes study: means with intervals and costs, and differences paired by seed.

    python -m analysis.shapes.summarise runs/shapes analysis/shapes

prints the tables of README.md and writes results.csv, a row for each run, and differences.svg.
"""

from __future__ import annotations

from analysis.paired import Questions, command

SPARSITIES = (0.5, 0.75, 0.9)
METHODS = ("static", "set", "rigl")
PARALLEL = ("parallel 0.5", "parallel 0.5 linear")


def labels() -> dict[str, str]:
    """The label of each cell, by the name of its runs without the seed."""
    wide = {f"sparse_wide-s{s:g}-{method}": f"wide {s:g} {method}" for s in SPARSITIES for method in METHODS}
    kinds = zip(("bn_relu", "identity"), PARALLEL, strict=True)
    parallel = {f"sparse_parallel-s0.5-rigl-ift.nonlinearity={kind}": label for kind, label in kinds}
    return {"dense": "dense"} | wide | parallel


def questions() -> Questions:
    """What the paper's trends say of these cells, a positive difference agreeing with them."""
    methods = []
    for s in SPARSITIES:
        static, set_, rigl = (f"wide {s:g} {method}" for method in METHODS)
        methods += [(set_, static), (rigl, static), (rigl, set_)]
    wide = [f"wide {s:g} {method}" for s in SPARSITIES for method in METHODS]
    return {
        "dynamic against static": methods,
        "families against dense": [(model, "dense") for model in (*wide, *PARALLEL)],
        "Wide against Parallel": [("wide 0.5 rigl", name) for name in PARALLEL],
        "with a non-linearity against none": [PARALLEL],
    }


if __name__ == "__main__":
    command(__doc__, labels(), questions())
