"""Layers to networks: the means over the layers of each (run, step), and what training said there."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from sift_graph.metrics import DYNAMICS, METRICS
from sift_graph.metrics.full_spectrum import COORDINATE, anchor_distance, angular_distance, distance
from sift_graph.store import RunReader
from sift_graph.work import RUN_COLUMNS, Failure, is_number

__all__ = ["Average", "network_frame"]

Average = Literal["sparse", "all"]
VITA_GATES = {"mean_left_degree", "mean_right_degree"}  # both at least 3, else that code has no value


def network_frame(
    layers: pd.DataFrame,
    readers: Mapping[str, RunReader],
    failures: Sequence[Failure] = (),
    *,
    average: Average = "sparse",
) -> pd.DataFrame:
    """Whole-network values: one row per (run, step).

    Parameters
    ----------
    layers : DataFrame
        The layer frame.
    readers : mapping of str to RunReader
        By run name; their metrics are joined.
    failures : sequence of Failure
    average : {"sparse", "all"}
        Which layers the means are over: those that are sparse in any snapshot of their run, or all. A dense layer has
        a normalised gap of exactly 1, and a raw one as large as its bound, which would dominate. A run without a
        sparse layer is averaged over all.

    Returns
    -------
    DataFrame
        ``n_layers``, ``n_averaged``, ``n_failed``; ``density`` (edges over entries of all its layers),
        ``mean_density`` (mean over the averaged layers); the mean of each metric over the averaged layers where it is
        defined, and beside it the share of them where it is, ``<metric>_coverage``; ``ramanujan_share`` of the layers
        with a proven verdict, and ``ramanujan_share_vita``, which counts as not Ramanujan what the code of ICLR 2023
        leaves undefined, layers of a mean degree below 3; where the full-spectrum coordinate was measured, its
        distances from the first snapshot (``fs_distance_first`` is the mean over layers, ``_stacked`` the norm of all,
        ``fs_anchor_distance_*`` and ``fs_angular_distance_*`` are over the layers of one weighted metric); the training
        metrics recorded last at or before the step, and ``final_<name>``, the last of the whole run.
    """
    group = layers.groupby(["run", "step"], sort=False).ngroup().to_numpy()
    count = int(group.max(initial=-1)) + 1
    places = np.unique(group, return_index=True)[1]
    frame = layers.iloc[places][[*RUN_COLUMNS, "step", "epoch"]].reset_index(drop=True)
    kept = averaged_rows(layers, average)
    own = group[kept]

    def sums(values: Any, among: np.ndarray) -> np.ndarray:
        return np.bincount(among, weights=np.asarray(values, dtype=float), minlength=count)

    def mean(values: np.ndarray) -> np.ndarray:
        known = ~np.isnan(values)
        return over(sums(values[known], own[known]), sums(known, own))

    sizes = sums(np.ones(len(layers)), group)
    frame["n_layers"] = sizes.astype(int)
    frame["n_averaged"] = n_averaged = sums(np.ones(own.size), own).astype(int)
    failed = Counter((failure.run, failure.step) for failure in failures)
    frame["n_failed"] = [failed[str(run), int(step)] for run, step in zip(frame["run"], frame["step"], strict=True)]
    edges, density = layers["edges"].to_numpy(float), layers["density"].to_numpy(float)
    whole = layers["n_left"].to_numpy(float) * layers["n_right"].to_numpy(float)
    entries = np.divide(edges, density, out=whole, where=density > 0)
    frame["density"] = over(sums(edges, group), sums(entries, group))
    frame["mean_density"] = mean(density[kept])
    columns: dict[str, np.ndarray] = {}
    for name in averaged_metrics(layers):
        values = layers[name].to_numpy(dtype=float, na_value=math.nan)[kept]
        columns[name] = mean(values)
        columns[f"{name}_coverage"] = over(sums(~np.isnan(values), own), n_averaged)
    if "is_ramanujan" in layers:
        verdict = layers["is_ramanujan"].astype(object).to_numpy()[kept]
        yes, no = (sums(verdict == word, own) for word in ("yes", "no"))
        columns["ramanujan_share"] = over(yes, yes + no)
    if VITA_GATES | {"ramanujan_gap"} <= set(layers):
        rows = layers.iloc[np.flatnonzero(kept)]
        gap, *degrees = (rows[name].to_numpy(float, na_value=math.nan) for name in ("ramanujan_gap", *VITA_GATES))
        within = (gap > 0) & (np.min(degrees, axis=0) >= 3)
        columns["ramanujan_share_vita"] = over(sums(within, own), n_averaged)
    parts = [frame, pd.DataFrame(columns)]
    if set(COORDINATE) <= set(layers):
        parts.append(pd.DataFrame(distances_of_all(layers[kept], own, count)))
    histories = {run: training_history(reader) for run, reader in readers.items()}
    steps = zip(frame["run"], frame["step"], strict=True)
    training = pd.DataFrame([training_columns(histories[str(run)], int(step)) for run, step in steps])
    if not count:
        return pd.DataFrame()
    joined = pd.concat(parts, axis=1)
    said = [str(name) for name in training if name in joined]
    for name in said:  # what a run's training logged under a metric's name stands
        logged = np.array([name in histories[str(run)] for run in frame["run"]])
        joined[name] = joined[name].where(~logged, training[name])
    return pd.concat([joined, training.drop(columns=said)], axis=1)


def over(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Divide; NaN where nothing was counted."""
    found: np.ndarray = np.divide(total, count, out=np.full(total.shape, math.nan), where=count > 0)
    return found


def averaged_metrics(layers: pd.DataFrame) -> list[str]:
    """Metrics whose mean over layers means something."""
    names = [c for c in (*METRICS, *DYNAMICS) if c in layers and is_number(c) and c not in ("density", "edges")]
    return [c for c in names if not c.startswith("n_") or c.startswith(("n_subgraphs", "n_components"))]


def averaged_rows(layers: pd.DataFrame, average: Average) -> np.ndarray:
    """Which rows the means are over: those of layers that are sparse somewhere in their run, all if none is."""
    if average == "all":
        return np.ones(len(layers), dtype=bool)
    ids = layers.groupby(["run", "layer"], sort=False, observed=True).ngroup().to_numpy()
    runs = layers.groupby("run", sort=False).ngroup().to_numpy()
    below = layers["density"].to_numpy(float) < 1
    sparse = np.isin(ids, ids[below])
    none: np.ndarray = sparse | ~np.isin(runs, runs[below])
    return none


def distances_of_all(layers: pd.DataFrame, group: np.ndarray, count: int) -> list[dict[str, float]]:
    """Distances of each group of rows from the first group of its run, matched by layer."""
    values = layers[list(COORDINATE)].to_numpy(float)
    names = layers.groupby("layer", sort=False, observed=True).ngroup().to_numpy()
    runs = layers.groupby("run", sort=False).ngroup().to_numpy()
    order = np.argsort(group, kind="stable")
    ends = np.searchsorted(group[order], np.arange(count + 1))
    anchors: dict[int, dict[int, int]] = {}
    found: list[dict[str, float]] = []
    for g in range(count):
        rows = order[ends[g] : ends[g + 1]]
        anchor = anchors.setdefault(int(runs[rows[0]]), {int(names[i]): int(i) for i in rows})
        both = np.array([(i, anchor[names[i]]) for i in rows if names[i] in anchor], dtype=int).reshape(-1, 2)
        found.append(distances(values[both[:, 0]], values[both[:, 1]]))
    return found


def distances(now: np.ndarray, then: np.ndarray) -> dict[str, float]:
    """Distances of a network's full-spectrum coordinate from its first snapshot, each by its own name."""
    each = distance(now, then)
    each = each[~np.isnan(each)]
    found = {
        "fs_distance_first": float(each.mean()) if each.size else math.nan,
        "fs_distance_first_stacked": math.sqrt(float((each**2).sum())) if each.size else math.nan,
    }
    for column in ("weighted_spectral_gap", "imsg"):
        i = COORDINATE.index(column)
        defined = not np.isnan(now[:, i]).all()
        found[f"fs_anchor_distance_{column}"] = anchor_distance(now[:, i], then[:, i]) if defined else math.nan
        found[f"fs_angular_distance_{column}"] = angular_distance(now[:, i], then[:, i])
    return found


def training_history(reader: RunReader) -> dict[str, list[tuple[float, float]]]:
    """Read what was logged during training: for each name its (step, value) pairs, in the order of writing."""
    history: dict[str, list[tuple[float, float]]] = {}
    for row in reader.metrics():
        step = row.pop("step", None)
        row.pop("epoch", None)
        if isinstance(step, int | float):
            for name, value in row.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    history.setdefault(name, []).append((step, value))
    return history


def training_columns(history: Mapping[str, Sequence[tuple[float, float]]], step: int) -> dict[str, float]:
    """Training metrics as of `step`, and the last of the run."""
    columns: dict[str, float] = {}
    for name, seen in history.items():
        before = [value for at, value in seen if at <= step]
        columns[name] = before[-1] if before else math.nan
        columns[f"final_{name}"] = seen[-1][1]
    return columns
