"""Store the masks of a snapshot another way, in the same place: the original goes when the new file was read back."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
import zstandard

from sift_graph.errors import DamagedStoreError, RunDirectoryError
from sift_graph.store.deltas import STREAMS, read_bits
from sift_graph.store.disk import write_atomically
from sift_graph.store.reader import RunReader, snapshot_name
from sift_graph.store.snapshot import LEVEL, open_snapshot, parse_header, read_tensor

__all__ = ["Contents", "clear_unfinished", "compress_whole", "is_one_file", "open_contents", "replace"]

SUFFIX = ".rewrite"


@dataclass
class Contents:
    """A snapshot's header and tensors, to be changed and written back.

    Attributes
    ----------
    path : Path
    step : int
    header : dict
    tensors : dict of str to ndarray
    touched : set of str
        Layers whose mask is stored another way than it was read.
    """

    path: Path
    step: int
    header: dict[str, Any]
    tensors: dict[str, np.ndarray]
    touched: set[str] = field(default_factory=set)

    def store_whole(self, entry: dict[str, Any], frame: np.ndarray) -> None:
        """Store the mask of an entry as one frame of its bits."""
        self._drop(entry)
        entry["codec"], entry["ref"] = "zstd", None
        self.tensors[f"mask/{entry['name']}"] = frame

    def store_change(
        self, entry: dict[str, Any], frames: Mapping[str, np.ndarray], base: int | None, digest: str | None
    ) -> None:
        """Store the mask of an entry as the change of that at step `base`, whose hash is `digest`."""
        self._drop(entry)
        entry["codec"], entry["ref"] = "gaps", None
        entry["base"], entry["base_xxh3"] = base, digest
        self.tensors |= {f"{stream}/{entry['name']}": frames[stream] for stream in STREAMS}

    def refer(self, entry: dict[str, Any], step: int) -> None:
        """Let an entry refer to the step that holds its mask."""
        self._drop(entry)
        entry["codec"], entry["ref"] = "zstd", step

    def _drop(self, entry: dict[str, Any]) -> None:
        self.touched.add(entry["name"])
        for key in ("base", "base_xxh3"):
            entry.pop(key, None)
        for kind in ("mask", *STREAMS):
            self.tensors.pop(f"{kind}/{entry['name']}", None)


def open_contents(reader: RunReader, step: int) -> Contents:
    """Read a whole snapshot.

    Parameters
    ----------
    reader : RunReader
    step : int

    Returns
    -------
    Contents

    Raises
    ------
    DamagedStoreError
        If its header or a tensor cannot be read.
    """
    reader.snapshot_header(step)  # which checks more than a file alone can tell
    path = reader.path(step)
    with open_snapshot(path) as file:
        header = _read_as_written(path, file)
        tensors = {name: read_tensor(file, path, name) for name in file.keys()}  # noqa: SIM118  not a mapping
    return Contents(path, step, header, tensors)


def is_one_file(reader: RunReader, step: int) -> bool:
    """Whether a snapshot is one file, and not one for each of several processes: those are left as they are."""
    return reader.path(step).name == snapshot_name(step)


def _read_as_written(path: Path, file: Any) -> dict[str, Any]:
    """Check the header of an open snapshot, and give it without what a reader adds to it."""
    metadata = file.metadata() or {}
    parse_header(path, metadata)
    header: dict[str, Any] = json.loads(metadata["sift"])
    return header


def compress_whole(bits: np.ndarray) -> np.ndarray:
    """Compress a mask's bits as a snapshot holds them."""
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_content_size=True)
    return np.frombuffer(compressor.compress(np.ascontiguousarray(bits).data), np.uint8)


def replace(reader: RunReader, contents: Contents) -> None:
    """Write a snapshot anew, read it back, and only then let it take the place of the original.

    Parameters
    ----------
    reader : RunReader
    contents : Contents

    Raises
    ------
    DamagedStoreError
        If what was written does not read back: then the original is untouched.
    RunDirectoryError
        If it cannot be written, or the original has gone since: then nothing has changed.
    """
    from safetensors.numpy import save

    text = json.dumps(contents.header, allow_nan=False)
    data = save(contents.tensors, metadata={"sift": text, "xxh3": xxhash.xxh3_128_hexdigest(text.encode())})
    try:
        write_atomically(contents.path, data, mark=SUFFIX, check=lambda written: _verify(reader, contents, written))
    except OSError as error:
        raise RunDirectoryError(
            f"{contents.path}: could not be written anew ({error.strerror or error}), and is as it was; "
            "mend this, then give the same command again"
        ) from error


def _verify(reader: RunReader, contents: Contents, written: Path) -> None:
    """Read back what was written: byte by byte, and the masks that were stored another way by their hashes."""

    def path_of(step: int) -> Path:
        return written if step == contents.step else reader.path(step)

    with open_snapshot(written) as file:
        header = _read_as_written(written, file)
        same = header == contents.header and set(file.keys()) == set(contents.tensors)
        for name, tensor in contents.tensors.items():
            same = same and np.array_equal(read_tensor(file, written, name).view(np.uint8), tensor.view(np.uint8))
    if not same:
        raise DamagedStoreError(f"{written}: does not read back as it was written; look at the disk")
    for entry in header["layers"]:
        if entry.get("ref") is None and entry["name"] in contents.touched:
            bits = read_bits(path_of, contents.step, entry["name"], (math.prod(entry["shape"]) + 7) // 8)
            if xxhash.xxh3_128_hexdigest(bits.data) != entry["xxh3"]:
                raise DamagedStoreError(f"{written}: layer {entry['name']!r} does not read back as it was written")
    if not contents.path.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def clear_unfinished(masks: Path) -> None:
    """Remove what a process that was killed left of files that it wrote anew; their originals are there."""
    for left_over in masks.glob(f".step_*{SUFFIX}.tmp"):
        number = left_over.name.removesuffix(f"{SUFFIX}.tmp").rpartition(".")[2]
        if not (number.isdigit() and _is_running(int(number))):
            left_over.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it belongs to someone else
        return True
    return True
