"""What one layer's mask is: packed bits in the weight's own shape, and the weights on it.

A mask travels packed, eight entries a byte, least significant bit first, in the C order of the weight's shape.
A weight travels as the values at the set bits, in the same order: a pruned weight has no value, and a newborn one
(kept by the mask, 0.0 so far) keeps its place.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Literal

import numpy as np
import xxhash

from sift_graph.arrays import LARGE, as_array, check_name, check_shape, is_large_single, packed
from sift_graph.errors import MaskError, UsageError, did_you_mean
from sift_graph.part import Part, check_part

__all__ = ["LayerMask", "Layout", "Part", "Snapshot", "layer_name", "match_layers"]

Layout = Literal["oi", "io"]


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
        array = as_array(mask)
        bits = packed(layer, array)
        check_shape(layer, array.shape if part is None else part.whole, groups, layout)
        found = cls(layer, tuple(array.shape), bits, None, groups, layout, source, part)
        return found if weight is None else found.with_weight(weight)

    @classmethod
    def from_nonzero(
        cls,
        layer: str,
        weight: Any,
        *,
        groups: int = 1,
        layout: Layout = "oi",
        source: str = "weight!=0",
        part: Part | None = None,
    ) -> LayerMask:
        """Pack where a weight is not zero, without its values; NaN is not zero.

        Parameters
        ----------
        layer : str
            Name of the layer.
        weight : array or tensor of float
            Two or more axes.
        groups, layout, source, part
            As the attributes.

        Returns
        -------
        LayerMask

        Raises
        ------
        MaskError
            If the weight has fewer than two axes, or is empty.
        """
        if getattr(weight, "is_cuda", False):
            weight = weight.detach() != 0  # there: a quarter of the bytes to bring here
        array = as_array(weight)
        if not is_large_single(array):
            return cls.from_dense(layer, array != 0, groups=groups, layout=layout, source=source, part=part)
        from sift_graph.pack_kernels import pack_nonzero

        check_shape(layer, array.shape if part is None else part.whole, groups, layout)
        bits, _ = pack_nonzero(np.ascontiguousarray(array).reshape(-1))
        return cls(layer, tuple(array.shape), bits, None, groups, layout, source, part)

    def with_weight(self, weight: Any) -> LayerMask:
        """Return the same mask with the weights at its set bits.

        Parameters
        ----------
        weight : array or tensor of float
            In the mask's shape.

        Returns
        -------
        LayerMask

        Raises
        ------
        MaskError
            If it differs in shape, or is not real.
        """
        array = as_array(weight)
        if array.shape != self.shape:
            raise MaskError(
                f"layer {self.layer!r}: the mask has shape {self.shape} and the weight {array.shape}; "
                "pass both in the weight's own shape"
            )
        if array.dtype.kind not in "fiub":
            raise MaskError(f"layer {self.layer!r}: expected a real weight, found dtype {array.dtype}")
        if array.dtype not in (np.float32, np.float64):
            array = array.astype(np.float64 if array.dtype.itemsize > 2 else np.float32)
        flat = np.ascontiguousarray(array).reshape(-1)
        if flat.size < LARGE:
            return self._with_values(flat.compress(self.mask.reshape(-1)))
        from sift_graph.pack_kernels import pick

        values = np.empty(self.edges, flat.dtype)
        pick(self.bits, flat, values)
        return self._with_values(values)

    def without_values(self) -> LayerMask:
        """Return the same mask without weights."""
        return self if self.values is None else self._with_values(None)

    def _with_values(self, values: np.ndarray | None) -> LayerMask:
        """Return the same mask with other values, and what is known of it."""
        found = replace(self, values=values)
        for name in ("edges", "digest"):  # the mask is the same, so are its count and its hash
            if name in self.__dict__:
                found.__dict__[name] = self.__dict__[name]
        return found

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


def match_layers(names: list[str], pattern: str | Sequence[str] | None) -> list[str]:
    """Select layer names by globs.

    Parameters
    ----------
    names : list of str
        What exists, in order.
    pattern : str or sequence of str or None
        For instance ``"stage3.*,head"``, separated by commas, or ``["stage3.*", "head"]``, where commas belong to
        names; None or ``"*"`` selects all. A name that is written out exactly is taken as it is, so that names with
        brackets can be asked for.

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
    >>> match_layers(["stem", "stage1.conv", "stage2.conv"], ["stem", "stage2.*"])
    ['stem', 'stage2.conv']
    """
    if pattern is None or pattern == "*":
        return list(names)
    if isinstance(pattern, str):
        if pattern in names:
            return [pattern]
        globs = [part.strip() for part in pattern.split(",")]
    else:
        globs = list(pattern)
    found = [name for name in names if any(name == glob or fnmatchcase(name, glob) for glob in globs)]
    if not found:
        raise UsageError(f"no layer matches {pattern!r}{did_you_mean(str(pattern), names[:40])}")
    return found
