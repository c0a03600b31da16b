"""Which runs are compared, and what is held fixed among them.

One row per run enters a correlation: its last recorded step. The views are drawn in `sift_graph.correlate`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sift_graph.errors import UsageError
from sift_graph.over_time import WITHIN_RUNS

__all__ = [
    "CONTROL",
    "FIXED",
    "PARTIAL",
    "PARTIAL_WITHIN",
    "POOLED",
    "VIEWS",
    "WITHIN",
    "WITHIN_CELL",
    "View",
    "last_steps",
    "views",
]

CONTROL = "mean_density"
POOLED, FIXED, WITHIN, PARTIAL = "pooled", "fixed sparsity", "within sparsity", f"partial given {CONTROL}"
PARTIAL_WITHIN, WITHIN_CELL = f"partial given {CONTROL} and sparsity", "within family, method and sparsity"
FIXED_ONE = {"family": "fixed family", "method": "fixed method"}
VIEWS = (POOLED, FIXED, WITHIN, PARTIAL, PARTIAL_WITHIN, *FIXED_ONE.values(), WITHIN_CELL, WITHIN_RUNS)
_IDENTITY = ("family", "method", "sparsity", "seed")


@dataclass(frozen=True, eq=False)
class View:
    """Some of the runs, and what is held fixed among them."""

    name: str
    stratum: str
    runs: pd.DataFrame
    codes: np.ndarray | None = None  # categories to hold fixed, one code per run
    control: np.ndarray | None = None  # a covariate to hold fixed, one value per run
    note: str = ""


def last_steps(
    network: pd.DataFrame, column: str, names: list[str], *, include_dense: bool
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """One row per run, its last step, with copies of a run dropped; and what was left out."""
    twice = network[network.duplicated(["run", "step"], keep=False)]
    if len(twice):
        first = twice.iloc[0]
        raise UsageError(
            f"run {first['run']!r}: step {first['step']} occurs more than once in the network frame "
            f"({twice['run'].nunique()} runs affected); drop the copies or give each run its own name"
        )
    runs = network.sort_values("step", kind="stable").drop_duplicates("run", keep="last").sort_index()
    n_dense = 0
    if not include_dense and "family" in runs:
        dense = runs["family"] == "dense"
        n_dense, runs = int(dense.sum()), runs[~dense]
    words = []
    # A deterministic trainer repeats a config bit for bit: the copies carry no information and would narrow intervals.
    known = [name for name in (*_IDENTITY, CONTROL, *names, column) if name in runs.columns]
    copies = runs.duplicated(list(dict.fromkeys(known)), keep="first") & runs[names].notna().any(axis=1)
    copies &= runs[column].notna()
    if copies.any():
        words.append(f"duplicates_dropped:{int(copies.sum())}")
        runs = runs[~copies]
    values = runs[[*names, column]].astype(float)
    infinite = int(np.isinf(values.to_numpy()).any(axis=1).sum())
    if infinite:
        words.append(f"infinite_dropped:{infinite}")
    runs = runs.assign(
        **{name: values[name].replace([np.inf, -np.inf], np.nan) for name in names}, _target=values[column]
    )
    runs["_target"] = runs["_target"].replace([np.inf, -np.inf], np.nan)
    return runs, {
        "n_runs": len(runs),
        "n_dense_left_out": n_dense,
        "n_duplicates_dropped": int(copies.sum()),
        "n_without_target": int(runs["_target"].isna().sum()),
        "note": "; ".join(words),
    }


def views(runs: pd.DataFrame) -> Iterator[View]:
    """Draw the views in their order; those of one family, one method or one cell only where there are several."""
    yield View(POOLED, "all", runs)
    if "sparsity" in runs:
        sparsity = runs["sparsity"].astype(float).round(6)
        known = runs[sparsity.notna()]
        note = f"sparsity_missing:{len(runs) - len(known)}" if len(known) < len(runs) else ""
        strata = sorted(sparsity.dropna().unique())
        for value in strata:
            yield View(FIXED, f"{value:g}", runs[sparsity == value])
        codes = np.searchsorted(strata, sparsity.dropna().to_numpy()) if strata else np.zeros(0, dtype=int)
        note = "; ".join(filter(None, [note, "one_sparsity" if len(strata) == 1 else ""]))
        yield View(WITHIN, "all", known, codes=codes, note=note)
    if CONTROL in runs:
        yield View(PARTIAL, "all", runs, control=runs[CONTROL].to_numpy(dtype=float))
        if "sparsity" in runs and len(strata) > 1:
            yield View(PARTIAL_WITHIN, "all", known, codes=codes, control=known[CONTROL].to_numpy(dtype=float))
    for column, name in FIXED_ONE.items():
        kinds = sorted(map(str, runs[column].dropna().unique())) if column in runs else []
        for kind in kinds if len(kinds) > 1 else []:
            yield View(name, kind, runs[runs[column].astype(str) == kind])
    cells = [name for name in ("family", "method", "sparsity") if name in runs]
    if len(cells) > 1:
        cell = runs.groupby(cells, dropna=False).ngroup().to_numpy()
        if len(np.unique(cell)) > 1:
            yield View(WITHIN_CELL, "all", runs, codes=cell)
