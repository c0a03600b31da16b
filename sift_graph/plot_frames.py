"""What a figure draws from a frame: which rows, in which groups, with which interval."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy import stats

from sift_graph.plot_style import MUTED, PALETTE, method_colour, plain

__all__ = [
    "LINES",
    "band",
    "finite",
    "groups",
    "half_width",
    "has_numbers",
    "last_steps",
    "levels",
    "line_with_band",
    "methods_in_order",
    "per_step",
    "sparse_runs",
    "sparsity_key",
    "target_column",
]

LINES = ("-", "--", ":", "-.")
_ORDER = {"dense": 0, "static": 1, "set": 2, "rigl": 3, "gse": 4}


def finite(column: pd.Series) -> pd.Series:
    """Which entries are finite numbers."""
    return pd.to_numeric(column, errors="coerce").replace([np.inf, -np.inf], np.nan).notna()


def has_numbers(frame: pd.DataFrame, column: str) -> bool:
    """Whether a column is there and holds a finite number."""
    return column in frame and len(frame) > 0 and bool(finite(frame[column]).any())


def sparse_runs(frame: pd.DataFrame) -> pd.DataFrame:
    """Leave out dense runs where there are others: their masks are all ones."""
    if "family" not in frame or (frame["family"] == "dense").all():
        return frame
    return frame[frame["family"] != "dense"]


def target_column(network: pd.DataFrame, target: str) -> str:
    """Name the column that holds a run's last value of a target."""
    return f"final_{target}" if f"final_{target}" in network else target


def last_steps(network: pd.DataFrame) -> pd.DataFrame:
    """Take the last step of each run."""
    if "run" not in network or "step" not in network:
        return network
    return network.sort_values("step", kind="stable").drop_duplicates("run", keep="last").sort_index()


def per_step(frame: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    """One row per (run, step): of a layers frame the mean over layers."""
    if "layer" not in frame or not {"run", "step"} <= set(frame.columns):
        return frame
    keys = [key for key in ("run", "family", "method", "sparsity", "seed", "step") if key in frame]
    columns = [metric for metric in metrics if metric in frame]
    return frame.groupby(keys, sort=False, dropna=False)[columns].mean().reset_index()


def levels(frame: pd.DataFrame, column: str) -> list[Any]:
    """Distinct values of a column in order, without NaN."""
    return sorted(frame[column].dropna().unique()) if column in frame else []


def methods_in_order(names: list[Any]) -> list[Any]:
    """Put the methods that everyone compares first, in their usual order."""
    return sorted(names, key=lambda name: (_ORDER.get(str(name), len(_ORDER)), str(name)))


def groups(frame: pd.DataFrame, by: str, *, split: bool = True) -> Iterator[tuple[str, str, str, pd.DataFrame]]:
    """Name, colour, line style and rows of each line; only the first line of a name carries it into the legend."""
    names = levels(frame, by)
    names = methods_in_order(names) if by == "method" else names
    unknown = frame[frame[by].isna()] if by in frame else frame
    parts = [(plain(name), method_colour(name, place), frame[frame[by] == name]) for place, name in enumerate(names)]
    if len(unknown):
        parts.append((f"no {by}", MUTED, unknown) if parts else ("all runs", PALETTE[0], unknown))
    sparsities = levels(frame, "sparsity") if split and by != "sparsity" else []
    for name, colour, rows in parts:
        if len(sparsities) < 2:
            yield name, colour, LINES[0], rows
            continue
        for place, sparsity in enumerate(sparsities):
            part = rows[rows["sparsity"] == sparsity]
            if len(part):
                yield name, colour, LINES[place % len(LINES)], part
                name = "_nolegend_"


def sparsity_key(ax: Axes, frame: pd.DataFrame, by: str) -> None:
    """Explain in the legend which line style stands for which sparsity, where they differ."""
    sparsities = levels(frame, "sparsity") if by != "sparsity" else []
    for place, sparsity in enumerate(sparsities if len(sparsities) > 1 else []):
        ax.plot([], [], color=MUTED, linestyle=LINES[place % len(LINES)], label=f"s = {sparsity:g}")


def line_with_band(ax: Axes, rows: pd.DataFrame, metric: str, confidence: float, **kind: Any) -> None:
    """Draw the mean over runs against the step; a mask stands until the next snapshot."""
    if not has_numbers(rows, metric):
        return
    wide = rows.pivot_table(index="step", columns="run", values=metric, aggfunc="mean").sort_index()
    last = rows.groupby("run")["step"].max()
    filled = wide.ffill()
    for run in wide.columns:
        filled.loc[filled.index > last[run], run] = np.nan
    kind.setdefault("marker", "o" if len(wide) == 1 else "")
    band(ax, filled, confidence, **kind)


def band(ax: Axes, wide: pd.DataFrame, confidence: float, **kind: Any) -> None:
    """Draw the row means of a table of runs with a Student interval."""
    wide = wide.replace([np.inf, -np.inf], np.nan).dropna(how="all")
    if len(wide) > 400:  # more points than pixels
        wide = wide.iloc[np.unique(np.linspace(0, len(wide) - 1, 400).round().astype(int))]
    if not len(wide):
        return
    x, mean = wide.index.to_numpy(dtype=float), wide.mean(axis=1).to_numpy(dtype=float)
    half = np.array([half_width(row[np.isfinite(row)], confidence) for row in wide.to_numpy(dtype=float)])
    ax.plot(x, mean, **kind)
    if (half > 0).any():
        ax.fill_between(x, mean - half, mean + half, color=kind["color"], alpha=0.16, linewidth=0)


def half_width(values: np.ndarray, confidence: float) -> float:
    """Half the Student interval of a mean; 0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    quantile = stats.t.ppf(0.5 + confidence / 2, len(values) - 1)
    return float(quantile * values.std(ddof=1) / math.sqrt(len(values)))
