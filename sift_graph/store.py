r"""The run directory, format ``sift-mask/1``: one directory a run, plain files, nothing pickled, no lock.

::

    run_dir/
      sift.json                       format, run id, when, how and with what the run was made, layer table
      config.toml                     the resolved config, if the bundled trainer made the run
      metrics.jsonl                   {"step": ..., "epoch": ..., "loss": ..., "val_accuracy": ...}, a line each
      masks/step_000001200.safetensors
      analysis/                       what ``sift-graph analyze`` computed

A snapshot is one safetensors file. Its tensors, by name:

``mask/<layer>``
    uint8, one axis: the mask's bits, eight entries a byte, least significant bit first, in the C order of the
    weight's shape, compressed as one zstd frame. Absent when the mask equals that of an earlier snapshot: then the
    layer's ``ref`` in the header is the step that holds it.
``weight/<layer>``
    float16 or float32, one axis: the weights at the set bits, in their order. Absent where none were recorded.

Its header's metadata has one key, ``sift``: a JSON object with ``format``, ``run_id``, ``step``, ``epoch``,
``wall_time`` and ``layers``, a list in network order of ``name``, ``shape``, ``groups``, ``layout``, ``nnz``,
``xxh3`` (xxh3-128 of the uncompressed bits, hexadecimal), ``codec`` (``"zstd"``), ``source``, ``ref`` (a step or
null), and ``weight_xxh3`` (of the weight tensor's bytes, or null). A layer has at most 2^34 entries.

A snapshot is written to a temporary name that starts with a dot, synced, and renamed: a file with its final name is
whole. Readers ignore temporaries. Layer names are data, never paths. Snapshots are written in ascending order of
their steps, so a ``ref`` always points back, and the newest ones can be put aside without a loss to the others.
"""

from __future__ import annotations

import errno
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from sift_graph._version import __version__
from sift_graph.errors import DamagedStoreError, RunDirectoryError
from sift_graph.masks import LayerMask, Snapshot
from sift_graph.snapshot_file import FORMAT, WeightPolicy, decode_layer, encode_snapshot, read_header

__all__ = [
    "FORMAT",
    "RunReader",
    "RunWriter",
    "WeightPolicy",
    "check_free",
    "find_runs",
    "is_run",
    "snapshot_name",
    "write_atomically",
]

HEADER = "sift.json"
_NAME = re.compile(r"step_(\d{9,18})\.safetensors")


def snapshot_name(step: int) -> str:
    """File name of the snapshot at `step`.

    Returns
    -------
    str
        With at least nine digits, so that names sort as steps do.

    Examples
    --------
    >>> snapshot_name(1200)
    'step_000001200.safetensors'
    """
    return f"step_{step:09d}.safetensors"


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a run directory, that is, holds a ``sift.json``."""
    return (Path(path) / HEADER).is_file()


def find_runs(path: str | os.PathLike[str]) -> list[Path]:
    """List the run directories at or below `path`, sorted by name.

    Parameters
    ----------
    path : path
        A run directory, or a directory that holds some, at most four levels down.

    Returns
    -------
    list of Path
        The directory itself if it is a run.

    Raises
    ------
    RunDirectoryError
        If there is no such directory, or no run in it.
    """
    root = Path(path)
    if not root.is_dir():
        what = "a file" if root.exists() else "nothing"
        raise RunDirectoryError(
            f"{root}: expected a run directory or a directory of runs, found {what}; "
            "make one with `sift-graph train --out DIR` or `sift-graph import FILE DIR`"
        )
    if is_run(root):
        return [root]
    found: list[Path] = []
    level = [root]
    for _ in range(4):
        below: list[Path] = []
        for directory in level:
            for child in sorted(directory.iterdir()):
                if child.is_dir() and not child.is_symlink() and not child.name.startswith("."):
                    if is_run(child):
                        found.append(child)
                    else:
                        below.append(child)
        level = below
    if not found:
        raise RunDirectoryError(
            f"{root}: not a run directory (no {HEADER} in it or below it); "
            "record one with MaskRecorder, `sift-graph train` or `sift-graph import`"
        )
    return sorted(found)


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
    if is_run(path):
        raise RunDirectoryError(
            f"{path}: holds another run ({HEADER} is there); nothing was overwritten. "
            "Choose another directory, or go on with it: --resume, or MaskRecorder(..., resume=True)"
        )
    if path.is_dir():
        foreign = sorted(child.name for child in path.iterdir() if not child.name.startswith("."))
        if foreign:
            raise RunDirectoryError(
                f"{path}: is not empty and is not a run directory (it holds {foreign[0]!r}); nothing was overwritten. "
                "Choose a new directory"
            )
    elif path.exists() or path.is_symlink():
        raise RunDirectoryError(f"{path}: is not a directory; nothing was overwritten. Name a directory for the run")


def write_atomically(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write `data` to a temporary name beside `path`, sync it, and rename: whole, or not there at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if sync:
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make a rename in `path` survive a power cut, where the system can."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


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

    Raises
    ------
    RunDirectoryError
        If the directory holds another run and `resume` is false, holds something else than a run, or cannot be
        written to.

    Notes
    -----
    One writer a run directory. Not thread-safe: the recorder calls it from its one background thread.
    """

    run_dir: Path
    about: Mapping[str, Any] = field(default_factory=dict)
    layers: Sequence[Mapping[str, Any]] = ()
    resume: bool = False
    run_id: str = ""
    recorder: Mapping[str, Any] = field(default_factory=dict)
    _held: dict[str, tuple[str, int]] = field(default_factory=dict, init=False, repr=False)
    _newest: int = field(default=-1, init=False, repr=False)

    def __post_init__(self) -> None:
        self.run_dir = Path(self.run_dir)
        going_on = self.resume and is_run(self.run_dir)
        if going_on:
            self.run_id = str(RunReader(self.run_dir).header["run_id"])
            self._look_back()
        else:
            check_free(self.run_dir)
            self.run_id = self.run_id or uuid.uuid4().hex
        masks = self.run_dir / "masks"
        with _disk(self.run_dir, "the run directory could not be made"):
            masks.mkdir(parents=True, exist_ok=True)
            for left_over in masks.glob(".step_*.tmp"):
                left_over.unlink(missing_ok=True)
            sync_directory(self.run_dir)
            sync_directory(self.run_dir.parent)
        if not going_on:
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

    def _write_header(self, content: Mapping[str, Any]) -> None:
        text = json.dumps(finite(content), indent=1, allow_nan=False, default=plain) + "\n"
        with _disk(self.run_dir / HEADER, "the run's header could not be written"):
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
        RunDirectoryError
            If the step is already there, or a later one is, or the file cannot be written: then nothing of it is
            left, and the earlier snapshots are untouched.
        """
        path = self.run_dir / "masks" / snapshot_name(snapshot.step)
        if path.exists():
            raise RunDirectoryError(f"{path}: step {snapshot.step} is already recorded; it was not overwritten")
        if snapshot.step <= self._newest:
            raise RunDirectoryError(
                f"{self.run_dir}: step {self._newest} is already recorded and {snapshot.step} comes before it; "
                "steps ascend. To go on from an earlier step, rewind to it first"
            )
        encoded = encode_snapshot(snapshot, self._held, run_id=self.run_id, weights=weights)
        with _disk(path, f"the snapshot of step {snapshot.step} is lost"):
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
        """Append an encoded line to ``metrics.jsonl`` and flush it."""
        path = self.run_dir / "metrics.jsonl"
        with _disk(path, "a line of metrics is lost"), path.open("a+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a crash cut the last line short: do not glue this one to it
                    line = b"\n" + line
            file.write(line)

    def rewind(self, step: int) -> None:
        """Put aside what was recorded after `step`, for a job that goes on from there.

        Later snapshots move to ``masks/abandoned/<time>/`` and later lines of ``metrics.jsonl`` to a file beside them;
        nothing is deleted.

        Parameters
        ----------
        step : int
            The last step that stays.
        """
        late = [s for s in RunReader(self.run_dir).steps if s > step]
        metrics = self.run_dir / "metrics.jsonl"
        kept: list[bytes] = []
        gone: list[bytes] = []
        with _disk(self.run_dir, f"what was recorded after step {step} could not be put aside"):
            for line in metrics.read_bytes().splitlines(keepends=True) if metrics.exists() else []:
                (kept if line.endswith(b"\n") and _line_step(line) <= step else gone).append(line)
            if not late and not gone:
                return
            aside = self.run_dir / "masks" / "abandoned" / f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:6]}"
            aside.mkdir(parents=True)
            if gone:
                write_atomically(aside / "metrics.jsonl", b"".join(gone))
                write_atomically(metrics, b"".join(kept))
            for s in reversed(late):  # the newest first: whenever this stops, no snapshot refers to one that has moved
                (self.run_dir / "masks" / snapshot_name(s)).rename(aside / snapshot_name(s))
            sync_directory(aside)
            sync_directory(self.run_dir / "masks")
        self._look_back()


@contextmanager
def _disk(path: Path, loss: str) -> Iterator[None]:
    """Turn an error of the file system into one that says what was lost and how to mend it."""
    try:
        yield
    except OSError as error:
        cure = _CURES.get(error.errno or 0, "mend this, then go on with resume=True")
        raise RunDirectoryError(
            f"{path}: {loss} ({error.strerror or error}); nothing half-written remains and what was recorded before "
            f"is untouched. {cure}"
        ) from error


_CURES = {
    errno.ENOSPC: "Free some space, record less often or without weights, then go on with resume=True",
    errno.EDQUOT: "Free some of the quota, record less often or without weights, then go on with resume=True",
    errno.EROFS: "Choose a directory that can be written to",
    errno.EACCES: "Choose a directory that can be written to",
    errno.EPERM: "Choose a directory that can be written to",
    errno.ENOENT: "The directory was removed; choose another, or restore it",
}


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


def _line_step(line: bytes) -> float:
    try:
        return float(json.loads(line).get("step", -1))
    except (ValueError, AttributeError, TypeError, RecursionError):
        return math.inf


@dataclass(frozen=True)
class RunReader:
    """Read one run directory, layer by layer; nothing is loaded before it is asked for.

    Parameters
    ----------
    run_dir : path

    Raises
    ------
    RunDirectoryError
        If the directory is not a run.
    DamagedStoreError
        If ``sift.json`` cannot be read.
    """

    run_dir: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "run_dir", Path(self.run_dir))
        if not is_run(self.run_dir):
            raise RunDirectoryError(
                f"{self.run_dir}: not a run directory (no {HEADER}); "
                "record one with MaskRecorder, `sift-graph train` or `sift-graph import`"
            )
        if self.header.get("format") != FORMAT:
            raise DamagedStoreError(
                f"{self.run_dir / HEADER}: expected format {FORMAT!r}, found {self.header.get('format')!r}; "
                "a newer sift-graph may read it"
            )

    @cached_property
    def header(self) -> dict[str, Any]:
        """The content of ``sift.json``."""
        path = self.run_dir / HEADER
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise DamagedStoreError(f"{path}: cannot be read as JSON ({error}); restore it from a copy") from error
        if not isinstance(content, dict):
            raise DamagedStoreError(f"{path}: expected a JSON object, found {type(content).__name__}")
        content.setdefault("run_id", "")
        if not isinstance(content.get("about"), dict):
            content["about"] = {}
        return content

    @property
    def about(self) -> dict[str, Any]:
        """What the run is: family, method, sparsity, seed and the like."""
        return dict(self.header["about"])

    @cached_property
    def steps(self) -> list[int]:
        """Recorded steps, ascending, from the file names."""
        directory = self.run_dir / "masks"
        if not directory.is_dir():
            return []
        names = (_NAME.fullmatch(path.name) for path in directory.iterdir())
        return sorted({int(name.group(1)) for name in names if name})

    def path(self, step: int) -> Path:
        """File of the snapshot at `step`."""
        return self.run_dir / "masks" / snapshot_name(step)

    def snapshot_header(self, step: int) -> dict[str, Any]:
        """Read the header of one snapshot; its tensors stay on disk.

        Parameters
        ----------
        step : int

        Returns
        -------
        dict

        Raises
        ------
        DamagedStoreError
            If the file is missing, truncated, altered, or belongs to another step or run.
        """
        path = self.path(step)
        header = read_header(path)
        if header.get("step") != step:
            raise DamagedStoreError(f"{path}: its header is that of step {header.get('step')!r}; the file was renamed")
        if header.get("run_id") != self.header["run_id"]:
            raise DamagedStoreError(
                f"{path}: belongs to another run ({str(header.get('run_id'))[:40]!r}, expected "
                f"{str(self.header['run_id'])[:40]!r}); move it back to its own directory"
            )
        for entry in header["layers"]:
            if entry["ref"] is not None and entry["ref"] >= step:
                raise DamagedStoreError(
                    f"{path}: layer {entry['name']!r} refers to step {entry['ref']}, which is not an earlier one; "
                    "the file was altered"
                )
        return header

    def entries(self, step: int) -> list[dict[str, Any]]:
        """Layer entries of one snapshot's header, in network order."""
        return list(self.snapshot_header(step)["layers"])

    def load_layer(self, step: int, layer: str, *, weights: bool = True) -> LayerMask:
        """Load one layer of one snapshot, following a reference to an earlier one, and verify its hash.

        Parameters
        ----------
        step : int
        layer : str
        weights : bool
            Load its weights too, if any were recorded.

        Returns
        -------
        LayerMask

        Raises
        ------
        DamagedStoreError
            If the file is truncated, altered, or does not hold the layer.
        """
        for entry in self.entries(step):
            if entry["name"] == layer:
                return self.load_entry(step, entry, weights=weights)
        raise DamagedStoreError(f"{self.path(step)}: holds no layer {layer!r}")

    def load_entry(self, step: int, entry: Mapping[str, Any], *, weights: bool = True) -> LayerMask:
        """Load the layer of a header entry; as :meth:`load_layer`.

        Parameters
        ----------
        step : int
        entry : mapping
            One of :meth:`entries`.
        weights : bool

        Returns
        -------
        LayerMask

        Raises
        ------
        DamagedStoreError
            As :meth:`load_layer`.
        """
        where = step if entry["ref"] is None else entry["ref"]
        return decode_layer(self.path(step), self.path(where), entry, weights=weights)

    def load_snapshot(self, step: int, *, weights: bool = True) -> Snapshot:
        """Load all layers of one snapshot; as :meth:`load_layer`."""
        header = self.snapshot_header(step)
        layers = {entry["name"]: self.load_entry(step, entry, weights=weights) for entry in header["layers"]}
        wall_time = math.nan if header["wall_time"] is None else float(header["wall_time"])
        return Snapshot(step, layers, header["epoch"], wall_time)

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Read the rows of ``metrics.jsonl``; a last line that a crash cut short is left out.

        Yields
        ------
        dict
        """
        path = self.run_dir / "metrics.jsonl"
        if not path.exists():
            return
        with path.open("rb") as file:
            for line in file:
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(row, dict):
                    yield row
