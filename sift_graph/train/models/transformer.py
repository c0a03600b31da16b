"""The block that ViT, GPT and MobileViT are made of. Its projections are separate layers: a graph each."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

__all__ = ["Attention", "TransformerBlock", "multiple"]


def multiple(width: int, heads: int) -> int:
    """Round a width up to a multiple of the heads, as the released configurations of Sparse-IFT do.

    Parameters
    ----------
    width, heads : int

    Returns
    -------
    int

    Examples
    --------
    >>> multiple(1086, 12)
    1092
    """
    return -(-width // heads) * heads


class Attention(nn.Module):
    """Multi-head attention of ``query``, ``key``, ``value`` and ``output``.

    Parameters
    ----------
    width : int
        A multiple of `heads`.
    heads : int
    dropout : float
        Of the attention weights, while training.
    causal : bool
        Whether a position sees only itself and what was before.
    """

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.dropout, self.causal = heads, dropout, causal
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Activations of a batch, shape (batch, positions, width)."""
        batch, positions, width = x.shape
        query, key, value = (
            layer(x).view(batch, positions, self.heads, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        dropout = self.dropout if self.training else 0.0
        y = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=self.causal)
        result: torch.Tensor = self.output(y.transpose(1, 2).reshape(batch, positions, width))
        return result


class TransformerBlock(nn.Module):
    """Attention and two linear layers, ``up`` and ``down``, each behind a layer norm and around a shortcut.

    Parameters
    ----------
    width, heads : int
    hidden : int
        Outputs of ``up``.
    dropout : float
        Of the attention weights and of both branches.
    causal : bool
    activation : callable
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        hidden: int,
        dropout: float = 0.0,
        causal: bool = False,
        activation: Callable[[torch.Tensor], torch.Tensor] = functional.gelu,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout=dropout, causal=causal)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.dropout = dropout
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Activations of a batch, shape (batch, positions, width)."""
        x = x + functional.dropout(self.attention(self.norm1(x)), self.dropout, self.training)
        y = self.down(self.activation(self.up(self.norm2(x))))
        return x + functional.dropout(y, self.dropout, self.training)
