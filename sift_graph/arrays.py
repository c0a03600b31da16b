"""Read the arrays and tensors that masks and weights come as, check them, and pack masks."""

from __future__ import annotations

from typing import Any

import numpy as np

from sift_graph.errors import MaskError

__all__ = ["LARGE", "as_array", "as_bool_array", "check_name", "check_shape", "is_large_single", "packed"]

LARGE = 1 << 17  # entries from which on the compiled code of sift_graph.pack_kernels pays

_WITHOUT_NUMPY = (
    "torch.bfloat16",
    "torch.float8_e4m3fn",
    "torch.float8_e4m3fnuz",
    "torch.float8_e5m2",
    "torch.float8_e5m2fnuz",
)


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


def is_large_single(array: np.ndarray) -> bool:
    """Whether these are float32, and so many that compiled code pays."""
    return array.dtype == np.float32 and array.size >= LARGE


def packed(layer: str, array: np.ndarray) -> np.ndarray:
    """Pack a mask given as bools or as zeros and ones, or refuse it."""
    if is_large_single(array):
        from sift_graph.pack_kernels import pack_nonzero

        bits, are_ones = pack_nonzero(np.ascontiguousarray(array).reshape(-1))
        if are_ones:
            return np.asarray(bits)
    dense = as_bool_array(layer, array)
    return np.packbits(np.ascontiguousarray(dense), axis=None, bitorder="little")


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
    if array.dtype in (np.int8, np.uint8) and (not array.size or array.view(np.uint8).max() <= 1):
        return array.view(np.bool_)
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
