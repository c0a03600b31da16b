r"""Draw frames: each function takes a frame and an ``ax`` and returns the Axes that it drew on.

Nothing here touches pyplot: without ``ax`` a new figure is made that belongs to the caller alone, so that nothing
leaks, nothing is shown and no global style changes. An empty frame, or a column without a number, gives Axes with a
note in them, not an exception. Colours tell methods apart for colour-blind readers too; line style or marker repeats
what colour says where there is room.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sift_graph.plot_dials import dose_response
from sift_graph.plot_frames import (
    LINES,
    band,
    finite,
    groups,
    half_width,
    has_numbers,
    last_steps,
    levels,
    line_with_band,
    methods_in_order,
    per_step,
    sparse_runs,
    sparsity_key,
    target_column,
)
from sift_graph.plot_nulls import add_drawn, null_profile
from sift_graph.plot_prediction import held_out_taus
from sift_graph.plot_spectrum import spectral_density, spectrum_histogram
from sift_graph.plot_style import (
    INK,
    METRIC_LABELS,
    MUTED,
    PALETTE,
    add_legend,
    label,
    method_colour,
    new_axes,
    note_nothing,
    plain,
    save_svg,
    style,
    svg_text,
)

__all__ = [
    "METRIC_LABELS",
    "accuracy_by_group",
    "accuracy_scatter",
    "correlation_forest",
    "dose_response",
    "gap_over_time",
    "held_out_taus",
    "label",
    "layer_profile",
    "mask_dynamics",
    "null_profile",
    "save_svg",
    "spectral_density",
    "spectrum_histogram",
    "style",
    "svg_text",
]

_MARKERS = ("o", "s", "D", "^", "v", "P", "X")
_RASTER_ABOVE = 1500  # points; as vectors they would make a page that no browser opens
_MAX_TICKS = 16


def gap_over_time(
    df: pd.DataFrame,
    metric: str = "ramanujan_gap_norm",
    *,
    by: str = "method",
    reference: bool = True,
    nulls: pd.DataFrame | None = None,
    confidence: float = 0.95,
    ax: Axes | None = None,
) -> Axes:
    r"""Draw a metric against the training step, a line per method with an interval over runs.

    Parameters
    ----------
    df : DataFrame
        Layers or network frame; of layers the mean over those with a value is taken first. Runs of the family
        ``dense`` are left out where there are others. Where sparsities differ, each has its own line style.
    metric : str
        Column to draw.
    by : str
        Column that colours tell apart.
    reference : bool
        Add the value of a large random mask of the same densities, :math:`1 - \sqrt{1 - p}` (0 for the excess gap).
    nulls : DataFrame, optional
        As ``run.nulls()`` returns it: the random masks that were drawn are marked where they were compared.
    confidence : float
        Coverage of the band, a Student interval for the mean over three or more runs; of two, both are drawn.
    ax : Axes, optional
        Where to draw; by default new Axes.

    Returns
    -------
    Axes
        The Axes drawn on.
    """
    with style():
        ax = new_axes(ax)
        ax.set_xlabel(label("step"))
        ax.set_ylabel(label(metric))
        frame = per_step(sparse_runs(df), [metric, "random_gap_norm"])
        if not has_numbers(frame, metric):
            return note_nothing(ax, f"no value of {label(metric, short=True)}")
        for name, colour, line, rows in groups(frame, by):
            line_with_band(ax, rows, metric, confidence, color=colour, linestyle=line, label=name)
        sparsity_key(ax, frame, by)
        if reference:
            _reference(ax, frame, metric)
        if nulls is not None:
            add_drawn(ax, nulls, frame, metric)
        add_legend(ax)
        return ax


def mask_dynamics(
    df: pd.DataFrame,
    metrics: Sequence[str] = ("iou_previous", "itop_rate"),
    *,
    by: str = "method",
    confidence: float = 0.95,
    ax: Axes | None = None,
) -> Axes:
    """Draw how masks move: overlap with the previous mask and the share of weights ever active.

    Parameters
    ----------
    df : DataFrame
        Layers or network frame.
    metrics : sequence of str
        Columns between 0 and 1; each has its own line style.
    by : str
        Column that colours tell apart.
    confidence : float
        Coverage of the bands over runs.
    ax : Axes, optional
        Where to draw; by default new Axes.

    Returns
    -------
    Axes
        The Axes drawn on.
    """
    with style():
        ax = new_axes(ax)
        ax.set_xlabel(label("step"))
        ax.set_ylabel("share (0 to 1)")
        frame = per_step(sparse_runs(df), list(metrics))
        present = [metric for metric in metrics if has_numbers(frame, metric)]
        if not present:
            return note_nothing(ax, "no mask was compared with another")
        ax.set_ylim(-0.03, 1.03)
        for metric, line in zip(present, LINES * len(present), strict=False):
            for name, colour, _, rows in groups(frame, by, split=False):
                words = name if metric == present[0] else "_nolegend_"
                line_with_band(ax, rows, metric, confidence, color=colour, linestyle=line, label=words)
            if len(present) > 1:
                ax.plot([], [], color=MUTED, linestyle=line, label=label(metric, short=True))
        if len(present) == 1:
            ax.set_ylabel(label(present[0]))
        add_legend(ax)
        return ax


def accuracy_scatter(
    network: pd.DataFrame,
    metric: str = "ramanujan_gap_norm",
    target: str = "val_accuracy",
    *,
    by: str = "method",
    ax: Axes | None = None,
) -> Axes:
    """Scatter the last accuracy of each run against a metric, colour by method, marker by sparsity.

    Parameters
    ----------
    network : DataFrame
        One row per (run, step); the last step of each run is drawn. Dense runs are left out where there are others.
    metric, target : str
        Columns for the two axes; ``final_<target>`` is read where it is there.
    by : str
        Column that colours tell apart.
    ax : Axes, optional
        Where to draw; by default new Axes.

    Returns
    -------
    Axes
        The Axes drawn on.
    """
    with style():
        ax = new_axes(ax)
        ax.set_xlabel(label(metric))
        ax.set_ylabel(label(target))
        runs, column = last_steps(sparse_runs(network)), target_column(network, target)
        if not (has_numbers(runs, metric) and has_numbers(runs, column)):
            return note_nothing(ax, f"no run has both {label(metric, short=True)} and {label(target)}")
        runs = runs[finite(runs[metric]) & finite(runs[column])]
        markers = dict(zip(levels(runs, "sparsity"), _MARKERS * 9, strict=False))
        for name, colour, _, rows in groups(runs, by, split=False):
            for level, marker in (markers or {None: "o"}).items():
                part = rows if level is None else rows[rows["sparsity"] == level]
                if len(part) == 0:
                    continue
                points = ax.scatter(
                    part[metric], part[column], s=24, marker=marker, color=colour, alpha=0.85, linewidths=0
                )
                points.set_rasterized(len(runs) > _RASTER_ABOVE)
            ax.scatter([], [], s=24, color=colour, label=name)
        if len(markers) > 1:
            for level, marker in markers.items():
                ax.scatter([], [], s=24, marker=marker, color=MUTED, label=f"s = {level:g}")
        add_legend(ax)
        return ax


def layer_profile(
    df: pd.DataFrame,
    metric: str = "ramanujan_gap_norm",
    *,
    step: int | None = None,
    by: str = "method",
    confidence: float = 0.95,
    ax: Axes | None = None,
) -> Axes:
    """Draw a metric layer by layer in network order, a line per method with an interval over runs.

    Parameters
    ----------
    df : DataFrame
        Layers frame.
    metric : str
        Column to draw.
    step : int, optional
        Which snapshot; by default the last of each run.
    by : str
        Column that colours tell apart.
    confidence : float
        Coverage of the bands over runs.
    ax : Axes, optional
        Where to draw; by default new Axes.

    Returns
    -------
    Axes
        The Axes drawn on.
    """
    with style():
        ax = new_axes(ax)
        ax.set_xlabel(label("depth"))
        ax.set_ylabel(label(metric))
        frame = sparse_runs(df)
        if "step" in frame:
            last = frame.groupby("run")["step"].transform("max") if step is None else step
            frame = frame[frame["step"] == last]
        if "depth" not in frame or not has_numbers(frame, metric):
            return note_nothing(ax, f"no value of {label(metric, short=True)}")
        for name, colour, line, rows in groups(frame, by):
            wide = rows.pivot_table(index="depth", columns="run", values=metric, aggfunc="mean").sort_index()
            band(ax, wide, confidence, color=colour, linestyle=line, label=name, marker="o", markersize=3)
        if metric in ("ramanujan_gap", "ramanujan_gap_norm", "excess_gap"):
            ax.axhline(0.0, color=MUTED, linewidth=0.8)
        sparsity_key(ax, frame, by)
        _layer_ticks(ax, frame)
        add_legend(ax)
        return ax


def correlation_forest(
    table: pd.DataFrame, *, statistic: str = "spearman", metrics: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """Draw correlations with their intervals: pooled, within sparsity and given density, side by side.

    Parameters
    ----------
    table : DataFrame
        As `sift_graph.correlate.correlate` returns it.
    statistic : {"spearman", "kendall", "pearson"}
        Which of them.
    metrics : sequence of str, optional
        Which metrics; by default all, in the table's order.
    ax : Axes, optional
        Where to draw; by default new Axes, tall enough for the metrics.

    Returns
    -------
    Axes
        The Axes drawn on.
    """
    with style():
        rows = table[table["statistic"] == statistic] if "statistic" in table else table
        names = list(dict.fromkeys(metrics if metrics is not None else rows.get("metric", [])))
        ax = new_axes(ax, height=1.2 + 0.44 * max(len(names), 3))
        ax.set_xlim(-1.05, 1.05)
        ax.set_xlabel(f"{statistic.capitalize()} correlation, with interval")
        ax.set_ylabel("metric")
        if not len(names) or not has_numbers(rows, "estimate"):
            return note_nothing(ax, "no correlation could be computed")
        ax.axvline(0.0, color=MUTED, linewidth=0.9)
        views = (
            ("pooled", "pooled", MUTED, "o"),
            ("within sparsity", "within sparsity", PALETTE[0], "s"),
            ("partial given mean_density", "given density", PALETTE[1], "D"),
        )
        for place, (view, words, colour, marker) in enumerate(views):
            shown = rows[(rows["view"] == view) & rows["metric"].isin(names)].drop_duplicates("metric")
            shown = shown[finite(shown["estimate"])]
            y = np.array([names.index(metric) for metric in shown["metric"]]) + 0.24 * (place - 1)
            ax.hlines(y, shown["lo"], shown["hi"], color=colour, linewidth=1.5)
            ax.plot(shown["estimate"], y, marker, color=colour, markersize=5, label=words)
        ax.set_yticks(range(len(names)), [label(name, short=True) for name in names])
        ax.set_ylim(len(names) - 0.5, -0.5)
        if "mean_density" in names[1:]:  # the confounder stands apart
            ax.axhline(names.index("mean_density") - 0.5, color=MUTED, linewidth=0.6, linestyle=":")
        ax.grid(False, axis="y")
        ax.set_ylabel("")
        add_legend(ax, right=True)
        return ax


def accuracy_by_group(
    network: pd.DataFrame, target: str = "val_accuracy", *, confidence: float = 0.95, ax: Axes | None = None
) -> Axes:
    """Draw each run's last accuracy as a dot, by family, sparsity and method, with the mean and its interval.

    Parameters
    ----------
    network : DataFrame
        One row per (run, step); the last step of each run is drawn.
    target : str
        What to draw; ``final_<target>`` is read where it is there.
    confidence : float
        Coverage of the Student interval for the mean over seeds.
    ax : Axes, optional
        Where to draw; by default new Axes, tall enough for the groups.

    Returns
    -------
    Axes
        The Axes drawn on. The dashed line is the mean of the dense runs.
    """
    with style():
        runs, column = last_steps(network), target_column(network, target)
        usable = runs[finite(runs[column])] if has_numbers(runs, column) else runs.iloc[:0]
        parts = _accuracy_groups(usable)
        ax = new_axes(ax, height=1.1 + 0.27 * max(len(parts), 4))
        ax.set_xlabel(label(target))
        ax.set_ylabel("")
        if not parts:
            ax.set_ylabel("run")
            return note_nothing(ax, f"no run has a value of {label(target)}")
        for place, (_, rows) in enumerate(parts):
            first = rows.iloc[0]
            colour = MUTED if first.get("family") == "dense" else method_colour(first.get("method"), place)
            values = rows[column].to_numpy(dtype=float)
            dots = ax.plot(values, np.full(len(values), place), "o", color=colour, alpha=0.45, markersize=4)[0]
            dots.set_rasterized(len(runs) > _RASTER_ABOVE)
            mean, half = values.mean(), half_width(values, confidence)
            ax.hlines(place, mean - half, mean + half, color=colour, linewidth=1.6)
            ax.plot([mean], [place], "|", color=colour, markersize=11, markeredgewidth=2.2)
        if "family" in usable and (usable["family"] == "dense").any() and usable["family"].nunique() > 1:
            dense = usable.loc[usable["family"] == "dense", column].mean()
            ax.axvline(float(dense), color=MUTED, linewidth=1.0, linestyle="--")
        ax.set_yticks(range(len(parts)), [name for name, _ in parts])
        ax.set_ylim(len(parts) - 0.4, -0.6)
        ax.grid(False, axis="y")
        families = [plain(name) for name in levels(usable, "family") if name != "dense"]
        ax.set_ylabel(families[0] if len(families) == 1 else "runs")
        return ax


def _reference(ax: Axes, frame: pd.DataFrame, metric: str) -> None:
    """Add the value of a random mask of the same densities."""
    words = "random mask (formula)"
    if metric == "excess_gap":
        ax.axhline(0.0, color=INK, linewidth=1.1, linestyle=(0, (4, 3)), label=words)
        return
    if metric != "ramanujan_gap_norm":
        return
    if not has_numbers(frame, "random_gap_norm"):
        return
    split = levels(frame, "sparsity") if len(levels(frame, "sparsity")) > 1 else [None]
    for level in split:
        part = frame if level is None else frame[frame["sparsity"] == level]
        line = part.groupby("step")["random_gap_norm"].mean().dropna()
        if not len(line):
            continue
        if len(line) == 1:
            ax.axhline(float(line.iloc[0]), color=INK, linewidth=1.1, linestyle=(0, (4, 3)), label=words)
        else:
            ax.plot(line.index, line, color=INK, linewidth=1.1, linestyle=(0, (4, 3)), label=words)
        words = "_nolegend_"


def _layer_ticks(ax: Axes, frame: pd.DataFrame) -> None:
    """Name the layers on the x axis where there is room; else number them."""
    names = frame.drop_duplicates("depth").set_index("depth").get("layer")
    if names is None or len(names) > _MAX_TICKS or frame.groupby("depth")["layer"].nunique().max() > 1:
        return
    ax.set_xticks(list(names.index), [plain(name, width=20) for name in names], rotation=40, ha="right")


def _accuracy_groups(runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Name and rows of each (family, sparsity, method), dense first; what is the same everywhere is not named."""
    dense = runs["family"] == "dense" if "family" in runs else pd.Series(False, index=runs.index)
    parts = [("dense", runs[dense])] if dense.any() else []
    others = runs[~dense]
    choices = {}
    for key in ("family", "sparsity", "method"):
        found = levels(others, key)
        missing = [None] if key not in others or others[key].isna().any() else []
        choices[key] = (methods_in_order(found) if key == "method" else found) + missing
    many = [key for key, found in choices.items() if len(found) > 1]
    for chosen in itertools.product(*choices.values()):
        rows, words = others, []
        for key, value in zip(choices, chosen, strict=True):
            if key in rows:
                rows = rows[rows[key].isna() if value is None else rows[key] == value]
            if value is not None and key in (many or choices):
                words.append(f"s = {value:g}" if key == "sparsity" else plain(value))
        if len(rows):
            parts.append((", ".join(words) or "all runs", rows))
    return parts
