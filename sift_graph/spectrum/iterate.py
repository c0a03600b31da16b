"""Leading singular values of one connected block: iterate, bracket, prove, and look again where the proof fails."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace

import numpy as np

from sift_graph.spectrum.certificate import UNIT, perron_upper_bound, ritz_lower_bounds, upper_bound
from sift_graph.spectrum.lanczos import (
    MAX_STEPS,
    SINGLE_SIDE,
    error_of_value,
    lanczos,
    lanczos_dense,
    ritz_vectors,
    start_vector,
    top_value,
)
from sift_graph.spectrum.operators import Operator
from sift_graph.spectrum.result import Bracket

__all__ = ["solve_operator"]

log = logging.getLogger(__name__)

FULL_SIDE = 256  # up to here a full proof costs less than the iteration itself
PROOF_SIDE = 12_288  # 0.6 GB in float32, twice; beyond it nothing is factorised
DENSE_SIDE = 4_096  # up to here a full decomposition is the last resort
SINGLE_ROOM = 5e-3  # relative distance from the second eigenvalue that a proof in float32 is tried at
ROUGH_STEPS = 14
FLOOR = 4e-14  # of the largest eigenvalue: where rounding ends what float64 can tell from zero


@dataclass(frozen=True, eq=False)
class Found:
    """Ritz pairs, descending, with bounds of the eigenvalues from below."""

    values: np.ndarray
    vectors: np.ndarray
    lower: np.ndarray
    error: float


def solve_operator(operator: Operator, count: int, *, tol: float, certify: str, bound: float | None = None) -> Bracket:
    """Find and bracket the `count` largest singular values of a connected block.

    Parameters
    ----------
    operator : Operator
        A A^T, irreducible: its largest eigenvalue is simple.
    count : int
    tol : float
        Relative accuracy of the singular values.
    certify : {"off", "gap", "full"}
    bound : float, optional
        What the second value is compared with where `certify` is ``gap``.

    Returns
    -------
    Bracket
        Of ``min(count, operator.n)`` values.
    """
    count = min(count, operator.n)
    wants_sign = certify == "gap" and bound is not None and count >= 2 and math.isfinite(bound)
    full = certify == "full" or (wants_sign and operator.n <= FULL_SIDE)
    provable = operator.n <= PROOF_SIDE
    found = _first_look(operator, count, tol / 4 if full else tol, confirm=1 if full else 2)
    if count > 2:  # a multiple value shows only one copy to one start vector
        found = _look_again(operator, found, count, tol)
    status = "ok" if found.error < tol else "not_converged"
    if full and provable:
        return _prove_all(operator, found, count, tol)
    if wants_sign and bound is not None:
        if math.sqrt(found.lower[1]) > bound:
            return _bracket(operator, found, None, status, "sign")
        if provable:
            return _prove_sign(operator, found, count, tol, bound, status)
        return _bracket(operator, found, None, status, "undecided")
    return _bracket(operator, found, None, status, "none")


def _first_look(operator: Operator, count: int, tol: float, *, confirm: int) -> Found:
    """Lanczos from the start that is near the Perron vector."""
    n = operator.n
    start = start_vector(operator.diagonal)
    if operator.perron is not None and count > 1:
        locked = operator.perron[None, :]
        rest = _ritz(
            operator, *lanczos(operator.apply, start, count=count - 1, tol=tol, confirm=confirm, locked=locked)
        )
        return _project(operator, np.concatenate([locked, rest.vectors]), count, rest.error)
    if operator.rough is not None:
        basis, alpha, beta, theta, error = lanczos(
            operator.rough, start, count=count, tol=tol, confirm=confirm, max_steps=ROUGH_STEPS
        )
        # A float32 product is off by some 2e-7 lambda_1, which enters squared over the gap to the next value.
        if error < tol and (2e-7 * theta[0]) ** 2 <= 1e-3 * tol * theta[-1] ** 2:
            return _ritz(operator, basis, alpha, beta, theta, error)
        if operator.n <= PROOF_SIDE:  # not the few steps that were hoped for: each is cheaper on the Gram
            operator = replace(operator, gram=operator.form_gram()[0])
    if operator.gram is None:
        return _ritz(operator, *lanczos(operator.apply, start, count=count, tol=tol, confirm=confirm))
    if operator.gram.dtype == np.float32 and n >= SINGLE_SIDE:
        found, enough = _iterate_dense(operator, operator.gram, start, count, tol, confirm, single=True)
        if enough:
            return found
    return _iterate_dense(operator, operator.gram, start, count, tol, confirm, single=False)[0]


def _iterate_dense(
    operator: Operator, gram: np.ndarray, start: np.ndarray, count: int, tol: float, confirm: int, *, single: bool
) -> tuple[Found, bool]:
    """Iterate on a dense Gram in float64, or in float32; and whether that was enough, by the residual in float64.

    Returns
    -------
    tuple of Found and bool
    """
    n = operator.n
    steps = min(n, MAX_STEPS)
    basis = np.empty((steps, n), np.float32 if single else np.float64)
    alpha, beta, theta = np.zeros(steps), np.zeros(steps), np.zeros(count)
    basis[0] = start / np.linalg.norm(start)
    k, error = lanczos_dense(gram, n, count, tol, confirm, basis, alpha, beta, theta)
    found = _ritz(operator, basis[:k], alpha[:k], beta[:k], theta, error)
    if not single or not error < tol:
        return found, not single
    last, image = found.values[-1], np.empty(n)
    operator.apply(found.vectors[-1], image)
    residual = float(np.linalg.norm(image - last * found.vectors[-1]))
    following = top_value(alpha, beta, k, count + 1, 0.0, last, 1e-3 * last) if k > count else 0.0
    error = error_of_value(residual, last, following)
    return replace(found, error=error), error < tol


def _ritz(
    operator: Operator, basis: np.ndarray, alpha: np.ndarray, beta: np.ndarray, theta: np.ndarray, error: float
) -> Found:
    """Ritz vectors of a Lanczos factorisation, and their Rayleigh-Ritz values computed afresh."""
    k, n = basis.shape
    vectors = np.empty((theta.size, n))
    if not ritz_vectors(basis, alpha, beta, k, n, theta, vectors):
        tridiagonal = np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1)
        _, small = np.linalg.eigh(tridiagonal)
        vectors = np.linalg.qr(basis.T.astype(np.float64) @ small[:, ::-1][:, : theta.size])[0].T
    return _project(operator, vectors, theta.size, error)


def _project(operator: Operator, vectors: np.ndarray, count: int, error: float) -> Found:
    """Rayleigh-Ritz in the span of `vectors`, which are orthonormal up to rounding."""
    vectors = np.ascontiguousarray(vectors)  # operators read them by address
    if operator.quadratic is not None:
        projected = operator.quadratic(vectors)
    else:
        images = np.empty_like(vectors)
        for vector, image in zip(vectors, images, strict=True):
            operator.apply(vector, image)
        projected = vectors @ images.T
    values, turn = np.linalg.eigh((projected + projected.T) / 2)
    turn = turn[:, ::-1][:, :count].T
    values = np.maximum(values[::-1][:count], 0.0)
    lower = ritz_lower_bounds(projected, vectors @ vectors.T, operator.rounding, operator.trace)[:count]
    return Found(values, turn @ vectors, lower, error)


def _look_again(operator: Operator, found: Found, count: int, tol: float, *, seed: int = 0) -> Found:
    """Search the space orthogonal to what was found until it holds nothing larger."""
    for attempt in range(2 * count):
        if len(found.vectors) >= operator.n:
            return found
        random = np.random.default_rng([seed, attempt]).standard_normal(operator.n)
        locked = np.linalg.qr(found.vectors.T)[0].T
        more = _ritz(operator, *lanczos(operator.apply, random, count=1, tol=tol, locked=locked))
        last = found.values[-1]
        if more.values[0] <= last * (1 + tol) + FLOOR * found.values[0] and len(found.values) >= count:
            return found
        joined = np.linalg.qr(np.concatenate([found.vectors, more.vectors]).T)[0].T
        found = _project(operator, joined, count, max(found.error, more.error))
    return found


def _prove_all(operator: Operator, found: Found, count: int, tol: float) -> Bracket:
    """Upper bounds of all values by one factorisation each from the second on."""
    gram, gram_error = operator.form_gram()
    floor = 64 * (operator.n + 8) * UNIT * operator.trace + 4 * gram_error
    for attempt in range(3):
        upper = np.full(count, math.inf)
        for j in range(1, count):
            upper[j] = upper_bound(
                gram,
                operator.n,
                found.vectors[:j],
                found.values[:j],
                found.values[j] * (1 + 1.5 * tol) + floor,
                trace=operator.trace,
                gram_error=gram_error,
            )
            if math.isinf(upper[j]):
                break
        else:
            return _bracket(operator, found, upper, "ok", "full")  # proven to `tol`, whatever the iteration said
        log.debug("certificate refused at attempt %d: an eigenvalue was missed or has not settled", attempt)
        found = _look_again(operator, found, count, tol / 10, seed=attempt + 1)
    if operator.n <= DENSE_SIDE:
        return _decompose(operator, gram, gram_error, count)
    return _bracket(operator, found, None, "not_converged", "undecided")


def _prove_sign(operator: Operator, found: Found, count: int, tol: float, bound: float, status: str) -> Bracket:
    """Prove that the second value lies below `bound`, in float32 where there is room."""
    if math.sqrt(found.values[1]) >= bound:
        return _bracket(operator, found, None, status, "undecided")
    gram, gram_error = operator.form_gram()
    for attempt in range(3):
        # As far below the bound as the proof can afford: the bound proven is worth reading itself.
        room = min(0.5 * (bound * bound - found.values[1]), 0.05 * found.values[1] + 1e-6 * operator.trace)
        for single in (True, False):
            if room < (SINGLE_ROOM * found.values[1] if single else 0.0):
                continue
            upper = upper_bound(
                gram,
                operator.n,
                found.vectors[:1],
                found.values[:1],
                found.values[1] + room,
                trace=operator.trace,
                single=single,
                gram_error=gram_error,
            )
            if upper < bound * bound:
                proven = np.full(count, math.inf)
                proven[1] = upper
                return _bracket(operator, found, proven, status, "sign")
        found = _look_again(operator, found, count, tol / 10, seed=attempt + 1)
        if math.sqrt(found.lower[1]) > bound:
            return _bracket(operator, found, None, status, "sign")
    return _bracket(operator, found, None, status, "undecided")


def _decompose(operator: Operator, gram: np.ndarray, gram_error: float, count: int) -> Bracket:
    """Full decomposition, with the a-posteriori bounds of :mod:`sift_graph.spectrum.dense`."""
    from sift_graph.spectrum.dense import symmetric_values

    upper = np.triu(gram[: operator.n, : operator.n]).astype(np.float64)
    values, error = symmetric_values(upper + np.triu(upper, 1).T)
    values, error = values[:count], error + gram_error
    roots = [np.sqrt(np.maximum(values + shift, 0.0)) for shift in (0.0, -error, error)]
    return Bracket(roots[0], roots[1], roots[2], operator.method + "+dense", "ok", "full")


def _bracket(operator: Operator, found: Found, upper: np.ndarray | None, status: str, certificate: str) -> Bracket:
    """Square roots of values and bounds; where nothing is proven above, the iteration's own estimate."""
    sigma = np.sqrt(found.values)
    lo = np.minimum(np.sqrt(found.lower), sigma)
    hi = sigma * (1 + max(found.error, 1e-12)) + math.sqrt(FLOOR) * sigma[0] * (sigma < 1e-6 * sigma[0])
    if upper is not None:
        proven = np.isfinite(upper)
        hi[proven] = np.sqrt(upper[proven])
    if len(hi) > 1 and upper is not None:
        image = np.empty(operator.n)
        operator.apply(found.vectors[0], image)
        residual = float(np.linalg.norm(image - found.values[0] * found.vectors[0]))
        hi[0] = math.sqrt(perron_upper_bound(found.values[0], residual, upper[1], operator.rounding, operator.trace))
    hi = np.maximum(hi, sigma)
    return Bracket(sigma, lo, hi, operator.method, status, certificate)
