"""A fully connected network."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

__all__ = ["MLP"]


class MLP(nn.Module):
    """Fully connected: ``stem``, hidden layers ``hidden.0``, ``hidden.1``, ..., ``head``, with batch norm and ReLU.

    Parameters
    ----------
    width : int
        Units of each hidden layer.
    shape : tuple of int
        Of one input.
    classes : int
    depths : tuple of int
        Hidden layers between the stem and the head, summed.
    """

    def __init__(self, width: int, shape: tuple[int, ...], classes: int, depths: tuple[int, ...]) -> None:
        super().__init__()
        depth = sum(depths)
        self.stem = nn.Linear(torch.Size(shape).numel(), width, bias=False)
        self.hidden = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(depth + 1))
        self.head = nn.Linear(width, classes)
        for layer in (self.stem, *self.hidden):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of a batch."""
        x = x.flatten(1)
        for layer, norm in zip((self.stem, *self.hidden), self.norms, strict=True):
            x = functional.relu(norm(layer(x)))
        logits: torch.Tensor = self.head(x)
        return logits
