"""The chain behind degree-preserving rewiring: curveball trades between rows of packed bits, and between columns.

In a trade two rows put the columns that only one of them has into a common heap and draw their shares from it at
random: both keep their degrees, and every column keeps its own. A round pairs all rows at random and lets each pair
trade (global curveball). Each trade is symmetric, pairs of a round share no row, and any two matrices with equal
degrees are linked by trades, so the chain forgets where it began and ends in the uniform distribution.

Rows alone would do, but slowly where one row has most columns and the others a few: its many entries find no partner.
So rounds of rows and of columns take turns.

References
----------
.. [1] G. Strona et al., "A fast and unbiased procedure to randomize ecological binary matrices with fixed row and
   column totals", Nature Communications 5 (2014) 4114.
.. [2] C. Carstens, "Proof of uniform sampling of binary matrices with fixed row sums and column sums for the fast
   Curveball algorithm", Physical Review E 91 (2015) 042812.
.. [3] C. Carstens, M. Hamann, U. Meyer, M. Penschuck, H. Tran, D. Wagner, "Parallel and I/O-efficient randomisation of
   massive networks using global curveball trades", ESA 2018.
"""

from __future__ import annotations

import numba
import numpy as np

from sift_graph.bits import popcount, transpose_bits
from sift_graph.nulls.choose import choose_bits, choose_few, shuffle

__all__ = ["ROUNDS", "is_rigid", "trade_blocks", "trade_rows", "trade_sides"]

ROUNDS = 4  # of one side before the other's turn: a transposition costs as much as one of them


@numba.njit(cache=True)
def trade_rows(bits: np.ndarray, columns: int, rounds: int, state: np.ndarray) -> None:
    """Let the rows of a packed matrix trade, in place.

    Parameters
    ----------
    bits : ndarray of uint64, shape (rows, words)
    columns : int
        Columns that exist; the bits beyond them are 0.
    rounds : int
        In each, all rows are paired at random; of an odd number one sits out.
    state : ndarray of uint64, shape (4,)
        From :func:`sift_graph.nulls.choose.random_state`.
    """
    words = (columns + 63) // 64
    order = np.arange(bits.shape[0])
    heap, share = np.empty(words, np.uint64), np.empty(words, np.uint64)
    for _ in range(rounds):
        shuffle(order, state)
        for pair in range(order.size // 2):
            first, second = bits[order[2 * pair]], bits[order[2 * pair + 1]]
            own, other = np.int64(0), np.int64(0)
            for k in range(words):
                heap[k] = first[k] ^ second[k]
                mine = np.int64(popcount(heap[k] & first[k]))
                own += mine
                other += np.int64(popcount(heap[k])) - mine
            if own == 0 or other == 0:
                continue
            choose_bits(heap, own + other, own, share, state)  # type: ignore[arg-type]
            for k in range(words):
                common = first[k] & second[k]
                first[k] = common | share[k]
                second[k] = common | (heap[k] ^ share[k])


@numba.njit(cache=True)
def trade_sides(bits: np.ndarray, columns: int, cycles: int, state: np.ndarray, backwards: bool) -> np.ndarray:
    """Rewire a packed matrix: in each cycle :data:`ROUNDS` of trades between rows, then as many between columns.

    Parameters
    ----------
    bits : ndarray of uint64, shape (rows, words)
        Left as it is.
    columns : int
    cycles : int
    state : ndarray of uint64, shape (4,)
    backwards : bool
        Columns first: the chain run back in time, because trades on either side are symmetric.

    Returns
    -------
    ndarray of uint64, shape (rows, words)
    """
    rows = bits.shape[0]
    found = bits.copy()
    for _ in range(cycles):
        if not backwards:
            trade_rows(found, columns, ROUNDS, state)
        turned = transpose_bits(found, columns)
        trade_rows(turned, rows, ROUNDS, state)
        found = transpose_bits(turned, rows)
        if backwards:
            trade_rows(found, columns, ROUNDS, state)
    return found


@numba.njit(cache=True)
def trade_blocks(blocks: np.ndarray, rounds: int, state: np.ndarray) -> None:
    """Let the rows within each of many small matrices trade, in place.

    Parameters
    ----------
    blocks : ndarray of uint64, shape (blocks, rows)
        A word a row.
    rounds : int
    state : ndarray of uint64, shape (4,)
    """
    order = np.arange(blocks.shape[1])
    for b in range(blocks.shape[0]):
        block = blocks[b]
        for _ in range(rounds):
            shuffle(order, state)
            for pair in range(order.size // 2):
                i, j = order[2 * pair], order[2 * pair + 1]
                heap = block[i] ^ block[j]
                share = choose_few(heap, np.int64(popcount(heap & block[i])), state)
                common = block[i] & block[j]
                block[i] = common | share
                block[j] = common | (heap ^ share)


def is_rigid(bits: np.ndarray) -> bool:
    """Whether no other matrix has the same degrees: its rows, by degree, contain one another."""
    degrees = np.bitwise_count(bits).sum(axis=1, dtype=np.int64)
    ordered = bits[np.argsort(degrees, kind="stable")]
    return not np.any(ordered[:-1] & ~ordered[1:])
