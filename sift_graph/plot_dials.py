"""Draw what follows when one number of a study is turned."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from sift_graph.dials import Response
from sift_graph.plot_frames import band
from sift_graph.plot_style import PALETTE, add_legend, new_axes, note_nothing, plain, style

__all__ = ["dose_response"]


def dose_response(
    found: Sequence[Response], column: str = "target", *, label: str = "accuracy", ax: Axes | None = None
) -> Axes:
    """Draw a column against the level of a dial, a line for each setting of all else.

    Parameters
    ----------
    found : sequence of Response
        Of one dial, as :func:`sift_graph.dials.responses` finds them.
    column : {"target", "gap"}
    label : str
        What the column is.
    ax : Axes, optional
        Where to draw; by default new Axes.

    Returns
    -------
    Axes
        The Axes drawn on, with means and 95 % intervals.
    """
    with style():
        ax = new_axes(ax)
        drawn = [one for one in found if column in one.runs and one.runs[column].notna().any()]
        ax.set_xlabel(plain(drawn[0].dial, width=40) if drawn else "level")
        ax.set_ylabel(label)
        if not drawn:
            return note_nothing(ax, f"no value of {label}")
        names = distinguished([one.held for one in drawn])
        for i, one in enumerate(drawn):
            rows = one.runs.assign(place=one.runs.groupby("level").cumcount())
            wide = rows.pivot(index="level", columns="place", values=column).sort_index()
            name = plain(names[i], width=28)
            band(ax, wide, 0.95, color=PALETTE[i % len(PALETTE)], marker="o", markersize=4, label=name)
        add_legend(ax)
        return ax


def distinguished(names: Sequence[str]) -> list[str]:
    """Leave out of each name the parts that all share."""
    parts = [name.split(" · ") for name in names]
    if len({len(part) for part in parts}) != 1:
        return list(names)
    differ = [len(set(column)) > 1 for column in zip(*parts, strict=True)]
    return [" · ".join(p for p, own in zip(part, differ, strict=True) if own) or " · ".join(part) for part in parts]
