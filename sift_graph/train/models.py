"""The models, each a function of a width."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

__all__ = ["MLP", "MODELS", "ModelSource", "ResNet"]


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


class Block(nn.Module):
    """Two 3 by 3 convolutions with batch norm, around a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Conv2d | None = None
        self.shortcut_norm: nn.BatchNorm2d | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut_norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Activations of a batch."""
        y = functional.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if self.shortcut is not None and self.shortcut_norm is not None:
            x = self.shortcut_norm(self.shortcut(x))
        return functional.relu(x + y)


class ResNet(nn.Module):
    """A residual network with the CIFAR stem: a 3 by 3 convolution of stride 1, no pooling.

    Layers are called ``stem``, ``stage1.0.conv1``, ``stage1.0.conv2``, ``stage2.0.shortcut``, ..., ``head``. With
    width 64 and depths (2, 2, 2, 2) it is the ResNet-18 of CIFAR.

    Parameters
    ----------
    width : int
        Channels of the stem and of the first stage; each further stage doubles them and halves height and width.
    shape : tuple of int
        Channels, height and width of one input.
    classes : int
    depths : tuple of int
        Blocks in each stage.

    Notes
    -----
    Convolutions start as Kaiming normal by their outputs, the last norm of each block with weight 0, so that a block
    starts as its shortcut. Masks are laid on these weights without rescaling them.
    """

    def __init__(self, width: int, shape: tuple[int, ...], classes: int, depths: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(shape[0], width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.stages: list[str] = []
        inputs = width
        for i, depth in enumerate(depths):
            outputs = width << i
            blocks = [Block(inputs if j == 0 else outputs, outputs, 2 if i and j == 0 else 1) for j in range(depth)]
            self.stages.append(f"stage{i + 1}")
            self.add_module(self.stages[-1], nn.Sequential(*blocks))
            inputs = outputs
        self.head = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Block):
                nn.init.zeros_(module.norm2.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of a batch."""
        x = functional.relu(self.norm(self.stem(x)))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


@dataclass(frozen=True)
class ModelSource:
    """One model, before it is built.

    Attributes
    ----------
    build : callable
        ``build(width, shape, classes, depths) -> nn.Module``; each part of the model grows with the width.
    width : int
        Unless one is chosen.
    depths : tuple of int
        Unless they are chosen.
    """

    build: Callable[[int, tuple[int, ...], int, tuple[int, ...]], nn.Module]
    width: int
    depths: tuple[int, ...]


MODELS: dict[str, ModelSource] = {
    # Wide enough that at 0.9 its first layer, dense and 3.2 times as wide, does not eat up the budget.
    "mlp": ModelSource(MLP, 128, (3,)),
    "resnet": ModelSource(ResNet, 8, (1, 1, 1)),
}
