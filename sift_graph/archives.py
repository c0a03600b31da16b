"""Open the files that masks come in: numpy archives, safetensors, PyTorch state dicts.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sift_graph.errors import MaskError
from sift_graph.masks import as_array, layer_name
from sift_graph.pickles import check_tuples
from sift_graph.store import MAX_ENTRIES

__all__ = ["OPENERS", "Archive", "open_checkpoint", "open_npz", "open_safetensors"]

MAX_NPY_HEADER = 10_000  # bytes; numpy reads no longer one
MAX_EXPANSION = 1032  # deflate cannot do better; also the most entries that a byte of a file may stand for


@dataclass(frozen=True)
class Archive:
    """A file of arrays, and which of them are a layer's mask and weight.

    Attributes
    ----------
    path : Path
    shapes : mapping of str to tuple of int
        Shape of each array, by its key in the file.
    load : callable
        Loads the array of a key.
    pairs : mapping of str to (str or None, str or None)
        Keys of the mask and of the weight, by layer.
    groups : mapping of str to str
        Keys of the numbers of groups, by layer.
    skipped : tuple of (str, str)
        Keys that are none of these, each with the reason.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    load: Callable[[str], np.ndarray]
    pairs: Mapping[str, tuple[str | None, str | None]]
    groups: Mapping[str, str]
    skipped: tuple[tuple[str, str], ...]


def _by_name(path: Path, shapes: Mapping[str, tuple[int, ...]], load: Callable[[str], np.ndarray]) -> Archive:
    """Pair the arrays of a numpy archive: ``mask/<layer>``, ``weight/<layer>``, ``groups/<layer>``."""
    kinds: dict[str, dict[str, str]] = {"mask": {}, "weight": {}, "groups": {}, "bare": {}}
    skipped = []
    for key, shape in shapes.items():
        kind, slash, name = key.partition("/")
        if not slash or kind not in kinds:
            kind, name = "bare", key  # an array without a prefix counts only if masks are derived
            if len(shape) < 2:
                skipped.append((key, "is not named mask/<layer>, weight/<layer> or groups/<layer>"))
                continue
        layer = layer_name(name)
        if layer in kinds[kind]:
            raise MaskError(
                f"{path}: {kinds[kind][layer]!r} and {key!r} are the {kind} of one layer, {layer!r}; remove one"
            )
        kinds[kind][layer] = key
    weights = {**kinds["bare"], **kinds["weight"]}
    names = dict.fromkeys([*kinds["mask"], *weights])
    pairs = {name: (kinds["mask"].get(name), weights.get(name)) for name in names}
    return Archive(path, shapes, load, pairs, kinds["groups"], tuple(skipped))


def _by_suffix(path: Path, shapes: Mapping[str, tuple[int, ...]], load: Callable[[str], np.ndarray]) -> Archive:
    """Pair the tensors of a state dict: ``<name>_mask`` with ``<name>_orig`` or ``<name>``."""
    pairs: dict[str, tuple[str | None, str | None]] = {}
    skipped = []
    masked = {key.removesuffix("_mask"): key for key in shapes if key.endswith("_mask")}
    for key, shape in shapes.items():
        if masked.get(key.removesuffix("_mask")) == key:
            base = key.removesuffix("_mask")
            weight = next((name for name in (f"{base}_orig", base) if name in shapes), None)
            if weight is None and base.rpartition(".")[2] != "weight":
                skipped.append((key, "belongs to no weight of the file"))
            elif weight is not None and len(shapes[weight]) < 2:
                skipped.append((key, "is the mask of a bias or norm, which has one axis"))
            else:
                pairs[layer_name(base)] = (key, weight)
        elif len(shape) >= 2 and key not in masked and key.removesuffix("_orig") not in masked:
            pairs.setdefault(layer_name(key), (None, key))
    return Archive(path, shapes, load, pairs, {}, tuple(skipped))


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
            shapes = {}
            for key, info in members.items():
                with archive.open(info) as file:
                    shapes[key] = _read_npy_shape(path, key, file, info.file_size)
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

    return _by_name(path, shapes, load)


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


def _read_npy_shape(path: Path, key: str, file: Any, available: int) -> tuple[int, ...]:
    head = io.BytesIO(file.read(12 + MAX_NPY_HEADER))  # a header may claim 4 GiB: no more than this is looked at
    version = np.lib.format.read_magic(head)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(head)
    if dtype.hasobject:
        raise MaskError(
            f"{path}: {key!r} holds Python objects, which are never unpickled; save a plain array of bools or numbers"
        )
    _check_size(path, key, shape, available)
    if math.prod(shape) * dtype.itemsize > available:
        raise MaskError(f"{path}: {key!r} claims shape {shape}, which {available} bytes cannot hold; it was altered")
    return tuple(int(n) for n in shape)


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

    return _by_suffix(path, shapes, load)


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

    return _by_suffix(path, shapes, load)


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
}
