"""From a configuration to a model, its masks and what they cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from sift_graph.errors import UsageError
from sift_graph.ift import FAMILIES, LayerCost, LayerPlan, Options, Plan, build, plan
from sift_graph.sparsify import METHODS, MaskSet, Schedule, lay_out, layer_counts
from sift_graph.train.check import checked
from sift_graph.train.config import Config
from sift_graph.train.data import data_spec
from sift_graph.train.models import MODELS
from sift_graph.train.start import load_start

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
    is_densified : bool
        Whether a family with masks is trained without, from a checkpoint that had them.
    """

    plan: Plan
    counts: dict[str, int]
    is_densified: bool = False

    @property
    def is_masked(self) -> bool:
        """Whether layers carry masks."""
        return self.plan.is_masked and not self.is_densified

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

    @property
    def counted_ratio(self) -> float:
        """Operations over those of the dense model, by the counter of ``ift.counter``."""
        weights = {layer.cost.name: layer.cost.weights for layer in self.plan.layers}
        return self.plan.ratio_at({name: edges / weights[name] for name, edges in self.counts.items()})

    @property
    def cardinality(self) -> int:
        """Weights among which the masks choose: entries of all layers that carry one."""
        return sum(cost.weights for cost in self.plan.transformed.values()) if self.is_masked else 0

    def layer_table(self) -> list[dict[str, Any]]:
        """Give a mapping for each layer, in network order: the ``layers`` of :func:`describe`."""
        macs: dict[str, int] = {}
        for layer in self.plan.layers:
            macs[layer.origin] = macs.get(layer.origin, 0) + self.edges(layer) * layer.cost.positions
        table = []
        for layer in self.plan.layers:
            cost, dense, edges = layer.cost, layer.dense, self.edges(layer)
            is_masked = self.is_masked and not layer.is_fixed
            table.append(
                {
                    "name": cost.name,
                    "type": cost.type,
                    "origin": layer.origin,
                    "shape": list(cost.shape),
                    "shape_dense": list(dense.shape) if dense else None,
                    "groups": cost.groups,
                    "masked": is_masked,
                    "density": edges / cost.weights,
                    "edges": edges,
                    "cardinality": cost.weights if is_masked else 0,
                    "macs": edges * cost.positions,
                    "macs_dense": dense.macs if dense else 0,
                    "ratio": macs[layer.origin] / dense.macs if dense else None,
                    "n_left": cost.n_left,
                    "n_right": cost.n_right,
                }
            )
        return table


def build_dense(config: Config, width: int) -> nn.Module:
    """Build the dense model of a width, as the configuration has it otherwise."""
    data = data_spec(config.data)
    model = config.model
    source = MODELS[model.name]
    return source.make(width, data.shape, data.classes, model.depths, heads=model.heads, dropout=model.dropout)


def family_options(config: Config) -> Options:
    """Say how the family transforms the model."""
    return config.ift if config.masks.compensate else replace(config.ift, compensate="no")


def family_plan(config: Config) -> Plan:
    """Work out what the family makes of the dense model."""
    return plan(
        lambda width: build_dense(config, width),
        data_spec(config.data).shape,
        family=config.family,
        sparsity=config.sparsity,
        width=config.model.width,
        options=family_options(config),
    )


def build_model(config: Config, what: Plan | None = None) -> nn.Module:
    """Build the family's model; its weights come from PyTorch's global generator.

    Parameters
    ----------
    config : Config
    what : Plan, optional
        Of this configuration; left out, it is worked out.

    Returns
    -------
    nn.Module
    """
    return build(lambda width: build_dense(config, width), what or family_plan(config))


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
        If the family cannot reach its budget, a layer would keep no weight, or the checkpoint to begin with has other
        masks.
    """
    what = family_plan(config)
    layers = what.transformed
    if not layers:
        raise UsageError("the model has no layer between its first and its last; there is no mask to record")
    shapes = {name: cost.shape for name, cost in layers.items()}
    start = load_start(config.start)
    if start is not None and what.is_masked and config.start.masks == "dense":
        return Blueprint(what, {name: cost.weights for name, cost in layers.items()}, is_densified=True)
    if start is not None and what.is_masked and config.start.masks == "keep":
        return Blueprint(what, start.counts(shapes))
    own_counts = METHODS[config.method].counts if what.is_masked else None
    if own_counts is not None:
        return Blueprint(what, own_counts(shapes, config.options))
    own = {layer.cost.name: layer.density for layer in what.layers if layer.density is not None}
    shared = {name: cost for name, cost in layers.items() if name not in own}
    counts = layer_counts(
        {name: cost.shape for name, cost in shared.items()},
        1 - what.effective_sparsity,
        distribution=config.masks.distribution,
        costs={name: cost.positions for name, cost in shared.items()} if config.masks.compensate else None,
    )
    counts |= {name: own_count(layers[name], density) for name, density in own.items() if name in layers}
    return Blueprint(what, {name: counts[name] for name in layers})


def own_count(cost: LayerCost, density: float) -> int:
    """Count the weights that a layer keeps at a density that the family sets."""
    count = round(density * cost.weights)
    if not count:
        raise UsageError(
            f"layer {cost.name!r}: a density of {density:.3g} keeps none of its {cost.weights} weights; choose another "
            "sparsity, ift.rounding=ceil, or a wider model"
        )
    return count


def describe(config: Config) -> dict[str, Any]:
    """Say what a run would train and what it would cost, without training it.

    Parameters
    ----------
    config : Config

    Returns
    -------
    dict
        ``macs_dense`` (the budget), ``macs``, ``ratio``, ``effective_sparsity`` (of the masked layers together),
        ``counter`` and ``counted_ratio`` (the ratio as that counter has it), ``parameters`` (zeros and all),
        ``masked_layers``, ``masked_weights`` (entries of their weights, the cardinality of the search space), ``edges``
        (entries kept in all layers that are recorded), and ``layers``: for each ``name``, ``type``, ``origin`` (the
        layer of the dense model that it is, or is a part of), ``shape``, ``shape_dense`` (in the dense model; None for
        all parts of an origin but the first), ``groups``, ``masked``, ``density``, ``edges``, ``cardinality``,
        ``macs``, ``macs_dense`` (0 for all parts but the first), ``ratio`` (MACs of all parts over the dense layer's;
        None for all but the first), ``n_left``, ``n_right``.

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
    return {
        "macs_dense": found.plan.budget,
        "macs": found.macs,
        "ratio": found.ratio,
        "counter": found.plan.counter,
        "counted_ratio": found.counted_ratio,
        "effective_sparsity": found.effective_sparsity,
        "parameters": found.plan.parameters,
        "masked_layers": len(masked),
        "masked_weights": found.cardinality,
        "edges": sum(found.counts.values()),
        "layers": table,
    }


def make_masks(
    config: Config,
    model: nn.Module,
    found: Blueprint,
    *,
    evidence: Callable[[], tuple[torch.Tensor, torch.Tensor]],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> MaskSet | None:
    """Lay out the masks of a family's model and apply them.

    Parameters
    ----------
    config : Config
    model : nn.Module
    found : Blueprint
    evidence : callable
        Gives the inputs and targets on which masks that depend on the data are laid out.
    loss : callable
        ``loss(outputs, targets)`` of those.

    Returns
    -------
    MaskSet or None
        None for a family without masks.
    """
    if not found.is_masked:
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
        loss=loss,
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
    is_densified = config.start.checkpoint and config.start.masks == "dense"
    is_moving = FAMILIES[config.family].is_masked and METHODS[config.method].moves and not is_densified
    if is_moving and not schedule.updates:
        raise UsageError(
            f"masks.every: the masks of method {config.method!r} would never move: no multiple of {masks.every} lies "
            f"between steps {schedule.begin} and {schedule.end}, of {steps} in all; lower masks.every or train longer"
        )
    return schedule
