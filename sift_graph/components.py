"""Connected components of a packed bipartite graph: a quick yes, or union-find over the edges."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from sift_graph.bits import popcount

__all__ = ["join_components"]


@numba.njit(cache=True)
def _reached_in_few_rounds(bits: np.ndarray) -> bool:
    """Whether breadth-first search from the first row with an edge reaches all others within eight rounds."""
    rows, words = bits.shape
    seen = np.zeros(words, np.uint64)
    waiting = np.empty(rows, np.int64)
    count = 0
    for r in range(rows):
        for k in range(words):
            if bits[r, k]:
                waiting[count] = r
                count += 1
                break
    if count == 0:
        return True
    for k in range(words):
        seen[k] = bits[waiting[0], k]
    for _ in range(8):
        kept = 0
        fresh = np.zeros(words, np.uint64)
        for q in range(count):
            r = waiting[q]
            meets = False
            for k in range(words):
                if bits[r, k] & seen[k]:
                    meets = True
                    break
            if meets:
                for k in range(words):
                    fresh[k] |= bits[r, k]
            else:
                waiting[kept] = r
                kept += 1
        if kept == 0:
            return True
        if kept == count:
            return False
        count = kept
        for k in range(words):
            seen[k] |= fresh[k]
    return False


@numba.njit(cache=True)
def _root(parent: np.ndarray, v: Any) -> Any:
    while parent[v] != v:
        parent[v] = parent[parent[v]]
        v = parent[v]
    return v


@numba.njit(cache=True)
def _unite(bits: np.ndarray, columns: int, parent: np.ndarray) -> None:
    """Union-find over the set bits; rows are vertices columns, columns + 1, ..."""
    for r in range(bits.shape[0]):
        root = _root(parent, columns + r)
        for k in range(bits.shape[1]):
            word = bits[r, k]
            while word:
                lowest = word & (~word + np.uint64(1))
                other = _root(parent, 64 * k + np.int64(popcount(lowest - np.uint64(1))))
                if other != root:
                    if other < root:
                        parent[root] = other
                        root = other
                    else:
                        parent[other] = root
                word ^= lowest


def join_components(bits: np.ndarray, columns: int) -> np.ndarray | None:
    """Find the connected components of the bipartite graph of a packed matrix.

    Parameters
    ----------
    bits : ndarray of uint64, shape (rows, words)
    columns : int

    Returns
    -------
    ndarray of int64, shape (columns + rows,), or None
        For each column, then each row, the smallest vertex of its component; None if all vertices that have an edge
        are in one component, which a dense layer shows in two rounds of breadth-first search.
    """
    if _reached_in_few_rounds(bits):
        return None
    parent = np.arange(columns + bits.shape[0])
    _unite(bits, columns, parent)
    while True:
        grand = parent[parent]
        if np.array_equal(grand, parent):
            return parent
        parent = grand
