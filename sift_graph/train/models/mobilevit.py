"""MobileViT: inverted residuals with transformers between them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from sift_graph.errors import UsageError
from sift_graph.train.models.mobilenet import InvertedResidual, scaled
from sift_graph.train.models.transformer import TransformerBlock, multiple

__all__ = ["MobileViT", "MobileViTBlock"]

WIDTH = 16
PATCH = 2
# Channels behind the stem and the five stages, and width of the transformers of the last three: MobileViT-S.
CHANNELS = (32, 64, 96, 128, 160)
TRANSFORMERS = (144, 192, 240)
LAST = 4  # the last convolution widens by this


class ConvNorm(nn.Module):
    """A convolution, batch norm, SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Activations of a batch."""
        return functional.silu(self.norm(self.conv(x)))


class MobileViTBlock(nn.Module):
    """A transformer over the pixels at the same place of each 2 by 2 square, with convolutions before and after.

    Parameters
    ----------
    channels, width : int
        Outside of the transformer and within; `width` is a multiple of `heads`.
    depth, heads : int
    dropout : float
    """

    def __init__(self, channels: int, width: int, depth: int, heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.local = ConvNorm(channels, channels, 3)
        self.enter = nn.Conv2d(channels, width, 1, bias=False)
        self.blocks = nn.Sequential(
            *(
                TransformerBlock(width, heads, hidden=2 * width, dropout=dropout, activation=functional.silu)
                for _ in range(depth)
            )
        )
        self.norm = nn.LayerNorm(width)
        self.leave = ConvNorm(width, channels, 1)
        self.fuse = ConvNorm(2 * channels, channels, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Activations of a batch."""
        y = self.enter(self.local(x))
        batch, width, height, length = y.shape
        rows, columns = height // PATCH, length // PATCH
        y = y.reshape(batch, width, rows, PATCH, columns, PATCH).permute(0, 3, 5, 2, 4, 1)
        y = self.norm(self.blocks(y.reshape(batch * PATCH * PATCH, rows * columns, width)))
        y = y.reshape(batch, PATCH, PATCH, rows, columns, width).permute(0, 5, 3, 1, 4, 2)
        y = self.leave(y.reshape(batch, width, height, length))
        fused: torch.Tensor = self.fuse(torch.cat([x, y], dim=1))
        return fused


class MobileViT(nn.Module):
    """MobileViT.

    Layers are called ``stem.conv``, ``stage1.0.expand``, ..., ``stage3.1.local.conv``,
    ``stage3.1.blocks.0.attention.query``, ..., ``last.conv``, ``head``. At width 16 and depths (2, 4, 3) it is
    MobileViT-S.

    Parameters
    ----------
    width : int
        Channels of the stem; all others are scaled with it and rounded, transformers up to a multiple of the heads.
    shape : tuple of int
        Channels, height and width of one input.
    classes : int
    depths : tuple of int
        Blocks of the transformer in each of the last stages, at most three.
    heads : int
    dropout : float
    stem : {"cifar", "imagenet"}
        With ``"cifar"`` the stem and the second stage keep height and width, so that images of 32 end at 4, not at 1.

    Raises
    ------
    UsageError
        If a transformer would meet a feature map that squares of 2 by 2 do not fill.

    References
    ----------
    .. [1] S. Mehta, M. Rastegari, "MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision Transformer",
       ICLR 2022, table 4.
    """

    def __init__(
        self,
        width: int,
        shape: tuple[int, ...],
        classes: int,
        depths: tuple[int, ...],
        *,
        heads: int,
        dropout: float = 0.0,
        stem: Literal["cifar", "imagenet"] = "imagenet",
    ) -> None:
        super().__init__()
        wide = 2 if stem == "imagenet" else 1
        sizes = [-(-side // (wide * wide)) for side in shape[1:]]
        channels = [scaled(n, width, WIDTH) for n in CHANNELS]

        def inverted(inputs: int, outputs: int, stride: int) -> InvertedResidual:
            return InvertedResidual(inputs, outputs, stride, expansion=4, activation=nn.SiLU(), bias=False)

        self.stem = ConvNorm(shape[0], width, 3, wide)
        self.stage1 = nn.Sequential(inverted(width, channels[0], 1))
        self.stage2 = nn.Sequential(
            inverted(channels[0], channels[1], wide),
            inverted(channels[1], channels[1], 1),
            inverted(channels[1], channels[1], 1),
        )
        self.stages = ["stage1", "stage2"]
        inputs = channels[1]
        for i, (depth, outputs, inner) in enumerate(zip(depths, channels[2:], TRANSFORMERS, strict=False)):
            sizes = [-(-side // 2) for side in sizes]
            if any(side % PATCH for side in sizes):
                raise UsageError(
                    f"model.name: images of {shape[1]} by {shape[2]} give {sizes[0]} by {sizes[1]} pixels at the "
                    f"transformer of stage {i + 3}, which squares of {PATCH} by {PATCH} do not fill; choose another "
                    "model, fewer model.depths, or for a folder another data.image_size"
                )
            transformer = multiple(scaled(inner, width, WIDTH), heads)
            self.stages.append(f"stage{i + 3}")
            self.add_module(
                self.stages[-1],
                nn.Sequential(
                    inverted(inputs, outputs, 2), MobileViTBlock(outputs, transformer, depth, heads, dropout=dropout)
                ),
            )
            inputs = outputs
        self.last = ConvNorm(inputs, LAST * inputs, 1)
        self.head = nn.Linear(LAST * inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of a batch."""
        x = self.stem(x)
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        logits: torch.Tensor = self.head(self.last(x).mean((2, 3)))
        return logits
