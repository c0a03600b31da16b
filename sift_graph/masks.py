"""What one layer's mask is: packed bits in the weight's own shape, and the weights on it.

A mask travels packed, eight entries a byte, least significant bit first, in the C order of the weight's shape.
A weight travels as the values at the set bits, in the same order: a pruned weight has no value, and a newborn one
(kept by the mask, 0.0 so far) keeps its place.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Literal

import numpy as np
import xxhash

from sift_graph.errors import MaskError, UsageError, did_you_mean
from sift_graph.part import Part, check_part

__all__ = ["LayerMask", "Layout", "Part", "Snapshot", "layer_name", "match_layers"]

Layout = Literal["oi", "io"]

_WITHOUT_NUMPY = (
    "torch.bfloat16",
    "torch.float8_e4m3fn",
    "torch.float8_e4m3fnuz",
    "torch.float8_e5m2",
    "torch.float8_e5m2fnuz",
)


@dataclass(frozen=True, eq=False)
class LayerMask:
    """One layer's mask, packed, and the weights that it keeps.

    Build one with :meth:`from_dense`, which checks what it is given.

    Attributes
    ----------
    layer : str
        Name of the layer, as ``model.named_modules()`` gives it. Any text; never a path.
    shape : tuple of int
        Shape of the weight.
    bits : ndarray of uint8, shape (ceil(prod(shape) / 8),)
        The mask, least significant bit first, in C order.
    values : ndarray of float32 or float64, shape (edges,), or None
        The weights at the set bits, in their order; None where no weight was recorded.
    groups : int
        Groups of a grouped convolution.
    layout : {"oi", "io"}
        ``oi`` is PyTorch's ``(out, in / groups, *kernel)``; ``io`` is ``(*kernel, in, out)`` (Keras, JAX, HF Conv1D).
    source : str
        Where the mask was found, for instance ``"mask_set"``, ``"weight!=0"`` or ``"dense"``.
    part : Part or None
        If this is only a block of the layer: which. `shape` is that of the block then, and may have zeros.
    """

    layer: str
    shape: tuple[int, ...]
    bits: np.ndarray
    values: np.ndarray | None = None
    groups: int = 1
    layout: Layout = "oi"
    source: str = "mapping"
    part: Part | None = None

    def __post_init__(self) -> None:
        check_name(self.layer)
        check_shape(self.layer, self.shape if self.part is None else self.part.whole, self.groups, self.layout)
        if self.part is not None:
            check_part(self.layer, self.shape, self.part)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))  # numpy's integers are not JSON's
        object.__setattr__(self, "groups", int(self.groups))
        size = math.prod(self.shape)
        if self.bits.dtype != np.uint8 or self.bits.shape != ((size + 7) // 8,):
            raise MaskError(
                f"layer {self.layer!r}: expected {(size + 7) // 8} packed bytes for shape {self.shape}, found "
                f"{self.bits.dtype} of shape {self.bits.shape}; use LayerMask.from_dense to pack a bool array"
            )
        if size % 8 and self.bits[-1] >> (size % 8):
            raise MaskError(
                f"layer {self.layer!r}: the packed mask has bits beyond its {size} entries; "
                "pack with np.packbits(mask, bitorder='little')"
            )
        if self.values is not None and self.values.dtype not in (np.float32, np.float64):
            raise MaskError(
                f"layer {self.layer!r}: expected weights of float32 or float64, found {self.values.dtype}; "
                "use LayerMask.from_dense, which converts them"
            )
        if self.values is not None and self.values.shape != (self.edges,):
            raise MaskError(
                f"layer {self.layer!r}: expected {self.edges} weights, one for each kept entry, found shape "
                f"{self.values.shape}; use LayerMask.from_dense with the weight in its own shape"
            )

    @classmethod
    def from_dense(
        cls,
        layer: str,
        mask: Any,
        weight: Any = None,
        *,
        groups: int = 1,
        layout: Layout = "oi",
        source: str = "mapping",
        part: Part | None = None,
    ) -> LayerMask:
        """Pack a mask given in the weight's shape, and check both.

        Parameters
        ----------
        layer : str
            Name of the layer.
        mask : array or tensor of bool, or of zeros and ones
            In the shape of the weight, two or more axes.
        weight : array or tensor of float, optional
            In the same shape. Values outside the mask are not kept.
        groups, layout, source, part
            As the attributes.

        Returns
        -------
        LayerMask

        Raises
        ------
        MaskError
            If the mask is not 0/1, has fewer than two axes, is empty, or differs in shape from the weight.

        Examples
        --------
        >>> mask = LayerMask.from_dense("fc", np.eye(3, dtype=bool))
        >>> mask.edges, mask.density
        (3, 0.3333333333333333)
        """
        dense = as_bool_array(layer, mask)
        check_shape(layer, dense.shape if part is None else part.whole, groups, layout)
        bits = np.packbits(np.ascontiguousarray(dense), axis=None, bitorder="little")
        values = None
        if weight is not None:
            array = as_array(weight)
            if array.shape != dense.shape:
                raise MaskError(
                    f"layer {layer!r}: the mask has shape {dense.shape} and the weight {array.shape}; "
                    "pass both in the weight's own shape"
                )
            if array.dtype.kind not in "fiub":
                raise MaskError(f"layer {layer!r}: expected a real weight, found dtype {array.dtype}")
            if array.dtype not in (np.float32, np.float64):
                array = array.astype(np.float64 if array.dtype.itemsize > 2 else np.float32)
            # for 23.5 M entries, half of them kept, array[dense] takes 99 ms and compress 22
            values = np.ascontiguousarray(array).reshape(-1).compress(dense.reshape(-1))
        return cls(layer, tuple(dense.shape), bits, values, groups, layout, source, part)

    @cached_property
    def edges(self) -> int:
        """Kept entries."""
        return int(np.bitwise_count(self.bits).sum(dtype=np.int64))

    @property
    def size(self) -> int:
        """Entries, kept or not."""
        return math.prod(self.shape)

    @property
    def density(self) -> float:
        """Kept entries over entries."""
        return self.edges / self.size

    @cached_property
    def digest(self) -> str:
        """xxh3-128 of the packed bits, in hexadecimal."""
        return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(self.bits).data)

    @property
    def mask(self) -> np.ndarray:
        """The mask as a bool array in the weight's shape, unpacked at each call."""
        return np.unpackbits(self.bits, count=self.size, bitorder="little").view(np.bool_).reshape(self.shape)

    @property
    def weight(self) -> np.ndarray | None:
        """The masked weight in its own shape, 0.0 where pruned; None where no weight was recorded."""
        if self.values is None:
            return None
        dense = np.zeros(self.shape, dtype=self.values.dtype)
        dense[self.mask] = self.values
        return dense

    def __repr__(self) -> str:
        """One line: name, shape, edges, source."""
        weight = "" if self.values is None else ", with weights"
        return f"LayerMask({self.layer!r}, shape={self.shape}, edges={self.edges}{weight}, source={self.source!r})"


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The masks of all layers at one step.

    Attributes
    ----------
    step : int
        Optimiser updates so far.
    layers : mapping of str to LayerMask
        In network order, keyed by layer name.
    epoch : float or None
        Passes over the data so far, may be fractional.
    wall_time : float
        Seconds since 1970 when it was taken; NaN where unknown.
    """

    step: int
    layers: Mapping[str, LayerMask]
    epoch: float | None = None
    wall_time: float = math.nan

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "step", operator.index(self.step))
        except TypeError:
            raise MaskError(f"expected a whole number of steps, found {self.step!r}") from None
        if self.step < 0:
            raise MaskError(f"expected a step of 0 or more, found {self.step}")
        if self.epoch is not None:
            object.__setattr__(self, "epoch", float(self.epoch))
            if not math.isfinite(self.epoch):
                raise MaskError(
                    f"step {self.step}: expected a finite epoch, found {self.epoch}; pass None where unknown"
                )
        for name, layer in self.layers.items():
            if name != layer.layer:
                raise MaskError(
                    f"step {self.step}: the mask of layer {layer.layer!r} stands under the name {name!r}; "
                    "key each mask by its own layer name"
                )

    def __iter__(self) -> Iterator[LayerMask]:
        """Layers in network order."""
        return iter(self.layers.values())


def as_array(value: Any) -> np.ndarray:
    """Read an array or tensor as a numpy array; a tensor is detached and brought to the host first."""
    if hasattr(value, "detach"):
        value = value.detach()
        if str(value.layout) != "torch.strided":  # COO, CSR, BSR, ...
            value = value.to_dense()
        value = value.cpu()
        if str(value.dtype) in _WITHOUT_NUMPY:
            value = value.float()
        value = value.numpy()
    return np.asarray(value)


def as_bool_array(layer: str, mask: Any) -> np.ndarray:
    """Read a mask given as bools or as zeros and ones.

    Parameters
    ----------
    layer : str
        Name of the layer, for the error.
    mask : array or tensor

    Returns
    -------
    ndarray of bool

    Raises
    ------
    MaskError
        If any entry is neither 0 nor 1.
    """
    array = as_array(mask)
    if array.dtype == np.bool_:
        return array
    if array.dtype.kind not in "fiu":
        raise MaskError(f"layer {layer!r}: expected a mask of bools or of zeros and ones, found dtype {array.dtype}")
    ones = array == 1
    odd = ~(ones | (array == 0))
    if odd.any():
        where = tuple(int(i) for i in np.argwhere(odd)[0])
        raise MaskError(
            f"layer {layer!r}: expected a mask of zeros and ones, found {array[where]} at {where} and "
            f"{int(odd.sum())} such entries in all; pass `weight != 0` for the support of a weight, or "
            "`mask >= threshold` for a soft mask"
        )
    return np.asarray(ones)


def check_name(layer: str) -> None:
    """Refuse a layer name that cannot be written to a file as text.

    Parameters
    ----------
    layer : str
        Any text: slashes, dots, quotes and line breaks included.

    Raises
    ------
    MaskError
        If it is not a string, or not valid Unicode.
    """
    if not isinstance(layer, str):
        raise MaskError(f"expected the name of a layer, found {layer!r}; pass what model.named_modules() gives")
    try:
        layer.encode()
    except UnicodeEncodeError as error:
        raise MaskError(f"layer {layer!r}: the name is not valid Unicode ({error.reason}); rename it") from error


def check_shape(layer: str, shape: tuple[int, ...], groups: int, layout: str) -> None:
    """Refuse a shape, a number of groups or a layout that no layer has.

    Parameters
    ----------
    layer : str
    shape : tuple of int
    groups : int
    layout : str

    Raises
    ------
    MaskError
        With the layer, what was found and what was expected.
    """
    if len(shape) < 2 or min(shape) < 1:
        raise MaskError(
            f"layer {layer!r}: expected a mask with 2 or more axes, none of them empty, found shape {tuple(shape)}; "
            "pass it in the weight's own shape, (out, in) or (out, in, *kernel)"
        )
    if layout not in ("oi", "io"):
        raise MaskError(f"layer {layer!r}: expected layout 'oi' or 'io', found {layout!r}")
    out = shape[0] if layout == "oi" else shape[-1]
    if groups < 1 or out % groups:
        raise MaskError(
            f"layer {layer!r}: {groups} groups do not divide its {out} outputs; "
            "pass the convolution's own number of groups"
        )


_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def layer_name(parameter: str) -> str:
    """Name the layer of a parameter, free of what wrappers put into the name.

    Parameters
    ----------
    parameter : str
        As ``model.named_parameters()`` or a state dict gives it.

    Returns
    -------
    str
        Without the prefixes of DataParallel and DDP (``module.``), ``torch.compile`` (``_orig_mod.``) and FSDP, and
        without ``.weight`` at its end; another parameter than the weight keeps its own name.

    Examples
    --------
    >>> layer_name("module._orig_mod.stage1.conv.weight")
    'stage1.conv'
    >>> layer_name("attention.in_proj_weight")
    'attention.in_proj_weight'
    """
    parts = [part for part in parameter.split(".") if part not in _WRAPPERS]
    while len(parts) > 1 and parts[0] == "module":
        parts.pop(0)
    if len(parts) > 1 and parts[-1] == "weight":
        parts.pop()
    return ".".join(parts)


def match_layers(names: list[str], pattern: str | None) -> list[str]:
    """Select layer names by a glob, several of them separated by commas.

    Parameters
    ----------
    names : list of str
        What exists, in order.
    pattern : str or None
        For instance ``"stage3.*,head"``; None or ``"*"`` selects all. A name that is written out exactly is
        taken as it is, so that names with brackets can be asked for.

    Returns
    -------
    list of str
        In the order of `names`.

    Raises
    ------
    UsageError
        If nothing matches.

    Examples
    --------
    >>> match_layers(["stem", "stage1.conv", "stage2.conv"], "stage*.conv")
    ['stage1.conv', 'stage2.conv']
    """
    if pattern in (None, "*"):
        return list(names)
    if pattern in names:
        return [str(pattern)]
    globs = [part.strip() for part in str(pattern).split(",")]
    found = [name for name in names if any(name == glob or fnmatchcase(name, glob) for glob in globs)]
    if not found:
        raise UsageError(f"no layer matches {pattern!r}{did_you_mean(str(pattern), names[:40])}")
    return found
