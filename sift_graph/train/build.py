"""From a configuration to a model, its masks and what they cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sift_graph.errors import UsageError
from sift_graph.ift import FAMILIES, LayerPlan, Plan, plan
from sift_graph.sparsify import METHODS, MaskSet, Schedule, lay_out, layer_counts
from sift_graph.train.check import checked
from sift_graph.train.config import Config
from sift_graph.train.data import DATASETS
from sift_graph.train.models import MODELS

__all__ = ["Blueprint", "blueprint", "build_model", "describe", "make_masks", "mask_schedule"]


@dataclass(frozen=True)
class Blueprint:
    """What a run will train, worked out without a weight.

    Attributes
    ----------
    plan : Plan
        Layers and costs.
    counts : dict of str to int
        Weights kept in each layer that is neither the first nor the last, by layer name; all of them in the dense
        family.
    """

    plan: Plan
    counts: dict[str, int]

    @property
    def macs(self) -> int:
        """MACs of one forward pass, pruned weights left out."""
        return sum(self.edges(layer) * layer.cost.positions for layer in self.plan.layers)

    @property
    def ratio(self) -> float:
        """MACs over those of the dense model: 1 is iso-FLOP."""
        return self.macs / self.plan.budget

    @property
    def effective_sparsity(self) -> float:
        """Fraction of zeros in the masked layers; 0 where nothing is masked."""
        return 1 - sum(self.counts.values()) / sum(cost.weights for cost in self.plan.transformed.values())

    def edges(self, layer: LayerPlan) -> int:
        """Weights kept in a layer."""
        return self.counts.get(layer.cost.name, layer.cost.weights)

    def layer_table(self) -> list[dict[str, Any]]:
        """Give a mapping for each layer, in network order: the ``layers`` of :func:`describe`."""
        table = []
        for layer in self.plan.layers:
            cost, edges = layer.cost, self.edges(layer)
            table.append(
                {
                    "name": cost.name,
                    "type": cost.type,
                    "shape": list(cost.shape),
                    "shape_dense": list(layer.dense.shape) if layer.dense else None,
                    "groups": cost.groups,
                    "masked": self.plan.is_masked and not layer.is_fixed,
                    "density": edges / cost.weights,
                    "edges": edges,
                    "macs": edges * cost.positions,
                    "macs_dense": layer.dense.macs if layer.dense else 0,
                    "n_left": cost.n_left,
                    "n_right": cost.n_right,
                }
            )
        return table


def build_dense(config: Config, width: int) -> nn.Module:
    """Build the dense model of a width, as the configuration has it otherwise."""
    data = DATASETS[config.data.name]
    return MODELS[config.model.name].build(width, data.shape, data.classes, config.model.depths)


def build_model(config: Config) -> nn.Module:
    """Build the family's model; its weights come from PyTorch's global generator.

    Parameters
    ----------
    config : Config

    Returns
    -------
    nn.Module
    """
    rounding: Any = config.masks.width_rounding
    family = FAMILIES[config.family]
    return family.build(lambda width: build_dense(config, width), config.model.width, config.sparsity, rounding)


def blueprint(config: Config) -> Blueprint:
    """Work out layers, costs and mask counts of a configuration.

    Parameters
    ----------
    config : Config

    Returns
    -------
    Blueprint

    Raises
    ------
    UsageError
        If the family cannot reach its budget, or a layer would keep no weight.
    """
    rounding: Any = config.masks.width_rounding
    what = plan(
        lambda width: build_dense(config, width),
        DATASETS[config.data.name].shape,
        family=config.family,
        sparsity=config.sparsity,
        width=config.model.width,
        width_rounding=rounding,
        compensate=config.masks.compensate,
    )
    layers = what.transformed
    if not layers:
        raise UsageError("the model has no layer between its first and its last; there is no mask to record")
    shapes = {name: cost.shape for name, cost in layers.items()}
    own_counts = METHODS[config.method].counts if what.is_masked else None
    if own_counts is not None:
        return Blueprint(what, own_counts(shapes, config.options))
    counts = layer_counts(
        shapes,
        1 - what.effective_sparsity,
        distribution=config.masks.distribution,
        costs={name: cost.positions for name, cost in layers.items()} if config.masks.compensate else None,
    )
    return Blueprint(what, counts)


def describe(config: Config) -> dict[str, Any]:
    """Say what a run would train and what it would cost, without training it.

    Parameters
    ----------
    config : Config

    Returns
    -------
    dict
        ``macs_dense`` (the budget), ``macs``, ``ratio``, ``effective_sparsity`` (of the masked layers together),
        ``parameters`` (zeros and all), ``masked_layers``, ``masked_weights`` (entries of their weights), ``edges``
        (entries kept in all layers that are recorded), and ``layers``: for each ``name``, ``type``, ``shape``,
        ``shape_dense`` (in the dense model, or None), ``groups``, ``masked``, ``density``, ``edges``, ``macs``,
        ``macs_dense``, ``n_left``, ``n_right``.

    Raises
    ------
    UsageError
        If the configuration cannot be built.

    Examples
    --------
    >>> from sift_graph.train import load_config
    >>> what = describe(load_config(family="sparse_wide", sparsity=0.75))
    >>> what["macs"] / what["macs_dense"] == what["ratio"], round(what["ratio"], 3)
    (True, 1.0)
    """
    found = blueprint(checked(config))
    table = found.layer_table()
    masked = [row for row in table if row["masked"]]
    sizes = {cost.name: cost.weights for cost in found.plan.transformed.values()}
    return {
        "macs_dense": found.plan.budget,
        "macs": found.macs,
        "ratio": found.ratio,
        "effective_sparsity": found.effective_sparsity,
        "parameters": found.plan.parameters,
        "masked_layers": len(masked),
        "masked_weights": sum(sizes[row["name"]] for row in masked),
        "edges": sum(found.counts.values()),
        "layers": table,
    }


def make_masks(
    config: Config, model: nn.Module, found: Blueprint, evidence: Callable[[], tuple[torch.Tensor, torch.Tensor]]
) -> MaskSet | None:
    """Lay out the masks of a family's model and apply them.

    Parameters
    ----------
    config : Config
    model : nn.Module
    found : Blueprint
    evidence : callable
        Gives the inputs and targets on which masks that depend on the data are laid out.

    Returns
    -------
    MaskSet or None
        None for a family without masks.
    """
    if not found.plan.is_masked:
        return None
    method, masks = METHODS[config.method], config.masks
    layout = method.init if masks.init == "own" else masks.init
    if layout == "random":
        layout = "constant_fan_in" if masks.distribution == "constant_fan_in" else "exact"
    positions = {f"{name}.weight": float(cost.positions) for name, cost in found.plan.transformed.items()}
    return lay_out(
        model,
        {f"{layer}.weight": count for layer, count in found.counts.items()},
        layout=layout,
        seed=config.seed,
        scope=method.scope(config.options),
        costs=positions if masks.compensate else None,
        batches=lambda: [evidence()],
        options=config.options,
    )


def mask_schedule(config: Config, steps: int) -> Schedule:
    """Make the mask schedule of a run.

    Parameters
    ----------
    config : Config
    steps : int
        Optimizer updates of the whole run.

    Returns
    -------
    Schedule

    Raises
    ------
    UsageError
        If it ends before it begins, or has no update although the method is one that moves masks.
    """
    masks = config.masks
    schedule = Schedule(
        masks.begin,
        int(masks.stop * steps),
        every=masks.every,
        drop_fraction=masks.drop_fraction,
        drop_floor=config.options.drop_floor,
    )
    is_moving = FAMILIES[config.family].is_masked and METHODS[config.method].moves
    if is_moving and not schedule.updates:
        raise UsageError(
            f"masks.every: the masks of method {config.method!r} would never move: no multiple of {masks.every} lies "
            f"between steps {schedule.begin} and {schedule.end}, of {steps} in all; lower masks.every or train longer"
        )
    return schedule
