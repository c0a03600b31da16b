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

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

__all__ = ["gram_of_bits", "sparse_step", "symmetric_times"]

ROWS, LANES = 4, 16  # of one tile: eight vectors of counts, four words spread out, two loaded: half the registers
WORD = ir.IntType(64)
EIGHT_WORDS, EIGHT_FLOATS = ir.VectorType(WORD, 8), ir.VectorType(ir.FloatType(), 8)
SPEED = {"reassoc", "contract", "nsz"}  # sums in any order: each bound of this package allows that


def _emit_count_tile(typing: Any, rows: Any, stride: Any, columns: Any, words: Any, out: Any) -> Any:
    """Count the common bits of `ROWS` rows with `LANES` others, whose words lie side by side.

    A word of each row is spread over a vector and meets the same word of eight others, so no vector is ever summed
    across; all counts stay in registers until the last word.

    Returns
    -------
    tuple
        Signature and code generator, as numba's ``intrinsic`` wants them.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows, stride, columns, words, out = arguments
        insert: Any = cgutils.get_or_insert_function
        count = insert(builder.module, ir.FunctionType(EIGHT_WORDS, [EIGHT_WORDS]), "llvm.ctpop.v8i64")
        zero, undefined = ir.Constant(EIGHT_WORDS, [ir.Constant(WORD, 0)] * 8), ir.Constant(EIGHT_WORDS, ir.Undefined)
        lane = ir.Constant(ir.VectorType(ir.IntType(32), 8), [ir.Constant(ir.IntType(32), 0)] * 8)
        before = builder.block
        loop, after = builder.append_basic_block("words"), builder.append_basic_block("counted")
        builder.branch(loop)
        builder.position_at_end(loop)
        k = builder.phi(WORD)
        sums = [builder.phi(EIGHT_WORDS) for _ in range(ROWS * LANES // 8)]
        base = builder.add(columns, builder.mul(k, WORD(8 * LANES)))
        pointers = [
            builder.inttoptr(builder.add(base, WORD(64 * j)), EIGHT_WORDS.as_pointer()) for j in range(LANES // 8)
        ]
        others = [builder.load(at, align=8) for at in pointers]
        counted = []
        for r in range(ROWS):
            place = builder.add(builder.add(rows, builder.mul(stride, WORD(r))), builder.mul(k, WORD(8)))
            word = builder.load(builder.inttoptr(place, WORD.as_pointer()))
            spread = builder.shuffle_vector(builder.insert_element(undefined, word, ir.IntType(32)(0)), undefined, lane)
            counted += [builder.call(count, [builder.and_(spread, other)]) for other in others]
        totals = [builder.add(old, more) for old, more in zip(sums, counted, strict=True)]
        following = builder.add(k, WORD(1))
        for phi, start, last in zip([k, *sums], [WORD(0)] + [zero] * len(sums), [following, *totals], strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(last, loop)
        builder.cbranch(builder.icmp_unsigned("<", following, words), loop, after)
        builder.position_at_end(after)
        for i, total in enumerate(totals):
            at = builder.inttoptr(builder.add(out, WORD(32 * i)), EIGHT_FLOATS.as_pointer())
            builder.store(builder.uitofp(total, EIGHT_FLOATS), at, align=4)
        return context.get_dummy_value()

    return types.void(*[types.uintp] * 5), emit


_count_tile: Any = intrinsic(_emit_count_tile)


@numba.njit(cache=True)
def gram_of_bits(bits: np.ndarray, gram: np.ndarray) -> None:
    """Write the exact Gram matrix of packed rows to ``gram[:n, :n]``, `ROWS` rows against `LANES` at a time."""
    n, words = bits.shape
    while words > 1:  # the padding, as far as it is all zeros
        some = np.uint64(0)
        for i in range(n):
            some |= bits[i, words - 1]
        if some:
            break
        words -= 1
    side = np.empty((words, LANES), np.uint64)
    few = np.zeros((ROWS, words), np.uint64)  # stands in for the rows where there are fewer than a tile
    for i in range(min(n, ROWS)):
        for k in range(words):  # an assignment of slices would compile numba's string formatting
            few[i, k] = bits[i, k]
    counts = np.empty((ROWS, LANES), np.float32)
    rows, stride = (bits.ctypes.data, 8 * bits.shape[1]) if n >= ROWS else (few.ctypes.data, 8 * words)
    for j0 in range(0, n, LANES):
        width = min(LANES, n - j0)
        for j in range(LANES):
            for k in range(words):
                side[k, j] = bits[j0 + j, k] if j < width else np.uint64(0)
        for tile in range(0, j0 + width, ROWS):
            i = max(0, min(tile, n - ROWS))  # the last tile may overlap the one before
            _count_tile(
                numba.uintp(rows + i * stride),
                numba.uintp(stride),
                numba.uintp(side.ctypes.data),
                numba.uintp(words),
                numba.uintp(counts.ctypes.data),
            )
            for r in range(min(ROWS, n)):
                for j in range(width):
                    gram[i + r, j0 + j] = counts[r, j]
            for j in range(width):
                for r in range(min(ROWS, n)):
                    gram[j0 + j, i + r] = counts[r, j]


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
