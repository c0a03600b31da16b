"""Commands that link topology to accuracy: correlate, report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sift_graph.cli import app
from sift_graph.cli.measuring import JobsOption, MetricsOption, RunDir, finish, run_analysis, study_directory
from sift_graph.cli.output import Column, JsonOption, note, percent, print_json, print_table, records

if TYPE_CHECKING:
    import pandas as pd

    from sift_graph.dials import Response


@app.command(epilog="Example:  sift-graph correlate runs/study --with val_accuracy")
def correlate(
    study: Annotated[
        Path, typer.Argument(help="A directory of runs, or a table (.csv, .parquet).", show_default=False)
    ],
    target: Annotated[str, typer.Option("--with", help="What to correlate the metrics with.")] = "val_accuracy",
    metrics: MetricsOption = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--map", help="OURS=THEIRS, of a table: val_accuracy=acc, mean_density=density.", metavar="OURS=THEIRS"
        ),
    ] = None,
    statistic: Annotated[str, typer.Option("--statistic", help="Printed: spearman, kendall or pearson.")] = "spearman",
    predict: Annotated[
        str | None,
        typer.Option(
            "--predict", help="Leave out each family, method, ...: can the others predict it?", metavar="COLUMN"
        ),
    ] = None,
    power: Annotated[
        float | None,
        typer.Option("--power", help="How many runs would show a correlation of this size?", metavar="RHO"),
    ] = None,
    include_dense: Annotated[bool, typer.Option("--include-dense", help="Keep the dense runs in.")] = False,
    jobs: JobsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Correlate each metric with accuracy: pooled, at fixed sparsity, and partial given density.

    Density alone ranks masks almost as well as any spectral metric: it stands beside them, as mean_density. Where masks
    were compared with random ones (analyze --null), their z-scores stand there too.
    """
    from sift_graph.correlate import STATISTICS, conclusions
    from sift_graph.correlate import correlate as correlate_frames
    from sift_graph.errors import UsageError, did_you_mean
    from sift_graph.joining import read_table
    from sift_graph.power import runs_needed, smallest_seen

    if statistic not in STATISTICS:
        raise UsageError(f"--statistic: unknown {statistic!r}{did_you_mean(statistic, STATISTICS)}")
    is_table = study.is_file()
    if columns and not is_table:
        raise UsageError(f"--map: renames the columns of a table, and {study} is not a file")
    analysis = None if is_table else run_analysis(study, jobs=jobs)
    network = read_table(study, _mapping(columns or [])) if analysis is None else analysis.network
    nulls = None if analysis is None else _one_null(analysis.nulls)
    names = [n.strip() for n in metrics.split(",")] if metrics else None
    if names is None and is_table:
        names = _numbers_of(network, target)
    frame = correlate_frames(network, target=target, metrics=names, include_dense=include_dense, nulls=nulls)
    n = int(frame.loc[frame["view"] == "pooled", "n"].max()) if len(frame) else 0
    prediction = None
    if predict:
        from sift_graph.prediction import held_out

        prediction = held_out(network, target=target, left_out=predict, metrics=names, include_dense=include_dense)
    needed = {}
    if power is not None:
        tests = frame["metric"].nunique()
        needed = {
            "rho": power,
            "runs_needed": runs_needed(power),
            "runs_needed_for_all_metrics": runs_needed(power, tests=tests),
            "runs": n,
            "smallest_seen": smallest_seen(n),
            "smallest_seen_of_all_metrics": smallest_seen(n, tests=tests),
        }
    said = conclusions(frame)
    if as_json:
        print_json(
            {
                "schema": "sift-graph/correlate/1",
                "rows": records(frame),
                "conclusions": said,
                **({"held_out": records(prediction)} if prediction is not None else {}),
                **({"power": needed} if needed else {}),
                "warnings": [] if analysis is None else list(analysis.warnings),
            }
        )
    else:
        print_correlations(frame, target, statistic)
        for line in said.values():
            typer.echo(line)
        if prediction is not None:
            print_prediction(prediction)
        if needed:
            print_power(needed)
    if analysis is not None:
        finish(analysis)


def _mapping(columns: list[str]) -> dict[str, str]:
    """Read OURS=THEIRS."""
    from sift_graph.errors import UsageError

    found = {}
    for text in columns:
        ours, equals, theirs = text.partition("=")
        if not (equals and ours and theirs):
            raise UsageError(f"--map: expected OURS=THEIRS, like val_accuracy=acc, found {text!r}")
        found[ours] = theirs
    return found


def _numbers_of(network: pd.DataFrame, target: str) -> list[str]:
    """Every column of numbers of a table that could be a metric."""
    from sift_graph.strata import CONTROL

    known = {"run", "step", "epoch", "seed", "sparsity", CONTROL, target, f"final_{target}"}
    numbers = network.select_dtypes(include="number").columns
    return [str(c) for c in numbers if c not in known and not str(c).endswith("_coverage")]


def _one_null(nulls: pd.DataFrame | None) -> pd.DataFrame | None:
    """Keep the strictest of the null models that were compared."""
    if nulls is None or not len(nulls):
        return None
    kinds = set(nulls["null"])
    kind = next((k for k in ("degree", "nm", "er") if k in kinds), None)
    return nulls[nulls["null"] == kind]


def print_prediction(table: pd.DataFrame) -> None:
    """Print the held-out taus, and what they mean."""
    from sift_graph.prediction import sentence

    columns = [Column("left out", "left"), *(Column(m, "right") for m in dict.fromkeys(table["model"])), Column("runs")]
    rows = []
    for group, part in table.groupby("group", sort=False):
        cells = [
            f"{t:+.2f} [{lo:+.2f}, {hi:+.2f}]" if math.isfinite(t) else (note or "–")
            for t, lo, hi, note in zip(part["tau"], part["lo"], part["hi"], part["note"], strict=True)
        ]
        rows.append([str(group), *cells, str(int(part["n"].iloc[0]))])
    print_table(columns, rows, title=f"Kendall's τ of a prediction, each {table['left_out'].iloc[0]} left out")
    typer.echo(sentence(table))


def print_power(needed: dict[str, float]) -> None:
    """Print how many runs would be needed."""
    alone, together = needed["runs_needed"], needed["runs_needed_for_all_metrics"]
    typer.echo(
        f"A correlation of {needed['rho']:g} shows in {alone} independent runs with 80 % power at the level 0.05, in "
        f"{together} if all these metrics are tested together. These {needed['runs']} runs would show "
        f"{needed['smallest_seen']:.2f}, or {needed['smallest_seen_of_all_metrics']:.2f}."
    )


def print_correlations(frame: pd.DataFrame, target: str, statistic: str = "spearman") -> None:
    """Print one statistic of each metric in each view with its interval, and on which share of layers it is defined."""
    rho = frame[frame["statistic"] == statistic]
    views = [v for v in dict.fromkeys(rho["view"]) if not v.startswith("fixed ")]
    columns = [
        Column("metric", "left"),
        Column("defined", "right"),
        *(Column(str(view), "left", rank=i) for i, view in enumerate(views, start=1)),
        Column("note", "left", rank=9),
    ]
    rows = []
    for metric, part in rho.groupby("metric", sort=False):
        pooled = part.loc[part["view"] == "pooled", "coverage"]
        cells = [str(metric), percent(float(pooled.iloc[0])) if len(pooled) and pooled.notna().all() else "–"]
        for view in views:
            found = part[part["view"] == view]
            cells.append(estimate_cell(found.iloc[0]) if len(found) else "–")
        notes = dict.fromkeys(n for n in part.loc[part["view"].isin(views), "note"] if n)
        rows.append([*cells, "; ".join(notes)])
    n = int(rho.loc[rho["view"] == "pooled", "n"].max()) if len(rho) else 0
    sign = {"spearman": "Spearman's ρ", "kendall": "Kendall's τ", "pearson": "Pearson's r"}[statistic]
    print_table(columns, rows, title=f"{sign} with {target}, 95 % interval, {n} runs (* without 0, adjusted p < 0.05)")


def estimate_cell(row: pd.Series) -> str:
    """Format an estimate with its interval, and a star if both that and the test, adjusted, exclude 0."""
    if math.isnan(row["estimate"]):
        return "–"
    star = "*" if row["p_adjusted"] < 0.05 and row["lo"] * row["hi"] > 0 else " "
    return f"{row['estimate']:+.2f}{star}[{row['lo']:+.2f}, {row['hi']:+.2f}]"


def turned_dials(run_dir: Path, network: pd.DataFrame, target: str) -> list[Response]:
    """Find what a study turned, and what followed."""
    from sift_graph.dials import read_dials, responses
    from sift_graph.store import find_runs

    column = f"final_{target}" if f"final_{target}" in network else target
    named = {p.relative_to(run_dir).as_posix(): p for p in find_runs(run_dir) if p != run_dir}
    return responses(network, read_dials(named), column)


def predictions(network: pd.DataFrame, target: str) -> list[pd.DataFrame]:
    """Rank the runs of each family, and of each method, from the others: where there are several, and scikit-learn."""
    from sift_graph.errors import UsageError
    from sift_graph.prediction import held_out

    found = []
    sparse = network[network["family"] != "dense"] if "family" in network else network
    for column in ("family", "method"):
        if column in sparse and sparse[column].nunique() > 1:
            try:
                found.append(held_out(network, target=target, left_out=column))
            except UsageError as error:
                note(str(error))
                break
    return found


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
        correlations = correlate_frames(network, target=target, nulls=_one_null(analysis.nulls))
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
        turned=turned_dials(run_dir, network, target),
        held_out=predictions(network, target) if correlations is not None else (),
    )
    typer.echo(str(path))
    finish(analysis)
