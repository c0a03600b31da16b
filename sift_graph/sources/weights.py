"""The weights of a model, each with the module that owns it and the name that it would have without pruning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sift_graph.masks import layer_name

__all__ = ["Source", "Weight", "find_weights", "layer_table", "parametrizations"]


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
"""An adapter: of weights and the optimizer (or None), yields weights with their masks, or ``(mask, values)`` pairs."""


def find_weights(model: nn.Module, *, tied: bool = False) -> list[Weight]:
    """List a model's weights in network order, tied ones once.

    Parameters
    ----------
    model : torch.nn.Module
        Wrapped by DDP, ``torch.compile`` or FSDP or not; pruned by ``torch.nn.utils.prune`` or parametrized or not.
    tied : bool
        List a tied weight once for each of its owners: any of them may hold its mask.

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
        for name, tensor in _tensors_of(module).items():
            if id(tensor) in seen and not tied:
                continue
            seen.add(id(tensor))
            parameter = f"{path}.{name}" if path else name
            layer = layer_name(parameter)
            if layer in found:  # a submodule that is really called "module": keep both apart
                layer = parameter
            found[layer] = Weight(layer, module, name, tensor)
    return list(found.values())


def _tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Give a module's own parameters under the names that they had before they were pruned or parametrized."""
    tensors: dict[str, torch.Tensor] = {
        name.removesuffix("_orig") if f"{name.removesuffix('_orig')}_mask" in module._buffers else name: tensor
        for name, tensor in module._parameters.items()
        if tensor is not None
    }
    for name, parametrization in parametrizations(module).items():
        if isinstance(getattr(parametrization, "original", None), torch.Tensor):
            tensors[name] = parametrization.original
    return tensors


def parametrizations(module: nn.Module) -> Mapping[str, Any]:
    """Give the lists of a module's parametrizations, by the name of the parameter; empty if it has none."""
    listed = module._modules.get("parametrizations")
    return dict(listed.items()) if isinstance(listed, nn.ModuleDict) else {}


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
