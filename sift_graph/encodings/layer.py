"""Encodings of one layer: by kernel position, by channel, unrolled, by projection and by head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sift_graph.encodings.geometry import Geometry
from sift_graph.errors import UsageError
from sift_graph.masks import LayerMask

__all__ = ["Encoded", "channel", "channel_count", "head_rows", "kernel", "oriented", "split_qkv", "unrolled"]

PROJECTIONS = ("q", "k", "v")


@dataclass(frozen=True, eq=False)
class Encoded:
    """A graph to be measured: which vertices are joined, how often, and over which positions.

    Attributes
    ----------
    mask : LayerMask
        The vertices that are joined, in PyTorch's order; its values, if any, are the weights of that encoding.
    counts : ndarray of int64, or None
        How many edges stand for each set bit of the mask, in their order; None where it is one each.
    capacity : int
        The most edges that two vertices can have: of which :attr:`counts` are the share that is there.
    geometry : Geometry or None
        Where the kernel is laid out over positions.
    circular : bool
        Whether it is laid on a torus, with stride 1.
    """

    mask: LayerMask
    counts: np.ndarray | None = None
    capacity: int = 1
    geometry: Geometry | None = None
    circular: bool = False

    @property
    def layer(self) -> str:
        """Name of the row."""
        return self.mask.layer


def oriented(mask: LayerMask) -> tuple[np.ndarray, np.ndarray | None]:
    """Unpack a mask and its weight as ``(out, in / groups, kernel positions)``, whatever its layout."""
    dense, weight = mask.mask, mask.weight
    if mask.layout == "io":  # (*kernel, in, out)
        dense = np.moveaxis(dense, (-1, -2), (0, 1))
        weight = None if weight is None else np.moveaxis(weight, (-1, -2), (0, 1))
    shape = (*dense.shape[:2], math.prod(dense.shape[2:]))
    return dense.reshape(shape), None if weight is None else weight.reshape(shape)


def rebuilt(mask: LayerMask, dense: np.ndarray, weight: np.ndarray | None, *, layer: str | None = None) -> LayerMask:
    """Pack an encoded mask, in PyTorch's order, under the name of the layer that it was made from."""
    name = mask.layer if layer is None else layer
    return LayerMask.from_dense(name, dense, weight, groups=mask.groups, source=mask.source)


def kernel(mask: LayerMask) -> Encoded:
    """Take a mask as it is: a left vertex for each input channel and kernel position.

    Parameters
    ----------
    mask : LayerMask

    Returns
    -------
    Encoded
    """
    return Encoded(mask)


def channel(mask: LayerMask) -> Encoded:
    """Join two channels where any kernel position is kept.

    Parameters
    ----------
    mask : LayerMask
        Its weights become the Euclidean norms of the kernels.

    Returns
    -------
    Encoded

    Examples
    --------
    >>> kept = np.zeros((2, 3, 3, 3), dtype=bool)
    >>> kept[0, 1] = True
    >>> channel(LayerMask.from_dense("conv", kept)).mask.edges
    1
    """
    dense, weight = oriented(mask)
    norms = None if weight is None else np.sqrt(np.square(weight.astype(np.float64)).sum(axis=2))
    joined: np.ndarray = np.asarray(dense.any(axis=2))
    return Encoded(rebuilt(mask, joined, norms))


def channel_count(mask: LayerMask) -> Encoded:
    """Join two channels as often as kernel positions are kept.

    Parameters
    ----------
    mask : LayerMask
        Its weights become the sums of absolute weights over the kernel.

    Returns
    -------
    Encoded
    """
    dense, weight = oriented(mask)
    counts = dense.sum(axis=2, dtype=np.int64)
    total = None if weight is None else np.abs(weight.astype(np.float64)).sum(axis=2)
    return Encoded(rebuilt(mask, counts > 0, total), counts[counts > 0], dense.shape[2])


def unrolled(mask: LayerMask, geometry: Geometry | None, *, circular: bool = False) -> Encoded:
    """Lay a convolution out over its positions: pixels left and right, an edge for each use of a kept weight.

    Parameters
    ----------
    mask : LayerMask
        A layer without a kernel is its own unrolled graph.
    geometry : Geometry or None
    circular : bool
        On a torus: what would fall into the padding comes in from the other side.

    Returns
    -------
    Encoded

    Raises
    ------
    UsageError
        If the input size is missing or does not fit, or the torus has no place for a stride.
    """
    spatial = mask.shape[2:] if mask.layout == "oi" else mask.shape[:-2]
    check_layout(mask.layer, spatial, geometry, circular=circular)
    if not spatial:
        return Encoded(mask)
    if mask.layout == "io":
        dense, weight = oriented(mask)
        shape = (*dense.shape[:2], *spatial)
        mask = rebuilt(mask, dense.reshape(shape), None if weight is None else weight.reshape(shape))
    return Encoded(mask, geometry=geometry, circular=circular)


def check_layout(layer: str, spatial: Sequence[int], geometry: Geometry | None, *, circular: bool) -> None:
    """Refuse what cannot be unrolled: see :func:`unrolled`."""
    if not spatial:
        return
    if geometry is None:
        raise UsageError(
            f"layer {layer!r}: the unrolled encoding needs the size of the layer's input, and none is recorded; "
            "give one (--input-size 32x32, input_size=), or record the run with an example input"
        )
    if len(geometry.size) != len(spatial):
        raise UsageError(
            f"layer {layer!r}: expected an input size of {len(spatial)} numbers for the kernel {tuple(spatial)}, "
            f"found {geometry.size}"
        )
    if geometry.padding_mode != "zeros" and not circular:
        raise UsageError(
            f"layer {layer!r}: pads with {geometry.padding_mode!r}, and the unrolled encoding knows zeros only; "
            "take unrolled_circular, or kernel"
        )
    if circular and max(geometry.stride) > 1:
        raise UsageError(
            f"layer {layer!r}: a stride of {geometry.stride} does not fit the circular case, which is that of "
            "stride 1; take the encoding 'unrolled'"
        )


def rows_of(mask: LayerMask, start: int, stop: int, label: str) -> LayerMask:
    """Cut some outputs of a layer out, as a mask of its own."""
    dense, weight = oriented(mask)
    part = slice(start, stop)
    name = f"{mask.layer}[{label}]"
    return rebuilt(mask, dense[part], None if weight is None else weight[part], layer=name)


def split_qkv(mask: LayerMask) -> dict[str, LayerMask]:
    """Split a fused attention projection into query, key and value: its outputs, third by third.

    Parameters
    ----------
    mask : LayerMask

    Returns
    -------
    dict of str to LayerMask
        ``q``, ``k``, ``v``.

    Raises
    ------
    UsageError
        If the outputs are not three times as many as something, or the layer has groups.
    """
    outputs = mask.shape[0] if mask.layout == "oi" else mask.shape[-1]
    if outputs % 3 or mask.groups > 1:
        raise UsageError(
            f"layer {mask.layer!r}: expected a fused projection whose outputs are query, key and value of one size; "
            f"found {outputs} outputs in {mask.groups} groups"
        )
    third = outputs // 3
    return {name: rows_of(mask, i * third, (i + 1) * third, name) for i, name in enumerate(PROJECTIONS)}


def head_rows(mask: LayerMask, heads: int) -> dict[str, LayerMask]:
    """Split a projection into its heads: equal runs of outputs.

    Parameters
    ----------
    mask : LayerMask
    heads : int

    Returns
    -------
    dict of str to LayerMask
        ``0``, ``1``, ...

    Raises
    ------
    UsageError
        If the heads do not divide the outputs.
    """
    outputs = mask.shape[0] if mask.layout == "oi" else mask.shape[-1]
    if heads < 1 or outputs % heads or mask.groups > 1:
        raise UsageError(
            f"layer {mask.layer!r}: {heads} heads do not divide its {outputs} outputs (in {mask.groups} groups); give "
            "the model's own number of heads"
        )
    size = outputs // heads
    return {str(h): rows_of(mask, h * size, (h + 1) * size, str(h)) for h in range(heads)}


def head_columns(mask: LayerMask, heads: int) -> dict[str, LayerMask]:
    """Split what an output projection reads by heads: equal runs of inputs; arguments as :func:`head_rows`."""
    dense, weight = oriented(mask)
    inputs = dense.shape[1]
    if heads < 1 or inputs % heads or mask.groups > 1:
        raise UsageError(
            f"layer {mask.layer!r}: {heads} heads do not divide its {inputs} inputs (in {mask.groups} groups); give "
            "the model's own number of heads"
        )
    parts = [slice(h * inputs // heads, (h + 1) * inputs // heads) for h in range(heads)]
    return {
        str(h): rebuilt(mask, dense[:, part], None if weight is None else weight[:, part], layer=f"{mask.layer}[{h}]")
        for h, part in enumerate(parts)
    }
