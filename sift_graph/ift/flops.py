"""Multiply-accumulates of convolutions and linear layers: the one place that counts FLOPs.

One MAC is one use of one weight. Norms, activations, biases and pooling are left out: they are the same small part of
the dense and of the sparse model, and published budgets that count multiplications and additions apart are twice the
MACs to within half a percent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from sift_graph.errors import UsageError

__all__ = ["LayerCost", "count_macs"]


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs for one input.

    Attributes
    ----------
    name : str
        As ``model.named_modules()`` gives it.
    type : str
        ``"Conv2d"`` or ``"Linear"``.
    shape : tuple of int
        Of the weight, ``(out, in / groups, *kernel)``.
    groups : int
    positions : int
        Output positions at which each weight is used: height times width of a convolution's output, tokens of a
        linear layer.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    groups: int
    positions: int

    @property
    def weights(self) -> int:
        """Entries of the weight."""
        return math.prod(self.shape)

    @property
    def macs(self) -> int:
        """Multiply-accumulates with every weight present."""
        return self.weights * self.positions

    @property
    def n_left(self) -> int:
        """Left vertices of its graph: inputs times kernel positions."""
        return self.shape[1] * self.groups * math.prod(self.shape[2:])

    @property
    def n_right(self) -> int:
        """Right vertices of its graph: outputs."""
        return self.shape[0]


def count_macs(model: nn.Module, example_input: torch.Tensor) -> list[LayerCost]:
    """Count the multiply-accumulates of each ``Conv2d`` and ``Linear`` of a model, by running it once.

    Parameters
    ----------
    model : nn.Module
        Runs in evaluation mode without gradients, and is left as it was. May be on the ``meta`` device.
    example_input : Tensor, first axis the batch
        Counts are for one input: positions are divided by the batch.

    Returns
    -------
    list of LayerCost
        In the order in which the layers first ran. A layer that runs twice costs twice; one that does not run is
        left out.

    Raises
    ------
    UsageError
        If the model has no such layer.

    Examples
    --------
    >>> [layer] = count_macs(nn.Conv2d(4, 8, 3, padding=1, groups=2), torch.zeros(1, 4, 5, 5))
    >>> layer.shape, layer.positions, layer.macs
    ((8, 2, 3, 3), 25, 3600)
    """
    batch = len(example_input)
    costs: dict[str, LayerCost] = {}
    names = {module: name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}

    def record(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        assert isinstance(module, nn.Conv2d | nn.Linear)
        name = names[module]
        shape = tuple(module.weight.shape)
        positions = output.numel() // (batch * shape[0])
        if name in costs:
            costs[name] = replace(costs[name], positions=costs[name].positions + positions)
        else:
            is_conv = isinstance(module, nn.Conv2d)
            groups = module.groups if isinstance(module, nn.Conv2d) else 1
            costs[name] = LayerCost(name, "Conv2d" if is_conv else "Linear", shape, groups, positions)

    with evaluating(model), torch.no_grad():
        handles = [module.register_forward_hook(record) for module in names]
        try:
            model(example_input)
        finally:
            for handle in handles:
                handle.remove()
    if not costs:
        raise UsageError(f"{type(model).__name__}: no Conv2d or Linear layer ran; there are no FLOPs to count")
    return list(costs.values())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put each module of a model in evaluation mode, and back in its own mode afterwards.

    Yields
    ------
    None
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
