"""VGG with batch norm."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

__all__ = ["VGG"]


class ConvNorm(nn.Module):
    """A 3 by 3 convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Activations of a batch."""
        return functional.relu(self.norm(self.conv(x)))


class VGG(nn.Module):
    """A plain network: stages of 3 by 3 convolutions, a pooling after each.

    Layers are called ``stage1.0.conv``, ``stage1.1.conv``, ..., ``hidden.0``, ``hidden.1``, ``head``. Convolutions have
    biases, as in the first VGG.

    Parameters
    ----------
    width : int
        Channels of the first stage; they double with each stage up to the fourth.
    shape : tuple of int
        Channels, height and width of one input.
    classes : int
    depths : tuple of int
        Convolutions in each stage.
    hidden : int
        Units of two fully connected layers before the head, in units of the width; 0 for none.
    pool : int
        Height and width that the last feature map is averaged to.
    dropout : float
        Behind each hidden layer.

    References
    ----------
    .. [1] K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015.
    """

    def __init__(
        self,
        width: int,
        shape: tuple[int, ...],
        classes: int,
        depths: tuple[int, ...],
        *,
        hidden: int = 0,
        pool: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.stages: list[str] = []
        inputs = shape[0]
        for i, depth in enumerate(depths):
            outputs = width << min(i, 3)
            layers = [ConvNorm(inputs if j == 0 else outputs, outputs) for j in range(depth)]
            self.stages.append(f"stage{i + 1}")
            self.add_module(self.stages[-1], nn.Sequential(*layers))
            inputs = outputs
        self.pool = nn.AdaptiveAvgPool2d(pool)
        inputs *= pool * pool
        units = hidden * width
        self.hidden = nn.ModuleList(nn.Linear(n, units) for n in ((inputs, units) if hidden else ()))
        self.head = nn.Linear(units or inputs, classes)
        self.dropout = dropout
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of a batch."""
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
            if min(x.shape[2:]) > 1:  # a small image is at one pixel before the stages end
                x = functional.max_pool2d(x, 2)
        x = self.pool(x).flatten(1)
        for layer in self.hidden:
            x = functional.dropout(functional.relu(layer(x)), self.dropout, self.training)
        logits: torch.Tensor = self.head(x)
        return logits
