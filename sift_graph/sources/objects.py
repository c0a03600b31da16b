"""Masks that an object beside the model keeps: a sparse optimizer, a scheduler, a library's handle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from sift_graph.errors import MaskError
from sift_graph.masks import layer_name
from sift_graph.sources.weights import Weight

__all__ = ["OBJECTS", "is_known", "optimizer_state", "rigl_torch", "sparseml"]


def optimizer_state(weights: Sequence[Weight], optimizer: Any) -> Iterator[tuple[Weight, Any]]:
    """Find masks that a sparse optimizer keeps as ``optimizer.state[parameter]["mask"]`` (cbsparse)."""
    state = getattr(optimizer, "state", None)
    if not isinstance(state, Mapping):
        return
    for weight in weights:
        kept = state.get(weight.tensor)
        if isinstance(kept, Mapping) and isinstance(kept.get("mask"), torch.Tensor):
            yield weight, kept["mask"]


def rigl_torch(weights: Sequence[Weight], scheduler: Any) -> Iterator[tuple[Weight, Any]]:
    """Find a scheduler's ``backward_masks``, None for a dense layer, beside its ``W`` (rigl-torch, SRigL, CHTs)."""
    masks, parameters = getattr(scheduler, "backward_masks", None), getattr(scheduler, "W", None)
    if not isinstance(masks, list | tuple) or not isinstance(parameters, list | tuple):
        return
    _check_lengths(scheduler, backward_masks=masks, W=parameters)
    by_id = {id(parameter): mask for parameter, mask in zip(parameters, masks, strict=True)}
    for weight in weights:
        mask = by_id.get(id(weight.tensor))
        if mask is not None:
            yield weight, mask


def sparseml(weights: Sequence[Weight], handle: Any) -> Iterator[tuple[Weight, Any]]:
    """Find masks in a handle's list ``param_masks``, beside its ``layers`` or their ``layer_names`` (sparseml)."""
    masks = getattr(handle, "param_masks", None)
    if not isinstance(masks, list | tuple):
        return
    names = getattr(handle, "param_names", None) or ["weight"] * len(masks)
    modules = getattr(handle, "layers", None)
    owners = getattr(handle, "layer_names", None) or () if modules is None else modules
    _check_lengths(handle, param_masks=masks, param_names=names, **{"layers or layer_names": owners})
    known: dict[object, Any] = {}
    for owner, name, mask in zip(owners, names, masks, strict=True):
        known[layer_name(f"{owner}.{name}") if modules is None else (id(owner), name)] = mask
    for weight in weights:
        mask = known.get(weight.layer if modules is None else (id(weight.module), weight.name))
        if mask is not None:
            yield weight, mask


def _check_lengths(holder: Any, **lists: Sequence[Any]) -> None:
    if len({len(listed) for listed in lists.values()}) > 1:
        found = ", ".join(f"{len(listed)} in {name}" for name, listed in lists.items())
        raise MaskError(
            f"{type(holder).__name__}: expected a mask beside each weight, found {found}; pass masks= as a mapping of "
            "layer names to masks instead"
        )


OBJECTS = {"optimizer_state": optimizer_state, "rigl_torch": rigl_torch, "sparseml": sparseml}


def is_known(holder: Any) -> bool:
    """Say whether an object is of a kind that keeps masks, even if it has none yet."""
    return (hasattr(holder, "backward_masks") and hasattr(holder, "W")) or hasattr(holder, "param_masks")
