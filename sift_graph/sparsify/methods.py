r"""How masks move: a registry of methods, each an object with ``step(t)`` to be called after ``optimizer.step()``.

The rule is that of Sparse-IFT (:class:`Rewire`). Where it differs from the first RigL: the mask moves in addition to
the optimizer's update, not in its place; the gradient is that of the same iteration, so it was taken before the update;
weights are dropped without noise, ties go to the lower index.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from sift_graph.errors import TrainingError
from sift_graph.sparsify.mask_set import MaskSet
from sift_graph.sparsify.schedule import Schedule

__all__ = ["METHODS", "Method", "Rewire", "Static", "largest"]


class Method(Protocol):
    """What moves the masks of a :class:`MaskSet`."""

    def step(self, t: int) -> bool:
        """Go on to optimizer update `t`, just made, counted from 1; say whether the masks were moved."""


class Static:
    """Masks that stay as they are.

    Parameters
    ----------
    masks : MaskSet
    optimizer : Optimizer
        Gets a hook that masks gradients before each of its steps.
    schedule : Schedule
        Not used: here so that all methods are made alike.
    """

    def __init__(self, masks: MaskSet, optimizer: torch.optim.Optimizer, schedule: Schedule) -> None:
        self.masks = masks
        self.optimizer = optimizer
        optimizer.register_step_pre_hook(self._before_update)

    def _before_update(self, *_: Any) -> None:
        self.masks.apply_to_gradients()

    def step(self, t: int) -> bool:
        """Mask weights and buffers after optimizer update `t`.

        Parameters
        ----------
        t : int
            Optimizer updates so far, this one included.

        Returns
        -------
        bool
            False: masks never move.
        """
        self.masks.step = t
        self.masks.apply(self.optimizer)
        return False


Grow = Callable[[MaskSet, str, torch.Tensor, "torch.Tensor | None"], torch.Tensor]


class Rewire:
    r"""Drop the weights of smallest magnitude, grow as many elsewhere.

    At an update, with :math:`n` weights kept and a fraction :math:`f`: keep the :math:`n - \lfloor f n \rfloor`
    weights of largest magnitude, after this step's optimizer update; then grow up to the layer's count among
    everything not kept. What was just dropped may be grown again at once and then keeps its value; everything else that
    is grown starts at 0, and so do its optimizer buffers.

    Parameters
    ----------
    masks : MaskSet
    optimizer : Optimizer
        Gets a hook that masks gradients before each of its steps, having taken what growth needs of them.
    schedule : Schedule
    grow : callable
        ``grow(masks, name, kept, gradient) -> score``: the positions of highest score outside `kept` are grown.
        `gradient` is that of the dense weight, through the masked forward pass, not masked itself.
    needs_gradient : bool
        Whether `grow` uses the gradient.

    References
    ----------
    .. [1] U. Evci et al., "Rigging the Lottery: Making All Tickets Winners", ICML 2020, algorithm 1.
    .. [2] D. C. Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity",
       Nature Communications 9 (2018) (SET).
    .. [3] V. Thangarasa et al., "Sparse-IFT", ICML 2024, appendix (schedule and magnitude drop shared by both).
    """

    def __init__(
        self,
        masks: MaskSet,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        *,
        grow: Grow,
        needs_gradient: bool,
    ) -> None:
        self.masks = masks
        self.optimizer = optimizer
        self.schedule = schedule
        self.grow = grow
        self.needs_gradient = needs_gradient
        self._gradients: dict[str, torch.Tensor] = {}
        optimizer.register_step_pre_hook(self._before_update)

    def _before_update(self, *_: Any) -> None:
        # Taken here, not read back from `.grad` later: some optimizers overwrite gradients while they step.
        if self.needs_gradient and self.schedule.is_update(self.masks.step + 1):
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

        Raises
        ------
        TrainingError
            If growth needs a gradient and there was none, or one that is not finite.
        """
        self.masks.step = t
        is_update = self.schedule.is_update(t)
        if is_update:
            fraction = self.schedule.fraction(t)
            for name in self.masks:
                self.masks.replace(name, self._moved(name, fraction, t))
        self._gradients.clear()
        self.masks.apply(self.optimizer)
        return is_update

    def _moved(self, name: str, fraction: float, t: int) -> torch.Tensor:
        """Work out the new mask of one parameter."""
        old, target = self.masks[name], self.masks.counts[name]
        gradient = self._gradients.get(name)
        if self.needs_gradient:
            if gradient is None:
                raise TrainingError(
                    f"parameter {name!r} at step {t}: no gradient to grow by; call optimizer.step() once before each "
                    "step(t), with t counted from 1, and leave .grad in place until then"
                )
            if not torch.isfinite(gradient).all():
                raise TrainingError(
                    f"parameter {name!r} at step {t}: its gradient is not finite; lower the learning rate"
                )
        # Outside the old mask weights are 0, because gradients were masked before the update. The -1 settles only the
        # tie with a kept weight that is 0: the kept one wins.
        magnitude = self.masks.parameters[name].detach().abs().masked_fill(~old, -1)
        kept = largest(magnitude, target - int(fraction * target))
        score = self.grow(self.masks, name, kept, gradient).masked_fill(kept, -1)
        return kept | largest(score, target - int(kept.sum()))


def largest(values: torch.Tensor, count: int) -> torch.Tensor:
    """Mark the `count` largest entries; of equal ones, those of lower index.

    Parameters
    ----------
    values : Tensor of float
        Without NaN.
    count : int
        At most the number of entries.

    Returns
    -------
    Tensor of bool
        In the shape of `values`, with exactly `count` ones.

    Examples
    --------
    >>> largest(torch.tensor([1.0, 3.0, 2.0, 3.0, 3.0]), 2)
    tensor([False,  True, False,  True, False])
    """
    flat = values.flatten()
    if count == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    threshold = flat.kthvalue(flat.numel() - count + 1).values
    chosen = flat > threshold
    ties = (flat == threshold).nonzero().flatten()
    chosen[ties[: count - int(chosen.sum())]] = True
    return chosen.view(values.shape)


def by_gradient(masks: MaskSet, name: str, kept: torch.Tensor, gradient: torch.Tensor | None) -> torch.Tensor:
    """Score by the magnitude of the dense gradient."""
    assert gradient is not None
    return gradient.abs()


def at_random(masks: MaskSet, name: str, kept: torch.Tensor, gradient: torch.Tensor | None) -> torch.Tensor:
    """Score uniformly at random."""
    scores = masks.generator(name, step=masks.step).random(kept.numel())
    return torch.from_numpy(scores).view(kept.shape).to(kept.device)


def rigl(masks: MaskSet, optimizer: torch.optim.Optimizer, schedule: Schedule) -> Rewire:
    """Grow where the dense gradient is largest."""
    return Rewire(masks, optimizer, schedule, grow=by_gradient, needs_gradient=True)


def set_(masks: MaskSet, optimizer: torch.optim.Optimizer, schedule: Schedule) -> Rewire:
    """Grow uniformly at random."""
    return Rewire(masks, optimizer, schedule, grow=at_random, needs_gradient=False)


METHODS: dict[str, Callable[[MaskSet, torch.optim.Optimizer, Schedule], Method]] = {
    "static": Static,
    "set": set_,
    "rigl": rigl,
}
