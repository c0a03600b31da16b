"""Masks that a file holds packed, eight entries a byte, and how they are unpacked when they are asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sift_graph.errors import MaskError

__all__ = ["Loader", "View", "bitmask_view", "packed_view", "read_shape"]

Loader = Callable[[str], np.ndarray]
"""Loads the array of a key of a file."""

View = tuple[tuple[int, ...], Callable[[], np.ndarray]]
"""Shape of an array that is made when it is asked for, and what makes it."""


def read_shape(path: Path, key: str, value: np.ndarray) -> tuple[int, ...]:
    """Read a shape that a file holds as an array.

    Parameters
    ----------
    path : Path
    key : str
    value : ndarray of integers, shape (axes,) or (axes, 1)

    Returns
    -------
    tuple of int

    Raises
    ------
    MaskError
        If it is not the shape of a weight: two or more axes, each of 1 or more.
    """
    sizes = value.reshape(-1).tolist() if value.dtype.kind in "iu" else []
    if not 2 <= len(sizes) <= 8 or min(sizes) < 1:
        raise MaskError(
            f"{path}: {key!r}: expected the shape of a weight, 2 to 8 whole numbers of 1 or more, found {value.dtype} "
            f"of shape {value.shape}"
        )
    return tuple(sizes)


def packed_view(path: Path, layer: str, n_bytes: int, shape: tuple[int, ...], load: Loader, key: str) -> View:
    """Unpack a whole mask as ``np.packbits`` (and jaxpruner) pack it: most significant bit first.

    Parameters
    ----------
    path : Path
    layer : str
    n_bytes : int
        Length of the packed array.
    shape : tuple of int
        Of the mask.
    load : callable
    key : str
        Of the packed array.

    Returns
    -------
    View

    Raises
    ------
    MaskError
        If the shape does not need this many bytes; and, when it is loaded, if it is not packed.
    """
    size = math.prod(shape)
    if n_bytes != (size + 7) // 8:
        raise MaskError(
            f"{path}: layer {layer!r}: a packed mask of shape {shape} has {(size + 7) // 8} bytes, {key!r} has "
            f"{n_bytes}; pack the whole mask with np.packbits"
        )

    def unpack() -> np.ndarray:
        packed = load(key)
        if packed.dtype != np.uint8:
            raise MaskError(
                f"{path}: layer {layer!r}: expected {key!r} of uint8, as np.packbits gives it, found {packed.dtype}"
            )
        return _without_padding(path, key, np.unpackbits(packed), size).reshape(shape)

    return shape, unpack


def bitmask_view(
    path: Path, layer: str, found: tuple[int, ...], shape: tuple[int, ...], load: Loader, key: str
) -> View:
    """Unpack a mask whose last axis is packed to whole bytes, least significant bit first, as compressed-tensors does.

    Parameters
    ----------
    path : Path
    layer : str
    found : tuple of int
        Shape of the packed array.
    shape : tuple of int
        Of the mask.
    load : callable
    key : str
        Of the packed array.

    Returns
    -------
    View

    Raises
    ------
    MaskError
        If the shape does not need these bytes; and, when it is loaded, if it is not packed.
    """
    expected = (*shape[:-1], (shape[-1] + 7) // 8)
    if found != expected:
        raise MaskError(
            f"{path}: layer {layer!r}: the bitmask of a weight of shape {shape} has shape {expected}, {key!r} has "
            f"{found}; the file was altered"
        )

    def unpack() -> np.ndarray:
        packed = load(key)
        if packed.dtype != np.uint8:
            raise MaskError(f"{path}: layer {layer!r}: expected {key!r} of uint8, found {packed.dtype}")
        bits = np.unpackbits(packed, axis=-1, bitorder="little")
        return _without_padding(path, key, bits, shape[-1])

    return shape, unpack


def _without_padding(path: Path, key: str, bits: np.ndarray, size: int) -> np.ndarray:
    if bits[..., size:].any():
        raise MaskError(f"{path}: {key!r} has bits beyond its {size} entries; it is packed in another way")
    return bits[..., :size].view(np.bool_)
