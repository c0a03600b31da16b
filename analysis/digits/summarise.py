"""Summarise a study of families, sparsities and methods: means with intervals, and differences paired by seed.

    python analysis/digits/summarise.py runs/digits analysis/digits

prints the tables of README.md and writes results.csv, a row for each run.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from sift_graph.store import RunReader, find_runs

MOVING = ("set", "rigl")


def read_study(study: Path) -> pd.DataFrame:
    """One row a finished run: what it was, and its last row of metrics."""
    rows = []
    for path in find_runs(study):
        if (path / "done.json").exists():
            reader = RunReader(path)
            rows.append({"run": path.name, **reader.about, **list(reader.metrics())[-1]})
    frame = pd.DataFrame(rows).drop(columns=["lr"])
    return frame.sort_values(["family", "sparsity", "method", "seed"]).reset_index(drop=True)


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and the ends of its 95 % t interval."""
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def means(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy of each cell of the grid."""
    rows = []
    for (family, sparsity, method), cell in frame.groupby(["family", "sparsity", "method"]):
        mean, low, high = interval(cell["val_accuracy"].to_numpy())
        deviation = float(cell["val_accuracy"].std(ddof=1))
        others = cell["val_accuracy"].median(), cell["loss"].mean(), cell["itop_rate"].mean()
        rows.append((name((str(family), float(sparsity), str(method))), len(cell), mean, low, high, deviation, *others))
    columns = ["model", "n", "accuracy", "low", "high", "std", "median", "train loss", "ITOP rate"]
    return pd.DataFrame(rows, columns=columns)


def differences(frame: pd.DataFrame) -> pd.DataFrame:
    """Differences of accuracy, paired by seed (so by split and noise too), with Holm's adjustment over all of them."""
    by_seed = frame.pivot_table(index="seed", columns=["family", "sparsity", "method"], values="val_accuracy")
    dense = ("dense", 0.0, "dense")
    sparsities = sorted({sparsity for family, sparsity, _ in by_seed.columns if family != "dense"})
    pairs = []
    for sparsity in sparsities:
        wide = {method: ("sparse_wide", sparsity, method) for method in ("static", *MOVING)}
        pairs += [(wide[method], wide["static"]) for method in MOVING]
        pairs += [(wide["rigl"], wide["set"])]
        pairs += [(wide[method], dense) for method in wide]
    for method in ("static", *MOVING):
        ladder = [("sparse_wide", sparsity, method) for sparsity in sparsities]
        pairs += [(high, low) for low, high in itertools.pairwise(ladder)]
    rows = []
    for a, b in pairs:
        d = (by_seed[a] - by_seed[b]).dropna().to_numpy()
        mean, low, high = interval(d)
        p = float(stats.ttest_1samp(d, 0.0).pvalue)
        rows.append((name(a), name(b), len(d), mean, low, high, int((d > 0).sum()), p))
    table = pd.DataFrame(rows, columns=["a", "b", "n", "a - b", "low", "high", "a better", "p"])
    order = table["p"].sort_values().index
    steps = table.loc[order, "p"] * np.arange(len(table), 0, -1)
    table["p (Holm)"] = np.minimum(steps.cummax(), 1.0)
    return table


def name(cell: tuple[str, float, str]) -> str:
    family, sparsity, method = cell
    return "dense" if family == "dense" else f"wide {sparsity:g} {method}"


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown: p values to two digits, other numbers to four after the point."""
    text = table.map(lambda value: f"{value:.4f}" if isinstance(value, float) else str(value)).replace("nan", "")
    for column in table.columns[table.columns.str.startswith("p")]:
        text[column] = [f"{value:.2g}" for value in table[column]]
    lines = ["| " + " | ".join(text.columns) + " |", "|" + "---|" * len(text.columns)]
    lines += ["| " + " | ".join(row) + " |" for row in text.itertuples(index=False)]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path, help="what `sift-graph sweep` wrote")
    parser.add_argument("out", type=Path, help="where results.csv goes")
    arguments = parser.parse_args()
    frame = read_study(arguments.study)
    frame.round(6).to_csv(arguments.out / "results.csv", index=False)
    print(markdown(means(frame)), markdown(differences(frame)), sep="\n\n")


if __name__ == "__main__":
    main()
