r"""SRigL: RigL whose outputs all keep as many weights, and that switches outputs off.

Every mask is right-regular among the outputs that are on, which spectral measures see at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sift_graph.errors import UsageError
from sift_graph.sparsify.mask_set import MaskSet, layer_name
from sift_graph.sparsify.options import MethodOptions
from sift_graph.sparsify.rewire import finite_gradient
from sift_graph.sparsify.schedule import Schedule
from sift_graph.sparsify.selection import largest

__all__ = ["FanIn", "srigl"]


class FanIn:
    r"""Drop by magnitude and grow by gradient at a constant fan-in, with neuron ablation.

    At an update of a layer with `n` weights and the fraction `f` to drop: the weights to keep are the
    :math:`n - \lfloor f n \rfloor` of largest magnitude, those to grow the :math:`\lfloor f n \rfloor` of largest
    gradient outside of them; together they are salient. An output with fewer salient weights than `ablation` times the
    present fan-in is off. The fan-in is then the layer's count over the number of outputs that are on, rounded down,
    and each of those keeps its largest weights to keep and fills up by gradient.

    Parameters
    ----------
    masks : MaskSet
        Its masks must have a constant fan-in.
    optimizer : Optimizer
    schedule : Schedule
    ablation : float
        In [0, 1]; 0 for never.

    Raises
    ------
    UsageError
        If a mask has outputs of different fan-in.

    Notes
    -----
    Which outputs are off is settled anew at each update: one that is off has a dense gradient still and may come back.
    At least one stays on.

    References
    ----------
    .. [1] M. Lasby, A. Golubeva, U. Evci, M. Nica, Y. Ioannou, "Dynamic Sparse Training with Structured Sparsity",
       ICLR 2024.
    """

    def __init__(
        self, masks: MaskSet, optimizer: torch.optim.Optimizer, schedule: Schedule, *, ablation: float = 0.3
    ) -> None:
        self.masks = masks
        self.optimizer = optimizer
        self.schedule = schedule
        self.ablation = ablation
        self._gradients: dict[str, torch.Tensor] = {}
        for name in masks:
            degrees = masks[name].flatten(1).sum(1)
            if len(set(degrees[degrees > 0].tolist())) > 1:
                raise UsageError(
                    f"layer {layer_name(name)!r}: expected as many weights for each output, found from "
                    f"{int(degrees.min())} to {int(degrees.max())}; lay masks out with constant_fan_in"
                )
        optimizer.register_step_pre_hook(self._before_update)

    def _before_update(self, *_: Any) -> None:
        if self.schedule.is_update(self.masks.step + 1):
            for name, parameter in self.masks.parameters.items():
                if parameter.grad is not None:
                    self._gradients[name] = parameter.grad.detach().clone()
        self.masks.apply_to_gradients()

    @torch.no_grad()
    def step(self, t: int) -> bool:
        """Move the masks if the schedule says so; then mask weights and buffers.

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
                gradient = finite_gradient(name, t, self._gradients.get(name))
                self.masks.replace(name, self._moved(name, self.schedule.fraction(t), gradient), exact=False)
        self._gradients.clear()
        self.masks.apply(self.optimizer)
        return is_update

    def _moved(self, name: str, fraction: float, gradient: torch.Tensor) -> torch.Tensor:
        """Work out the new mask of one parameter."""
        old = self.masks[name].flatten(1)
        magnitude = self.masks.parameters[name].detach().flatten(1).abs().masked_fill(~old, -1)
        slope = gradient.flatten(1).abs()
        present, target = int(old.sum()), self.masks.counts[name]
        dropped = int(fraction * present)
        kept = largest(magnitude, present - dropped)
        salient = kept | largest(slope.masked_fill(kept, -1), min(dropped, int((~kept).sum())))
        fan_in = int(old.sum(1).max())
        on = salient.sum(1) >= self.ablation * fan_in
        if not on.any():
            on[salient.sum(1).argmax()] = True
        # No more outputs than there are weights: the least salient ones are off too.
        if int(on.sum()) > target:
            on &= largest(salient.sum(1).masked_fill(~on, -1).float(), target)
        degree = min(target // int(on.sum()), old.shape[1])
        # Rank each row: weights to keep by magnitude, before all others by gradient.
        order = torch.where(kept, magnitude, -1.0).argsort(dim=1, descending=True, stable=True)
        rank = torch.empty_like(order).scatter_(
            1, order, torch.arange(old.shape[1], device=old.device).expand_as(order)
        )
        others = slope.masked_fill(kept, -1).argsort(dim=1, descending=True, stable=True)
        rank_of_others = torch.empty_like(others).scatter_(
            1, others, torch.arange(old.shape[1], device=old.device).expand_as(others)
        )
        rank = torch.where(kept, rank, kept.sum(1, keepdim=True) + rank_of_others)
        return ((rank < degree) & on[:, None]).view(self.masks[name].shape)


def srigl(
    masks: MaskSet, optimizer: torch.optim.Optimizer, schedule: Schedule, *, model: nn.Module, options: MethodOptions
) -> FanIn:
    """Move masks at a constant fan-in."""
    return FanIn(masks, optimizer, schedule, ablation=options.ablation)
