"""Summarise the families study: means with intervals and costs, and differences paired by seed.

    python -m analysis.families.summarise runs/families analysis/families

prints the tables of README.md and writes results.csv, a row for each run, and differences.svg.
"""

from __future__ import annotations

from analysis.paired import Questions, command

SPARSITIES = (0.5, 0.75, 0.9)
FAMILIES = ("parallel", "factorized", "doped")
PATTERNS = {"4:8": 0.5, "2:8": 0.75, "1:8": 0.875}
WIDER = {0: "1x", 0.5: "1.41x", 0.75: "2x", 0.9: "3.16x"}  # a low-rank model of sparsity s is 1/sqrt(1 - s) wide


def labels() -> dict[str, str]:
    """The label of each cell, by the name of its runs without the seed."""
    found = {"dense": "dense"} | {f"sparse_wide-s{s:g}-rigl": f"wide {s:g}" for s in SPARSITIES}
    for family in FAMILIES:
        for s in SPARSITIES:
            for nonlinearity, words in (("bn_relu", ""), ("identity", " linear")):
                found[f"sparse_{family}-s{s:g}-rigl-ift.nonlinearity={nonlinearity}"] = f"{family} {s:g}{words}"
    for kind in ("nonlinear", "linear"):
        for s, wider in WIDER.items():
            found[f"low_rank_{kind}-s{s:g}"] = f"low rank {wider}{' linear' if kind == 'linear' else ''}"
    for pattern, s in PATTERNS.items():
        found[f"nm_wide-s{s:g}-nm-options.pattern=[{pattern.replace(':', ',')}]"] = f"{pattern} transposable"
        found[f"sparse_wide-s{s:g}-rigl-ift.multiple=8-masks.compensate=False"] = f"{pattern} unstructured"
    return found


def questions() -> Questions:
    """What the paper's trends say of these cells, a positive difference agreeing with them."""
    names = ("wide", *FAMILIES)
    low_rank = [f"low rank {wider}" for wider in WIDER.values()]
    return {
        "families against dense": [(f"{name} {s:g}", "dense") for name in names for s in SPARSITIES],
        "Wide against the other families": [(f"wide {s:g}", f"{name} {s:g}") for name in FAMILIES for s in SPARSITIES],
        "with a non-linearity against none": [
            *((f"{name} {s:g}", f"{name} {s:g} linear") for name in FAMILIES for s in SPARSITIES),
            *((name, f"{name} linear") for name in low_rank),
        ],
        "unstructured against N:M, of equal width and density": [
            (f"{pattern} unstructured", f"{pattern} transposable") for pattern in PATTERNS
        ],
        "Wide against N:M, of unequal cost": [
            (f"wide {s:g}", f"{pattern} transposable") for s, pattern in zip(SPARSITIES, PATTERNS, strict=True)
        ],
        "N:M against dense": [(f"{pattern} transposable", "dense") for pattern in PATTERNS],
        "Wide against low rank, of equal width": [
            (f"wide {s:g}", f"low rank {WIDER[s]}{kind}") for kind in ("", " linear") for s in SPARSITIES
        ],
    }


if __name__ == "__main__":
    command(__doc__, labels(), questions())
