"""Commands that link topology to accuracy: correlate, report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sift_graph.cli import app
from sift_graph.cli.measuring import JobsOption, MetricsOption, RunDir, finish, run_analysis, study_directory
from sift_graph.cli.output import Column, JsonOption, print_json, print_table, records

if TYPE_CHECKING:
    import pandas as pd


@app.command(epilog="Example:  sift-graph correlate runs/study --with val_accuracy")
def correlate(
    study_dir: Annotated[Path, typer.Argument(help="A directory of runs.", show_default=False)],
    target: Annotated[str, typer.Option("--with", help="What to correlate the metrics with.")] = "val_accuracy",
    metrics: MetricsOption = None,
    include_dense: Annotated[bool, typer.Option("--include-dense", help="Keep the dense runs in.")] = False,
    jobs: JobsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Correlate each metric with accuracy: pooled, at fixed sparsity, and partial given density.

    Density alone ranks masks almost as well as any spectral metric: it stands beside them, as mean_density.
    """
    from sift_graph.correlate import correlate as correlate_frames

    analysis = run_analysis(study_dir, jobs=jobs)
    names = [n.strip() for n in metrics.split(",")] if metrics else None
    frame = correlate_frames(analysis.network, target=target, metrics=names, include_dense=include_dense)
    if as_json:
        print_json({"schema": "sift-graph/correlate/1", "rows": records(frame), "warnings": list(analysis.warnings)})
        finish(analysis)
        return
    print_correlations(frame, target)
    finish(analysis)


def print_correlations(frame: pd.DataFrame, target: str) -> None:
    """Print Spearman's rho of each metric in each view, with its interval."""
    rho = frame[frame["statistic"] == "spearman"]
    views = [v for v in dict.fromkeys(rho["view"]) if v != "fixed sparsity"]
    columns = [
        Column("metric", "left"),
        *(Column(str(view), "left", rank=i) for i, view in enumerate(views, start=1)),
        Column("note", "left", rank=9),
    ]
    rows = []
    for metric, part in rho.groupby("metric", sort=False):
        cells = [str(metric)]
        for view in views:
            found = part[part["view"] == view]
            cells.append(estimate_cell(found.iloc[0]) if len(found) else "–")
        notes = dict.fromkeys(n for n in part.loc[part["view"] != "fixed sparsity", "note"] if n)
        rows.append([*cells, "; ".join(notes)])
    n = int(rho["n"].max()) if len(rho) else 0
    print_table(columns, rows, title=f"Spearman's ρ with {target}, 95 % interval, {n} runs (* adjusted p < 0.05)")


def estimate_cell(row: pd.Series) -> str:
    """Format an estimate with its interval, and a star if it stands after adjustment for many tests."""
    if math.isnan(row["estimate"]):
        return "–"
    star = "*" if row["p_adjusted"] < 0.05 else " "
    return f"{row['estimate']:+.2f}{star}[{row['lo']:+.2f}, {row['hi']:+.2f}]"


@app.command(epilog="Example:  sift-graph report runs/study")
def report(
    run_dir: RunDir,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write it.", show_default="in RUN_DIR/analysis")
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="Its heading.")] = None,
    target: Annotated[str, typer.Option("--with", help="What to correlate the metrics with.")] = "val_accuracy",
    jobs: JobsOption = 1,
) -> None:
    """Write one self-contained report.html, and print where it is."""
    import sys

    from sift_graph.correlate import correlate as correlate_frames
    from sift_graph.report import write_report
    from sift_graph.store import environment

    analysis = run_analysis(run_dir, jobs=jobs)
    correlations = None
    network = analysis.network
    if network["run"].nunique() > 1 and (f"final_{target}" in network or target in network):
        correlations = correlate_frames(network, target=target)
    failed = [str(failure) for failure in analysis.failures]
    path = out or study_directory(run_dir, analysis) / "report.html"
    write_report(
        analysis.layers,
        network,
        path,
        correlations=correlations,
        title=title or run_dir.resolve().name,
        argv=["sift-graph", *sys.argv[1:]],
        versions=environment()["versions"],
        warnings=[*analysis.warnings, *failed],
        settings=dict(analysis.settings),
        nulls=analysis.nulls,
    )
    typer.echo(str(path))
    finish(analysis)
