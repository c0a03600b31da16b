"""The command that measures: analyze."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sift_graph.cli import app
from sift_graph.cli.network_lines import print_network
from sift_graph.cli.output import (
    Column,
    JsonOption,
    complain,
    note,
    number,
    percent,
    print_json,
    print_table,
    progress_bar,
    records,
    sparkline,
)
from sift_graph.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from sift_graph.table import Analysis

SAMPLES = 100
OF_ONE_MODEL = {"--null-rounds": "degree", "--pattern": "nm"}

SHOWN_OF = {
    "σ₁": "sigma_1",
    "σ₂": "sigma_2",
    "bound": "bound",
    "gap/bound": "ramanujan_gap_norm",
    "- random": "excess_gap",
    "within": "is_ramanujan",
    "IMDB/bound": "imdb_norm",
    "coverage": "edge_coverage",
    "|W| gap": "weighted_spectral_gap",
}  # headings of columns that are there only if they were measured

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
    typer.Option(
        "--metrics",
        help="core, all, compat, groups or names, commas between: sift-graph metrics lists them.",
        rich_help_panel="Metrics",
        show_default="core",
    ),
]
AverageOption = Annotated[
    str,
    typer.Option(
        "--average",
        help="Whole-network means over the sparse layers, or over all: sparse, all.",
        rich_help_panel="Metrics",
    ),
]
EncodingOption = Annotated[
    str,
    typer.Option(
        "--encoding", help="How masks become graphs: kernel, channel, unrolled, ...", rich_help_panel="Metrics"
    ),
]
HeadsOption = Annotated[
    int | None, typer.Option("--heads", help="Attention heads, for heads and attention.", rich_help_panel="Metrics")
]
SizeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input-size",
        help="For unrolled: 32x32, or GLOB=8x8; may be repeated. Default: as recorded.",
        rich_help_panel="Metrics",
    ),
]
JobsOption = Annotated[int, typer.Option("-j", "--jobs", min=1, help="Worker processes.", rich_help_panel="Compute")]
SchedulerOption = Annotated[
    str | None,
    typer.Option("--scheduler", help="Address of a running Dask cluster to work on.", rich_help_panel="Compute"),
]
NullOption = Annotated[
    str | None,
    typer.Option(
        "--null",
        help="Compare with random masks: er (same edges), degree (same degrees), nm (same N:M pattern).",
        rich_help_panel="Null model",
    ),
]
SamplesOption = Annotated[
    int, typer.Option("--samples", min=2, help="Random masks to draw of each.", rich_help_panel="Null model")
]
NullMetricsOption = Annotated[
    str | None,
    typer.Option(
        "--null-metrics",
        help="What is compared, commas between. Default: sigma_1, sigma_2 and the Ramanujan gap.",
        rich_help_panel="Null model",
    ),
]
NullStepsOption = Annotated[
    str, typer.Option("--null-steps", help="Which snapshots are compared, as --steps.", rich_help_panel="Null model")
]
NullSeedOption = Annotated[
    int, typer.Option("--null-seed", min=0, help="Seed of the random masks.", rich_help_panel="Null model")
]
NullRoundsOption = Annotated[
    int | None,
    typer.Option(
        "--null-rounds",
        min=1,
        help="Rounds of trades of --null degree: more where a comparison is noted not_mixed. Default: 24.",
        rich_help_panel="Null model",
    ),
]
NullPatternOption = Annotated[
    str | None,
    typer.Option(
        "--pattern",
        help="N:M of --null nm, for instance 2:4. Default: found in each mask.",
        rich_help_panel="Null model",
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Compute again what was kept.", rich_help_panel="Compute")]


def run_analysis(
    path: Path,
    *,
    layers: str | None = None,
    steps: str | None = None,
    metrics: str | None = None,
    average: str = "sparse",
    jobs: int = 1,
    scheduler: str | None = None,
    force: bool = False,
    encoding: str = "kernel",
    heads: int | None = None,
    input_size: list[str] | None = None,
    **null_options: Any,
) -> Analysis:
    """Analyze with a progress bar, and write the tables beside each run and, for several, beside them all."""
    from dataclasses import replace

    from sift_graph.table import analyze_runs, write_tables

    with progress_bar("measuring") as progress:
        analysis = analyze_runs(
            path,
            layers=layers,
            steps=steps,
            metrics=metrics,
            average=average,  # type: ignore[arg-type]  # checked there
            jobs=jobs,
            scheduler=scheduler,
            force=force,
            encoding=encoding,
            heads=heads,
            input_size=input_size,
            progress=progress,
            **null_options,
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
            nulls=analysis.nulls[analysis.nulls["run"] == name],
            pairs=analysis.pairs[analysis.pairs["run"] == name] if len(analysis.pairs) else analysis.pairs,
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
        complain(f"failed: {failure}")
    if analysis.failures:
        raise typer.Exit(4)


@app.command(epilog="Example:  sift-graph analyze runs/a --layers 'stage3.*' --steps last --json")
def analyze(
    run_dir: RunDir,
    layers: LayersOption = None,
    steps: StepsOption = "all",
    metrics: MetricsOption = None,
    encoding: EncodingOption = "kernel",
    heads: HeadsOption = None,
    input_size: SizeOption = None,
    average: AverageOption = "sparse",
    jobs: JobsOption = 1,
    scheduler: SchedulerOption = None,
    force: ForceOption = False,
    null: NullOption = None,
    samples: SamplesOption = SAMPLES,
    null_metrics: NullMetricsOption = None,
    null_steps: NullStepsOption = "last",
    null_seed: NullSeedOption = 0,
    null_rounds: NullRoundsOption = None,
    pattern: NullPatternOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure each mask recorded in RUN_DIR: one row per layer and step.

    Prints the last snapshot, with the trend over training; writes layers.csv, layers.parquet, network.csv,
    summary.json and figures to RUN_DIR/analysis, and nulls.csv and nulls.parquet with --null. Run again, it computes
    only what is missing.
    """
    given = {
        "--samples": samples != SAMPLES,
        "--null-metrics": null_metrics is not None,
        "--null-steps": null_steps != "last",
        "--null-seed": null_seed != 0,
        "--null-rounds": null_rounds is not None,
        "--pattern": pattern is not None,
    }
    refuse_idle(null, [option for option, is_given in given.items() if is_given])
    analysis = run_analysis(
        run_dir,
        layers=layers,
        steps=steps,
        metrics=metrics,
        encoding=encoding,
        heads=heads,
        input_size=input_size,
        average=average,
        jobs=jobs,
        scheduler=scheduler,
        force=force,
        null=null,
        n_null=samples,
        null_metrics=null_metrics,
        null_steps=null_steps,
        null_seed=null_seed,
        **({} if null_rounds is None else {"null_rounds": null_rounds}),
        null_pattern=pattern,
    )
    if as_json:
        failed = [str(failure) for failure in analysis.failures]
        print_json(
            {
                "schema": "sift-graph/analyze/1",
                "rows": records(analysis.layers),
                **({"nulls": records(analysis.nulls[analysis.nulls["null"] == null])} if null else {}),
                "warnings": [*analysis.warnings, *failed],
                "timing": dict(analysis.timing),
            }
        )
        finish(analysis)
        return
    several = analysis.layers["run"].nunique() > 1
    asked = analysis.nulls[analysis.nulls["null"] == null]
    if several:
        print_runs(analysis, asked)
    else:
        print_layers(analysis.layers, asked)
        print_network(analysis.network)
    if layers is None and steps == "all":
        from sift_graph.report import write_figures

        directory = study_directory(run_dir, analysis)
        write_figures(analysis.layers, analysis.network, directory / "figures")
        note(f"tables and figures: {directory}")
    timing = analysis.timing
    note(f"{int(timing['computed'])} rows computed, {int(timing['reused'])} kept, {timing['seconds']:.1f} s")
    finish(analysis)


def refuse_idle(null: str | None, given: list[str]) -> None:
    """Refuse options of random masks that would change nothing."""
    from sift_graph.nulls import NULLS

    for option in given:
        only = OF_ONE_MODEL.get(option)
        if null is None:
            raise UsageError(
                f"{option} is about random masks, and none are drawn: add --null {only or 'degree'}"
                f"{'' if only else ' (or er, nm)'}"
            )
        if only and null in NULLS and null != only:
            raise UsageError(f"{option} is of --null {only}; --null {null} has no use for it: leave it out")


def print_layers(frame: pd.DataFrame, nulls: pd.DataFrame) -> None:
    """Print one run: a row per layer of its last snapshot, with the z-score of its gap where there are null models."""
    if frame.empty:
        return
    columns = [
        Column("layer", "left"),
        Column("left × right", rank=5),
        Column("density", rank=4),
        Column("σ₁", rank=9),
        Column("σ₂", rank=7),
        Column("bound", rank=8),
        Column("gap/bound"),
        Column("- random", rank=3),
        Column("z"),
        Column("p"),
        Column("within", "left"),
        Column("IMDB/bound", rank=6),
        Column("coverage", rank=10),
        Column("|W| gap", rank=11),
        Column("trend", "left", rank=2),
        Column("note", "left", rank=8),
    ]
    last = frame[frame["step"] == frame["step"].max()]
    compared = gap_scores(nulls, int(last["step"].iloc[0]))
    columns = [c for c in columns if compared or c.heading not in ("z", "p")]
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
                *scores_of(compared, str(row["layer"])),
                str(get("is_ramanujan") or "–"),
                number(get("imdb_norm")),
                percent(get("edge_coverage")),
                number(get("weighted_spectral_gap")),
                sparkline(trend),
                ",".join(filter(None, [get("note"), compared.get(str(row["layer"]), {}).get("note")])),
            ]
        )
    about = " · ".join(str(last[c].iloc[0]) for c in ("family", "method", "sparsity") if last[c].iloc[0] is not None)
    step = int(last["step"].iloc[0])
    title = f"{last['run'].iloc[0]}   {about}   step {step}"
    if "ramanujan_gap_norm" in frame:
        title += "; gap/bound and its trend over training"
    if compared:
        one = next(iter(compared.values()))
        title += f"; z and p of the gap among {one['n']} random masks ({one['null']})"
    kept = [i for i, c in enumerate(columns) if SHOWN_OF.get(c.heading, "step") in frame]
    print_table([columns[i] for i in kept], [[row[i] for i in kept] for row in rows], title=title)


def gap_scores(nulls: pd.DataFrame, step: int) -> dict[str, dict[str, Any]]:
    """Comparisons of the Ramanujan gap at a step, by layer; of the first metric compared where the gap was not."""
    part = nulls[nulls["step"] == step]
    names = list(dict.fromkeys(part["metric"]))
    if not names:
        return {}
    gap = next((name for name in ("ramanujan_gap", "ramanujan_gap_norm") if name in names), names[0])
    return {str(row["layer"]): row for row in records(part[part["metric"] == gap])}


def scores_of(compared: dict[str, dict[str, Any]], layer: str) -> list[str]:
    """Format z and p of a layer; nothing where there is no null model at all."""
    if not compared:
        return []
    row = compared.get(layer, {})
    return [signed(row.get("z")), number(row.get("p"))]


def print_runs(analysis: Analysis, nulls: pd.DataFrame) -> None:
    """Print several runs: a row per run, means over the layers of its last snapshot."""
    network = analysis.network
    columns = [
        Column("run", "left"),
        Column("family", "left", rank=8),
        Column("method", "left", rank=5),
        Column("s", rank=4),
        Column("layers", rank=12),
        Column("density", rank=4),
        Column("gap/bound"),
        Column("- random", rank=3),
        *([Column("z")] if len(nulls) else []),
        Column("IMDB/bound", rank=6),
        Column("|W| gap", rank=11),
        Column("ITOP", rank=9),
        Column("val acc", rank=1),
        Column("trend", "left", rank=2),
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
                *([mean_z(nulls, str(run), int(row["step"]))] if len(nulls) else []),
                number(row.get("imdb_norm")),
                number(row.get("weighted_spectral_gap")),
                number(row.get("itop_rate")),
                number(row.get("final_val_accuracy")),
                sparkline(trend),
            ]
        )
    print_table(
        columns,
        rows,
        title=f"{len(rows)} runs, means over the layers of each run's last snapshot; trend of gap/bound over training",
    )


def mean_z(nulls: pd.DataFrame, run: str, step: int) -> str:
    """Format the mean over layers of the z-score of the gap."""
    found = [row["z"] for row in gap_scores(nulls[nulls["run"] == run], step).values() if row["z"] is not None]
    return signed(sum(found) / len(found)) if found else "–"


def signed(value: Any) -> str:
    """Format a difference with its sign."""
    text = number(value)
    return f"+{text}" if isinstance(value, float) and value > 0 and float(text) else text
