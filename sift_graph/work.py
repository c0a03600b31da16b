"""The work of an analysis: which (step, layer) is computed, by whom, and what is kept.

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import xxhash

from sift_graph.encodings import Encoded, Request, Target, encode, find_targets
from sift_graph.errors import DamagedStoreError, RunDirectoryError, SiftGraphError, UsageError
from sift_graph.masks import match_layers
from sift_graph.metrics import (
    CORE_DYNAMICS,
    DYNAMICS,
    METRICS,
    History,
    Metric,
    estimate_cost,
    find_metric,
    measure_encoded,
)
from sift_graph.parallel import one_thread, unordered
from sift_graph.store import RunReader, check_file, check_folder, read_rows

__all__ = [
    "RUN_COLUMNS",
    "Failure",
    "Plan",
    "Unit",
    "is_number",
    "measure_unit",
    "run_units",
    "select_steps",
    "settings_hash",
]

logger = logging.getLogger(__name__)

RUN_COLUMNS = ("run", "family", "method", "sparsity", "seed")
INLINE_SECONDS = 2.0  # less work than this is not worth starting processes for


def is_number(column: str) -> bool:
    """Whether a metric's undefined value is NaN, and not None as in a column of words."""
    metric = find_metric(column)
    return metric is not None and isinstance(metric.missing, float)


def run_value(name: str, value: Any) -> Any:
    """Read what a run says of itself, for a column: one word or number; None for a sparsity that is no number."""
    if name == "sparsity":
        return value if isinstance(value, int | float) else None
    return value if value is None or isinstance(value, str | int | float) else str(value)[:80]


def kept_values(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Read the values of a row that was kept; NaN stands for what was undefined.

    Returns
    -------
    dict
        By column.

    Raises
    ------
    KeyError
        If one is missing.
    ValueError
        If one is none that was written here.
    """
    found = {}
    for name in names:
        value = values[name]
        if is_number(name):
            value = math.nan if value is None else value
            if not isinstance(value, int | float):
                raise ValueError(f"{name}: expected a number, found {type(value).__name__}")
        elif not isinstance(value, str if name in ("note", "mask_note") else str | int | float | None):
            raise ValueError(f"{name}: expected a word, found {type(value).__name__}")
        found[name] = value
    return found


@dataclass(frozen=True)
class Failure:
    """A layer, or a whole snapshot (``layer`` empty), that could not be measured, and why."""

    run: str
    step: int
    layer: str
    message: str

    def __str__(self) -> str:
        """Say where, then what."""
        where = [self.run] if self.run else []
        if self.step >= 0:
            where.append(f"step {self.step}")
        if self.layer:
            where.append(f"layer {self.layer!r}")
        return f"{', '.join(where)}: {self.message}"


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
    added: tuple[Metric, ...] = ()  # metrics of other packages and of notebooks, which a worker may not know

    @property
    def cost(self) -> float:
        """Estimated seconds."""
        metrics = [metric for name in self.names if (metric := METRICS.get(name)) is not None]
        return estimate_cost(metrics, *sides(self.entry), self.entry["nnz"])


def sides(entry: Mapping[str, Any]) -> tuple[int, int]:
    """Left and right vertices of a layer entry's weight."""
    shape, groups = entry["shape"], entry["groups"]
    n_right = shape[0] if entry["layout"] == "oi" else shape[-1]
    return math.prod(shape) // n_right * groups, n_right


def measure_unit(unit: Unit) -> tuple[Unit, dict[str, Any] | None, str]:
    """Measure one unit in whatever process this is; a failure is returned, not raised, so that the rest goes on."""
    try:
        for metric in unit.added:
            METRICS.setdefault(metric.name, metric)
        with one_thread():
            encoded = load_target(RunReader(unit.run_dir), unit.step, unit.entry, weights=unit.needs == "weight")
            return unit, measure_encoded(encoded, unit.names, needs="weight" if unit.needs == "weight" else "mask"), ""
    except SiftGraphError as error:
        return unit, None, str(error)
    except Exception as error:  # a bug in one layer must not lose ten thousand others
        logger.exception("%s, step %s, layer %r", unit.run_dir, unit.step, unit.entry["name"])
        return unit, None, f"unexpected {type(error).__name__}: {error}"


def load_target(reader: RunReader, step: int, entry: Mapping[str, Any], *, weights: bool) -> Encoded:
    """Load the masks of a row, and make its graph."""
    masks = [reader.load_entry(step, member, weights=weights) for member in entry["members"]]
    return encode(entry["target"], masks)


def row_entries(entries: Sequence[Mapping[str, Any]], request: Request) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Turn a snapshot's layer entries into those of the rows of an encoding; and why some layers have no row.

    Parameters
    ----------
    entries : sequence of mapping
    request : Request

    Returns
    -------
    rows : list of dict
        An entry for each row, in network order: with ``target`` and ``members`` (the layers' own entries).
    unfit : dict of str to str
        Layers that the encoding does not fit.
    """
    targets, unfit = find_targets(entries, request)
    by_name = {entry["name"]: entry for entry in entries}
    rows = [row_entry(target, [by_name[name] for name in target.members]) for target in targets]
    return rows, {name: str(error) for name, error in unfit}


def row_entry(target: Target, members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Entry of a row: that of its first layer, with the hashes of all."""
    entry = {**members[0], "name": target.layer, "target": target, "members": tuple(members)}
    entry["nnz"] = sum(member["nnz"] for member in members)
    if len(members) > 1:
        for key in ("xxh3", "weight_xxh3"):
            hashes = [member.get(key) for member in members]
            entry[key] = None if None in hashes else "+".join(map(str, hashes))
    return entry


def mask_key(entry: Mapping[str, Any]) -> str:
    """Name what the mask metrics depend on, of a row or, without ``target``, of a layer as it was recorded."""
    key = f"{entry['xxh3']}/{'x'.join(map(str, entry['shape']))}/{entry['groups']}/{entry['layout']}"
    target: Target | None = entry.get("target")
    if target is None:
        return key
    geometry = target.request.geometries.get(target.layer)
    return key + (f"/{target.part}" if target.part else "") + (f"/{geometry}" if geometry else "")


class Plan:
    """One run's part of an analysis: what is kept, what is missing, and the rows as they come in."""

    def __init__(
        self,
        index: int,
        run_dir: Path,
        name: str,
        settings: Mapping[str, Any],
        *,
        force: bool,
        request: Request = Request(),  # noqa: B008  frozen
    ) -> None:
        self.index, self.name = index, name
        self.names = [n for n in settings["metrics"] if n in METRICS]
        self.dynamics = (*CORE_DYNAMICS, *(n for n in settings["metrics"] if n in DYNAMICS))
        self.with_signs = any(DYNAMICS[n].needs == "weight" for n in self.dynamics)
        self.request = request
        self.unfit: dict[str, str] = {}
        self.reader = RunReader(run_dir)
        if not self.reader.steps:
            raise RunDirectoryError(f"{run_dir}: the run has no snapshot yet; train it, or record one")
        self.directory = run_dir / "analysis" / settings_hash(settings)
        for folder in (self.directory.parent, self.directory):
            check_folder(run_dir, folder)
        for name in ("rows.jsonl", "network.jsonl", "../nulls.jsonl"):
            check_file(run_dir, self.directory / name)
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
        for _, row in read_rows(self.directory / "rows.jsonl"):
            try:
                if row is None or not isinstance(row["key"], str):
                    continue
                values = kept_values(row["values"], (*self.names, *self.dynamics, "mask_note", "note"))
                self.by_mask.setdefault(row["mask"], {k: values[k] for k in (*mask_names(self.names), "mask_note")})
                self.kept[row["step"], row["layer"]] = {**row, "values": values}
            except (KeyError, TypeError, ValueError):
                continue  # of an older layout, or not ours: computed again

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
            entries = [{**entry, "depth": depth} for depth, entry in enumerate(header["layers"])]
            if layers is not None:
                names = [entry["name"] for entry in entries]
                matched = set(match_layers(names, layers)) if names else set()
                selected = matched if selected is None else selected | matched
                entries = [entry for entry in entries if entry["name"] in selected]
            rows, unfit = row_entries(entries, self.request)
            for name, message in unfit.items():
                if step in wanted and name not in self.unfit:
                    self.unfit[name] = message
                    self.failures.append(Failure(self.name, step, name, message.removeprefix(f"layer {name!r}: ")))
            for entry in rows:
                name = entry["name"]
                link = f"{chains.get(name, '')}|{entry['xxh3']}"
                if self.with_signs:
                    link += f"|{entry.get('weight_xxh3')}"
                chains[name] = xxhash.xxh3_64_hexdigest(link.encode())
                key = f"{mask_key(entry)}/{entry.get('weight_xxh3')}/{chains[name]}"
                pending.append((step, {**entry, "epoch": header["epoch"]}, key))
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
                dynamics = histories.setdefault(name, History(self.dynamics)).noted_update(
                    load_target(self.reader, step, entry, weights=self.with_signs).mask
                )
            except (DamagedStoreError, UsageError) as error:
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
            weight_names = tuple(n for n in self.names if METRICS[n].needs != "mask")
            if weight_names:
                yield self._unit(step, entry, "weight", weight_names, key)
            else:
                self.parts[at]["weight"] = {"note": ""}
            if mask_key(entry) not in asked_masks and mask_key(entry) not in self.by_mask:
                asked_masks.add(mask_key(entry))
                yield self._unit(step, entry, "mask", tuple(mask_names(self.names)), mask_key(entry))

    def _unit(self, step: int, entry: Mapping[str, Any], needs: str, names: tuple[str, ...], key: str) -> Unit:
        added = tuple(METRICS[n] for n in names if METRICS[n].origin != "sift_graph")
        return Unit(self.index, self.reader.run_dir, step, entry, needs, names, key, added)

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
        parts = mask["mask_note"], weight["note"], waiting["dynamics"]["note"]
        notes = dict.fromkeys(n for part in parts for n in part.split(",") if n)
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
        row: dict[str, Any] = {"run": self.name, **{name: run_value(name, about.get(name)) for name in RUN_COLUMNS[1:]}}
        row |= {"step": step, "epoch": entry["epoch"], "layer": entry["name"], "depth": entry["depth"]}
        row["encoding"] = self.request.name
        row |= {name: values[name] for name in (*self.names, *self.dynamics)}
        return row | {"source": entry["source"], "note": values["note"]}

    def _keep(self, row: dict[str, Any]) -> None:
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row["values"].items()}
        if self._log is None:
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
                path = self.directory / "rows.jsonl"
                self._log = path.open("w" if self._force else "a")
                if self._log.tell() and not path.read_bytes().endswith(b"\n"):
                    self._log.write("\n")  # after a line that a crash cut short
            except OSError as error:
                self.warnings.append(f"{self.directory}: cannot be written ({error.strerror}); results are not kept")
                self._log = Path(os.devnull).open("w")  # noqa: SIM115  closed by close()
        self._log.write(json.dumps({**row, "values": clean}, allow_nan=False) + "\n")
        self._log.flush()

    def sorted_rows(self) -> list[dict[str, Any]]:
        """Finished rows, by step and then in network order."""
        return sorted(self.rows.values(), key=lambda row: (row["step"], row["depth"]))

    def close(self) -> None:
        """Close the log of finished rows."""
        if self._log is not None:
            self._log.close()


def mask_names(names: Iterable[str]) -> list[str]:
    """Metrics among `names` that need no more than the mask."""
    return [name for name in names if METRICS[name].needs == "mask"]


def run_units(
    units: Sequence[Unit], *, jobs: int = 1, scheduler: str | None = None
) -> Iterator[tuple[Unit, dict[str, Any] | None, str]]:
    """Measure units, the costly ones first: here, in `jobs` processes, or on a running Dask cluster.

    Parameters
    ----------
    units : sequence of Unit
    jobs : int
        Worker processes on this machine; 1, or too little work to share, stays in this process.
    scheduler : str, optional
        Address of a Dask scheduler, whose workers reach the run directories under the same paths. A unit whose
        worker dies is measured by another one.

    Yields
    ------
    Unit, dict or None, str
        As :func:`measure_unit`, as they are ready.

    Raises
    ------
    UsageError
        If no scheduler answers, or dask is not installed.
    """
    ordered = sorted(units, key=lambda unit: -unit.cost)
    if scheduler is None and (jobs == 1 or len(ordered) < 2 or sum(u.cost for u in ordered) < INLINE_SECONDS):
        yield from map(measure_unit, ordered)
        return
    yield from unordered(measure_unit, ordered, jobs=jobs, scheduler=scheduler)
