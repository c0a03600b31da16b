"""One snapshot as the bytes of one file: encode, decode, and refuse what no writer of the format makes.

The format is described in :mod:`sift_graph.store`. Whatever is read here may come from a stranger: sizes are checked
against what the header claims before anything is allocated, nothing is executed, and every fault is a
:class:`~sift_graph.errors.DamagedStoreError` that names the file.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash
import zstandard

from sift_graph.errors import DamagedStoreError, MaskError
from sift_graph.masks import LayerMask, Part, Snapshot
from sift_graph.store.inside import check_file
from sift_graph.store.parsing import MAX_BYTES, parse_json

__all__ = [
    "FORMAT",
    "LEVEL",
    "MAX_ENTRIES",
    "EncodedSnapshot",
    "WeightPolicy",
    "decode_layer",
    "decompress",
    "encode_snapshot",
    "find_entry",
    "open_snapshot",
    "parse_header",
    "read_header",
    "read_tensor",
]

FORMAT = "sift-mask/1"
LEVEL = 1
MAX_AXES = 16
MAX_RANKS = 1 << 20
MAX_ENTRIES = 1 << 34  # of one layer, 2 GiB of bits; a header that claims more is refused before anything is allocated

WeightPolicy = Literal["none", "fp16", "fp32"]


@dataclass(frozen=True)
class EncodedSnapshot:
    """A snapshot as the bytes of its file.

    Attributes
    ----------
    data : bytes
        The file.
    held : mapping of str to (str, int)
        Digest of each layer's last stored mask, and the step whose file holds it, this file counted.
    """

    data: bytes
    held: Mapping[str, tuple[str, int]]


def encode_snapshot(
    snapshot: Snapshot,
    held: Mapping[str, tuple[str, int]],
    *,
    run_id: str,
    weights: WeightPolicy,
    rank: tuple[int, int] | None = None,
) -> EncodedSnapshot:
    """Encode a snapshot as the bytes of its file.

    Parameters
    ----------
    snapshot : Snapshot
    held : mapping of str to (str, int)
        Digest of each layer's last stored mask, and the step whose file holds it; masks that equal theirs are not
        stored again.
    run_id : str
    weights : {"none", "fp16", "fp32"}
        How the weights that the layers carry are stored.
    rank : (int, int), optional
        Of a shard: which rank's of how many.

    Returns
    -------
    EncodedSnapshot
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
                "shape": list(layer.shape if layer.part is None else layer.part.whole),
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
        if layer.part is not None:
            entries[-1]["part"] = {"offset": list(layer.part.offset), "shape": list(layer.shape)}
    header = {
        "format": FORMAT,
        "run_id": run_id,
        "step": snapshot.step,
        "epoch": snapshot.epoch,
        "wall_time": time.time() if math.isnan(snapshot.wall_time) else snapshot.wall_time,
        "layers": entries,
    }
    if rank is not None:
        header["rank"], header["ranks"] = rank
    text = json.dumps(header, allow_nan=False)
    data = save(tensors, metadata={"sift": text, "xxh3": xxhash.xxh3_128_hexdigest(text.encode())})
    return EncodedSnapshot(data, now)


def _stored_values(values: np.ndarray, weights: WeightPolicy) -> np.ndarray:
    """Weights as they are stored: float32 where float16 would overflow; below its range float16 is off by 3e-8."""
    single = np.ascontiguousarray(values, dtype=np.float32)
    if weights == "fp32":
        return single
    with np.errstate(over="ignore"):
        half = single.astype(np.float16)
    if np.array_equal(np.isfinite(half), np.isfinite(single)):
        return half
    return single


def read_header(path: Path) -> dict[str, Any]:
    """Read and check the header of a snapshot; its tensors stay on disk.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict
        With ``layers`` as a list of entries that :func:`decode_layer` takes.

    Raises
    ------
    DamagedStoreError
        If the file is missing, truncated, or its header is not one of this format.
    """
    with open_snapshot(path) as file:
        return parse_header(path, file.metadata() or {})


def parse_header(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Check a header that was read from `path`; as :func:`read_header`."""
    text = metadata.get("sift", "")
    if "xxh3" in metadata and xxhash.xxh3_128_hexdigest(text.encode()) != metadata["xxh3"]:
        raise DamagedStoreError(f"{path}: its header does not match its hash; the file was altered")
    try:
        header = parse_json(text)
    except ValueError as error:
        raise DamagedStoreError(
            f"{path}: has no readable 'sift' header ({type(error).__name__}: {str(error)[:80]}); "
            "it was altered, or not written by sift-graph"
        ) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT or not isinstance(header.get("layers"), list):
        found = header.get("format") if isinstance(header, dict) else type(header).__name__
        raise DamagedStoreError(f"{path}: expected a header of format {FORMAT!r}, found {str(found)[:80]!r}")
    for entry in header["layers"]:
        _check_entry(path, entry)
        entry.pop("shards", None)  # what a reader of shards puts there is in no file
    rank, ranks = header.setdefault("rank", None), header.setdefault("ranks", None)
    if (rank, ranks) != (None, None) and not _is_place(rank, ranks):
        raise DamagedStoreError(
            f"{path}: expected a rank below the number of ranks, found {str(rank)[:40]} of {str(ranks)[:40]}"
        )
    if ranks is None and any(entry["part"] is not None for entry in header["layers"]):
        raise DamagedStoreError(f"{path}: holds a part of a layer and is no shard; the file was altered")
    names = [entry["name"] for entry in header["layers"]]
    if len(set(names)) != len(names):
        raise DamagedStoreError(f"{path}: its header names a layer twice; the file was altered")
    for key in ("epoch", "wall_time"):
        value = header.setdefault(key, None)
        if value is not None and not (_is_number(value) and math.isfinite(value)):
            raise DamagedStoreError(
                f"{path}: expected a number as {key}, found {str(value)[:80]!r}; the file was altered"
            )
    return header


def find_entry(header: Mapping[str, Any], layer: str) -> dict[str, Any] | None:
    """Look a layer up in a header that was checked; None where it is not there."""
    found: Iterator[dict[str, Any]] = (entry for entry in header["layers"] if entry["name"] == layer)
    return next(found, None)


def decode_layer(
    path: Path, mask_path: Path, entry: Mapping[str, Any], *, weights: bool, bits: np.ndarray | None = None
) -> LayerMask:
    """Load the layer of a header entry, and verify it against the entry.

    Parameters
    ----------
    path : Path
        File whose header holds the entry, and the layer's weights.
    mask_path : Path
        File that holds the layer's bits: `path`, or that of the step which the entry refers to.
    entry : mapping
        One of the ``layers`` of :func:`read_header`.
    weights : bool
        Load its weights too, if any were recorded.
    bits : ndarray of uint8, optional
        The mask's bits, as :func:`sift_graph.store.deltas.read_bits` reads them of `mask_path`; read from there, where
        they are stored whole, if not given.

    Returns
    -------
    LayerMask

    Raises
    ------
    DamagedStoreError
        If a file is missing, truncated or altered.
    """
    layer = entry["name"]
    shape, part = tuple(entry["shape"]), None
    if entry.get("part") is not None:
        part = Part(tuple(entry["part"]["offset"]), shape)
        shape = tuple(entry["part"]["shape"])
    if bits is None:
        with open_snapshot(mask_path) as file:
            frame = read_tensor(file, mask_path, f"mask/{layer}")
        bits = decompress(mask_path, layer, frame, (math.prod(shape) + 7) // 8)
    if xxhash.xxh3_128_hexdigest(bits.data) != entry["xxh3"]:
        raise DamagedStoreError(
            f"{mask_path}: the mask of layer {layer!r} does not match its hash; the file was altered"
        )
    values = None
    if weights and entry.get("weight_xxh3") is not None:
        with open_snapshot(path) as file:
            stored = read_tensor(file, path, f"weight/{layer}")
        if xxhash.xxh3_128_hexdigest(stored.tobytes()) != entry["weight_xxh3"]:
            raise DamagedStoreError(
                f"{path}: the weights of layer {layer!r} do not match their hash; the file was altered"
            )
        if stored.dtype not in (np.float16, np.float32):
            raise DamagedStoreError(
                f"{path}: the weights of layer {layer!r} have dtype {stored.dtype}; the file was altered"
            )
        values = stored.astype(np.float32)
    try:
        mask = LayerMask(
            layer, shape, bits, values, entry["groups"], entry["layout"], entry.get("source", "unknown"), part
        )
    except MaskError as error:
        raise DamagedStoreError(f"{path}: {error}") from error
    if mask.edges != entry["nnz"]:
        raise DamagedStoreError(
            f"{path}: the header says that layer {layer!r} keeps {entry['nnz']} entries, its mask keeps {mask.edges}; "
            "the file was altered"
        )
    return mask


def open_snapshot(path: Path) -> Any:
    """Open a snapshot with safetensors, which checks that its tensors fill the file exactly."""
    from safetensors import SafetensorError, safe_open

    check_file(path.parent.parent, path)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > MAX_BYTES and length <= path.stat().st_size:
            raise DamagedStoreError(f"{path}: its header has {length} bytes, expected at most {MAX_BYTES}")
        return safe_open(path, framework="np")
    except FileNotFoundError as error:
        raise DamagedStoreError(
            f"{path}: is missing; restore it from a copy, or remove the snapshots that need it"
        ) from error
    except (SafetensorError, OSError) as error:
        raise DamagedStoreError(f"{path}: truncated or not a snapshot ({error}); restore it, or remove it") from error


def read_tensor(file: Any, path: Path, name: str) -> np.ndarray:
    """Read one tensor of a snapshot that is open."""
    from safetensors import SafetensorError

    try:
        return np.asarray(file.get_tensor(name))
    except (SafetensorError, TypeError, ValueError, AttributeError) as error:  # absent, or of a dtype numpy lacks
        raise DamagedStoreError(f"{path}: holds no readable tensor {name!r} ({error}); the file was altered") from error


def decompress(path: Path, layer: str, frame: np.ndarray, expected: int) -> np.ndarray:
    """Decompress a mask's bits to exactly `expected` bytes, or say that the file was altered."""
    if frame.dtype != np.uint8 or frame.ndim != 1:
        raise DamagedStoreError(
            f"{path}: the mask of layer {layer!r} is {frame.dtype} of shape {frame.shape}, expected uint8 of one axis; "
            "the file was altered"
        )
    packed = frame.tobytes()
    try:
        claimed = zstandard.frame_content_size(packed)
        if claimed != expected:
            raise DamagedStoreError(
                f"{path}: the mask of layer {layer!r} claims {claimed} bytes where its shape needs {expected}; "
                "the file was altered"
            )
        raw = zstandard.ZstdDecompressor().decompress(packed, max_output_size=expected, allow_extra_data=False)
    except (zstandard.ZstdError, ValueError) as error:
        raise DamagedStoreError(
            f"{path}: the mask of layer {layer!r} cannot be decompressed ({error}); the file was altered"
        ) from error
    return np.frombuffer(raw, dtype=np.uint8)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_ENTRIES


def _is_place(rank: Any, ranks: Any) -> bool:
    """Whether this is a rank, and the number of ranks."""
    return _is_count(rank) and _is_count(ranks) and rank < ranks <= MAX_RANKS


def _is_part(part: Any, whole: list[int]) -> bool:
    """Whether this is where a block lies within a weight of a shape."""
    if not isinstance(part, dict):
        return False
    offset: Any = part.get("offset")
    shape: Any = part.get("shape")
    for numbers in (offset, shape):
        if not (isinstance(numbers, list) and len(numbers) == len(whole) and all(map(_is_count, numbers))):
            return False
    return all(o + n <= w for o, n, w in zip(offset, shape, whole, strict=True))


def _is_change(entry: Mapping[str, Any]) -> bool:
    """Whether an entry says whose change its mask is."""
    base = entry.get("base")
    from_nothing = base is None and entry.get("base_xxh3") is None
    return entry.get("codec") == "gaps" and (
        from_nothing or (_is_count(base) and isinstance(entry.get("base_xxh3"), str))
    )


def _check_entry(path: Path, entry: Any) -> None:
    """Refuse a layer entry that no writer of this format makes, before anything is allocated for it."""
    good = (
        isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get("shape"), list)
        and 2 <= len(entry["shape"]) <= MAX_AXES
        and all(_is_count(n) and n > 0 for n in entry["shape"])
        and math.prod(entry["shape"]) <= MAX_ENTRIES
        and _is_count(entry.get("groups"))
        and entry["groups"] > 0
        and _is_count(entry.get("nnz"))
        and isinstance(entry.get("xxh3"), str)
        and (entry.get("codec") == "zstd" or _is_change(entry))
        and entry.get("layout") in ("oi", "io")
        and (entry.setdefault("ref", None) is None or _is_count(entry["ref"]))
        and isinstance(entry.setdefault("weight_xxh3", None), str | None)
        and isinstance(entry.setdefault("source", "unknown"), str)
        and (entry.setdefault("part", None) is None or _is_part(entry["part"], entry["shape"]))
    )
    if not good:
        name = entry.get("name") if isinstance(entry, dict) else entry
        raise DamagedStoreError(
            f"{path}: the header entry of layer {str(name)[:80]!r} is not one of format {FORMAT!r}, "
            f"or claims more than {MAX_ENTRIES} entries; the file was altered"
        )
