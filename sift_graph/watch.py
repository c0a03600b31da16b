"""Look at a run while it is being recorded: its newest masks, what they changed, and the last metrics."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sift_graph.errors import DamagedStoreError, RunDirectoryError
from sift_graph.store import RunReader, is_run

__all__ = ["LayerLook", "Look", "Watcher"]

TAIL_BYTES = 1 << 16
ABOUT = ("family", "method", "sparsity", "seed")


@dataclass(frozen=True)
class LayerLook:
    """One layer at the newest snapshot, and since the one before.

    Attributes
    ----------
    layer : str
    size : int
        Entries, kept or not.
    edges : int
    dropped, grown : int or None
        Entries that the mask lost and gained; None where there is nothing to compare with.
    moved : float
        Dropped entries over those that were kept before; NaN where there are none.
    """

    layer: str
    size: int
    edges: int
    dropped: int | None = None
    grown: int | None = None
    moved: float = math.nan

    @property
    def density(self) -> float:
        """Kept entries over entries."""
        return self.edges / self.size


@dataclass(frozen=True)
class Look:
    """A run as it stands.

    Attributes
    ----------
    run_dir : Path
    state : str
        What keeps the rest from being seen; empty if nothing does.
    about : str
        Family, method, sparsity and seed, as far as they are recorded.
    snapshots : int
    step : int or None
        The newest recorded.
    epoch : float or None
    age : float
        Seconds since it was taken; NaN where there is none.
    layers : tuple of LayerLook
        In network order.
    metrics : tuple of mapping
        The last rows that were logged, the newest last.
    """

    run_dir: Path
    state: str
    about: str = ""
    snapshots: int = 0
    step: int | None = None
    epoch: float | None = None
    age: float = math.nan
    layers: tuple[LayerLook, ...] = ()
    metrics: tuple[Mapping[str, Any], ...] = ()

    @property
    def density(self) -> float:
        """Kept entries over entries, of all layers; NaN where there are none."""
        size = sum(layer.size for layer in self.layers)
        return sum(layer.edges for layer in self.layers) / size if size else math.nan


class Watcher:
    """Look at one run again and again; masks are read only when a snapshot is new.

    Parameters
    ----------
    run_dir : path
        Need not be there yet.
    rows : int
        Rows of metrics to show.

    Examples
    --------
    >>> Watcher("runs/not_yet").look().state
    'is not there yet'
    """

    def __init__(self, run_dir: str | os.PathLike[str], *, rows: int = 5) -> None:
        self.run_dir = Path(run_dir)
        self.rows = rows
        self._seen: tuple[str, list[int]] = ("", [])
        self._layers: tuple[LayerLook, ...] = ()

    def look(self) -> Look:
        """Look once.

        Returns
        -------
        Look

        Raises
        ------
        RunDirectoryError
            If the path is that of a file.
        """
        if self.run_dir.is_file():
            raise RunDirectoryError(f"{self.run_dir}: is a file; name a run directory, there already or not")
        if not self.run_dir.exists():
            return Look(self.run_dir, "is not there yet")
        if not is_run(self.run_dir):
            return Look(self.run_dir, "holds no run yet (no sift.json)")
        try:
            return self._look(RunReader(self.run_dir))
        except (DamagedStoreError, OSError) as error:  # it may be gone, moved or put right a moment later
            return Look(self.run_dir, f"cannot be read now ({error}); sift-graph doctor says more")

    def _look(self, reader: RunReader) -> Look:
        about = " · ".join(f"{reader.about[name]}" for name in ABOUT if reader.about.get(name) is not None)
        metrics = tuple(last_rows(self.run_dir / "metrics.jsonl", self.rows))
        if not reader.steps:
            return Look(self.run_dir, "has no snapshot yet", about, metrics=metrics)
        step = reader.steps[-1]
        header = reader.snapshot_header(step)
        taken = header["wall_time"]
        age = max(0.0, time.time() - (reader.path(step).stat().st_mtime if taken is None else taken))
        newest = (str(reader.header["run_id"]), reader.steps[-2:])
        if newest != self._seen:
            self._layers = tuple(compare(reader, entry) for entry in _pairs(reader, header))
            self._seen = newest
        return Look(self.run_dir, "", about, len(reader.steps), step, header["epoch"], age, self._layers, metrics)


@dataclass(frozen=True)
class _Pair:
    step: int
    entry: Mapping[str, Any]
    step_before: int | None
    before: Mapping[str, Any] | None


def _pairs(reader: RunReader, header: Mapping[str, Any]) -> list[_Pair]:
    """Entries of the newest snapshot, each with that of the one before."""
    step_before = reader.steps[-2] if len(reader.steps) > 1 else None
    earlier: dict[str, Mapping[str, Any]] = {}
    if step_before is not None:
        try:
            earlier = {entry["name"]: entry for entry in reader.entries(step_before)}
        except DamagedStoreError:
            earlier = {}
    return [_Pair(header["step"], entry, step_before, earlier.get(entry["name"])) for entry in header["layers"]]


def compare(reader: RunReader, pair: _Pair) -> LayerLook:
    """Say what a layer's mask dropped and grew since the snapshot before."""
    entry, before = pair.entry, pair.before
    now = LayerLook(entry["name"], math.prod(entry["shape"]), entry["nnz"])
    if before is None or before["shape"] != entry["shape"] or pair.step_before is None:
        return now
    dropped = grown = 0
    if before["xxh3"] != entry["xxh3"]:
        old = reader.load_entry(pair.step_before, before, weights=False).bits
        new = reader.load_entry(pair.step, entry, weights=False).bits
        dropped = int(np.bitwise_count(old & ~new).sum(dtype=np.int64))
        grown = int(np.bitwise_count(new & ~old).sum(dtype=np.int64))
    moved = dropped / before["nnz"] if before["nnz"] else math.nan
    return LayerLook(now.layer, now.size, now.edges, dropped, grown, moved)


def last_rows(path: Path, count: int) -> list[dict[str, Any]]:
    """Read the last rows of a file of JSON lines, from its end; what is no row is left out."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return []
    rows: list[dict[str, Any]] = []
    for line in reversed(lines):
        if len(rows) == count:
            break
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows[::-1]
