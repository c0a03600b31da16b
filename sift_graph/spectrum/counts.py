"""What the exact integer Gram of a mask counts: butterflies, shared neighbours, rank."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from sift_graph.graph import BipartiteGraph
from sift_graph.spectrum.operators import integer_gram

__all__ = ["Wedges", "rank_of", "wedges"]


@dataclass(frozen=True, eq=False)
class Wedges:
    """Pairs of vertices of one side, by their common neighbours.

    Attributes
    ----------
    butterflies : int
        Cycles of four edges.
    meeting : ndarray of int64
        For each vertex of the side, the others with which it shares a neighbour.
    side : str
        ``"left"`` or ``"right"``: the one with fewer vertices, whose Gram was formed.
    """

    butterflies: int
    meeting: np.ndarray
    side: str


@numba.njit(cache=True)
def _count_pairs(gram: np.ndarray, meeting: np.ndarray) -> np.int64:
    """Sum c (c - 1) / 2 over pairs; count the pairs with c > 0 at each vertex."""
    total = np.int64(0)
    for i in range(gram.shape[0]):
        for j in range(i):
            common = np.int64(gram[i, j])
            if common > 0:
                total += common * (common - 1) // 2
                meeting[i] += 1
                meeting[j] += 1
    return total


def small_blocks(graph: BipartiteGraph) -> tuple[list[np.ndarray], str]:
    """Bits of each block, its smaller side as rows, and the name of that side."""
    left = graph.block_left < graph.n_right // graph.groups
    blocks = [graph.block(group) for group in range(graph.groups)]
    return [(block.transpose() if left else block).bits for block in blocks], "left" if left else "right"


def wedges(graph: BipartiteGraph) -> Wedges:
    """Count common neighbours of all pairs of the smaller side.

    Parameters
    ----------
    graph : BipartiteGraph

    Returns
    -------
    Wedges
    """
    total, meeting = 0, []
    blocks, side = small_blocks(graph)
    for bits in blocks:
        found = np.zeros(len(bits), dtype=np.int64)
        total += int(_count_pairs(integer_gram(bits), found))
        meeting.append(found)
    return Wedges(total, np.concatenate(meeting), side)


def rank_of(graph: BipartiteGraph) -> int:
    """Count the singular values that are not zero, by a pivoted Cholesky factorisation of the Gram.

    Parameters
    ----------
    graph : BipartiteGraph

    Returns
    -------
    int
        The Gram is exact; a pivot counts that is above what rounding makes of 0.
    """
    from scipy.linalg.lapack import dpstrf

    total = 0
    for bits in small_blocks(graph)[0]:
        active = bits[bits.any(axis=1)]
        if len(active) > 0:
            gram = integer_gram(active).astype(np.float64)
            largest = float(gram.diagonal().max())
            total += int(dpstrf(gram, tol=len(active) * 2.0**-50 * largest)[2])
    return total
