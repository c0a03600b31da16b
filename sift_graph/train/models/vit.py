"""The vision transformer."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from sift_graph.errors import UsageError
from sift_graph.train.models.transformer import TransformerBlock, multiple

__all__ = ["ViT"]


class ViT(nn.Module):
    """A vision transformer with a class token and learnt positions.

    Layers are called ``stem``, ``blocks.0.attention.query`` (``key``, ``value``, ``output``), ``blocks.0.up``,
    ``blocks.0.down``, ..., ``head``.

    Parameters
    ----------
    width : int
        Of the stream; rounded up to a multiple of the heads.
    shape : tuple of int
        Channels, height and width of one input.
    classes : int
    depths : tuple of int
        Blocks, summed.
    heads : int
    dropout : float
    patch : int
        Height and width of the squares that become tokens.
    ratio : int
        Units of a hidden layer, in units of the width.

    Raises
    ------
    UsageError
        If the patches do not divide the image.

    References
    ----------
    .. [1] A. Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021.
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
        patch: int = 4,
        ratio: int = 4,
    ) -> None:
        super().__init__()
        if shape[1] % patch or shape[2] % patch:
            raise UsageError(
                f"model.name: patches of {patch} by {patch} do not divide images of {shape[1]} by {shape[2]}; choose "
                "another model, or for a folder another data.image_size"
            )
        width = multiple(width, heads)
        tokens = (shape[1] // patch) * (shape[2] // patch)
        self.stem = nn.Conv2d(shape[0], width, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, tokens + 1, width))
        self.blocks = nn.Sequential(
            *(TransformerBlock(width, heads, hidden=ratio * width, dropout=dropout) for _ in range(sum(depths)))
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        self.dropout = dropout
        nn.init.trunc_normal_(self.positions, std=0.02)
        nn.init.trunc_normal_(self.class_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of a batch."""
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1) + self.positions
        x = self.blocks(functional.dropout(x, self.dropout, self.training))
        logits: torch.Tensor = self.head(self.norm(x[:, 0]))
        return logits
