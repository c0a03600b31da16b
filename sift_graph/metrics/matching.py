"""Distance of two masks of one layer up to the numbering of its outputs."""

from __future__ import annotations

import numba
import numpy as np

from sift_graph.bits import popcount
from sift_graph.graph import BipartiteGraph

__all__ = ["matched_distance"]


@numba.njit(cache=True)
def _jaccard_distances(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """Jaccard distance of each row of `a` from each row of `b`; 0 for two empty rows."""
    for i in range(a.shape[0]):
        for j in range(b.shape[0]):
            both = either = np.uint64(0)
            for k in range(a.shape[1]):
                both += popcount(a[i, k] & b[j, k])
                either += popcount(a[i, k] | b[j, k])
            out[i, j] = 1.0 - both / either if either else 0.0


@numba.njit(cache=True)
def _greedy(order: np.ndarray, distances: np.ndarray, empty_a: np.ndarray, empty_b: np.ndarray) -> tuple[float, int]:
    """Take the nearest pair that is still free, again and again; their distances' sum, and the pairs with an edge."""
    n = distances.shape[0]
    counted = 0
    free_a, free_b = np.ones(n, np.bool_), np.ones(n, np.bool_)
    total, left = 0.0, n
    for e in order:
        i, j = e // n, e % n
        if free_a[i] and free_b[j]:
            free_a[i] = free_b[j] = False
            total += distances[i, j]
            if not (empty_a[i] and empty_b[j]):
                counted += 1
            left -= 1
            if left == 0:
                break
    return total, counted


def matched_distance(a: BipartiteGraph, b: BipartiteGraph) -> float:
    """Match the outputs of two masks greedily, the nearest first, and average their distance.

    Parameters
    ----------
    a, b : BipartiteGraph
        Of one shape. The outputs of a group are matched with those of the same group.

    Returns
    -------
    float
        Mean over pairs with an edge of the Jaccard distance of their incoming edges: 0 if the masks are the same up to
        the numbering of the outputs, 1 if no two outputs share an input.

    References
    ----------
    .. [1] S. Liu et al., "Topological insights into sparse neural networks", ECML PKDD 2020.
    """
    per_group = a.n_right // a.groups
    total, counted = 0.0, 0
    for group in range(a.groups):
        rows = slice(group * per_group, (group + 1) * per_group)
        distances = np.empty((per_group, per_group))
        _jaccard_distances(a.bits[rows], b.bits[rows], distances)
        order = np.argsort(distances, axis=None, kind="stable")
        empty_a, empty_b = (graph.right_degree[rows] == 0 for graph in (a, b))
        found, pairs = _greedy(order, distances, empty_a, empty_b)
        total, counted = total + found, counted + pairs
    return total / counted if counted else 0.0
