r"""The families: models whose FLOPs equal those of a dense model, for one hyper-parameter, the sparsity.

A family builds its model from a function ``width -> model`` and says whether its layers carry masks. What is left of
the iso-FLOP promise after widths are rounded and the first and the last layer are kept dense is bought back by the
masks' density, in closed form (:func:`isoflop_sparsity`).

References
----------
.. [1] V. Thangarasa, S. Saxena, A. Gupta, S. Lie, "Sparse-IFT: Sparse Iso-FLOP Transformations for Maximizing
   Training Efficiency", ICML 2024, section 3 and appendix A.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from sift_graph.errors import UsageError, did_you_mean
from sift_graph.ift.flops import LayerCost, count_macs

__all__ = ["FAMILIES", "Family", "LayerPlan", "Plan", "isoflop_sparsity", "plan", "widen_factor", "widened"]

WidthRounding = Literal["nearest", "floor"]
ROUNDINGS = ("nearest", "floor")
BuildModel = Callable[[int], nn.Module]


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes
    ----------
    name : str
    build : callable
        ``build(build_model, width, sparsity, width_rounding) -> model``, where ``build_model(width)`` makes the dense
        model of a width.
    is_masked : bool
        Whether its layers, but for the first and the last, carry masks.
    """

    name: str
    build: Callable[[BuildModel, int, float, WidthRounding], nn.Module]
    is_masked: bool


@dataclass(frozen=True)
class LayerPlan:
    """One layer of a family's model.

    Attributes
    ----------
    cost : LayerCost
        At density 1.
    dense : LayerCost or None
        The layer of that name in the dense model, if it has one.
    is_fixed : bool
        The first or the last layer: neither masked nor recorded.
    """

    cost: LayerCost
    dense: LayerCost | None
    is_fixed: bool


@dataclass(frozen=True)
class Plan:
    """What a family makes of a model, before any weight exists.

    Attributes
    ----------
    family : str
    sparsity : float
        Nominal: what widths are computed from.
    effective_sparsity : float
        What the masks need for the whole model to cost `budget`; the nominal one if not compensated; 0 if there are no
        masks.
    budget : int
        MACs of the dense model.
    layers : tuple of LayerPlan
        In the order in which they run.
    parameters : int
        Of the family's model, zeros and all.
    """

    family: str
    sparsity: float
    effective_sparsity: float
    budget: int
    layers: tuple[LayerPlan, ...]
    parameters: int

    @property
    def is_masked(self) -> bool:
        """Whether the layers that are not fixed carry masks."""
        return FAMILIES[self.family].is_masked

    @property
    def transformed(self) -> dict[str, LayerCost]:
        """The layers that carry masks, or would if the family did: all but the first and the last."""
        return {layer.cost.name: layer.cost for layer in self.layers if not layer.is_fixed}


def widen_factor(sparsity: float) -> float:
    r"""Width factor of Sparse Wide, :math:`k = 1 / \sqrt{1 - s}`.

    Parameters
    ----------
    sparsity : float
        In [0, 1).

    Returns
    -------
    float

    Raises
    ------
    UsageError
        If the sparsity is outside [0, 1).

    Examples
    --------
    >>> widen_factor(0.75)
    2.0
    """
    check_sparsity(sparsity)
    return 1 / math.sqrt(1 - sparsity)


def widened(width: int, sparsity: float, *, rounding: WidthRounding = "nearest") -> int:
    """Width of a Sparse Wide model.

    Parameters
    ----------
    width : int
        Of the dense model.
    sparsity : float
        In [0, 1).
    rounding : {"nearest", "floor"}
        ``"floor"`` is what the released code of Sparse-IFT does: 64 at 0.5 gives 90, where ``"nearest"`` gives 91.

    Returns
    -------
    int

    Raises
    ------
    UsageError
        If the width is below 1, the sparsity outside [0, 1), or the rounding unknown.

    Examples
    --------
    >>> widened(64, 0.9), widened(64, 0.5), widened(64, 0.5, rounding="floor")
    (202, 91, 90)
    """
    if width < 1:
        raise UsageError(f"expected a width of 1 or more, found {width}")
    if rounding not in ROUNDINGS:
        raise UsageError(f"unknown width rounding {rounding!r}{did_you_mean(rounding, ROUNDINGS)}")
    exact = width * widen_factor(sparsity)
    # 1 - 0.99 is a little above 0.01 in floating point, and 64 * k a little below 640.
    return math.floor(exact + 1e-9) if rounding == "floor" else math.floor(exact + 0.5)


def check_sparsity(sparsity: float) -> None:
    """Refuse a sparsity outside [0, 1)."""
    if not 0 <= sparsity < 1:
        raise UsageError(f"expected a sparsity of at least 0 and below 1, a fraction of zeros, found {sparsity}")


def build_dense(
    build_model: BuildModel, width: int, sparsity: float, width_rounding: WidthRounding = "nearest"
) -> nn.Module:
    """Build the dense model; it has no sparsity."""
    if sparsity != 0:
        raise UsageError(f"the family 'dense' has sparsity 0, found {sparsity}; choose a sparse family or leave it out")
    return build_model(width)


def build_sparse_wide(
    build_model: BuildModel, width: int, sparsity: float, width_rounding: WidthRounding = "nearest"
) -> nn.Module:
    """Build the model at the widened width; only the base width is rounded."""
    return build_model(widened(width, sparsity, rounding=width_rounding))


FAMILIES: dict[str, Family] = {
    "dense": Family("dense", build_dense, is_masked=False),
    "sparse_wide": Family("sparse_wide", build_sparse_wide, is_masked=True),
}


def isoflop_sparsity(budget: int, layers: Sequence[LayerPlan]) -> float:
    r"""Solve for the sparsity at which a masked model costs exactly the budget.

    :math:`s = 1 - (F_{budget} - F_{fixed}) / F_{masked}`, with :math:`F_{masked}` counted at density 1. Released code
    searches for it, within 0.1 %; this is the solution itself.

    Parameters
    ----------
    budget : int
        MACs of the dense model.
    layers : sequence of LayerPlan

    Returns
    -------
    float
        In [0, 1).

    Raises
    ------
    UsageError
        If there is no such sparsity: the dense first and last layers alone cost the budget, or the model at density 1
        costs less than it.
    """
    fixed = sum(layer.cost.macs for layer in layers if layer.is_fixed)
    masked = sum(layer.cost.macs for layer in layers if not layer.is_fixed)
    if not masked:
        raise UsageError("the model has no layer between its first and its last; there is nothing to mask")
    sparsity = 1 - (budget - fixed) / masked
    if sparsity >= 1:
        raise UsageError(
            f"no sparsity reaches the budget of {budget:,} MACs: the first and the last layer, which stay dense, cost "
            f"{fixed:,} at this width; lower the sparsity, or raise the base width or the depth"
        )
    if sparsity < 0:
        raise UsageError(
            f"no sparsity reaches the budget of {budget:,} MACs: the model costs only {fixed + masked:,} with every "
            "weight present; widen it, or switch compensation off"
        )
    return sparsity


def plan(
    build_model: BuildModel,
    example_shape: Sequence[int],
    *,
    family: str,
    sparsity: float,
    width: int,
    width_rounding: WidthRounding = "nearest",
    compensate: bool = True,
) -> Plan:
    """Work out what a family makes of a model and what it costs, on the ``meta`` device, without a weight.

    Parameters
    ----------
    build_model : callable
        ``build_model(width) -> model``.
    example_shape : sequence of int
        Shape of one input, without the batch.
    family : str
        A key of :data:`FAMILIES`.
    sparsity : float
        Nominal, in [0, 1).
    width : int
        Of the dense model.
    width_rounding : {"nearest", "floor"}
    compensate : bool
        Choose the masks' density so that the whole model costs what the dense one does; otherwise it is
        ``1 - sparsity``.

    Returns
    -------
    Plan

    Raises
    ------
    UsageError
        If the family is unknown, the sparsity outside [0, 1), or the budget cannot be reached.
    """
    if family not in FAMILIES:
        raise UsageError(f"unknown family {family!r}{did_you_mean(family, FAMILIES)}")
    check_sparsity(sparsity)
    with torch.device("meta"):
        example = torch.empty(1, *example_shape)
        dense = {cost.name: cost for cost in count_macs(build_model(width), example)}
        model = FAMILIES[family].build(build_model, width, sparsity, width_rounding)
        costs = count_macs(model, example)
    # A model may name them itself: behind an embedding, the first layer is like the others.
    fixed = getattr(model, "dense_layers", (costs[0].name, costs[-1].name))
    layers = tuple(LayerPlan(cost, dense.get(cost.name), cost.name in fixed) for cost in costs)
    budget = sum(cost.macs for cost in dense.values())
    effective = 0.0
    if FAMILIES[family].is_masked:
        effective = isoflop_sparsity(budget, layers) if compensate else sparsity
    parameters = sum(p.numel() for p in model.parameters())
    return Plan(family, sparsity, effective, budget, layers, parameters)
