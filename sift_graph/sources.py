"""Where masks live in a model: one small adapter for each way that sparse-training libraries keep them.

An adapter gets the model's weights and yields those that it knows a mask of. :data:`SOURCES` holds them in the order
in which they are asked: the first one that knows a weight's mask decides. What the user names comes before all of
them; ``weight != 0`` comes last and only on request, because it misses every weight that has just been grown.

No adapter keeps a tensor. Libraries rebind, swap or overwrite their masks, and sharding replaces parameters, so
masks and weights are looked up, detached and packed anew at each call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from sift_graph.errors import MaskError, UsageError, did_you_mean
from sift_graph.masks import LayerMask, Layout, layer_name, match_layers
from sift_graph.ranks import local_part, turned_part

__all__ = ["SOURCES", "Source", "Weight", "find_masks", "find_weights", "layer_table"]

logger = logging.getLogger(__name__)

FROM_ZEROS = "weight!=0"


@dataclass(frozen=True, eq=False)
class Weight:
    """One weight of a model, under the name that it would have without pruning.

    Attributes
    ----------
    layer : str
        Name of the layer; see :func:`sift_graph.masks.layer_name`.
    module : torch.nn.Module
        The module that owns it.
    name : str
        Its name there, ``"weight"`` for instance.
    tensor : torch.Tensor
        Its values, before any mask is applied.
    """

    layer: str
    module: nn.Module
    name: str
    tensor: torch.Tensor


Source = Callable[[Sequence[Weight], Any], Iterable[tuple[Weight, Any]]]


def find_weights(model: nn.Module) -> list[Weight]:
    """List a model's weights in network order, tied ones once.

    Parameters
    ----------
    model : torch.nn.Module
        Wrapped by DDP, ``torch.compile`` or FSDP or not; pruned by ``torch.nn.utils.prune`` or parametrized or not.

    Returns
    -------
    list of Weight
        Parameters of one axis (biases, norms) included.
    """
    found: dict[str, Weight] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        if "parametrizations" in path.split("."):
            continue  # listed below, under the owner's name
        tensors = {
            name.removesuffix("_orig") if f"{name.removesuffix('_orig')}_mask" in module._buffers else name: tensor
            for name, tensor in module._parameters.items()
            if tensor is not None
        }
        for name, parametrization in _parametrizations(module).items():
            if isinstance(getattr(parametrization, "original", None), torch.Tensor):
                tensors[name] = parametrization.original
        for name, tensor in tensors.items():
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            parameter = f"{path}.{name}" if path else name
            layer = layer_name(parameter)
            if layer in found:  # a submodule that is really called "module": keep both apart
                layer = parameter
            found[layer] = Weight(layer, module, name, tensor)
    return list(found.values())


def _parametrizations(module: nn.Module) -> Mapping[str, Any]:
    listed = module._modules.get("parametrizations")
    return dict(listed.items()) if isinstance(listed, nn.ModuleDict) else {}


def optimizer_state(weights: Sequence[Weight], optimizer: Any) -> Iterator[tuple[Weight, Any]]:
    """Find masks that a sparse optimizer keeps as ``optimizer.state[parameter]["mask"]`` (cbsparse)."""
    state = getattr(optimizer, "state", None)
    if not isinstance(state, Mapping):
        return
    for weight in weights:
        kept = state.get(weight.tensor)
        if isinstance(kept, Mapping) and isinstance(kept.get("mask"), torch.Tensor):
            yield weight, kept["mask"]


def torch_prune(weights: Sequence[Weight], optimizer: Any) -> Iterator[tuple[Weight, Any]]:
    """Find masks of ``torch.nn.utils.prune``: a buffer ``<name>_mask`` beside the parameter ``<name>_orig``."""
    # module.<name> itself is stale between an optimizer step and the next forward pass, so it is never read
    for weight in weights:
        mask = weight.module._buffers.get(f"{weight.name}_mask")
        if mask is not None and weight.module._parameters.get(f"{weight.name}_orig") is weight.tensor:
            yield weight, mask


def torch_ao(weights: Sequence[Weight], optimizer: Any) -> Iterator[tuple[Weight, Any]]:
    """Find masks of ``torch.ao.pruning``: ``module.parametrizations.<name>[i].mask``; several of them multiply."""
    for weight in weights:
        mask = None
        for step in _parametrizations(weight.module).get(weight.name, ()):
            one = step._buffers.get("mask")
            if one is None:
                continue
            if one.ndim == 1 and weight.tensor.ndim > 1:  # the structured variant keeps one entry a row
                one = one.reshape(-1, *[1] * (weight.tensor.ndim - 1)).expand(weight.tensor.shape)
            mask = one if mask is None else mask * one
        if mask is not None:
            yield weight, mask


def mask_buffer(weights: Sequence[Weight], optimizer: Any) -> Iterator[tuple[Weight, Any]]:
    """Find masks in a buffer ``<name>_mask`` beside the parameter ``<name>``, of its shape (Cerebras and others)."""
    for weight in weights:
        mask = weight.module._buffers.get(f"{weight.name}_mask")
        if mask is not None and mask.shape == weight.tensor.shape and weight.name in weight.module._parameters:
            yield weight, mask


def param_mask(weights: Sequence[Weight], optimizer: Any) -> Iterator[tuple[Weight, Any]]:
    """Find masks in an attribute ``parameter.mask``."""
    for weight in weights:
        mask = getattr(weight.tensor, "mask", None)
        if isinstance(mask, torch.Tensor):
            yield weight, mask


def nonzero(weights: Sequence[Weight], optimizer: Any) -> Iterator[tuple[Weight, Any]]:
    """Derive masks from ``weight != 0``: a fallback, wrong right after weights have been grown at 0.0."""
    for weight in weights:
        yield weight, weight.tensor.detach() != 0


SOURCES: dict[str, Source] = {
    "optimizer_state": optimizer_state,
    "torch.nn.utils.prune": torch_prune,
    "torch.ao.pruning": torch_ao,
    "mask_buffer": mask_buffer,
    "param.mask": param_mask,
    FROM_ZEROS: nonzero,
}


def find_masks(
    model: nn.Module,
    optimizer: Any = None,
    *,
    masks: Any = None,
    layers: str | None = None,
    source: str = "auto",
    from_zeros: bool = False,
    weights: bool = True,
) -> dict[str, LayerMask]:
    """Find the masks of a model, wherever its sparse-training library keeps them.

    Parameters
    ----------
    model : torch.nn.Module
    optimizer : optional
        Asked too: some libraries keep masks in its state.
    masks : mapping, object with ``masks``, or callable, optional
        Where the masks are, if you know: a mapping of parameter or layer names (or the parameters or modules
        themselves) to masks, ``(mask, weight)`` pairs or :class:`LayerMask`; an object whose ``masks`` is or returns
        such a mapping (a ``MaskSet``, an ITOP ``Masking``); a sparse optimizer; or a function without arguments that
        returns one of these. Nothing else is asked then. A mask of None stands for a dense layer and is left out.
    layers : str, optional
        Globs of layer names, separated by commas.
    source : str
        ``"auto"``, or the one entry of :data:`SOURCES` to ask.
    from_zeros : bool
        Derive a mask from ``weight != 0`` where no other is found.
    weights : bool
        Take the weights along.

    Returns
    -------
    dict of str to LayerMask
        In network order, keyed by layer name. Parameters of one axis are left out. A transposed convolution is
        turned to ``(out, in / groups, *kernel)``.

    Raises
    ------
    MaskError
        If there is no mask, or one is not 0/1 or differs in shape from its weight.
    UsageError
        If `source` or a name in `masks` does not exist, or no layer matches `layers`.
    """
    if source != "auto" and source not in SOURCES:
        raise UsageError(f"no source {source!r}{did_you_mean(source, SOURCES)}")
    here = find_weights(model)
    found: dict[str, tuple[Weight, Any, str]] = {}
    asked: list[str] = []
    if masks is not None:
        for weight, mask, label in _given(here, masks):
            found.setdefault(weight.layer, (weight, mask, label))
    else:
        matrices = [weight for weight in here if weight.tensor.ndim >= 2]
        asked += [source] if source != "auto" else [name for name in SOURCES if name != FROM_ZEROS]
        asked += [FROM_ZEROS] if from_zeros and source == "auto" else []
        for name in asked:
            for weight, mask in SOURCES[name](matrices, optimizer):
                found.setdefault(weight.layer, (weight, mask, name))
    ordered = {weight.layer: found[weight.layer] for weight in here if weight.layer in found}
    if not ordered:
        raise MaskError(
            f"{type(model).__name__}: none of its {len(here)} parameters has a mask (asked: "
            f"{', '.join(asked) or 'masks='}); prune or sparsify it first, say where the masks are "
            "with masks=..., or derive them with from_zeros=True (source='weight!=0' in MaskRecorder)"
        )
    return {name: _layer_mask(*ordered[name], weights=weights) for name in match_layers(list(ordered), layers)}


def _given(here: Sequence[Weight], masks: Any) -> Iterator[tuple[Weight, Any, str]]:
    """Masks that the user points at, each with its weight and where it came from."""
    label = "mapping"
    if not isinstance(masks, Mapping) and hasattr(masks, "masks"):
        label, masks = "mask_set", masks.masks
    if callable(masks) and not isinstance(masks, Mapping):
        masks = masks()
        if not isinstance(masks, Mapping) and hasattr(masks, "masks"):
            yield from _given(here, masks)
            return
    if not isinstance(masks, Mapping):
        known = list(optimizer_state(here, masks))
        if not known:
            raise UsageError(
                f"masks: expected a mapping of layer names to masks, or an object with `masks`, found "
                f"{type(masks).__name__}"
            )
        yield from ((weight, mask, "optimizer_state") for weight, mask in known)
        return
    by_name = {weight.layer: weight for weight in here}
    by_id = {id(part): weight for weight in reversed(here) for part in (weight.module, weight.tensor)}
    by_id.update({id(weight.module): weight for weight in here if weight.name == "weight"})
    for key, mask in masks.items():
        weight = by_name.get(layer_name(key)) if isinstance(key, str) else by_id.get(id(key))
        if weight is None and isinstance(key, str):
            weight = by_name.get(key)
        if weight is None:
            raise UsageError(f"masks: the model has no layer {str(key)[:80]!r}{did_you_mean(str(key), by_name)}")
        if mask is not None and not (label == "mask_set" and weight.tensor.ndim < 2):
            yield weight, mask, label


def _layer_mask(weight: Weight, mask: Any, source: str, *, weights: bool) -> LayerMask:
    """Pack one mask with its weight, its groups and its layout."""
    if isinstance(mask, LayerMask):
        return mask if mask.layer == weight.layer else replace(mask, layer=weight.layer)
    values: Any = weight.tensor
    if isinstance(mask, tuple):
        mask, values = mask
    mask, values, part = local_part(weight.layer, mask, values)
    if part is None and tuple(mask.shape) != tuple(weight.tensor.shape):
        raise MaskError(
            f"layer {weight.layer!r}: the mask has shape {tuple(mask.shape)} and the weight "
            f"{tuple(weight.tensor.shape)}; pass the mask in the weight's own shape"
        )
    module = weight.module
    groups = 1
    if isinstance(module, nn.modules.conv._ConvNd) and weight.name == "weight":
        groups = module.groups
        if module.transposed:
            part = turned_part(weight.layer, part, groups)
            mask, values = (_untranspose(array, groups) for array in (mask, values))
    layout: Layout = "io" if type(module).__name__ == "Conv1D" and hasattr(module, "nf") else "oi"
    return LayerMask.from_dense(
        weight.layer, mask, values if weights else None, groups=groups, layout=layout, source=source, part=part
    )


def _untranspose(array: Any, groups: int) -> Any:
    """Turn ``(in, out / groups, *kernel)`` to ``(out, in / groups, *kernel)``."""
    tensor = torch.as_tensor(array).detach()
    split = tensor.reshape(groups, tensor.shape[0] // groups, *tensor.shape[1:])
    return split.transpose(1, 2).reshape(groups * tensor.shape[1], tensor.shape[0] // groups, *tensor.shape[2:])


def layer_table(model: nn.Module) -> list[dict[str, Any]]:
    """Describe each weight of two or more axes, for ``sift.json``.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    list of dict
        In network order, with ``name``, ``shape``, ``kind`` (the module's class) and ``depth`` (its position).
    """
    matrices = [weight for weight in find_weights(model) if weight.tensor.ndim >= 2]
    return [
        {"name": w.layer, "shape": list(w.tensor.shape), "kind": type(w.module).__name__, "depth": depth}
        for depth, w in enumerate(matrices)
    ]
