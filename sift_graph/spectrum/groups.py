"""Top two values of many small row sets of one packed matrix, in one compiled loop.

For each set: exact Gram, Lanczos, Rayleigh-Ritz from below, Cholesky from above, as in
:mod:`sift_graph.spectrum.certificate` with q = 1 and u = 2^-53. What the factorisation refuses is handed back as NaN,
to be looked at by the slow path: so a missed eigenvalue is found, not reported.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from sift_graph.bits import popcount
from sift_graph.spectrum.kernels import SPEED, gram_of_bits, symmetric_times
from sift_graph.spectrum.lanczos import lanczos_dense, ritz_vectors

__all__ = ["GROUP_SIDE", "count_unions", "top_two_of_groups"]

GROUP_SIDE = 128  # beyond it LAPACK's blocked factorisation pays for the call


@numba.njit(cache=True)
def count_unions(bits: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Count the columns with a set bit in rows ``starts[g]`` to ``starts[g + 1]``, for each g."""
    words = bits.shape[1]
    counts = np.zeros(starts.size - 1, np.int64)
    union = np.empty(words, np.uint64)
    for g in range(starts.size - 1):
        union[:] = np.uint64(0)
        for r in range(starts[g], starts[g + 1]):
            for k in range(words):
                union[k] |= bits[r, k]
        total = np.uint64(0)
        for k in range(words):
            total += popcount(union[k])
        counts[g] = np.int64(total)
    return counts


@numba.njit(cache=True, fastmath=SPEED, error_model="numpy")
def _proven_above(
    gram: np.ndarray, n: int, vector: np.ndarray, value: float, shift: float, trace: float, work: np.ndarray
) -> Any:
    """Upper bound of the second eigenvalue by a row-wise Cholesky factorisation, infinity if it breaks off."""
    unit = 2.0**-53
    for i in range(n):
        c = value * vector[i]
        for j in range(i, n):
            work[i, j] = c * vector[j] - np.float64(gram[i, j])
        work[i, i] += shift
    for k in range(n):
        pivot = work[k, k]
        if not pivot > 0.0:
            return np.inf
        pivot = math.sqrt(pivot)
        scale = 1.0 / pivot
        work[k, k] = pivot
        for j in range(k + 1, n):
            work[k, j] *= scale
        for i in range(k + 1, n):
            c = work[k, i]
            for j in range(i, n):
                work[i, j] -= c * work[k, j]
    rows = np.zeros(n)
    for k in range(n):
        column = 0.0
        for i in range(k, n):
            column += abs(work[k, i])
        for i in range(k, n):
            rows[i] += abs(work[k, i]) * column
    norm = 0.0
    for i in range(n):
        norm += vector[i] * vector[i]
    gamma = (n + 2) * unit / (1 - (n + 2) * unit)  # one more for the multiplication by the reciprocal pivot
    formation = 6 * unit * (shift + trace + value * norm)
    return (shift + gamma * rows.max() * (1 + 2 * n * unit) + formation) * (1 + 1e-12)


@numba.njit(cache=True, fastmath=SPEED, error_model="numpy")
def top_two_of_groups(
    bits: np.ndarray, starts: np.ndarray, stops: np.ndarray, noise: np.ndarray, tol: float, out: np.ndarray
) -> None:
    """Write sigma_1, sigma_2 and the bounds of sigma_2 of each row set; NaN bounds where the proof failed.

    Sets have 2 to `GROUP_SIDE` rows, none of them empty.
    """
    side = 0
    for g in range(starts.size):
        side = max(side, stops[g] - starts[g])
    gram = np.empty((side, side), np.float32)
    work, basis = np.empty((side, side)), np.empty((side, side))
    alpha, beta, theta = np.empty(side), np.empty(side), np.zeros(2)
    vectors, images = np.empty((2, side)), np.empty((2, side))
    unit = 2.0**-53
    for g in range(starts.size):
        n = stops[g] - starts[g]
        gram_of_bits(bits[starts[g] : stops[g]], gram)
        trace, norm = 0.0, 0.0
        for i in range(n):
            trace += gram[i, i]
            basis[0, i] = math.sqrt(gram[i, i]) * (0.65 + 0.7 * noise[i])
            norm += basis[0, i] * basis[0, i]
        for i in range(n):
            basis[0, i] /= math.sqrt(norm)
        out[g, :] = np.nan
        k, _ = lanczos_dense(gram, n, 2, 0.25 * tol, 1, basis[:n, :n], alpha, beta, theta)
        if not ritz_vectors(basis, alpha, beta, k, n, theta, vectors):
            continue
        h00 = h01 = h11 = m00 = m01 = m11 = 0.0
        for j in range(2):
            symmetric_times(gram, n, vectors[j], images[j])
        for i in range(n):
            a, b = vectors[0, i], vectors[1, i]
            h00 += a * images[0, i]
            h01 += a * images[1, i]
            h11 += b * images[1, i]
            m00 += a * a
            m01 += a * b
            m11 += b * b
        middle, half = 0.5 * (h00 + h11), math.sqrt(0.25 * (h00 - h11) * (h00 - h11) + h01 * h01)
        first = middle + half
        second = max((h00 * h11 - h01 * h01) / first, 0.0)
        rounding = 2 * (n + 8) * unit
        defect = abs(m00 - 1) + 2 * abs(m01) + abs(m11 - 1) + 8 * rounding
        error = (2 * rounding + 64 * unit) * trace * (1 + defect)
        upper = _proven_above(
            gram, n, vectors[0, :n], first, second * (1 + 1.5 * tol) + 64 * (n + 8) * unit * trace, trace, work
        )
        out[g, 0] = math.sqrt(first)
        out[g, 1] = math.sqrt(second)
        if upper < np.inf and defect < 0.1:
            out[g, 2] = math.sqrt(max((second - error) / (1 + defect), 0.0) * (1 - 1e-12))
            out[g, 3] = math.sqrt(upper)
