"""Dense weights behind masked ones, for methods whose pruned weights go on learning.

Between two optimizer updates a parameter holds its effective weight, which is what the model computes with, what is
recorded and what a checkpoint of the model has; the dense weight behind it is in ``masks.latent``. For the optimizer's
update alone the two are exchanged, and the gradient of the effective weight is passed back to the dense one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from sift_graph.errors import TrainingError
from sift_graph.sparsify.mask_set import MaskSet

__all__ = ["keep_dense_weights"]

PassBack = Callable[[Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]]


def keep_dense_weights(masks: MaskSet, optimizer: torch.optim.Optimizer, pass_back: PassBack) -> None:
    """Put the parameters' present values aside as dense weights, and have the optimizer update those.

    Parameters
    ----------
    masks : MaskSet
        Its masks must keep every weight, or the dense weights would have lost some already.
    optimizer : Optimizer
        Gets hooks around its steps. After a step parameters hold dense weights: the method has to put the effective
        ones there.
    pass_back : callable
        Turns gradients of the effective weights, by name, into those of the dense ones.
    """
    masks.latent = {name: parameter.detach().clone() for name, parameter in masks.parameters.items()}

    @torch.no_grad()
    def before(*_: Any) -> None:
        gradients = {name: present_gradient(name, masks, p.grad) for name, p in masks.parameters.items()}
        for name, gradient in pass_back(gradients).items():
            parameter = masks.parameters[name]
            parameter.grad = gradient
            parameter.copy_(masks.latent[name])

    @torch.no_grad()
    def after(*_: Any) -> None:
        for name, parameter in masks.parameters.items():
            masks.latent[name].copy_(parameter)

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)


def present_gradient(name: str, masks: MaskSet, gradient: torch.Tensor | None) -> torch.Tensor:
    """Give back a gradient, or say that there is none."""
    if gradient is None:
        raise TrainingError(
            f"parameter {name!r} at step {masks.step + 1}: no gradient; call backward() before each optimizer.step()"
        )
    return gradient
