"""Pack a run: masks become changes of earlier ones, in place. Unpack it: they become whole again.

Every file is rewritten on its own and keeps its name, and what it says does not change: so whenever this stops, each
snapshot reads as before, and the same call goes on from there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sift_graph.errors import DamagedStoreError, UsageError
from sift_graph.store.deltas import encode_change
from sift_graph.store.inside import check_folder
from sift_graph.store.lock import against_recorders
from sift_graph.store.reader import RunReader
from sift_graph.store.rewriting import Contents, clear_unfinished, compress_whole, is_one_file, open_contents, replace

__all__ = ["KEYFRAME_EVERY", "PackResult", "pack_run", "unpack_run"]

KEYFRAME_EVERY = 16
OVERHEAD = 200  # bytes that a change takes in the header: what saves less is left as it is

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PackResult:
    """What packing or unpacking did.

    Attributes
    ----------
    snapshots : int
        Of the run; those that several processes wrote together are left as they are.
    rewritten : tuple of int
        Steps whose file was written anew.
    skipped : tuple of str
        Snapshots that are damaged and were left as they are, each with what is wrong.
    bytes_before, bytes_after : int
        Of all snapshots, weights included.
    weight_bytes : int
        Of the weights, which are not packed.
    """

    snapshots: int
    rewritten: tuple[int, ...]
    skipped: tuple[str, ...]
    bytes_before: int
    bytes_after: int
    weight_bytes: int


@dataclass
class _Held:
    """The newest mask of a layer that a file holds: where, and after how many changes."""

    step: int
    digest: str
    bits: np.ndarray
    depth: int


def pack_run(
    run_dir: str | os.PathLike[str], *, keyframe_every: int = KEYFRAME_EVERY, progress: Progress | None = None
) -> PackResult:
    """Store the masks of a run as changes of earlier ones, wherever that takes less space.

    What is read from the run stays the same. Not for a run that is being recorded.

    Parameters
    ----------
    run_dir : path
    keyframe_every : int
        To read one mask, at most so many masks of its layer are read; 1 for no changes.
    progress : callable, optional
        Called with the snapshots done and the snapshots in all.

    Returns
    -------
    PackResult

    Raises
    ------
    RunDirectoryError
        If the directory is not a run, is being recorded, or cannot be written to: then each snapshot is whole, the old
        one or the new.
    UsageError
        If `keyframe_every` is below 1.
    """
    if keyframe_every < 1:
        raise UsageError(f"keyframe_every: expected 1 or more masks, found {keyframe_every}")
    held: dict[str, _Held] = {}

    def change(reader: RunReader, contents: Contents) -> bool:
        return _pack(reader, contents, held, keyframe_every)

    return _rewrite(run_dir, change, progress)


def unpack_run(run_dir: str | os.PathLike[str], *, progress: Progress | None = None) -> PackResult:
    """Store the masks of a run whole again, as they were recorded; arguments as :func:`pack_run`.

    Parameters
    ----------
    run_dir : path
    progress : callable, optional

    Returns
    -------
    PackResult

    Raises
    ------
    RunDirectoryError
        As :func:`pack_run`.
    """
    return _rewrite(run_dir, _unpack, progress)


def _rewrite(
    run_dir: str | os.PathLike[str], change: Callable[[RunReader, Contents], bool], progress: Progress | None
) -> PackResult:
    """Go through the snapshots in the order of their steps; write those anew that `change` changes."""
    reader = RunReader(Path(run_dir))
    check_folder(reader.run_dir, reader.run_dir / "masks")
    with against_recorders(reader.run_dir):
        return _rewrite_all(reader, change, progress)


def _rewrite_all(
    reader: RunReader, change: Callable[[RunReader, Contents], bool], progress: Progress | None
) -> PackResult:
    clear_unfinished(reader.run_dir / "masks")
    rewritten: list[int] = []
    skipped: list[str] = []
    before = after = weights = 0
    for done, step in enumerate(reader.steps, 1):
        path = reader.path(step)
        if not is_one_file(reader, step):
            continue
        before += path.stat().st_size
        try:
            contents = open_contents(reader, step)
            changed = change(reader, contents)
        except DamagedStoreError as error:
            skipped.append(str(error))
        else:
            if changed:
                replace(reader, contents)
                rewritten.append(step)
            weights += sum(t.nbytes for name, t in contents.tensors.items() if name.startswith("weight/"))
        after += path.stat().st_size
        if progress is not None:
            progress(done, len(reader.steps))
    return PackResult(len(reader.steps), tuple(rewritten), tuple(skipped), before, after, weights)


def _pack(reader: RunReader, contents: Contents, held: dict[str, _Held], keyframe_every: int) -> bool:
    """Choose how each mask that a snapshot holds takes the least space."""
    now: dict[str, _Held] = {}
    changed = False
    for entry in contents.header["layers"]:
        if entry.get("ref") is not None:
            continue
        bits = reader.load_entry(contents.step, entry, weights=False).bits
        name = entry["name"]
        base = held.get(name)
        if base is not None and (base.bits.size != bits.size or base.depth + 1 >= keyframe_every):
            base = None
        if not _is_settled(entry, base):
            changed |= _choose(contents, entry, bits, base)
        depth = base.depth + 1 if base is not None and entry.get("base") == base.step else 0
        now[name] = _Held(contents.step, entry["xxh3"], bits, depth)
    held |= now  # only now that all of it was read: nothing may lean on a file that is damaged
    return changed


def _is_settled(entry: Mapping[str, Any], base: _Held | None) -> bool:
    """Whether a mask is a change already, of the mask that it would be made one of now."""
    return bool(entry["codec"] == "gaps" and entry["base"] == (None if base is None else base.step))


def _choose(contents: Contents, entry: dict[str, Any], bits: np.ndarray, base: _Held | None) -> bool:
    """Store a mask in the least space; whether that is another way than before."""
    was = (entry["codec"], entry.get("base"))
    whole = compress_whole(bits)
    ways: list[tuple[int, int | None, str | None, dict[str, np.ndarray]]] = []
    olds = [(None, None, None)] if base is None else [(None, None, None), (base.step, base.digest, base.bits)]
    for step, digest, old in olds:
        frames = encode_change(old, bits)
        if frames is not None:
            ways.append((sum(frame.size for frame in frames.values()), step, digest, frames))
    size, step, digest, frames = min(ways, key=lambda way: way[0], default=(whole.size, None, None, {}))
    if frames and size + OVERHEAD < whole.size:
        contents.store_change(entry, frames, step, digest)
    elif was[0] != "zstd":
        contents.store_whole(entry, whole)
    return bool(was != (entry["codec"], entry.get("base")))


def _unpack(reader: RunReader, contents: Contents) -> bool:
    """Store whole what is a change."""
    changed = False
    for entry in contents.header["layers"]:
        if entry.get("ref") is None and entry["codec"] == "gaps":
            bits = reader.load_entry(contents.step, entry, weights=False).bits
            contents.store_whole(entry, compress_whole(bits))
            changed = True
    return changed
