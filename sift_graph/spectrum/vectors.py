r"""Singular vectors of scaled and of signed biadjacencies, and the crossings that turn other spectra into them.

Several spectra of a bipartite graph are nonlinear questions about one matrix,
:math:`K(t) = F_R(t)^{-1/2} A F_L(t)^{-1/2}` with F diagonal: an eigenvector of the Laplacian, or of the
non-backtracking operator, is by elimination of one side a singular vector of K(t) to the singular value 1, and the
number of singular values above 1 counts the eigenvalues beyond t (Sylvester's law of inertia). So the k-th eigenvalue
is the t at which :math:`\sigma_k(K(t)) = 1`, which Newton's method finds from
:math:`d \log\sigma / dt = -\tfrac12 (\sum_r u_r^2 f_r'/f_r + \sum_l v_l^2 f_l'/f_l)`. Nothing larger than the smaller
side is ever formed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sift_graph.adjacency import Adjacency
from sift_graph.errors import SpectrumError
from sift_graph.spectrum.kernels import sparse_dots, sparse_step

__all__ = ["Pairs", "Scaling", "crossing", "leading_pairs"]

DENSE_SIDE = 96
EIGEN_SIDE = 4_096  # up to here several components, whose values may coincide, are decomposed whole
STEPS = 60

NOTHING = np.empty(0)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Leading singular values, descending, and their vectors.

    Attributes
    ----------
    sigma : ndarray of float64, shape (k,)
    right : ndarray of float64, shape (n_right, k)
    left : ndarray of float64, shape (n_left, k)
    """

    sigma: np.ndarray
    right: np.ndarray
    left: np.ndarray


def leading_pairs(
    lists: Adjacency,
    k: int,
    *,
    values: np.ndarray | None = None,
    right_scale: np.ndarray | None = None,
    left_scale: np.ndarray | None = None,
    start: np.ndarray | None = None,
    tol: float = 1e-7,
) -> Pairs:
    """Compute the `k` leading singular values and vectors of a scaled biadjacency.

    Parameters
    ----------
    lists : Adjacency
    k : int
    values : ndarray of float64, shape (edges,), optional
        Entries, of either sign; ones by default.
    right_scale, left_scale : ndarray of float64, optional
        A factor for each vertex.
    start : ndarray of float64, optional
        A vector of the smaller side that is near what is sought.
    tol : float
        Relative accuracy of the vectors; the singular values are twice as many digits accurate.

    Returns
    -------
    Pairs
        Zeros where the matrix has fewer than `k` values.

    Raises
    ------
    SpectrumError
        If the iteration does not converge.
    """
    turned = lists.n_right > lists.n_left
    near_scale, far_scale = (left_scale, right_scale) if turned else (right_scale, left_scale)
    n, m = (lists.n_left, lists.n_right) if turned else (lists.n_right, lists.n_left)
    if n <= DENSE_SIDE or n <= k + 2:
        u, sigma, vt = np.linalg.svd(_dense(lists, values, near_scale, far_scale, turned), full_matrices=False)
        sigma, near, far = sigma[:k], u[:, :k], vt[:k].T
    elif lists.components[0] > 1 and n <= EIGEN_SIDE:
        matrix = _dense(lists, values, near_scale, far_scale, turned)
        eigenvalues, vectors = np.linalg.eigh(matrix @ matrix.T)
        sigma, near = np.sqrt(np.maximum(eigenvalues[::-1][:k], 0.0)), vectors[:, ::-1][:, :k]
        far = matrix.T @ near / np.where(sigma > 0, sigma, 1.0)
    else:
        starts, index, entries = _columns(lists, values, turned)
        coefficients = NOTHING if far_scale is None else np.square(far_scale)

        def product(x: np.ndarray) -> np.ndarray:
            out = np.empty(n)
            scaled = np.ascontiguousarray(x) if near_scale is None else x * near_scale
            sparse_step(starts, index, entries, coefficients, scaled, out)
            return out if near_scale is None else out * near_scale

        first = np.sqrt(np.bincount(lists.left if turned else lists.right, minlength=n)) if start is None else start
        sigma, near = _iterated(product, n, k, first, tol)
        products = np.empty((k, m))
        vectors = near.T if near_scale is None else near.T * near_scale
        sparse_dots(starts, index, entries, np.ascontiguousarray(vectors), products)
        far = products.T.copy()
        far *= 1 / np.where(sigma > 0, sigma, 1.0) if far_scale is None else far_scale[:, None] / sigma
    if sigma.size < k:
        fill = k - sigma.size
        sigma = np.append(sigma, np.zeros(fill))
        near, far = (np.hstack([side, np.zeros((len(side), fill))]) for side in (near, far))
    return Pairs(sigma, far, near) if turned else Pairs(sigma, near, far)


def _dense(
    lists: Adjacency,
    values: np.ndarray | None,
    near_scale: np.ndarray | None,
    far_scale: np.ndarray | None,
    turned: bool,
) -> np.ndarray:
    """Unpack the scaled matrix, its smaller side as rows."""
    near, far = (lists.left, lists.right) if turned else (lists.right, lists.left)
    shape = (lists.n_left, lists.n_right) if turned else (lists.n_right, lists.n_left)
    matrix = np.zeros(shape)
    matrix[near, far] = 1.0 if values is None else values
    if near_scale is not None:
        matrix *= near_scale[:, None]
    if far_scale is not None:
        matrix *= far_scale
    return matrix


def _columns(lists: Adjacency, values: np.ndarray | None, turned: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """List the edges of each vertex of the larger side, with their entries."""
    starts, index, edge = (lists.row_starts, lists.left, None) if turned else lists.columns
    n = lists.n_left if turned else lists.n_right
    if n <= 1 << 16:  # half the memory to read
        index = index.astype(np.uint16)
    if values is None:
        return starts, index, NOTHING
    return starts, index, values if edge is None else values[edge]


def _iterated(
    product: Callable[[np.ndarray], np.ndarray], n: int, k: int, start: np.ndarray, tol: float
) -> tuple[np.ndarray, np.ndarray]:
    """Leading singular values and vectors from products with the Gram matrix."""
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    first = start + 1e-3 * spread(n) * np.abs(start).max()
    try:
        eigenvalues, vectors = eigsh(LinearOperator((n, n), matvec=product, dtype=np.float64), k=k, v0=first, tol=tol)
    except ArpackError as error:
        raise SpectrumError(f"singular vectors of a side of {n} vertices: {error}") from error
    order = np.argsort(-eigenvalues)
    return np.sqrt(np.maximum(eigenvalues[order], 0.0)), vectors[:, order]


def spread(n: int) -> np.ndarray:
    """Draw fixed pseudo-random numbers in [-1, 1), so that no eigenvector is orthogonal to a start vector."""
    return np.random.default_rng(20240305).uniform(-1, 1, n)


@dataclass(frozen=True, eq=False)
class Scaling:
    """The diagonals F and their derivatives, as functions of t: right vertices, then left ones."""

    diagonal: Callable[[float], tuple[np.ndarray, np.ndarray]]
    slope: Callable[[float], tuple[np.ndarray, np.ndarray]]


def crossing(
    lists: Adjacency,
    k: int,
    scaling: Scaling,
    low: float,
    high: float,
    *,
    values: np.ndarray | None = None,
    first: float | None = None,
    tol: float = 1e-10,
) -> float:
    """Find the t between `low` and `high` at which the k-th singular value of K(t) is 1.

    Parameters
    ----------
    lists : Adjacency
        Without isolated vertices among those whose diagonal is not positive.
    k : int
    scaling : Scaling
        Positive diagonals for ``low < t < high``.
    low, high : float
        The value is monotone between them, and 1 somewhere.
    values : ndarray of float64, optional
        Entries; ones by default.
    first : float, optional
        Where to begin.
    tol : float
        Relative accuracy of t.

    Returns
    -------
    float

    Raises
    ------
    SpectrumError
        If it is not found within some 60 steps.
    """
    t = 0.5 * (low + high) if first is None else first
    rising, rough = False, True
    bottom, top = low, high
    start = None
    for _ in range(STEPS):
        of_right, of_left = scaling.diagonal(t)
        pairs = leading_pairs(
            lists,
            k,
            values=values,
            right_scale=positive_root(of_right),
            left_scale=positive_root(of_left),
            start=start,
            tol=1e-4 if rough else 1e-7,
        )
        sigma = float(pairs.sigma[k - 1])
        small = pairs.left if lists.n_right > lists.n_left else pairs.right
        start = small.sum(axis=1)
        if sigma <= 0:
            raise SpectrumError(f"value {k} of a matrix of smaller rank was asked to be 1")
        right_slope, left_slope = scaling.slope(t)
        u, v = np.square(pairs.right[:, k - 1]), np.square(pairs.left[:, k - 1])
        slope = -0.5 * float(u @ ratio(right_slope, of_right) + v @ ratio(left_slope, of_left))
        rising = slope > 0
        if (sigma > 1) == rising:
            top = t
        else:
            bottom = t
        # near a pole of F^-1 the value grows without limit, and the inverse of its square is nearly straight there
        following = t - (sigma * sigma - 1) / (2 * slope) if slope else math.nan
        moved = abs(following - t)
        if moved <= tol * abs(t) or top - bottom <= tol * abs(top):
            return following
        rough = moved > 1e-3 * abs(t)
        t = following if bottom < following < top else 0.5 * (bottom + top)
    raise SpectrumError(f"no crossing was found between {low} and {high} in {STEPS} steps")


def positive_root(diagonal: np.ndarray) -> np.ndarray:
    """One over the root of a diagonal; 0 for a vertex without an edge, whose entry is not positive."""
    return np.where(diagonal > 0, 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0)), 0.0)


def ratio(slope: np.ndarray, diagonal: np.ndarray) -> np.ndarray:
    """Slope over diagonal, 0 where that is not positive."""
    return np.where(diagonal > 0, slope / np.where(diagonal > 0, diagonal, 1.0), 0.0)
