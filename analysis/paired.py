"""Studies of many seeds: the mean of each cell with its interval, and differences that are paired by seed.

A *cell* is a set of runs that differ in their seed alone; its name is theirs without the seed. Runs of one seed share
their data, so a difference between two cells is taken seed by seed: what a seed does to both drops out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from sift_graph.plots import style
from sift_graph.store import RunReader, find_runs

# What a study asks: under each question the pairs of cells whose difference answers it.
Questions = Mapping[str, Sequence[tuple[str, str]]]
COST = ["ratio", "effective_sparsity"]  # of the result of a run: MACs over the dense model's, zeros in masked layers
BLUE, GREY = "#0072b2", "#5c6670"


def read_study(study: Path) -> pd.DataFrame:
    """One row a finished run: what it was, its last row of metrics, and what it costs."""
    rows = []
    for path in find_runs(study):
        if (path / "done.json").exists():
            reader = RunReader(path)
            done = json.loads((path / "done.json").read_text())
            cost = {name: done[name] for name in COST}
            rows.append({"run": path.name, **reader.about, **list(reader.metrics())[-1], **cost})
    if not rows:
        raise SystemExit(f"{study}: holds no finished run; train the study with `sift-graph sweep`")
    frame = pd.DataFrame(rows).drop(columns=["lr"])
    return frame.sort_values(["family", "sparsity", "method", "seed", "run"]).reset_index(drop=True)


def with_cells(frame: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """Add the label of each run's cell, and leave out what has none; cells come in the order of the labels."""
    cell = frame["run"].str.rsplit("-seed", n=1).str[0].map(labels)
    order = pd.Categorical(cell, categories=list(dict.fromkeys(labels.values())), ordered=True)
    return frame.assign(cell=order)[cell.notna()].sort_values(["cell", "seed"])


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and the ends of its 95 % t interval."""
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def means(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy of each cell, its spread over seeds, how well it fits and explores, and what it costs."""
    rows = []
    for label, cell in frame.groupby("cell", observed=True):
        mean, low, high = interval(cell["val_accuracy"].to_numpy())
        row = {"model": label, "n": len(cell), "accuracy": mean, "low": low, "high": high}
        row |= {"std": cell["val_accuracy"].std(ddof=1), "median": cell["val_accuracy"].median()}
        row |= {"train loss": cell["loss"].mean(), "ITOP rate": cell["itop_rate"].mean()}
        if set(COST) <= set(cell):
            row |= {"MACs / dense": cell["ratio"].mean(), "zeros": cell["effective_sparsity"].mean()}
        rows.append(row)
    return pd.DataFrame(rows)


def differences(frame: pd.DataFrame, questions: Questions) -> pd.DataFrame:
    """Differences of accuracy, paired by seed, with Holm's adjustment over all questions together.

    A pair that shares fewer than two seeds, as in a study that was cut short, is left out, and counts for nothing.
    """
    by_seed = frame.pivot_table(index="seed", columns="cell", values="val_accuracy", observed=True)
    rows = []
    for question, pairs in questions.items():
        for a, b in pairs:
            if a in by_seed and b in by_seed:
                d = (by_seed[a] - by_seed[b]).dropna().to_numpy()
                if len(d) < 2:
                    continue
                mean, low, high = interval(d)
                p = float(stats.ttest_1samp(d, 0.0).pvalue)
                rows.append((question, a, b, len(d), mean, low, high, int((d > 0).sum()), p))
    table = pd.DataFrame(rows, columns=["question", "a", "b", "n", "a - b", "low", "high", "a better", "p"])
    order = table["p"].sort_values().index
    steps = table.loc[order, "p"] * np.arange(len(table), 0, -1)
    table["p (Holm)"] = np.minimum(steps.cummax(), 1.0)
    return table


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown: p values to two digits, other numbers to four after the point."""
    text = table.map(lambda value: f"{value:.4f}" if isinstance(value, float) else str(value)).replace("nan", "")
    for column in table.columns[table.columns.str.startswith("p")]:
        text[column] = [f"{value:.2g}" for value in table[column]]
    lines = ["| " + " | ".join(text.columns) + " |", "|" + "---|" * len(text.columns)]
    lines += ["| " + " | ".join(row) + " |" for row in text.itertuples(index=False)]
    return "\n".join(lines)


def tables(frame: pd.DataFrame, labels: Mapping[str, str], questions: Questions) -> list[str]:
    """The tables of a README: the means of all cells, then the differences that answer each question."""
    frame = with_cells(frame, labels)
    table = differences(frame, questions)
    parts = [part.drop(columns="question") for _, part in table.groupby("question", sort=False)]
    return [markdown(means(frame)), *map(markdown, parts)]


def draw_differences(table: pd.DataFrame) -> Figure:
    """Each difference with its 95 % interval, a panel a question; filled where it is significant after adjustment."""
    parts = list(table.groupby("question", sort=False))
    with style():
        height = 0.55 * len(parts) + 0.21 * len(table) + 0.3
        figure = Figure(figsize=(7.2, height), layout="constrained")
        ratios = [len(part) + 1 for _, part in parts]
        axes = figure.subplots(len(parts), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
        for ax, (question, part) in zip(axes, parts, strict=True):
            ax.axvline(0.0, color=GREY, linewidth=0.9)
            for y, row in enumerate(part.to_dict("records")):
                sure = row["p (Holm)"] < 0.05
                colour = BLUE if sure else GREY
                ax.hlines(y, row["low"], row["high"], color=colour, linewidth=1.5)
                ax.plot(row["a - b"], y, "o", color=colour, markerfacecolor=colour if sure else "white")
            ax.set_yticks(range(len(part)), [f"{a} − {b}" for a, b in zip(part["a"], part["b"], strict=True)])
            ax.set_ylim(len(part) - 0.4, -0.6)
            ax.grid(False, axis="y")
            ax.set_title(question)
        axes[-1].set_xlabel("difference of validation accuracy, paired by seed, with its 95 % interval")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as SVG on white, for a page of any colour: the same bytes for the same figure."""
    with style():
        figure.savefig(path, transparent=False, facecolor="white", metadata={"Date": None, "Creator": None})


def command(description: str, labels: Mapping[str, str], questions: Questions) -> None:
    """Read what `sift-graph sweep` wrote; write results.csv and differences.svg, print the tables."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="what `sift-graph sweep` wrote")
    parser.add_argument("out", type=Path, help="where results.csv and differences.svg go")
    arguments = parser.parse_args()
    frame = read_study(arguments.study).round(6)
    frame.to_csv(arguments.out / "results.csv", index=False)
    save(draw_differences(differences(with_cells(frame, labels), questions)), arguments.out / "differences.svg")
    print(*tables(frame, labels, questions), sep="\n\n")
