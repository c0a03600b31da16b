"""Distances of masks up to the numbering of neurons: of one layer, and of two networks."""

from __future__ import annotations

from collections.abc import Mapping

import numba
import numpy as np

from sift_graph.bits import popcount
from sift_graph.encodings.layer import oriented
from sift_graph.errors import MaskError
from sift_graph.graph import BipartiteGraph
from sift_graph.masks import LayerMask

__all__ = ["matched_distance", "nnstd"]


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


def nnstd(a: Mapping[str, LayerMask], b: Mapping[str, LayerMask], *, as_published: bool = False) -> dict[str, float]:
    """Compare the masks of two networks, or of two moments of one, up to the numbering of neurons.

    Parameters
    ----------
    a, b : mapping of str to LayerMask
        By layer, in network order: ``run.reader.load_snapshot(step).layers`` of two runs of one model, whatever their
        seeds.
    as_published : bool
        As the code of the source does it: the assignment of outputs is the best one, not the greedy one; it is carried
        on to the inputs of the next layer where the numbers fit; and two outputs without an edge count as equal ones.

    Returns
    -------
    dict of str to float
        The distance of each layer, from 0 to 1. The distance of the networks is their mean.

    Raises
    ------
    MaskError
        If the layers or their shapes differ.

    References
    ----------
    .. [1] S. Liu et al., "Topological insights into sparse neural networks", ECML PKDD 2020.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> first, second = rng.random((8, 6)) < 0.4, rng.random((5, 8)) < 0.4
    >>> order = rng.permutation(8)  # the same network, its hidden neurons numbered anew
    >>> one = {"a": LayerMask.from_dense("a", first), "b": LayerMask.from_dense("b", second)}
    >>> two = {"a": LayerMask.from_dense("a", first[order]), "b": LayerMask.from_dense("b", second[:, order])}
    >>> nnstd(one, two, as_published=True)
    {'a': 0.0, 'b': 0.0}
    >>> nnstd(one, two)["b"] > 0  # nothing is carried on
    True
    """
    found: dict[str, float] = {}
    order: np.ndarray | None = None
    if list(a) != list(b):
        raise MaskError(f"expected the same layers in the same order, found {list(a)} and {list(b)}")
    for name, mask in a.items():
        other = b[name]
        if (mask.shape, mask.groups, mask.layout) != (other.shape, other.groups, other.layout):
            raise MaskError(
                f"layer {name!r}: expected one shape in both networks, found {mask.shape} and {other.shape}"
            )
        if as_published:
            found[name], order = assigned_distance(mask, other, order)
        else:
            found[name] = matched_distance(BipartiteGraph.from_mask(mask), BipartiteGraph.from_mask(other))
    return found


def assigned_distance(a: LayerMask, b: LayerMask, order: np.ndarray | None) -> tuple[float, np.ndarray]:
    """Distance under the best assignment, and which output of `b` each of `a` got; `order` says so of the inputs."""
    from scipy.optimize import linear_sum_assignment

    one, other = (oriented(mask)[0] for mask in (a, b))  # (out, in of a group, kernel positions)
    inputs = one.shape[1]
    if order is not None and a.groups == 1 and inputs % order.size == 0:
        spread = inputs // order.size  # a flattened image: so many inputs of each channel
        other = other[:, (order[:, None] * spread + np.arange(spread)).reshape(-1)]
    per_group = len(one) // a.groups
    columns = []
    total = 0.0
    for group in range(a.groups):
        rows = slice(group * per_group, (group + 1) * per_group)
        x, y = (part[rows].reshape(per_group, -1).astype(np.float64) for part in (one, other))
        both = x @ y.T
        either = x.sum(axis=1)[:, None] + y.sum(axis=1) - both
        distances = np.where(either > 0, 1 - both / np.maximum(either, 1), 0.0)
        pairs = linear_sum_assignment(distances)
        total += float(distances[pairs].sum())
        columns.append(pairs[1] + group * per_group)
    return total / len(one), np.concatenate(columns)
