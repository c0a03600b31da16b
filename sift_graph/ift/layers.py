"""The modules that take the place of a layer: Sparse Parallel, Factorized and Doped, and plain low rank.

Each is built from the ``Conv2d`` or ``Linear`` that it replaces, and takes and gives tensors of the same shapes. The
names of its layers: ``branches.0``, ``branches.1``, ... ; ``u``, ``v``; ``sparse``, ``u``, ``v``. The bias of the
replaced layer is kept once, added to the result.

New weights are normal, of the gain that the replaced weight has: its standard deviation times the root of its inputs.
So whatever scheme a model starts from, its transformed layers start from too. The first branch of Parallel and the
sparse weight of Doped are the replaced weight itself: with an identity for the non-linearity, no zeros and no rank they
are the dense layer.

References
----------
.. [1] V. Thangarasa et al., "Sparse-IFT", ICML 2024, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import skip_init

from sift_graph.errors import UsageError

__all__ = ["NONLINEARITIES", "Factorized", "SparseDoped", "SparseParallel", "nonlinearity"]

Layer = nn.Conv2d | nn.Linear


class TokenBatchNorm(nn.BatchNorm1d):
    """Batch norm over the last axis, whatever axes stand before it: a linear layer's outputs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise a batch."""
        return super().forward(x.flatten(0, -2)).view_as(x)


def batch_norm(channels: int, is_conv: bool) -> nn.Module:
    """Batch norm over channels."""
    return nn.BatchNorm2d(channels) if is_conv else TokenBatchNorm(channels)


def layer_norm(channels: int, is_conv: bool) -> nn.Module:
    """Layer norm over the outputs of a linear layer."""
    if is_conv:
        raise UsageError("nonlinearity 'layer_norm' is for linear layers; for convolutions take 'bn_relu' or 'bn'")
    return nn.LayerNorm(channels)


NONLINEARITIES: dict[str, Callable[[int, bool], nn.Module]] = {
    "bn_relu": lambda channels, is_conv: nn.Sequential(batch_norm(channels, is_conv), nn.ReLU()),
    "bn": batch_norm,
    "relu": lambda channels, is_conv: nn.ReLU(),
    "layer_norm": layer_norm,
    "layer_norm_relu": lambda channels, is_conv: nn.Sequential(layer_norm(channels, is_conv), nn.ReLU()),
    "identity": lambda channels, is_conv: nn.Identity(),
}


def nonlinearity(name: str, layer: Layer, channels: int) -> nn.Module:
    """Make the non-linearity of a family, where the layer stands and in its precision."""
    module = NONLINEARITIES[name](channels, isinstance(layer, nn.Conv2d))
    return module.to(layer.weight.device, layer.weight.dtype)


class Replacement(nn.Module):
    """What the modules of this page share: the replaced layer's bias and its sizes."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.is_conv = isinstance(layer, nn.Conv2d)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())
        for size in ("in_channels", "out_channels", "kernel_size", "stride", "groups", "in_features", "out_features"):
            if hasattr(layer, size):
                setattr(self, size, getattr(layer, size))

    def biased(self, y: torch.Tensor) -> torch.Tensor:
        """Add the bias, where there is one."""
        if self.bias is None:
            return y
        return y + (self.bias[:, None, None] if self.is_conv else self.bias)


class SparseParallel(Replacement):
    r"""Sum of branches of the layer's own shape, :math:`\sum_j \sigma(W_j x) + b`.

    Parameters
    ----------
    layer : Conv2d or Linear
        What is replaced; its weight becomes that of the first branch.
    branches : int
    name : str
        A key of :data:`NONLINEARITIES`; each branch has its own.
    """

    def __init__(self, layer: Layer, branches: int, name: str) -> None:
        super().__init__(layer)
        channels = layer.weight.shape[0]
        made = [like(layer) for _ in range(branches)]
        self.branches = nn.ModuleList(made)
        self.nonlinearities = nn.ModuleList(nonlinearity(name, layer, channels) for _ in range(branches))
        for i, branch in enumerate(made):
            take_weight(branch, layer) if i == 0 else draw_weight(branch, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Give the outputs for a batch."""
        pairs = zip(self.nonlinearities, self.branches, strict=True)
        first, *others = (sigma(branch(x)) for sigma, branch in pairs)
        return self.biased(sum(others, start=first))


class Factorized(Replacement):
    r"""Two layers through a rank, :math:`V \sigma(U x) + b`.

    A convolution's kernel and stride are in ``u``; its ``v`` is 1 by 1. Groups keep to themselves in both.

    Parameters
    ----------
    layer : Conv2d or Linear
        What is replaced.
    rank : int
        Of each group.
    name : str
        A key of :data:`NONLINEARITIES`; it stands between the two.
    """

    def __init__(self, layer: Layer, rank: int, name: str) -> None:
        super().__init__(layer)
        self.u, self.v = factors(layer, rank)
        self.nonlinearity = nonlinearity(name, layer, self.u.weight.shape[0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Give the outputs for a batch."""
        return self.biased(self.v(self.nonlinearity(self.u(x))))


class SparseDoped(Replacement):
    r"""A sparse layer doped with a low-rank pair, :math:`\sigma(W x) + V U x + b`.

    Parameters
    ----------
    layer : Conv2d or Linear
        What is replaced; its weight becomes the sparse one.
    rank : int
        Of each group; 0 leaves the pair out.
    name : str
        A key of :data:`NONLINEARITIES`; it stands after the sparse weight. The pair is linear.
    """

    def __init__(self, layer: Layer, rank: int, name: str) -> None:
        super().__init__(layer)
        self.sparse = like(layer)
        take_weight(self.sparse, layer)
        self.nonlinearity = nonlinearity(name, layer, layer.weight.shape[0])
        self.u: Layer | None = None
        self.v: Layer | None = None
        if rank:
            self.u, self.v = factors(layer, rank)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Give the outputs for a batch."""
        y: torch.Tensor = self.nonlinearity(self.sparse(x))
        if self.u is not None and self.v is not None:
            y = y + self.v(self.u(x))
        return self.biased(y)


class SkippedNorm(nn.Module):
    """A norm that is there and never used, as in the released Parallel blocks: its parameters count, it does nothing.

    Parameters
    ----------
    norm : nn.Module
        Its parameters are kept.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm.requires_grad_(False)  # several processes would wait for its gradients

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Give back a batch as it is."""
        return x


def like(layer: Layer, outputs: int | None = None) -> Layer:
    """Make a layer of the same kind without a bias, with another number of outputs if need be; its weight is empty."""
    outputs = outputs or layer.weight.shape[0]
    if isinstance(layer, nn.Linear):
        return empty(layer, nn.Linear, layer.in_features, outputs)
    shape = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
    return empty(layer, nn.Conv2d, layer.in_channels, outputs, *shape, padding_mode=layer.padding_mode)


def empty(layer: Layer, kind: type[Layer], *sizes: Any, **options: Any) -> Layer:
    """Make a layer without a bias on the device and in the precision of another, its weight not drawn."""
    options |= {"bias": False, "device": layer.weight.device, "dtype": layer.weight.dtype}
    made: Layer = skip_init(kind, *sizes, **options)  # type: ignore[no-untyped-call]
    return made


def factors(layer: Layer, rank: int) -> tuple[Layer, Layer]:
    """Make the two layers whose product has the shape of a layer and, in each group, a rank; with weights drawn."""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    u = like(layer, groups * rank)
    if isinstance(layer, nn.Linear):
        v = empty(layer, nn.Linear, rank, layer.out_features)
    else:
        v = empty(layer, nn.Conv2d, groups * rank, layer.out_channels, 1, groups=groups)
    draw_weight(u, layer)
    draw_weight(v, layer)
    return u, v


@torch.no_grad()
def take_weight(new: Layer, layer: Layer) -> None:
    """Give a layer the weight of another of its shape."""
    new.weight.copy_(layer.weight)


@torch.no_grad()
def draw_weight(new: Layer, layer: Layer) -> None:
    """Draw normal weights of another layer's gain, from PyTorch's global generator."""
    if not layer.weight.is_meta:
        gain = float(layer.weight.float().std(correction=0)) * math.sqrt(layer.weight[0].numel())
        nn.init.normal_(new.weight, std=gain / math.sqrt(new.weight[0].numel()))
