"""Which entries a sparse tensor stores: for torch's layouts the mask itself, zeros that are stored included."""

from __future__ import annotations

from typing import Any

import numpy as np

from sift_graph.errors import MaskError

__all__ = ["is_sparse", "stored_entries"]


def is_sparse(tensor: Any) -> bool:
    """Say whether a torch tensor is of a sparse layout: COO, CSR, CSC, BSR or BSC."""
    return str(getattr(tensor, "layout", "")).startswith("torch.sparse")


def stored_entries(tensor: Any) -> np.ndarray:
    """Mark the entries that a sparse tensor stores, whatever their values.

    Parameters
    ----------
    tensor : torch.Tensor
        Of layout COO of any shape, or of CSR, CSC, BSR or BSC, two axes. All entries of a stored block are stored.

    Returns
    -------
    ndarray of bool
        In the shape of the tensor.

    Raises
    ------
    MaskError
        If a compressed tensor has more than two axes.
    """
    tensor = tensor.detach().cpu()
    shape = tuple(tensor.shape)
    mask = np.zeros(shape, dtype=bool)
    if str(tensor.layout) == "torch.sparse_coo":
        mask[tuple(tensor._indices().numpy())] = True  # those of a tensor that is not coalesced too
        return mask
    if len(shape) != 2:
        raise MaskError(
            f"expected a compressed sparse tensor with two axes, found shape {shape}; pass it as torch.sparse_coo"
        )
    by_rows = str(tensor.layout) in ("torch.sparse_csr", "torch.sparse_bsr")
    starts = (tensor.crow_indices() if by_rows else tensor.ccol_indices()).numpy()
    inner = (tensor.col_indices() if by_rows else tensor.row_indices()).numpy()
    outer = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    height, width = tensor.values().shape[1:] or (1, 1)
    blocks = mask.reshape(shape[0] // height, height, shape[1] // width, width)
    rows, columns = (outer, inner) if by_rows else (inner, outer)
    blocks[rows, :, columns, :] = True
    return mask
