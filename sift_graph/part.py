"""Which block of a layer one process holds, where several processes share a model out."""

from __future__ import annotations

from dataclasses import dataclass

from sift_graph.errors import MaskError

__all__ = ["Part", "check_part"]


@dataclass(frozen=True)
class Part:
    """Which block of a layer one process holds, where processes share a layer out.

    Attributes
    ----------
    offset : tuple of int
        Where the block begins in the weight, on each axis.
    whole : tuple of int
        Shape of the whole weight.
    copy : int
        0, or which of several processes that hold the same block this is; the first one records it.
    """

    offset: tuple[int, ...]
    whole: tuple[int, ...]
    copy: int = 0


def check_part(layer: str, shape: tuple[int, ...], part: Part) -> None:
    """Refuse a block that does not lie within its layer.

    Parameters
    ----------
    layer : str
    shape : tuple of int
        Of the block.
    part : Part

    Raises
    ------
    MaskError
        With the layer, the block and the whole.
    """
    axes = zip(part.offset, shape, part.whole, strict=False)
    if not len(part.offset) == len(shape) == len(part.whole) or any(min(o, n) < 0 or o + n > w for o, n, w in axes):
        raise MaskError(
            f"layer {layer!r}: a block of shape {tuple(shape)} at {part.offset} does not lie within the weight's "
            f"{part.whole}; give the offset and the shape of the process's own block"
        )
