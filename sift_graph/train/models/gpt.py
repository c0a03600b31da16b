"""The GPT family: a causal transformer over tokens."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from sift_graph.train.models.transformer import TransformerBlock, multiple

__all__ = ["GPT"]

STD = 0.02


class GPT(nn.Module):
    """A causal transformer with learnt positions; its last layer shares the weight of the token embedding.

    Layers are called ``blocks.0.attention.query`` (``key``, ``value``, ``output``), ``blocks.0.up``, ``blocks.0.down``,
    ..., ``head``. The embeddings and the head stay dense; every layer of the blocks may carry a mask.

    Parameters
    ----------
    width : int
        Of the stream; rounded up to a multiple of the heads, so that 768 widened for a sparsity of 0.5 is 1092.
    shape : tuple of int
        The length of a stretch of tokens.
    classes : int
        Tokens that there are.
    depths : tuple of int
        Blocks, summed.
    heads : int
    dropout : float
        Of embeddings, attention weights and branches.

    Notes
    -----
    Weights start as normal of standard deviation 0.02, cut at twice that; those that end a branch are smaller by the
    square root of the number of branches. Heads grow wider with the model, their number stays: so do the released
    configurations of Sparse-IFT, while the paper's table keeps heads of 64, which would not fill 1092.

    References
    ----------
    .. [1] T. Brown et al., "Language Models are Few-Shot Learners", NeurIPS 2020, table 2.1.
    .. [2] V. Thangarasa et al., "Sparse-IFT", ICML 2024, appendix (GPT-3 Small and its widened forms).
    """

    dense_layers = ("head",)
    """Layers that carry no mask. The first layer, a projection of the first block, is not the input layer here."""

    def __init__(
        self,
        width: int,
        shape: tuple[int, ...],
        classes: int,
        depths: tuple[int, ...],
        *,
        heads: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        width, depth = multiple(width, heads), sum(depths)
        self.tokens = nn.Embedding(classes, width)
        self.positions = nn.Embedding(shape[0], width)
        self.blocks = nn.Sequential(
            *(TransformerBlock(width, heads, hidden=4 * width, dropout=dropout, causal=True) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes, bias=False)
        self.head.weight = self.tokens.weight
        self.dropout = dropout
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding) and module is not self.head:
                std = STD / math.sqrt(2 * depth) if name.endswith((".output", ".down")) else STD
                nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
            if isinstance(module, nn.Linear) and module is not self.head:
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of the next token at each position, shape (batch, positions, classes)."""
        tokens = x.long()  # counting MACs runs every model on floats
        places = torch.arange(tokens.shape[1], device=tokens.device)
        y = functional.dropout(self.tokens(tokens) + self.positions(places), self.dropout, self.training)
        logits: torch.Tensor = self.head(self.norm(self.blocks(y)))
        return logits
