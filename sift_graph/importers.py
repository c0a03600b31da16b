"""Masks from files that other programs wrote: numpy archives, safetensors, PyTorch state dicts.

A file comes from a stranger: nothing in it is executed, sizes are read from its headers and compared with the file
before anything is allocated, and a layer name is text, never a path.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sift_graph.errors import MaskError, RunDirectoryError, UsageError, did_you_mean
from sift_graph.masks import LayerMask, Snapshot, layer_name
from sift_graph.snapshot_file import MAX_ENTRIES
from sift_graph.store import RunWriter, WeightPolicy, check_free

__all__ = ["IMPORTERS", "ImportResult", "import_masks", "read_masks"]

FROM_ZEROS = "weight!=0"
MAX_EXPANSION = 1032  # deflate cannot do better; also the most entries that a byte of a file may stand for


@dataclass(frozen=True)
class ImportResult:
    """What an import wrote.

    Attributes
    ----------
    run_dir : Path
    steps : tuple of int
    layers : tuple of str
        Names, in the order of the first file.
    skipped : tuple of str
        What was in the files and was left out, each with the reason.
    derived : bool
        Whether any mask was derived from ``weight != 0``.
    """

    run_dir: Path
    steps: tuple[int, ...]
    layers: tuple[str, ...]
    skipped: tuple[str, ...]
    derived: bool


@dataclass(frozen=True)
class Contents:
    """The masks of one file.

    Attributes
    ----------
    layers : mapping of str to LayerMask
    skipped : tuple of str
        What was left out, each with the reason.
    """

    layers: Mapping[str, LayerMask]
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class Archive:
    """A file's tensors by name, each loaded when it is asked for."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    load: Callable[[str], np.ndarray]


def import_masks(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    run_dir: str | os.PathLike[str],
    *,
    from_zeros: bool = False,
    step: int = 0,
    groups: Mapping[str, int] | None = None,
    weights: WeightPolicy = "fp32",
    about: Mapping[str, Any] | None = None,
) -> ImportResult:
    """Make a run directory of masks that are in files.

    Parameters
    ----------
    path : path or sequence of paths
        ``.npz`` with keys ``mask/<layer>`` and, where known, ``weight/<layer>`` and ``groups/<layer>``; or
        ``.safetensors``, ``.pt`` or ``.pth`` state dicts with ``<name>_mask`` beside ``<name>`` or ``<name>_orig``.
        Several files become several steps: the last number in each name if each has one and they differ, else 0, 1, 2
        and so on.
    run_dir : path
        A new directory. It appears when all files are read, or not at all.
    from_zeros : bool
        Derive masks from ``weight != 0`` for weights of two or more axes that have none; they are labelled so.
    step : int
        The step of a single file.
    groups : mapping of str to int, optional
        Groups of grouped convolutions by layer: a state dict does not tell them.
    weights : {"none", "fp16", "fp32"}
        How weights are stored.
    about : mapping, optional
        What the run is: ``family``, ``method``, ``sparsity`` and the like.

    Returns
    -------
    ImportResult

    Raises
    ------
    MaskError
        If a file cannot be read, holds no masks, or one that is not 0/1, has one axis, or differs in shape from its
        weight.
    RunDirectoryError
        If `run_dir` holds something already, or cannot be written to.
    UsageError
        If no file is named, or `groups` names a layer that is not there.
    """
    paths = [Path(path)] if isinstance(path, str | os.PathLike) else [Path(one) for one in path]
    if not paths:
        raise UsageError("expected one or more files to import, found none")
    target = Path(run_dir)
    check_free(target)
    steps = [step] if len(paths) == 1 else _steps_of(paths)
    for one in paths:
        _check_file(one)
    skipped: list[str] = []
    layers: dict[str, None] = {}
    derived = False
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(prefix=f".{target.name[:80]}.", suffix=".tmp", dir=target.parent))
    except OSError as error:
        raise RunDirectoryError(f"{target}: cannot be made ({error.strerror}); choose another directory") from error
    try:
        described = {"imported_from": [one.name for one in paths], **(about or {})}
        writer = RunWriter(workshop / "run", about=described)
        for number, one in sorted(zip(steps, paths, strict=True)):
            contents = read_masks(one, from_zeros=from_zeros, groups=groups)
            writer.write_snapshot(Snapshot(number, contents.layers), weights=weights)
            layers.update(dict.fromkeys(contents.layers))
            skipped += [f"{one.name}: {what}" for what in contents.skipped]
            derived = derived or any(mask.source == FROM_ZEROS for mask in contents.layers.values())
        _check_groups(groups, layers)
        check_free(target)
        try:
            (workshop / "run").replace(target)
        except OSError as error:
            raise RunDirectoryError(
                f"{target}: the import is whole but could not be put there ({error.strerror}); choose a new directory"
            ) from error
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return ImportResult(target, tuple(sorted(steps)), tuple(layers), tuple(skipped), derived)


def _check_groups(groups: Mapping[str, int] | None, layers: Mapping[str, None]) -> None:
    for name in groups or {}:
        if name not in layers:
            raise UsageError(f"groups: there is no layer {name!r}{did_you_mean(name, layers)}")


def _steps_of(paths: Sequence[Path]) -> list[int]:
    """Give several files their steps: the last number in each name, if that tells them apart."""
    numbers = [re.findall(r"\d+", path.stem) for path in paths]
    steps = [int(found[-1]) for found in numbers if found and len(found[-1]) <= 18]
    return steps if len(set(steps)) == len(paths) else list(range(len(paths)))


def _check_file(path: Path) -> None:
    if path.suffix not in IMPORTERS:
        raise MaskError(
            f"{path}: cannot import a file with the ending {path.suffix!r}; expected one of {', '.join(IMPORTERS)}. "
            "Save arrays with np.savez(file, **{'mask/<layer>': mask})"
        )
    if not path.is_file():
        found = "a directory" if path.is_dir() else "nothing"
        raise MaskError(f"{path}: expected a file of masks, found {found}; check the path")


def read_masks(
    path: str | os.PathLike[str], *, from_zeros: bool = False, groups: Mapping[str, int] | None = None
) -> Contents:
    """Read the masks of one file; as :func:`import_masks`.

    Parameters
    ----------
    path : path
    from_zeros : bool
    groups : mapping of str to int, optional

    Returns
    -------
    Contents

    Raises
    ------
    MaskError
        As :func:`import_masks`.
    """
    path = Path(path)
    _check_file(path)
    archive, pairs = IMPORTERS[path.suffix](path)
    skipped = [f"{key!r} {reason}" for key, reason in pairs.skipped]
    layers: dict[str, LayerMask] = {}
    try:
        for layer, (mask, weight) in pairs.found.items():
            if mask is None and not from_zeros:
                continue
            _check_pair(archive, layer, mask, weight)
            values = archive.load(weight) if weight is not None else None
            bits = archive.load(mask) if mask is not None else _nonzero(values)
            number = (groups or {}).get(layer, _groups_of(archive, pairs.groups.get(layer)))
            source = "file" if mask is not None else FROM_ZEROS
            layers[layer] = LayerMask.from_dense(layer, bits, values, groups=number, source=source)
    except MaskError as error:
        raise error if str(path) in str(error) else MaskError(f"{path}: {error}") from error
    if not layers:
        raise MaskError(_nothing_found(path, archive, pairs, from_zeros))
    unused = [weight for mask, weight in pairs.found.values() if mask is None and not from_zeros]
    skipped += [f"{weight!r} has no mask (derive one from its zeros with --from-zeros)" for weight in unused]
    return Contents(layers, tuple(skipped))


@dataclass(frozen=True)
class Pairs:
    """Which tensors of an archive are a layer's mask and weight.

    Attributes
    ----------
    found : mapping of str to (str or None, str or None)
        Keys of the mask and of the weight, by layer.
    groups : mapping of str to str
        Keys of the number of groups.
    skipped : tuple of (str, str)
        Keys that are neither, each with the reason.
    """

    found: Mapping[str, tuple[str | None, str | None]]
    groups: Mapping[str, str]
    skipped: tuple[tuple[str, str], ...]


def _nonzero(values: np.ndarray | None) -> np.ndarray:
    assert values is not None
    return np.asarray(values != 0)


def _groups_of(archive: Archive, key: str | None) -> int:
    if key is None:
        return 1
    value = archive.load(key)
    if value.size != 1 or value.dtype.kind not in "iu":
        raise MaskError(
            f"{archive.path}: {key!r}: expected one whole number, found {value.dtype} of shape {value.shape}"
        )
    return int(value.reshape(-1)[0])


def _check_pair(archive: Archive, layer: str, mask: str | None, weight: str | None) -> None:
    """Refuse what cannot be a layer's mask and weight by their shapes alone, before they are loaded."""
    for key in (mask, weight):
        shape = archive.shapes[key] if key is not None else (1, 1)
        if len(shape) < 2:
            raise MaskError(
                f"{archive.path}: layer {layer!r}: {key!r} has shape {shape}, expected 2 or more axes; "
                "save it in the weight's own shape, (out, in) or (out, in, *kernel)"
            )
    if mask is not None and weight is not None and archive.shapes[mask] != archive.shapes[weight]:
        raise MaskError(
            f"{archive.path}: layer {layer!r}: the mask {mask!r} has shape {archive.shapes[mask]} and the weight "
            f"{weight!r} {archive.shapes[weight]}; save both in the weight's own shape"
        )


def _nothing_found(path: Path, archive: Archive, pairs: Pairs, from_zeros: bool) -> str:
    keys = ", ".join(repr(key) for key in list(archive.shapes)[:5])
    found = f"{len(archive.shapes)} arrays ({keys}{', ...' if len(archive.shapes) > 5 else ''})"
    expected = "keys 'mask/<layer>'" if path.suffix == ".npz" else "buffers '<name>_mask' beside '<name>'"
    if from_zeros:
        return f"{path}: found no mask and no weight of 2 or more axes among {found}; expected {expected}"
    mend = "; --from-zeros (from_zeros=True) derives masks from weight != 0" if pairs.found else ""
    return f"{path}: found no masks among {found}; expected {expected}{mend}"


def _pair_named(archive: Archive) -> Pairs:
    """Pair the arrays of a numpy archive: ``mask/<layer>``, ``weight/<layer>``, ``groups/<layer>``."""
    kinds: dict[str, dict[str, str]] = {"mask": {}, "weight": {}, "groups": {}}
    skipped = []
    for key in archive.shapes:
        kind, slash, layer = key.partition("/")
        if slash and kind in kinds:
            kinds[kind][layer_name(layer)] = key
        elif len(archive.shapes[key]) >= 2:
            kinds["weight"].setdefault(layer_name(key), key)  # a bare array counts only if masks are derived
        else:
            skipped.append((key, "is not named mask/<layer>, weight/<layer> or groups/<layer>"))
    names = dict.fromkeys([*kinds["mask"], *kinds["weight"]])
    found = {name: (kinds["mask"].get(name), kinds["weight"].get(name)) for name in names}
    return Pairs(found, kinds["groups"], tuple(skipped))


def _pair_state_dict(archive: Archive) -> Pairs:
    """Pair the tensors of a state dict: ``<name>_mask`` with ``<name>_orig`` or ``<name>``."""
    found: dict[str, tuple[str | None, str | None]] = {}
    skipped = []
    masked = {key.removesuffix("_mask"): key for key in archive.shapes if key.endswith("_mask")}
    for key, shape in archive.shapes.items():
        if key in masked.values():
            base = key.removesuffix("_mask")
            weight = next((name for name in (f"{base}_orig", base) if name in archive.shapes), None)
            if weight is None and base.rpartition(".")[2] != "weight":
                skipped.append((key, "belongs to no weight of the file"))
            elif weight is not None and len(archive.shapes[weight]) < 2:
                skipped.append((key, "is the mask of a bias or norm, which has one axis"))
            else:
                found[layer_name(base)] = (key, weight)
        elif len(shape) >= 2 and key not in masked and key.removesuffix("_orig") not in masked:
            found.setdefault(layer_name(key), (None, key))
    return Pairs(found, {}, tuple(skipped))


def _check_size(path: Path, key: str, shape: tuple[int, ...], available: int) -> None:
    """Refuse an array that claims more entries than its bytes could hold, before it is allocated."""
    entries = math.prod(shape)
    if any(n < 0 for n in shape) or entries > MAX_ENTRIES or entries > MAX_EXPANSION * (available + 1024):
        raise MaskError(
            f"{path}: {key[:80]!r} claims shape {str(shape)[:80]}, which {available} bytes cannot hold "
            f"(nor may a layer have more than {MAX_ENTRIES} entries); the file was altered"
        )


def read_npz(path: Path) -> tuple[Archive, Pairs]:
    """Open a numpy archive; arrays are loaded one by one, and never as pickled objects."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            shapes = {}
            for key, info in members.items():
                if info.file_size > MAX_EXPANSION * (info.compress_size + 1024):
                    raise MaskError(f"{path}: {key[:80]!r} claims {info.file_size} bytes; the file was altered")
                with archive.open(info) as file:
                    shapes[key] = _read_npy_shape(path, key, file, info.file_size)
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, MaskError):
            raise
        raise MaskError(f"{path}: truncated, or not a numpy archive ({error}); save it again with np.savez") from error

    def load(key: str) -> np.ndarray:
        try:
            with zipfile.ZipFile(path) as archive, archive.open(members[key]) as file:
                return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, zlib.error) as error:
            raise MaskError(f"{path}: {key!r} cannot be read ({error}); the file was altered") from error

    opened = Archive(path, shapes, load)
    return opened, _pair_named(opened)


def _read_npy_shape(path: Path, key: str, file: Any, available: int) -> tuple[int, ...]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise MaskError(
            f"{path}: {key!r} holds Python objects, which are never unpickled; save a plain array of bools or numbers"
        )
    _check_size(path, key, shape, available)
    if math.prod(shape) * dtype.itemsize > available:
        raise MaskError(f"{path}: {key!r} claims shape {shape}, which {available} bytes cannot hold; it was altered")
    return tuple(int(n) for n in shape)


def read_safetensors(path: Path) -> tuple[Archive, Pairs]:
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

    opened = Archive(path, shapes, load)
    return opened, _pair_state_dict(opened)


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


def read_checkpoint(path: Path) -> tuple[Archive, Pairs]:
    """Open a PyTorch checkpoint with ``weights_only=True``: code that it may carry is refused, not run."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MaskError(
            f'{path}: a PyTorch checkpoint needs torch; pip install "sift-graph[torch]", or save it as .safetensors'
        ) from error
    from sift_graph.masks import as_array

    available = path.stat().st_size
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if sum(info.file_size for info in archive.infolist()) > available:
                    raise MaskError(f"{path}: claims more bytes than it has; the file was altered")
        content = torch.load(path, weights_only=True, map_location="cpu")
    except MaskError:
        raise
    except Exception as error:  # torch raises whatever its parser meets: pickle, struct, zip, runtime errors
        why = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise MaskError(
            f"{path}: truncated, not a PyTorch checkpoint, or holding more than tensors ({why}); nothing in it "
            "was run. Save the state dict alone: torch.save(model.state_dict(), file)"
        ) from error
    tensors = dict(_tensors_in(content))
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    for key, shape in shapes.items():
        _check_size(path, key, shape, available)
    opened = Archive(path, shapes, lambda key: as_array(tensors[key]))
    return opened, _pair_state_dict(opened)


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


IMPORTERS: dict[str, Callable[[Path], tuple[Archive, Pairs]]] = {
    ".npz": read_npz,
    ".safetensors": read_safetensors,
    ".pt": read_checkpoint,
    ".pth": read_checkpoint,
}
