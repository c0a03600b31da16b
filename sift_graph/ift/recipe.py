"""What is put in the place of which layer: worked out once, on a model without weights, and applied to the real one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from sift_graph.errors import UsageError
from sift_graph.ift.flops import LayerCost, watch
from sift_graph.ift.formulas import doped_rank, factorized_rank, last_branch_density, parallel_branches, rounded
from sift_graph.ift.layers import Factorized, SkippedNorm, SparseDoped, SparseParallel
from sift_graph.ift.options import Options

__all__ = ["LayerRecipe", "Recipe", "apply_recipe", "choose_norms", "layer_recipe"]

Kind = Literal["parallel", "factorized", "doped", "low_rank"]


@dataclass(frozen=True)
class LayerRecipe:
    """What takes the place of one layer.

    Attributes
    ----------
    kind : {"parallel", "factorized", "doped", "low_rank"}
    size : int
        Branches, or the rank of each group.
    nonlinearity : str
        A key of ``NONLINEARITIES``.
    unmasked : tuple of str
        Parts that stay dense, by their names inside the replacement.
    densities : dict of str to float
        Parts whose density the family sets, by their names inside the replacement.
    """

    kind: Kind
    size: int
    nonlinearity: str
    unmasked: tuple[str, ...] = ()
    densities: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """What a family does to a model.

    Attributes
    ----------
    layers : dict of str to LayerRecipe
        By layer name.
    norms : dict of str to str
        ``reset`` or ``skip``, by the name of a batch norm.
    width : int
        Of the model that is to be transformed; 0 where there is none to choose.
    """

    layers: dict[str, LayerRecipe] = field(default_factory=dict)
    norms: dict[str, str] = field(default_factory=dict)
    width: int = 0


def layer_recipe(cost: LayerCost, kind: Kind, sparsity: float, options: Options, *, matrix: float = 0) -> LayerRecipe:
    """Work out what takes the place of one layer.

    Parameters
    ----------
    cost : LayerCost
    kind : {"parallel", "factorized", "doped", "low_rank"}
    sparsity : float
        In [0, 1).
    options : Options
        Resolved.
    matrix : float
        Weights of one group that a low-rank pair may cost.

    Returns
    -------
    LayerRecipe
    """
    d_in, d_out = cost.n_left // cost.groups, cost.n_right // cost.groups
    sigma, rounding = options.nonlinearity, options.rounding
    if kind == "parallel":
        branches = parallel_branches(sparsity, rounding=rounding)
        last = last_branch_density(sparsity) if rounding == "exact" else 1 - sparsity
        is_less = branches > 1 and last < (1 - sparsity) * (1 - 1e-9)
        return LayerRecipe(kind, branches, sigma, densities={f"branches.{branches - 1}": last} if is_less else {})
    if kind == "factorized":
        return LayerRecipe(kind, factorized_rank(d_in, d_out, sparsity, rounding=rounding), sigma)
    if kind == "doped":
        rank = doped_rank(d_in, d_out, sparsity, rounding=rounding)
        return LayerRecipe(kind, rank, sigma, unmasked=() if options.mask_low_rank else ("u", "v"))
    return LayerRecipe(kind, max(rounded(matrix / (d_in + d_out), rounding), 1), sigma)


def check_replaceable(model: nn.Module, names: Sequence[str]) -> None:
    """Refuse layers that do more than their type says, or that share their weight."""
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    copies: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        copies.setdefault(module, []).append(name)
    for name in names:
        layer = model.get_submodule(name)
        mend = f"leave it out with layers ['*', '!{name}']"
        if type(layer) not in (nn.Conv2d, nn.Linear):
            raise UsageError(
                f"layer {name!r}: a family takes the place of Conv2d and Linear, found {type(layer).__name__}, which "
                f"may do more than they; {mend}"
            )
        same = {join(copy, "weight") for copy in copies[layer]}
        others = [other for other in owners[id(layer.weight)] if other not in same]
        if others:
            raise UsageError(f"layer {name!r}: its weight is also {others[0]!r}, and would no longer be; {mend}")


def choose_norms(model: nn.Module, example_input: torch.Tensor, layers: Sequence[str], what: str) -> dict[str, str]:
    """Name the batch norms that take the output of some layers directly.

    Parameters
    ----------
    model : nn.Module
    example_input : Tensor
    layers : sequence of str
    what : {"keep", "reset", "skip"}
        What becomes of them.

    Returns
    -------
    dict of str to str
        `what` by the name of a norm; empty for ``keep``.
    """
    if what == "keep":
        return {}
    names = {module: name for name, module in model.named_modules()}
    sources = {model.get_submodule(name) for name in layers}
    norms = {module for module in names if isinstance(module, nn.modules.batchnorm._BatchNorm)}
    outputs: list[torch.Tensor] = []
    found: dict[str, str] = {}

    def record(module: nn.Module, taken: torch.Tensor, given: torch.Tensor) -> None:
        if module in sources:
            outputs.append(given)
        elif any(taken is output for output in outputs):
            found[names[module]] = what

    watch(model, example_input, [*sources, *norms], record)
    return found


def apply_recipe(model: nn.Module, recipe: Recipe) -> nn.Module:
    """Put the replacements where they belong; new weights come from PyTorch's global generator.

    Parameters
    ----------
    model : nn.Module
        Changed in place.
    recipe : Recipe

    Returns
    -------
    nn.Module
        The model; or what takes its place, where it is itself the layer.

    Raises
    ------
    UsageError
        If a layer cannot be replaced; nothing is changed then.
    """
    check_replaceable(model, list(recipe.layers))
    new: dict[nn.Module, nn.Module] = {}
    for name, what in recipe.layers.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        replacement = {"parallel": SparseParallel, "doped": SparseDoped}.get(what.kind, Factorized)
        try:
            new[layer] = replacement(layer, what.size, what.nonlinearity).train(layer.training)
        except UsageError as error:
            raise UsageError(f"layer {name!r}: {error}; or leave it out: layers ['*', '!{name}']") from error
    for name, choice in recipe.norms.items():
        norm = model.get_submodule(name)
        if choice == "skip":
            new[norm] = SkippedNorm(norm)
        elif isinstance(norm.weight, nn.Parameter):
            nn.init.ones_(norm.weight)
    return replaced(model, new)


def replaced(model: nn.Module, new: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Put modules in the place of others, wherever those stand in a model."""
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module in new and name:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, new[module])
    return new.get(model, model)


def join(module: str, parameter: str) -> str:
    """Name of a parameter of a module."""
    return f"{module}.{parameter}" if module else parameter
