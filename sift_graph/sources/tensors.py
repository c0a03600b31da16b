"""Masks that the weight's own tensor tells: an attribute, the entries that it stores, and, on request, its zeros."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from sift_graph.sources.weights import Weight
from sift_graph.stored import is_sparse, stored_entries

__all__ = ["nonzero", "param_mask", "sparse_tensor"]


def param_mask(weights: Sequence[Weight], optimizer: Any) -> Iterator[tuple[Weight, Any]]:
    """Find masks in an attribute ``parameter.mask``."""
    for weight in weights:
        mask = getattr(weight.tensor, "mask", None)
        if isinstance(mask, torch.Tensor):
            yield weight, mask


def sparse_tensor(weights: Sequence[Weight], optimizer: Any) -> Iterator[tuple[Weight, Any]]:
    """Take the stored entries of sparse tensors (COO, CSR, BSR, ...) as their masks, stored zeros included."""
    for weight in weights:
        if isinstance(weight.tensor, torch.sparse.SparseSemiStructuredTensor):
            dense = weight.tensor.detach().to_dense()  # a 2:4 tensor tells only its values
            yield weight, (dense != 0, dense)
        elif is_sparse(weight.tensor):
            yield weight, stored_entries(weight.tensor)


def nonzero(weights: Sequence[Weight], optimizer: Any) -> Iterator[tuple[Weight, Any]]:
    """Derive masks from ``weight != 0``: a fallback, wrong right after weights have been grown at 0.0.

    Yields
    ------
    (Weight, Tensor or ndarray)
        The weight itself: where it is not zero is found while it is packed. Of a sparse tensor, what it stores.
    """
    for weight in weights:
        yield weight, stored_entries(weight.tensor) if is_sparse(weight.tensor) else weight.tensor.detach()
