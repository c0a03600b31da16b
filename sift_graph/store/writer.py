"""Write a run directory: create it or go on with it, add snapshots and metrics, put a tail aside."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from sift_graph._version import __version__
from sift_graph.errors import DamagedStoreError, MaskError, RunDirectoryError
from sift_graph.masks import Snapshot
from sift_graph.store.aside import make_aside, move_aside
from sift_graph.store.disk import explain_disk_errors, sync_directory, write_atomically
from sift_graph.store.inside import check_file, check_folder
from sift_graph.store.lock import RunLock
from sift_graph.store.parsing import read_rows
from sift_graph.store.reader import HEADER, RunReader, is_run, snapshot_name
from sift_graph.store.shards import snapshot_files
from sift_graph.store.snapshot import FORMAT, WeightPolicy, encode_snapshot

__all__ = ["RunWriter", "check_free", "environment"]


def check_free(run_dir: str | os.PathLike[str]) -> None:
    """Refuse a directory that a new run cannot be written to.

    Parameters
    ----------
    run_dir : path

    Raises
    ------
    RunDirectoryError
        If it is a file, or a directory that holds a run or anything else but hidden files.
    """
    path = Path(run_dir)
    with explain_disk_errors(path, "the run directory cannot be looked at"):
        if is_run(path):
            raise RunDirectoryError(
                f"{path}: holds another run ({HEADER} is there); nothing was overwritten. "
                "Choose another directory, or go on with it: --resume, or MaskRecorder(..., resume=True)"
            )
        if path.is_dir():
            foreign = sorted(child.name for child in path.iterdir() if not child.name.startswith("."))
            if foreign:
                raise RunDirectoryError(
                    f"{path}: is not empty and is not a run directory (it holds {foreign[0]!r}); nothing was "
                    "overwritten. Choose a new directory"
                )
        elif path.exists() or path.is_symlink():
            raise RunDirectoryError(
                f"{path}: is not a directory; nothing was overwritten. Name a directory for the run"
            )


def environment() -> dict[str, Any]:
    """Versions, command line and git commit of this process, for ``sift.json``."""
    versions = {"python": platform.python_version(), "sift-graph": __version__}
    for package in ("numpy", "scipy", "torch", "safetensors"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    commit: str | None = None
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        commit = done.stdout.strip() or None if done.returncode == 0 else None
    except (OSError, subprocess.SubprocessError):
        pass
    return {"argv": list(sys.argv), "versions": versions, "git_commit": commit}


@dataclass
class RunWriter:
    """Write one run directory: create it, or go on with it.

    Parameters
    ----------
    run_dir : path
        Made if need be.
    about : mapping, optional
        What the run is: any of ``family``, ``method``, ``sparsity``, ``seed``, ``model``, ``data``; the measuring half
        copies these into its tables.
    layers : sequence of mapping, optional
        The layer table: a mapping with at least ``name`` and ``shape`` for each layer of the model.
    resume : bool
        Go on with the run that is there. Snapshots later than the step given to :meth:`rewind` are kept aside.
    run_id : str, optional
        Of a new run; random if not given. On resume the run keeps its own.
    recorder : mapping, optional
        How the masks were recorded; written to ``sift.json`` as it is.
    exclusive : bool
        Hold the directory until :meth:`release`: no other live process can then write to it.

    Raises
    ------
    RunDirectoryError
        If the directory holds another run and `resume` is false, holds something else than a run, is held by another
        process, or cannot be written to.

    Notes
    -----
    One writer a run directory. Not thread-safe, but for :meth:`append_line`: the recorder calls it from its one
    background thread.
    """

    run_dir: Path
    about: Mapping[str, Any] = field(default_factory=dict)
    layers: Sequence[Mapping[str, Any]] = ()
    resume: bool = False
    run_id: str = ""
    recorder: Mapping[str, Any] = field(default_factory=dict)
    exclusive: bool = False
    _lock: RunLock | None = field(default=None, init=False, repr=False)
    _appending: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _held: dict[str, tuple[str, int]] = field(default_factory=dict, init=False, repr=False)
    _newest: int = field(default=-1, init=False, repr=False)

    def __post_init__(self) -> None:
        self.run_dir = Path(self.run_dir)
        if not (self.resume and is_run(self.run_dir)):
            check_free(self.run_dir)
        masks = self.run_dir / "masks"
        with explain_disk_errors(self.run_dir, "the run directory could not be made"):
            self.run_dir.mkdir(parents=True, exist_ok=True)
        check_folder(self.run_dir, masks)
        if self.exclusive:
            self._lock = RunLock(self.run_dir)
        going_on = self.resume and is_run(self.run_dir)
        if going_on:
            self.run_id = str(RunReader(self.run_dir).header["run_id"])
            self._look_back()
        else:
            check_free(self.run_dir)  # once more: what was made here before the lock was ours is another run
            self.run_id = self.run_id or uuid.uuid4().hex
        if not going_on:  # the header first: a directory with one is a run, whatever else a kill leaves out
            self._write_header(
                {
                    "format": FORMAT,
                    "run_id": self.run_id,
                    "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                    **environment(),
                    "about": dict(self.about),
                    "recorder": dict(self.recorder),
                    "layers": [dict(layer) for layer in self.layers],
                }
            )
        with explain_disk_errors(self.run_dir, "the run directory could not be made"):
            masks.mkdir(exist_ok=True)
            for left_over in (*masks.glob(".step_*.tmp"), *self.run_dir.glob(f".{HEADER}.*.tmp")):
                left_over.unlink(missing_ok=True)
            sync_directory(self.run_dir)
            sync_directory(self.run_dir.parent)

    def hold(self) -> bool:
        """Hold the directory again after :meth:`release`, and look what was recorded meanwhile.

        Returns
        -------
        bool
            Whether it was not held.
        """
        if not self.exclusive or self._lock is not None:
            return False
        self._lock = RunLock(self.run_dir)
        self._look_back()
        return True

    def release(self) -> None:
        """Let other processes write to the directory; may be called again."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _check_ours(self) -> None:
        """Refuse to write into another run, which was put in the place of this one while it was recorded."""
        if self._lock is None or self._lock.in_place() is not False or not is_run(self.run_dir):
            return
        there = str(RunReader(self.run_dir).header["run_id"])
        if there != self.run_id:
            raise RunDirectoryError(
                f"{self.run_dir}: holds another run now ({there}; this one is {self.run_id}): the directory was "
                "replaced while it was recorded, and nothing more is written to it. Choose another directory"
            )
        self._lock.release()  # the same run, restored or moved back
        self._lock = RunLock(self.run_dir)

    def _write_header(self, content: Mapping[str, Any]) -> None:
        self._check_ours()
        text = json.dumps(finite(content), indent=1, allow_nan=False, default=plain) + "\n"
        with explain_disk_errors(self.run_dir / HEADER, "the run's header could not be written"):
            write_atomically(self.run_dir / HEADER, text.encode())

    def _look_back(self) -> None:
        """Find which masks the newest snapshots hold, so that equal ones need not be stored again.

        A mask is referred to only if it can still be read and matches its hash: what comes after a damaged file
        must not lean on it.
        """
        reader = RunReader(self.run_dir)
        self._held = {}
        self._newest = reader.steps[-1] if reader.steps else -1
        if self._newest < 0:
            return
        try:
            entries = reader.entries(self._newest)
        except DamagedStoreError:
            return
        for entry in entries:
            if "shards" in entry:  # its masks are in parts: they cannot be referred to as wholes
                continue
            held = self._newest if entry["ref"] is None else entry["ref"]
            try:
                reader.load_entry(self._newest, entry, weights=False)
            except DamagedStoreError:
                continue
            self._held[entry["name"]] = (entry["xxh3"], held)

    @property
    def newest(self) -> int | None:
        """The newest recorded step, or None."""
        return None if self._newest < 0 else self._newest

    @property
    def digests(self) -> dict[str, str]:
        """Digest of each layer's newest recorded mask, of those that can be read."""
        return {name: digest for name, (digest, _) in self._held.items()}

    def write_layers(self, layers: Sequence[Mapping[str, Any]]) -> None:
        """Write the layer table to ``sift.json``, for a run whose layers were not known when it began.

        Parameters
        ----------
        layers : sequence of mapping
            As the attribute.
        """
        self.layers = layers
        self._write_header({**RunReader(self.run_dir).header, "layers": [dict(layer) for layer in layers]})

    def write_graph(self, graph: Mapping[str, Any]) -> None:
        """Write to ``sift.json`` how the layers of the model hang together.

        Parameters
        ----------
        graph : mapping
            As :meth:`sift_graph.network_graph.NetworkGraph.record` gives it.
        """
        self._write_header({**RunReader(self.run_dir).header, "graph": dict(graph)})

    def write_snapshot(self, snapshot: Snapshot, *, weights: WeightPolicy = "fp16") -> Path:
        """Write the masks of one step.

        Parameters
        ----------
        snapshot : Snapshot
        weights : {"none", "fp16", "fp32"}
            How the weights that the layers carry are stored. A layer with a weight that float16 cannot hold is
            stored as float32.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        MaskError
            If a layer is only a part of one.
        RunDirectoryError
            If the step is already there, or a later one is, or the file cannot be written: then nothing of it is
            left, and the earlier snapshots are untouched.
        """
        self._check_ours()
        parts = [layer.layer for layer in snapshot if layer.part is not None]
        if parts:
            raise MaskError(
                f"layer {parts[0]!r} is a part that one of several processes holds; let each of them record: a "
                "MaskRecorder in all, attached after init_process_group and fully_shard"
            )
        path = self.run_dir / "masks" / snapshot_name(snapshot.step)
        if path.exists():
            raise RunDirectoryError(f"{path}: step {snapshot.step} is already recorded; it was not overwritten")
        if snapshot.step <= self._newest:
            raise RunDirectoryError(
                f"{self.run_dir}: step {self._newest} is already recorded and {snapshot.step} comes before it; "
                "steps ascend. To go on from an earlier step, rewind to it first"
            )
        encoded = encode_snapshot(snapshot, self._held, run_id=self.run_id, weights=weights)
        with explain_disk_errors(path, f"the snapshot of step {snapshot.step} is lost, and nothing of it is left"):
            write_atomically(path, encoded.data)
        self._held = dict(encoded.held)
        self._newest = snapshot.step
        return path

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Append a row to ``metrics.jsonl`` and flush it; a value that is not finite becomes null.

        Parameters
        ----------
        row : mapping
            Of numbers and texts; numpy scalars and tensors of one element count as numbers.
        """
        self.append_line(self.encode_metrics(row))

    @staticmethod
    def encode_metrics(row: Mapping[str, Any]) -> bytes:
        """Encode a row as the line that :meth:`append_line` takes; numbers are read now, not when it is written."""
        return (json.dumps(finite(row), allow_nan=False, default=plain) + "\n").encode()

    def append_line(self, line: bytes) -> None:
        """Append an encoded line to ``metrics.jsonl`` and flush it; from any thread."""
        self._check_ours()
        path = self.run_dir / "metrics.jsonl"
        check_file(self.run_dir, path)
        with explain_disk_errors(path, "a line of metrics is lost"), self._appending, path.open("a+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a crash cut the last line short: do not glue this one to it
                    line = b"\n" + line
            file.write(line)

    def rewind(self, step: int, *, ranks: int = 0) -> None:
        """Put aside what was recorded after `step`, for a job that goes on from there.

        Later snapshots move to ``masks/abandoned/<time>/`` and later lines of ``metrics.jsonl`` to a file beside them;
        nothing is deleted.

        Parameters
        ----------
        step : int
            The last step that stays.
        ranks : int
            Of so many ranks only the shards of the first are moved; the others move their own.
        """
        late = snapshot_files(self.run_dir / "masks", after=step, others=range(1, ranks))
        metrics = self.run_dir / "metrics.jsonl"
        check_file(self.run_dir, metrics)
        kept: list[bytes] = []
        gone: list[bytes] = []
        with explain_disk_errors(self.run_dir, f"what was recorded after step {step} could not be put aside"):
            for line, row in read_rows(metrics):
                (kept if line.endswith(b"\n") and _step_of(row) <= step else gone).append(line)
            if not late and not gone:
                return
            aside = make_aside(self.run_dir)
            if gone:
                write_atomically(aside / "metrics.jsonl", b"".join(gone))
                write_atomically(metrics, b"".join(kept))
            move_aside(late, aside)
        self._look_back()


def plain(value: Any) -> Any:
    """Bring a numpy scalar or array, a tensor or a path to what JSON can hold; for ``json.dumps(default=)``."""
    if hasattr(value, "tolist"):
        return finite(value.tolist())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"expected numbers and texts, found {type(value).__name__}: {str(value)[:80]}")


def finite(value: Any) -> Any:
    """Put None in the place of every float that is not finite, in mappings and lists too: JSON has no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def _step_of(row: Mapping[str, Any] | None) -> float:
    """Step of a row of metrics; one without stays, and what is no row goes."""
    if row is None:
        return math.inf
    step = row.get("step", -1)
    return step if isinstance(step, int | float) else math.inf
