"""Build the operator x -> A A^T x of a block in the form that :mod:`sift_graph.spectrum.choose` picked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sift_graph.bits import count_rows, gram_times_single, times, times_transposed
from sift_graph.errors import SpectrumError
from sift_graph.spectrum import kernels
from sift_graph.spectrum.certificate import UNIT
from sift_graph.spectrum.gram import gram_of_bits, mirror

__all__ = [
    "Operator",
    "dense_gram",
    "gram_operator",
    "integer_gram",
    "matrix_operator",
    "packed_operator",
    "sparse_operator",
]

CHUNK = 1 << 21  # entries unpacked at a time where a weighted Gram is formed


@dataclass(frozen=True, eq=False)
class Operator:
    """A symmetric operator with entries that are not negative, and what a proof needs to know about it.

    Attributes
    ----------
    n : int
        Its size.
    apply : callable
        ``apply(x, y)`` writes G x to y.
    diagonal : ndarray of float64, shape (n,)
    trace : float
        Sum of the diagonal, rounded up: an upper bound of the largest eigenvalue.
    rounding : float
        Relative error of x^T G x as it is computed, as a multiple of the largest eigenvalue.
    form_gram : callable
        Returns G as a dense array, of which the upper triangle counts, and a bound of its error in norm.
    method : str
    gram : ndarray of float32 or float64, or None
        The same array, where it is at hand.
    perron : ndarray of float64, shape (n,), or None
        The unit eigenvector of the largest eigenvalue, where it is known.
    rough : callable, optional
        The same as `apply` in float32, at half the price.
    quadratic : callable, optional
        ``quadratic(Z)`` returns Z G Z^T for the cost of half an `apply` a row.
    """

    n: int
    apply: Callable[[np.ndarray, np.ndarray], None]
    diagonal: np.ndarray
    trace: float
    rounding: float
    form_gram: Callable[[], tuple[np.ndarray, float]]
    method: str
    gram: np.ndarray | None = None
    perron: np.ndarray | None = None
    rough: Callable[[np.ndarray, np.ndarray], None] | None = None
    quadratic: Callable[[np.ndarray], np.ndarray] | None = None


def integer_gram(bits: np.ndarray, *, whole: bool = True) -> np.ndarray:
    """Count the common neighbours of any two packed rows, exactly; if not `whole`, above the diagonal only."""
    if 64 * bits.shape[1] >= 1 << 24 and count_rows(bits).max() >= 1 << 24:
        raise SpectrumError(
            "a vertex has 2**24 edges or more: common neighbours are counted in float32; use certify='off'"
        )
    gram = np.empty((len(bits), len(bits)), dtype=np.float32)
    gram_of_bits(bits, gram)
    if whole:
        mirror(gram)
    return gram


def gram_operator(bits: np.ndarray, *, uneven: bool = False) -> Operator:
    """Apply the exact integer Gram of packed rows; `uneven` ones are put in order of their degrees."""
    if uneven:  # a row is added up for those behind it only, so the fullest ones should come last
        bits = bits[np.argsort(count_rows(bits))]
    gram, n = integer_gram(bits, whole=False), len(bits)
    diagonal = gram.diagonal().astype(np.float64)
    return Operator(
        n,
        lambda x, y: kernels.symmetric_times(gram, n, x, y),
        diagonal,
        float(diagonal.sum()),
        2 * (n + 8) * UNIT,
        lambda: (gram, 0.0),
        "gram+lanczos",
        gram,
    )


def matrix_operator(matrix: np.ndarray) -> Operator:
    """Apply the Gram of a dense float64 matrix of entries that are not negative, on its smaller side."""
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    n, m = matrix.shape
    gram = matrix @ matrix.T
    diagonal = gram.diagonal().copy()
    trace = float(diagonal.sum()) * (1 + 1e-9)
    error = (m + 64) * UNIT * trace
    rounding = (2 * n + m + 64) * UNIT
    return Operator(
        n,
        lambda x, y: kernels.symmetric_times(gram, n, x, y),
        diagonal,
        trace,
        rounding,
        lambda: (gram, error),
        "gram+lanczos",
        gram,
    )


def packed_operator(bits: np.ndarray, columns: int, *, rough: bool = False) -> Operator:
    """Products straight from packed rows; with `rough`, also in float32."""
    n, padded = len(bits), 64 * bits.shape[1]
    across = np.empty(padded)

    def apply(x: np.ndarray, y: np.ndarray) -> None:
        times_transposed(bits, x, across)
        times(bits, across, y)

    def quadratic(vectors: np.ndarray) -> np.ndarray:
        halves = np.empty((len(vectors), padded))
        for vector, half in zip(vectors, halves, strict=True):
            times_transposed(bits, vector, half)
        return halves @ halves.T

    def single(x: np.ndarray, y: np.ndarray) -> None:
        gram_times_single(bits, x, y)

    diagonal = count_rows(bits).astype(np.float64)
    rounding = (2 * n + columns + 16) * UNIT
    trace = float(diagonal.sum())
    return Operator(
        n,
        apply,
        diagonal,
        trace,
        rounding,
        lambda: (integer_gram(bits, whole=False), 0.0),
        "matrix_free",
        rough=single if rough else None,
        quadratic=quadratic,
    )


def sparse_operator(
    n: int,
    starts: np.ndarray,
    index: np.ndarray,
    values: np.ndarray,
    row_scale: np.ndarray,
    column_scale: np.ndarray,
    *,
    rough: bool = False,
) -> Operator:
    """Products from lists of edges, one list for each vertex of the larger side.

    Parameters
    ----------
    n : int
        Vertices of the smaller side.
    starts : ndarray of int64, shape (columns + 1,)
        Where the list of each vertex of the larger side begins.
    index : ndarray of uint16 or int32, shape (edges,)
        The vertex of the smaller side at each edge.
    values : ndarray of float32 or float64, shape (edges,) or (0,)
        Absolute weights; none for ones.
    row_scale : ndarray of float64, shape (n,) or (0,)
        Factor of each vertex of the smaller side; none for ones.
    column_scale : ndarray of float64, shape (columns,) or (0,)
        Square of the factor of each vertex of the larger side; none for ones.
    rough : bool
        Offer products in float32 too; without scales only, of numbers that float32 can square.

    Returns
    -------
    Operator
    """
    columns = starts.size - 1
    scaled = np.empty(n)

    def apply(x: np.ndarray, y: np.ndarray) -> None:
        if row_scale.size:
            np.multiply(x, row_scale, out=scaled)
            kernels.sparse_step(starts, index, values, column_scale, scaled, y)
            np.multiply(y, row_scale, out=y)
        else:
            kernels.sparse_step(starts, index, values, column_scale, x, y)

    def single(x: np.ndarray, y: np.ndarray) -> None:
        narrow = np.empty(n, dtype=np.float32)
        kernels.sparse_step(starts, index, values, column_scale, x.astype(np.float32), narrow)
        y[:] = narrow

    def quadratic(vectors: np.ndarray) -> np.ndarray:
        halves = np.empty((len(vectors), columns))
        kernels.sparse_dots(starts, index, values, vectors * row_scale if row_scale.size else vectors, halves)
        product: np.ndarray = (halves * column_scale if column_scale.size else halves) @ halves.T
        return product

    diagonal = kernels.sparse_squares(n, starts, index, values, column_scale)
    if row_scale.size:
        diagonal *= np.square(row_scale)
    longest = int(np.diff(starts).max(initial=0))
    rounding = (longest + 2 * n + columns + 32) * UNIT
    trace = float(diagonal.sum()) * (1 + 1e-9)
    safe = 1e-25 < trace < 1e25 and values.dtype == np.float32  # far from where float32 ends

    def form() -> tuple[np.ndarray, float]:
        return dense_gram(n, starts, index, values, row_scale, column_scale), (columns + 64) * UNIT * trace

    return Operator(
        n,
        apply,
        diagonal,
        trace,
        rounding,
        form,
        "matrix_free",
        rough=single if rough and safe and not row_scale.size and not column_scale.size else None,
        quadratic=quadratic,
    )


def dense_gram(
    n: int, starts: np.ndarray, index: np.ndarray, values: np.ndarray, row_scale: np.ndarray, column_scale: np.ndarray
) -> np.ndarray:
    """G in float64 from lists of edges, some columns at a time; arguments as in :func:`sparse_operator`."""
    gram = np.zeros((n, n))
    step = max(1, CHUNK // max(n, 1))
    for first in range(0, starts.size - 1, step):
        last = min(first + step, starts.size - 1)
        edges = slice(starts[first], starts[last])
        chunk = np.zeros((last - first, n))
        at = np.repeat(np.arange(last - first), np.diff(starts[first : last + 1]))
        chunk[at, index[edges]] = values[edges] if values.size else 1.0
        if row_scale.size:
            chunk *= row_scale
        if column_scale.size:
            chunk *= np.sqrt(column_scale[first:last, None])
        gram += chunk.T @ chunk
    return gram
