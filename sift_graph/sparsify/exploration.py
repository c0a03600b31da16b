r"""Guided stochastic exploration of the connections that a sparse layer does not have, never listing them all.

A layer of ``n`` inputs and ``m`` outputs with :math:`N` active weights is explored in time and memory linear in
:math:`N + n + m`: pairs of an input and an output are drawn from the product of two distributions, those that are
active already are left out, and only the others' gradients are worked out. Positions are those of the flattened weight,
``output * columns + column``.

References
----------
.. [1] M. Heddes, N. Srinivasa, T. Givargis, A. Nicolau, "Always-Sparse Training by Growing Connections with Guided
   Stochastic Exploration" (2024), algorithm 1 and appendix.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

__all__ = ["SAMPLINGS", "exchange", "pair_gradients", "propose", "sample_pairs"]


def uniform(values: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
    """Weigh every vertex alike."""
    return torch.ones(values.shape[1], dtype=values.dtype, device=values.device)


def gradient_bound(values: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
    r"""Sum absolute values over the batch (GraBo): :math:`|\sum_b h \delta| \le \sum_b |h| \sum_b |\delta|`."""
    return values.abs().sum(0)


def gradient_estimate(values: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
    """Sum over the batch with random signs (GraEst): the product of two such sums is the gradient, on average."""
    # The signs are the same for inputs and output gradients. Alon, Matias and Szegedy need them four-wise independent;
    # these are independent.
    return signs @ values


SAMPLINGS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "uniform": uniform,
    "grabo": gradient_bound,
    "graest": gradient_estimate,
}
"""``sampling(values, signs)``: rows of the batch to one number a vertex, which adds up over batches; its absolute value
is what the vertex is drawn by."""


def sample_pairs(
    left: np.ndarray, right: np.ndarray, count: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    r"""Draw pairs of vertices, with replacement, in proportion to the product of their weights.

    Parameters
    ----------
    left : ndarray of float, shape (groups, columns)
        Weight of each input; pairs lie within a group.
    right : ndarray of float, shape (groups, outputs)
    count : int
    generator : numpy.random.Generator

    Returns
    -------
    columns, outputs : ndarray of int, shape (count,)
        The column within the group, the output counted over all groups. Uniform where all weights are 0.
    """
    if not (left.sum(1) * right.sum(1)).sum() > 0:
        left, right = np.ones_like(left), np.ones_like(right)
    group = drawn(left.sum(1) * right.sum(1), generator.random(count))
    found = []
    for weights in (left, right):
        ends = np.cumsum(weights.astype(np.float64).ravel()).reshape(weights.shape)
        starts = np.concatenate([[0.0], ends[:-1, -1]])
        target = starts[group] + generator.random(count) * (ends[group, -1] - starts[group])
        index = np.searchsorted(ends.ravel(), target, side="right")
        size = weights.shape[1]
        found.append(np.clip(index, group * size, (group + 1) * size - 1))  # rounding at the ends
    return found[0] - group * left.shape[1], found[1]


def drawn(weights: np.ndarray, uniform_numbers: np.ndarray) -> np.ndarray:
    """Turn uniform numbers into indices that are distributed as the weights."""
    ends = np.cumsum(weights.astype(np.float64))
    index = np.searchsorted(ends, uniform_numbers * ends[-1], side="right")
    return np.asarray(np.minimum(index, len(ends) - 1))


def propose(
    active: np.ndarray, left: np.ndarray, right: np.ndarray, count: int, generator: np.random.Generator
) -> np.ndarray:
    """Draw connections that are not active.

    Parameters
    ----------
    active : ndarray of int
        Positions of the active weights, ascending.
    left : ndarray of float, shape (groups, columns)
    right : ndarray of float, shape (groups, outputs)
    count : int
        Pairs to draw; duplicates merge, active ones are left out, so that there may be fewer.
    generator : numpy.random.Generator

    Returns
    -------
    ndarray of int
        Positions, ascending.
    """
    columns, outputs = sample_pairs(left, right, count, generator)
    candidates = np.unique(outputs.astype(np.int64) * left.shape[1] + columns)
    return np.asarray(candidates[~present(candidates, active)])


def present(positions: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    """Say which positions are in an ascending array."""
    if not len(ascending):
        return np.zeros(len(positions), dtype=np.bool_)
    index = np.minimum(np.searchsorted(ascending, positions), len(ascending) - 1)
    found: np.ndarray = ascending[index] == positions
    return found


def pair_gradients(
    inputs: torch.Tensor, deltas: torch.Tensor, positions: torch.Tensor, *, chunk: int = 1 << 20
) -> torch.Tensor:
    r"""Gradients of single weights of a linear layer, :math:`\sum_b h_{bi} \delta_{bj}`, without those of the others.

    Parameters
    ----------
    inputs : Tensor, shape (batch, columns)
    deltas : Tensor, shape (batch, outputs)
        Gradients of the loss with respect to the outputs.
    positions : Tensor of int
    chunk : int
        Products held in memory at a time.

    Returns
    -------
    Tensor
        One gradient for each position.
    """
    columns, size = inputs.shape[1], max(1, chunk // len(inputs))
    parts = [(inputs[:, part % columns] * deltas[:, part // columns]).sum(0) for part in torch.split(positions, size)]
    return torch.cat(parts) if parts else inputs.new_zeros(0)


def exchange(
    active: np.ndarray, magnitudes: np.ndarray, candidates: np.ndarray, gradients: np.ndarray, count: int
) -> np.ndarray:
    """Drop the active weights of smallest magnitude, take in the candidates of largest gradient, as many.

    Parameters
    ----------
    active : ndarray of int
        Positions.
    magnitudes : ndarray of float
        Of the active weights.
    candidates : ndarray of int
        Positions, none of them active.
    gradients : ndarray of float
        Of the candidates, absolute.
    count : int
        At most the number of either.

    Returns
    -------
    ndarray of int
        The new positions, ascending. Of equal weights those that come first go.
    """
    dropped = np.argsort(magnitudes, kind="stable")[:count]
    grown = np.argsort(-gradients, kind="stable")[:count]
    return np.sort(np.concatenate([np.delete(active, dropped), candidates[grown]]))
