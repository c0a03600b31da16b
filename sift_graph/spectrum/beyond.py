"""Spectra beyond the biadjacency's own: the combinatorial Laplacian, and the non-backtracking operator.

Both by elimination of one side; see :mod:`sift_graph.spectrum.vectors`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sift_graph.adjacency import Adjacency
from sift_graph.spectrum.vectors import Scaling, crossing, leading_pairs, positive_root

LAPLACIAN_SIDE = 800  # vertices up to which the whole Laplacian is decomposed within half a second

__all__ = ["Backtracking", "LaplacianEnds", "laplacian_ends", "nonbacktracking", "nonbacktracking_moduli"]


@dataclass(frozen=True)
class LaplacianEnds:
    """Second smallest and largest eigenvalue of the combinatorial Laplacian, isolated vertices left out."""

    second: float
    largest: float


def strengths(lists: Adjacency, values: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum the entries at each right and each left vertex."""
    return (
        np.bincount(lists.right, values, minlength=lists.n_right).astype(np.float64),
        np.bincount(lists.left, values, minlength=lists.n_left).astype(np.float64),
    )


def laplacian_ends(lists: Adjacency, values: np.ndarray | None = None) -> LaplacianEnds:
    r"""Compute both ends of the spectrum of D - A.

    For :math:`\lambda` above every diagonal entry, or below each, one side of :math:`(D - A)x = \lambda x` can be
    eliminated: :math:`\lambda` is an eigenvalue exactly if 1 is a singular value of the biadjacency scaled by
    :math:`|D - \lambda|^{-1/2}` on both sides. The largest eigenvalue lies above every entry. The second smallest lies
    below, or between the smallest entry and its bound :math:`\frac{n}{n-1} \min D`: there it is that entry of an
    unweighted graph, and of a weighted one taken from the dense matrix, or as the bound, off by one part in n at most.

    Parameters
    ----------
    lists : Adjacency
        With an edge.
    values : ndarray of float64, shape (edges,), optional
        Positive weights; ones by default.

    Returns
    -------
    LaplacianEnds
        ``second`` is 0.0 for a disconnected graph.
    """
    of_right, of_left = strengths(lists, values)
    entries = np.concatenate([of_right[of_right > 0], of_left[of_left > 0]])
    heaviest, lightest, n = float(entries.max()), float(entries.min()), entries.size

    def above(t: float) -> tuple[np.ndarray, np.ndarray]:
        return np.where(of_right > 0, t - of_right, 0.0), np.where(of_left > 0, t - of_left, 0.0)

    def below(t: float) -> tuple[np.ndarray, np.ndarray]:
        return np.where(of_right > 0, of_right - t, 0.0), np.where(of_left > 0, of_left - t, 0.0)

    def slope(sign: float) -> tuple[np.ndarray, np.ndarray]:
        return np.where(of_right > 0, sign, 0.0), np.where(of_left > 0, sign, 0.0)

    # Anderson and Morley: no eigenvalue exceeds the largest sum of the two ends of an edge
    most = float((of_right[lists.right] + of_left[lists.left]).max()) * (1 + 1e-9)
    first = min(heaviest * (1 + 1e-3), 0.5 * (heaviest + most))
    largest = crossing(lists, 1, Scaling(above, lambda t: slope(1.0)), heaviest, most, values=values, first=first)
    if lists.components[0] > 1:
        return LaplacianEnds(0.0, largest)
    edge = lightest * (1 - 1e-9)
    scale_right, scale_left = (positive_root(side) for side in below(edge))
    pairs = leading_pairs(lists, 2, values=values, right_scale=scale_right, left_scale=scale_left)
    if pairs.sigma[1] > 1:
        scaling = Scaling(below, lambda t: slope(-1.0))
        return LaplacianEnds(
            crossing(lists, 2, scaling, 0.0, edge, values=values, first=(1 - 1e-3) * lightest), largest
        )
    return LaplacianEnds(beyond_lightest(lists, values, lightest, n), largest)


def beyond_lightest(lists: Adjacency, values: np.ndarray | None, lightest: float, n: int) -> float:
    """Second smallest eigenvalue where none but 0 lies below the smallest diagonal entry."""
    if values is None and n > 2:
        return lightest  # Fiedler: at most the connectivity, hence the smallest degree, unless the graph is complete
    if n > LAPLACIAN_SIDE:  # between that entry and n / (n - 1) times it
        return lightest * n / (n - 1)
    matrix = np.zeros((lists.n_right, lists.n_left))
    matrix[lists.right, lists.left] = 1.0 if values is None else values
    matrix = matrix[matrix.any(axis=1)][:, matrix.any(axis=0)]
    laplacian = np.diag(np.concatenate([matrix.sum(axis=1), matrix.sum(axis=0)]))
    laplacian[: len(matrix), len(matrix) :] = -matrix
    laplacian[len(matrix) :, : len(matrix)] = -matrix.T
    return float(np.linalg.eigvalsh(laplacian)[1])


@dataclass(frozen=True)
class Backtracking:
    """Largest eigenvalue of the non-backtracking operator, and the largest real one after it."""

    radius: float
    second: float


def nonbacktracking(lists: Adjacency) -> Backtracking:
    r"""Compute the two largest positive eigenvalues of the non-backtracking operator.

    A positive u beyond 1 is an eigenvalue exactly if :math:`(u^2 - 1) I - u A + D` is singular (Ihara and Bass), that
    is, if 1 is a singular value of the biadjacency scaled by :math:`((D + u^2 - 1)/u)^{-1/2}` on both sides.

    Parameters
    ----------
    lists : Adjacency
        Minimum degree 2 among vertices that have an edge, and a component that is more than a cycle.

    Returns
    -------
    Backtracking
        ``second`` is :math:`\sqrt{\lambda_1}` where no other real eigenvalue lies above it: on a biregular graph the
        complex ones are exactly there.
    """
    of_right, of_left = lists.right_degree.astype(np.float64), lists.left_degree.astype(np.float64)

    def diagonal(u: float) -> tuple[np.ndarray, np.ndarray]:
        return tuple(np.where(d > 0, (d - 1) / u + u, 0.0) for d in (of_right, of_left))  # type: ignore[return-value]

    def slope(u: float) -> tuple[np.ndarray, np.ndarray]:
        return tuple(np.where(d > 0, 1 - (d - 1) / u**2, 0.0) for d in (of_right, of_left))  # type: ignore[return-value]

    scaling = Scaling(diagonal, slope)
    limit = math.sqrt((of_right.max() - 1) * (of_left.max() - 1))
    inner = math.sqrt((of_right[of_right > 0].min() - 1) * (of_left[of_left > 0].min() - 1))
    if limit - inner <= 1e-12 * limit:
        radius = limit
    else:
        # from above: u = 1 is a crossing too, which is not the one sought
        radius = crossing(lists, 1, scaling, max(inner, 1.0) * (1 - 1e-9), limit * (1 + 1e-9), first=limit)
    edge = math.sqrt(radius)
    scale_right, scale_left = (positive_root(side) for side in diagonal(edge))
    pairs = leading_pairs(lists, 2, right_scale=scale_right, left_scale=scale_left)
    if pairs.sigma[1] <= 1 + 1e-9:
        return Backtracking(radius, edge)
    return Backtracking(radius, crossing(lists, 2, scaling, edge, radius * (1 + 1e-9)))


def nonbacktracking_moduli(lists: Adjacency) -> np.ndarray:
    """Compute the moduli of all eigenvalues of the non-backtracking operator that differ from 1 in modulus.

    On a bipartite graph they come in pairs u, -u; the squares are the eigenvalues of a real matrix over the vertices,
    two steps of the Ihara-Bass companion matrix restricted to one of the halves that it exchanges.

    Parameters
    ----------
    lists : Adjacency
        As for :func:`nonbacktracking`; small, for the matrix is dense.

    Returns
    -------
    ndarray of float64, shape (n_left + n_right,)
        Descending, one of each pair, for the vertices that have an edge.
    """
    matrix = np.zeros((lists.n_right, lists.n_left))
    matrix[lists.right, lists.left] = 1.0
    rows, columns = lists.right_degree > 0, lists.left_degree > 0
    matrix = matrix[rows][:, columns]
    of_right, of_left = lists.right_degree[rows] - 1.0, lists.left_degree[columns] - 1.0
    half = np.hstack([matrix.T, -np.diag(of_left)])  # the new left part from the right part and the last left part
    step = np.vstack([matrix @ half, half])
    step[: rows.sum(), : rows.sum()] -= np.diag(of_right)
    moduli: np.ndarray = np.sqrt(np.abs(np.linalg.eigvals(step)))
    return -np.sort(-moduli)
