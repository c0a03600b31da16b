"""Soft masks, with a threshold above which an entry is kept; one entry may stand for a block of the weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from sift_graph.sources.weights import Weight

__all__ = ["spartan"]


def spartan(weights: Sequence[Weight], optimizer: Any) -> Iterator[tuple[Weight, Any]]:
    """Find Spartan's masks, ``mask >= hard_mask_threshold`` and positive, and the weights scaled by the soft mask."""
    for weight in weights:
        soft = _mask_of(weight)
        if soft is None:
            continue
        threshold = getattr(weight.module, "hard_mask_threshold", None)
        soft = _spread(soft.detach(), weight.tensor.shape)
        kept = soft > 0 if threshold is None else (soft >= threshold) & (soft > 0)
        yield weight, (kept, weight.tensor.detach() * soft)


def _mask_of(weight: Weight) -> torch.Tensor | None:
    """Give a weight's own soft mask: ``in_proj_mask`` of an ``in_proj_weight``, ``mask`` of a ``weight``."""
    if not hasattr(weight.module, "hard_mask_threshold"):
        return None
    for name in (f"{weight.name.removesuffix('weight')}mask", "mask"):
        mask = getattr(weight.module, name, None)
        if isinstance(mask, torch.Tensor) and _divides(mask.shape, weight.tensor.shape):
            return mask
    return None


def _divides(blocks: Sequence[int], shape: Sequence[int]) -> bool:
    return len(blocks) == len(shape) and all(b > 0 and n % b == 0 for b, n in zip(blocks, shape, strict=True))


def _spread(blocks: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Repeat each entry over its block of a tensor of the shape."""
    for axis, n in enumerate(shape):
        blocks = blocks.repeat_interleave(n // blocks.shape[axis], dim=axis)
    return blocks
