"""Recorded runs to frames: which (step, layer) is computed, by whom, and what is kept.

A unit of work is one layer's mask, or one layer's weights, at one step. Units are sorted by cost and shared out over
worker processes of one thread each; a mask whose hash was measured before is not measured again. Each finished
(step, layer) is appended to ``analysis/<hash of settings>/rows.jsonl`` of its run at once, which is where a later call
goes on: after Ctrl-C, a crash, or more training.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import pandas as pd
import xxhash
from threadpoolctl import threadpool_limits

from sift_graph._version import __version__
from sift_graph.errors import DamagedStoreError, RunDirectoryError, SiftGraphError, UsageError
from sift_graph.graph import BipartiteGraph
from sift_graph.masks import match_layers
from sift_graph.metrics import DYNAMICS, METRICS, History, measure_layer, select
from sift_graph.spectrum import estimate_seconds
from sift_graph.store import RunReader, find_runs, write_atomically

__all__ = ["COLUMNS", "RUN_COLUMNS", "Analysis", "Failure", "analyze_runs", "network_frame", "select_steps"]

logger = logging.getLogger(__name__)

RUN_COLUMNS = ("run", "family", "method", "sparsity", "seed")
COLUMNS: tuple[str, ...] = (*RUN_COLUMNS, "step", "epoch", "layer", "depth", *METRICS, *DYNAMICS, "source", "note")
"""Columns of the layer frame, in order; fewer where fewer metrics were asked for."""

REVISION = 1  # of the definitions: raise it when a metric's value changes, and kept rows are computed again
INLINE_SECONDS = 2.0  # less work than this is not worth starting processes for

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Failure:
    """A layer, or a whole snapshot (``layer`` empty), that could not be measured, and why."""

    run: str
    step: int
    layer: str
    message: str


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
    """

    layers: pd.DataFrame
    network: pd.DataFrame
    failures: tuple[Failure, ...] = ()
    warnings: tuple[str, ...] = ()
    timing: Mapping[str, float] = field(default_factory=dict)
    directories: tuple[Path, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


def settings_hash(settings: Mapping[str, Any]) -> str:
    """Name of the directory that keeps the results of these settings: 10 hexadecimal digits."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]


def select_steps(steps: Sequence[int], wanted: str | Iterable[int] | None) -> list[int]:
    """Select recorded steps.

    Parameters
    ----------
    steps : sequence of int
        Recorded, ascending.
    wanted : str or iterable of int or None
        None or ``"all"``; ``"first"``, ``"last"``; ``"every:5"``, each fifth snapshot counted back from the last;
        ``"1000:5000"``, from and to, both included and both optional; one step; or steps.

    Returns
    -------
    list of int

    Raises
    ------
    UsageError
        If the selection cannot be read or selects nothing.

    Examples
    --------
    >>> select_steps([0, 10, 20, 30], "every:2")
    [10, 30]
    """
    if wanted is None or wanted == "all":
        return list(steps)
    text = wanted if isinstance(wanted, str) else ",".join(str(s) for s in wanted)
    try:
        if text in ("last", "first"):
            found = list(steps[-1:] if text == "last" else steps[:1])
        elif text.startswith("every:"):
            every = int(text.removeprefix("every:"))
            found = list(steps[::-1][::every])[::-1] if every > 0 else []
        elif ":" in text:
            low, high = text.split(":")
            found = [s for s in steps if (not low or s >= int(low)) and (not high or s <= int(high))]
        else:
            asked = {int(part) for part in text.split(",")}
            found = [s for s in steps if s in asked]
    except ValueError as error:
        raise UsageError(
            f"cannot read steps {text!r}; expected last, first, all, every:N, FROM:TO, or steps with commas between"
        ) from error
    if not found:
        ends = f"{steps[0]} to {steps[-1]}" if steps else "none"
        raise UsageError(f"no recorded step is in {text!r}; recorded: {ends}, {len(steps)} in all")
    return found


@dataclass(frozen=True)
class Unit:
    """Work for one process: measure one layer's mask, or its weights, at one step."""

    run: int
    run_dir: Path
    step: int
    entry: Mapping[str, Any]
    needs: str
    names: tuple[str, ...]
    key: str

    @property
    def cost(self) -> float:
        """Estimated seconds."""
        return estimate_seconds(*sides(self.entry), self.entry["nnz"])


def sides(entry: Mapping[str, Any]) -> tuple[int, int]:
    """Left and right vertices of a snapshot's layer entry."""
    shape, groups = entry["shape"], entry["groups"]
    n_right = shape[0] if entry["layout"] == "oi" else shape[-1]
    return math.prod(shape) // n_right * groups, n_right


def measure_unit(unit: Unit) -> tuple[Unit, dict[str, Any] | None, str]:
    """Measure one unit in whatever process this is; a failure is returned, not raised, so that the rest goes on."""
    try:
        with threadpool_limits(1):
            mask = RunReader(unit.run_dir).load_entry(unit.step, unit.entry, weights=unit.needs == "weight")
            graph = BipartiteGraph.from_mask(mask)
            return unit, measure_layer(graph, unit.names, needs="weight" if unit.needs == "weight" else "mask"), ""
    except SiftGraphError as error:
        return unit, None, str(error)
    except Exception as error:  # a bug in one layer must not lose ten thousand others
        logger.exception("%s, step %s, layer %r", unit.run_dir, unit.step, unit.entry["name"])
        return unit, None, f"unexpected {type(error).__name__}: {error}"


def mask_key(entry: Mapping[str, Any]) -> str:
    """Name what the mask metrics of a layer depend on."""
    return f"{entry['xxh3']}/{'x'.join(map(str, entry['shape']))}/{entry['groups']}/{entry['layout']}"


class Plan:
    """One run's part of an analysis: what is kept, what is missing, and the rows as they come in."""

    def __init__(self, index: int, run_dir: Path, name: str, settings: Mapping[str, Any], *, force: bool) -> None:
        self.index, self.name, self.names = index, name, list(settings["metrics"])
        self.reader = RunReader(run_dir)
        if not self.reader.steps:
            raise RunDirectoryError(f"{run_dir}: the run has no snapshot yet; train it, or record one")
        self.directory = run_dir / "analysis" / settings_hash(settings)
        self.failures: list[Failure] = []
        self.warnings: list[str] = []
        self.rows: dict[tuple[int, str], dict[str, Any]] = {}
        self.kept: dict[tuple[int, str], dict[str, Any]] = {}
        self.by_mask: dict[str, dict[str, Any]] = {}
        self.waiting: dict[tuple[int, str], dict[str, Any]] = {}
        self.parts: dict[tuple[int, str], dict[str, dict[str, Any]]] = {}
        self.of_mask: dict[str, list[tuple[int, str]]] = {}
        self.computed = 0
        self._log: TextIO | None = None
        self._force = force
        if not force:
            self._read_kept()

    def _read_kept(self) -> None:
        path = self.directory / "rows.jsonl"
        if not path.exists():
            return
        with path.open() as file:
            for line in file:
                try:
                    row = json.loads(line)
                    values = {
                        k: math.nan if v is None and METRICS_NAN.get(k, False) else v for k, v in row["values"].items()
                    }
                    row["values"] = values
                    self.kept[row["step"], row["layer"]] = row
                    self.by_mask.setdefault(row["mask"], {k: values[k] for k in (*mask_names(self.names), "mask_note")})
                except (ValueError, KeyError, TypeError):
                    continue  # a line that a crash cut short, or of an older layout: computed again

    def units(self, steps: str | Iterable[int] | None, layers: str | None) -> Iterator[Unit]:
        """Walk the history once: mask dynamics on the way, and the units that are still to be measured."""
        wanted = set(select_steps(self.reader.steps, steps))
        histories: dict[str, History] = {}
        chains: dict[str, str] = {}
        pending: list[tuple[int, dict[str, Any], str]] = []
        selected: set[str] | None = None
        for step in self.reader.steps:
            try:
                header = self.reader.snapshot_header(step)
            except DamagedStoreError as error:
                self.failures.append(Failure(self.name, step, "", str(error)))
                continue
            entries = header["layers"]
            if layers is not None:
                names = [entry["name"] for entry in entries]
                matched = set(match_layers(names, layers)) if names else set()
                selected = matched if selected is None else selected | matched
            for depth, entry in enumerate(entries):
                name = entry["name"]
                if selected is not None and name not in selected:
                    continue
                chains[name] = xxhash.xxh3_64_hexdigest(f"{chains.get(name, '')}|{entry['xxh3']}")
                key = f"{mask_key(entry)}/{entry.get('weight_xxh3')}/{chains[name]}"
                pending.append((step, {**entry, "depth": depth, "epoch": header["epoch"]}, key))
        fresh = {
            entry["name"]
            for step, entry, key in pending
            if step in wanted and self.kept.get((step, entry["name"]), {}).get("key") != key
        }
        asked_masks: set[str] = set()
        for step, entry, key in pending:
            name = entry["name"]
            at = (step, name)
            if name not in fresh:
                if step in wanted:
                    self.rows[at] = self._row(step, entry, self.kept[at]["values"])
                continue
            try:
                dynamics = histories.setdefault(name, History()).update(
                    self.reader.load_entry(step, entry, weights=False)
                )
            except DamagedStoreError as error:
                self.failures.append(Failure(self.name, step, name, str(error)))
                continue
            if step not in wanted:
                continue
            if self.kept.get(at, {}).get("key") == key:
                self.rows[at] = self._row(step, entry, self.kept[at]["values"])
                continue
            self.waiting[at] = {"entry": entry, "key": key, "mask": mask_key(entry), "dynamics": dynamics}
            self.parts[at] = {}
            self.of_mask.setdefault(mask_key(entry), []).append(at)
            weight_names = tuple(n for n in self.names if METRICS[n].needs == "weight")
            if weight_names:
                yield Unit(self.index, self.reader.run_dir, step, entry, "weight", weight_names, key)
            else:
                self.parts[at]["weight"] = {"note": ""}
            if mask_key(entry) not in asked_masks and mask_key(entry) not in self.by_mask:
                asked_masks.add(mask_key(entry))
                names_of_mask = tuple(n for n in self.names if METRICS[n].needs == "mask")
                yield Unit(self.index, self.reader.run_dir, step, entry, "mask", names_of_mask, mask_key(entry))

    def settle(self) -> None:
        """Finish the rows whose mask was measured in an earlier call."""
        for at in list(self.waiting):
            self._finish(at)

    def take(self, unit: Unit, values: dict[str, Any] | None, message: str) -> None:
        """Take what a worker found for one unit, and finish the rows that only waited for it."""
        name = str(unit.entry["name"])
        if values is None:
            lost = [(unit.step, name)] if unit.needs == "weight" else self.of_mask.pop(unit.key, [])
            for at in lost:
                if self.waiting.pop(at, None) is not None:
                    self.failures.append(Failure(self.name, *at, message))
            return
        if unit.needs == "weight":
            self.parts[unit.step, name]["weight"] = values
            self._finish((unit.step, name))
        else:
            self.by_mask[unit.key] = {**values, "mask_note": values["note"]}
            for at in self.of_mask.pop(unit.key, []):
                self._finish(at)

    def _finish(self, at: tuple[int, str]) -> None:
        waiting = self.waiting.get(at)
        if waiting is None or "weight" not in self.parts[at] or waiting["mask"] not in self.by_mask:
            return
        mask, weight = self.by_mask[waiting["mask"]], self.parts[at]["weight"]
        notes = dict.fromkeys(n for part in (mask["mask_note"], weight["note"]) for n in part.split(",") if n)
        values = {
            **mask,
            **{k: v for k, v in weight.items() if k != "note"},
            **waiting["dynamics"],
            "note": ",".join(notes),
        }
        self.rows[at] = self._row(at[0], waiting["entry"], values)
        self._keep({"step": at[0], "layer": at[1], "key": waiting["key"], "mask": waiting["mask"], "values": values})
        self.computed += 1
        del self.waiting[at]

    def _row(self, step: int, entry: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
        about = self.reader.about
        row: dict[str, Any] = {"run": self.name, **{name: about.get(name) for name in RUN_COLUMNS[1:]}}
        row |= {"step": step, "epoch": entry["epoch"], "layer": entry["name"], "depth": entry["depth"]}
        row |= {name: values[name] for name in (*self.names, *DYNAMICS)}
        return row | {"source": entry["source"], "note": values["note"]}

    def _keep(self, row: dict[str, Any]) -> None:
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row["values"].items()}
        if self._log is None:
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
                self._log = (self.directory / "rows.jsonl").open("w" if self._force else "a")
            except OSError as error:
                self.warnings.append(f"{self.directory}: cannot be written ({error.strerror}); results are not kept")
                self._log = Path(os.devnull).open("w")
        self._log.write(json.dumps({**row, "values": clean}, allow_nan=False) + "\n")
        self._log.flush()

    def close(self) -> None:
        """Close the log of finished rows."""
        if self._log is not None:
            self._log.close()


METRICS_NAN = {name: isinstance(m.missing, float) for name, m in METRICS.items()} | dict.fromkeys(DYNAMICS, True)


def mask_names(names: Iterable[str]) -> list[str]:
    """Metrics among `names` that need no more than the mask."""
    return [name for name in names if METRICS[name].needs == "mask"]


def run_units(units: Sequence[Unit], *, jobs: int) -> Iterator[tuple[Unit, dict[str, Any] | None, str]]:
    """Measure units, the costly ones first, in this process or in `jobs` others; results come as they are ready."""
    ordered = sorted(units, key=lambda unit: -unit.cost)
    if jobs == 1 or len(ordered) < 2 or sum(unit.cost for unit in ordered) < INLINE_SECONDS:
        yield from map(measure_unit, ordered)
        return
    from joblib import Parallel, delayed, parallel_config

    with parallel_config(backend="loky", inner_max_num_threads=1):
        results = Parallel(n_jobs=jobs, return_as="generator_unordered")(delayed(measure_unit)(u) for u in ordered)
        yield from results


def analyze_runs(
    path: str | os.PathLike[str],
    *,
    layers: str | None = None,
    steps: str | Iterable[int] | None = None,
    metrics: str | Iterable[str] | None = None,
    jobs: int = 1,
    force: bool = False,
    progress: Progress | None = None,
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
        Names from ``METRICS``; all by default.
    jobs : int
        Worker processes, of one thread each.
    force : bool
        Compute again what was kept.
    progress : callable, optional
        Called with the units done and the units in all.

    Returns
    -------
    Analysis
        Failed layers are listed, not raised.

    Raises
    ------
    RunDirectoryError
        If there is no run, or no run has a snapshot.
    UsageError
        For an unknown metric, a glob without a match, or steps that select nothing.
    """
    started = time.perf_counter()
    root = Path(path)
    if jobs < 1:
        raise UsageError(f"expected 1 or more jobs, found {jobs}")
    settings = {"metrics": select(metrics), "revision": REVISION, "encoding": "kernel", "certify": "gap"}
    runs = find_runs(root)
    plans: list[Plan] = []
    failures: list[Failure] = []
    warnings: list[str] = []
    unfit: list[UsageError] = []
    for run_dir in runs:
        name = run_dir.name if run_dir == root else run_dir.relative_to(root).as_posix()
        try:
            plans.append(Plan(len(plans), run_dir, name or run_dir.resolve().name, settings, force=force))
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
        for plan in plans:
            try:
                units += plan.units(steps, layers)
            except UsageError as error:  # a glob or a step may fit one run and not another
                unfit.append(error)
                warnings.append(f"{plan.name}: left out: {error}")
        if len(unfit) == len(plans):
            raise unfit[0]
        for plan in plans:
            plan.settle()
        for done, (unit, values, message) in enumerate(run_units(units, jobs=jobs), start=1):
            plans[unit.run].take(unit, values, message)
            if progress is not None:
                progress(done, len(units))
    finally:
        for plan in plans:
            plan.close()
    rows = [
        plan.rows[at] for plan in plans for at in sorted(plan.rows, key=lambda a, p=plan: (a[0], p.rows[a]["depth"]))
    ]
    frame = layer_frame(rows, settings["metrics"])
    computed = sum(plan.computed for plan in plans)
    failures += [failure for plan in plans for failure in plan.failures]
    return Analysis(
        layers=frame,
        network=network_frame(frame, {p.name: p.reader for p in plans}, failures),
        failures=tuple(failures),
        warnings=tuple(warnings + [w for p in plans for w in p.warnings]),
        timing={"seconds": time.perf_counter() - started, "computed": computed, "reused": len(rows) - computed},
        directories=tuple(plan.directory for plan in plans),
        settings={**settings, "version": __version__, "hash": settings_hash(settings)},
    )


def layer_frame(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> pd.DataFrame:
    """Rows to a frame with the columns of the schema in their order; layers as an ordered category."""
    columns = [c for c in COLUMNS if c not in METRICS or c in names]
    frame = pd.DataFrame(rows, columns=columns)
    order: dict[str, int] = {}
    for row in rows:
        order.setdefault(row["layer"], row["depth"])
    frame["layer"] = pd.Categorical(frame["layer"], sorted(order, key=lambda n: order[n]), ordered=True)
    for column in frame.columns:
        if METRICS_NAN.get(column) or column in ("sparsity", "epoch"):
            frame[column] = pd.to_numeric(frame[column])
    return frame


def network_frame(
    layers: pd.DataFrame, readers: Mapping[str, RunReader], failures: Sequence[Failure] = ()
) -> pd.DataFrame:
    """Whole-network values: one row per (run, step).

    Parameters
    ----------
    layers : DataFrame
        The layer frame.
    readers : mapping of str to RunReader
        By run name; their metrics are joined.
    failures : sequence of Failure

    Returns
    -------
    DataFrame
        ``n_layers``, ``n_failed``; ``density`` (edges over entries of all its layers), ``mean_density`` (mean over
        layers); the mean of each metric over the layers where it is defined, and beside it the share of layers where
        it is, ``<metric>_coverage``; ``ramanujan_share`` of the layers with a proven verdict; the training metrics
        recorded last at or before the step, and ``final_<name>``, the last of the whole run.
    """
    averaged = [
        c for c in (*METRICS, *DYNAMICS) if c in layers and METRICS_NAN.get(c) and c not in ("density", "edges")
    ]
    averaged = [c for c in averaged if not c.startswith("n_") or c == "n_subgraphs"]
    keys = [*RUN_COLUMNS, "step", "epoch"]
    groups = layers.groupby(["run", "step"], sort=False)
    histories = {run: training_history(reader) for run, reader in readers.items()}
    rows = []
    for (run, step), part in groups:
        row: dict[str, Any] = {key: part[key].iloc[0] for key in keys}
        row["n_layers"] = len(part)
        row["n_failed"] = sum(f.run == run and f.step == step for f in failures)
        entries = (part["edges"] / part["density"]).where(part["density"] > 0, part["n_left"] * part["n_right"])
        row["density"] = part["edges"].sum() / entries.sum()
        row["mean_density"] = part["density"].mean()
        for name in averaged:
            row[name] = part[name].mean()
            row[f"{name}_coverage"] = part[name].notna().mean()
        if "is_ramanujan" in part:
            decided = part["is_ramanujan"].isin(["yes", "no"])
            row["ramanujan_share"] = (
                (part["is_ramanujan"] == "yes").sum() / decided.sum() if decided.any() else math.nan
            )
        row |= training_columns(histories[str(run)], int(step))
        rows.append(row)
    return pd.DataFrame(rows)


def training_history(reader: RunReader) -> dict[str, list[tuple[float, float]]]:
    """Read what was logged during training: for each name its (step, value) pairs, in the order of writing."""
    history: dict[str, list[tuple[float, float]]] = {}
    for row in reader.metrics():
        step = row.pop("step", None)
        row.pop("epoch", None)
        if isinstance(step, int | float):
            for name, value in row.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    history.setdefault(name, []).append((step, value))
    return history


def training_columns(history: Mapping[str, Sequence[tuple[float, float]]], step: int) -> dict[str, float]:
    """Training metrics as of `step`, and the last of the run."""
    columns: dict[str, float] = {}
    for name, seen in history.items():
        before = [value for at, value in seen if at <= step]
        columns[name] = before[-1] if before else math.nan
        columns[f"final_{name}"] = seen[-1][1]
    return columns


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
        ``layers.csv``, ``layers.parquet``, ``network.csv`` and ``summary.json``.
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
    return paths
