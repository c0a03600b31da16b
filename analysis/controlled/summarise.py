"""Summarise the controlled study: dose and response, each structure against the random mask, paired by seed.

    python -m analysis.controlled.summarise runs/controlled runs/controlled_mlp analysis/controlled

reads the analyzed studies, prints the tables of README.md, and writes results.csv, a row a run, and dose_response.svg.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

import sift_graph
from analysis.paired import interval, markdown
from sift_graph.plots import PALETTE, save_svg, style

RANDOM = "random"
STRUCTURES = {
    "community": "communities",
    "aligned_community": "communities, aligned",
    "even": "even fan-out",
    "low_overlap": "low overlap",
    "hubs": "hubs",
    "whole_kernels": "whole kernels",
    "spread_kernels": "spread kernels",
    "same_positions": "same positions",
}
KEEP = ["ramanujan_gap_norm", "normalised_sigma_2", "imdb_norm", "mean_density"]
BLUE, ORANGE, GREEN, GREY = PALETTE[0], PALETTE[1], PALETTE[2], "#5c6670"


def read_study(study: Path, model: str) -> pd.DataFrame:
    """One row a run: its structure, its accuracy, and the graph of its masks."""
    layers = sift_graph.analyze(study, steps="last")
    network = sift_graph.network(study, steps="last").set_index("run")
    sparse = layers[layers["density"] < 1]
    dead = sparse.groupby("run")[["n_left_isolated", "n_left", "edges"]].sum()
    rows = []
    for run in network.index:
        kind = re.search(r"masks\.init=(\w+?)(?:-|$)", run)
        strength = re.search(r"options\.strength=([\d.]+)", run)
        name, dose = (kind[1] if kind else ""), float(strength[1]) if strength else 0.0
        rows.append(
            {
                "model": model,
                "structure": RANDOM if (name, dose) == ("community", 0) else STRUCTURES[name],
                "strength": dose,
                "seed": int(network.loc[run, "seed"]),
                "accuracy": network.loc[run, "final_val_accuracy"],
                **{column: network.loc[run, column] for column in KEEP},
                "dead_inputs": dead.loc[run, "n_left_isolated"] / dead.loc[run, "n_left"],
                "edges": int(dead.loc[run, "edges"]),
            }
        )
    order = [RANDOM, *STRUCTURES.values()]
    return pd.DataFrame(rows).sort_values(
        ["structure", "strength", "seed"], key=lambda c: c.map(order.index) if c.name == "structure" else c
    )


def against_random(frame: pd.DataFrame) -> pd.DataFrame:
    """Each level less the random mask, paired by seed, with Holm's adjustment over the levels of a model."""
    parts = []
    for model, runs in frame.groupby("model", sort=False):
        base = runs[runs["structure"] == RANDOM].set_index("seed")
        rows = []
        for (structure, strength), level in runs.groupby(["structure", "strength"], sort=False):
            level = level.set_index("seed")
            row = {"model": model, "structure": structure, "strength": strength, "n": len(level)}
            row |= {"gap / bound": level["ramanujan_gap_norm"].mean(), "dead inputs": level["dead_inputs"].mean()}
            row |= {"accuracy": level["accuracy"].mean()}
            if structure == RANDOM:
                rows.append(row | dict.fromkeys(("difference", "low", "high", "p"), np.nan))
                continue
            d = (level["accuracy"] - base["accuracy"]).dropna().to_numpy()
            mean, low, high = interval(d)
            rows.append(row | {"difference": mean, "low": low, "high": high, "p": stats.ttest_1samp(d, 0).pvalue})
        table = pd.DataFrame(rows)
        ranked = table["p"].dropna().sort_values()
        steps = (ranked * np.arange(len(ranked), 0, -1)).cummax().clip(upper=1.0)
        table["p (Holm)"] = steps.reindex(table.index)
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def trends(frame: pd.DataFrame) -> pd.DataFrame:
    """Page's test of a falling accuracy along each dial, with the slope of accuracy on the gap within seeds."""
    rows = []
    for model, runs in frame.groupby("model", sort=False):
        for structure in ("communities", "hubs"):
            dial = runs[runs["structure"].isin([RANDOM, structure])]
            table = dial.pivot(index="seed", columns="strength", values="accuracy").dropna()
            if table.shape[0] < 2 or table.shape[1] < 3:
                continue
            page = stats.page_trend_test(table.to_numpy(), predicted_ranks=np.arange(table.shape[1], 0, -1))
            moved = dial[["accuracy", "ramanujan_gap_norm"]] - dial.groupby("seed")[
                ["accuracy", "ramanujan_gap_norm"]
            ].transform("mean")
            slope = stats.linregress(moved["ramanujan_gap_norm"], moved["accuracy"])
            freedom = len(moved) - 1 - table.shape[0]  # a mean was taken off for each seed
            half = slope.stderr * np.sqrt((len(moved) - 2) / freedom) * stats.t.ppf(0.975, freedom)
            span = dial.groupby("strength")["ramanujan_gap_norm"].mean()
            rows.append(
                {
                    "model": model,
                    "dial": structure,
                    "levels": table.shape[1],
                    "seeds": table.shape[0],
                    "gap from": span.iloc[0],
                    "to": span.iloc[-1],
                    "p (Page, falling)": page.pvalue,
                    "accuracy per unit of gap": slope.slope,
                    "low": slope.slope - half,
                    "high": slope.slope + half,
                }
            )
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame) -> Figure:
    """Difference from the random mask against the gap, a panel a model; one colour for each way to move the gap."""
    models = list(dict.fromkeys(table["model"]))
    kinds = {
        "communities": (BLUE, "o"), "communities, aligned": (BLUE, "s"), "hubs": (ORANGE, "D"),
        "even fan-out": (GREEN, "^"), "low overlap": (GREEN, "v"), "whole kernels": (GREY, "P"),
        "spread kernels": (GREY, "X"), "same positions": (GREY, "*"),
    }  # fmt: skip
    with style():
        figure = Figure(figsize=(9.2, 4.8), layout="constrained")
        axes = np.atleast_1d(figure.subplots(1, len(models), sharey=True))
        for ax, model in zip(axes, models, strict=True):
            rows = table[table["model"] == model]
            ax.axhline(0, color=GREY, linewidth=0.9)
            ax.axvline(float(rows.loc[rows["structure"] == RANDOM, "gap / bound"].iloc[0]), color=GREY, linewidth=0.9,
                       linestyle="--")  # fmt: skip
            for kind, (colour, marker) in kinds.items():
                part = rows[rows["structure"] == kind].sort_values("strength")
                if not len(part):
                    continue
                y, x = part["difference"], part["gap / bound"]
                ax.errorbar(x, y, yerr=[y - part["low"], part["high"] - y], fmt=marker, color=colour, markersize=5,
                            linewidth=1.1, linestyle="-" if len(part) > 1 else "none", label=kind)  # fmt: skip
            ax.set_title(model)
            ax.set_xlabel("mean Ramanujan gap / bound (dashed: random mask)")
        axes[0].set_ylabel("accuracy less that of the random mask")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def main() -> None:
    """Read, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("convolutional", type=Path)
    parser.add_argument("connected", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    frame = pd.concat(
        [read_study(options.convolutional, "residual network"), read_study(options.connected, "fully connected")],
        ignore_index=True,
    )
    table = against_random(frame)
    print(markdown(table), markdown(trends(frame)), sep="\n\n")
    options.out.mkdir(parents=True, exist_ok=True)
    frame.round(6).to_csv(options.out / "results.csv", index=False)
    save_svg(draw(table), options.out / "dose_response.svg")


if __name__ == "__main__":
    main()
