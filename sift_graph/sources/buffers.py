"""Masks beside the weight: buffers of the module that owns it, and parametrizations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from sift_graph.sources.weights import Weight, parametrizations

__all__ = ["asp", "mask_buffer", "modelopt", "module_mask", "torch_ao", "torch_prune"]


def torch_ao(weights: Sequence[Weight], optimizer: Any) -> Iterator[tuple[Weight, Any]]:
    """Find masks of ``torch.ao.pruning``: ``module.parametrizations.<name>[i].mask``; several of them multiply."""
    for weight in weights:
        mask = None
        for step in parametrizations(weight.module).get(weight.name, ()):
            one = step._buffers.get("mask")
            if one is None:
                continue
            if one.ndim == 1 and weight.tensor.ndim > 1:  # the structured variant keeps one entry a row
                one = one.reshape(-1, *[1] * (weight.tensor.ndim - 1)).expand(weight.tensor.shape)
            mask = one if mask is None else mask * one
        if mask is not None:
            yield weight, mask


def torch_prune(weights: Sequence[Weight], optimizer: Any) -> Iterator[tuple[Weight, Any]]:
    """Find masks of ``torch.nn.utils.prune``: a buffer ``<name>_mask`` beside the parameter ``<name>_orig``."""
    # module.<name> itself is stale between an optimizer step and the next forward pass, so it is never read
    for weight in weights:
        mask = weight.module._buffers.get(f"{weight.name}_mask")
        if mask is not None and weight.module._parameters.get(f"{weight.name}_orig") is weight.tensor:
            yield weight, mask


def _beside(weights: Sequence[Weight], pattern: str) -> Iterator[tuple[Weight, torch.Tensor]]:
    """Find buffers of a weight's shape, beside the parameter, whose name follows a pattern."""
    for weight in weights:
        mask = weight.module._buffers.get(pattern.format(weight.name))
        if mask is not None and mask.shape == weight.tensor.shape and weight.name in weight.module._parameters:
            yield weight, mask


def mask_buffer(weights: Sequence[Weight], optimizer: Any) -> Iterator[tuple[Weight, Any]]:
    """Find masks in a buffer ``<name>_mask`` beside the parameter ``<name>``, of its shape (Cerebras and others)."""
    return _beside(weights, "{}_mask")


def modelopt(weights: Sequence[Weight], optimizer: Any) -> Iterator[tuple[Weight, Any]]:
    """Find masks of NVIDIA ModelOpt: a buffer ``_<name>_mask``; None, or a module that is not sparse, is dense."""
    for weight, mask in _beside(weights, "_{}_mask"):
        if getattr(weight.module, "is_sparse", True):
            yield weight, mask


def asp(weights: Sequence[Weight], optimizer: Any) -> Iterator[tuple[Weight, Any]]:
    """Find masks of NVIDIA ASP: a buffer ``__<name>_mma_mask`` beside the parameter ``<name>``."""
    return _beside(weights, "__{}_mma_mask")


def module_mask(weights: Sequence[Weight], optimizer: Any) -> Iterator[tuple[Weight, Any]]:
    """Find masks in a buffer ``mask`` of the shape of the weight, or of one parameter only (GSE, llm-compressor)."""
    for weight, mask in _beside(weights, "mask"):
        alike = [p for p in weight.module._parameters.values() if p is not None and p.shape == mask.shape]
        soft = hasattr(weight.module, "hard_mask_threshold")
        if not soft and (weight.name == "weight" or len(alike) == 1):
            yield weight, mask
