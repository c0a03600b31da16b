"""What can be read off a graph by walking along its edges: cores, cuts, cycles and neighbourhoods, each in one pass.

All functions take the lists of :class:`sift_graph.adjacency.Adjacency` in one numbering of the vertices.
"""

from __future__ import annotations

from typing import Protocol

import numba
import numpy as np

from sift_graph.adjacency import Adjacency
from sift_graph.bits import popcount

__all__ = ["core_numbers", "cuts", "girth", "two_hop_counts"]


@numba.njit(cache=True)
def _core_numbers(starts: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Peel vertices in the order of their remaining degree, which buckets hold sorted."""
    n = starts.size - 1
    degree = np.diff(starts)
    largest = degree.max() if n else 0
    bucket = np.zeros(largest + 2, np.int64)
    for v in range(n):
        bucket[degree[v] + 1] += 1
    for d in range(1, largest + 2):
        bucket[d] += bucket[d - 1]
    order, place, fill = np.empty(n, np.int64), np.empty(n, np.int64), bucket.copy()
    for v in range(n):
        place[v] = fill[degree[v]]
        order[place[v]] = v
        fill[degree[v]] += 1
    for i in range(n):
        v = order[i]
        for k in range(starts[v], starts[v + 1]):
            u = index[k]
            if degree[u] > degree[v]:
                d = degree[u]
                first = bucket[d]
                w = order[first]
                if u != w:  # u goes to the front of its bucket, which then begins one place later
                    order[first], order[place[u]] = u, w
                    place[w], place[u] = place[u], first
                bucket[d] += 1
                degree[u] -= 1
    return degree


class Lists(Protocol):
    """What has lists of neighbours, each edge in both directions: an :class:`Adjacency`, or any other graph."""

    @property
    def lists(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the list of each vertex begins, and the lists."""


def core_numbers(lists: Lists) -> np.ndarray:
    """Core number of each vertex: the largest k for which it is in a subgraph of minimum degree k.

    Parameters
    ----------
    lists : Lists

    Returns
    -------
    ndarray of int64, shape (vertices,)
        0 for isolated vertices.
    """
    numbers: np.ndarray = _core_numbers(*lists.lists)
    return numbers


@numba.njit(cache=True)
def _cuts(starts: np.ndarray, index: np.ndarray) -> tuple[int, int]:
    """Depth-first search without recursion: `low` is the earliest vertex that a subtree reaches past its root."""
    n = starts.size - 1
    seen, low, parent = np.full(n, -1, np.int64), np.empty(n, np.int64), np.full(n, -1, np.int64)
    following, stack = starts[:-1].copy(), np.empty(n, np.int64)
    cut = np.zeros(n, np.bool_)
    clock = bridges = 0
    for root in range(n):
        if seen[root] >= 0 or starts[root] == starts[root + 1]:
            continue
        stack[0] = root
        depth, children = 1, 0
        seen[root] = low[root] = clock
        clock += 1
        while depth:
            v = stack[depth - 1]
            if following[v] < starts[v + 1]:
                u = index[following[v]]
                following[v] += 1
                if seen[u] < 0:
                    parent[u] = v
                    seen[u] = low[u] = clock
                    clock += 1
                    stack[depth] = u
                    depth += 1
                elif u != parent[v]:  # a simple graph: the edge to the parent is met once
                    low[v] = min(low[v], seen[u])
            else:
                depth -= 1
                p = parent[v]
                if p >= 0:
                    low[p] = min(low[p], low[v])
                    if low[v] > seen[p]:
                        bridges += 1
                    if p == root:
                        children += 1
                    elif low[v] >= seen[p]:
                        cut[p] = True
        if children > 1:
            cut[root] = True
    return bridges, cut.sum()


def cuts(lists: Lists) -> tuple[int, int]:
    """Count what disconnects a graph when it is removed.

    Parameters
    ----------
    lists : Lists

    Returns
    -------
    tuple of int and int
        Bridges (edges), and articulation points (vertices).
    """
    bridges, points = _cuts(*lists.lists)
    return int(bridges), int(points)


@numba.njit(cache=True)
def _girth(starts: np.ndarray, index: np.ndarray, roots: int) -> int:
    """Shortest cycle: a breadth-first search from each left vertex, as deep as a shorter one could still be found."""
    n = starts.size - 1
    best = 2 * n + 2
    distance, parent, queue = np.full(n, -1, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    for root in range(roots):
        if starts[root + 1] - starts[root] < 2:
            continue
        head, tail = 0, 1
        queue[0], distance[root], parent[root] = root, 0, -1
        while head < tail:
            v = queue[head]
            head += 1
            if 2 * distance[v] + 2 > best:
                break
            for k in range(starts[v], starts[v + 1]):
                u = index[k]
                if distance[u] < 0:
                    distance[u], parent[u] = distance[v] + 1, v
                    queue[tail] = u
                    tail += 1
                elif u != parent[v]:
                    best = min(best, distance[u] + distance[v] + 1)
        for i in range(tail):
            distance[queue[i]] = -1
        if best == 4:
            break
    return best if best <= n else 0


def girth(lists: Adjacency) -> int:
    """Length of the shortest cycle.

    Parameters
    ----------
    lists : Adjacency

    Returns
    -------
    int
        Even; 0 if there is no cycle.
    """
    return int(_girth(*lists.lists, lists.n_left))


@numba.njit(cache=True)
def _union_counts(bits: np.ndarray, starts: np.ndarray, index: np.ndarray, full: int) -> np.ndarray:
    """For each list of rows, count the columns that any of them has a bit in; stop where that is all of them."""
    counts = np.zeros(starts.size - 1, np.int64)
    union = np.empty(bits.shape[1], np.uint64)
    for v in range(starts.size - 1):
        union[:] = 0
        for k in range(starts[v], starts[v + 1]):
            row = bits[index[k]]
            for word in range(union.size):
                union[word] |= row[word]
            if (k - starts[v]) % 8 == 7 or k == starts[v + 1] - 1:
                count = 0
                for word in range(union.size):
                    count += popcount(union[word])
                counts[v] = count
                if count == full:
                    break
    return counts


def two_hop_counts(bits: np.ndarray, starts: np.ndarray, index: np.ndarray, active: int) -> np.ndarray:
    """Count, for each vertex of one side, the vertices of its own side that share a neighbour with it, itself included.

    Parameters
    ----------
    bits : ndarray of uint64, shape (others, words)
        Rows: the other side; columns: the side that is counted.
    starts, index : ndarray
        For each vertex its rows.
    active : int
        Columns with an edge, which is as far as a union can grow.

    Returns
    -------
    ndarray of int64
    """
    counts: np.ndarray = _union_counts(bits, starts, index, active)
    return counts
