"""MaskSet: the masks of a model, and what keeps the pruned weights at zero."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from sift_graph.errors import MaskError

__all__ = ["MaskSet", "layer_name"]

WEIGHT = ".weight"


class MaskSet:
    """The masks of a model's parameters, keyed by fully qualified parameter name.

    A mask starts with exactly the number of ones asked for, at positions drawn from the seed and the parameter's name
    alone: neither the order of the parameters nor the process changes it. The weights are zeroed at once.

    Parameters
    ----------
    parameters : mapping of str to Parameter
        For instance ``{"stage1.0.conv1.weight": model.stage1[0].conv1.weight}``.
    counts : mapping of str to int
        Number of weights that each parameter keeps, at all times.
    seed : int
        Of the initial masks, and of the growth of methods that grow at random.

    Attributes
    ----------
    step : int
        Optimizer updates so far, as the method last told.
    counts : dict of str to int
    fired : dict of str to Tensor of bool
        What was kept at any time.
    accumulated : dict of str to Tensor of bool
        What was kept at all times.

    Raises
    ------
    MaskError
        If a parameter and its count do not fit.

    Examples
    --------
    >>> layer = nn.Linear(6, 4)
    >>> masks = MaskSet({"weight": layer.weight}, {"weight": 8}, seed=0)
    >>> int(masks["weight"].sum()), int((layer.weight != 0).sum())
    (8, 8)
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], counts: Mapping[str, int], *, seed: int) -> None:
        if list(parameters) != list(counts):
            raise MaskError(f"expected a count for each of the parameters {list(parameters)}, found {list(counts)}")
        self.parameters = dict(parameters)
        self.counts = {name: int(count) for name, count in counts.items()}
        self.seed = int(seed)
        self.step = 0
        self._masks: dict[str, torch.Tensor] = {}
        for name, parameter in self.parameters.items():
            size, count = parameter.numel(), self.counts[name]
            if not 1 <= count <= size:
                raise MaskError(f"parameter {name!r}: expected to keep between 1 and {size} weights, found {count}")
            chosen = np.zeros(size, dtype=np.bool_)
            chosen[self.generator(name).permutation(size)[:count]] = True
            self._masks[name] = torch.from_numpy(chosen).view(parameter.shape).to(parameter.device)
        self.fired = {name: mask.clone() for name, mask in self._masks.items()}
        self.accumulated = {name: mask.clone() for name, mask in self._masks.items()}
        self.apply()

    def __iter__(self) -> Iterator[str]:
        """Parameter names, in their order."""
        return iter(self._masks)

    def __len__(self) -> int:
        """Count the masks."""
        return len(self._masks)

    def __getitem__(self, name: str) -> torch.Tensor:
        """Give the mask of a parameter: bool, in its shape."""
        return self._masks[name]

    def masks(self) -> dict[str, torch.Tensor]:
        """Masks by layer name, as ``model.named_modules()`` gives it: what a recorder wants.

        Returns
        -------
        dict of str to Tensor of bool
            The live tensors, not copies.
        """
        return {layer_name(name): mask for name, mask in self._masks.items()}

    def generator(self, name: str, *, step: int = 0) -> np.random.Generator:
        """Randomness for one parameter at one step, the same in every process and after any resume."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode()), step])

    def replace(self, name: str, mask: torch.Tensor) -> None:
        """Put a new mask in the place of a parameter's mask; its count must be the parameter's.

        Parameters
        ----------
        name : str
        mask : Tensor of bool
            In the parameter's shape.

        Raises
        ------
        MaskError
            If the mask has another shape, type or count.
        """
        found = (tuple(mask.shape), mask.dtype, int(mask.sum()))
        expected = (tuple(self.parameters[name].shape), torch.bool, self.counts[name])
        if found != expected:
            raise MaskError(f"parameter {name!r}: expected a mask of (shape, dtype, ones) {expected}, found {found}")
        self._masks[name] = mask
        self.fired[name] |= mask
        self.accumulated[name] &= mask

    @torch.no_grad()
    def apply(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Zero whatever is outside the masks: weights, gradients and, given the optimizer, its buffers.

        Parameters
        ----------
        optimizer : Optimizer, optional
            Each tensor of its state that has its parameter's shape is masked.
        """
        for name, parameter in self.parameters.items():
            outside = ~self._masks[name]
            parameter.masked_fill_(outside, 0)
            if parameter.grad is not None:
                parameter.grad.masked_fill_(outside, 0)
            if optimizer is not None:
                for value in optimizer.state.get(parameter, {}).values():
                    if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                        value.masked_fill_(outside, 0)

    @torch.no_grad()
    def apply_to_gradients(self) -> None:
        """Zero the gradients outside the masks, so that the optimizer leaves pruned weights alone."""
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                parameter.grad.masked_fill_(~self._masks[name], 0)

    def itop_rate(self) -> float:
        """Fraction of all weights that were kept at any time so far."""
        size = sum(mask.numel() for mask in self.fired.values())
        return sum(int(mask.sum()) for mask in self.fired.values()) / size

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later :meth:`load_state_dict` needs to go on bit for bit, in plain tensors and numbers."""
        return {
            "seed": self.seed,
            "step": self.step,
            "counts": dict(self.counts),
            "masks": {name: mask.clone() for name, mask in self._masks.items()},
            "fired": {name: mask.clone() for name, mask in self.fired.items()},
            "accumulated": {name: mask.clone() for name, mask in self.accumulated.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave; weights are not touched.

        Parameters
        ----------
        state : mapping

        Raises
        ------
        MaskError
            If it is the state of other parameters; nothing is changed then.
        """
        for part in ("masks", "fired", "accumulated"):
            expected = {name: tuple(p.shape) for name, p in self.parameters.items()}
            found = {name: tuple(mask.shape) for name, mask in state[part].items()}
            if found != expected:
                odd = sorted(set(found.items()) ^ set(expected.items()))
                raise MaskError(f"{part}: not the state of these parameters; they differ at {odd[:4]}")
        self.seed, self.step = int(state["seed"]), int(state["step"])
        self.counts = {name: int(state["counts"][name]) for name in self.parameters}
        for name, parameter in self.parameters.items():
            self._masks[name] = state["masks"][name].to(parameter.device, copy=True)
            self.fired[name] = state["fired"][name].to(parameter.device, copy=True)
            self.accumulated[name] = state["accumulated"][name].to(parameter.device, copy=True)

    def __repr__(self) -> str:
        """One line: how many masks, how many ones."""
        kept, size = sum(self.counts.values()), sum(p.numel() for p in self.parameters.values())
        return f"MaskSet({len(self)} masks, {kept} of {size} weights kept, step {self.step})"


def layer_name(parameter: str) -> str:
    """Name of the module that owns a parameter called ``weight``; another parameter keeps its own name.

    Parameters
    ----------
    parameter : str
        As ``model.named_parameters()`` gives it.

    Returns
    -------
    str

    Examples
    --------
    >>> layer_name("stage1.0.conv1.weight")
    'stage1.0.conv1'
    """
    return parameter.removesuffix(WEIGHT) if parameter != WEIGHT.removeprefix(".") else parameter
