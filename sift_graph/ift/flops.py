"""Multiply-accumulates of convolutions and linear layers: the one place that counts FLOPs.

One MAC is one use of one weight. Norms, activations, biases and pooling are left out: they are the same small part of
the dense and of the sparse model, and published budgets that count multiplications and additions apart are twice the
MACs to within half a percent. :func:`count_official` counts as those do, for comparison with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from sift_graph.errors import UsageError

__all__ = ["COUNTERS", "Count", "LayerCost", "count_macs", "count_official"]

Record = Callable[[nn.Module, torch.Tensor, torch.Tensor], None]


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

    def record(module: nn.Module, _: torch.Tensor, output: torch.Tensor) -> None:
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

    watch(model, example_input, list(names), record)
    if not costs:
        raise UsageError(f"{type(model).__name__}: no Conv2d or Linear layer ran; there are no FLOPs to count")
    return list(costs.values())


@dataclass(frozen=True)
class Count:
    """Operations of a model for one input, in the unit of a counter.

    Attributes
    ----------
    layers : dict of str to int
        Of each ``Conv2d`` and ``Linear`` with every weight present; these fall with a layer's density.
    rest : int
        Of everything else.
    """

    layers: dict[str, int]
    rest: int

    @property
    def total(self) -> int:
        """Operations with every weight present."""
        return sum(self.layers.values()) + self.rest


def macs(model: nn.Module, example_input: torch.Tensor) -> Count:
    """Count multiply-accumulates; there are none outside convolutions and linear layers."""
    return Count({cost.name: cost.macs for cost in count_macs(model, example_input)}, 0)


def count_official(model: nn.Module, example_input: torch.Tensor) -> Count:
    """Count operations as the profiler in the released code of Sparse-IFT does.

    Additions and multiplications apart, for one input. A convolution or linear layer multiplies once for each use of a
    weight and adds once less at each position of a convolution, or for each output of a linear layer; biases are
    additions. Batch norms count as in training. Only modules are seen: a ReLU, a pooling or a mean called as a
    function costs nothing, and neither does a residual addition.

    Parameters
    ----------
    model : nn.Module
        As for :func:`count_macs`.
    example_input : Tensor, first axis the batch

    Returns
    -------
    Count

    References
    ----------
    .. [1] The budgets of its scripts: 1 115 226 800 for the ResNet-18 of CIFAR-100, 138 538 103 for
       MobileNetV2 there, 3 647 128 359 for the ResNet-18 of ImageNet.

    Examples
    --------
    >>> count_official(nn.Sequential(nn.Linear(6, 4), nn.ReLU()), torch.zeros(1, 6))
    Count(layers={'0': 48}, rest=4)
    """
    batch = len(example_input)
    layers: dict[str, int] = {}
    rest = 0
    names = {module: name for name, module in model.named_modules()}

    def record(module: nn.Module, inputs: torch.Tensor, output: torch.Tensor) -> None:
        nonlocal rest
        taken, given = inputs.numel() // batch, output.numel() // batch
        if isinstance(module, nn.Conv2d | nn.Linear):
            weights = module.weight.numel()
            uses = given // module.weight.shape[0]
            adds = (weights - (1 if isinstance(module, nn.Conv2d) else module.out_features)) * uses
            biases = given if module.bias is not None else 0
            layers[names[module]] = layers.get(names[module], 0) + weights * uses + adds + biases
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            rest += 7 * taken - module.num_features
        elif isinstance(module, nn.LayerNorm):
            rest += 7 * taken - taken // math.prod(module.normalized_shape)
        elif isinstance(module, nn.ReLU):
            rest += taken
        elif isinstance(module, nn.ReLU6):  # two comparisons
            rest += 2 * taken
        elif isinstance(module, nn.MaxPool2d):
            rest += (math.prod(pair(module.kernel_size)) - 1) * given
        elif isinstance(module, nn.AvgPool2d):  # one addition less than there are inputs, and the division
            rest += math.prod(pair(module.kernel_size)) * given
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            rest += taken

    watch(model, example_input, [module for module in names if not list(module.children())], record)
    return Count(layers, rest)


def pair(size: int | tuple[int, ...]) -> tuple[int, ...]:
    """Give both sides of a kernel."""
    return (size, size) if isinstance(size, int) else size


COUNTERS: dict[str, Callable[[nn.Module, torch.Tensor], Count]] = {"macs": macs, "official": count_official}


def watch(model: nn.Module, example_input: torch.Tensor, modules: list[nn.Module], record: Record) -> None:
    """Run a model once, in evaluation mode and without gradients, and leave it as it was.

    Parameters
    ----------
    model : nn.Module
    example_input : Tensor
    modules : list of nn.Module
    record : callable
        ``record(module, its first input, its output)``, each time one of `modules` has run.
    """

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, torch.Tensor):
            record(module, inputs[0] if inputs and isinstance(inputs[0], torch.Tensor) else output, output)

    with evaluating(model), torch.no_grad():
        handles = [module.register_forward_hook(hook) for module in modules]
        try:
            model(example_input)
        finally:
            for handle in handles:
                handle.remove()


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
