"""Draw how well runs that no model has seen are ordered."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from sift_graph.plot_style import MUTED, PALETTE, add_legend, new_axes, note_nothing, plain, style

__all__ = ["held_out_taus"]


def held_out_taus(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the held-out Kendall taus of each group and model, with their intervals.

    Parameters
    ----------
    table : DataFrame
        As :func:`sift_graph.prediction.held_out` returns it. The gain is not drawn.
    ax : Axes, optional
        Where to draw; by default new Axes.

    Returns
    -------
    Axes
        The Axes drawn on.
    """
    with style():
        ax = new_axes(ax)
        ax.set_xlabel("Kendall's τ with the accuracy of runs not seen")
        rows = table[table["tau"].notna() & (table["model"] != "gain")]
        if not len(rows):
            return note_nothing(ax, "no group was left out that could be ranked")
        groups, models = list(dict.fromkeys(rows["group"])), list(dict.fromkeys(rows["model"]))
        for i, model in enumerate(models):
            part = rows[rows["model"] == model]
            places = [groups.index(group) + 0.2 * (i - (len(models) - 1) / 2) for group in part["group"]]
            ax.errorbar(
                part["tau"],
                places,
                xerr=[(part["tau"] - part["lo"]).clip(lower=0), (part["hi"] - part["tau"]).clip(lower=0)],
                fmt="o",
                markersize=4.5,
                linewidth=1.4,
                color=PALETTE[i % len(PALETTE)],
                label=model,
            )
        ax.axvline(0.0, color=MUTED, linewidth=0.8)
        ax.set_yticks(range(len(groups)), [plain(str(group), width=24) for group in groups])
        ax.set_ylim(len(groups) - 0.5, -0.5)
        add_legend(ax, right=True)  # the names of groups stand to the left
        return ax
