"""MobileNetV2 for images of the size of CIFAR's, and the inverted residual that MobileViT shares."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["InvertedResidual", "MobileNetV2", "scaled"]

# Stride of the first block, channels and expansion of each stage, at width 32.
STAGES = ((1, 16, 1), (2, 24, 6), (2, 32, 6), (2, 64, 6), (1, 96, 6), (1, 160, 6), (1, 320, 6))
WIDTH, LAST = 32, 1280


def scaled(channels: int, width: int, base: int) -> int:
    """Scale channels that a model has at a base width, to the nearest whole number, at least 1.

    Parameters
    ----------
    channels, width, base : int

    Returns
    -------
    int

    Examples
    --------
    >>> scaled(24, 45, 32)
    34
    """
    return max(1, (2 * channels * width + base) // (2 * base))


class InvertedResidual(nn.Module):
    """A 1 by 1 convolution that widens, a depthwise one of 3 by 3, and a 1 by 1 one that narrows, with batch norms.

    Parameters
    ----------
    inputs, outputs, stride : int
        With stride 1 and as many outputs as inputs, there is a shortcut.
    expansion : int
        Factor of widening.
    activation : nn.Module
    bias : bool
        Of the convolutions.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        *,
        expansion: int,
        activation: nn.Module,
        bias: bool,
    ) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = nn.Conv2d(inputs, inner, 1, bias=bias)
        self.norm1 = nn.BatchNorm2d(inner)
        self.depthwise = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=bias)
        self.norm2 = nn.BatchNorm2d(inner)
        self.project = nn.Conv2d(inner, outputs, 1, bias=bias)
        self.norm3 = nn.BatchNorm2d(outputs)
        self.activation = activation
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Activations of a batch."""
        y = self.activation(self.norm1(self.expand(x)))
        y = self.activation(self.norm2(self.depthwise(y)))
        z: torch.Tensor = self.norm3(self.project(y))
        return x + z if self.has_shortcut else z


class MobileNetV2(nn.Module):
    """MobileNetV2 with the stem that Sparse-IFT's CIFAR budget was counted with: 1 by 1, with padding.

    Layers are called ``stem``, ``stage1.0.expand``, ``stage1.0.depthwise``, ``stage1.0.project``, ..., ``last``,
    ``head`` (a 1 by 1 convolution). All convolutions have biases.

    Parameters
    ----------
    width : int
        Channels of the stem; all others are scaled with it and rounded.
    shape : tuple of int
        Channels, height and width of one input.
    classes : int
    depths : tuple of int
        Blocks in each of at most seven stages.

    References
    ----------
    .. [1] M. Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, table 2.
    """

    def __init__(self, width: int, shape: tuple[int, ...], classes: int, depths: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(shape[0], width, 1, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.activation = nn.ReLU6()  # a module, because published budgets count it
        self.stages: list[str] = []
        inputs = width
        for i, (depth, (first, channels, expansion)) in enumerate(zip(depths, STAGES, strict=False)):
            outputs, blocks = scaled(channels, width, WIDTH), []
            for j in range(depth):
                stride = first if j == 0 else 1
                blocks.append(
                    InvertedResidual(inputs, outputs, stride, expansion=expansion, activation=nn.ReLU6(), bias=True)
                )
                inputs = outputs
            self.stages.append(f"stage{i + 1}")
            self.add_module(self.stages[-1], nn.Sequential(*blocks))
        outputs = scaled(LAST, width, WIDTH)
        self.last = nn.Conv2d(inputs, outputs, 1)
        self.last_norm = nn.BatchNorm2d(outputs)
        self.head = nn.Conv2d(outputs, classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of a batch."""
        x = self.activation(self.norm(self.stem(x)))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        x = self.activation(self.last_norm(self.last(x)))
        logits: torch.Tensor = self.head(x.mean((2, 3), keepdim=True)).flatten(1)
        return logits
