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
null), and ``weight_xxh3`` (of the weight tensor's bytes, or null).

A snapshot is written to a temporary name that starts with a dot, synced, and renamed: a file with its final name is
whole. Readers ignore temporaries. Layer names are data, never paths.
"""

from __future__ import annotations

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
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash
import zstandard

from sift_graph._version import __version__
from sift_graph.errors import DamagedStoreError, MaskError, RunDirectoryError
from sift_graph.masks import LayerMask, Snapshot

__all__ = ["FORMAT", "RunReader", "RunWriter", "find_runs", "is_run", "snapshot_name", "write_atomically"]

FORMAT = "sift-mask/1"
HEADER = "sift.json"
LEVEL = 1
MAX_ENTRIES = 1 << 36  # of one layer; a header that claims more is refused before anything is allocated
_NAME = re.compile(r"step_(\d{9,})\.safetensors")

WeightPolicy = Literal["none", "fp16", "fp32"]


def snapshot_name(step: int) -> str:
    """File name of the snapshot at `step`.

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
    seed : int, optional
        Written to ``sift.json``.
    about : mapping, optional
        What the run is: any of ``family``, ``method``, ``sparsity``, ``seed``, ``model``, ``data``; the measuring half
        copies these into its tables.
    layers : sequence of mapping, optional
        The layer table: a mapping with at least ``name`` and ``shape`` for each layer of the model.
    resume : bool
        Go on with the run that is there. Snapshots later than the step given to :meth:`rewind` are kept aside.

    Raises
    ------
    RunDirectoryError
        If the directory holds another run and `resume` is false, or holds something else than a run.

    Notes
    -----
    One writer a run directory. Not thread-safe: the recorder calls it from its one background thread.
    """

    run_dir: Path
    about: Mapping[str, Any] = field(default_factory=dict)
    layers: Sequence[Mapping[str, Any]] = ()
    resume: bool = False
    run_id: str = ""
    _held: dict[str, tuple[str, int]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.run_dir = Path(self.run_dir)
        header = self.run_dir / HEADER
        if self.run_dir.exists() and not self.run_dir.is_dir():
            raise RunDirectoryError(f"{self.run_dir}: is a file; name a directory for the run")
        if header.exists():
            if not self.resume:
                raise RunDirectoryError(
                    f"{self.run_dir}: holds another run ({HEADER} is there); nothing was overwritten. "
                    "Choose another directory, or go on with it: --resume, or MaskRecorder(..., resume=True)"
                )
            reader = RunReader(self.run_dir)
            self.run_id = str(reader.header["run_id"])
            steps = reader.steps
            if steps:
                for entry in reader.entries(steps[-1]):
                    held = entry["ref"] if entry["ref"] is not None else steps[-1]
                    self._held[entry["name"]] = (entry["xxh3"], held)
        else:
            foreign = [p.name for p in self.run_dir.iterdir()] if self.run_dir.is_dir() else []
            foreign = [name for name in foreign if not name.startswith(".")]
            if foreign:
                raise RunDirectoryError(
                    f"{self.run_dir}: is not empty and is not a run directory (it holds {sorted(foreign)[0]!r}); "
                    "choose a new directory"
                )
            self.run_id = self.run_id or uuid.uuid4().hex
        (self.run_dir / "masks").mkdir(parents=True, exist_ok=True)
        for left_over in (self.run_dir / "masks").glob(".step_*.tmp"):
            left_over.unlink(missing_ok=True)
        if not header.exists():
            self._write_header()

    def _write_header(self) -> None:
        content = {
            "format": FORMAT,
            "run_id": self.run_id,
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **environment(),
            "about": dict(self.about),
            "layers": [dict(layer) for layer in self.layers],
        }
        write_atomically(self.run_dir / HEADER, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())

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
            If the step is already there.
        """
        path = self.run_dir / "masks" / snapshot_name(snapshot.step)
        if path.exists():
            raise RunDirectoryError(f"{path}: step {snapshot.step} is already recorded; it was not overwritten")
        data, held = encode_snapshot(snapshot, self._held, run_id=self.run_id, weights=weights)
        write_atomically(path, data)
        self._held = held
        return path

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Append a line to ``metrics.jsonl`` and flush it; a value that is not finite becomes null."""
        clean = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()
        }
        with (self.run_dir / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(clean, allow_nan=False) + "\n")
            file.flush()

    def rewind(self, step: int) -> None:
        """Put aside what was recorded after `step`, for a job that goes on from there.

        Later snapshots move to ``masks/abandoned/<time>/`` and later lines of ``metrics.jsonl`` to a file beside them;
        nothing is deleted.

        Parameters
        ----------
        step : int
            The last step that stays.
        """
        reader = RunReader(self.run_dir)
        late = [s for s in reader.steps if s > step]
        metrics = self.run_dir / "metrics.jsonl"
        lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
        kept = [line for line in lines if line.endswith("\n") and _line_step(line) <= step]
        if not late and len(kept) == len(lines):
            return
        aside = self.run_dir / "masks" / "abandoned" / f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:6]}"
        aside.mkdir(parents=True)
        if len(kept) != len(lines):
            (aside / "metrics.jsonl").write_text("".join(line for line in lines if line not in set(kept)))
            write_atomically(metrics, "".join(kept).encode())
        for s in late:
            (self.run_dir / "masks" / snapshot_name(s)).rename(aside / snapshot_name(s))
        self._held = {}
        steps = RunReader(self.run_dir).steps
        if steps:
            for entry in RunReader(self.run_dir).entries(steps[-1]):
                self._held[entry["name"]] = (
                    entry["xxh3"],
                    entry["ref"] if entry["ref"] is not None else steps[-1],
                )


def _line_step(line: str) -> float:
    try:
        return float(json.loads(line).get("step", -1))
    except (ValueError, AttributeError, TypeError):
        return math.inf


def encode_snapshot(
    snapshot: Snapshot, held: Mapping[str, tuple[str, int]], *, run_id: str, weights: WeightPolicy
) -> tuple[bytes, dict[str, tuple[str, int]]]:
    """Encode a snapshot as the bytes of its file.

    Parameters
    ----------
    snapshot : Snapshot
    held : mapping of str to (str, int)
        Digest of each layer's last stored mask, and the step whose file holds it.
    run_id : str
    weights : {"none", "fp16", "fp32"}

    Returns
    -------
    bytes
    dict
        `held`, brought up to date.
    """
    from safetensors.numpy import save

    compressor = zstandard.ZstdCompressor(level=LEVEL, write_content_size=True)
    tensors: dict[str, np.ndarray] = {}
    entries = []
    now = dict(held)
    for layer in snapshot:
        digest, step = now.get(layer.layer, ("", -1))
        same = digest == layer.digest
        if not same:
            frame = compressor.compress(np.ascontiguousarray(layer.bits).data)
            tensors[f"mask/{layer.layer}"] = np.frombuffer(frame, dtype=np.uint8)
            now[layer.layer] = (layer.digest, snapshot.step)
        values = None
        if weights != "none" and layer.values is not None:
            values = _stored_values(layer.values, weights)
            tensors[f"weight/{layer.layer}"] = values
        entries.append(
            {
                "name": layer.layer,
                "shape": list(layer.shape),
                "groups": layer.groups,
                "layout": layer.layout,
                "nnz": layer.edges,
                "xxh3": layer.digest,
                "codec": "zstd",
                "source": layer.source,
                "ref": step if same else None,
                "weight_xxh3": None if values is None else xxhash.xxh3_128_hexdigest(values.tobytes()),
            }
        )
    header = {
        "format": FORMAT,
        "run_id": run_id,
        "step": snapshot.step,
        "epoch": snapshot.epoch,
        "wall_time": time.time() if math.isnan(snapshot.wall_time) else snapshot.wall_time,
        "layers": entries,
    }
    return save(tensors, metadata={"sift": json.dumps(header, allow_nan=False)}), now


def _stored_values(values: np.ndarray, weights: WeightPolicy) -> np.ndarray:
    """Weights as they are stored: float16 only where that loses no magnitude and no finiteness."""
    single = np.ascontiguousarray(values, dtype=np.float32)
    if weights == "fp32":
        return single
    with np.errstate(over="ignore"):
        half = single.astype(np.float16)
    if np.array_equal(np.isfinite(half), np.isfinite(single)):
        return half
    return single


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
            content = json.loads(path.read_text())
        except (OSError, ValueError) as error:
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
        return sorted(int(name.group(1)) for name in names if name)

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
            If the file is truncated or its header is not one of this format.
        """
        path = self.path(step)
        with open_snapshot(path) as file:
            try:
                header = json.loads((file.metadata() or {})["sift"])
            except (KeyError, ValueError, TypeError) as error:
                raise DamagedStoreError(
                    f"{path}: has no readable 'sift' header ({error}); it was not written by us"
                ) from error
        if not isinstance(header, dict) or header.get("format") != FORMAT or not isinstance(header.get("layers"), list):
            raise DamagedStoreError(f"{path}: expected a header of format {FORMAT!r}")
        for entry in header["layers"]:
            check_entry(path, entry)
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
        layer = str(entry["name"])
        where = step if entry["ref"] is None else int(entry["ref"])
        path = self.path(where)
        frame = read_tensor(path, f"mask/{layer}")
        shape = tuple(int(n) for n in entry["shape"])
        expected = (math.prod(shape) + 7) // 8
        bits = decompress(path, layer, frame, expected)
        if xxhash.xxh3_128_hexdigest(bits.data) != entry["xxh3"]:
            raise DamagedStoreError(
                f"{path}: the mask of layer {layer!r} does not match its hash; the file was altered"
            )
        values = None
        if weights and entry.get("weight_xxh3") is not None:
            path = self.path(step)
            values = read_tensor(path, f"weight/{layer}")
            if xxhash.xxh3_128_hexdigest(values.tobytes()) != entry["weight_xxh3"]:
                raise DamagedStoreError(
                    f"{path}: the weights of layer {layer!r} do not match their hash; the file was altered"
                )
            values = values.astype(np.float32)
        try:
            return LayerMask(layer, shape, bits, values, int(entry["groups"]), entry["layout"], str(entry["source"]))
        except MaskError as error:
            raise DamagedStoreError(f"{self.path(step)}: {error}") from error

    def load_snapshot(self, step: int, *, weights: bool = True) -> Snapshot:
        """Load all layers of one snapshot; as :meth:`load_layer`."""
        header = self.snapshot_header(step)
        layers = {entry["name"]: self.load_entry(step, entry, weights=weights) for entry in header["layers"]}
        return Snapshot(step, layers, header["epoch"], float(header.get("wall_time") or math.nan))

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Read the rows of ``metrics.jsonl``; a last line that a crash cut short is left out.

        Yields
        ------
        dict
        """
        path = self.run_dir / "metrics.jsonl"
        if not path.exists():
            return
        with path.open() as file:
            for line in file:
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if isinstance(row, dict):
                    yield row


def open_snapshot(path: Path) -> Any:
    """Open a snapshot with safetensors; a file that is truncated or is no snapshot is named in the error."""
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="np")
    except FileNotFoundError as error:
        raise DamagedStoreError(f"{path}: is missing; a later snapshot refers to it. Restore it from a copy") from error
    except (SafetensorError, OSError) as error:
        raise DamagedStoreError(f"{path}: truncated or not a snapshot ({error}); restore it, or remove it") from error


def read_tensor(path: Path, name: str) -> np.ndarray:
    """Read one tensor of a snapshot."""
    from safetensors import SafetensorError

    with open_snapshot(path) as file:
        try:
            return np.asarray(file.get_tensor(name))
        except SafetensorError as error:
            raise DamagedStoreError(f"{path}: holds no tensor {name!r} ({error}); the file was altered") from error


def decompress(path: Path, layer: str, frame: np.ndarray, expected: int) -> np.ndarray:
    """Decompress a mask's bits to exactly `expected` bytes, or say that the file was altered."""
    try:
        claimed = zstandard.frame_content_size(frame.tobytes()[:18])
        if claimed != expected:
            raise DamagedStoreError(
                f"{path}: the mask of layer {layer!r} claims {claimed} bytes where its shape needs {expected}; "
                "the file was altered"
            )
        raw = zstandard.ZstdDecompressor().decompress(frame.data, max_output_size=expected)
    except zstandard.ZstdError as error:
        raise DamagedStoreError(f"{path}: the mask of layer {layer!r} cannot be decompressed ({error})") from error
    if len(raw) != expected:
        raise DamagedStoreError(f"{path}: the mask of layer {layer!r} has {len(raw)} bytes, expected {expected}")
    return np.frombuffer(raw, dtype=np.uint8)


def check_entry(path: Path, entry: Any) -> None:
    """Refuse a layer entry that no writer of this format makes, before anything is allocated for it."""
    good = (
        isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get("shape"), list)
        and all(isinstance(n, int) and n > 0 for n in entry["shape"])
        and math.prod(entry["shape"]) <= MAX_ENTRIES
        and isinstance(entry.get("groups"), int)
        and isinstance(entry.get("nnz"), int)
        and isinstance(entry.get("xxh3"), str)
        and entry.get("layout") in ("oi", "io")
        and (entry.get("ref") is None or isinstance(entry["ref"], int))
    )
    if not good:
        name = entry.get("name") if isinstance(entry, dict) else entry
        raise DamagedStoreError(
            f"{path}: the header entry of layer {str(name)[:80]!r} is not one of format {FORMAT!r} "
            f"(or claims more than {MAX_ENTRIES} entries); the file was altered"
        )
    entry.setdefault("source", "unknown")
