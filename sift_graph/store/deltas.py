"""A mask as the change of an earlier one: two streams of gaps, and the way back through as many changes as there are.

The streams are described in :mod:`sift_graph.store`. How a mask is stored is read off the file that holds it, so that a
run may be packed while others read it. Masks that were put together are kept for a while, by their hash: whoever walks
through the steps of a layer applies one change at each.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
import zstandard

from sift_graph.errors import DamagedStoreError
from sift_graph.store.snapshot import LEVEL, decompress, find_entry, open_snapshot, parse_header, read_tensor

__all__ = ["STREAMS", "encode_change", "forget", "read_bits"]

STREAMS = ("drop", "grow")
RECENT_BYTES = 256 << 20  # all masks of a step, up to 2^31 weights: who goes step by step reads each change once
# Gaps repeat by chance only: with 30 % moved, frames of the plain level 1 are 1.7 % longer, those of level 3 6.7 %.
_FEW_MATCHES = zstandard.ZstdCompressionParameters.from_level(LEVEL, min_match=7, hash_log=6, write_content_size=1)


class _Recent:
    """Masks by their hash, the oldest forgotten first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self.kept: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, digest: str, size: int) -> np.ndarray | None:
        with self.lock:
            bits = self.kept.get((digest, size))
            if bits is not None:
                self.kept.move_to_end((digest, size))
            return bits

    def put(self, digest: str, bits: np.ndarray) -> None:
        with self.lock:
            if (digest, bits.size) not in self.kept and bits.size <= self.limit:
                self.kept[digest, bits.size] = bits
                self.size += bits.size
            while self.size > self.limit:
                _, oldest = self.kept.popitem(last=False)
                self.size -= oldest.size

    def clear(self) -> None:
        with self.lock:
            self.kept.clear()
            self.size = 0


_recent = _Recent(RECENT_BYTES)


def forget() -> None:
    """Forget the masks that were put together: what is read next comes from the files."""
    _recent.clear()


def encode_change(old: np.ndarray | None, new: np.ndarray) -> dict[str, np.ndarray] | None:
    """Encode a mask as the change of another one.

    Parameters
    ----------
    old : ndarray of uint8, shape (bytes,), or None
        The other mask's bits; None stands for the empty mask.
    new : ndarray of uint8, shape (bytes,)

    Returns
    -------
    dict of str to ndarray of uint8, or None
        A zstd frame for each of ``drop`` and ``grow``; None where so much changes that its streams may not be longer.
    """
    from sift_graph.store.gaps import list_gaps

    after = _words(new)
    before = np.zeros_like(after) if old is None else _words(old)
    compressor = zstandard.ZstdCompressor(compression_params=_FEW_MATCHES)
    frames = {}
    for stream, among, changed in (("drop", before, before & ~after), ("grow", ~before, after & ~before)):
        listed = int(np.bitwise_count(changed).sum(dtype=np.int64))
        if listed > _longest(new.size):
            return None
        out = np.empty(listed + 64 * after.size // 255 + 1, np.uint8)
        gaps = out[: list_gaps(among, changed, out)]
        if gaps.size > _longest(new.size):
            return None
        frames[stream] = np.frombuffer(compressor.compress(gaps.data), np.uint8)
    return frames


def read_bits(path_of: Callable[[int], Path], step: int, layer: str, size: int) -> np.ndarray:
    """Read the bits of a mask from the file that holds it, whole or as a change of an earlier one.

    Parameters
    ----------
    path_of : callable
        Gives the file of a step.
    step : int
        The step whose file holds the mask.
    layer : str
    size : int
        Bytes of the mask.

    Returns
    -------
    ndarray of uint8, shape (size,)
        Not to be written to. What was put together of changes matches the hash in its own file; one that was stored
        whole is not hashed here.

    Raises
    ------
    DamagedStoreError
        If a file that is needed is missing, truncated or altered.
    """
    changes: list[tuple[Path, Mapping[str, Any], list[np.ndarray]]] = []
    at, bits = step, None
    while bits is None:
        path = path_of(at)
        with open_snapshot(path) as file:
            entry = None
            if f"grow/{layer}" in file.keys():  # noqa: SIM118  not a mapping
                entry = find_entry(parse_header(path, file.metadata() or {}), layer)
            if entry is None or entry["codec"] != "gaps":
                bits = decompress(path, layer, read_tensor(file, path, f"mask/{layer}"), size)
                break
            frames = [read_tensor(file, path, f"{stream}/{layer}") for stream in STREAMS]
        changes.append((path, entry, frames))
        if entry["base"] is None:
            bits = np.zeros(size, np.uint8)
        elif entry["base"] >= at:
            raise DamagedStoreError(
                f"{path}: the mask of layer {layer!r} is a change of that of step {entry['base']}, which is not an "
                "earlier one; the file was altered"
            )
        else:
            at = entry["base"]
            bits = _recent.get(entry["base_xxh3"], size)
    if changes and changes[-1][1]["base"] is not None:
        _check(path_of(at), layer, bits, changes[-1][1]["base_xxh3"])
    for path, entry, frames in reversed(changes):
        bits = _apply(path, layer, bits, frames)
        _check(path, layer, bits, entry["xxh3"])
    return bits


def _check(path: Path, layer: str, bits: np.ndarray, digest: str) -> None:
    """Keep a mask that matches its hash; name the file of one that does not."""
    if xxhash.xxh3_128_hexdigest(bits.data) != digest:
        raise DamagedStoreError(f"{path}: the mask of layer {layer!r} does not match its hash; the file was altered")
    _recent.put(digest, bits)


def _apply(path: Path, layer: str, old: np.ndarray, frames: list[np.ndarray]) -> np.ndarray:
    """Apply a change."""
    from sift_graph.store.gaps import set_listed

    before = _words(old)
    turned = np.zeros_like(before)
    for among, frame in zip((before, ~before), frames, strict=True):
        if not set_listed(among, _unfold(path, layer, frame, old.size), turned):
            raise DamagedStoreError(
                f"{path}: a stream of gaps of layer {layer!r} leads beyond its mask; the file was altered"
            )
    bits: np.ndarray = (before ^ turned).view(np.uint8)[: old.size].copy()
    bits.flags.writeable = False
    return bits


def _unfold(path: Path, layer: str, frame: np.ndarray, size: int) -> np.ndarray:
    """Decompress a stream, unless it claims to be longer than one of such a mask can be."""
    try:
        claimed = zstandard.frame_content_size(frame.tobytes())
    except zstandard.ZstdError:
        claimed = 0  # and then it cannot be decompressed, which is said below
    if not 0 <= claimed <= _longest(size):
        raise DamagedStoreError(
            f"{path}: a stream of gaps of layer {layer!r} claims {claimed} bytes where {_longest(size)} are the most; "
            "the file was altered"
        )
    return decompress(path, layer, frame, claimed)


def _longest(size: int) -> int:
    """Bytes that a stream of a mask of so many bytes may have: with more, the change is not worth it."""
    return 4 * size


def _words(bits: np.ndarray) -> np.ndarray:
    """Bits as 64-bit words, padded with zeros."""
    padded = np.zeros((bits.size + 7) // 8 * 8, np.uint8)
    padded[: bits.size] = bits
    return padded.view("<u8").astype(np.uint64, copy=False)
