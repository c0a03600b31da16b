"""Recorded runs to frames: a row per (run, step, layer), and a row per (run, step) for the whole network."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from sift_graph._version import __version__
from sift_graph.encodings import Request
from sift_graph.encodings.sizes import find_geometries, parse_sizes
from sift_graph.errors import DamagedStoreError, RunDirectoryError, UsageError
from sift_graph.metrics import CORE, CORE_DYNAMICS, DYNAMICS, METRICS, NETWORK_METRICS, find_metric, select
from sift_graph.network_means import Average, network_frame
from sift_graph.network_table import measure_all_networks, pairs_frame, with_networks
from sift_graph.null_table import (
    NullPlan,
    NullUnit,
    check_null_encoding,
    kept_rows,
    null_frame,
    run_null_units,
)
from sift_graph.nulls import ROUNDS, read_pattern, select_compared
from sift_graph.nulls import Request as NullRequest
from sift_graph.store import find_runs, write_atomically
from sift_graph.work import RUN_COLUMNS, Failure, Plan, Unit, is_number, run_units, select_steps, settings_hash

__all__ = ["COLUMNS", "Analysis", "analyze_runs", "network_frame", "velocities", "write_tables"]

KEYS = (*RUN_COLUMNS, "step", "epoch", "layer", "depth", "encoding")
COLUMNS: tuple[str, ...] = (*KEYS, *CORE, *CORE_DYNAMICS, "source", "note")
"""Columns of the layer frame, in order, where nothing is asked for; others come after those of their registry."""

REVISION = 1  # of the definitions: raise it when a metric's value changes, and kept rows are computed again

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Analysis:
    """What an analysis found.

    Attributes
    ----------
    layers : DataFrame
        One row per (run, step, layer), :data:`COLUMNS`.
    network : DataFrame
        One row per (run, step), see :func:`network_frame`.
    failures : tuple of Failure
    warnings : tuple of str
    timing : dict
        ``seconds``, ``computed`` and ``reused`` (rows).
    directories : tuple of Path
        ``analysis/<hash>`` of each run.
    settings : dict
        What the hash is of.
    nulls : DataFrame
        One row per (run, step, layer, null, metric), :data:`sift_graph.null_table.NULL_COLUMNS`: what was asked for,
        then what earlier calls have found for the same masks.
    pairs : DataFrame
        One row per (run, step, layer, reader) where cross-layer metrics were asked for, else empty.
    """

    layers: pd.DataFrame
    network: pd.DataFrame
    failures: tuple[Failure, ...] = ()
    warnings: tuple[str, ...] = ()
    timing: Mapping[str, float] = field(default_factory=dict)
    directories: tuple[Path, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    nulls: pd.DataFrame = field(default_factory=lambda: null_frame([]))
    pairs: pd.DataFrame = field(default_factory=pd.DataFrame)


def analyze_runs(
    path: str | os.PathLike[str],
    *,
    layers: str | None = None,
    steps: str | Iterable[int] | None = None,
    metrics: str | Iterable[str] | None = None,
    average: Average = "sparse",
    jobs: int = 1,
    scheduler: str | None = None,
    force: bool = False,
    encoding: str = "kernel",
    heads: int | None = None,
    input_size: str | Iterable[str] | None = None,
    progress: Progress | None = None,
    null: str | None = None,
    n_null: int = 100,
    null_metrics: str | Iterable[str] | None = None,
    null_steps: str | Iterable[int] | None = "last",
    null_seed: int = 0,
    null_rounds: int = ROUNDS,
    null_pattern: str | None = None,
) -> Analysis:
    """Measure the recorded masks of a run, or of every run below a directory.

    Parameters
    ----------
    path : path
        A run directory, or a directory of runs.
    layers : str, optional
        Glob of layer names, several with commas between.
    steps : str or iterable of int, optional
        As :func:`select_steps`; all by default. Mask dynamics are those of the whole recorded history in any case.
    metrics : str or iterable of str, optional
        ``"core"`` (the default), ``"all"``, or names and groups as :func:`sift_graph.metrics.select` takes them.
    average : {"sparse", "all"}
        Which layers a network's means are over, see :func:`network_frame`.
    jobs : int
        Worker processes, of one thread each.
    scheduler : str, optional
        Address of a running Dask cluster that does the work instead; see :func:`sift_graph.work.run_units`.
    force : bool
        Compute again what was kept.
    encoding : str
        How masks become graphs: a name in :data:`sift_graph.encodings.ENCODINGS`. A layer that it does not fit is
        listed among the failures. Mask dynamics are those of the encoded mask.
    heads : int, optional
        Attention heads, for the encodings of attention.
    input_size : str or iterable of str, optional
        Sizes of the inputs of convolutions, for the unrolled encodings: ``"32x32"`` for all, or
        ``"stage3.*=8x8"`` for those that match, with stride 1 and a padding that keeps the size; the last that
        matches counts. Goes before what the run recorded.
    progress : callable, optional
        Called with the units done and the units in all.
    null : {"er", "degree", "nm"}, optional
        Compare each mask with random ones of this model too; see :mod:`sift_graph.nulls`.
    n_null : int
        Random masks to draw of each.
    null_metrics : str or iterable of str, optional
        What is compared; the leading singular values and the Ramanujan gap by default.
    null_steps : str or iterable of int
        Which of these snapshots are compared, as `steps`; the last by default.
    null_seed : int
    null_rounds : int
        Of trades on each side, for ``degree``: more where a comparison is noted ``not_mixed``.
    null_pattern : str, optional
        ``"2:4"``, for ``nm``; found in each mask by default.

    Returns
    -------
    Analysis
        Failed layers are listed, not raised.

    Raises
    ------
    RunDirectoryError
        If there is no run, or no run has a snapshot.
    UsageError
        For an unknown metric or encoding, a glob without a match, or steps that select nothing.
    """
    started = time.perf_counter()
    root = Path(path)
    if jobs < 1:
        raise UsageError(f"expected 1 or more jobs, found {jobs}")
    names = select(metrics)
    asked = Request(encoding, heads)
    sizes = parse_sizes(input_size)
    if average not in ("sparse", "all"):
        raise UsageError(f"expected means over 'sparse' or 'all' layers, found {average!r}")
    told = None if null_pattern is None else read_pattern(null_pattern)
    request = (
        None if null is None else NullRequest(null, select_compared(null_metrics), n_null, null_seed, null_rounds, told)
    )
    if request is not None:
        check_null_encoding(encoding)
    settings: dict[str, Any] = {"metrics": names, "revision": REVISION, "encoding": encoding, "certify": "gap"}
    settings |= {"heads": heads} if heads is not None else {}
    settings |= {"input_size": [list(size) for size in sizes]} if sizes else {}
    if added := definitions(names):
        settings["added"] = added
    runs = find_runs(root)
    plans: list[Plan] = []
    failures: list[Failure] = []
    warnings: list[str] = []
    unfit: list[UsageError] = []
    for run_dir in runs:
        name = run_dir.name if run_dir == root else run_dir.relative_to(root).as_posix()
        try:
            plan = Plan(len(plans), run_dir, name or run_dir.resolve().name, settings, force=force)
            if encoding.startswith("unrolled"):
                plan.request = replace(asked, geometries=find_geometries(plan.reader, sizes))
            else:
                plan.request = asked
            plans.append(plan)
        except RunDirectoryError as error:
            if len(runs) == 1:
                raise
            if isinstance(error, DamagedStoreError):
                failures.append(Failure(name, -1, "", str(error)))
            else:
                warnings.append(str(error))
    if not plans:
        raise RunDirectoryError(f"{root}: none of its {len(runs)} runs has a snapshot yet")
    try:
        units: list[Unit] = []
        fitting: list[Plan] = []
        for plan in plans:
            try:
                units += plan.units(steps, layers)
                fitting.append(plan)
            except UsageError as error:  # a glob or a step may fit one run and not another
                unfit.append(error)
                warnings.append(f"{plan.name}: left out: {error}")
        if len(unfit) == len(plans):
            raise unfit[0]
        compared: dict[int, NullPlan] = {}
        null_units: list[NullUnit] = []
        if request is not None:
            for plan in fitting:
                one = NullPlan(plan.index, plan.reader, plan.name, request, plan.request, force=force)
                null_units += one.units(select_steps(select_steps(plan.reader.steps, steps), null_steps), layers)
                compared[plan.index] = one
        total = len(units) + len(null_units)
        for plan in plans:
            plan.settle()
        for done, (unit, values, message) in enumerate(run_units(units, jobs=jobs, scheduler=scheduler), start=1):
            plans[unit.run].take(unit, values, message)
            if progress is not None:
                progress(done, total)
        taken = run_null_units(null_units, jobs=jobs, scheduler=scheduler)
        for done, (null_unit, drawn) in enumerate(taken, len(units) + 1):
            compared[null_unit.run].take(null_unit, drawn)
            if progress is not None:
                progress(done, total)
    finally:
        for plan in plans:
            plan.close()
    of_network = [name for name in names if name in NETWORK_METRICS]
    found = measure_all_networks(plans, of_network, steps, jobs=jobs, scheduler=scheduler, force=force)
    rows = [row for plan in plans for row in plan.sorted_rows()]
    frame = layer_frame(rows, names)
    fresh = [row for one in compared.values() for row in one.rows()]
    nulls = null_frame(
        fresh + [row for plan in fitting for row in kept_rows(plan.reader, plan.name, layers, plan.request)]
    )
    computed = sum(plan.computed for plan in plans)
    failures += [failure for one in compared.values() for failure in one.failures]
    failures += [failure for plan in plans for failure in plan.failures]
    return Analysis(
        layers=frame,
        network=with_networks(
            network_frame(frame, {p.name: p.reader for p in plans}, failures, average=average), found, of_network
        ),
        pairs=pairs_frame(found),
        failures=tuple(failures),
        warnings=tuple(
            warnings + [w for p in plans for w in p.warnings] + [w for one in compared.values() for w in one.warnings]
        ),
        timing={"seconds": time.perf_counter() - started, "computed": computed, "reused": len(rows) - computed},
        directories=tuple(plan.directory for plan in plans),
        settings={**settings, "version": __version__, "hash": settings_hash(settings)},
        nulls=nulls,
    )


def layer_frame(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> pd.DataFrame:
    """Rows to a frame with the columns of the schema in their order; layers as an ordered category."""
    of_layer, of_change = ([n for n in names if n in registry] for registry in (METRICS, DYNAMICS))
    columns = [*KEYS, *of_layer, *CORE_DYNAMICS, *of_change, "source", "note"]
    frame = pd.DataFrame(rows, columns=columns)
    order: dict[str, int] = {}
    for row in rows:
        order.setdefault(row["layer"], row["depth"])
    frame["layer"] = pd.Categorical(frame["layer"], sorted(order, key=lambda n: order[n]), ordered=True)
    for column in frame.columns:
        if is_number(column) or column in ("sparsity", "epoch"):
            frame[column] = pd.to_numeric(frame[column])
    return frame


def definitions(names: Sequence[str]) -> dict[str, str]:
    """Name the definitions of metrics that are not this package's, so that a changed one is computed again."""
    found = {}
    for name in names:
        metric = find_metric(name)
        if metric is not None and metric.origin != "sift_graph":
            code = getattr(metric.compute, "__code__", None)
            body = repr((code.co_code, code.co_consts, code.co_names)) if code is not None else repr(metric.compute)
            found[name] = settings_hash({"origin": metric.origin, "body": re.sub(r"0x[0-9a-f]+", "", body)})
    return found


def velocities(layers: pd.DataFrame, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """How much each metric moved since the previous recorded step of its layer.

    Parameters
    ----------
    layers : DataFrame
        The layer frame.
    columns : sequence of str, optional
        Metrics; all columns of numbers by default.

    Returns
    -------
    DataFrame
        ``run``, ``step``, ``layer``, and the absolute change of each metric; NaN at the first step of a layer and where
        either value is undefined.

    Examples
    --------
    >>> frame = pd.DataFrame({"run": "a", "step": [0, 10], "layer": "fc", "sigma_2": [3.0, 2.5]})
    >>> velocities(frame, ["sigma_2"])["sigma_2"].tolist()
    [nan, 0.5]
    """
    wanted = [c for c in layers if is_number(str(c))] if columns is None else list(columns)
    ordered = layers.sort_values(["run", "step"], kind="stable")
    moved = ordered.groupby(["run", "layer"], observed=True, sort=False)[wanted].diff().abs()
    return ordered[["run", "step", "layer"]].join(moved).loc[layers.index]


def write_tables(analysis: Analysis, directory: Path) -> list[Path]:
    """Write the frames of an analysis.

    Parameters
    ----------
    analysis : Analysis
    directory : Path
        Made if need be.

    Returns
    -------
    list of Path
        ``layers.csv``, ``layers.parquet``, ``network.csv`` and ``summary.json``; ``nulls.csv`` and ``nulls.parquet``
        where there are comparisons; ``pairs.csv`` where cross-layer metrics were asked for.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / name for name in ("layers.csv", "layers.parquet", "network.csv", "summary.json")]
    write_atomically(paths[0], analysis.layers.to_csv(index=False).encode(), sync=False)
    write_atomically(paths[1], analysis.layers.to_parquet(index=False), sync=False)
    write_atomically(paths[2], analysis.network.to_csv(index=False).encode(), sync=False)
    summary = {
        "schema": "sift-graph/summary/1",
        "settings": dict(analysis.settings),
        "runs": sorted(set(analysis.layers["run"])),
        "rows": len(analysis.layers),
        "failures": [vars(f) for f in analysis.failures],
        "warnings": list(analysis.warnings),
        "timing": dict(analysis.timing),
    }
    write_atomically(paths[3], (json.dumps(summary, indent=1) + "\n").encode(), sync=False)
    if len(analysis.nulls):
        paths += [directory / "nulls.csv", directory / "nulls.parquet"]
        write_atomically(paths[4], analysis.nulls.to_csv(index=False).encode(), sync=False)
        write_atomically(paths[5], analysis.nulls.to_parquet(index=False), sync=False)
    if len(analysis.pairs):
        paths.append(directory / "pairs.csv")
        write_atomically(paths[-1], analysis.pairs.to_csv(index=False).encode(), sync=False)
    return paths
