"""Summarise the study of evolution: topology against step for each method, and the last masks among random ones.

    python -m analysis.evolution.summarise runs/evolution analysis/evolution -j 2

measures every snapshot and draws random masks for the last ones, prints the tables of README.md, and writes
results.csv (a row a run), curves.csv (a row a sparsity, method and step: means over seeds) and evolution.svg.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

import sift_graph
from analysis.paired import interval, markdown
from sift_graph.plots import gap_over_time, save_svg, style

CELL = ["sparsity", "method"]
METRICS = {
    "ramanujan_gap_norm": "gap over bound",
    "excess_gap": "excess gap",
    "imdb": "IMDB",
    "weighted_spectral_gap": "weighted gap",
    "fs_norm": "full-spectrum norm",
    "spectral_velocity": "spectral velocity",
    "iou_first": "IoU with the first mask",
    "itop_rate": "ITOP rate",
}
CHANGES = ("ramanujan_gap_norm", "imdb", "weighted_spectral_gap", "normalised_sigma_2")
DRAWN = 0.9  # the sparsity of the figure
DRAWN_IMDB = 0.75  # at 0.9 too few inputs share a degree
ARRIVED = 1.05  # times the density asked for: Spartan begins dense, and is looked at from there on
SAMPLES = 50


def arrived(network: pd.DataFrame) -> pd.DataFrame:
    """Leave out the snapshots before a run has come down to its sparsity."""
    return network[network["mean_density"] <= ARRIVED * (1 - network["sparsity"])]


def mean_curves(network: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds at each step."""
    columns = [*METRICS, "normalised_sigma_2", "mean_density", "val_accuracy"]
    kept = [name for name in columns if name in network]
    return network.groupby([*CELL, "step"], sort=True)[kept].mean().reset_index()


def ends(network: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """A row a run: its first masks at full sparsity, its last ones, and the mean z of those among random masks."""
    ordered = arrived(network).sort_values("step")
    first, last = (ordered.groupby("run").nth(i).set_index("run") for i in (0, -1))
    rows = last[[*CELL, "seed", "final_val_accuracy"]]
    parts = [side.loc[rows.index, list(CHANGES)].add_suffix(end) for side, end in ((first, " first"), (last, " last"))]
    return pd.concat([rows, *parts, scores.set_index("run").reindex(rows.index)], axis=1).reset_index()


def changes(runs: pd.DataFrame) -> pd.DataFrame:
    """Last masks less the first, a row a cell: mean over seeds and its 95 % t interval."""
    rows = []
    for cell, part in runs.groupby(CELL, sort=True):
        row = dict(zip(CELL, cell, strict=True)) | {"runs": len(part), "accuracy": part["final_val_accuracy"].mean()}
        for name in CHANGES:
            row[name] = text_interval((part[f"{name} last"] - part[f"{name} first"]).dropna().to_numpy(), digits=3)
        rows.append(row)
    return pd.DataFrame(rows)


def text_interval(values: np.ndarray, *, digits: int) -> str:
    """Mean and 95 % interval as text; dashes where there are too few values."""
    if len(values) < 3:
        return "--"
    if np.ptp(values) == 0:
        return f"{values[0]:+.{digits}f}"
    mean, low, high = interval(values)
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def null_scores(study: Path, jobs: int) -> pd.DataFrame:
    """Mean z of the last masks' gap over a run's layers, among random masks of equal edges and of equal degrees."""
    parts = []
    for null in ("er", "degree"):
        found = sift_graph.analyze(
            study,
            steps="last",
            metrics="edges",
            null=null,
            n_null=SAMPLES,
            null_metrics="ramanujan_gap_norm",
            jobs=jobs,
        ).attrs["nulls"]
        frame = pd.DataFrame(found)
        parts.append(frame[frame["null"] == null].groupby("run")["z"].mean().rename(null))
    return pd.concat(parts, axis=1).reset_index()


def null_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean z of each cell with its interval over seeds."""
    rows = []
    for cell, part in runs.groupby(CELL, sort=True):
        z = {
            label: text_interval(part[null].dropna().to_numpy(), digits=1)
            for null, label in (("er", "z, equal edges"), ("degree", "z, equal degrees"))
        }
        rows.append(dict(zip(CELL, cell, strict=True)) | z)
    return pd.DataFrame(rows)


def sentences(runs: pd.DataFrame) -> list[str]:
    """What RigL does to the gap at each sparsity, against the static mask of the same seed."""
    said = []
    for sparsity, part in runs.groupby("sparsity"):
        wide = part.pivot(index="seed", columns="method", values="ramanujan_gap_norm last")
        if not {"rigl", "static"} <= set(wide):
            continue
        d = (wide["rigl"] - wide["static"]).dropna().to_numpy()
        if len(d) >= 3:
            change, p = text_interval(d, digits=3), stats.ttest_1samp(d, 0).pvalue
            said.append(
                f"At s = {sparsity:g} RigL's last masks have a gap over the bound of {wide['rigl'].mean():+.3f}, the "
                f"static ones {wide['static'].mean():+.3f}: {change}, p = {p:.2g} over {len(d)} seeds."
            )
    return said


def draw(network: pd.DataFrame) -> Figure:
    """Each metric against step at one sparsity, a line a method."""
    drawn = {
        at: network[network["sparsity"] == min(network["sparsity"].unique(), key=lambda s, at=at: abs(s - at))]
        for at in (DRAWN, DRAWN_IMDB)
    }
    with style():
        figure = Figure(figsize=(13, 6), layout="constrained")
        grid = figure.subplots(2, 4, sharex=True)
        for ax, (name, label) in zip(grid.flat, METRICS.items(), strict=True):
            at = DRAWN_IMDB if name == "imdb" else DRAWN
            gap_over_time(arrived(drawn[at]), name, reference=name in ("ramanujan_gap_norm", "excess_gap"), ax=ax)
            ax.set_ylabel(label if at == DRAWN else f"{label}, s = {at:g}")
            if ax is not grid[0, 0] and ax.get_legend() is not None:
                ax.get_legend().remove()
            if ax not in grid[1]:
                ax.set_xlabel("")
    return figure


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("-j", "--jobs", type=int, default=1)
    options = parser.parse_args()
    network = sift_graph.network(options.study, metrics="core,fs_norm,spectral_velocity", jobs=options.jobs)
    runs = ends(network, null_scores(options.study, options.jobs))
    for part in (changes(runs), null_table(runs)):
        print(markdown(part), end="\n\n")
    print(*sentences(runs), sep="\n")
    options.out.mkdir(parents=True, exist_ok=True)
    mean_curves(network).round(5).to_csv(options.out / "curves.csv", index=False)
    runs.to_csv(options.out / "results.csv", index=False, float_format="%.6g")
    save_svg(draw(network), options.out / "evolution.svg")


if __name__ == "__main__":
    main()
