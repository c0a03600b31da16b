"""N:M transposable masks as a method, and Top-KAST: both compute with a part of weights that are dense behind it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from sift_graph.sparsify.assignment import transposable_mask
from sift_graph.sparsify.latent import keep_dense_weights
from sift_graph.sparsify.mask_set import MaskSet
from sift_graph.sparsify.options import MethodOptions
from sift_graph.sparsify.schedule import Schedule
from sift_graph.sparsify.selection import largest

__all__ = ["TopKast", "Transposable", "pattern_counts", "top_kast", "transposable"]


class Transposable:
    """Keep the N:M transposable mask of largest dense weights; gradients pass straight through it.

    Parameters
    ----------
    masks : MaskSet
        Its masks must keep every weight at first.
    optimizer : Optimizer
    schedule : Schedule
        When masks are made anew.
    pattern : tuple of int
        N and M.
    assignment : {"greedy", "exact"}

    Notes
    -----
    A layer whose matrix M does not divide stays dense.

    References
    ----------
    .. [1] I. Hubara et al., NeurIPS 2021, as :mod:`sift_graph.sparsify.assignment`.
    """

    def __init__(
        self,
        masks: MaskSet,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        *,
        pattern: tuple[int, ...] = (2, 4),
        assignment: str = "greedy",
    ) -> None:
        self.masks = masks
        self.schedule = schedule
        self.pattern = pattern
        self.assignment = assignment
        keep_dense_weights(masks, optimizer, lambda gradients: gradients)
        masks.restart({name: self._mask(name) for name in masks})
        show_effective(masks)

    def _mask(self, name: str) -> torch.Tensor:
        latent = self.masks.latent[name]
        if not fits(tuple(latent.shape), self.pattern):
            return torch.ones_like(latent, dtype=torch.bool)
        values = latent.abs().flatten(1).cpu().numpy()
        mask = transposable_mask(values, self.pattern, assignment=self.assignment)
        return torch.from_numpy(mask).view(latent.shape).to(latent.device)

    def step(self, t: int) -> bool:
        """Make the masks anew if the schedule says so; then put the effective weights into the model.

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
            for name in self.masks:
                self.masks.replace(name, self._mask(name))
        show_effective(self.masks)
        return is_update


class TopKast:
    r"""Compute with the largest dense weights, and let somewhat more of them learn.

    The forward set :math:`A` holds the count of the largest weights, the backward set :math:`B` `backward_factor` times
    as many. Weights in :math:`B` get the gradient of the effective weights, and the gradient of
    :math:`\lambda/2 (\|\theta_A\|^2 + \|\theta_{B \setminus A}\|^2 / d)` with the layer's density :math:`d`; those
    outside rest. Recorded is :math:`A`.

    Parameters
    ----------
    masks : MaskSet
        Its masks must keep every weight at first.
    optimizer : Optimizer
    schedule : Schedule
        When the sets are made anew.
    backward_factor : float
        1 or more.
    penalty : float
        :math:`\lambda`.

    References
    ----------
    .. [1] S. Jayakumar, R. Pascanu, J. Rae, S. Osindero, E. Elsen, "Top-KAST: Top-K Always Sparse Training",
       NeurIPS 2020.
    """

    def __init__(
        self,
        masks: MaskSet,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        *,
        backward_factor: float = 2.0,
        penalty: float = 1e-4,
    ) -> None:
        self.masks = masks
        self.schedule = schedule
        self.backward_factor = backward_factor
        self.penalty = penalty
        keep_dense_weights(masks, optimizer, self._pass_back)
        masks.restart({name: self._sets(name) for name in masks})
        show_effective(masks)

    def _sets(self, name: str) -> torch.Tensor:
        """Choose both sets, keep the backward one, give the forward one."""
        magnitude, count = self.masks.latent[name].abs(), self.masks.counts[name]
        wider = min(round(self.backward_factor * count), magnitude.numel())
        self.masks.extra[f"backward:{name}"] = largest(magnitude, wider)
        return largest(magnitude, count)

    def _pass_back(self, gradients: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        passed = {}
        for name, gradient in gradients.items():
            latent, mask = self.masks.latent[name], self.masks[name]
            weight = torch.where(mask, 1.0, mask.numel() / self.masks.counts[name]) * self.penalty
            passed[name] = (gradient + weight * latent).masked_fill(~self.masks.extra[f"backward:{name}"], 0)
        return passed

    def step(self, t: int) -> bool:
        """Choose the sets anew if the schedule says so; then put the effective weights into the model.

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
            for name in self.masks:
                self.masks.replace(name, self._sets(name))
        show_effective(self.masks)
        return is_update


@torch.no_grad()
def show_effective(masks: MaskSet) -> None:
    """Put the dense weights, masked, into the parameters."""
    for name, parameter in masks.parameters.items():
        parameter.copy_(masks.latent[name].masked_fill(~masks[name], 0))


def fits(shape: tuple[int, ...], pattern: tuple[int, ...]) -> bool:
    """Whether blocks of M by M divide a weight's matrix."""
    columns = torch.Size(shape[1:]).numel()
    return shape[0] % pattern[1] == 0 and columns % pattern[1] == 0


def pattern_counts(shapes: Mapping[str, tuple[int, ...]], options: MethodOptions) -> dict[str, int]:
    """Count the weights that an N:M pattern keeps in each layer.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
    options : MethodOptions

    Returns
    -------
    dict of str to int
        All of a layer's weights where M does not divide it.
    """
    n, m = options.pattern
    sizes = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
    return {name: size * n // m if fits(shapes[name], options.pattern) else size for name, size in sizes.items()}


def transposable(
    masks: MaskSet, optimizer: torch.optim.Optimizer, schedule: Schedule, *, model: nn.Module, options: MethodOptions
) -> Transposable:
    """Keep N:M transposable masks."""
    return Transposable(masks, optimizer, schedule, pattern=options.pattern, assignment=options.assignment)


def top_kast(
    masks: MaskSet, optimizer: torch.optim.Optimizer, schedule: Schedule, *, model: nn.Module, options: MethodOptions
) -> TopKast:
    """Compute with the largest weights, let more of them learn."""
    return TopKast(masks, optimizer, schedule, backward_factor=options.backward_factor, penalty=options.penalty)
