"""Residual networks: of basic blocks, of bottlenecks, and of bottlenecks with attention in the last stage (BotNet)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from sift_graph.errors import UsageError

__all__ = ["Block", "Bottleneck", "ResNet", "SpatialAttention"]

Stem = Literal["cifar", "imagenet"]
Size = tuple[int, int]


class Block(nn.Module):
    """Two 3 by 3 convolutions with batch norm, around a shortcut."""

    expansion = 1

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

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm before the sum."""
        return self.norm2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Activations of a batch."""
        y = functional.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if self.shortcut is not None and self.shortcut_norm is not None:
            x = self.shortcut_norm(self.shortcut(x))
        return functional.relu(x + y)


class SpatialAttention(nn.Module):
    """Attention between all positions of a feature map, with learnt relative heights and widths.

    Parameters
    ----------
    channels : int
        A multiple of `heads`.
    size : tuple of int
        Height and width of the feature map.
    heads : int

    References
    ----------
    .. [1] A. Srinivas et al., "Bottleneck Transformers for Visual Recognition", CVPR 2021, figure 4.
    """

    def __init__(self, channels: int, size: Size, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.query = nn.Conv2d(channels, channels, 1, bias=False)
        self.key = nn.Conv2d(channels, channels, 1, bias=False)
        self.value = nn.Conv2d(channels, channels, 1, bias=False)
        depth = channels // heads
        # Shared by the heads, as in the source: a row for each distance from 1 - n to n - 1.
        self.heights = nn.Parameter(torch.randn(2 * size[0] - 1, depth) * depth**-0.5)
        self.widths = nn.Parameter(torch.randn(2 * size[1] - 1, depth) * depth**-0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Activations of a batch, in the shape of the input."""
        batch, channels, height, width = x.shape
        query, key, value = (
            layer(x).view(batch, self.heads, -1, height * width).transpose(2, 3)
            for layer in (self.query, self.key, self.value)
        )
        query = query * query.shape[-1] ** -0.5
        bias = by_distance(query @ self.heights.T, height, width, along_height=True)
        bias = bias + by_distance(query @ self.widths.T, height, width, along_height=False)
        weights = (query @ key.transpose(2, 3) + bias).softmax(-1)
        y: torch.Tensor = (weights @ value).transpose(2, 3).reshape(batch, channels, height, width)
        return y


def by_distance(logits: torch.Tensor, height: int, width: int, *, along_height: bool) -> torch.Tensor:
    """Turn logits by distance, last axis, into logits by position, for one of the two directions."""
    rows = torch.arange(height, device=logits.device).repeat_interleave(width)
    columns = torch.arange(width, device=logits.device).repeat(height)
    position, size = (rows, height) if along_height else (columns, width)
    distance = position[None, :] - position[:, None] + size - 1
    return logits.gather(-1, distance.expand(*logits.shape[:2], -1, -1))


class Bottleneck(nn.Module):
    """Convolutions of 1, 3 and 1, around a shortcut; or attention in the place of the one of 3.

    Parameters
    ----------
    inputs, inner : int
        Channels; four times `inner` come out.
    stride : int
    size : tuple of int, optional
        Height and width of the input. Given, there is attention in the middle, and a stride is an average of squares
        behind it.
    heads : int
    """

    expansion = 4

    def __init__(self, inputs: int, inner: int, stride: int, *, size: Size | None = None, heads: int = 4) -> None:
        super().__init__()
        outputs = self.expansion * inner
        self.stride = stride
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner)
        if size is None:
            self.conv2: nn.Conv2d | None = nn.Conv2d(inner, inner, 3, stride, padding=1, bias=False)
        else:
            self.conv2 = None
            self.attention = SpatialAttention(inner, size, heads)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Conv2d | None = None
        self.shortcut_norm: nn.BatchNorm2d | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut_norm = nn.BatchNorm2d(outputs)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm before the sum."""
        return self.norm3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Activations of a batch."""
        y = functional.relu(self.norm1(self.conv1(x)))
        if self.conv2 is not None:
            y = self.conv2(y)
        else:
            y = self.attention(y)
            if self.stride != 1:
                y = functional.avg_pool2d(y, self.stride, ceil_mode=True)
        y = functional.relu(self.norm2(y))
        y = self.norm3(self.conv3(y))
        if self.shortcut is not None and self.shortcut_norm is not None:
            x = self.shortcut_norm(self.shortcut(x))
        return functional.relu(x + y)


class ResNet(nn.Module):
    """A residual network.

    Layers are called ``stem``, ``stage1.0.conv1``, ``stage1.0.conv2``, ``stage2.0.shortcut``, ..., ``head``. With
    width 64 and depths (2, 2, 2, 2) it is ResNet-18.

    Parameters
    ----------
    width : int
        Channels of the stem and of the first stage; each further stage doubles them and halves height and width.
    shape : tuple of int
        Channels, height and width of one input.
    classes : int
    depths : tuple of int
        Blocks in each stage.
    stem : {"cifar", "imagenet"}
        A 3 by 3 convolution of stride 1; or one of 7 by 7 and a pooling, both of stride 2.
    bottleneck : bool
        Blocks of three convolutions, with four times the channels outside.
    heads : int
        Of the attention that stands in the last stage in the place of 3 by 3 convolutions; 0 for none.

    Raises
    ------
    UsageError
        If the heads do not divide the channels of the last stage.

    Notes
    -----
    Convolutions start as Kaiming normal by their outputs, the last norm of each block with weight 0, so that a block
    starts as its shortcut. Masks are laid on these weights without rescaling them.

    References
    ----------
    .. [1] K. He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
    .. [2] A. Srinivas et al., "Bottleneck Transformers for Visual Recognition", CVPR 2021 (BotNet-50).
    """

    def __init__(
        self,
        width: int,
        shape: tuple[int, ...],
        classes: int,
        depths: tuple[int, ...],
        *,
        stem: Stem = "cifar",
        bottleneck: bool = False,
        heads: int = 0,
    ) -> None:
        super().__init__()
        size = (shape[1], shape[2])
        if stem == "cifar":
            self.stem = nn.Conv2d(shape[0], width, 3, padding=1, bias=False)
        else:
            self.stem = nn.Conv2d(shape[0], width, 7, 2, padding=3, bias=False)
            size = halved(halved(size))
        self.norm = nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(3, 2, padding=1) if stem == "imagenet" else nn.Identity()
        # A module of its own, as in the networks that published budgets were counted on.
        self.average = nn.AdaptiveAvgPool2d(1) if stem == "imagenet" else None
        self.stages: list[str] = []
        inputs = width
        for i, depth in enumerate(depths):
            inner, is_last = width << i, i == len(depths) - 1
            if heads and is_last and inner % heads:
                raise UsageError(
                    f"model.heads: {heads} heads do not divide the {inner} channels of the last stage at width {width}"
                )
            blocks: list[nn.Module] = []
            for j in range(depth):
                stride = 2 if i and j == 0 else 1
                if not bottleneck:
                    blocks.append(Block(inputs, inner, stride))
                    inputs = inner
                else:
                    blocks.append(
                        Bottleneck(inputs, inner, stride, size=size if heads and is_last else None, heads=heads)
                    )
                    inputs = inner * Bottleneck.expansion
                size = halved(size) if stride == 2 else size
            self.stages.append(f"stage{i + 1}")
            self.add_module(self.stages[-1], nn.Sequential(*blocks))
        self.head = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Block | Bottleneck):
                nn.init.zeros_(module.last_norm.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of a batch."""
        x = self.pool(functional.relu(self.norm(self.stem(x))))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        x = x.mean((2, 3)) if self.average is None else self.average(x).flatten(1)
        logits: torch.Tensor = self.head(x)
        return logits


def halved(size: Size) -> Size:
    """Give height and width behind a stride of 2, rounded up."""
    return (size[0] + 1) // 2, (size[1] + 1) // 2
