r"""Singular values of a convolution laid out over its positions, which is never built.

*On a torus, with stride 1,* the operator is block-diagonal in the Fourier basis: at frequency w it is
:math:`A_w = \sum_k M_k e^{-i w \cdot k}`, outputs by inputs. So :math:`\sigma_1` is that of :math:`\sum_k M_k`, which
is :math:`A_0`, and :math:`\sigma_2` the larger of :math:`\sigma_2(A_0)` and :math:`\max_{w \ne 0} \sigma_1(A_w)`:
no :math:`A_w` exceeds :math:`A_0`, entry by entry, in absolute value.

*With padding and stride* it is applied: a product of M_k with the pixels that kernel position k meets, for each k.
Lanczos runs twice, the second time orthogonal to the first vector, so that a repeated :math:`\sigma_1` counts twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sift_graph.encodings.geometry import Geometry
from sift_graph.graph import BipartiteGraph
from sift_graph.spectrum.lanczos import lanczos, ritz_vectors
from sift_graph.spectrum.result import Spectrum
from sift_graph.spectrum.solve import leading

__all__ = ["Unrolled", "unrolled_leading"]

UNIT = 2.0**-53
TOLERANCE = 1e-9
STEPS = 1000
DENSE_SIDE = 512
CHUNK = 1 << 21  # complex entries of a stack of frequencies


@dataclass(frozen=True, eq=False)
class Unrolled:
    """A convolution over its positions.

    Attributes
    ----------
    kernels : ndarray of float64, shape (groups, positions of the kernel, outputs, inputs)
        Entries of M_k, not negative; outputs and inputs of one group.
    kernel : tuple of int
        Sizes of the kernel.
    geometry : Geometry
    circular : bool
    """

    kernels: np.ndarray
    kernel: tuple[int, ...]
    geometry: Geometry
    circular: bool

    @classmethod
    def from_dense(
        cls, matrix: np.ndarray, groups: int, kernel: tuple[int, ...], geometry: Geometry, *, circular: bool
    ) -> Unrolled:
        """Take the entries as ``(out, in / groups, kernel positions)``."""
        grouped = np.abs(matrix.astype(np.float64)).reshape(groups, -1, *matrix.shape[1:])
        return cls(np.ascontiguousarray(grouped.transpose(0, 3, 1, 2)), kernel, geometry, circular)

    @property
    def n_left(self) -> int:
        """Channels times pixels that come in."""
        return int(self.kernels.shape[0] * self.kernels.shape[3]) * self.geometry.pixels

    @property
    def n_right(self) -> int:
        """Channels times positions that go out."""
        positions = self.geometry.pixels if self.circular else self.geometry.positions
        return int(self.kernels.shape[0] * self.kernels.shape[2]) * positions

    def taps(self) -> list[tuple[Any, Any]]:
        """List what each kernel position joins, as indices; for the torus, see :meth:`shifts`."""
        return [((..., *pixels), (..., *positions)) for pixels, positions in self.geometry.taps(self.kernel)]

    def shifts(self) -> np.ndarray:
        """How far each kernel position reaches on the torus, int64, shape (kernel positions, axes)."""
        steps = np.indices(self.kernel).reshape(len(self.kernel), -1).T
        moved: np.ndarray = steps * np.array(self.geometry.dilation) - np.array(self.geometry.padding)
        return -moved if self.geometry.transposed else moved

    def times(self, x: np.ndarray) -> np.ndarray:
        """Apply to pixels, shape (groups, inputs, *size); give (groups, outputs, *output)."""
        groups, _, outputs, _ = self.kernels.shape
        size = self.geometry.size if self.circular else self.geometry.output
        y = np.zeros((groups, outputs, *size))
        if self.circular:
            for k, shift in enumerate(self.shifts()):
                y += product(self.kernels[:, k], np.roll(x, tuple(-shift), axis=tuple(range(2, x.ndim))))
            return y
        for k, (pixels, positions) in enumerate(self.taps()):
            y[positions] += product(self.kernels[:, k], x[pixels])
        return y

    def times_transposed(self, y: np.ndarray) -> np.ndarray:
        """Apply the other way, shape (groups, outputs, *output) to (groups, inputs, *size)."""
        groups, _, _, inputs = self.kernels.shape
        turned = self.kernels.transpose(0, 1, 3, 2)
        x = np.zeros((groups, inputs, *self.geometry.size))
        if self.circular:
            for k, shift in enumerate(self.shifts()):
                x += np.roll(product(turned[:, k], y), tuple(shift), axis=tuple(range(2, y.ndim)))
            return x
        for k, (pixels, positions) in enumerate(self.taps()):
            x[pixels] += product(turned[:, k], y[positions])
        return x

    def degrees(self) -> tuple[np.ndarray, np.ndarray]:
        """Sum the entries at each left and each right vertex, float64."""
        groups, _, outputs, inputs = self.kernels.shape
        size = self.geometry.size if self.circular else self.geometry.output
        right = self.times(np.ones((groups, inputs, *self.geometry.size)))
        left = self.times_transposed(np.ones((groups, outputs, *size)))
        return left.reshape(-1), right.reshape(-1)

    def scaled(self, left: np.ndarray, right: np.ndarray) -> Scaled:
        """Divide entry (l, r) by the root of ``left[l] right[r]``."""
        roots = [np.divide(1.0, np.sqrt(d), out=np.zeros_like(d), where=d > 0) for d in (left, right)]
        return Scaled(self, *roots)


@dataclass(frozen=True, eq=False)
class Scaled:
    """An unrolled convolution with its rows and columns scaled."""

    base: Unrolled
    left: np.ndarray
    right: np.ndarray

    def times(self, x: np.ndarray) -> np.ndarray:
        """As :meth:`Unrolled.times`."""
        y = self.base.times(x * self.left.reshape(x.shape))
        y *= self.right.reshape(y.shape)
        return y

    def times_transposed(self, y: np.ndarray) -> np.ndarray:
        """As :meth:`Unrolled.times_transposed`."""
        x = self.base.times_transposed(y * self.right.reshape(y.shape))
        x *= self.left.reshape(x.shape)
        return x


def product(matrices: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Multiply a matrix of each group with all pixels, whatever their axes."""
    flat = np.ascontiguousarray(pixels).reshape(*pixels.shape[:2], -1)
    found: np.ndarray = np.matmul(matrices, flat).reshape(*matrices.shape[:2], *pixels.shape[2:])
    return found


def unrolled_leading(operator: Unrolled, *, normalised: bool = False) -> Spectrum:
    """Compute the two largest singular values of an unrolled convolution.

    Parameters
    ----------
    operator : Unrolled
    normalised : bool
        Of the matrix divided by the roots of its row and column sums.

    Returns
    -------
    Spectrum
        All NaN with status ``empty`` if it has no entries. On the torus the upper bound of sigma_2 is proven by a
        Cholesky factorisation at each frequency; else it is what the entries and their squares allow.

    Examples
    --------
    >>> ones = np.ones((4, 3, 9))
    >>> conv = Unrolled.from_dense(ones, 1, (3, 3), Geometry.plain((8, 8), (3, 3)), circular=True)
    >>> round(unrolled_leading(conv).sigma_1, 9) == round(9 * math.sqrt(12), 9)
    True
    """
    if not operator.kernels.any():
        nothing = np.full(2, np.nan)
        return Spectrum(nothing, nothing, nothing, "none", "empty")
    if operator.circular and not normalised:
        return on_torus(operator)
    left, right = operator.degrees()
    squares = replace(operator, kernels=operator.kernels**2).degrees()[0].sum()
    if not normalised:
        return by_lanczos(operator, operator, limit=math.sqrt(left.max() * right.max()), squares=float(squares))
    return by_lanczos(operator.scaled(left, right), operator, limit=1.0, squares=math.inf)


def by_lanczos(matrix: Unrolled | Scaled, operator: Unrolled, *, limit: float, squares: float) -> Spectrum:
    """Two values of a matrix that can be applied; `limit` bounds the first, `squares` is the sum of all squared."""
    groups, _, outputs, inputs = operator.kernels.shape
    size = operator.geometry.size
    output = size if operator.circular else operator.geometry.output
    wide = operator.n_left >= operator.n_right
    shape = (groups, outputs, *output) if wide else (groups, inputs, *size)

    def apply(x: np.ndarray, y: np.ndarray) -> None:
        block = x.reshape(shape)
        back = matrix.times(matrix.times_transposed(block)) if wide else matrix.times_transposed(matrix.times(block))
        y[:] = back.reshape(-1)

    length = math.prod(shape)
    first = np.empty(length)
    apply(np.random.default_rng(20240305).uniform(0.65, 1.35, length), first)
    values, errors = [], []
    locked: np.ndarray | None = None
    for start in (first, np.random.default_rng(20240306).standard_normal(length)):
        if locked is not None and length == 1:
            values.append(0.0)
            errors.append(0.0)
            break
        basis, alpha, beta, theta, error = lanczos(apply, start, count=1, tol=TOLERANCE, locked=locked, max_steps=STEPS)
        values.append(math.sqrt(max(float(theta[0]), 0.0)))
        errors.append(error)
        vectors = np.empty((1, length))
        ritz_vectors(basis, alpha, beta, len(basis), length, theta, vectors)
        locked = vectors / np.linalg.norm(vectors)
    sigma = np.array(values)
    slack = 64 * UNIT * (len(operator.kernels[0]) * inputs + outputs)
    lo = np.maximum(sigma * (1 - slack) - 1e-12 * sigma[0], 0.0)
    rest = math.sqrt(max(squares - lo[0] ** 2, 0.0)) * (1 + slack)
    hi = np.array([max(limit * (1 + slack), sigma[0]), max(min(limit * (1 + slack), rest), sigma[1])])
    status = "ok" if max(errors) <= 10 * TOLERANCE else "not_converged"
    return Spectrum(sigma, lo, hi, "matrix_free", status, "full")


def on_torus(operator: Unrolled) -> Spectrum:
    """Both values, frequency by frequency."""
    counts = operator.kernels.sum(axis=1)
    base = leading(from_counts(counts), kind="weighted", certify="full", tol=1e-9)
    found, proven = frequencies(operator)
    sigma = np.array([base.sigma_1, max(base.sigma_2, found)])
    lo = np.array([base.lo[0], max(base.lo[1], found * (1 - 1e-9))])
    hi = np.array([base.hi[0], max(base.hi[1], proven)])
    return Spectrum(sigma, lo, np.maximum(hi, sigma), "fourier", base.status, base.certificate)


def from_counts(counts: np.ndarray) -> BipartiteGraph:
    """Read a stack of matrices, one a group, as a graph with weights."""
    from sift_graph.masks import LayerMask

    flat = counts.reshape(-1, counts.shape[2])
    return BipartiteGraph.from_mask(LayerMask.from_dense("torus", flat > 0, flat, groups=len(counts)))


def frequencies(operator: Unrolled) -> tuple[float, float]:
    """Largest singular value over all frequencies but 0, and a proven upper bound of it."""
    size, axes = operator.geometry.size, len(operator.geometry.size)
    grid = np.indices(size).reshape(axes, -1).T
    mirrored = np.ravel_multi_index(tuple((-grid % np.array(size)).T), size)
    numbers = np.arange(len(grid))
    grid = grid[(numbers <= mirrored) & (numbers > 0)]  # the kernels are real: w and -w have the same values
    if not len(grid):
        return 0.0, 0.0
    groups, positions, outputs, inputs = operator.kernels.shape
    angle = 2 * math.pi * (operator.shifts() % np.array(size)) / np.array(size)
    flat = operator.kernels.transpose(1, 0, 2, 3).reshape(positions, -1)
    step = max(1, CHUNK // max(1, flat.shape[1]))
    side, other = min(outputs, inputs), max(outputs, inputs)
    squares = float((np.sum(flat, axis=0) ** 2).reshape(groups, -1).sum(axis=1).max())  # of |A_w|, at most
    margin = 8 * (side + other + positions) * UNIT * squares
    best, chunks = 0.0, []
    for start in range(0, len(grid), step):
        chunks.append(grid[start : start + step])
        best = max(best, largest(grams(flat, angle, chunks[-1], outputs, inputs)))
    level = (best * (1 + 1e-8)) ** 2 + 2 * margin
    try:
        for chunk in chunks:
            np.linalg.cholesky(level * np.eye(side) - grams(flat, angle, chunk, outputs, inputs))
    except np.linalg.LinAlgError:  # a frequency was underestimated: what the entries allow, then
        sums = operator.kernels.sum(axis=1)
        return best, float(np.sqrt(sums.sum(axis=1).max() * sums.sum(axis=2).max()) * (1 + 1e-12))
    return best, math.sqrt(level + margin)


def grams(flat: np.ndarray, angle: np.ndarray, grid: np.ndarray, outputs: int, inputs: int) -> np.ndarray:
    """Gram matrices of A_w at some frequencies, on its smaller side: one for each frequency and group."""
    phases = grid @ angle.T
    real, imaginary = np.cos(phases) @ flat, np.sin(phases) @ flat
    a = (real - 1j * imaginary).reshape(-1, outputs, inputs)
    turned = a.conj().transpose(0, 2, 1)
    gram: np.ndarray = a @ turned if outputs <= inputs else turned @ a
    return gram


def largest(stack: np.ndarray) -> float:
    """Root of the largest eigenvalue of a stack of Hermitian matrices."""
    side = stack.shape[1]
    if side <= DENSE_SIDE:
        return math.sqrt(max(float(np.linalg.eigvalsh(stack)[:, -1].max()), 0.0))
    best = 0.0
    start = np.random.default_rng(20240307).standard_normal(2 * side)
    for gram in stack:
        both = np.block([[gram.real, -gram.imag], [gram.imag, gram.real]])  # each eigenvalue twice

        def apply(x: np.ndarray, y: np.ndarray, both: np.ndarray = both) -> None:
            y[:] = both @ x

        theta = lanczos(apply, start, count=1, tol=TOLERANCE, max_steps=STEPS)[3]
        best = max(best, math.sqrt(max(float(theta[0]), 0.0)))
    return best
