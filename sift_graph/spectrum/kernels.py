r"""The operators that a Lanczos iteration applies, all :math:`x \mapsto A A^T x` on the smaller side.

Three forms of one product:

Gram
    :math:`G = A A^T` held dense (:mod:`sift_graph.spectrum.gram` counts that of a 0/1 matrix, exact in float32, which
    halves the memory that every step reads). A step takes :math:`n^2` multiply-adds and reads half the matrix.
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

__all__ = ["SPEED", "sparse_dots", "sparse_squares", "sparse_step", "symmetric_times"]

ROWS = 4
WORD, LANE = ir.IntType(64), ir.IntType(32)
U1, U2, U3, U4, U5, U6, U7, U8 = (np.uint64(i) for i in range(1, 9))
SPEED = {"reassoc", "contract", "nsz"}  # sums in any order: each bound of this package allows that


def _emit_rows_times(typing: Any, gram: Any, x: Any, row: Any, step: Any, count: Any, at: Any, out: Any) -> Any:
    """Add to y = G x what `ROWS` rows of the upper triangle give, from their diagonal on: each entry is read once.

    With the `count` entries of row r from column i on, i the first of the rows, y_r grows by the dot product with x,
    and y by x_r times the row; the latter for columns behind the rows' own, whose block is stored whole. The arrays
    tell the types; the other arguments are addresses, of the block's first entry and of x_i and y_i, and `step` bytes
    from row to row. Arithmetic is in the type of x. The last, shorter vector is read and written under a mask.

    Returns
    -------
    tuple
        Signature and code generator, as numba's ``intrinsic`` wants them.
    """
    stored, exact = gram.dtype.bitwidth, x.dtype.bitwidth
    lanes = 256 // exact

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        row, step, count, at, out = arguments[2:]
        kinds = {32: ir.FloatType(), 64: ir.DoubleType()}
        scalar, vector = kinds[exact], ir.VectorType(kinds[exact], lanes)
        entries, small = ir.VectorType(kinds[stored], lanes), ir.VectorType(LANE, lanes)
        zero, undefined = ir.Constant(vector, [0.0] * lanes), ir.Constant(vector, ir.Undefined)
        same = ir.Constant(small, [LANE(0)] * lanes)
        declare: Any = cgutils.get_or_insert_function

        def pointer(base: Any, place: Any, bits: int, kind: Any) -> Any:
            return builder.inttoptr(builder.add(base, builder.mul(place, WORD(bits // 8))), kind.as_pointer())

        def multiply_add(a: Any, b: Any, c: Any) -> Any:
            return builder.fadd(builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))

        def spread(value: Any) -> Any:
            return builder.shuffle_vector(builder.insert_element(undefined, value, LANE(0)), undefined, same)

        own = [spread(builder.load(pointer(at, WORD(r), exact, scalar))) for r in range(ROWS)]
        begun = [builder.load(pointer(out, WORD(r), exact, scalar)) for r in range(ROWS)]
        rows = [builder.add(row, builder.mul(step, WORD(r))) for r in range(ROWS)]

        def visit(place: Any, sums: list[Any], load: Any, store: Any) -> list[Any]:
            factor = load(pointer(at, place, exact, vector), vector, exact)
            total = load(pointer(out, place, exact, vector), vector, exact)
            found = []
            for r in range(ROWS):
                entry = load(pointer(rows[r], place, stored, entries), entries, stored)
                entry = builder.fpext(entry, vector) if stored < exact else entry
                found.append(multiply_add(entry, factor, sums[r]))
                total = multiply_add(entry, own[r], total)
            store(total, pointer(out, place, exact, vector))
            return found

        before = builder.block
        loop, short, masked, after = (builder.append_basic_block(n) for n in ("loop", "short", "masked", "after"))
        whole = builder.and_(count, WORD(2**64 - lanes))
        builder.cbranch(builder.icmp_unsigned(">", whole, WORD(0)), loop, short)
        builder.position_at_end(loop)
        k, sums = builder.phi(WORD), [builder.phi(vector) for _ in range(ROWS)]
        found = visit(
            k,
            sums,
            lambda place, kind, bits: builder.load(place, align=bits // 8),
            lambda value, place: builder.store(value, place, align=exact // 8),
        )
        following = builder.add(k, WORD(lanes))
        for phi, start, last in zip([k, *sums], [WORD(0)] + [zero] * ROWS, [following, *found], strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(last, loop)
        builder.cbranch(builder.icmp_unsigned("<", following, whole), loop, short)
        builder.position_at_end(short)
        so_far = [builder.phi(vector) for _ in range(ROWS)]
        for phi, last in zip(so_far, found, strict=True):
            phi.add_incoming(zero, before)
            phi.add_incoming(last, loop)
        rest = builder.sub(count, whole)
        builder.cbranch(builder.icmp_unsigned(">", rest, WORD(0)), masked, after)
        builder.position_at_end(masked)
        limit = builder.insert_element(ir.Constant(small, ir.Undefined), builder.trunc(rest, LANE), LANE(0))
        limit = builder.shuffle_vector(limit, ir.Constant(small, ir.Undefined), same)
        mask = builder.icmp_unsigned("<", ir.Constant(small, [LANE(i) for i in range(lanes)]), limit)

        def load(place: Any, kind: Any, bits: int) -> Any:
            name = f"llvm.masked.load.v{lanes}f{bits}.p0v{lanes}f{bits}"
            form = ir.FunctionType(kind, [kind.as_pointer(), LANE, mask.type, kind])
            nothing = ir.Constant(kind, [0.0] * lanes)
            return builder.call(declare(builder.module, form, name), [place, LANE(bits // 8), mask, nothing])

        def store(value: Any, place: Any) -> None:
            name = f"llvm.masked.store.v{lanes}f{exact}.p0v{lanes}f{exact}"
            form = ir.FunctionType(ir.VoidType(), [vector, vector.as_pointer(), LANE, mask.type])
            builder.call(declare(builder.module, form, name), [value, place, LANE(exact // 8), mask])

        last_found = visit(whole, so_far, load, store)
        builder.branch(after)
        builder.position_at_end(after)
        totals = [builder.phi(vector) for _ in range(ROWS)]
        for phi, without, with_rest in zip(totals, so_far, last_found, strict=True):
            phi.add_incoming(without, short)
            phi.add_incoming(with_rest, masked)
        form = ir.FunctionType(scalar, [scalar, vector])
        reduce = declare(builder.module, form, f"llvm.vector.reduce.fadd.v{lanes}f{exact}")
        for r in range(ROWS):  # over what the loop wrote there: the block was counted from both sides
            total = builder.call(reduce, [ir.Constant(scalar, 0.0), totals[r]], fastmath=("reassoc",))
            builder.store(builder.fadd(begun[r], total), pointer(out, WORD(r), exact, scalar))
        return context.get_dummy_value()

    return types.void(gram, x, *[types.uintp] * 5), emit


_rows_times: Any = intrinsic(_emit_rows_times)


@numba.njit(cache=True, fastmath=SPEED)
def symmetric_times(gram: np.ndarray, n: int, x: np.ndarray, y: np.ndarray) -> None:
    """Write y = G x for the leading n x n part of a symmetric float32 or float64 matrix, in the arithmetic of x.

    Of G the upper triangle is read, and its blocks of `ROWS` by `ROWS` on the diagonal. float32 vectors go with a
    float32 matrix only.

    Raises
    ------
    ValueError
        If a vector is too short, or anything is not contiguous.
    """
    size, each = gram.itemsize, x.itemsize
    if x.strides[0] != each or y.strides[0] != each or gram.strides[1] != size or min(x.size, y.size) < n:
        raise ValueError("expected contiguous vectors of n entries or more, and a matrix in C order")
    for i in range(n):
        y[i] = x.dtype.type(0)
    done = n // ROWS * ROWS
    step = numba.uintp(size * gram.shape[1])
    for i in range(0, done, ROWS):
        at, out = numba.uintp(x.ctypes.data + each * i), numba.uintp(y.ctypes.data + each * i)
        row = numba.uintp(gram.ctypes.data + size * (gram.shape[1] + 1) * i)
        _rows_times(gram, x, row, step, numba.uintp(n - i), at, out)
    for i in range(done, n):
        s = y[i]
        for j in range(done, n):
            s += x.dtype.type(gram[i, j]) * x[j]
        y[i] = s


@numba.njit(cache=True, fastmath=SPEED)
def sparse_step(
    starts: np.ndarray, index: np.ndarray, values: np.ndarray, coefficients: np.ndarray, x: np.ndarray, z: np.ndarray
) -> None:
    """Write z = sum over columns l of c_l a_l (a_l . x); `values` is empty for a 0/1 matrix, `coefficients` for ones.

    Arithmetic is in the type of x and z: float64, or float32 with `values` in float32. Eight partial sums hide the
    latency of the gathers; the four scatters of a group go to four different rows. All places are unsigned numbers: a
    signed one costs a look for negative ones each time.
    """
    zero = x.dtype.type(0)
    z[:] = zero
    for column in range(starts.size - 1):
        begin, end = np.uint64(starts[column]), np.uint64(starts[column + 1])
        eights, fours = begin + ((end - begin) >> U3 << U3), begin + ((end - begin) >> U2 << U2)
        s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = zero
        k = begin
        if values.size:
            while k < eights:
                s0 += values[k] * x[np.uint64(index[k])]
                s1 += values[k + U1] * x[np.uint64(index[k + U1])]
                s2 += values[k + U2] * x[np.uint64(index[k + U2])]
                s3 += values[k + U3] * x[np.uint64(index[k + U3])]
                s4 += values[k + U4] * x[np.uint64(index[k + U4])]
                s5 += values[k + U5] * x[np.uint64(index[k + U5])]
                s6 += values[k + U6] * x[np.uint64(index[k + U6])]
                s7 += values[k + U7] * x[np.uint64(index[k + U7])]
                k += U8
            while k < end:
                s0 += values[k] * x[np.uint64(index[k])]
                k += U1
            v = ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))
            if coefficients.size:
                v *= coefficients[column]
            k = begin
            while k < fours:
                i0, i1 = np.uint64(index[k]), np.uint64(index[k + U1])
                i2, i3 = np.uint64(index[k + U2]), np.uint64(index[k + U3])
                z0, z1 = z[i0] + v * values[k], z[i1] + v * values[k + U1]
                z2, z3 = z[i2] + v * values[k + U2], z[i3] + v * values[k + U3]
                z[i0], z[i1], z[i2], z[i3] = z0, z1, z2, z3
                k += U4
            while k < end:
                z[np.uint64(index[k])] += v * values[k]
                k += U1
        else:
            while k < eights:
                s0 += x[np.uint64(index[k])]
                s1 += x[np.uint64(index[k + U1])]
                s2 += x[np.uint64(index[k + U2])]
                s3 += x[np.uint64(index[k + U3])]
                s4 += x[np.uint64(index[k + U4])]
                s5 += x[np.uint64(index[k + U5])]
                s6 += x[np.uint64(index[k + U6])]
                s7 += x[np.uint64(index[k + U7])]
                k += U8
            while k < end:
                s0 += x[np.uint64(index[k])]
                k += U1
            v = ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))
            if coefficients.size:
                v *= coefficients[column]
            k = begin
            while k < fours:
                i0, i1 = np.uint64(index[k]), np.uint64(index[k + U1])
                i2, i3 = np.uint64(index[k + U2]), np.uint64(index[k + U3])
                z0, z1, z2, z3 = z[i0] + v, z[i1] + v, z[i2] + v, z[i3] + v
                z[i0], z[i1], z[i2], z[i3] = z0, z1, z2, z3
                k += U4
            while k < end:
                z[np.uint64(index[k])] += v
                k += U1


@numba.njit(cache=True, fastmath=SPEED)
def sparse_dots(starts: np.ndarray, index: np.ndarray, values: np.ndarray, x: np.ndarray, out: np.ndarray) -> None:
    """Write a_l . x for each column l and each row of `x` to that of `out`, in float64; two rows share a pass."""
    for j in range(0, x.shape[0], 2):
        one, other = x[j], x[min(j + 1, x.shape[0] - 1)]
        for column in range(starts.size - 1):
            begin, end = np.uint64(starts[column]), np.uint64(starts[column + 1])
            fours = begin + ((end - begin) >> U2 << U2)
            s0 = s1 = s2 = s3 = t0 = t1 = t2 = t3 = 0.0
            k = begin
            while k < end:
                if k < fours:
                    i0, i1 = np.uint64(index[k]), np.uint64(index[k + U1])
                    i2, i3 = np.uint64(index[k + U2]), np.uint64(index[k + U3])
                    w0 = w1 = w2 = w3 = 1.0
                    if values.size:
                        w0, w1 = np.float64(values[k]), np.float64(values[k + U1])
                        w2, w3 = np.float64(values[k + U2]), np.float64(values[k + U3])
                    s0 += w0 * one[i0]
                    s1 += w1 * one[i1]
                    s2 += w2 * one[i2]
                    s3 += w3 * one[i3]
                    t0 += w0 * other[i0]
                    t1 += w1 * other[i1]
                    t2 += w2 * other[i2]
                    t3 += w3 * other[i3]
                    k += U4
                else:
                    w0 = np.float64(values[k]) if values.size else 1.0
                    s0 += w0 * one[np.uint64(index[k])]
                    t0 += w0 * other[np.uint64(index[k])]
                    k += U1
            out[j, column] = (s0 + s1) + (s2 + s3)
            if j + 1 < x.shape[0]:
                out[j + 1, column] = (t0 + t1) + (t2 + t3)


@numba.njit(cache=True)
def sparse_squares(
    n: int, starts: np.ndarray, index: np.ndarray, values: np.ndarray, coefficients: np.ndarray
) -> np.ndarray:
    """Sum c_l a_l^2 over the columns l: the diagonal of the operator, float64, shape (n,)."""
    diagonal = np.zeros(n)
    for column in range(starts.size - 1):
        c = coefficients[column] if coefficients.size else 1.0
        for k in range(starts[column], starts[column + 1]):
            v = np.float64(values[np.uint64(k)]) if values.size else 1.0
            diagonal[np.uint64(index[np.uint64(k)])] += c * v * v
    return diagonal
