"""The figures of a report and of ``analyze``: which are drawn, of which rows, and what is said under them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes

from sift_graph import plots
from sift_graph.dials import Response
from sift_graph.plot_frames import levels, per_step, sparse_runs
from sift_graph.plot_style import INK, MUTED, PALETTE, RULE

__all__ = ["Drawing", "dose_drawings", "drawings", "held_out_drawing", "inline_svg"]

MAX_PANELS = 12
MAX_DIALS, MAX_LINES = 4, 8
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


def drawings(
    layers: pd.DataFrame,
    network: pd.DataFrame,
    *,
    correlations: pd.DataFrame | None = None,
    target: str = "val_accuracy",
    nulls: pd.DataFrame | None = None,
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
    nulls : DataFrame, optional
        Comparisons with random masks, as `sift_graph.table` makes them.

    Returns
    -------
    list of Drawing
        None of a quantity without a value.
    """
    found: list[Drawing] = []
    # Means over layers are taken once: a frame of a million rows would be averaged for every panel again.
    steps = per_step(layers, [*_OVER_TIME, "random_gap_norm", "iou_previous"])
    found += _panels(
        steps, "gap", "ramanujan_gap_norm", lambda rows, name: plots.gap_over_time(rows, name, nulls=nulls)
    )
    if nulls is not None:
        for metric in ("ramanujan_gap_norm", "ramanujan_gap"):
            known = nulls.loc[nulls["metric"] == metric, ["observed", "mean"]]
            if known.notna().all(axis=1).any():
                found.append(Drawing("nulls", "nulls", "", plots.null_profile(nulls, metric)))
                break
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


def held_out_drawing(table: pd.DataFrame) -> Drawing | None:
    """Draw held-out taus; None where there is none."""
    if not table["tau"].notna().any():
        return None
    name = f"held_out_{table['left_out'].iloc[0]}"
    return Drawing(name, "unseen", "", plots.held_out_taus(table))


def dose_drawings(turned: Sequence[Response], target: str) -> Iterator[tuple[str, Drawing]]:
    """Draw the target and the gap against each dial, with a heading."""
    for dial in list(dict.fromkeys(one.dial for one in turned))[:MAX_DIALS]:
        found = [one for one in turned if one.dial == dial][:MAX_LINES]
        for column, words in (("target", plots.label(target)), ("gap", plots.label("ramanujan_gap_norm"))):
            if any(column in one.runs and one.runs[column].notna().any() for one in found):
                ax = plots.dose_response(found, column, label=words)
                yield dial if column == "target" else "", Drawing(f"dose_{_slug(dial)}_{column}", "turned", "", ax)


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
        _share_scale([panel.ax for panel in drawn])
    return drawn


def _share_scale(axes: list[Axes]) -> None:
    """Give panels one y scale, set by their lines: a wide band may leave the frame, it must not flatten the rest."""
    drawn = [np.asarray(line.get_ydata(), dtype=float) for ax in axes for line in ax.get_lines()]
    values = np.concatenate([y[np.isfinite(y)] for y in drawn])
    low, high = float(values.min()), float(values.max())
    if low > 0 and high > 20 * low:
        for ax in axes:
            ax.set_yscale("log")
            ax.set_ylim(low / 1.25, high * 1.25)
        return
    reach = np.array([ax.dataLim.intervaly for ax in axes])
    pad = 0.06 * (high - low) or 0.05 * max(abs(high), 1.0)
    room = 0.4 * (high - low)
    for ax in axes:
        ax.set_ylim(max(reach[:, 0].min(), low - room) - pad, min(reach[:, 1].max(), high + room) + pad)


def _facets(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Heading and rows of each panel."""
    families = levels(frame, "family")
    sparsities = levels(frame, "sparsity")
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
    for key, found in (("family", families), ("sparsity", sparsities)):
        if found:
            left_over = left_over[left_over[key].isna()]
    if len(left_over) and len(left_over) < len(frame):
        yield "sparsity not recorded", left_over


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
