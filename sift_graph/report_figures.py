"""The figures of a report and of ``analyze``: which are drawn, of which rows, and what is said under them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes

from sift_graph import plots
from sift_graph.plot_style import INK, MUTED, PALETTE, RULE

__all__ = ["Drawing", "drawings", "inline_svg", "sparse_runs"]

MAX_PANELS = 12
SCATTER_METRICS = (
    "ramanujan_gap_norm",
    "excess_gap",
    "normalised_sigma_2",
    "imdb_norm",
    "weighted_spectral_gap",
    "imsg",
)
_OVER_TIME = ("ramanujan_gap_norm", "weighted_spectral_gap", "itop_rate")
# Values that `plots` writes into an SVG, and the CSS variables that a page gives another value in the dark.
_VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule"} | {c: f"c{i}" for i, c in enumerate(PALETTE)}


@dataclass(frozen=True, eq=False)
class Drawing:
    """One figure: its file name, the section of the report, a heading, and the Axes."""

    name: str
    section: str
    heading: str
    ax: Axes


def sparse_runs(frame: pd.DataFrame) -> pd.DataFrame:
    """Leave out dense runs where there are others: their masks are all ones."""
    if "family" not in frame or (frame["family"] == "dense").all():
        return frame
    return frame[frame["family"] != "dense"]


def drawings(
    layers: pd.DataFrame,
    network: pd.DataFrame,
    *,
    correlations: pd.DataFrame | None = None,
    target: str = "val_accuracy",
) -> list[Drawing]:
    """Draw the figures that these frames allow, the most telling ones first.

    Parameters
    ----------
    layers, network : DataFrame
        As `sift_graph.table` makes them.
    correlations : DataFrame, optional
        As `sift_graph.correlate.correlate` returns it.
    target : str
        The training metric to draw the topology against.

    Returns
    -------
    list of Drawing
        None of a quantity without a value.
    """
    found: list[Drawing] = []
    # Means over layers are taken once: a frame of a million rows would be averaged for every panel again.
    steps = _per_step(layers, [*_OVER_TIME, "random_gap_norm", "iou_previous"])
    found += _panels(steps, "gap", "ramanujan_gap_norm", plots.gap_over_time)
    column = next(
        (name for name in (f"final_{target}", target) if name in network and network[name].notna().any()), None
    )
    if column is not None:
        found.append(Drawing("accuracy", "accuracy", "", plots.accuracy_by_group(network, target)))
    if correlations is not None and correlations["estimate"].notna().any():
        found.append(Drawing("correlations", "correlation", "", plots.correlation_forest(correlations)))
    found += _panels(steps, "weighted", "weighted_spectral_gap", plots.gap_over_time)
    last = sparse_runs(layers)
    last = last[last["step"] == last.groupby("run")["step"].transform("max")] if len(last) else last
    found += _panels(last, "profile", "ramanujan_gap_norm", plots.layer_profile)
    if column is not None and network["run"].nunique() > 1:
        for section, metric in (("accuracy", "mean_density"), *(("scatter", name) for name in SCATTER_METRICS)):
            if metric in network and network.loc[network[column].notna(), metric].notna().any():
                ax = plots.accuracy_scatter(network, metric, target)
                found.append(Drawing(f"scatter_{metric}", section, "", ax))
    found += _panels(steps, "dynamics", "itop_rate", lambda rows, _: plots.mask_dynamics(rows))
    return found


def _per_step(layers: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    """Average over layers: one row per (run, step)."""
    keys = [key for key in ("run", "family", "method", "sparsity", "seed", "step") if key in layers]
    columns = [name for name in metrics if name in layers]
    return layers.groupby(keys, sort=False, dropna=False)[columns].mean().reset_index()


def _panels(frame: pd.DataFrame, section: str, metric: str, draw: Callable[[pd.DataFrame, str], Axes]) -> list[Drawing]:
    """Small multiples on one scale: a panel per family and sparsity, or per sparsity where those are too many."""
    frame = sparse_runs(frame)
    if metric not in frame or not np.isfinite(frame[metric].astype(float)).any():
        return []
    panels = list(_facets(frame))
    drawn = [
        Drawing(_slug(f"{section}_{heading}"), section, heading, draw(rows, metric))
        for heading, rows in panels
        if rows[metric].notna().any()
    ]
    if all(panel.ax.get_autoscaley_on() for panel in drawn):
        limits = np.array([panel.ax.dataLim.intervaly for panel in drawn])
        low, high = limits[:, 0].min(), limits[:, 1].max()
        pad = 0.06 * (high - low) or 0.05 * max(abs(high), 1.0)
        for panel in drawn:
            panel.ax.set_ylim(low - pad, high + pad)
    return drawn


def _facets(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Heading and rows of each panel."""
    families = _levels(frame, "family")
    sparsities = _levels(frame, "sparsity")
    if len(families) * max(len(sparsities), 1) > MAX_PANELS:
        families = []
    if len(sparsities) > MAX_PANELS:
        sparsities = []
    for family in families or [None]:
        for sparsity in sparsities or [None]:
            rows, words = frame, []
            if family is not None:
                rows = rows[rows["family"] == family]
                words += [str(family)] if len(families) > 1 else []
            if sparsity is not None:
                rows = rows[rows["sparsity"] == sparsity]
                words.append(f"sparsity {sparsity:g}")
            if len(rows):
                yield ", ".join(words), rows
    left_over = frame
    for key, levels in (("family", families), ("sparsity", sparsities)):
        if levels:
            left_over = left_over[left_over[key].isna()]
    if len(left_over) and len(left_over) < len(frame):
        yield "sparsity not recorded", left_over


def _levels(frame: pd.DataFrame, column: str) -> list[Any]:
    """Distinct values of a column in order, without NaN."""
    return sorted(frame[column].dropna().unique()) if column in frame else []


def _slug(text: str) -> str:
    """Make a file name of any text."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", text).strip("_.")[:80]


def inline_svg(drawing: Drawing) -> Markup:
    """Render a drawing for the inside of a page.

    Identifiers get the drawing's name, so that two figures share none; colours become CSS variables, so that a page
    can be dark; fonts and sizes are left to the page.

    Parameters
    ----------
    drawing : Drawing
        What to render.

    Returns
    -------
    Markup
        An ``svg`` element without width and height.
    """
    text = plots.svg_text(drawing.ax)
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<style.*?</style>\s*|<!--.*?-->\s*", "", text, flags=re.DOTALL)
    head = re.search(r'viewBox="([^"]+)"', text)
    assert head is not None
    width = float(head[1].split()[2])
    opening = Markup('<svg viewBox="{}" role="img" aria-label="{}" style="max-width:{:.0f}px">').format(
        head[1], _description(drawing), width * 1.5
    )
    body = text[text.index(">") + 1 :]
    body = re.sub(r'\bid="', f'id="{drawing.name}-', body)
    body = re.sub(r"url\(#", f"url(#{drawing.name}-", body)
    body = re.sub(r'xlink:href="#', f'href="#{drawing.name}-', body).replace("xlink:href=", "href=")
    body = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", body)  # the shorthand of older matplotlib
    body = re.sub(r"font-family: [^;\"]*; ?", "", body)
    for colour, name in _VARIABLES.items():
        body = body.replace(colour, f"var(--{name})")
    # A hundredth of a point is enough: a third of the page would be digits that nobody sees.
    body = re.sub(r'\b(?:d|x|y|transform)="[^"]*"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), body)
    return opening + Markup(body)  # matplotlib has escaped the text in it


def _description(drawing: Drawing) -> str:
    """Say what a figure shows, for readers who cannot see it."""
    axes = " against ".join(filter(None, [drawing.ax.get_ylabel(), drawing.ax.get_xlabel()]))
    return f"{drawing.heading}: {axes}" if drawing.heading else axes
