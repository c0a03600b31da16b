"""Gradual magnitude pruning: masks that begin dense and only ever lose weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sift_graph.sparsify.mask_set import MaskSet
from sift_graph.sparsify.options import MethodOptions
from sift_graph.sparsify.schedule import Schedule
from sift_graph.sparsify.selection import largest, largest_overall

__all__ = ["Gradual", "gradual"]


class Gradual:
    r"""Gradual magnitude pruning: from dense, or nearly, to the target along a cubic.

    At the `k`-th of the `n` updates of the schedule each layer has the sparsity
    :math:`s_f + (s_i - s_f) (1 - k/n)^3` and keeps its weights of largest magnitude. Pruned weights stay at 0, so that
    each mask contains all later ones; the last update reaches the counts of the mask set exactly.

    Parameters
    ----------
    masks : MaskSet
        Its counts are the target; its masks must keep every weight, and are pruned to the initial sparsity here.
    optimizer : Optimizer
        Gets a hook that masks gradients before each of its steps.
    schedule : Schedule
    initial_sparsity : float
        In [0, 1); a layer whose target is denser starts at its target.
    scope : {"layer", "global"}
        ``global``: one threshold over all layers, at the cost that the layers' sparsities would have together.

    References
    ----------
    .. [1] M. Zhu, S. Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression"
       (2017), equation 1.
    """

    def __init__(
        self,
        masks: MaskSet,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        *,
        initial_sparsity: float = 0.0,
        scope: str = "layer",
    ) -> None:
        self.masks = masks
        self.optimizer = optimizer
        self.schedule = schedule
        self.initial_sparsity = initial_sparsity
        self.scope = scope
        self._updates = {t: k + 1 for k, t in enumerate(schedule.updates)}
        optimizer.register_step_pre_hook(self._before_update)
        masks.restart(self._largest(0.0))
        masks.apply()

    def _before_update(self, *_: Any) -> None:
        self.masks.apply_to_gradients()

    def _largest(self, progress: float) -> dict[str, torch.Tensor]:
        """Mark the largest weights at a progress from 0 to 1."""
        magnitudes, counts = {}, {}
        for name, parameter in self.masks.parameters.items():
            target, size = self.masks.counts[name], parameter.numel()
            first = max(target, round((1 - self.initial_sparsity) * size))
            counts[name] = target + int((first - target) * (1 - progress) ** 3)
            # What was pruned loses even to a weight of 0.
            magnitudes[name] = parameter.detach().abs().masked_fill_(~self.masks[name], -1)
        if self.scope == "layer":
            return {name: largest(magnitude, counts[name]) for name, magnitude in magnitudes.items()}
        budget = sum(counts[name] * self.masks.costs[name] for name in counts)
        return largest_overall(magnitudes, budget, costs=self.masks.costs)

    @torch.no_grad()
    def step(self, t: int) -> bool:
        """Prune if the schedule says so; then mask weights and buffers.

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
        k = self._updates.get(t)
        if k is not None:
            for name, mask in self._largest(k / len(self._updates)).items():
                self.masks.replace(name, mask, exact=False)
        self.masks.apply(self.optimizer)
        return k is not None


def gradual(
    masks: MaskSet, optimizer: torch.optim.Optimizer, schedule: Schedule, *, model: nn.Module, options: MethodOptions
) -> Gradual:
    """Prune by magnitude, gradually."""
    scope = "global" if options.scope == "global" else "layer"
    return Gradual(masks, optimizer, schedule, initial_sparsity=options.initial_sparsity, scope=scope)
