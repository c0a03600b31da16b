r"""What a family makes of a model and what it costs, worked out before any weight exists.

What is left of the iso-FLOP promise after widths, branches and ranks are rounded and the first and the last layer are
kept dense is bought back by the masks' density, in closed form (:func:`isoflop_sparsity`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from sift_graph.errors import UsageError
from sift_graph.ift.families import FAMILIES, Family, checked_family
from sift_graph.ift.flops import COUNTERS, Count, LayerCost, count_macs
from sift_graph.ift.formulas import widened
from sift_graph.ift.options import Options
from sift_graph.ift.recipe import Recipe, apply_recipe, choose_norms, join, layer_recipe

__all__ = ["LayerPlan", "Plan", "build", "isoflop_sparsity", "plan", "plan_model"]

BuildModel = Callable[[int], nn.Module]


@dataclass(frozen=True)
class LayerPlan:
    """One layer of a family's model.

    Attributes
    ----------
    cost : LayerCost
        At density 1.
    dense : LayerCost or None
        The layer of the dense model that it stands for; None for all parts but the first of one that was replaced.
    is_fixed : bool
        Neither masked nor recorded: the first and the last layer, those that the family leaves alone, the dense pair
        of Sparse Doped.
    origin : str
        Name of the layer of the dense model that this is or is a part of.
    density : float or None
        Of its mask, where the family sets it; None for the density common to all others.
    """

    cost: LayerCost
    dense: LayerCost | None
    is_fixed: bool
    origin: str = ""
    density: float | None = None


@dataclass(frozen=True)
class Plan:
    """What a family makes of a model, before any weight exists.

    Attributes
    ----------
    family : str
    sparsity : float
        Nominal: what widths, branches and ranks are computed from.
    effective_sparsity : float
        What the masks need for the whole model to cost its budget; the nominal one if not compensated; 0 if there are
        no masks. Layers that have a density of their own are not meant by it.
    budget : int
        MACs of the dense model.
    layers : tuple of LayerPlan
        In the order in which they run.
    parameters : int
        Of the family's model, zeros and all.
    recipe : Recipe
        What makes the family's model from the one of its width.
    counter : str
        A key of :data:`~sift_graph.ift.flops.COUNTERS`: what was compensated.
    dense_count, count : Count
        Of the dense model and of the family's, by that counter.
    """

    family: str
    sparsity: float
    effective_sparsity: float
    budget: int
    layers: tuple[LayerPlan, ...]
    parameters: int
    recipe: Recipe
    counter: str
    dense_count: Count
    count: Count

    @property
    def is_masked(self) -> bool:
        """Whether the layers that are not fixed carry masks."""
        return FAMILIES[self.family].is_masked

    @property
    def transformed(self) -> dict[str, LayerCost]:
        """The layers that carry masks, or would if the family did."""
        return {layer.cost.name: layer.cost for layer in self.layers if not layer.is_fixed}

    @property
    def densities(self) -> dict[str, float]:
        """Density of each layer that carries a mask, if it is uniform where the family leaves it open."""
        common = 1 - self.effective_sparsity
        return {
            layer.cost.name: common if layer.density is None else layer.density
            for layer in self.layers
            if self.is_masked and not layer.is_fixed
        }

    @property
    def ratio(self) -> float:
        """Operations over those of the dense model, by the plan's counter: 1 is iso-FLOP."""
        return self.ratio_at(self.densities)

    def ratio_at(self, densities: dict[str, float]) -> float:
        """Operations over those of the dense model, by the plan's counter, at some densities; 1 where none is given."""
        kept = sum(count * densities.get(name, 1.0) for name, count in self.count.layers.items())
        return (kept + self.count.rest) / self.dense_count.total


def isoflop_sparsity(budget: int, layers: Sequence[LayerPlan], count: Count | None = None) -> float:
    r"""Solve for the sparsity at which a masked model costs exactly the budget.

    :math:`s = 1 - (F_{budget} - F_{fixed}) / F_{masked}`, with :math:`F_{masked}` counted at density 1. Released code
    searches for it, within 0.1 %; this is the solution itself.

    Parameters
    ----------
    budget : int
        What the dense model costs.
    layers : sequence of LayerPlan
    count : Count, optional
        What the layers cost at density 1; left out, their MACs.

    Returns
    -------
    float
        In [0, 1). Where a model with every weight present misses the budget by half a percent or less, 0.

    Raises
    ------
    UsageError
        If there is no such sparsity: the dense layers alone cost the budget, or the model at density 1 costs less
        than it.
    """
    costs = {layer.cost.name: layer.cost.macs for layer in layers} if count is None else count.layers
    open_ = [costs[layer.cost.name] for layer in layers if not layer.is_fixed and layer.density is None]
    if not open_:
        raise UsageError("the model has no layer between its first and its last that is to carry a mask")
    masked = sum(open_)
    fixed: float = (0 if count is None else count.rest) + sum(
        costs[layer.cost.name] * (1 if layer.is_fixed or layer.density is None else layer.density)
        for layer in layers
        if layer.is_fixed or layer.density is not None
    )
    sparsity = 1 - (budget - fixed) / masked
    if sparsity >= 1:
        raise UsageError(
            f"no sparsity reaches the budget of {budget:,} operations: the first and the last layer, which stay dense, "
            f"cost {round(fixed):,} with all else that is not masked; lower the sparsity, or raise the base width or "
            "the depth"
        )
    if sparsity < 0:
        if (budget - fixed - masked) <= 0.005 * budget:
            return 0.0
        raise UsageError(
            f"no sparsity reaches the budget of {budget:,} operations: the model costs only {round(fixed + masked):,} "
            "with every weight present; widen it, or switch compensation off"
        )
    return sparsity


def plan(
    build_model: BuildModel,
    example: Sequence[int] | torch.Tensor,
    *,
    family: str,
    sparsity: float,
    width: int,
    options: Options | None = None,
) -> Plan:
    """Work out what a family makes of a model and what it costs, on the ``meta`` device, without a weight.

    Parameters
    ----------
    build_model : callable
        ``build_model(width) -> model``.
    example : sequence of int, or Tensor
        Shape of one input, without the batch; or an input, with it.
    family : str
        A key of :data:`FAMILIES`.
    sparsity : float
        Nominal, in [0, 1).
    width : int
        Of the dense model.
    options : Options, optional

    Returns
    -------
    Plan

    Raises
    ------
    UsageError
        If the family is unknown, the sparsity outside [0, 1), or the budget cannot be reached.
    """
    found = checked_family(family, sparsity)
    options = (options or Options()).resolved(family)
    wide = width
    if found.is_wide:
        wide = widened(width, sparsity, rounding=options.rounding, multiple=options.multiple)
    with torch.device("meta"):
        example = example.to("meta") if isinstance(example, torch.Tensor) else torch.empty(1, *example)
        dense, model = build_model(width), build_model(wide)
        what, _ = plan_model(dense, model, example, family=found, sparsity=sparsity, options=options)
    return replace(what, recipe=replace(what.recipe, width=wide))


def build(build_model: BuildModel, what: Plan) -> nn.Module:
    """Build the model of a plan; its weights come from PyTorch's global generator.

    Parameters
    ----------
    build_model : callable
        The one that the plan was made with.
    what : Plan

    Returns
    -------
    nn.Module
    """
    return apply_recipe(build_model(what.recipe.width), what.recipe)


def plan_model(
    dense: nn.Module, model: nn.Module, example: torch.Tensor, *, family: Family, sparsity: float, options: Options
) -> tuple[Plan, nn.Module]:
    """Work out what a family makes of a model, and make it.

    Parameters
    ----------
    dense : nn.Module
        Left as it is.
    model : nn.Module
        The dense model at the family's width; transformed in place.
    example : Tensor
    family : Family
    sparsity : float
    options : Options
        Resolved.

    Returns
    -------
    Plan
    nn.Module
        The transformed model.

    Raises
    ------
    UsageError
        If there is nothing to transform, a layer cannot be replaced, or the budget cannot be reached.
    """
    costs_dense = {cost.name: cost for cost in count_macs(dense, example)}
    before = count_macs(model, example)
    # A model may name them itself: behind an embedding, the first layer is like the others.
    ends = getattr(model, "dense_layers", (before[0].name, before[-1].name)) if options.keep_ends else ()
    alone = left_alone(before, options) | set(ends)
    if family.takes_sparsity and all(cost.name in alone for cost in before):
        raise UsageError(
            f"the model has nothing to mask or to transform: the layers {', '.join(options.layers)} leave none of "
            + shortened([cost.name for cost in before])
            + (f", of which {' and '.join(ends)} stay dense" if ends else "")
        )
    dense_count = COUNTERS[options.counter](dense, example)
    recipe = Recipe()
    if family.kind:
        inside = [cost for cost in before if cost.name not in alone and not options.only_masks(cost.name)]
        matrix = low_rank_weights(before, inside, costs_dense, options) if family.kind == "low_rank" else {}
        layers = {
            cost.name: layer_recipe(cost, family.kind, sparsity, options, matrix=matrix.get(cost.name, 0))
            for cost in inside
        }
        recipe = Recipe(layers, choose_norms(model, example, list(layers), options.norm_after))
        model = apply_recipe(model, recipe)
    layer_plans = plan_layers(count_macs(model, example), costs_dense, recipe, alone, options)
    count = COUNTERS[options.counter](model, example)
    effective = sparsity if family.is_masked else 0.0
    if family.is_masked and family.is_compensated and options.compensate == "yes":
        effective = isoflop_sparsity(dense_count.total, layer_plans, count)
    what = Plan(
        family=family.name,
        sparsity=sparsity,
        effective_sparsity=effective,
        budget=sum(cost.macs for cost in costs_dense.values()),
        layers=layer_plans,
        parameters=sum(p.numel() for p in model.parameters()),
        recipe=recipe,
        counter=options.counter,
        dense_count=dense_count,
        count=count,
    )
    return what, model


def plan_layers(
    costs: Sequence[LayerCost],
    costs_dense: Mapping[str, LayerCost],
    recipe: Recipe,
    alone: Collection[str],
    options: Options,
) -> tuple[LayerPlan, ...]:
    """Say of each layer of a family's model where it comes from and whether it carries a mask."""
    seen: set[str] = set()
    plans = []
    for cost in costs:
        origin = next((name for name in recipe.layers if cost.name.startswith(join(name, ""))), cost.name)
        dense = costs_dense[origin] if origin not in seen else None
        seen.add(origin)
        is_fixed, density = origin in alone, None
        if origin in recipe.layers:
            part = cost.name[len(join(origin, "")) :]
            is_fixed |= part in recipe.layers[origin].unmasked
            density = recipe.layers[origin].densities.get(part)
        elif dense and options.depthwise == "isoflop" and is_depthwise(cost) and not is_fixed:
            density = min(dense.macs / cost.macs, 1.0)
        plans.append(LayerPlan(cost, dense, is_fixed, origin, density))
    return tuple(plans)


def low_rank_weights(
    before: Sequence[LayerCost], inside: Sequence[LayerCost], costs_dense: Mapping[str, LayerCost], options: Options
) -> dict[str, float]:
    """Say how many weights the low-rank pair of each layer may have, of one group: those of the dense layer, scaled."""
    # One factor for all makes up for what the first and the last layer cost more than in the dense model.
    share = 1.0
    if options.compensate == "yes" and inside:
        budget = sum(cost.macs for cost in costs_dense.values())
        fixed = sum(cost.macs for cost in before) - sum(cost.macs for cost in inside)
        share = (budget - fixed) / sum(costs_dense[cost.name].macs for cost in inside)
        if share <= 0:
            raise UsageError(
                f"no rank reaches the budget of {budget:,} operations: the first and the last layer, which stay as "
                f"they are, cost {fixed:,} at this width; lower the sparsity, or raise the base width or the depth"
            )
    return {cost.name: share * costs_dense[cost.name].weights / cost.groups for cost in inside}


def left_alone(costs: Sequence[LayerCost], options: Options) -> set[str]:
    """Name the layers that are neither transformed nor masked, beside the first and the last."""
    names = {cost.name for cost in costs if not options.takes(cost.name)}
    if options.depthwise == "keep":
        names |= {cost.name for cost in costs if is_depthwise(cost)}
    return names


def is_depthwise(cost: LayerCost) -> bool:
    """Whether each group of a convolution has one input channel."""
    return cost.groups > 1 and cost.shape[1] == 1


def shortened(names: list[str]) -> str:
    """Join names for a message, the middle of many left out."""
    return ", ".join(names if len(names) <= 8 else [*names[:4], "...", *names[-3:]])
