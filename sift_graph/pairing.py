"""Which arrays of a file are a layer's mask and weight, by their names.

Some files hold a mask packed: eight entries a byte, or bits and values apart. Such arrays are replaced by what they
stand for, under the same key, unpacked when they are loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np

from sift_graph.errors import MaskError
from sift_graph.masks import Layout, layer_name
from sift_graph.packed import Loader, View, packed_view, read_shape

__all__ = ["Archive", "pair_by_name", "pair_by_suffix", "with_views"]


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
    layouts : mapping of str to {"oi", "io"}
        Of the layers whose layout the file tells.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    load: Loader
    pairs: Mapping[str, tuple[str | None, str | None]]
    groups: Mapping[str, str]
    skipped: tuple[tuple[str, str], ...]
    layouts: Mapping[str, Layout] = field(default_factory=dict)


def with_views(archive: Archive, views: Mapping[str, View]) -> Archive:
    """Put arrays that are made when asked for in the place of those of the same keys.

    Parameters
    ----------
    archive : Archive
    views : mapping of str to View

    Returns
    -------
    Archive
    """

    def load(key: str) -> np.ndarray:
        return views[key][1]() if key in views else archive.load(key)

    return replace(archive, shapes={**archive.shapes, **{key: shape for key, (shape, _) in views.items()}}, load=load)


def pair_by_name(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    load: Loader,
    *,
    dtypes: Mapping[str, np.dtype],
    skipped: Iterable[tuple[str, str]] = (),
) -> Archive:
    """Pair the arrays of a numpy archive: ``mask/<layer>``, ``weight/<layer>``, ``groups/<layer>`` and the like.

    An array without such a prefix is a mask if it is named as one in a state dict, or of bool or uint8, else a weight.
    A mask of one axis is packed as ``np.packbits`` does, and takes its shape from ``shape/<layer>`` or from the weight.

    Parameters
    ----------
    path : Path
    shapes : mapping of str to tuple of int
    load : callable
    dtypes : mapping of str to dtype
    skipped : iterable of (str, str)
        What was left out already.

    Returns
    -------
    Archive

    Raises
    ------
    MaskError
        If two arrays are the same thing of one layer, or a layout or shape is not one.
    """
    kinds: dict[str, dict[str, str]] = {kind: {} for kind in ("mask", "weight", "groups", "layout", "shape", "bare")}
    layouts: dict[str, Layout] = {}
    for key in shapes:
        kind, slash, name = key.partition("/")
        if not slash or kind not in kinds or kind == "bare":
            kind, name = "bare", key
        layer, inputs_first = _layer_of(name)
        owner = _masked_name(key, shapes) if kind == "bare" else None
        if owner is not None and (weight := _weight_of(owner, shapes)) is not None:  # a state dict, saved as arrays
            kind, layer = "mask", layer_name(owner)
            kinds["weight"].setdefault(layer, weight)
        if layer in kinds[kind]:
            raise MaskError(
                f"{path}: {kinds[kind][layer]!r} and {key!r} are the {kind} of one layer, {layer!r}; remove one"
            )
        kinds[kind][layer] = key
        if inputs_first:
            layouts[layer] = "io"
    masks, weights, left = dict(kinds["mask"]), dict(kinds["weight"]), list(skipped)
    paired = set(weights.values())
    for layer, key in kinds["bare"].items():
        if key in paired:
            continue
        placed = len(shapes[key]) > 1 or layer in kinds["shape"] or layer in weights
        if placed and dtypes[key] in (np.bool_, np.uint8) and layer not in masks:
            masks[layer] = key
        elif len(shapes[key]) < 2:
            left.append((key, "is not named mask/<layer>, weight/<layer> or groups/<layer>"))
        else:
            weights.setdefault(layer, key)  # counts only if masks are derived
    pairs = {name: (masks.get(name), weights.get(name)) for name in dict.fromkeys([*masks, *weights])}
    layouts |= {layer: _layout(path, key, load(key)) for layer, key in kinds["layout"].items()}
    archive = Archive(path, shapes, load, pairs, kinds["groups"], tuple(left), layouts)
    wanted = {layer: read_shape(path, key, load(key)) for layer, key in kinds["shape"].items()}
    wanted = {layer: shapes[key] for layer, key in weights.items() if len(shapes[key]) > 1} | wanted
    packed = {layer: key for layer, key in masks.items() if len(shapes[key]) == 1 and layer in wanted}
    views = {key: packed_view(path, layer, shapes[key][0], wanted[layer], load, key) for layer, key in packed.items()}
    return with_views(archive, views)


def _layer_of(name: str) -> tuple[str, bool]:
    """Name the layer of an array, and say whether its name is that of a kernel of Flax, which has its inputs first."""
    kernel = re.fullmatch(r"(?:params[/.])?(.+)[/.]kernel", name, re.DOTALL)
    return (kernel[1], True) if kernel else (layer_name(name), False)


def _layout(path: Path, key: str, value: np.ndarray) -> Layout:
    if value.shape != () or str(value) not in ("oi", "io"):
        raise MaskError(f"{path}: {key!r}: expected the text 'oi' or 'io', found {str(value)[:80]!r}")
    return cast(Layout, str(value))


def pair_by_suffix(path: Path, shapes: Mapping[str, tuple[int, ...]], load: Loader) -> Archive:
    """Pair the tensors of a state dict: a mask beside its weight, by the names that libraries give them.

    ``<name>_mask`` beside ``<name>`` or ``<name>_orig``; ``_<name>_mask``, ``__<name>_mma_mask``; a ``mask`` beside a
    ``weight`` of its shape; ``parametrizations.<name>.<i>.mask`` beside the ``original``.

    Parameters
    ----------
    path : Path
    shapes : mapping of str to tuple of int
    load : callable

    Returns
    -------
    Archive
    """
    pairs: dict[str, tuple[str | None, str | None]] = {}
    skipped = []
    owners = {key: name for key in shapes if (name := _masked_name(key, shapes)) is not None}
    weights = {name: _weight_of(name, shapes) for name in owners.values()}
    masked = {layer_name(name) for name in weights}
    for key, shape in shapes.items():
        if key in owners:
            weight = weights[owners[key]]
            layer = layer_name(owners[key])
            if weight is None and owners[key].rpartition(".")[2] != "weight":
                skipped.append((key, "belongs to no weight of the file"))
            elif weight is not None and len(shapes[weight]) < 2:
                skipped.append((key, "is the mask of a bias or norm, which has one axis"))
            elif layer in pairs:
                skipped.append((key, f"is a second mask of {layer!r}: {pairs[layer][0]!r} is taken"))
            else:
                pairs[layer] = (key, weight)
        elif len(shape) >= 2 and not _OF_PARAMETRIZATION.fullmatch(key):
            layer = layer_name(_ORIGINAL.sub(r"\1\2", key.removesuffix("_orig")))
            if layer not in masked:
                pairs.setdefault(layer, (None, key))
    return Archive(path, shapes, load, pairs, {}, tuple(skipped))


_ORIGINAL = re.compile(r"^(.*\.)?parametrizations\.(\w+)\.original$", re.DOTALL)
_OF_PARAMETRIZATION = re.compile(r"(?P<at>.*\.)?parametrizations\.(?P<name>\w+)\.\d+\.(?P<what>.+)", re.DOTALL)
_BY_NAME = re.compile(r"(?P<at>.*\.)?(?:__(?P<asp>[^.]+)_mma_mask|_(?P<modelopt>[^.]+)_mask|[^.]+_mask)", re.DOTALL)


def _masked_name(key: str, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Name the weight that a tensor is the mask of, by the tensor's name; None if it is no mask."""
    part = _OF_PARAMETRIZATION.fullmatch(key)
    if part:
        return f"{part['at'] or ''}{part['name']}" if part["what"] == "mask" else None
    if key == "mask" or key.endswith(".mask"):
        name = f"{key.removesuffix('mask')}weight"
        return name if shapes.get(name) == shapes[key] else None
    by_name = _BY_NAME.fullmatch(key)
    if by_name is None:
        return None
    plain = key.removesuffix("_mask")
    private = by_name["asp"] or by_name["modelopt"]
    if private and _weight_of(plain, shapes) is None:
        return f"{by_name['at'] or ''}{private}"
    return plain


def _weight_of(name: str, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    at, dot, own = name.rpartition(".")
    spelled = (f"{name}_orig", f"{at}{dot}parametrizations.{own}.original", name)
    return next((key for key in spelled if key in shapes), None)
