"""SGD and AdamW with weight decay where it belongs, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sift_graph.train.config import OptimizerConfig

__all__ = ["LR_SCHEDULES", "OPTIMIZERS", "clip_gradients", "learning_rate", "make_optimizer"]


def cosine(config: OptimizerConfig, progress: float, whole: float) -> float:
    """Fall from 1 to the final fraction along half a cosine."""
    return config.final + (1 - config.final) * (0.5 + 0.5 * math.cos(math.pi * progress))


def linear(config: OptimizerConfig, progress: float, whole: float) -> float:
    """Fall from 1 to the final fraction along a line."""
    return 1 - (1 - config.final) * progress


def step(config: OptimizerConfig, progress: float, whole: float) -> float:
    """Multiply by gamma at each milestone of the whole training, warm-up and all."""
    return float(config.gamma ** sum(whole >= milestone for milestone in config.milestones))


def constant(config: OptimizerConfig, progress: float, whole: float) -> float:
    """Stay at 1."""
    return 1.0


LR_SCHEDULES: dict[str, Callable[[OptimizerConfig, float, float], float]] = {
    "cosine": cosine,
    "linear": linear,
    "step": step,
    "constant": constant,
}
"""``schedule(config, progress, whole)``: the fraction of the rate at a progress since the warm-up, and since the
beginning, each from 0 to 1."""


def learning_rate(config: OptimizerConfig, step: int, *, steps: int, steps_per_epoch: int) -> float:
    """Learning rate of one optimizer update.

    Parameters
    ----------
    config : OptimizerConfig
    step : int
        Updates made before this one.
    steps : int
        Updates of the whole run.
    steps_per_epoch : int

    Returns
    -------
    float
    """
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return config.lr * (step + 1) / math.ceil(warmup)
    if config.per_epoch:
        step = max(step - step % steps_per_epoch, math.ceil(warmup))
    progress = (step - warmup) / max(steps - warmup, 1)
    return config.lr * LR_SCHEDULES[config.schedule](config, progress, step / steps)


def sgd(groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Make SGD."""
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)


def adamw(groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Make AdamW, whose decay does not pass through the moments."""
    first, second = config.betas
    return torch.optim.AdamW(groups, lr=config.lr, betas=(first, second), eps=config.eps)


OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], OptimizerConfig], torch.optim.Optimizer]] = {
    "sgd": sgd,
    "adamw": adamw,
}


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Make the optimizer of a model's parameters; norms and biases, those of one axis, are spared weight decay.

    Parameters
    ----------
    model : nn.Module
    config : OptimizerConfig
        With ``decay_all``, nothing is spared.

    Returns
    -------
    torch.optim.Optimizer
    """
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {
            "params": [p for p in parameters if p.ndim <= 1],
            "weight_decay": config.weight_decay if config.decay_all else 0.0,
        },
    ]
    return OPTIMIZERS[config.name](groups, config)


def clip_gradients(optimizer: torch.optim.Optimizer, largest: float) -> None:
    """Scale gradients before each update, so that their common norm is at most `largest`.

    To be called when everything else that changes gradients has hooked the optimizer: gradients of weights outside the
    masks are no part of the norm.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    largest : float
        0 for no clipping.
    """
    if largest:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

        def clip(*_: Any) -> None:
            torch.nn.utils.clip_grad_norm_(parameters, largest)

        optimizer.register_step_pre_hook(clip)
