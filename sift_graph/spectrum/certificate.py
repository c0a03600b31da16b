r"""Proofs about eigenvalues of :math:`G = A A^T`, given that float64 and float32 arithmetic round as IEEE 754 says.

Let u be the unit roundoff (2^-53 or 2^-24) and :math:`\gamma_n = n u / (1 - n u)`. The entries of A are not negative,
so :math:`|G| = G` and every componentwise bound turns into one by :math:`\lambda_1 \le` trace.

*Lower bounds* (Rayleigh-Ritz). For any q independent rows Z, by Courant and Fischer, :math:`\lambda_j(G)` is at least
the j-th eigenvalue of the pencil :math:`(Z G Z^T, Z Z^T)`. Computed in float64 the first matrix is off by at most
:math:`2\gamma\,\lambda_1` in each entry (`rounding` below counts the operations), the second is I up to a measured
defect :math:`\delta`; hence :math:`\lambda_j(G) \ge (h_j - \text{error}) / (1 + \delta)`. This is
:func:`ritz_lower_bounds`.

*Upper bound* (Cholesky of the deflated shifted matrix). Let U hold q rows, :math:`\tau \ge 0`, and
:math:`C = x I - G + U^T \mathrm{diag}(\tau) U`. The last term has rank q and is positive semidefinite, so by Weyl

.. math:: \lambda_{q+1}(G) \le \lambda_1(G - U^T \mathrm{diag}(\tau) U) \le x - \lambda_{\min}(C),

whatever U and :math:`\tau` are; with the leading eigenpairs the bound is tight. Let
:math:`\hat C` be C as it is stored.
If its Cholesky factorisation in floating point runs to the end with factor L, then (Higham, *Accuracy and
Stability*, Theorem 10.3, which holds for every order of the sums, blocked or not) :math:`L L^T = \hat C + E` with
:math:`|E| \le \gamma_{n+1} |L||L|^T`, so :math:`\lambda_{\min}(\hat C) \ge -\gamma_{n+1} \rho` for any
:math:`\rho \ge \| |L||L|^T \|`. In float32 that is the largest row sum, computed from L itself; in float64 the cruder
:math:`\|L\|_F^2 \le \mathrm{tr}(\hat C) / (1 - \gamma_{n+1})` costs nothing and is small enough. Forming an entry
costs q + 2 operations in float64 and one rounding to the working precision, each relative to terms whose matrices have
norms of at most trace, :math:`\sum \tau \|u\|^2` and x. Altogether

.. math:: \lambda_{q+1}(G) \le x + \gamma_{n+1}\rho + (u + (q + 4) 2^{-53}) (x + \mathrm{trace} + \textstyle\sum\tau
          \|u\|^2) + \|\Delta G\|,

with :math:`\Delta G` the error of G, zero for the integer Gram of a mask. :func:`upper_bound` returns the right-hand
side, rounded up, or infinity if the factorisation breaks off, which says that an eigenvalue was missed (or that x was
too close). Underflow would add less than :math:`n^2 2^{-126}`, which the final rounding covers.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from sift_graph.spectrum.kernels import SPEED

__all__ = ["UNIT", "perron_upper_bound", "ritz_lower_bounds", "upper_bound"]

UNIT = 2.0**-53
UP = 1.0 + 1e-12  # outward rounding of the few scalar operations at the end


def ritz_lower_bounds(projected: np.ndarray, overlap: np.ndarray, rounding: float, trace: float) -> np.ndarray:
    """Bound the leading eigenvalues of G from below.

    Parameters
    ----------
    projected, overlap : ndarray of float64, shape (q, q)
        Z G Z^T and Z Z^T as computed.
    rounding : float
        Relative error of an entry of `projected`, as a multiple of the largest eigenvalue.
    trace : float
        Upper bound of the largest eigenvalue.

    Returns
    -------
    ndarray of float64, shape (q,)
        Descending, not below zero.
    """
    q = len(overlap)
    defect = float(np.abs(overlap - np.eye(q)).sum()) + 4 * q * rounding
    if not defect < 0.1:
        return np.zeros(q)
    values = np.linalg.eigvalsh((projected + projected.T) / 2)[::-1]
    error = q * (rounding + 16 * UNIT) * trace * (1 + defect)
    lower: np.ndarray = np.maximum((values - error) / (1 + defect), 0.0) / UP
    return lower


def perron_upper_bound(theta: float, residual: float, second: float, rounding: float, trace: float) -> float:
    """Bound the largest eigenvalue from above by the Kato-Temple inequality.

    If `second` is at least the second largest eigenvalue and below the Rayleigh quotient `theta` of a unit vector,
    then the largest is at most ``theta + residual**2 / (theta - second)``.

    Parameters
    ----------
    theta, residual : float
        Rayleigh quotient and norm of the residual of the vector.
    second : float
        Proven upper bound of the second eigenvalue.
    rounding, trace : float
        As in :func:`ritz_lower_bounds`.

    Returns
    -------
    float
        The bound; `trace` where the inequality says nothing.
    """
    slack = 4 * (rounding + 16 * UNIT) * trace
    gap = theta - slack - second
    if not gap > 0:
        return trace * UP
    return min((theta + slack + (residual + slack) ** 2 / gap) * UP, trace * UP)


def upper_bound(
    gram: np.ndarray,
    n: int,
    vectors: np.ndarray,
    values: np.ndarray,
    shift: float,
    *,
    trace: float,
    single: bool = False,
    gram_error: float = 0.0,
    scratch: np.ndarray | None = None,
) -> float:
    """Prove an upper bound of the eigenvalue after the deflated ones, or refuse.

    Parameters
    ----------
    gram : ndarray of float32 or float64
        G in its leading n x n part.
    n : int
    vectors : ndarray of float64, shape (q, n)
        What to deflate: approximations of the leading eigenvectors. Any are allowed.
    values : ndarray of float64, shape (q,)
        Their eigenvalues, approximately.
    shift : float
        The x of the theorem: the bound proven is a little larger.
    trace : float
        Trace of G, rounded up.
    single : bool
        Factorise in float32: half the time, for a bound a thousandth above the eigenvalue.
    gram_error : float
        Bound of the error of G in norm.
    scratch : ndarray of float64, shape (n * n or more,), optional
        Memory to work in.

    Returns
    -------
    float
        The bound; infinity if the factorisation broke off.
    """
    from scipy.linalg import lapack

    if scratch is None:
        work = np.empty((n, n), dtype=np.float32 if single else np.float64)
    else:
        work = scratch[: n * n].reshape(n, n)
    diagonal = _form(gram, n, vectors, values, shift, work)
    factorise = lapack.spotrf if single else lapack.dpotrf
    factor, failed = factorise(work.T, lower=1, clean=0, overwrite_a=1)  # the transposed view is what LAPACK reads
    if failed:
        return math.inf
    unit = 2.0**-24 if single else UNIT
    gamma = (n + 1) * unit / (1 - (n + 1) * unit)
    rho = _row_sum_bound(factor.T) * (1 + 2 * n * UNIT) if single else diagonal / (1 - gamma)
    deflated = float(np.sum(values * np.sum(vectors * vectors, axis=1)))
    formation = (unit + (len(values) + 4) * UNIT) * (shift + trace + deflated)
    proven: float = (shift + gamma * rho + formation + gram_error) * UP
    return proven


@numba.njit(cache=True, fastmath=SPEED)
def _form(gram: np.ndarray, n: int, vectors: np.ndarray, values: np.ndarray, shift: float, work: np.ndarray) -> Any:
    """Write the upper triangle of x I - G + U^T diag(values) U; return its trace, rounded up."""
    # Loops run from zero over slices: over a range that begins elsewhere they would not be compiled to vectors.
    trace = 0.0
    line = np.empty(n)
    for i in range(n):
        c = values[0] * vectors[0, i]
        first, row, target = vectors[0, i:n], gram[i, i:n], work[i, i:n]
        if values.size == 1:
            for j in range(n - i):
                target[j] = c * first[j] - np.float64(row[j])
        else:
            for j in range(n - i):
                line[j] = c * first[j] - np.float64(row[j])
            for q in range(1, values.size):
                c, other = values[q] * vectors[q, i], vectors[q, i:n]
                for j in range(n - i):
                    line[j] += c * other[j]
            for j in range(n - i):
                target[j] = line[j]
        diagonal = shift - np.float64(row[0])
        for q in range(values.size):
            diagonal += values[q] * vectors[q, i] * vectors[q, i]
        target[0] = diagonal
        trace += abs(diagonal)
    return trace * (1 + 1e-6)


@numba.njit(cache=True, fastmath=SPEED)
def _row_sum_bound(factor: np.ndarray) -> Any:
    """Largest row sum of |L| |L|^T, where row k of `factor` from its diagonal on is column k of L."""
    n = factor.shape[0]
    rows = np.zeros(n)
    for k in range(n):
        column, into = factor[k, k:n], rows[k:n]
        total = 0.0
        for i in range(n - k):
            total += np.float64(abs(column[i]))
        for i in range(n - k):
            into[i] += np.float64(abs(column[i])) * total
    return rows.max()
