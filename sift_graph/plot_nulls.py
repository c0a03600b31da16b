"""Draw masks beside the random masks that share their edges, degrees or pattern."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from sift_graph.plot_style import INK, MUTED, PALETTE, add_legend, label, new_axes, note_nothing, plain, style

__all__ = ["NULL_WORDS", "add_drawn", "null_profile"]

NULL_WORDS = {"er": "same edges", "degree": "same degrees", "nm": "same N:M pattern"}
_MAX_TICKS = 16
_MARKS = ("x", "+", "1")


def null_profile(nulls: pd.DataFrame, metric: str = "ramanujan_gap_norm", *, ax: Axes | None = None) -> Axes:
    """Draw a metric layer by layer, with mean and two standard deviations of the random masks of each null model.

    Parameters
    ----------
    nulls : DataFrame
        As ``run.nulls()`` returns it: one row per (run, step, layer, null, metric). Of each run its last step is drawn;
        of several runs the mean over those that have the layer.
    metric : str
        Which of its metrics.
    ax : Axes, optional
        Where to draw; by default new Axes.

    Returns
    -------
    Axes
        The Axes drawn on.
    """
    with style():
        ax = new_axes(ax)
        ax.set_xlabel("layer")
        ax.set_ylabel(label(metric))
        rows = nulls[(nulls["metric"] == metric) & nulls["mean"].notna() & nulls["observed"].notna()]
        if not len(rows):
            return note_nothing(ax, f"no random mask was compared in {label(metric, short=True)}")
        rows = rows[rows["step"] == rows.groupby("run")["step"].transform("max")]
        rows = rows.assign(layer=rows["layer"].astype(str))
        layers = list(dict.fromkeys(rows["layer"]))
        places = {name: i for i, name in enumerate(layers)}
        models = list(dict.fromkeys(rows["null"]))
        for i, model in enumerate(models):
            means = rows[rows["null"] == model].groupby("layer", sort=False)[["mean", "std"]].mean()
            shift = 0.16 * (i - (len(models) - 1) / 2)
            ax.errorbar(
                [places[name] + shift for name in means.index],
                means["mean"],
                yerr=2 * means["std"],
                fmt="_",
                color=PALETTE[i % len(PALETTE)],
                capsize=2.5,
                linewidth=1.2,
                label=f"random, {NULL_WORDS.get(model, model)} (±2 sd)",
            )
        observed = rows.groupby("layer", sort=False)["observed"].mean()
        ax.plot([places[name] for name in observed.index], observed, "o", color=INK, markersize=4, label="mask")
        ax.axhline(0.0, color=MUTED, linewidth=0.8)
        if len(layers) <= _MAX_TICKS:
            ax.set_xticks(range(len(layers)), [plain(name, width=20) for name in layers], rotation=40, ha="right")
        add_legend(ax)
        return ax


def add_drawn(ax: Axes, nulls: pd.DataFrame, frame: pd.DataFrame, metric: str) -> None:
    """Add the mean over layers and runs of drawn random masks, a mark at each step that was compared.

    Parameters
    ----------
    ax : Axes
    nulls : DataFrame
        As `null_profile` takes it.
    frame : DataFrame
        Whose runs, by its column ``run``.
    metric : str
    """
    if "run" not in frame:
        return
    rows = nulls[(nulls["metric"] == metric) & nulls["run"].isin(frame["run"]) & nulls["mean"].notna()]
    for place, (model, part) in enumerate(rows.groupby("null", sort=False)):
        means = part.groupby("step")["mean"].mean()
        ax.plot(
            means.index,
            means,
            linestyle="",
            marker=_MARKS[place % len(_MARKS)],
            color=INK,
            label=f"drawn ({model})",
        )
