"""Summarise the study of definitions: one quantity by each published code, on the same masks.

    python -m analysis.definitions.summarise runs/definitions analysis/definitions -j 2

measures the last masks by our definitions and by those of the published codes, prints the tables of README.md, and
writes results.csv (a row a run), definitions.csv (a row a definition) and definitions.svg.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

import sift_graph
from analysis.paired import BLUE, GREY, markdown
from sift_graph.correlate import correlate
from sift_graph.plots import save_svg, style

QUANTITIES: dict[str, tuple[str, ...]] = {
    "Ramanujan gap": (
        "ramanujan_gap",
        "vita_rm",
        "vita_sm",
        "fullspectrum_ramanujan",
        "fullspectrum_v0_ramanujan",
    ),
    "gap over bound": (
        "ramanujan_gap_norm",
        "vita_rm_norm",
        "mge_degree_bound",
        "mge_graph_metrics_delta_r_undirected",
    ),
    "IMDB": ("imdb", "vita_irm", "fullspectrum_imdb", "fullspectrum_v0_imdb"),
    "IMDB over bound": ("imdb_norm", "vita_irm_norm", "vita_stable_irm_norm", "mge_imdb"),
    "IMSG": ("imsg", "mge_imsg", "fullspectrum_imsg", "fullspectrum_v0_imsg"),
    "weighted gap": ("weighted_spectral_gap", "mge_spectral_gap", "fullspectrum_weighted"),
    "full-spectrum norm": ("fs_norm", "fullspectrum_norm"),
    "random coefficient": ("narc", "vita_random_factor", "fullspectrum_mixing"),
}
"""Under each quantity our definition, then those of the codes."""

ALL = tuple(name for names in QUANTITIES.values() for name in names)
VIEWS = {"pooled": "all runs", "within sparsity": "at fixed sparsity"}
N_BOOT = 1000


def layers_of(study: Path, jobs: int) -> pd.DataFrame:
    """Every layer of every run's last snapshot, by every definition; dense runs have no topology to speak of."""
    layers = sift_graph.analyze(study, steps="last", metrics=",".join(("core", *ALL)), jobs=jobs)
    return layers[layers["family"] != "dense"]


def agreement(layers: pd.DataFrame) -> pd.DataFrame:
    """Tell of each definition on which layers it has a value, or one above zero, and if it ranks them as ours does."""
    rows = []
    for quantity, (ours, *others) in QUANTITIES.items():
        for name in (ours, *others):
            values = layers[name].replace([float("inf"), -float("inf")], float("nan"))
            both = values.notna() & layers[ours].notna()
            pair = values[both], layers.loc[both, ours]
            constant = min(part.nunique() for part in pair) < 2
            rows.append(
                {
                    "quantity": quantity,
                    "definition": name,
                    "defined": values.notna().mean(),
                    "above zero": (values > 0).sum() / max(values.notna().sum(), 1),
                    "rank agreement": float("nan") if constant else stats.spearmanr(*pair).statistic,
                }
            )
    return pd.DataFrame(rows)


def with_correlations(agreed: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Add the correlation of the runs' means with accuracy, with its interval."""
    rho = table[(table["statistic"] == "spearman") & table["view"].isin(VIEWS) & table["metric"].isin(ALL)]
    for view, label in VIEWS.items():
        one = rho[rho["view"] == view].drop_duplicates("metric").set_index("metric")
        for column in ("estimate", "lo", "hi"):
            agreed[f"{label}, {column}"] = agreed["definition"].map(one[column])
    return agreed


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Write estimates with their intervals as texts."""
    out = table[["quantity", "definition", "defined", "above zero", "rank agreement"]].copy()
    for label in VIEWS.values():
        parts = (table[f"{label}, {column}"] for column in ("estimate", "lo", "hi"))
        out[label] = [f"{r:+.2f} [{lo:+.2f}, {hi:+.2f}]" if r == r else "--" for r, lo, hi in zip(*parts, strict=True)]
    for column in ("defined", "above zero"):
        out[column] = [f"{100 * v:.0f} %" for v in out[column]]
    out["rank agreement"] = [f"{v:+.3f}" if v == v else "--" for v in out["rank agreement"]]
    return out


def changed(table: pd.DataFrame) -> list[str]:
    """Say where a code's definition leads to another conclusion than ours on these runs."""
    said = []
    for label in VIEWS.values():
        for _, rows in table.groupby("quantity", sort=False):
            verdicts = {
                row["definition"]: verdict(row[f"{label}, lo"], row[f"{label}, hi"]) for row in rows.to_dict("records")
            }
            (ours, first), *others = verdicts.items()
            said += [
                f"{label}: {name} {other} accuracy, {ours} {first}."
                for name, other in others
                if other != first and "" not in (other, first)
            ]
    return said


def verdict(lo: float, hi: float) -> str:
    """What an interval says of a correlation; nothing without one."""
    if lo != lo or hi != hi:
        return ""
    return "rises with" if lo > 0 else "falls with" if hi < 0 else "says nothing of"


def draw(table: pd.DataFrame) -> Figure:
    """Each definition's correlation at fixed sparsity, under its quantity, ours in blue."""
    label = VIEWS["within sparsity"]
    with style():
        figure = Figure(figsize=(8, 8.5), layout="constrained")
        ax = figure.subplots()
        y, ticks, names = 0.0, [], []
        for _, rows in table.groupby("quantity", sort=False):
            for i, row in enumerate(rows.to_dict("records")):
                estimate, lo, hi = (row[f"{label}, {column}"] for column in ("estimate", "lo", "hi"))
                colour = BLUE if i == 0 else GREY
                if estimate == estimate:
                    ax.plot([lo, hi], [y, y], color=colour, linewidth=2, solid_capstyle="round")
                    ax.plot(estimate, y, "o", color=colour)
                ticks.append(y)
                names.append(row["definition"])
                y += 1
            y += 0.7
        ax.axvline(0, color=GREY, linewidth=1)
        ax.set_yticks(ticks, names)
        ax.invert_yaxis()
        ax.set_xlim(-1, 1)
        ax.set_xlabel("Spearman correlation with accuracy at fixed sparsity")
    return figure


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("-j", "--jobs", type=int, default=1)
    options = parser.parse_args()
    layers = layers_of(options.study, options.jobs)
    network = sift_graph.network(options.study, steps="last", metrics=",".join(("core", *ALL)), jobs=options.jobs)
    table = with_correlations(agreement(layers), correlate(network, metrics=ALL, n_boot=N_BOOT))
    print(markdown(shown(table)), end="\n\n")
    print(*changed(table), sep="\n")
    options.out.mkdir(parents=True, exist_ok=True)
    columns = ["run", "family", "method", "sparsity", "seed", "mean_density", *ALL, "final_val_accuracy"]
    network[columns].round(6).to_csv(options.out / "results.csv", index=False)
    table.round(5).to_csv(options.out / "definitions.csv", index=False)
    save_svg(draw(table), options.out / "definitions.svg")


if __name__ == "__main__":
    main()
