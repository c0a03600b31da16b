"""Where a convolution stands on its input: sizes, stride, padding, dilation; what the unrolled graph needs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from sift_graph.errors import DamagedStoreError, UsageError

__all__ = ["Geometry"]

MAX_PIXELS = 1 << 26  # of a layer's input or output; a file that claims more is refused


@dataclass(frozen=True)
class Geometry:
    """Sizes of a convolution's input and output, and how one is laid on the other; an entry for each spatial axis.

    Attributes
    ----------
    size : tuple of int
        Of the input, without channels.
    stride, dilation : tuple of int
    padding : tuple of int
        Zeros before the first entry.
    output : tuple of int
        Size of the output.
    transposed : bool
        Whether the layer is a transposed convolution: then the output is the larger map, on which the kernel lies.
    padding_mode : str
        ``"zeros"``; what else torch offers has no unrolled graph of its own here.
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    output: tuple[int, ...]
    transposed: bool = False
    padding_mode: str = "zeros"

    @classmethod
    def plain(
        cls,
        size: Sequence[int],
        kernel: Sequence[int],
        *,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | None = None,
        dilation: int | Sequence[int] = 1,
    ) -> Geometry:
        """Lay out a convolution from its input size.

        Parameters
        ----------
        size, kernel : sequence of int
            An entry for each spatial axis.
        stride, dilation : int or sequence of int
        padding : int or sequence of int, optional
            On both sides; if not given, what keeps the size at stride 1.

        Returns
        -------
        Geometry

        Raises
        ------
        UsageError
            If the sizes do not fit each other.

        Examples
        --------
        >>> Geometry.plain((32, 32), (3, 3), stride=2).output
        (16, 16)
        """
        axes = len(kernel)
        steps, wide = per_axis(stride, axes), per_axis(dilation, axes)
        spread = [d * (k - 1) for d, k in zip(wide, kernel, strict=True)]
        before = tuple(s // 2 for s in spread) if padding is None else per_axis(padding, axes)
        both = [s if padding is None else 2 * p for s, p in zip(spread, before, strict=True)]
        if len(size) != axes or min(size, default=0) < 1:
            raise UsageError(
                f"expected an input size of {axes} positive numbers for a kernel of {tuple(kernel)}, found "
                f"{tuple(size)}"
            )
        output = tuple((n + b - s - 1) // t + 1 for n, b, s, t in zip(size, both, spread, steps, strict=True))
        if min(output) < 1:
            raise UsageError(f"an input of {tuple(size)} is smaller than the kernel {tuple(kernel)}; give a larger one")
        return cls(tuple(size), steps, before, wide, output)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Geometry:
        """Read what a traced model says of a layer in ``sift.json``."""

        def numbers(key: str) -> tuple[int, ...]:
            return tuple(int(n) for n in record[key])

        for key, least in (("size", 1), ("stride", 1), ("dilation", 1), ("output", 1), ("padding", 0)):
            found = numbers(key)
            if len(found) != len(record["size"]) or min(found, default=0) < least or math.prod(found) > MAX_PIXELS:
                raise UsageError(f"{key} {str(record[key])[:80]} is not that of a convolution")
        return cls(
            numbers("size"),
            numbers("stride"),
            numbers("padding"),
            numbers("dilation"),
            numbers("output"),
            bool(record.get("transposed", False)),
            str(record.get("padding_mode", "zeros")),
        )

    def record(self) -> dict[str, Any]:
        """Give what :meth:`from_record` reads."""
        found: dict[str, Any] = {
            key: list(getattr(self, key)) for key in ("size", "stride", "padding", "dilation", "output")
        }
        return found | {"transposed": self.transposed, "padding_mode": self.padding_mode}

    @property
    def pixels(self) -> int:
        """Positions of the input."""
        return math.prod(self.size)

    @property
    def positions(self) -> int:
        """Positions of the output."""
        return math.prod(self.output)

    def taps(self, kernel: Sequence[int]) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
        """For each kernel position in C order, the input and the output positions that it joins, one for one.

        Yields
        ------
        tuple of two tuples of slice
            Empty ones where a kernel position falls into the padding everywhere.
        """
        coarse, fine = (self.size, self.output) if self.transposed else (self.output, self.size)
        for position in product(*map(range, kernel)):
            pairs = [
                tap(k * d - p, t, m, n)
                for k, d, p, t, m, n in zip(
                    position, self.dilation, self.padding, self.stride, coarse, fine, strict=True
                )
            ]
            on_coarse, on_fine = tuple(a for a, _ in pairs), tuple(b for _, b in pairs)
            yield (on_coarse, on_fine) if self.transposed else (on_fine, on_coarse)


def tap(shift: int, stride: int, coarse: int, fine: int) -> tuple[slice, slice]:
    """Where ``stride * i + shift`` lies within 0 ... fine - 1, for i in 0 ... coarse - 1: i, and what it meets."""
    first = max(0, -(shift // stride))
    last = min(coarse - 1, (fine - 1 - shift) // stride)
    if last < first:
        return slice(0, 0), slice(0, 0)
    return slice(first, last + 1), slice(stride * first + shift, stride * last + shift + 1, stride)


def per_axis(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    """One number for each axis."""
    numbers = (value,) * axes if isinstance(value, int) else tuple(value)
    if len(numbers) != axes or min(numbers) < 0:
        raise UsageError(f"expected {axes} numbers, one for each spatial axis, found {value!r}")
    return numbers


def recorded_geometries(graph: Any) -> dict[str, Geometry]:
    """Read the geometry of each convolution from the ``graph`` of a run's ``sift.json``; none where there is none."""
    layers = graph.get("layers", []) if isinstance(graph, Mapping) else []
    try:
        placed = [layer for layer in layers if layer.get("geometry")]
        return {str(layer["layer"]): Geometry.from_record(layer["geometry"]) for layer in placed}
    except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
        raise DamagedStoreError(
            f"sift.json: its graph holds a geometry that cannot be read ({type(error).__name__}: {str(error)[:80]}); "
            "restore the file from a copy, or remove the key 'graph'"
        ) from error
