r"""Spartan: a soft mask that is learned through, and a hard one that the model computes with.

With dense weights :math:`\theta`, the soft mask :math:`m` of their magnitudes and the hard mask :math:`h` that the same
budget buys, the model computes with :math:`\theta \odot m \odot h`. The cut by :math:`h` is the identity backwards
(dual averaging), so that pruned weights go on learning through :math:`\theta \odot m` and :math:`m(|\theta|)`. Recorded
is :math:`h`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from sift_graph.errors import UsageError
from sift_graph.sparsify.latent import keep_dense_weights
from sift_graph.sparsify.mask_set import MaskSet, layer_name
from sift_graph.sparsify.options import MethodOptions
from sift_graph.sparsify.schedule import Schedule
from sift_graph.sparsify.selection import largest_overall
from sift_graph.sparsify.soft_top_k import soft_top_k_gradient, solve_soft_top_k

__all__ = ["Spartan", "block_sums", "spartan", "spread_blocks"]


class Spartan:
    r"""Learn through a soft mask that sharpens, with a budget that shrinks.

    Masks are made anew after every optimizer update up to the end of the schedule. The budget falls linearly from all
    weights to the target over the first `ramp` of the schedule; the sharpness rises linearly from 1 to `sharpness`
    times the square root of the block's size over all of it. From then on :math:`m \odot h` is frozen, real values and
    all, and pruned weights get no gradient.

    Parameters
    ----------
    masks : MaskSet
        Its masks must keep every weight at first; its counts and costs are the target.
    optimizer : Optimizer
    schedule : Schedule
        Only its begin and end are used.
    scope : {"global", "layer"}
        One budget for all layers, spent where value per cost is highest, or one for each.
    sharpness : float
    ramp : float
        In [0, 1].
    block : tuple of int
        Outputs and inputs that are kept or pruned as one, at each kernel position.

    Raises
    ------
    UsageError
        If a block does not divide a layer.

    References
    ----------
    .. [1] K. S. Tai, T. Tian, S.-N. Lim, "Spartan: Differentiable Sparsity via Regularized Transportation",
       NeurIPS 2022, sections 2 and 3.
    """

    def __init__(
        self,
        masks: MaskSet,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        *,
        scope: str = "global",
        sharpness: float = 20.0,
        ramp: float = 0.25,
        block: tuple[int, ...] = (1, 1),
    ) -> None:
        self.masks = masks
        self.schedule = schedule
        self.sharpness = sharpness * math.sqrt(math.prod(block))
        self.ramp = ramp
        self.block = block
        self.costs = {name: cost * math.prod(block) for name, cost in masks.costs.items()}
        for name, parameter in masks.parameters.items():
            shape = tuple(parameter.shape)
            if shape[0] % block[0] or shape[1] % block[1]:
                raise UsageError(
                    f"layer {layer_name(name)!r}: blocks of {block[0]} by {block[1]} do not divide its weight of shape "
                    f"{shape}; choose options.block so that it divides outputs and inputs, or another width"
                )
        self.parts = [list(masks)] if scope == "global" else [[name] for name in masks]
        keep_dense_weights(masks, optimizer, self._pass_back)
        self._lay(0)
        self._show()

    def _progress(self, t: int) -> float:
        return min(max((t - self.schedule.begin) / (self.schedule.end - self.schedule.begin), 0.0), 1.0)

    def budget(self, part: list[str], t: int) -> float:
        """Give what the masks of some parameters may cost after update `t`."""
        whole = sum(self.masks.parameters[name].numel() * self.masks.costs[name] for name in part)
        target = sum(self.masks.counts[name] * self.masks.costs[name] for name in part)
        progress = self._progress(t)
        risen = 1.0 if progress >= self.ramp else progress / self.ramp
        return whole + (target - whole) * risen

    def sharpness_at(self, t: int) -> float:
        """Give the sharpness after update `t`."""
        return 1 + (self.sharpness - 1) * self._progress(t)

    @torch.no_grad()
    def _lay(self, t: int) -> None:
        """Make soft and hard masks of the dense weights."""
        beta = self.sharpness_at(t)
        for part in self.parts:
            values = {name: block_sums(self.masks.latent[name].abs(), self.block) for name in part}
            budget = self.budget(part, t)
            flat = torch.cat([value.flatten() for value in values.values()])
            prices = torch.cat([torch.full((value.numel(),), self.costs[name]) for name, value in values.items()])
            soft = solve_soft_top_k(flat, prices.to(flat.device), budget, beta).to(flat.dtype)
            worth = {name: value / self.costs[name] for name, value in values.items()}
            hard = largest_overall(worth, budget, costs={name: self.costs[name] for name in part})
            for name, piece in zip(part, torch.split(soft, [v.numel() for v in values.values()]), strict=True):
                self.masks.extra[f"soft:{name}"] = piece.view(values[name].shape).clone()
                mask = spread_blocks(hard[name], self.block)
                if t:
                    self.masks.replace(name, mask, exact=False)
                else:
                    self.masks.restart({**{other: self.masks[other] for other in self.masks}, name: mask})

    @torch.no_grad()
    def _show(self) -> None:
        """Put the effective weights into the parameters."""
        for name, parameter in self.masks.parameters.items():
            soft = spread_blocks(self.masks.extra[f"soft:{name}"], self.block)
            parameter.copy_((self.masks.latent[name] * soft).masked_fill_(~self.masks[name], 0))

    def _pass_back(self, gradients: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Turn gradients of effective weights into those of dense ones."""
        soft = {name: self.masks.extra[f"soft:{name}"] for name in self.masks}
        through = {name: gradients[name] * spread_blocks(soft[name], self.block) for name in self.masks}
        t = self.masks.step
        if t >= self.schedule.end:
            return {name: value.masked_fill(~self.masks[name], 0) for name, value in through.items()}
        for part in self.parts:
            of_masks = [block_sums(gradients[name] * self.masks.latent[name], self.block) for name in part]
            sizes = [value.numel() for value in of_masks]
            prices = torch.cat([torch.full((n,), self.costs[name]) for name, n in zip(part, sizes, strict=True)])
            of_values = soft_top_k_gradient(
                torch.cat([value.flatten() for value in of_masks]).double(),
                torch.cat([soft[name].flatten() for name in part]).double(),
                prices.to(of_masks[0].device).double(),
                self.budget(part, t),
                self.sharpness_at(t),
            )
            for name, piece in zip(part, torch.split(of_values, sizes), strict=True):
                latent = self.masks.latent[name]
                piece = piece.view(soft[name].shape).to(latent.dtype)
                through[name] = through[name] + latent.sign() * spread_blocks(piece, self.block)
        return through

    def step(self, t: int) -> bool:
        """Make the masks anew, up to the end of the schedule; then put the effective weights into the model.

        Parameters
        ----------
        t : int
            Optimizer updates so far, this one included.

        Returns
        -------
        bool
            Whether masks were made anew.
        """
        self.masks.step = t
        moves = t <= self.schedule.end
        if moves:
            self._lay(t)
        self._show()
        return moves


def block_sums(values: torch.Tensor, block: tuple[int, ...]) -> torch.Tensor:
    """Add the values of each block of outputs and inputs, at each kernel position.

    Parameters
    ----------
    values : Tensor, shape (outputs, inputs, *kernel)
    block : tuple of int

    Returns
    -------
    Tensor, shape (outputs / block[0], inputs / block[1], *kernel)
    """
    if tuple(block) == (1, 1):
        return values
    outputs, inputs, *kernel = values.shape
    return values.reshape(outputs // block[0], block[0], inputs // block[1], block[1], *kernel).sum((1, 3))


def spread_blocks(values: torch.Tensor, block: tuple[int, ...]) -> torch.Tensor:
    """Give each weight of a block the block's value: the way back from :func:`block_sums`."""
    if tuple(block) == (1, 1):
        return values
    return values.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)


def spartan(
    masks: MaskSet, optimizer: torch.optim.Optimizer, schedule: Schedule, *, model: nn.Module, options: MethodOptions
) -> Spartan:
    """Learn through soft masks."""
    return Spartan(
        masks,
        optimizer,
        schedule,
        scope="global" if options.scope == "own" else options.scope,
        sharpness=options.sharpness,
        ramp=options.ramp,
        block=options.block,
    )
