"""Top two values of many small row sets of one packed matrix, in one compiled loop.

For each set: exact Gram, Lanczos, Rayleigh-Ritz from below, Cholesky from above, as in
:mod:`sift_graph.spectrum.certificate` with q = 1 and u = 2^-53. What the factorisation refuses is handed back as NaN,
to be looked at by the slow path: so a missed eigenvalue is found, not reported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numba
import numpy as np

from sift_graph.bits import popcount
from sift_graph.spectrum.certificate import UNIT, upper_bound
from sift_graph.spectrum.gram import gram_of_bits
from sift_graph.spectrum.kernels import SPEED, symmetric_times
from sift_graph.spectrum.lanczos import MAX_STEPS, error_of_value, lanczos_dense, ritz_vectors, top_value

__all__ = ["GROUP_SIDE", "Workspace", "count_unions", "group_noise", "top_two_of_groups", "top_two_of_large_group"]

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
    diagonal = 0.0
    for i in range(n):  # slices, and loops from zero: else they are not compiled to vectors
        c = value * vector[i]
        target, row, rest = work[i, i:n], gram[i, i:n], vector[i:n]
        for j in range(n - i):
            target[j] = c * rest[j] - np.float64(row[j])
        target[0] += shift
        diagonal += abs(target[0])
    for k in range(n):
        line = work[k, k:n]
        pivot = line[0]
        if not pivot > 0.0:
            return np.inf
        pivot = math.sqrt(pivot)
        scale = 1.0 / pivot
        line[0] = pivot
        for j in range(1, n - k):
            line[j] *= scale
        for i in range(1, n - k):
            c = line[i]
            target, rest = work[k + i, k + i : n], line[i:]
            for j in range(n - k - i):
                target[j] -= c * rest[j]
    norm = 0.0
    for i in range(n):
        norm += vector[i] * vector[i]
    gamma = (n + 2) * unit / (1 - (n + 2) * unit)  # one more for the multiplication by the reciprocal pivot
    formation = 6 * unit * (shift + trace + value * norm)
    return (shift + gamma * diagonal * (1 + 1e-6) + formation) * (1 + 1e-12)


@numba.njit(cache=True, fastmath=SPEED, error_model="numpy")
def _settle(
    gram: np.ndarray,
    n: int,
    noise: np.ndarray,
    tol: float,
    confirm: int,
    basis: np.ndarray,
    small: np.ndarray,
    vectors: np.ndarray,
    out: np.ndarray,
) -> Any:
    """Write sigma_1, sigma_2 and the lower bound of sigma_2 of a Gram matrix to `out`, vectors to deflate to `vectors`.

    The iteration is in the type of `basis`, Rayleigh-Ritz in float64.

    Returns
    -------
    bool
        Whether sigma_2 has settled within `tol`; after float32, by its residual in float64.
    """
    unit = 2.0**-53
    trace, norm = 0.0, 0.0
    for i in range(n):
        entry = math.sqrt(np.float64(gram[i, i])) * (0.65 + 0.7 * noise[i])
        trace += gram[i, i]
        norm += entry * entry
    for i in range(n):
        basis[0, i] = math.sqrt(np.float64(gram[i, i]) / norm) * (0.65 + 0.7 * noise[i])
    alpha, beta, theta = small[0], small[1], small[2, :2]
    k, estimate = lanczos_dense(gram, n, 2, tol, confirm, basis, alpha, beta, theta)
    if not estimate < tol or not ritz_vectors(basis, alpha, beta, k, n, theta, vectors):
        return False
    images = np.empty((2, n))
    for j in range(2):
        symmetric_times(gram, n, vectors[j], images[j])
    h00 = h01 = h11 = m00 = m01 = m11 = 0.0
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
    out[0] = math.sqrt(first)
    out[1] = math.sqrt(second)
    out[2] = math.sqrt(max((second - error) / (1 + defect), 0.0) * (1 - 1e-12))
    if basis.itemsize == 4:
        turn = h01 / (first - h11)  # the second Ritz vector in these two: (-turn, 1), up to its norm
        residual = 0.0
        for i in range(n):
            r = images[1, i] - turn * images[0, i] - second * (vectors[1, i] - turn * vectors[0, i])
            residual += r * r
        third = top_value(alpha, beta, k, 3, 0.0, second, 1e-3 * second) if k > 2 else 0.0
        if not error_of_value(math.sqrt(residual), second, third) < tol or defect > 0.1 * tol:
            return False
    if h00 > 0:  # one more step of the power method, at no cost: what float32 left in the vector shrinks
        norm = 0.0
        for i in range(n):
            norm += images[0, i] * images[0, i]
        for i in range(n):
            vectors[0, i] = images[0, i] / math.sqrt(norm)
    return defect < 0.1


@numba.njit(cache=True)
def top_two_of_groups(
    bits: np.ndarray, starts: np.ndarray, stops: np.ndarray, noise: np.ndarray, tol: float, prove: bool, out: np.ndarray
) -> None:
    """Write sigma_1, sigma_2 and the bounds of sigma_2 of each row set; NaN bounds where the proof failed.

    Sets have 2 to `GROUP_SIDE` rows, none of them empty. Without `prove` the upper bound is NaN everywhere.
    """
    side = 0
    for g in range(starts.size):
        side = max(side, stops[g] - starts[g])
    gram, basis = np.empty((side, side), np.float32), np.empty((side, side))
    work, small, vectors = np.empty((side, side)), np.empty((3, max(side, 2))), np.empty((2, side))
    other = noise[::-1].copy()
    for g in range(starts.size):
        n = stops[g] - starts[g]
        rows = bits[starts[g] : stops[g]]
        out[g, 2] = out[g, 3] = np.nan
        gram_of_bits(rows, gram)
        trace = 0.0
        for i in range(n):
            trace += gram[i, i]
        near, confirm = (tol / 2, 1) if prove else (tol, 2)
        for start in (noise, other):  # a value that one start misses the other finds
            if not _settle(gram, n, start, near, confirm, basis, small, vectors, out[g]):
                out[g, 2] = np.nan
                break
            if not prove:
                break
            shift = out[g, 1] * out[g, 1] * (1 + 1.8 * tol) + 64 * (n + 8) * 2.0**-53 * trace
            upper = _proven_above(gram, n, vectors[0, :n], out[g, 0] * out[g, 0], shift, trace, work)
            if upper < np.inf:
                out[g, 3] = math.sqrt(upper)
                break
            near, confirm = tol / 10, 2


@dataclass(frozen=True, eq=False)
class Workspace:
    """Memory that groups share: fresh pages for each would cost as much as the work on them."""

    gram: np.ndarray
    basis: np.ndarray
    single: np.ndarray
    factor: np.ndarray
    noise: np.ndarray

    @classmethod
    def of(cls, side: int) -> Workspace:
        """Make room for sets of up to `side` rows."""
        steps = min(side, MAX_STEPS)
        gram, single = np.empty((side, side), dtype=np.float32), np.empty((steps, side), dtype=np.float32)
        return cls(gram, np.empty((steps, side)), single, np.empty(side * side), group_noise(side))


def top_two_of_large_group(bits: np.ndarray, tol: float, workspace: Workspace, *, prove: bool) -> np.ndarray:
    """Do the same for one set of any size, with LAPACK's factorisation.

    Parameters
    ----------
    bits : ndarray of uint64, shape (rows, words)
    tol : float
    workspace : Workspace
        For as many rows or more.
    prove : bool

    Returns
    -------
    ndarray of float64, shape (4,)
        sigma_1, sigma_2 and the bounds of sigma_2; NaN bounds where the proof failed.
    """
    n = len(bits)
    small, vectors, out = np.empty((3, n)), np.empty((2, n)), np.full(4, np.nan)
    gram, basis, single, noise = workspace.gram, workspace.basis, workspace.single, workspace.noise
    near, confirm = (tol / 2, 1) if prove else (tol, 2)
    gram_of_bits(bits, gram)
    settled = _settle(gram, n, noise, near, confirm, single, small, vectors, out)  # float32 first, where that suffices
    if not settled and not _settle(gram, n, noise, near, confirm, basis, small, vectors, out):
        out[2] = np.nan
    elif prove:
        trace = float(np.bitwise_count(bits).sum())
        shift = out[1] ** 2 * (1 + 1.8 * tol) + 64 * (n + 8) * UNIT * trace
        upper = upper_bound(gram, n, vectors[:1], out[:1] ** 2, shift, trace=trace, scratch=workspace.factor)
        if math.isfinite(upper):
            out[3] = math.sqrt(upper)
    return out


@lru_cache(maxsize=16)
def group_noise(n: int) -> np.ndarray:
    """Draw fixed pseudo-random numbers in [0, 1) for the start vectors.

    Parameters
    ----------
    n : int

    Returns
    -------
    ndarray of float64, shape (n,)
        All calls share it: not to be written to.
    """
    noise: np.ndarray = np.random.default_rng(20240305).random(n)
    return noise
