"""Frames to one page: a self-contained report.html, and the figures as files.

The page needs no network and no script: style and figures are inside it, a content security policy forbids everything
else, and the few lines of script only sort the table. Text from runs (names, notes, warnings) is escaped by the
template engine; figures carry it as text that matplotlib has escaped. The same frames give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from sift_graph._version import __version__
from sift_graph.concluding import conclusions, predicted_sentence
from sift_graph.dials import Response
from sift_graph.errors import UsageError
from sift_graph.metrics import DYNAMICS, METRICS
from sift_graph.plot_frames import sparse_runs
from sift_graph.plots import save_svg
from sift_graph.report_cards import cards, facts
from sift_graph.report_figures import dose_drawings, drawings, held_out_drawing, inline_svg
from sift_graph.report_nulls import null_findings
from sift_graph.report_table import clean, layer_table
from sift_graph.store import write_atomically

__all__ = ["MAX_BYTES", "write_figures", "write_report"]

MAX_BYTES = 5_000_000
MAX_WARNINGS = 100
MAX_RESPONSES = 30
_NEEDED = ("run", "step", "layer")

log = logging.getLogger(__name__)


def write_report(
    layers: pd.DataFrame,
    network: pd.DataFrame,
    path: str | os.PathLike[str],
    *,
    correlations: pd.DataFrame | None = None,
    title: str | None = None,
    argv: Sequence[str] | None = None,
    versions: Mapping[str, str] | None = None,
    warnings: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    target: str | None = None,
    max_bytes: int = MAX_BYTES,
    nulls: pd.DataFrame | None = None,
    held_out: Sequence[pd.DataFrame] = (),
    turned: Sequence[Response] = (),
) -> Path:
    """Write one self-contained page on what was measured.

    Parameters
    ----------
    layers : DataFrame
        One row per (run, step, layer).
    network : DataFrame
        One row per (run, step).
    path : path
        The file; its directory is made, and an older report is replaced.
    correlations : DataFrame, optional
        As `sift_graph.correlate.correlate` returns it; without it the page links nothing to accuracy.
    title : str, optional
        Heading of the page.
    argv : sequence of str, optional
        The command that made it.
    versions : mapping of str to str, optional
        Package versions.
    warnings : sequence of str
        What went wrong on the way.
    settings : mapping, optional
        Of the analysis; ``hash`` is shown where it is there, else computed.
    target : str, optional
        The training metric; by default that of `correlations`, else ``val_accuracy``.
    max_bytes : int
        Figures that would make the page larger are left out, the last ones first, and the page says so.
    nulls : DataFrame, optional
        Comparisons with random masks, as `sift_graph.table` makes them: they take the place of the formula for a
        large random mask.
    held_out : sequence of DataFrame
        As :func:`sift_graph.prediction.held_out` returns them, a table for each column that was left out.
    turned : sequence of Response
        As :func:`sift_graph.dials.responses` finds them: what follows where a number of the study was turned.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    UsageError
        If there is no row, or a frame lacks a column that says which row is which.
    """
    for name, frame, needed in (("layers", layers, _NEEDED), ("network", network, _NEEDED[:2])):
        missing = [column for column in needed if column not in frame]
        if missing:
            raise UsageError(f"{name} frame: column {missing[0]!r} is missing; pass the frames of `run.analyze()`")
    if not len(layers):
        raise UsageError("layers frame: there is no row to report on; record at least one snapshot")
    if target is None:
        target = (
            str(correlations["target"].iloc[0]) if correlations is not None and len(correlations) else "val_accuracy"
        )
    layers = layers.assign(layer=layers["layer"].astype(str))
    context: dict[str, Any] = {
        "title": clean(title or "Mask topology"),
        "facts": facts(layers, network, target),
        "cards": cards(layers, network, correlations, target, nulls),
        "conclusions": []
        if correlations is None
        else [_typeset(s).partition(": ") for s in conclusions(correlations).values()],
        "turned": [(r.dial, _typeset(r.sentence(target))) for r in turned[:MAX_RESPONSES]],
        "held_out": [_typeset(predicted_sentence(table)) for table in held_out],
        "null_findings": [] if nulls is None else null_findings(nulls, layers),
        "n_runs": layers["run"].nunique(),
        "dense_left_out": len(sparse_runs(layers)) < len(layers),
        "table": layer_table(sparse_runs(layers)),
        "warnings": [_short(clean(text), 1000) for text in warnings[:MAX_WARNINGS]],
        "more_warnings": max(0, len(warnings) - MAX_WARNINGS),
        "catalogue": [
            (m.name, m.formula, m.values, m.undefined, m.source)
            for m in (*METRICS.values(), *DYNAMICS.values())
            if m.name in layers
        ],
        "command": _short(clean(shlex.join(argv)), 2000) if argv else "",
        "versions": sorted({"sift-graph": __version__, **(versions or {})}.items()),
        "settings_hash": _settings_hash(settings),
        "correlation_settings": {} if correlations is None else correlations.attrs,
        "target": target,
    }
    figures = [
        (drawing.section, clean(drawing.heading), inline_svg(drawing))
        for drawing in drawings(layers, network, correlations=correlations, target=target, nulls=nulls)
    ]
    figures += [
        ("unseen", f"each {table['left_out'].iloc[0]} left out", inline_svg(drawing))
        for table in held_out
        if (drawing := held_out_drawing(table)) is not None
    ]
    figures += [("turned", heading, inline_svg(drawing)) for heading, drawing in dose_drawings(turned, target)]
    template = _template()
    kept = list(figures)
    page = template.render(context, figures=_by_section(kept), left_out=0)
    while len(page.encode()) > max_bytes and kept:
        kept.pop()
        page = template.render(context, figures=_by_section(kept), left_out=len(figures) - len(kept))
    if len(kept) < len(figures):
        log.info(
            "left out %d of %d figures to keep the report within %d bytes",
            len(figures) - len(kept),
            len(figures),
            max_bytes,
        )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page.encode())
    return path


def write_figures(layers: pd.DataFrame, network: pd.DataFrame, directory: str | os.PathLike[str]) -> list[Path]:
    """Write the figures of an analysis as SVG, a file each.

    Parameters
    ----------
    layers, network : DataFrame
        As `sift_graph.table` makes them.
    directory : path
        Where; it is made.

    Returns
    -------
    list of Path
        The files written; none for frames without a number.
    """
    if not len(layers):
        return []
    layers = layers.assign(layer=layers["layer"].astype(str))
    return [save_svg(drawing.ax, Path(directory) / f"{drawing.name}.svg") for drawing in drawings(layers, network)]


def _template() -> Any:
    """Load the page's template; text is escaped, and a missing name is an error."""
    source = resources.files("sift_graph").joinpath("templates", "report.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source)


def _by_section(figures: Sequence[tuple[str, str, Markup]]) -> dict[str, list[tuple[str, Markup]]]:
    """Sort figures into the sections of the page."""
    sections: dict[str, list[tuple[str, Markup]]] = {}
    for section, heading, svg in figures:
        sections.setdefault(section, []).append((heading, svg))
    return sections


def _settings_hash(settings: Mapping[str, Any] | None) -> str:
    """Name the settings of the analysis by their hash."""
    if not settings:
        return ""
    if "hash" in settings:
        return str(settings["hash"])
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _typeset(sentence: str) -> str:
    """Write a conclusion with real minus signs and a Greek rho."""
    return re.sub(r"(?<=[\[ ])-(?=\d)", "−", sentence).replace("rho =", "ρ =")


def _short(text: str, width: int) -> str:
    """Cut a text that is too long for the page."""
    return text if len(text) <= width else f"{text[:width]}…"
