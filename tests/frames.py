"""Synthetic frames with the columns of `sift_graph.table`, for tests of what stands downstream of it.

The numbers follow the laws that matter to the tests: the normalised gap of a random mask is 1 - sqrt(1 - density),
RigL falls below it, the weighted gap grows with training, and accuracy depends on sparsity and a little on the gap.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

LAYER_METRICS = (
    "sigma_1",
    "sigma_2",
    "bound",
    "ramanujan_gap",
    "ramanujan_gap_norm",
    "random_gap_norm",
    "excess_gap",
    "imdb",
    "imdb_norm",
    "imsg",
    "weighted_spectral_gap",
    "normalised_sigma_2",
    "hamming_previous",
    "iou_previous",
    "iou_first",
    "itop_rate",
)
HOSTILE_LAYER = 'block/"q\'uote"<img src=x onerror=alert(1)>&amp;$x$' + "z" * 300


def layers_frame(
    *,
    families: Sequence[str] = ("dense", "sparse_wide"),
    sparsities: Sequence[float] = (0.5, 0.75, 0.9),
    methods: Sequence[str] = ("static", "set", "rigl"),
    seeds: Sequence[int] = (0, 1),
    n_layers: int = 4,
    steps: Sequence[int] = (0, 50, 100, 150),
    layer_names: Sequence[str] | None = None,
) -> pd.DataFrame:
    """One row per (run, step, layer)."""
    names = list(layer_names or (f"stage{i // 2 + 1}.{i % 2}.conv1" for i in range(n_layers)))
    rows = []
    for family in families:
        grid = (
            itertools.product((0.0,), ("static",), seeds)
            if family == "dense"
            else itertools.product(sparsities, methods, seeds)
        )
        for sparsity, method, seed in grid:
            run = f"{family}-{sparsity:g}-{method}-{seed}"
            rng = np.random.default_rng([len(rows), seed])
            run_shift = rng.normal(0, 0.01)
            for index, step in enumerate(steps):
                progress = index / max(len(steps) - 1, 1)
                for depth, layer in enumerate(names):
                    rows.append(_row(run, family, method, sparsity, seed, step, progress, depth, layer, run_shift, rng))
    return pd.DataFrame(rows)


def _row(run, family, method, sparsity, seed, step, progress, depth, layer, run_shift, rng):
    n_left, n_right = 72 * (depth + 1), 16 * (depth + 1)
    density = (1.0 - sparsity) * (1.0 if family == "dense" else 0.9 + 0.2 * depth / 10)
    edges = round(density * n_left * n_right)
    left, right = edges / n_left, edges / n_right
    bound = math.sqrt(left - 1) + math.sqrt(right - 1)
    excess = 0.0 if family == "dense" else {"static": 0.0, "set": -0.02, "rigl": -0.10}[method] * progress
    excess += 0.0 if family == "dense" else run_shift
    random_gap = 1 - math.sqrt(1 - density)
    gap_norm = random_gap + excess
    sigma_2 = bound * (1 - gap_norm)
    sigma_1 = math.sqrt(left * right) * 1.02
    sparse = density < 0.15 and depth % 2 == 1
    moving = 0.0 if method == "static" else 1.0
    weighted = 0.6 + 0.8 * progress + 0.1 * depth + rng.normal(0, 0.02)
    verdict = "undecided" if abs(gap_norm) < 0.002 else ("yes" if gap_norm > 0 else "no")
    return {
        "run": run,
        "family": family,
        "method": method,
        "sparsity": sparsity,
        "seed": seed,
        "step": step,
        "epoch": step / 10,
        "layer": layer,
        "depth": depth,
        "n_left": n_left,
        "n_right": n_right,
        "n_left_isolated": 0,
        "n_right_isolated": 0,
        "edges": edges,
        "density": density,
        "mean_left_degree": left,
        "mean_right_degree": right,
        "sigma_1": sigma_1,
        "sigma_2": sigma_2,
        "sigma_2_lo": sigma_2 - 1e-9,
        "sigma_2_hi": sigma_2 + 1e-9,
        "bound": bound,
        "ramanujan_gap": bound - sigma_2,
        "ramanujan_gap_norm": gap_norm,
        "is_ramanujan": verdict,
        "imdb": math.nan if sparse else 0.8 * (bound - sigma_2),
        "imdb_norm": math.nan if sparse else 0.9 * gap_norm,
        "imsg": math.nan if sparse else 0.7 * weighted,
        "n_subgraphs": 0 if sparse else 5,
        "edge_coverage": 0.0 if sparse else 0.8,
        "weighted_spectral_gap": weighted,
        "weighted_sigma_1": 1.5 * weighted,
        "weighted_sigma_2": 0.5 * weighted,
        "normalised_sigma_2": min(1.0, sigma_2 / sigma_1),
        "random_gap_norm": random_gap,
        "excess_gap": excess,
        "hamming_previous": 0.1 * moving * (1 - progress),
        "iou_previous": math.nan if step == 0 else 1 - 0.3 * moving * (1 - progress),
        "hamming_first": 0.2 * moving * progress,
        "iou_first": 1 - 0.5 * moving * progress,
        "itop_rate": min(1.0, density * (1 + moving * progress)),
        "source": "dense" if family == "dense" else "mask_set",
        "note": "too_small" if sparse else "",
    }


def network_frame(layers: pd.DataFrame, *, target: str | None = "val_accuracy") -> pd.DataFrame:
    """One row per (run, step), averaged from `layers`; accuracies where `target` is not None."""
    keys = ["run", "family", "method", "sparsity", "seed", "step", "epoch"]
    grouped = layers.groupby(keys, sort=False, dropna=False)
    frame = grouped[list(LAYER_METRICS)].mean()
    for metric in LAYER_METRICS:
        frame[f"{metric}_coverage"] = grouped[metric].apply(lambda column: column.notna().mean())
    frame["n_layers"] = grouped.size()
    frame["n_failed"] = 0
    frame["density"] = grouped["edges"].sum() / grouped.apply(
        lambda rows: (rows["n_left"] * rows["n_right"]).sum(), include_groups=False
    )
    frame["mean_density"] = grouped["density"].mean()
    frame["ramanujan_share"] = grouped["is_ramanujan"].apply(lambda column: (column == "yes").mean())
    frame = frame.reset_index()
    if target is not None:
        last = frame.groupby("run")["step"].transform("max")
        final = {}
        for run, rows in frame.groupby("run", sort=False):
            end = rows.iloc[-1]
            rng = np.random.default_rng(len(final))
            sparsity = 0.0 if math.isnan(end["sparsity"]) else end["sparsity"]
            final[run] = 0.72 + 0.09 * sparsity + 0.3 * end["excess_gap"] + rng.normal(0, 0.004)
        value = frame["run"].map(final)
        frame[target] = value - 0.3 * (1 - frame["step"] / last.where(last > 0, 1))
        frame[f"final_{target}"] = value
    return frame
