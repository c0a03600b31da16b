"""Snapshots that several processes write together, a shard each, and how they become one again.

The format is described in :mod:`sift_graph.store`. No process waits for another: which part of a layer a shard holds
stands in its own header, and a reader puts the parts together. A set of shards that does not make whole layers is a
damaged snapshot.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from sift_graph.errors import DamagedStoreError
from sift_graph.masks import LayerMask
from sift_graph.store.deltas import read_bits
from sift_graph.store.snapshot import decode_layer

__all__ = ["find_shards", "merge_headers", "shard_name", "snapshot_files", "stitch"]

_NAME = re.compile(r"step_(\d{9,18})(?:\.rank(\d{5,7}))?\.safetensors")


def shard_name(step: int, rank: int) -> str:
    """File name of what a rank recorded at a step.

    Returns
    -------
    str
        With at least nine and five digits, so that names sort as steps and ranks do.

    Examples
    --------
    >>> shard_name(1200, 3)
    'step_000001200.rank00003.safetensors'
    """
    return f"step_{step:09d}.rank{rank:05d}.safetensors"


def find_shards(masks: Path) -> dict[int, list[int]]:
    """List the ranks that wrote a shard, by step, from the file names."""
    found: dict[int, list[int]] = {}
    for path in masks.iterdir() if masks.is_dir() else ():
        name = _NAME.fullmatch(path.name)
        if name and name[2]:
            found.setdefault(int(name[1]), []).append(int(name[2]))
    return {step: sorted(ranks) for step, ranks in sorted(found.items())}


def snapshot_files(masks: Path, *, after: int, others: Collection[int] = ()) -> list[Path]:
    """List the files of the snapshots after a step, in ascending order.

    Parameters
    ----------
    masks : Path
    after : int
    others : collection of int
        Ranks whose shards are left out.

    Returns
    -------
    list of Path
    """
    found = []
    for path in masks.iterdir() if masks.is_dir() else ():
        name = _NAME.fullmatch(path.name)
        if name and int(name[1]) > after and (not name[2] or int(name[2]) not in others):
            found.append((int(name[1]), path))
    return [path for _, path in sorted(found)]


def merge_headers(masks: Path, step: int, headers: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Make one header of those of the shards of a step.

    Parameters
    ----------
    masks : Path
        The directory, for the errors.
    step : int
    headers : mapping of int to mapping
        By rank, as the file names give it.

    Returns
    -------
    dict
        As that of a snapshot in one file. The entry of each layer has ``shards``: a list of (rank, entry), for
        :func:`stitch`; its ``xxh3`` and ``weight_xxh3`` are of the hashes of the parts where there are several.

    Raises
    ------
    DamagedStoreError
        If a rank is missing, named, or the shards are not of one snapshot, or do not make whole layers.
    """
    path = masks / shard_name(step, min(headers))
    ranks = headers[min(headers)]["ranks"]
    for rank, header in headers.items():
        at = masks / shard_name(step, rank)
        if header["rank"] != rank:
            raise DamagedStoreError(f"{at}: its header is that of rank {header['rank']}; the file was renamed")
        if header["ranks"] != ranks:
            raise DamagedStoreError(
                f"{at}: is one of {header['ranks']} shards, and that of rank {min(headers)} one of {ranks}; put those "
                "of one job there"
            )
    if (masks / f"step_{step:09d}.safetensors").exists():
        raise DamagedStoreError(f"{path}: step {step} is there in one file, too; put one of both away")
    missing = [rank for rank in range(ranks) if rank not in headers]
    if missing:
        named = ", ".join(map(str, missing[:5])) + (f" and {len(missing) - 5} others" if len(missing) > 5 else "")
        raise DamagedStoreError(
            f"{masks / shard_name(step, missing[0])}: is missing: of the {ranks} shards of step {step} there is "
            f"none of rank {named}. Bring it there if it lies on another machine, or wait if the run is still written; "
            "else the snapshot is lost"
        )
    layers: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for rank in sorted(headers):
        for entry in headers[rank]["layers"]:
            layers.setdefault(entry["name"], []).append((rank, entry))
    merged = [_merge(path, name, shards) for name, shards in layers.items()]
    return {**headers[min(headers)], "layers": merged, "rank": None, "ranks": ranks}


def _merge(path: Path, name: str, shards: Sequence[tuple[int, Mapping[str, Any]]]) -> dict[str, Any]:
    """Make one entry of those that several shards have of a layer."""
    first = shards[0][1]
    kept: dict[tuple[Any, ...], tuple[int, Mapping[str, Any]]] = {}
    for rank, entry in shards:
        for key in ("shape", "groups", "layout"):
            if entry[key] != first[key]:
                raise DamagedStoreError(
                    f"{path}: layer {name!r} has {key} {entry[key]} on rank {rank} and {first[key]} on rank "
                    f"{shards[0][0]}; the shards are of different models"
                )
        offset, shape = _block(entry)
        other = kept.setdefault((*offset, *shape), (rank, entry))
        if other[1]["xxh3"] != entry["xxh3"]:
            raise DamagedStoreError(
                f"{path}: layer {name!r} is there twice and differs: on rank {other[0]} and on rank {rank}; the "
                "processes had different masks"
            )
    parts = [(rank, entry) for rank, entry in kept.values() if math.prod(_block(entry)[1])]
    _check_cover(path, name, first["shape"], [_block(entry) for _, entry in parts])
    entry = {**first, "ref": None, "part": None, "nnz": sum(entry["nnz"] for _, entry in parts)}
    entry["shards"] = sorted(parts, key=lambda part: _block(part[1])[0])
    if len(parts) > 1:
        for key in ("xxh3", "weight_xxh3"):
            hashes = [(_block(part), part[key]) for _, part in entry["shards"]]
            lost = any(one is None for _, one in hashes)
            entry[key] = None if lost else xxhash.xxh3_128_hexdigest(repr(hashes).encode())
    else:
        entry |= {key: parts[0][1][key] for key in ("xxh3", "weight_xxh3")}
    return entry


def _block(entry: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Offset and shape of what an entry holds."""
    part = entry["part"] or {"offset": [0] * len(entry["shape"]), "shape": entry["shape"]}
    return tuple(part["offset"]), tuple(part["shape"])


def _check_cover(
    path: Path, name: str, whole: Sequence[int], blocks: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
) -> None:
    """Refuse blocks that are not the cells of a grid over the whole weight, each once."""
    cells = 1
    for axis, size in enumerate(whole):
        pieces = sorted({(offset[axis], shape[axis]) for offset, shape in blocks})
        ends = [o + n for o, n in pieces]
        if [o for o, _ in pieces] != [0, *ends[:-1]] or ends[-1:] != [size]:
            raise DamagedStoreError(
                f"{path}: the parts of layer {name!r} do not make its shape {tuple(whole)}: on axis {axis} they are "
                f"{_short(f'{o} to {o + n}' for o, n in pieces)}; a shard is of another job, or was altered"
            )
        cells *= len(pieces)
    if cells != len(blocks):
        raise DamagedStoreError(
            f"{path}: layer {name!r} is in {len(blocks)} parts where its shape {tuple(whole)} needs {cells}; a shard "
            "is of another job, or was altered"
        )


def _short(texts: Iterable[str]) -> str:
    listed = list(texts)
    return ", ".join(listed[:4]) + (", ..." if len(listed) > 4 else "") if listed else "none"


def stitch(masks: Path, step: int, entry: Mapping[str, Any], *, weights: bool) -> LayerMask:
    """Load the parts of a layer, verify each, and put them together.

    Parameters
    ----------
    masks : Path
        The directory.
    step : int
    entry : mapping
        One of :func:`merge_headers`.
    weights : bool
        Load the weights too, if all parts have them.

    Returns
    -------
    LayerMask
        The whole layer.

    Raises
    ------
    DamagedStoreError
        If a file is missing, truncated or altered.
    """
    parts = []
    for rank, one in entry["shards"]:
        where = step if one["ref"] is None else one["ref"]
        file_of = partial(_file_of, masks, rank)
        bits = read_bits(file_of, where, entry["name"], (math.prod(_block(one)[1]) + 7) // 8)
        parts.append(decode_layer(file_of(step), file_of(where), one, weights=weights, bits=bits))
    if len(parts) == 1 and parts[0].part is None:
        return parts[0]
    shape = tuple(entry["shape"])
    rows = all(part.shape[1:] == shape[1:] for part in parts)
    bits, values = _join_rows(parts) if rows else _join_blocks(parts, shape)
    return LayerMask(entry["name"], shape, bits, values, entry["groups"], entry["layout"], entry["source"])


def _file_of(masks: Path, rank: int, step: int) -> Path:
    return masks / shard_name(step, rank)


def _join_rows(parts: Sequence[LayerMask]) -> tuple[np.ndarray, np.ndarray | None]:
    """Put blocks of whole rows one after the other, as they are packed: bits, and weights where all have them."""
    bits = np.zeros((sum(part.size for part in parts) + 7) // 8 + 1, dtype=np.uint8)
    at = 0
    for part in parts:
        byte, shift = divmod(at, 8)
        count = len(part.bits)
        bits[byte : byte + count] |= part.bits << shift
        if shift:
            bits[byte + 1 : byte + 1 + count] |= part.bits >> (8 - shift)
        at += part.size
    found = [part.values for part in parts if part.values is not None]
    return bits[:-1], np.concatenate(found) if len(found) == len(parts) else None


def _join_blocks(parts: Sequence[LayerMask], shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray | None]:
    """Put blocks where they lie, unpacked."""
    dense = np.zeros(shape, dtype=np.bool_)
    weights = np.zeros(shape, dtype=np.float32) if all(part.values is not None for part in parts) else None
    for part in parts:
        assert part.part is not None
        block = tuple(slice(o, o + n) for o, n in zip(part.part.offset, part.shape, strict=True))
        dense[block] = part.mask
        if weights is not None:
            weights[block] = part.weight
    bits = np.packbits(dense, axis=None, bitorder="little")
    return bits, None if weights is None else weights.reshape(-1).compress(dense.reshape(-1))
