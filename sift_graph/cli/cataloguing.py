"""The command that says what can be measured: metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sift_graph.cli import app
from sift_graph.cli.output import Column, JsonOption, complain, console, print_json, print_table

if TYPE_CHECKING:
    from sift_graph.metrics import Metric

FEW = 12  # metrics of which everything is said


@app.command(epilog="Example:  sift-graph metrics weighted,cover_gap")
def metrics(
    names: Annotated[
        str | None,
        typer.Argument(help="core, all, compat, groups or names, commas between.", show_default="every metric"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the metrics: name, formula, range, cost, source; of a few, when undefined and what each tells too.

    What is listed is what analyze --metrics takes.
    """
    import dataclasses

    from sift_graph.metrics import COSTS, GROUPS
    from sift_graph.metrics.plugins import FAILED

    found = listed(names)
    for name, why in FAILED.items():
        complain(f"metrics of entry point {name!r} are left out: {why}")
    if as_json:
        fields = [f.name for f in dataclasses.fields(found[0]) if f.name not in ("compute", "laws", "missing")]
        rows = [{f: getattr(m, f) for f in fields} | {"order": COSTS[m.cost].order} for m in found]
        print_json({"schema": "sift-graph/metrics/1", "metrics": rows})
        return
    columns = [
        Column("metric", "left"),
        Column("core", "left", rank=3),
        Column("formula", "left"),
        Column("range", "left", rank=1),
        Column("cost", "left", rank=2),
        Column("source", "left", rank=4),
    ]
    for group, title in GROUPS.items():
        lines = [
            [m.name, "core" if m.core else "", m.formula, m.values, COSTS[m.cost].order, m.source]
            for m in found
            if m.group == group
        ]
        if lines:
            print_table(columns, lines, title=f"{title} ({group})")
    if len(found) <= FEW:
        for metric in found:
            console().print(described(metric), soft_wrap=True)


def listed(names: str | None) -> list[Metric]:
    """Metrics that were asked for; the sizes, which every table has, only if they were."""
    from sift_graph.metrics import CORE_DYNAMICS, DYNAMICS, METRICS, NETWORK_METRICS, find_metric, select

    if names is None:
        return [*METRICS.values(), *DYNAMICS.values(), *NETWORK_METRICS.values()]
    asked = {name.strip() for name in names.split(",")}
    chosen = select(names)
    if asked & {"core", "all", "dynamics"}:
        chosen += CORE_DYNAMICS
    else:
        chosen += [name for name in CORE_DYNAMICS if name in asked]
    found = [metric for name in chosen if (metric := find_metric(name)) is not None]
    if asked & {"core", "all", "structure"}:
        return found
    return [metric for metric in found if metric.group != "structure" or metric.name in asked]


def described(metric: Metric) -> str:
    """Say of one metric what its row in the table has no room for."""
    said = {"undefined": metric.undefined, "tells": metric.predicts, "tested against": metric.oracle}
    return "\n".join([metric.name, *(f"  {word}: {text}" for word, text in said.items() if text)])
