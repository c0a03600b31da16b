r"""The operators that a Lanczos iteration applies, all :math:`x \mapsto A A^T x` on the smaller side.

Three forms of one product:

Gram
    :math:`G = A A^T` held dense. For a 0/1 matrix :math:`G_{ij}` is the number of common neighbours of i and j, the
    population count of the AND of two packed rows: an integer below :math:`2^{24}`, hence exact in float32, which
    halves the memory that every step reads. Counting takes :math:`n^2 m / 128` word operations, a step :math:`n^2`
    multiply-adds in float64.
packed
    :math:`A (c \circ A^T x)` from the bits (:mod:`sift_graph.bits`), :math:`n m / 32` word operations a step,
    whatever the density.
sparse
    :math:`\sum_l c_l\, a_l (a_l^T x)` over the columns :math:`a_l` of A, each a short list of row indices, with
    values or without: one pass that gathers and scatters in a vector of the small side, which stays in the first
    cache. Two operations an edge.

The coefficients c are one, or inverse degrees where the normalised biadjacency is asked for.
"""

from __future__ import annotations

import numba
import numpy as np

from sift_graph.bits import popcount

__all__ = ["gram_of_bits", "sparse_step", "symmetric_times"]

TILE = 64  # rows of one tile: with the four rows they meet they fit the second cache up to 100 000 columns
SPEED = {"reassoc", "contract", "nsz"}  # sums in any order: each bound of this package allows that


@numba.njit(cache=True, fastmath=SPEED)
def gram_of_bits(bits: np.ndarray, gram: np.ndarray) -> None:
    """Write the exact Gram matrix of packed rows to ``gram[:n, :n]``, four rows against four at a time.

    Sixteen counts stay in registers while eight rows stream by: each loaded word takes part in four counts.
    """
    n, words = bits.shape
    for tile in range(0, n, TILE):
        end = min(tile + TILE, n)
        for i in range(0, end, 4):
            a0, a1, a2, a3 = bits[i], bits[min(i + 1, n - 1)], bits[min(i + 2, n - 1)], bits[min(i + 3, n - 1)]
            for j in range(max(tile, i), end, 4):
                b0, b1, b2, b3 = bits[j], bits[min(j + 1, n - 1)], bits[min(j + 2, n - 1)], bits[min(j + 3, n - 1)]
                s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = np.uint64(0)
                s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = np.uint64(0)
                for k in range(words):
                    p, q, r, s = b0[k], b1[k], b2[k], b3[k]
                    x = a0[k]
                    s00 += popcount(x & p)
                    s01 += popcount(x & q)
                    s02 += popcount(x & r)
                    s03 += popcount(x & s)
                    x = a1[k]
                    s10 += popcount(x & p)
                    s11 += popcount(x & q)
                    s12 += popcount(x & r)
                    s13 += popcount(x & s)
                    x = a2[k]
                    s20 += popcount(x & p)
                    s21 += popcount(x & q)
                    s22 += popcount(x & r)
                    s23 += popcount(x & s)
                    x = a3[k]
                    s30 += popcount(x & p)
                    s31 += popcount(x & q)
                    s32 += popcount(x & r)
                    s33 += popcount(x & s)
                _put(gram, n, i, j, s00, s01, s02, s03)
                _put(gram, n, i + 1, j, s10, s11, s12, s13)
                _put(gram, n, i + 2, j, s20, s21, s22, s23)
                _put(gram, n, i + 3, j, s30, s31, s32, s33)


@numba.njit(cache=True, inline="always")
def _put(gram, n, i, j, s0, s1, s2, s3):  # type: ignore[no-untyped-def]
    """Four counts of row i, and their mirror images."""
    if i < n:
        gram[i, j] = s0
        gram[j, i] = s0
        if j + 1 < n:
            gram[i, j + 1] = s1
            gram[j + 1, i] = s1
        if j + 2 < n:
            gram[i, j + 2] = s2
            gram[j + 2, i] = s2
        if j + 3 < n:
            gram[i, j + 3] = s3
            gram[j + 3, i] = s3


@numba.njit(cache=True, fastmath=SPEED)
def symmetric_times(gram: np.ndarray, n: int, x: np.ndarray, y: np.ndarray) -> None:
    """Write y = G x for the leading n x n part of a float32 or float64 matrix, all arithmetic in float64."""
    done = n // 4 * 4
    for i in range(0, done, 4):
        a, b, c, d = gram[i], gram[i + 1], gram[i + 2], gram[i + 3]
        s0 = s1 = s2 = s3 = 0.0
        for j in range(n):
            v = x[j]
            s0 += a[j] * v
            s1 += b[j] * v
            s2 += c[j] * v
            s3 += d[j] * v
        y[i], y[i + 1], y[i + 2], y[i + 3] = s0, s1, s2, s3
    for i in range(done, n):
        a = gram[i]
        s0 = 0.0
        for j in range(n):
            s0 += a[j] * x[j]
        y[i] = s0


@numba.njit(cache=True)
def sparse_step(
    starts: np.ndarray, index: np.ndarray, values: np.ndarray, coefficients: np.ndarray, x: np.ndarray, z: np.ndarray
) -> None:
    """Write z = sum over columns l of c_l a_l (a_l . x); `values` is empty for a 0/1 matrix, `coefficients` for ones.

    Eight partial sums hide the latency of the gathers; the four scatters of a group go to four different rows.
    """
    z[:] = 0.0
    for column in range(starts.size - 1):
        at = index[starts[column] : starts[column + 1]]
        count = at.size
        s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
        eights, fours = count // 8 * 8, count // 4 * 4
        if values.size:
            w = values[starts[column] : starts[column + 1]]
            for k in range(0, eights, 8):
                s0 += w[k] * x[at[k]]
                s1 += w[k + 1] * x[at[k + 1]]
                s2 += w[k + 2] * x[at[k + 2]]
                s3 += w[k + 3] * x[at[k + 3]]
                s4 += w[k + 4] * x[at[k + 4]]
                s5 += w[k + 5] * x[at[k + 5]]
                s6 += w[k + 6] * x[at[k + 6]]
                s7 += w[k + 7] * x[at[k + 7]]
            for k in range(eights, count):
                s0 += w[k] * x[at[k]]
            v = ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))
            if coefficients.size:
                v *= coefficients[column]
            for k in range(0, fours, 4):
                i0, i1, i2, i3 = at[k], at[k + 1], at[k + 2], at[k + 3]
                z0, z1, z2, z3 = z[i0] + v * w[k], z[i1] + v * w[k + 1], z[i2] + v * w[k + 2], z[i3] + v * w[k + 3]
                z[i0], z[i1], z[i2], z[i3] = z0, z1, z2, z3
            for k in range(fours, count):
                z[at[k]] += v * w[k]
        else:
            for k in range(0, eights, 8):
                s0 += x[at[k]]
                s1 += x[at[k + 1]]
                s2 += x[at[k + 2]]
                s3 += x[at[k + 3]]
                s4 += x[at[k + 4]]
                s5 += x[at[k + 5]]
                s6 += x[at[k + 6]]
                s7 += x[at[k + 7]]
            for k in range(eights, count):
                s0 += x[at[k]]
            v = ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))
            if coefficients.size:
                v *= coefficients[column]
            for k in range(0, fours, 4):
                i0, i1, i2, i3 = at[k], at[k + 1], at[k + 2], at[k + 3]
                z0, z1, z2, z3 = z[i0] + v, z[i1] + v, z[i2] + v, z[i3] + v
                z[i0], z[i1], z[i2], z[i3] = z0, z1, z2, z3
            for k in range(fours, count):
                z[at[k]] += v
