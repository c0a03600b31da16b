"""Largest eigenvalues, by value, of any symmetric matrix that can be applied."""

from __future__ import annotations

from typing import Any

import numpy as np

from sift_graph.errors import SpectrumError
from sift_graph.spectrum.lanczos import lanczos, ritz_vectors

__all__ = ["largest_eigenvalues"]

TOLERANCE = 1e-10
DENSE_SIDE = 256
STEPS = 1000


def largest_eigenvalues(matrix: Any, count: int) -> np.ndarray:
    """Compute the `count` largest eigenvalues of a symmetric matrix, repeated ones counted.

    Parameters
    ----------
    matrix : scipy.sparse.csr_array of float64, shape (n, n)
        Entries of any sign.
    count : int

    Returns
    -------
    ndarray of float64, shape (min(count, n),)
        Descending. One after the other, each orthogonal to those before: so no copy of a repeated one is missed.

    Raises
    ------
    SpectrumError
        If an entry is not finite, or the iteration does not settle.
    """
    n = matrix.shape[0]
    if not np.isfinite(matrix.data).all():
        raise SpectrumError("the matrix has entries that are not finite; measure a step before training diverged")
    if n <= DENSE_SIDE:
        dense: np.ndarray = np.linalg.eigvalsh(matrix.toarray())[::-1][:count]
        return dense
    shift = float(abs(matrix).sum(axis=1).max())  # Gershgorin: then no eigenvalue is negative, as the iteration asks
    if shift == 0:
        return np.zeros(count)

    def apply(x: np.ndarray, y: np.ndarray) -> None:
        y[:] = matrix @ x + shift * x

    values: list[float] = []
    vectors = np.empty((0, n))
    generator = np.random.default_rng(20240308)
    for _ in range(count):
        basis, alpha, beta, theta, error = lanczos(
            apply,
            generator.uniform(0.5, 1.5, n) if not values else generator.standard_normal(n),
            count=1,
            tol=TOLERANCE,
            locked=vectors if len(vectors) else None,
            max_steps=STEPS,
        )
        if error > 1e3 * TOLERANCE:
            raise SpectrumError(f"eigenvalue {len(values) + 1} of a matrix of side {n} did not settle in {STEPS} steps")
        values.append(float(theta[0]) - shift)
        found = np.empty((1, n))
        ritz_vectors(basis, alpha, beta, len(basis), n, theta, found)
        vectors = np.concatenate([vectors, found / np.linalg.norm(found)])
    return np.sort(values)[::-1]
