r"""N:M masks that stay N:M when they are transposed.

A weight is cut into blocks of M by M, true sub-matrices of the matrix of outputs by inputs times kernel positions, and
each block keeps N weights in every row and every column, of the largest sum of magnitudes that there is (``exact``) or
nearly (``greedy``). N counts what is kept. As each block is biregular, so is the whole layer.

References
----------
.. [1] I. Hubara et al., "Accelerated Sparse Neural Training: A Provable and Efficient Method to Find N:M Transposable
   Masks", NeurIPS 2021. There the released blocks are M² consecutive elements of a flattened row, the greedy masks may
   lack some ones, and the exact ones come from an integer program.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
from scipy.optimize import linprog
from scipy.sparse import block_diag, csr_array

from sift_graph.errors import UsageError

__all__ = ["ASSIGNMENTS", "exact_blocks", "greedy_blocks", "transposable_mask"]

BLOCKS_AT_A_TIME = 64  # in one linear program


@numba.njit(cache=True)
def greedy_block(values: np.ndarray, n: int) -> np.ndarray:
    """Accept the largest while row and column have room; then exchange until each has N."""
    m = len(values)
    chosen = np.zeros((m, m), dtype=np.bool_)
    rows, columns = np.zeros(m, dtype=np.int64), np.zeros(m, dtype=np.int64)
    order = np.argsort(-values.ravel(), kind="mergesort")
    for position in order:
        i, j = position // m, position % m
        if rows[i] < n and columns[j] < n:
            chosen[i, j] = True
            rows[i] += 1
            columns[j] += 1
    # Where row i and column j lack one, (i, j) is chosen already. There is always a chosen (r, c) with (i, c) and
    # (r, j) free: otherwise every such row and column would lack ones too, and (r, c) would have been accepted above.
    for i in range(m):
        while rows[i] < n:
            j = int(np.argmin(columns))
            if not chosen[i, j]:
                chosen[i, j] = True
            else:
                best, best_r, best_c = -np.inf, -1, -1
                for r in range(m):
                    for c in range(m):
                        if chosen[r, c] and not chosen[i, c] and not chosen[r, j]:
                            gain = values[i, c] + values[r, j] - values[r, c]
                            if gain > best:
                                best, best_r, best_c = gain, r, c
                chosen[best_r, best_c] = False
                chosen[i, best_c] = True
                chosen[best_r, j] = True
            rows[i] += 1
            columns[j] += 1
    return chosen


@numba.njit(cache=True)
def greedy_blocks(values: np.ndarray, n: int) -> np.ndarray:
    """Choose N in each row and column of each block: at least half of the largest sum there is.

    Parameters
    ----------
    values : ndarray of float, shape (blocks, M, M)
        Not negative.
    n : int

    Returns
    -------
    ndarray of bool, shape (blocks, M, M)
    """
    chosen = np.zeros(values.shape, dtype=np.bool_)
    for b in range(len(values)):
        chosen[b] = greedy_block(values[b], n)
    return chosen


def exact_blocks(values: np.ndarray, n: int) -> np.ndarray:
    """Choose N in each row and column of each block, of the largest sum there is.

    It is a transportation problem, whose linear program has integral vertices; the simplex method ends at one.

    Parameters
    ----------
    values : ndarray of float, shape (blocks, M, M)
    n : int

    Returns
    -------
    ndarray of bool, shape (blocks, M, M)
    """
    m = values.shape[1]
    ones, identity = np.ones((1, m)), np.eye(m)
    margins = csr_array(np.vstack([np.kron(identity, ones), np.kron(ones, identity)]))
    parts = []
    for start in range(0, len(values), BLOCKS_AT_A_TIME):
        part = values[start : start + BLOCKS_AT_A_TIME].astype(np.float64)
        scale = part.max(initial=0.0) or 1.0  # the solver's tolerances are absolute
        solution = linprog(
            -part.ravel() / scale,
            A_eq=block_diag([margins] * len(part), format="csr"),
            b_eq=np.full(2 * m * len(part), float(n)),
            bounds=(0, 1),
            method="highs-ds",
        )
        assert solution.x is not None  # N / M everywhere is feasible
        parts.append(np.asarray(solution.x > 0.5).reshape(part.shape))
    return np.concatenate(parts) if parts else np.zeros(values.shape, dtype=np.bool_)


ASSIGNMENTS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {"greedy": greedy_blocks, "exact": exact_blocks}


def transposable_mask(values: np.ndarray, pattern: tuple[int, ...], *, assignment: str = "greedy") -> np.ndarray:
    """Choose a transposable N:M mask of a matrix.

    Parameters
    ----------
    values : ndarray of float, shape (rows, columns)
        Not negative; both axes divisible by M.
    pattern : tuple of int
        N and M.
    assignment : {"greedy", "exact"}

    Returns
    -------
    ndarray of bool
        With N ones in each row and each column of each M by M block.

    Raises
    ------
    UsageError
        If M does not divide the matrix, or N exceeds M.

    Examples
    --------
    >>> mask = transposable_mask(np.arange(16.0).reshape(4, 4), (2, 4))
    >>> mask.sum(0).tolist(), mask.sum(1).tolist()
    ([2, 2, 2, 2], [2, 2, 2, 2])
    """
    n, m = pattern
    rows, columns = values.shape
    if not 1 <= n <= m:
        raise UsageError(f"pattern {n}:{m}: expected to keep between 1 and {m} of {m}")
    if rows % m or columns % m:
        raise UsageError(f"pattern {n}:{m}: blocks of {m} by {m} do not divide a matrix of {rows} by {columns}")
    blocks = np.ascontiguousarray(values.reshape(rows // m, m, columns // m, m).swapaxes(1, 2)).reshape(-1, m, m)
    chosen = ASSIGNMENTS[assignment](blocks, n)
    return np.ascontiguousarray(chosen.reshape(rows // m, columns // m, m, m).swapaxes(1, 2)).reshape(rows, columns)
