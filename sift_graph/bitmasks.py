"""Checkpoints of compressed-tensors in the formats ``sparse-bitmask`` and ``sparse-24-bitmask``.

A weight is stored as ``shape``, ``bitmask`` (each row padded to whole bytes, least significant bit first) and
``compressed``, the values at the set bits in C order; a 2:4 weight keeps the values as a matrix. ``row_offsets``
repeats what the bitmask tells. The names stand beside the layer, or below its ``weight``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sift_graph.errors import MaskError
from sift_graph.masks import layer_name
from sift_graph.packed import View, bitmask_view, read_shape
from sift_graph.pairing import Archive, with_views

__all__ = ["with_bitmasks"]

PARTS = ("shape", "bitmask", "compressed", "row_offsets")


def with_bitmasks(archive: Archive) -> Archive:
    """Put the masks and weights that bitmasks stand for in the place of their parts.

    Parameters
    ----------
    archive : Archive
        Of a state dict.

    Returns
    -------
    Archive
        The same, if there is no bitmask in it.

    Raises
    ------
    MaskError
        If a bitmask and its shape do not fit.
    """
    path, shapes = archive.path, archive.shapes
    bases = [
        key.removesuffix("bitmask")
        for key in shapes
        if (key == "bitmask" or key.endswith(".bitmask"))
        and all(f"{key.removesuffix('bitmask')}{part}" in shapes for part in PARTS[:3])
    ]
    if not bases:
        return archive
    parts = {f"{base}{part}" for base in bases for part in PARTS}
    pairs = {name: pair for name, pair in archive.pairs.items() if pair[1] not in parts}
    views: dict[str, View] = {}
    skipped = list(archive.skipped)
    for base in bases:
        layer = layer_name(base.rstrip(".") or "weight")
        mask, values = f"{base}bitmask", f"{base}compressed"
        shape = read_shape(path, f"{base}shape", archive.load(f"{base}shape"))
        views[mask] = bitmask_view(path, layer, shapes[mask], shape, archive.load, mask)
        quantised = f"{base.removesuffix('weight.')}weight_scale" in shapes
        if quantised:
            skipped.append((values, "holds quantised values: the mask is taken without them"))
        else:
            views[values] = (shape, _scattered(archive, layer, views[mask], values))
        pairs[layer] = (mask, None if quantised else values)
    place = {key: i for i, key in enumerate(shapes)}
    ordered = sorted(pairs.items(), key=lambda pair: min(place[key] for key in pair[1] if key is not None))
    return with_views(replace(archive, pairs=dict(ordered), skipped=tuple(skipped)), views)


def _scattered(archive: Archive, layer: str, mask: View, key: str) -> Callable[[], np.ndarray]:
    """Make the weight whose kept values are stored one after the other."""

    def scatter() -> np.ndarray:
        kept, values = mask[1](), archive.load(key).reshape(-1)
        edges = int(np.count_nonzero(kept))
        if values.size != edges:
            raise MaskError(
                f"{archive.path}: layer {layer!r}: the bitmask keeps {edges} entries, {key!r} holds "
                f"{values.size} values; the file was altered"
            )
        dense = np.zeros(mask[0], dtype=values.dtype)
        dense[kept] = values
        return dense

    return scatter
