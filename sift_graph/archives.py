"""Open the files that masks come in: numpy arrays and archives, safetensors, PyTorch state dicts.

A file comes from a stranger: nothing in it is executed, and sizes are read from its headers and compared with the
file before anything is allocated. Opening one finds which of its arrays are a layer's mask and weight; the arrays are
loaded one by one.
"""

from __future__ import annotations

import io
import json
import math
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sift_graph.arrays import as_array
from sift_graph.bitmasks import with_bitmasks
from sift_graph.errors import MaskError
from sift_graph.masks import layer_name
from sift_graph.packed import View
from sift_graph.pairing import Archive, pair_by_name, pair_by_suffix, with_views
from sift_graph.pickles import check_tuples
from sift_graph.store import MAX_ENTRIES
from sift_graph.stored import is_sparse, stored_entries

__all__ = ["OPENERS", "Archive", "open_checkpoint", "open_npy", "open_npz", "open_safetensors"]

MAX_NPY_HEADER = 10_000  # bytes; numpy reads no longer one
MAX_EXPANSION = 1032  # deflate cannot do better; also the most entries that a byte of a file may stand for


def _check_size(path: Path, key: str, shape: tuple[int, ...], available: int) -> None:
    """Refuse an array that claims more entries than its bytes could hold, before it is allocated."""
    entries = math.prod(shape)
    if any(n < 0 for n in shape) or entries > MAX_ENTRIES or entries > MAX_EXPANSION * (available + 1024):
        raise MaskError(
            f"{path}: {key[:80]!r} claims shape {str(shape)[:80]}, which {available} bytes cannot hold "
            f"(nor may a layer have more than {MAX_ENTRIES} entries); the file was altered"
        )


def open_npz(path: Path) -> Archive:
    """Open a numpy archive; arrays are loaded one by one, and never as pickled objects."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(path, archive)
            shapes, dtypes, skipped = {}, {}, []
            for key, info in members.items():
                with archive.open(info) as file:
                    shape, dtype = _read_npy_head(path, key, file, info.file_size)
                if dtype.hasobject:
                    skipped.append((key, "is a Python object (None, a dense layer in jaxpruner?), never unpickled"))
                else:
                    shapes[key], dtypes[key] = shape, dtype
    except MaskError:
        raise
    except _UNREADABLE as error:
        raise MaskError(f"{path}: truncated, or not a numpy archive ({error}); save it again with np.savez") from error

    def load(key: str) -> np.ndarray:
        try:
            with zipfile.ZipFile(path) as archive, archive.open(members[key]) as file:
                return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
        except _UNREADABLE as error:
            raise MaskError(f"{path}: {key!r} cannot be read ({error}); the file was altered") from error

    return pair_by_name(path, shapes, load, dtypes=dtypes, skipped=skipped)


_UNREADABLE = (  # what zipfile, zlib and numpy raise at what they cannot read
    zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zlib.error, TypeError,
    SyntaxError, struct.error, tokenize.TokenError, OverflowError, MemoryError, IndexError, KeyError,
)  # fmt: skip


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """List the arrays of a numpy archive; refuse names twice, foreign compression and sizes that are not there."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        key = info.filename.removesuffix(".npy")
        if key in members:
            raise MaskError(f"{path}: holds {key[:80]!r} twice; save it again with np.savez")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise MaskError(
                f"{path}: {key[:80]!r} is compressed by method {info.compress_type}, which numpy does not write; "
                "save it again with np.savez_compressed"
            )
        if info.file_size > MAX_EXPANSION * (info.compress_size + 1024):
            raise MaskError(f"{path}: {key[:80]!r} claims {info.file_size} bytes; the file was altered")
        members[key] = info
    packed, available = sum(info.compress_size for info in members.values()), path.stat().st_size
    if packed > available:
        raise MaskError(f"{path}: claims {packed} packed bytes and has {available}; the file was altered")
    return members


def open_npy(path: Path) -> Archive:
    """Open one numpy array: the mask of the layer that the file is named for, without the number of a step."""
    layer = re.sub(r"[._-]step[._-]?\d+$", "", path.stem)
    try:
        with path.open("rb") as file:
            shape, dtype = _read_npy_head(path, path.name, file, path.stat().st_size)
    except MaskError:
        raise
    except _UNREADABLE as error:
        raise MaskError(f"{path}: truncated, or not a numpy array ({error}); save it again with np.save") from error
    if dtype.hasobject:
        raise MaskError(f"{path}: holds a Python object, which is never unpickled; save each mask by np.savez")

    def load(key: str) -> np.ndarray:
        try:
            return np.asarray(np.load(path, allow_pickle=False))
        except _UNREADABLE as error:
            raise MaskError(f"{path}: truncated, or altered ({error}); save it again with np.save") from error

    return pair_by_name(path, {layer: shape}, load, dtypes={layer: dtype})


def _read_npy_head(path: Path, key: str, file: Any, available: int) -> tuple[tuple[int, ...], np.dtype]:
    """Read shape and dtype of an array; of objects only a single one is let through, to be left out."""
    head = io.BytesIO(file.read(12 + MAX_NPY_HEADER))  # a header may claim 4 GiB: no more than this is looked at
    version = np.lib.format.read_magic(head)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(head)
    if dtype.hasobject and shape != ():
        raise MaskError(
            f"{path}: {key!r} holds Python objects, which are never unpickled; save a plain array of bools or numbers"
        )
    _check_size(path, key, shape, available)
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize > available:
        raise MaskError(f"{path}: {key!r} claims shape {shape}, which {available} bytes cannot hold; it was altered")
    return tuple(int(n) for n in shape), dtype


def open_safetensors(path: Path) -> Archive:
    """Open a safetensors state dict; tensors are loaded one by one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            keys = sorted(file.keys(), key=_natural)  # the format sorts by dtype: network order is not in the file
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in keys}
    except (SafetensorError, OSError) as error:
        raise MaskError(f"{path}: truncated, or not a safetensors file ({error}); save it again") from error

    def load(key: str) -> np.ndarray:
        try:
            with safe_open(path, framework="np") as file:
                if file.get_slice(key).get_dtype() == "BF16":
                    return _read_bfloat16(path, key)
                return np.asarray(file.get_tensor(key))
        except (SafetensorError, OSError, TypeError, AttributeError) as error:
            raise MaskError(f"{path}: {key!r} cannot be read ({error}); save it as float32") from error

    return with_bitmasks(pair_by_suffix(path, shapes, load))


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts ``layer.2`` before ``layer.10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d{1,18})", name)]


def _read_bfloat16(path: Path, key: str) -> np.ndarray:
    """Read a tensor of bfloat16, which numpy lacks, as float32; the header has been checked by safetensors."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(length))[key]
        start, stop = entry["data_offsets"]
        file.seek(8 + length + start)
        halves = np.frombuffer(file.read(stop - start), dtype="<u2")
    return (halves.astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])


def open_checkpoint(path: Path) -> Archive:
    """Open a PyTorch checkpoint with ``weights_only=True``: code that it may carry is refused, not run."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MaskError(
            f'{path}: a PyTorch checkpoint needs torch; pip install "sift-graph[torch]", or save it as .safetensors'
        ) from error
    available = path.stat().st_size
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if sum(info.file_size for info in archive.infolist()) > available:
                    raise MaskError("it claims more bytes than it has")
                for name in archive.namelist():
                    if name.endswith(".pkl"):
                        check_tuples(archive.read(name))
        else:
            with path.open("rb") as file:
                for _ in range(5):  # a magic number, a version, the system, the content, the keys
                    check_tuples(file)
        content = torch.load(path, weights_only=True, map_location="cpu")
    except MaskError as error:
        raise MaskError(f"{path}: {error}; the file was altered. Save the state dict alone") from error
    except Exception as error:  # torch raises whatever its parser meets: pickle, struct, zip, runtime errors
        why = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise MaskError(
            f"{path}: truncated, not a PyTorch checkpoint, or holding more than tensors ({why}); nothing in it "
            "was run. Save the state dict alone: torch.save(model.state_dict(), file)"
        ) from error
    tensors = dict(_tensors_in(content))
    tensors = {**_optimizer_masks(content, tensors), **tensors}
    try:
        shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    except RuntimeError as error:  # a nested tensor has no shape
        raise MaskError(f"{path}: holds a tensor without a shape ({str(error)[:80]}); save plain tensors") from error
    for key, shape in shapes.items():
        _check_size(path, key, shape, available)

    def load(key: str) -> np.ndarray:
        try:
            return as_array(tensors[key])
        except (TypeError, RuntimeError, NotImplementedError) as error:  # quantised, on the meta device, ...
            raise MaskError(f"{path}: {key!r} cannot be read ({error}); save it as a plain tensor") from error

    return _with_stored_entries(with_bitmasks(pair_by_suffix(path, shapes, load)), tensors)


def _optimizer_masks(content: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Masks in the state of a sparse optimizer that knows names (cbsparse), each under ``<parameter>_mask``."""
    spelled = {layer_name(key): key for key in tensors}  # the optimizer may know the model by another prefix
    found = {}
    for state, group in _groups_in(content):
        names, indices = group.get("names", group.get("param_names")), group.get("params")
        if not isinstance(names, list | tuple) or not isinstance(indices, list) or len(names) != len(indices):
            continue  # whose masks they are cannot be told
        for name, index in zip(names, indices, strict=True):
            kept = state.get(index) if isinstance(index, int | str) else None
            mask = kept.get("mask") if isinstance(kept, Mapping) else None
            if isinstance(name, str) and hasattr(mask, "detach"):
                found[f"{spelled.get(layer_name(name), name)}_mask"] = mask
    return found


def _groups_in(content: Any) -> Iterator[tuple[Mapping[Any, Any], Mapping[Any, Any]]]:
    """State and each parameter group of the optimizers that a checkpoint holds."""
    for saved in content.values() if isinstance(content, Mapping) else ():
        if isinstance(saved, Mapping) and isinstance(saved.get("state"), Mapping):
            groups = saved.get("param_groups")
            for group in groups if isinstance(groups, list) else ():
                if isinstance(group, Mapping):
                    yield saved["state"], group


def _with_stored_entries(archive: Archive, tensors: Mapping[str, Any]) -> Archive:
    """Give each sparse tensor without a mask the entries that it stores."""
    pairs = dict(archive.pairs)
    views: dict[str, View] = {}
    for layer, (mask, weight) in archive.pairs.items():
        if mask is None and weight is not None and is_sparse(tensors[weight]):
            key = f"stored entries of {weight}"
            views[key] = (archive.shapes[weight], partial(stored_entries, tensors[weight]))
            pairs[layer] = (key, weight)
    return with_views(replace(archive, pairs=pairs), views)


def _tensors_in(content: Any) -> Iterator[tuple[str, Any]]:
    """Tensors of a state dict, or of the one that a checkpoint holds under a customary name."""
    if not isinstance(content, Mapping):
        return
    for name in ("state_dict", "model_state_dict", "model_state", "model", "module", "net"):
        if isinstance(content.get(name), Mapping):
            content = content[name]
            break
    for key, value in content.items():
        if isinstance(key, str) and hasattr(value, "detach"):
            yield key, value


OPENERS: dict[str, Callable[[Path], Archive]] = {
    ".npz": open_npz,
    ".safetensors": open_safetensors,
    ".pt": open_checkpoint,
    ".pth": open_checkpoint,
    ".npy": open_npy,
}
