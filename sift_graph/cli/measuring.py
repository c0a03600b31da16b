"""Commands of the measuring half: analyze, correlate, report, show, import."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sift_graph.cli import app
from sift_graph.cli.output import (
    complain,
    note,
    number,
    print_json,
    print_table,
    progress_bar,
    records,
    sparkline,
)

if TYPE_CHECKING:
    import pandas as pd

    from sift_graph.table import Analysis

RunDir = Annotated[Path, typer.Argument(help="A run directory, or a directory of runs.", show_default=False)]
LayersOption = Annotated[
    str | None, typer.Option("--layers", help="Only these layers: globs with commas between.", rich_help_panel="Input")
]
StepsOption = Annotated[
    str,
    typer.Option(
        "--steps", help="Which snapshots: all, last, first, every:5, 1000:5000, or steps.", rich_help_panel="Input"
    ),
]
MetricsOption = Annotated[
    str | None,
    typer.Option("--metrics", help="Only these metrics, commas between. Default: all.", rich_help_panel="Metrics"),
]
JobsOption = Annotated[int, typer.Option("-j", "--jobs", min=1, help="Worker processes.", rich_help_panel="Compute")]
ForceOption = Annotated[bool, typer.Option("--force", help="Compute again what was kept.", rich_help_panel="Compute")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on stdout, and nothing else.", rich_help_panel="Output")]


def run_analysis(
    path: Path,
    *,
    layers: str | None = None,
    steps: str | None = None,
    metrics: str | None = None,
    jobs: int = 1,
    force: bool = False,
) -> Analysis:
    """Analyze with a progress bar, and write the tables beside each run and, for several, beside them all."""
    from dataclasses import replace

    from sift_graph.table import analyze_runs, write_tables

    with progress_bar("measuring") as progress:
        analysis = analyze_runs(
            path, layers=layers, steps=steps, metrics=metrics, jobs=jobs, force=force, progress=progress
        )
    partial = layers is not None or steps not in (None, "all")
    if partial:  # the kept tables are those of the whole run
        return analysis
    names = list(dict.fromkeys(analysis.layers["run"]))
    for name, directory in zip(names, analysis.directories, strict=False):
        part = replace(
            analysis,
            layers=analysis.layers[analysis.layers["run"] == name],
            network=analysis.network[analysis.network["run"] == name],
            failures=tuple(f for f in analysis.failures if f.run == name),
        )
        write_tables(part, directory)
    if len(analysis.directories) != 1:
        write_tables(analysis, study_directory(path, analysis))
    return analysis


def study_directory(path: Path, analysis: Analysis) -> Path:
    """Where the results of an analysis of `path` stand."""
    if len(analysis.directories) == 1:
        return analysis.directories[0]
    return path / "analysis" / str(analysis.settings["hash"])


def finish(analysis: Analysis) -> None:
    """Say what failed, and leave with exit code 4 if anything did."""
    for warning in analysis.warnings:
        note(f"warning: {warning}")
    for failure in analysis.failures:
        where = ", ".join(
            part
            for part in (
                failure.run,
                f"step {failure.step}" if failure.step >= 0 else "",
                failure.layer and f"layer {failure.layer!r}",
            )
            if part
        )
        complain(f"failed: {where}: {failure.message}")
    if analysis.failures:
        raise typer.Exit(4)


@app.command(
    epilog="Examples:  sift-graph analyze runs/a   |   sift-graph analyze runs/a --layers 'stage3.*' --steps last --json"
)
def analyze(
    run_dir: RunDir,
    layers: LayersOption = None,
    steps: StepsOption = "all",
    metrics: MetricsOption = None,
    jobs: JobsOption = 1,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure each mask recorded in RUN_DIR: one row per layer and step.

    Prints the last snapshot, with the trend over training; writes layers.csv, layers.parquet, network.csv,
    summary.json and figures to RUN_DIR/analysis. Run again, it computes only what is missing.
    """
    analysis = run_analysis(run_dir, layers=layers, steps=steps, metrics=metrics, jobs=jobs, force=force)
    if as_json:
        failed = [f"{f.run}, step {f.step}, layer {f.layer!r}: {f.message}" for f in analysis.failures]
        print_json(
            {
                "schema": "sift-graph/analyze/1",
                "rows": records(analysis.layers),
                "warnings": [*analysis.warnings, *failed],
                "timing": dict(analysis.timing),
            }
        )
        finish(analysis)
        return
    several = analysis.layers["run"].nunique() > 1
    print_runs(analysis) if several else print_layers(analysis.layers)
    if layers is None and steps == "all":
        from sift_graph.report import write_figures

        directory = study_directory(run_dir, analysis)
        write_figures(analysis.layers, analysis.network, directory / "figures")
        note(f"tables and figures: {directory}")
    timing = analysis.timing
    note(f"{int(timing['computed'])} rows computed, {int(timing['reused'])} kept, {timing['seconds']:.1f} s")
    finish(analysis)


def print_layers(frame: pd.DataFrame) -> None:
    """Print one run: a row per layer of its last snapshot."""
    if frame.empty:
        return
    columns = [
        ("layer", "left"),
        ("left × right", "right"),
        ("density", "right"),
        ("σ₁", "right"),
        ("σ₂", "right"),
        ("bound", "right"),
        ("gap/bound", "right"),
        ("− random", "right"),
        ("within", "left"),
        ("IMDB/bound", "right"),
        ("coverage", "right"),
        ("|W| gap", "right"),
        ("gap/bound over training", "left"),
        ("note", "wrap"),
    ]
    last = frame[frame["step"] == frame["step"].max()]
    rows = []
    for row in last.to_dict("records"):
        history = frame.loc[
            frame["layer"] == row["layer"], ["step"] + [c for c in ("ramanujan_gap_norm",) if c in frame]
        ]
        trend = history.sort_values("step")["ramanujan_gap_norm"].tolist() if "ramanujan_gap_norm" in history else []
        get = row.get
        rows.append(
            [
                str(row["layer"]),
                f"{row['n_left']} × {row['n_right']}",
                number(get("density")),
                number(get("sigma_1"), 2),
                number(get("sigma_2")),
                number(get("bound")),
                number(get("ramanujan_gap_norm")),
                signed(get("excess_gap")),
                str(get("is_ramanujan") or "–"),
                number(get("imdb_norm")),
                percent(get("edge_coverage")),
                number(get("weighted_spectral_gap")),
                sparkline(trend),
                str(get("note") or ""),
            ]
        )
    about = " · ".join(str(last[c].iloc[0]) for c in ("family", "method", "sparsity") if last[c].iloc[0] is not None)
    step = int(last["step"].iloc[0])
    print_table(columns, rows, title=f"{last['run'].iloc[0]}   {about}   step {step}")


def print_runs(analysis: Analysis) -> None:
    """Print several runs: a row per run, means over the layers of its last snapshot."""
    network = analysis.network
    columns = [
        ("run", "left"),
        ("family", "left"),
        ("method", "left"),
        ("s", "right"),
        ("layers", "right"),
        ("density", "right"),
        ("gap/bound", "right"),
        ("− random", "right"),
        ("IMDB/bound", "right"),
        ("|W| gap", "right"),
        ("ITOP", "right"),
        ("val acc", "right"),
        ("gap/bound over training", "left"),
    ]
    rows = []
    for run, part in network.groupby("run", sort=False):
        part = part.sort_values("step")
        row = part.iloc[-1].to_dict()
        trend = part["ramanujan_gap_norm"].tolist() if "ramanujan_gap_norm" in part else []
        rows.append(
            [
                str(run),
                str(row["family"] or "–"),
                str(row["method"] or "–"),
                number(row["sparsity"], 2),
                str(int(row["n_layers"])),
                number(row["density"]),
                number(row.get("ramanujan_gap_norm")),
                signed(row.get("excess_gap")),
                number(row.get("imdb_norm")),
                number(row.get("weighted_spectral_gap")),
                number(row.get("itop_rate")),
                number(row.get("final_val_accuracy")),
                sparkline(trend),
            ]
        )
    print_table(columns, rows, title=f"{len(rows)} runs, means over the layers of each run's last snapshot")


def signed(value: Any) -> str:
    """Format a difference with its sign."""
    text = number(value)
    return f"+{text}" if isinstance(value, float) and value > 0 else text.replace("-", "−")


def percent(value: Any) -> str:
    """Format a share as a whole percentage."""
    return "–" if value is None or math.isnan(value) else f"{value:.0%}"


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
    columns = [("metric", "left"), *((str(view), "left") for view in views), ("note", "wrap")]
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
    return f"{row['estimate']:+.2f}{star}[{row['lo']:+.2f}, {row['hi']:+.2f}]".replace("-", "−")


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
    failed = [f"{f.run}, step {f.step}, layer {f.layer!r}: {f.message}" for f in analysis.failures]
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
    )
    typer.echo(str(path))
    finish(analysis)


@app.command(epilog="Example:  sift-graph show runs/a --layer stage3.0.conv1 --figure layer.svg")
def show(
    run_dir: Annotated[Path, typer.Argument(help="A run directory.", show_default=False)],
    layer: Annotated[str, typer.Option("--layer", help="Name, or a glob that matches one layer.", show_default=False)],
    step: Annotated[int | None, typer.Option("--step", help="A recorded step.", show_default="the last")] = None,
    figure: Annotated[Path | None, typer.Option("--figure", help="Draw its singular values to this SVG.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show one layer: its degrees, its spectrum, its verdict."""
    from sift_graph import spectrum
    from sift_graph.graph import BipartiteGraph
    from sift_graph.metrics import CORE, measure_layer
    from sift_graph.run import open as open_run

    run = open_run(run_dir)
    if not run.steps:
        from sift_graph.errors import RunDirectoryError

        raise RunDirectoryError(f"{run_dir}: the run has no snapshot yet; train it, or record one")
    mask = run.mask(layer, step=step)
    graph = BipartiteGraph.from_mask(mask)
    values = measure_layer(graph, CORE)
    sigma = spectrum.singular_values(graph)
    at = run.steps[-1] if step is None else step
    if as_json:
        content = {"schema": "sift-graph/show/1", "layer": mask.layer, "step": at, "shape": list(mask.shape)}
        print_json({**content, "values": {k: _json(v) for k, v in values.items()}, "singular_values": sigma.tolist()})
    else:
        print_layer(mask, graph, values, sigma, at)
    if figure is not None:
        from sift_graph.plots import save_svg, spectrum_histogram

        axes = spectrum_histogram(
            sigma, bound=values["bound"], density=values["density"], n_left=graph.n_left, n_right=graph.n_right
        )
        axes.set_title(f"{mask.layer}, step {at}")
        save_svg(axes, figure)
        note(f"figure: {figure}")


def _json(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_layer(mask: Any, graph: Any, values: dict[str, Any], sigma: Any, step: int) -> None:
    """Print what is known of one layer."""
    from sift_graph.cli.output import console

    def degrees(side: Any) -> str:
        if not len(side) or not side.any():
            return "all isolated"
        active = side[side > 0]
        isolated = len(side) - len(active)
        tail = f", {isolated} isolated" if isolated else ""
        return f"{active.min()} to {active.max()}, mean {active.mean():.2f}{tail}"

    verdict = {
        "yes": "within the Ramanujan bound",
        "no": "outside the Ramanujan bound",
        "undecided": "too close to the Ramanujan bound to say",
    }.get(values["is_ramanujan"], "no verdict")
    count, _, _ = graph.components
    shape = " × ".join(map(str, mask.shape)) + (f", {mask.groups} groups" if mask.groups > 1 else "")
    lines = [
        (mask.layer, f"step {step}, source {mask.source}"),
        ("weight", shape),
        ("graph", f"{graph.n_left} left × {graph.n_right} right, {graph.edges:,} edges, density {graph.density:.4f}"),
        ("left degrees", degrees(graph.left_degree)),
        ("right degrees", degrees(graph.right_degree)),
        ("components", f"{count}"),
        ("σ₁", number(values["sigma_1"], 6)),
        (
            "σ₂",
            f"{number(values['sigma_2'], 6)}   in [{number(values['sigma_2_lo'], 6)}, {number(values['sigma_2_hi'], 6)}]",
        ),
        ("bound", f"{number(values['bound'], 6)}   {verdict}"),
        (
            "gap",
            f"{number(values['ramanujan_gap'], 6)}   {number(values['ramanujan_gap_norm'])} of the bound; a random mask of this density: {number(values['random_gap_norm'])}",
        ),
        (
            "IMDB",
            f"{number(values['imdb'])}   over {values['n_subgraphs']} subgraphs, {percent(values['edge_coverage'])} of the edges",
        ),
        ("|W| gap", f"{number(values['weighted_spectral_gap'])}   IMSG {number(values['imsg'])}"),
        (
            "spectrum",
            f"{sparkline(histogram(sigma), 40)}   0 to {sigma.max() if len(sigma) else 0:.3f}, {len(sigma)} values",
        ),
    ]
    if values["note"]:
        lines.append(("note", values["note"]))
    width = max(len(k) for k, _ in lines[1:]) + 2
    out = console()
    out.print(f"{lines[0][0]}   {lines[0][1]}", soft_wrap=True)
    for key, text in lines[1:]:
        out.print(f"  {key:<{width}}{text}", soft_wrap=True)


def histogram(sigma: Any, bins: int = 40) -> list[float]:
    """Count singular values in equal bins from 0 to the largest, on a logarithmic scale."""
    import numpy as np

    if not len(sigma):
        return []
    counts, _ = np.histogram(sigma, bins=bins, range=(0, max(float(sigma.max()), 1e-12)))
    return [float(c) for c in np.log1p(counts)]


@app.command("import", epilog="Example:  sift-graph import masks.npz runs/x")
def import_(
    files: Annotated[
        list[Path], typer.Argument(help="FILE... RUN_DIR: .npz, .safetensors, .pt; then the new run directory.")
    ],
    from_zeros: Annotated[
        bool, typer.Option("--from-zeros", help="Derive masks from weight != 0, and label them so.")
    ] = False,
    step: Annotated[int, typer.Option("--step", min=0, help="Step of the first file.")] = 0,
) -> None:
    """Make a run directory from masks in arrays or checkpoints.

    In .npz: mask/<layer>, weight/<layer>, groups/<layer>. In state dicts: <name>_mask buffers.
    """
    from sift_graph.errors import UsageError
    from sift_graph.importers import import_masks

    if len(files) < 2:
        raise UsageError("expected FILE... RUN_DIR: at least one file, then the run directory to make")
    *sources, run_dir = files
    result = import_masks(sources if len(sources) > 1 else sources[0], run_dir, from_zeros=from_zeros, step=step)
    note(f"{result}")
    typer.echo(str(run_dir))
