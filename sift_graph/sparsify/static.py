"""Masks that stay as they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sift_graph.sparsify.mask_set import MaskSet
from sift_graph.sparsify.options import MethodOptions
from sift_graph.sparsify.schedule import Schedule

__all__ = ["Static", "static"]


class Static:
    """Masks that stay as they are.

    Parameters
    ----------
    masks : MaskSet
    optimizer : Optimizer
        Gets a hook that masks gradients before each of its steps.
    """

    def __init__(self, masks: MaskSet, optimizer: torch.optim.Optimizer) -> None:
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


def static(
    masks: MaskSet, optimizer: torch.optim.Optimizer, schedule: Schedule, *, model: nn.Module, options: MethodOptions
) -> Static:
    """Leave the masks as they are."""
    return Static(masks, optimizer)
