r"""Methods that drop some weights of each layer and grow as many elsewhere: SET, RigL.

The rule is that of Sparse-IFT (:class:`Rewire`). Where it differs from the first RigL: the mask moves in addition to
the optimizer's update, not in its place (``rigl_original`` has it in its place); the gradient is that of the same
iteration, so it was taken before the update; weights are dropped without noise, ties go to the lower index.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sift_graph.errors import TrainingError
from sift_graph.sparsify.mask_set import MaskSet
from sift_graph.sparsify.options import MethodOptions
from sift_graph.sparsify.schedule import Schedule
from sift_graph.sparsify.selection import largest

__all__ = ["Rewire", "finite_gradient", "rigl", "rigl_original", "set_", "skip_updates"]

Grow = Callable[[MaskSet, str, torch.Tensor, "torch.Tensor | None"], torch.Tensor]


class Rewire:
    r"""Drop the weights of smallest magnitude, grow as many elsewhere.

    At an update, with :math:`n` weights kept and a fraction :math:`f` to drop: keep the :math:`n - \lfloor f n \rfloor`
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
    replaces_update : bool
        Whether a step at which masks move leaves the weights alone, as the first RigL does: that step's gradients
        serve for growth only, and the optimizer finds none.

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
        replaces_update: bool = False,
    ) -> None:
        self.masks = masks
        self.optimizer = optimizer
        self.schedule = schedule
        self.grow = grow
        self.needs_gradient = needs_gradient
        self._gradients: dict[str, torch.Tensor] = {}
        optimizer.register_step_pre_hook(self._before_update)
        if replaces_update:
            skip_updates(optimizer, lambda: schedule.is_update(masks.step + 1))

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
            gradient = finite_gradient(name, t, gradient)
        # The number kept may differ from the target before the first move, where masks were drawn weight by weight.
        present = int(old.sum())
        # Outside the old mask weights are 0, because gradients were masked before the update. The -1 settles only the
        # tie with a kept weight that is 0: the kept one wins.
        magnitude = self.masks.parameters[name].detach().abs().masked_fill(~old, -1)
        kept = largest(magnitude, min(present - int(fraction * present), target))
        score = self.grow(self.masks, name, kept, gradient).masked_fill(kept, -1)
        return kept | largest(score, target - int(kept.sum()))


def finite_gradient(name: str, t: int, gradient: torch.Tensor | None) -> torch.Tensor:
    """Give back a gradient to grow by, or say what is wrong with it."""
    if gradient is None:
        raise TrainingError(
            f"parameter {name!r} at step {t}: no gradient to grow by; call optimizer.step() once before each step(t), "
            "with t counted from 1, and leave .grad in place until then"
        )
    if not torch.isfinite(gradient).all():
        raise TrainingError(f"parameter {name!r} at step {t}: its gradient is not finite; lower the learning rate")
    return gradient


def skip_updates(optimizer: torch.optim.Optimizer, is_skipped: Callable[[], bool]) -> None:
    """Make an optimizer find no gradient, and so change neither weights nor buffers, whenever `is_skipped` says so.

    Gradients are put back after its step.
    """
    aside: list[tuple[nn.Parameter, torch.Tensor]] = []

    def take(*_: Any) -> None:
        if is_skipped():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        aside.append((parameter, parameter.grad))
                        parameter.grad = None

    def put_back(*_: Any) -> None:
        for parameter, gradient in aside:
            parameter.grad = gradient
        aside.clear()

    optimizer.register_step_pre_hook(take)
    optimizer.register_step_post_hook(put_back)


def by_gradient(masks: MaskSet, name: str, kept: torch.Tensor, gradient: torch.Tensor | None) -> torch.Tensor:
    """Score by the magnitude of the dense gradient."""
    assert gradient is not None
    return gradient.abs()


def at_random(masks: MaskSet, name: str, kept: torch.Tensor, gradient: torch.Tensor | None) -> torch.Tensor:
    """Score uniformly at random."""
    scores = masks.generator(name, step=masks.step).random(kept.numel())
    return torch.from_numpy(scores).view(kept.shape).to(kept.device)


def rigl(
    masks: MaskSet, optimizer: torch.optim.Optimizer, schedule: Schedule, *, model: nn.Module, options: MethodOptions
) -> Rewire:
    """Grow where the dense gradient is largest, in addition to the optimizer's update."""
    return Rewire(masks, optimizer, schedule, grow=by_gradient, needs_gradient=True)


def rigl_original(
    masks: MaskSet, optimizer: torch.optim.Optimizer, schedule: Schedule, *, model: nn.Module, options: MethodOptions
) -> Rewire:
    """Grow where the dense gradient is largest, in place of the optimizer's update."""
    return Rewire(masks, optimizer, schedule, grow=by_gradient, needs_gradient=True, replaces_update=True)


def set_(
    masks: MaskSet, optimizer: torch.optim.Optimizer, schedule: Schedule, *, model: nn.Module, options: MethodOptions
) -> Rewire:
    """Grow uniformly at random."""
    return Rewire(masks, optimizer, schedule, grow=at_random, needs_gradient=False)
