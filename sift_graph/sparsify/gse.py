"""Guided stochastic exploration (GSE) as a method: what :mod:`exploration` needs, taken from a model in training.

The bundled layers multiply by dense weights, and their dense gradients exist; this method reads only those of the
connections that it drew. ``analysis/benchmarks/gse.py`` runs the same functions on a layer that is sparse throughout.
"""

from __future__ import annotations

import math
import zlib
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import distributed, nn
from torch.nn import functional

from sift_graph.errors import UsageError
from sift_graph.sparsify.exploration import SAMPLINGS, exchange, propose
from sift_graph.sparsify.mask_set import MaskSet, layer_name
from sift_graph.sparsify.options import MethodOptions
from sift_graph.sparsify.rewire import finite_gradient, skip_updates
from sift_graph.sparsify.schedule import Schedule

__all__ = ["Explore", "gse_grabo", "gse_graest", "gse_uniform", "input_rows", "output_rows"]


class Explore:
    r"""Grow the connections of largest gradient among a random sample of those that are not active.

    At an update with :math:`N` active weights and the fraction :math:`f`: draw :math:`\lceil \gamma N \rceil` pairs of
    an input and an output, leave out those that are active, and exchange :math:`k = \min(\lceil f N \rceil, |S|)`
    active weights of smallest magnitude for the `k` of the sample :math:`S` with the largest gradients. The update
    takes the place of the optimizer's. Convolutions count every output position as one more row of the batch.

    Parameters
    ----------
    masks : MaskSet
    optimizer : Optimizer
    schedule : Schedule
    model : nn.Module
        Gets hooks that look at inputs and output gradients of the masked layers at update steps.
    sampling : {"uniform", "grabo", "graest"}
    scope : {"layer", "global"}
        ``global`` exchanges over all layers at once, keeping the number of weights; a layer keeps its largest one.
    exploration : float
        :math:`\gamma`.

    Raises
    ------
    UsageError
        If a masked parameter is not the weight of a Linear or Conv2d.

    References
    ----------
    .. [1] M. Heddes et al., "Always-Sparse Training by Growing Connections with Guided Stochastic Exploration" (2024).
    """

    def __init__(
        self,
        masks: MaskSet,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        *,
        model: nn.Module,
        sampling: str,
        scope: str = "layer",
        exploration: float = 1.0,
    ) -> None:
        self.masks = masks
        self.optimizer = optimizer
        self.schedule = schedule
        self.sampling = sampling
        self.scope = scope
        self.exploration = exploration
        self._calls = 0
        self._left: dict[str, torch.Tensor] = {}
        self._right: dict[str, torch.Tensor] = {}
        self._sampled: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._groups: dict[str, int] = {}
        for name in masks:
            module = model.get_submodule(layer_name(name))
            if not isinstance(module, nn.Linear | nn.Conv2d):
                raise UsageError(
                    f"layer {layer_name(name)!r}: GSE needs inputs and outputs of a Linear or a Conv2d, found "
                    f"{type(module).__name__}; choose another method or leave that layer dense"
                )
            self._groups[name] = module.groups if isinstance(module, nn.Conv2d) else 1
            module.register_forward_hook(partial(self._look, name))
        optimizer.register_step_pre_hook(self._before_update)
        skip_updates(optimizer, self._is_update)

    def _is_update(self) -> bool:
        return self.schedule.is_update(self.masks.step + 1)

    def _look(self, name: str, module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        """Sum up what a forward pass and its backward pass bring to each vertex."""
        if self.sampling == "uniform" or not (module.training and output.requires_grad and self._is_update()):
            return
        if name in self._right and self.masks.parameters[name].grad is None:
            # Gradients were thrown away since: the batch is taken again, as where those of fp16 overflow.
            del self._left[name], self._right[name]
        self._calls += 1
        rows = input_rows(module, inputs[0].detach()).float()  # sums of half precision would overflow
        rank = distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
        seed = [self.masks.seed, zlib.crc32(name.encode()), self.masks.step + 1, rank, self._calls]
        signs = np.random.default_rng(seed).integers(0, 2, len(rows)) * 2.0 - 1
        signs_ = torch.from_numpy(signs).to(rows)
        summed = SAMPLINGS[self.sampling](rows, signs_)
        self._left[name] = self._left.get(name, 0) + summed

        def look_back(gradient: torch.Tensor) -> None:
            summed = SAMPLINGS[self.sampling](output_rows(module, gradient.detach()).float(), signs_)
            self._right[name] = self._right.get(name, 0) + summed

        output.register_hook(look_back)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _before_update(self, *_: Any) -> None:
        if self._is_update():
            t = self.masks.step + 1
            for name, parameter in self.masks.parameters.items():
                gradient = finite_gradient(name, t, parameter.grad)
                active = self.masks[name].flatten().nonzero().flatten().cpu().numpy()
                left, right = self._vertex_weights(name)
                count = math.ceil(self.exploration * len(active))
                candidates = propose(active, left, right, count, self.masks.generator(name, step=t))
                index = torch.from_numpy(candidates).to(gradient.device)
                self._sampled[name] = candidates, gradient.flatten()[index].abs().cpu().numpy()
            self._left.clear()
            self._right.clear()
            self._calls = 0
        self.masks.apply_to_gradients()

    def _vertex_weights(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Weights to draw inputs and outputs by, one row a group; the same on all ranks."""
        groups, shape = self._groups[name], self.masks.parameters[name].shape
        columns, outputs = math.prod(shape[1:]), shape[0]
        if name not in self._left or name not in self._right:
            return np.ones((groups, columns)), np.ones((groups, outputs // groups))
        found = []
        for summed in (self._left[name], self._right[name]):
            if distributed.is_available() and distributed.is_initialized():
                distributed.all_reduce(summed)
            found.append(summed.abs().double().cpu().numpy().reshape(groups, -1))
        return found[0], found[1]

    @torch.no_grad()
    def step(self, t: int) -> bool:
        """Exchange connections if the schedule says so; then mask weights and buffers.

        Parameters
        ----------
        t : int
            Optimizer updates so far, this one included.

        Returns
        -------
        bool
            Whether this was a step of the schedule.
        """
        self.masks.step = t
        is_update = self.schedule.is_update(t)
        if is_update:
            for name in self.masks:  # before anything moves: step() without optimizer.step()
                if name not in self._sampled:
                    finite_gradient(name, t, None)
            fraction = self.schedule.fraction(t)
            if self.scope == "global":
                self._exchange_overall(fraction)
            else:
                for name in self.masks:
                    active, magnitudes = self._active(name)
                    candidates, gradients = self._sampled[name]
                    count = min(math.ceil(fraction * len(active)), len(candidates))
                    self._replace(name, exchange(active, magnitudes, candidates, gradients, count))
            self._sampled.clear()
        self.masks.apply(self.optimizer)
        return is_update

    def _active(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Positions and magnitudes of a parameter's active weights."""
        positions = self.masks[name].flatten().nonzero().flatten()
        magnitudes = self.masks.parameters[name].detach().flatten()[positions].abs()
        return positions.cpu().numpy(), magnitudes.cpu().numpy()

    def _exchange_overall(self, fraction: float) -> None:
        """Exchange as if the layers were one; positions are shifted so that none is in two of them."""
        shift, parts, starts = 0, [], {}
        for name, parameter in self.masks.parameters.items():
            active, magnitudes = self._active(name)
            candidates, gradients = self._sampled[name]
            magnitudes[np.argmax(magnitudes)] = np.inf  # no layer is emptied
            parts.append((active + shift, magnitudes, candidates + shift, gradients))
            starts[name] = shift
            shift += parameter.numel()
        active, magnitudes, candidates, gradients = (np.concatenate(part) for part in zip(*parts, strict=True))
        count = min(math.ceil(fraction * len(active)), len(candidates), len(active) - len(parts))
        moved = exchange(active, magnitudes, candidates, gradients, count)
        for name, parameter in self.masks.parameters.items():
            inside = moved[(moved >= starts[name]) & (moved < starts[name] + parameter.numel())]
            self._replace(name, inside - starts[name])

    def _replace(self, name: str, positions: np.ndarray) -> None:
        mask = torch.zeros_like(self.masks[name])
        mask.view(-1)[torch.from_numpy(positions).to(mask.device)] = True
        self.masks.replace(name, mask, exact=self.scope == "layer")


def input_rows(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Lay the inputs of a Linear or Conv2d out as rows of vertices, one row for each use of the weights.

    Parameters
    ----------
    module : nn.Linear or nn.Conv2d
    x : Tensor
        What the module was called with.

    Returns
    -------
    Tensor, shape (rows, groups * columns)
        ``input_rows(...).T @ output_rows(...)`` is the gradient of the weight, for one group.
    """
    if not isinstance(module, nn.Conv2d):
        return x.reshape(-1, x.shape[-1])
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = functional.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    patches = functional.unfold(x, module.kernel_size, dilation=module.dilation, stride=module.stride)
    return patches.transpose(1, 2).reshape(-1, patches.shape[1])


def output_rows(module: nn.Module, y: torch.Tensor) -> torch.Tensor:
    """Lay outputs, or their gradients, out as rows that go with those of :func:`input_rows`.

    Parameters
    ----------
    module : nn.Linear or nn.Conv2d
    y : Tensor

    Returns
    -------
    Tensor, shape (rows, outputs)
    """
    if isinstance(module, nn.Conv2d):
        y = y.flatten(2).transpose(1, 2)
    return y.reshape(-1, y.shape[-1])


def gse_uniform(
    masks: MaskSet, optimizer: torch.optim.Optimizer, schedule: Schedule, *, model: nn.Module, options: MethodOptions
) -> Explore:
    """Explore uniformly."""
    return explore("uniform", masks, optimizer, schedule, model, options)


def gse_grabo(
    masks: MaskSet, optimizer: torch.optim.Optimizer, schedule: Schedule, *, model: nn.Module, options: MethodOptions
) -> Explore:
    """Explore by the upper bound of the gradient."""
    return explore("grabo", masks, optimizer, schedule, model, options)


def gse_graest(
    masks: MaskSet, optimizer: torch.optim.Optimizer, schedule: Schedule, *, model: nn.Module, options: MethodOptions
) -> Explore:
    """Explore by the estimate of the gradient."""
    return explore("graest", masks, optimizer, schedule, model, options)


def explore(
    sampling: str,
    masks: MaskSet,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    model: nn.Module,
    options: MethodOptions,
) -> Explore:
    """Make the method as its options say."""
    scope = "layer" if options.scope == "own" else options.scope
    return Explore(
        masks, optimizer, schedule, model=model, sampling=sampling, scope=scope, exploration=options.exploration
    )
