"""The one style of every figure: names of metrics, colours, a private rc context, reproducible SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cycler import cycler
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = [
    "INK",
    "METRIC_LABELS",
    "MUTED",
    "PALETTE",
    "RULE",
    "add_legend",
    "label",
    "method_colour",
    "new_axes",
    "note_nothing",
    "plain",
    "save_svg",
    "style",
    "svg_text",
]

METRIC_LABELS = {
    "density": "density",
    "mean_density": "mean layer density",
    "sigma_1": "σ₁",
    "sigma_2": "σ₂",
    "bound": "biregular bound",
    "ramanujan_gap": "Ramanujan gap (bound − σ₂)",
    "ramanujan_gap_norm": "normalised Ramanujan gap (≤ 1)",
    "random_gap_norm": "normalised gap of a random mask",
    "excess_gap": "excess gap (over a random mask)",
    "ramanujan_share": "share of layers within the bound",
    "imdb": "IMDB",
    "imdb_norm": "normalised IMDB (≤ 1)",
    "imsg": "IMSG",
    "edge_coverage": "edge coverage of IMDB (0 to 1)",
    "weighted_spectral_gap": "weighted spectral gap (units of weight)",
    "weighted_sigma_1": "weighted σ₁",
    "weighted_sigma_2": "weighted σ₂",
    "normalised_sigma_2": "normalised σ₂ (0 to 1)",
    "hamming_previous": "Hamming distance to previous mask (0 to 1)",
    "hamming_first": "Hamming distance to first mask (0 to 1)",
    "iou_previous": "IoU with previous mask (0 to 1)",
    "iou_first": "IoU with first mask (0 to 1)",
    "itop_rate": "ITOP rate (0 to 1)",
    "val_accuracy": "validation accuracy",
    "val_loss": "validation loss",
    "accuracy": "accuracy",
    "loss": "loss",
    "step": "step",
    "depth": "layer, in network order",
}
SHORT_LABELS = {
    "ramanujan_gap": "Ramanujan gap",
    "ramanujan_gap_norm": "normalised Ramanujan gap",
    "excess_gap": "excess gap",
    "imdb_norm": "normalised IMDB",
    "weighted_spectral_gap": "weighted spectral gap",
    "normalised_sigma_2": "normalised σ₂",
    "iou_first": "IoU with first mask",
    "iou_previous": "IoU with previous mask",
    "itop_rate": "ITOP rate",
    "edge_coverage": "edge coverage",
}

# Okabe and Ito's palette, darkened where it would be too faint on white. The report maps these values to CSS variables.
INK, MUTED, RULE = "#1c2127", "#5c6670", "#d7dce1"
PALETTE = ("#0072b2", "#d55e00", "#00805c", "#b0608f", "#9a6a00", "#3b8fc2", "#7a5195")
_OWN = "sift-graph"  # marks the figures made here, whose margins are ours to use
_METHOD_COLOURS = {"static": PALETTE[0], "set": PALETTE[1], "rigl": PALETTE[2], "dense": MUTED}

_RC: dict[Any, Any] = {
    "figure.figsize": (4.1, 2.9),
    "figure.dpi": 100,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "savefig.transparent": True,
    "axes.facecolor": "none",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "normal",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=list(PALETTE)),
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "text.color": INK,
    "font.family": ["sans-serif"],
    "font.size": 9,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.borderaxespad": 0.2,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "sift-graph",
}


@contextmanager
def style() -> Iterator[None]:
    """Draw in the style of this package, inside a ``with`` block; the global style is left as it was.

    Yields
    ------
    None
        The block.
    """
    with rc_context(_RC):
        yield


def label(name: str, *, short: bool = False) -> str:
    """Spell a column's name for a figure.

    Parameters
    ----------
    name : str
        A column.
    short : bool
        Leave out unit and bounds.

    Returns
    -------
    str
        The entry of `METRIC_LABELS`, or the name with spaces for underscores.
    """
    if short and name in SHORT_LABELS:
        return SHORT_LABELS[name]
    return METRIC_LABELS.get(name, plain(name.replace("_", " ")))


def save_svg(drawing: Figure | Axes, path: str | Path) -> Path:
    """Write a figure as SVG: text as text, no date, the same bytes for the same figure.

    Parameters
    ----------
    drawing : Figure or Axes
        What to write; of Axes, the whole figure.
    path : str or Path
        The file; its directory is made.

    Returns
    -------
    Path
        The file written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(svg_text(drawing), encoding="utf-8")
    return path


def svg_text(drawing: Figure | Axes) -> str:
    """Render a figure as the text of an SVG document.

    Parameters
    ----------
    drawing : Figure or Axes
        What to render; of Axes, the whole figure.

    Returns
    -------
    str
        The document.
    """
    figure: Any = drawing if isinstance(drawing, Figure) else drawing.figure
    figure = figure if isinstance(figure, Figure) else figure.figure  # of a subfigure
    with style():
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    return buffer.getvalue()


def new_axes(ax: Axes | None, *, height: float | None = None) -> Axes:
    """Make new Axes on a figure of their own, unless there are some."""
    if ax is not None:
        return ax
    width, usual = _RC["figure.figsize"]
    figure = Figure(figsize=(width, height or usual), layout="constrained")
    figure.set_label(_OWN)
    return figure.add_subplot()


def note_nothing(ax: Axes, words: str) -> Axes:
    """Say in the Axes that there is nothing to draw."""
    ax.text(0.5, 0.5, words, transform=ax.transAxes, ha="center", va="center", color=MUTED, wrap=True)
    ax.set_xticks([])
    ax.set_yticks([])
    return ax


def plain(text: object, *, width: int = 28) -> str:
    """Make any text safe to draw: no mathematics, no control characters, shortened in the middle."""
    line = re.sub(r"\s+", " ", "".join(c if c.isprintable() else " " for c in str(text)))
    if len(line) > width:
        line = f"{line[: width // 2]}…{line[-(width - width // 2 - 1) :]}"
    return line.replace("$", r"\$")


def add_legend(ax: Axes, *, right: bool = False) -> None:
    """Add a legend where there is something to tell apart: above Axes of our own, inside those of a caller."""
    _, names = ax.get_legend_handles_labels()
    if len(names) < 2:
        return
    if ax.figure.get_label() != _OWN:
        legend = ax.legend(loc="best", ncols=2 if len(names) > 4 else 1, frameon=True, framealpha=0.7)
        legend.get_frame().set_linewidth(0.0)
        return
    columns = next(n for n in (4, 3, 2, 1) if n == 1 or sum(sorted(map(len, names))[-n:]) + 5 * n <= 52)
    kind: dict[str, Any] = {"ncols": columns, "columnspacing": 1.2, "handlelength": 1.6}
    ax.legend(loc="lower right" if right else "lower left", bbox_to_anchor=(1.0 if right else -0.02, 1.0), **kind)


def method_colour(name: object, place: int) -> str:
    """One colour per method wherever it appears; others by place."""
    return _METHOD_COLOURS.get(str(name), PALETTE[place % len(PALETTE)])
