"""Make a run directory of masks that other programs wrote: numpy arrays, safetensors, PyTorch state dicts."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sift_graph.archives import OPENERS, Archive
from sift_graph.errors import MaskError, RunDirectoryError, UsageError, did_you_mean
from sift_graph.masks import LayerMask, Layout, Snapshot
from sift_graph.store import RunWriter, WeightPolicy, check_free

__all__ = ["Contents", "ImportResult", "import_masks", "read_masks"]

FROM_ZEROS = "weight!=0"


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


def import_masks(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    run_dir: str | os.PathLike[str],
    *,
    from_zeros: bool = False,
    step: int = 0,
    groups: Mapping[str, int] | None = None,
    layout: Layout | None = None,
    weights: WeightPolicy = "fp32",
    about: Mapping[str, Any] | None = None,
) -> ImportResult:
    """Make a run directory of masks that are in files.

    Parameters
    ----------
    path : path or sequence of paths
        ``.npz`` with keys ``mask/<layer>`` and, where known, ``weight/<layer>``, ``groups/<layer>``,
        ``layout/<layer>`` and, of a mask that ``np.packbits`` packed, ``shape/<layer>``; ``.npy`` with the mask of the
        layer that it is named for; or ``.safetensors``, ``.pt`` or ``.pth`` state dicts with ``<name>_mask`` beside
        ``<name>`` or ``<name>_orig``, the names of other libraries, bitmasks of compressed-tensors, or sparse tensors.
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
    layout : {"oi", "io"}, optional
        Layout of the layers for which the file does not tell: ``"io"`` is ``(*kernel, in, out)``, as JAX and Keras
        keep kernels. By default that of arrays called ``kernel`` is ``"io"``, and of all others ``"oi"``.
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
        If no file is named, `groups` names a layer that is not there, or `layout` is not one.
    """
    paths = [Path(path)] if isinstance(path, str | os.PathLike) else [Path(one) for one in path]
    if not paths:
        raise UsageError("expected one or more files to import, found none")
    if layout not in (None, "oi", "io"):
        raise UsageError(f"layout: expected 'oi' (out, in, *kernel) or 'io' (*kernel, in, out), found {layout!r}")
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
            contents = read_masks(one, from_zeros=from_zeros, groups=groups, layout=layout)
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
    if path.suffix.lower() not in OPENERS:
        raise MaskError(
            f"{path}: cannot import a file with the ending {path.suffix!r}; expected one of {', '.join(OPENERS)}. "
            "Save arrays with np.savez(file, **{'mask/<layer>': mask})"
        )
    if not path.is_file():
        found = "a directory" if path.is_dir() else "nothing"
        raise MaskError(f"{path}: expected a file of masks, found {found}; check the path")


def read_masks(
    path: str | os.PathLike[str],
    *,
    from_zeros: bool = False,
    groups: Mapping[str, int] | None = None,
    layout: Layout | None = None,
) -> Contents:
    """Read the masks of one file; as :func:`import_masks`.

    Parameters
    ----------
    path : path
    from_zeros : bool
    groups : mapping of str to int, optional
    layout : {"oi", "io"}, optional

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
    archive = OPENERS[path.suffix.lower()](path)
    skipped = [f"{key!r} {reason}" for key, reason in archive.skipped]
    layers: dict[str, LayerMask] = {}
    try:
        for layer, (mask, weight) in archive.pairs.items():
            if mask is None and not from_zeros:
                skipped.append(f"{weight!r} has no mask (derive one from its zeros with --from-zeros)")
                continue
            if mask is None and len(archive.shapes[str(weight)]) < 2:
                skipped.append(f"{weight!r} has one axis")
                continue
            _check_pair(archive, layer, mask, weight)
            values = archive.load(weight) if weight is not None else None
            bits = archive.load(mask) if mask is not None else _nonzero(values)
            number = (groups or {}).get(layer, _groups_of(archive, layer))
            source = "file" if mask is not None else FROM_ZEROS
            turned = archive.layouts.get(layer, layout or "oi")
            layers[layer] = LayerMask.from_dense(layer, bits, values, groups=number, layout=turned, source=source)
    except MaskError as error:
        raise error if str(path) in str(error) else MaskError(f"{path}: {error}") from error
    if not layers:
        raise MaskError(_nothing_found(archive, from_zeros))
    return Contents(layers, tuple(skipped))


def _nonzero(values: np.ndarray | None) -> np.ndarray:
    assert values is not None
    return np.asarray(values != 0)


def _groups_of(archive: Archive, layer: str) -> int:
    if layer not in archive.groups:
        return 1
    key = archive.groups[layer]
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
                "save it in the weight's own shape, (out, in) or (out, in, *kernel), or with shape/<layer> beside a "
                "mask that np.packbits packed"
            )
    if mask is not None and weight is not None and archive.shapes[mask] != archive.shapes[weight]:
        raise MaskError(
            f"{archive.path}: layer {layer!r}: the mask {mask!r} has shape {archive.shapes[mask]} and the weight "
            f"{weight!r} {archive.shapes[weight]}; save both in the weight's own shape"
        )


def _nothing_found(archive: Archive, from_zeros: bool) -> str:
    path = archive.path
    keys = ", ".join(repr(key) for key in list(archive.shapes)[:5])
    found = f"{len(archive.shapes)} arrays ({keys}{', ...' if len(archive.shapes) > 5 else ''})"
    expected = {".npz": "keys 'mask/<layer>'", ".npy": "an array of bool or uint8"}.get(
        path.suffix.lower(), "buffers '<name>_mask' beside '<name>'"
    )
    objects = [repr(key) for key, reason in archive.skipped if "Python object" in reason]
    if objects:
        expected += f"; {', '.join(objects[:5])} hold Python objects: save each mask of a tree under a key of its own"
    if from_zeros:
        return f"{path}: found no mask and no weight of 2 or more axes among {found}; expected {expected}"
    mend = "; --from-zeros (from_zeros=True) derives masks from weight != 0" if archive.pairs else ""
    return f"{path}: found no masks among {found}; expected {expected}{mend}"
