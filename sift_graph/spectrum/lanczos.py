r"""Lanczos with full reorthogonalisation for the largest eigenvalues of :math:`G = A A^T`.

After k steps :math:`V_k^T G V_k = T_k` is tridiagonal (diagonal :math:`\alpha`, off-diagonal :math:`\beta`), and the
eigenvalues :math:`\theta_j` of :math:`T_k` grow towards the largest ones of :math:`G`. With the last entry s of an
eigenvector of :math:`T_k` the residual is :math:`r_j = \beta_k |s|`; the error of the value is at most :math:`r_j`,
and about :math:`r_j^2 / (\theta_j - \theta_{j+1})` once the gap to the next value is resolved. The iteration stops on
the smaller of the two, and never restarts for speed: 20 to 60 steps suffice where a restarted method takes 100 to 200.

What a residual cannot show is that no larger eigenvalue was missed: a vector may be nearly orthogonal to an
eigenvector, and of a multiple eigenvalue only one copy is seen. Hence :mod:`sift_graph.spectrum.certificate`, and three
measures here: on breakdown (:math:`\beta_k \approx 0`, an invariant subspace) the iteration goes on with a random
vector orthogonal to it, which finds further copies; `confirm` asks for several checks in a row, unless the first is
clear; and :func:`ritz_vectors` reports Ritz vectors that are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from sift_graph.spectrum.kernels import SPEED, symmetric_times

__all__ = [
    "MAX_STEPS",
    "SINGLE_SIDE",
    "assess",
    "error_of_value",
    "lanczos",
    "lanczos_dense",
    "ritz_vectors",
    "start_vector",
    "top_value",
]

MAX_STEPS = 400
FEW_ROWS = 100
CLEAR = 1e-3  # of the tolerance: an estimate that needs no second look
BREAKDOWN = 1e-13  # of the largest entry of T: rounding noise, not a direction
SINGLE_BREAKDOWN = 3e-8
SINGLE_SIDE = 48  # below it a second try in float64 costs more than a first one in float32 saves
SINGLE_SPREAD = 1000.0  # of the largest eigenvalue over the mean of the others: beyond it float32 tells them not apart


def start_vector(diagonal: np.ndarray) -> np.ndarray:
    """Make a deterministic start: close to the Perron vector, with every direction in it.

    Parameters
    ----------
    diagonal : ndarray of float64, shape (n,)
        Diagonal of G, the squared norms of the rows of A.

    Returns
    -------
    ndarray of float64, shape (n,)
    """
    scale = np.sqrt(diagonal)
    noise = np.random.default_rng(20240305).random(diagonal.size)
    start: np.ndarray = scale * (0.65 + 0.7 * noise) + 1e-3 * scale.max() * noise
    return start


@numba.njit(cache=True, error_model="numpy")
def top_value(alpha: np.ndarray, beta: np.ndarray, k: int, j: int, low: float, high: float, width: float) -> Any:
    """Find the j-th largest eigenvalue of T_k (j from 1) between `low` and `high`, up to `width`.

    Bisection on the number of positive pivots of T_k - x I (Sylvester's law of inertia), at eight points at once: a
    division takes as long for eight numbers as for one.

    Returns
    -------
    float
    """
    x, pivot, above = np.empty(8), np.empty(8), np.empty(8)
    while high - low > width:
        step = (high - low) / 9.0
        for s in range(8):
            x[s] = low + step * (s + 1)
            pivot[s] = alpha[0] - x[s]
            above[s] = 1.0 if pivot[s] > 0.0 else 0.0
        for i in range(1, k):
            square = beta[i - 1] * beta[i - 1]
            for s in range(8):
                p = pivot[s] if pivot[s] != 0.0 else -1e-300
                q = alpha[i] - x[s] - square / p
                pivot[s] = q
                above[s] += 1.0 if q > 0.0 else 0.0
        lower, upper = low, high
        for s in range(8):
            if above[s] >= j:
                lower = x[s]
            elif x[s] < upper:
                upper = x[s]
        if not (lower > low or upper < high) or lower >= upper:
            break
        low, high = lower, upper
    return 0.5 * (low + high)


@numba.njit(cache=True, error_model="numpy")
def eigenvector(alpha: np.ndarray, beta: np.ndarray, k: int, theta: float, x: np.ndarray) -> None:
    """Write the unit eigenvector of T_k at `theta`: twisted factorisation, glued where the pivots agree best."""
    down, up = np.empty(k), np.empty(k)
    for i in range(k):
        down[i] = alpha[i] - theta - (beta[i - 1] * beta[i - 1] / down[i - 1] if i else 0.0)
        if down[i] == 0.0:
            down[i] = 1e-300
    for i in range(k - 1, -1, -1):
        up[i] = alpha[i] - theta - (beta[i] * beta[i] / up[i + 1] if i < k - 1 else 0.0)
        if up[i] == 0.0:
            up[i] = 1e-300
    twist, best = 0, np.inf
    for i in range(k):
        pivot = abs(down[i] + up[i] - (alpha[i] - theta))
        if pivot < best:
            twist, best = i, pivot
    x[twist] = 1.0
    for i in range(twist - 1, -1, -1):
        x[i] = -beta[i] * x[i + 1] / down[i]
    for i in range(twist + 1, k):
        x[i] = -beta[i - 1] * x[i - 1] / up[i]
    norm = 0.0
    for i in range(k):
        norm += x[i] * x[i]
    norm = math.sqrt(norm)
    for i in range(k):
        x[i] /= norm


@numba.njit(cache=True, fastmath=SPEED, error_model="numpy")
def _project_out(basis: np.ndarray, count: int, n: int, w: np.ndarray) -> float:
    """Remove the components of w along the first `count` rows of `basis`; return the norm that is left."""
    zero = basis.dtype.type(0)
    for q in range(count):
        row = basis[q]
        s = zero
        for i in range(n):
            s += row[i] * w[i]
        for i in range(n):
            w[i] -= s * row[i]
    s = zero
    for i in range(n):
        s += w[i] * w[i]
    return math.sqrt(np.float64(s))


@numba.njit(cache=True, fastmath=SPEED, error_model="numpy")
def extend(basis: np.ndarray, alpha: np.ndarray, beta: np.ndarray, k: int, n: int, w: np.ndarray) -> bool:
    """Take w = G v_k into the factorisation and write the next row of `basis`.

    One pass of modified Gram-Schmidt against all rows, a second one if the first removed most of the vector.

    Returns
    -------
    bool
        Whether the subspace is invariant.
    """
    v, kind = basis[k], basis.dtype.type
    s = before = kind(0)
    for i in range(n):
        s += v[i] * w[i]
    alpha[k] = s
    back = kind(beta[k - 1]) if k else kind(0)
    for i in range(n):
        w[i] -= s * v[i] + (back * basis[k - 1, i] if k else kind(0))
        before += w[i] * w[i]
    norm = _project_out(basis, k + 1, n, w)
    if norm * norm < 0.5 * before:
        norm = _project_out(basis, k + 1, n, w)
    scale = 0.0
    for i in range(k + 1):
        scale = max(scale, abs(alpha[i]))
    invariant = norm <= (BREAKDOWN if basis.itemsize == 8 else SINGLE_BREAKDOWN) * scale * math.sqrt(n)
    beta[k] = 0.0 if invariant else norm
    if k + 1 < min(n, basis.shape[0]):
        if invariant:  # a fixed pseudo-random direction, orthogonal to everything seen
            state = np.uint64(88172645463325252 + k)
            for i in range(n):
                state ^= state << np.uint64(13)
                state ^= state >> np.uint64(7)
                state ^= state << np.uint64(17)
                w[i] = kind(np.float64(state >> np.uint64(11)) / 9007199254740992.0 - 0.5)
            norm = _project_out(basis, k + 1, n, w)
            norm = _project_out(basis, k + 1, n, w)
        if norm > 0.0:
            s = kind(1.0 / norm)
            for i in range(n):
                basis[k + 1, i] = w[i] * s
    return invariant


@numba.njit(cache=True, error_model="numpy")
def assess(alpha: np.ndarray, beta: np.ndarray, k: int, count: int, tol: float, theta: np.ndarray) -> Any:
    """Write the `count`-th largest Ritz value of T_k to `theta`, which holds that of the last call or zero.

    It is computed to a thousandth of `tol`: Rayleigh-Ritz on its vector, whose error enters squared, follows.

    Returns
    -------
    float
        Estimated relative error of that singular value.
    """
    top = _gershgorin(alpha, beta, k)
    width = max(1e-3 * tol * theta[count - 1], 4e-15 * top)
    low = max(theta[count - 1] - 2 * width, 0.0)  # Ritz values grow from step to step
    last = theta[count - 1] = top_value(alpha, beta, k, count, low, top * (1 + 1e-12), width)
    if beta[k - 1] == 0.0:
        return 0.0
    following = top_value(alpha, beta, k, count + 1, 0.0, last, 1e-3 * last) if k > count else 0.0
    x = np.empty(k)
    eigenvector(alpha, beta, k, last, x)
    return error_of_value(beta[k - 1] * abs(x[k - 1]), max(last, 1e-14 * top), following)


@numba.njit(cache=True, error_model="numpy")
def values_before(alpha: np.ndarray, beta: np.ndarray, k: int, count: int, tol: float, theta: np.ndarray) -> None:
    """Write the Ritz values of T_k that are larger than the `count`-th, which `theta` holds."""
    top = _gershgorin(alpha, beta, k)
    width = max(1e-3 * tol * theta[count - 1], 4e-15 * top)
    low, high = max(theta[count - 1] - 2 * width, 0.0), top * (1 + 1e-12)
    for j in range(count - 1):
        theta[j] = top_value(alpha, beta, k, j + 1, low, high, width)
        high = min(theta[j] + width, high)


@numba.njit(cache=True)
def _gershgorin(alpha: np.ndarray, beta: np.ndarray, k: int) -> float:
    """Bound the eigenvalues of T_k from above."""
    top = 0.0
    for i in range(k):
        off = (beta[i - 1] if i else 0.0) + (beta[i] if i < k - 1 else 0.0)
        top = max(top, alpha[i] + off)
    return top


@numba.njit(cache=True)
def error_of_value(residual: float, value: float, following: float) -> float:
    """Estimate the relative error of a singular value from its square, that one's residual, and the square after it.

    Returns
    -------
    float
    """
    gap = max(value - following, 1e-30)
    if residual > 0.3 * gap:
        return residual / (2.0 * value)
    return min(residual, residual * residual / gap) / (2.0 * value)


@numba.njit(cache=True)
def _first_look(n: int, count: int) -> int:
    """Step at which T_k is first worth looking at: a look costs eight steps of a matrix of few rows."""
    return max(4 if n > FEW_ROWS else 10, count)


@numba.njit(cache=True)
def _next_look(n: int, k: int, error: float, last_k: int, last_error: float, tol: float) -> int:
    """Step at which T_k is worth looking at again, by the rate at which the estimate fell between two looks."""
    least = 2 if n > FEW_ROWS else 4
    if error < tol or not error < last_error or last_error == np.inf:
        return k + least
    steps = (k - last_k) * math.log(error / tol) / math.log(last_error / error)
    return k + max(least - 1, min(8, int(0.75 * steps)))


@numba.njit(cache=True)
def lanczos_dense(
    gram: np.ndarray,
    n: int,
    count: int,
    tol: float,
    confirm: int,
    basis: np.ndarray,
    alpha: np.ndarray,
    beta: np.ndarray,
    theta: np.ndarray,
) -> tuple[int, float]:
    """Iterate on ``gram[:n, :n]`` from ``basis[0]`` (a unit vector) until `count` values have settled.

    All arithmetic is in the type of `basis`. In float32 it is twice as fast, and off by some 1e-7 of the eigenvalue
    that is looked for, more where the largest one is far above it: then the first step says so, and nothing is done.

    Returns
    -------
    tuple of int and float
        Steps, and the estimated relative error of the last value: 0.0 when the whole space was exhausted, infinity when
        it was not tried.
    """
    w = np.empty(n, basis.dtype)
    theta[:] = 0.0
    limit = min(n, basis.shape[0])
    good = breakdowns = k = last_k = 0
    look, error, last_error = _first_look(n, count), np.inf, np.inf
    while k < limit:
        symmetric_times(gram, n, basis[k], w)
        breakdowns += extend(basis, alpha, beta, k, n, w)
        k += 1
        if basis.itemsize == 4 and k == 1:
            trace = 0.0
            for i in range(n):
                trace += gram[i, i]
            if alpha[0] * (n - 1) > SINGLE_SPREAD * (trace - alpha[0]):
                return 1, np.inf
        if k == n:
            beta[k - 1] = 0.0
        if k >= count and (k in (limit, look) or breakdowns > count):
            error = assess(alpha, beta, k, count, tol, theta)
            good = confirm if error < CLEAR * tol else good + 1 if error < tol else 0
            if breakdowns > count or (good >= confirm and (beta[k - 1] > 0.0 or k == n)):
                break
            look = _next_look(n, k, error, last_k, last_error, tol)
            last_k, last_error = k, error
    values_before(alpha, beta, k, min(count, k), tol, theta)
    return k, error


def lanczos(
    apply: Callable[[np.ndarray, np.ndarray], None],
    start: np.ndarray,
    *,
    count: int = 2,
    tol: float = 1e-6,
    confirm: int = 2,
    locked: np.ndarray | None = None,
    max_steps: int = MAX_STEPS,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
    """Iterate with any operator.

    Parameters
    ----------
    apply : callable
        ``apply(x, y)`` writes G x to y; both float64, shape (n,).
    start : ndarray of float64, shape (n,)
    count : int
        How many of the largest eigenvalues.
    tol : float
        Relative accuracy of the singular values, which are the square roots.
    confirm : int
        Checks in a row that must agree.
    locked : ndarray of float64, shape (q, n), optional
        Orthonormal rows that the iteration stays orthogonal to.
    max_steps : int

    Returns
    -------
    basis : ndarray of float64, shape (k, n)
        Orthonormal rows.
    alpha, beta : ndarray of float64, shape (k,)
        The tridiagonal matrix; the last entry of `beta` leads out of the subspace.
    theta : ndarray of float64, shape (min(count, k),)
        Its largest eigenvalues.
    error : float
        Estimated relative error of the last value.
    """
    n = start.size
    free = n - (0 if locked is None else len(locked))
    limit = min(free, max_steps)
    basis = np.empty((min(limit, 64), n))
    alpha, beta, theta = np.zeros(limit), np.zeros(limit), np.zeros(count)
    basis[0] = _away_from(locked, start)
    basis[0] /= np.linalg.norm(basis[0])
    w = np.empty(n)
    good = breakdowns = k = last_k = 0
    look, error, last_error = _first_look(n, count), math.inf, math.inf
    while k < limit:
        if k + 1 == len(basis) and k + 1 < limit:
            basis = np.concatenate([basis, np.empty((min(limit - k - 1, len(basis)), n))])
        apply(basis[k], w)
        breakdowns += extend(basis, alpha, beta, k, n, _away_from(locked, w))
        if locked is not None and k + 1 < len(basis):
            row = _away_from(locked, basis[k + 1])
            basis[k + 1] = row / np.linalg.norm(row)  # after a breakdown the new direction was a free one
        k += 1
        if k == free:
            beta[k - 1] = 0.0
        if k >= count and (k in {limit, look} or breakdowns > count):
            error = assess(alpha, beta, k, count, tol, theta)
            good = confirm if error < CLEAR * tol else good + 1 if error < tol else 0
            if breakdowns > count or (good >= confirm and (beta[k - 1] > 0.0 or k == free)):
                break
            look = _next_look(n, k, error, last_k, last_error, tol)
            last_k, last_error = k, error
    if k < count:  # fewer dimensions than values asked for
        theta = theta[:k]
        assess(alpha, beta, k, k, tol, theta)
        error = 0.0
    values_before(alpha, beta, k, theta.size, tol, theta)
    return basis[:k], alpha[:k], beta[:k], theta, error


def _away_from(locked: np.ndarray | None, w: np.ndarray) -> np.ndarray:
    """`w` without its components along the locked rows."""
    if locked is None:
        return w
    for _ in range(2):
        w = w - (locked @ w) @ locked
    return w


@numba.njit(cache=True, fastmath=SPEED, error_model="numpy")
def ritz_vectors(
    basis: np.ndarray, alpha: np.ndarray, beta: np.ndarray, k: int, n: int, theta: np.ndarray, out: np.ndarray
) -> bool:
    """Write the Ritz vectors at the values `theta` to the rows of `out`; False if two are not independent.

    The vectors of values that lie close together are made orthogonal inside the subspace first, and all of them once
    more in the whole space: a float32 basis is orthonormal up to 1e-7 only.

    Returns
    -------
    bool
    """
    count = theta.size
    small = np.empty((count, k))
    for j in range(count):
        eigenvector(alpha, beta, k, theta[j], small[j])
        for i in range(j):
            s = 0.0
            for q in range(k):
                s += small[i, q] * small[j, q]
            if abs(s) > 0.5:
                return False
            norm = 0.0
            for q in range(k):
                small[j, q] -= s * small[i, q]
                norm += small[j, q] * small[j, q]
            norm = math.sqrt(norm)
            for q in range(k):
                small[j, q] /= norm
        for i in range(n):
            out[j, i] = 0.0
        for q in range(k):
            c = small[j, q]
            for i in range(n):
                out[j, i] += c * basis[q, i]
        norm = _project_out(out, j, n, out[j])
        for i in range(n):
            out[j, i] /= norm
    return True
