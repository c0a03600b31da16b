"""SGD with weight decay where it belongs, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from sift_graph.train.config import OptimizerConfig

__all__ = ["LR_SCHEDULES", "learning_rate", "make_optimizer"]


def cosine(config: OptimizerConfig, progress: float) -> float:
    """Fall from 1 to 0 along half a cosine."""
    return 0.5 + 0.5 * math.cos(math.pi * progress)


def step(config: OptimizerConfig, progress: float) -> float:
    """Multiply by gamma at each milestone."""
    return float(config.gamma ** sum(progress >= milestone for milestone in config.milestones))


LR_SCHEDULES: dict[str, Callable[[OptimizerConfig, float], float]] = {"cosine": cosine, "step": step}


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
    return config.lr * LR_SCHEDULES[config.schedule](config, (step - warmup) / max(steps - warmup, 1))


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.SGD:
    """SGD over a model's parameters; norms and biases, the parameters of one axis, are spared weight decay.

    Parameters
    ----------
    model : nn.Module
    config : OptimizerConfig

    Returns
    -------
    torch.optim.SGD
    """
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)
