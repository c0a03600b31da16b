"""MaskSet: the masks of a model, and what keeps the pruned weights at zero."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from sift_graph.errors import MaskError, did_you_mean
from sift_graph.sparsify.placement import PLACEMENTS

__all__ = ["MaskSet", "layer_name"]

WEIGHT = ".weight"


class MaskSet:
    """The masks of a model's parameters, keyed by fully qualified parameter name.

    A mask starts at positions drawn from the seed and the parameter's name alone: neither the order of the parameters
    nor the process changes it. The weights are zeroed at once.

    Parameters
    ----------
    parameters : mapping of str to Parameter
        For instance ``{"stage1.0.conv1.weight": model.stage1[0].conv1.weight}``.
    counts : mapping of str to int
        Number of weights that each parameter is to keep.
    seed : int
        Of the initial masks, and of the growth of methods that grow at random.
    placement : str
        A key of ``PLACEMENTS``: ``exact`` places that number of ones, ``bernoulli`` that number on average,
        ``constant_fan_in`` as many for each output.
    masks : mapping of str to Tensor of bool, optional
        The initial masks, whatever their number of ones; nothing is drawn then.
    costs : mapping of str to float, optional
        MACs of one weight of each parameter, for methods that rank over all layers; 1 if not given.

    Attributes
    ----------
    step : int
        Optimizer updates so far, as the method last told.
    counts, costs : dict
    latent : dict of str to Tensor
        Dense weights behind the masked ones, of the methods that train those; empty for the others.
    extra : dict of str to Tensor
        What else a method must remember.
    fired : dict of str to Tensor of bool
        What was kept at any time.
    accumulated : dict of str to Tensor of bool
        What was kept at all times.

    Raises
    ------
    MaskError
        If a parameter and its count or mask do not fit, or there is no such placement.

    Examples
    --------
    >>> layer = nn.Linear(6, 4)
    >>> masks = MaskSet({"weight": layer.weight}, {"weight": 8}, seed=0)
    >>> int(masks["weight"].sum()), int((layer.weight != 0).sum())
    (8, 8)
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        counts: Mapping[str, int],
        *,
        seed: int,
        placement: str = "exact",
        masks: Mapping[str, torch.Tensor] | None = None,
        costs: Mapping[str, float] | None = None,
    ) -> None:
        if list(parameters) != list(counts):
            raise MaskError(f"expected a count for each of the parameters {list(parameters)}, found {list(counts)}")
        if placement not in PLACEMENTS:
            raise MaskError(f"unknown placement {placement!r}{did_you_mean(placement, PLACEMENTS)}")
        self.parameters = dict(parameters)
        self.counts = {name: int(count) for name, count in counts.items()}
        self.costs = {name: 1.0 if costs is None else float(costs[name]) for name in self.parameters}
        self.seed = int(seed)
        self.step = 0
        self.extra: dict[str, torch.Tensor] = {}
        self.latent: dict[str, torch.Tensor] = {}
        self._masks: dict[str, torch.Tensor] = {}
        for name, parameter in self.parameters.items():
            size, count = parameter.numel(), self.counts[name]
            if masks is not None:
                self._masks[name] = self._checked(name, masks[name]).clone()
            elif not 1 <= count <= size:
                raise MaskError(f"parameter {name!r}: expected to keep between 1 and {size} weights, found {count}")
            else:
                chosen = PLACEMENTS[placement](tuple(parameter.shape), count, self.generator(name))
                self._masks[name] = torch.from_numpy(chosen).to(parameter.device)
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

    def edges(self) -> dict[str, int]:
        """Count the weights that each parameter keeps now.

        Returns
        -------
        dict of str to int
            Equal to `counts` except where a method lets layers differ from them.
        """
        return {name: int(mask.sum()) for name, mask in self._masks.items()}

    def replace(self, name: str, mask: torch.Tensor, *, exact: bool = True) -> None:
        """Put a new mask in the place of a parameter's mask.

        Parameters
        ----------
        name : str
        mask : Tensor of bool
            In the parameter's shape.
        exact : bool
            Whether it must have the parameter's count.

        Raises
        ------
        MaskError
            If the mask has another shape, type or count.
        """
        self._checked(name, mask)
        if exact and int(mask.sum()) != self.counts[name]:
            raise MaskError(f"parameter {name!r}: expected a mask of {self.counts[name]} ones, found {int(mask.sum())}")
        self._masks[name] = mask
        self.fired[name] |= mask
        self.accumulated[name] &= mask

    def restart(self, masks: Mapping[str, torch.Tensor]) -> None:
        """Begin with other masks than those drawn, as if they had been the first: for methods with masks of their own.

        Parameters
        ----------
        masks : mapping of str to Tensor of bool
        """
        for name in self._masks:
            mask = self._checked(name, masks[name])
            self._masks[name], self.fired[name], self.accumulated[name] = mask, mask.clone(), mask.clone()

    def _checked(self, name: str, mask: torch.Tensor) -> torch.Tensor:
        found = (tuple(mask.shape), mask.dtype)
        expected = (tuple(self.parameters[name].shape), torch.bool)
        if found != expected:
            raise MaskError(f"parameter {name!r}: expected a mask of (shape, dtype) {expected}, found {found}")
        return mask

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
            "latent": {name: value.clone() for name, value in self.latent.items()},
            "extra": {name: value.clone() for name, value in self.extra.items()},
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
        if state["latent"].keys() != self.latent.keys():
            raise MaskError("latent: the state of a method that keeps dense weights fits no other, nor the other way")
        self.seed, self.step = int(state["seed"]), int(state["step"])
        self.counts = {name: int(state["counts"][name]) for name in self.parameters}
        for name, parameter in self.parameters.items():
            self._masks[name] = state["masks"][name].to(parameter.device, copy=True)
            self.fired[name] = state["fired"][name].to(parameter.device, copy=True)
            self.accumulated[name] = state["accumulated"][name].to(parameter.device, copy=True)
            if name in self.latent:
                self.latent[name] = state["latent"][name].to(parameter.device, copy=True)
        device = next(iter(self.parameters.values())).device
        self.extra = {name: value.to(device, copy=True) for name, value in state["extra"].items()}

    def __repr__(self) -> str:
        """One line: how many masks, how many ones."""
        kept, size = sum(self.edges().values()), sum(p.numel() for p in self.parameters.values())
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
