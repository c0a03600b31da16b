"""Summarise an observational study: each metric against a target, with density, sparsity and cell held fixed.

    python -m analysis.observational.summarise runs/observational analysis/observational
    python -m analysis.observational.summarise runs/observational_text analysis/observational_text --target val_loss

measures the study (the core metrics of every snapshot), prints the tables of README.md, and writes results.csv, a row a
run, correlations.csv and correlations.svg.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

import sift_graph
from analysis.paired import markdown
from sift_graph.correlate import CORE_METRICS, conclusions, correlate
from sift_graph.plots import correlation_forest, save_svg, style
from sift_graph.prediction import GAIN, held_out, sentence

IDENTITY = ["run", "family", "method", "sparsity", "seed", "step"]
VIEWS = {
    "pooled": "all runs",
    "within sparsity": "at fixed sparsity",
    "partial given mean_density and sparsity": "given density and sparsity",
    "within family, method and sparsity": "between seeds",
    "within runs": "within runs",
}
N_BOOT = 1000
LOWER_IS_BETTER = ("val_loss", "val_perplexity")


def last_rows(network: pd.DataFrame, target: str = "val_accuracy") -> pd.DataFrame:
    """One row a run: its last snapshot's core metrics, its accuracy, and the target."""
    last = network.loc[network.groupby("run")["step"].idxmax()]
    kept = [c for c in (*CORE_METRICS, "imdb_coverage") if c in last]
    targets = dict.fromkeys(("final_val_accuracy", f"final_{target}"))
    return last[[*IDENTITY, "mean_density", *kept, *targets]].reset_index(drop=True)


def cells(runs: pd.DataFrame, target: str = "val_accuracy") -> pd.DataFrame:
    """Mean target of each family, sparsity and method, over seeds."""
    table = runs.pivot_table(index=["family", "sparsity"], columns="method", values=f"final_{target}")
    return table.reset_index().round(4)


def direction(target: str) -> str:
    """How to read the sign of a correlation with the target."""
    better, sign = ("lower", "negative") if target in LOWER_IS_BETTER else ("higher", "positive")
    return f"Of {target}, {better} is better: a {sign} correlation says that larger values go with better models."


def estimates(table: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation of each metric in the main views, with its interval."""
    rho = table[(table["statistic"] == "spearman") & table["view"].isin(VIEWS)]
    text = rho.assign(
        text=[
            f"{r.estimate:+.2f} [{r.lo:+.2f}, {r.hi:+.2f}]" if r.estimate == r.estimate else r.note
            for r in rho.itertuples()
        ]
    )
    wide = text.pivot(index="metric", columns="view", values="text").reindex(rho["metric"].unique())
    return wide[[v for v in VIEWS if v in wide]].rename(columns=VIEWS).reset_index().fillna("")


def predictions(network: pd.DataFrame, target: str = "val_accuracy") -> list[pd.DataFrame]:
    """Held-out taus of each family, then of each method."""
    return [held_out(network, target=target, left_out=column) for column in ("family", "method")]


def taus(table: pd.DataFrame) -> pd.DataFrame:
    """A row a group, a column a model."""
    table = table[table["model"] != GAIN]
    wide = table.pivot(index="group", columns="model", values="tau").reindex(table["group"].unique())
    return wide[list(dict.fromkeys(table["model"]))].reset_index()


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--target", default="val_accuracy", choices=("val_accuracy", *LOWER_IS_BETTER))
    parser.add_argument("-j", "--jobs", type=int, default=1)
    options = parser.parse_args()
    network = sift_graph.network(options.study, jobs=options.jobs)
    table = correlate(network, target=options.target, n_boot=N_BOOT)
    held = predictions(network, options.target)
    runs = last_rows(network, options.target)
    print(direction(options.target), end="\n\n")
    for part in (cells(runs, options.target), estimates(table), *map(taus, held)):
        print(markdown(part), end="\n\n")
    print(*map(sentence, held), *conclusions(table).values(), sep="\n")
    options.out.mkdir(parents=True, exist_ok=True)
    runs.round(6).to_csv(options.out / "results.csv", index=False)
    table[table["statistic"] != "pearson"].round(5).to_csv(options.out / "correlations.csv", index=False)
    with style():
        figure = Figure(figsize=(8, 6), layout="constrained")
        correlation_forest(table, ax=figure.subplots())
    save_svg(figure, options.out / "correlations.svg")


if __name__ == "__main__":
    main()
