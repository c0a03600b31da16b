r"""Packed 0/1 matrices: products with a vector, counts, transposition, all on 64-bit words in numba.

A packed matrix has one row of words for each row, least significant bit first, padded with zeros to 512 bits; so has
:class:`sift_graph.graph.BipartiteGraph`. A product adds the entries of a float64 vector where a bit is set, eight at a
time: eight bits of a row are the mask of one vector addition, which AVX-512 does in one instruction. Nothing is
multiplied, so counts (products with ones) are exact integers below 2^53.

Everything runs on one thread. Compiled code is kept on disk, and loading it still takes a fifth of a second: callers
leave small matrices to numpy.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

__all__ = [
    "count_columns",
    "keep_bits",
    "list_bits",
    "list_bits_by_column",
    "pack_nonzero",
    "pack_rows",
    "popcount",
    "times",
    "times_transposed",
    "transpose_bits",
]

WORD = ir.IntType(64)
BYTE = ir.IntType(8)
DOUBLE = ir.DoubleType()
EIGHT = ir.VectorType(DOUBLE, 8)
MASK = ir.VectorType(ir.IntType(1), 8)
ZEROS = ir.Constant(EIGHT, [ir.Constant(DOUBLE, 0.0)] * 8)


def _emit_popcount(typing: Any, word: Any) -> Any:
    """Count the set bits of a word, with the processor's instruction."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.call(builder.module.declare_intrinsic("llvm.ctpop", [WORD]), arguments)

    return types.uint64(types.uint64), emit


popcount: Any = intrinsic(_emit_popcount)


def _masked(builder: Any, row: Any, offset: Any, vector: Any) -> Any:
    """`vector` where the eight bits at byte `offset` of `row` are set, 0.0 elsewhere."""
    bits = builder.load(builder.inttoptr(builder.add(row, offset), BYTE.as_pointer()))
    return builder.select(builder.bitcast(bits, MASK), vector, ZEROS)


def _byte_loop(builder: Any, stop: Any, carried: list[Any], body: Any) -> Any:
    """Emit a loop over byte offsets 0, 2, 4, ... below `stop`; `body(offset, values)` is emitted twice in each pass."""
    before = builder.block
    loop, after = builder.append_basic_block("bytes"), builder.append_basic_block("after")
    builder.branch(loop)
    builder.position_at_end(loop)
    offset = builder.phi(WORD)
    offset.add_incoming(WORD(0), before)
    values = [builder.phi(EIGHT) for _ in carried]
    for value, start in zip(values, carried, strict=True):
        value.add_incoming(start, before)
    current = body(builder.add(offset, WORD(1)), body(offset, list(values)))
    following = builder.add(offset, WORD(2))
    offset.add_incoming(following, loop)
    for value, last in zip(values, current, strict=True):
        value.add_incoming(last, loop)
    builder.cbranch(builder.icmp_unsigned("<", following, stop), loop, after)
    builder.position_at_end(after)
    return current


def _vector_at(builder: Any, base: Any, offset: Any) -> Any:
    """Pointer to the eight doubles that belong to byte `offset`."""
    return builder.inttoptr(builder.add(base, builder.mul(offset, WORD(64))), EIGHT.as_pointer())


def _rows(builder: Any, first: Any, stride: Any, count: int) -> list[Any]:
    return [builder.add(first, builder.mul(stride, WORD(r))) for r in range(count)]


def _dot_rows(count: int) -> Any:
    """Make the kernel that multiplies `count` packed rows with one vector, sharing its loads."""

    @intrinsic
    def dot(typing: Any, first: Any, stride: Any, vector: Any, row_bytes: Any, out: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            first, stride, vector, row_bytes, out = arguments
            rows = _rows(builder, first, stride, count)

            def body(offset: Any, sums: list[Any]) -> list[Any]:
                x = builder.load(_vector_at(builder, vector, offset), align=8)
                return [builder.fadd(s, _masked(builder, row, offset, x)) for s, row in zip(sums, rows, strict=True)]

            sums = _byte_loop(builder, row_bytes, [ZEROS] * count, body)
            kind = ir.FunctionType(DOUBLE, [DOUBLE, EIGHT])
            insert: Any = cgutils.get_or_insert_function
            add = insert(builder.module, kind, "llvm.vector.reduce.fadd.v8f64")
            for r, total in enumerate(sums):
                value = builder.call(add, [ir.Constant(DOUBLE, 0.0), total], fastmath=("reassoc",))
                builder.store(value, builder.inttoptr(builder.add(out, WORD(8 * r)), DOUBLE.as_pointer()))
            return context.get_dummy_value()

        return types.void(*[types.uintp] * 5), emit

    return dot


def _add_rows(count: int) -> Any:
    """Make the kernel that adds `count` packed rows, each times its coefficient, to one vector."""

    @intrinsic
    def add(typing: Any, first: Any, stride: Any, vector: Any, row_bytes: Any, coefficients: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            first, stride, vector, row_bytes, coefficients = arguments
            rows = _rows(builder, first, stride, count)
            lane = ir.Constant(ir.VectorType(ir.IntType(32), 8), [ir.Constant(ir.IntType(32), 0)] * 8)
            undefined = ir.Constant(EIGHT, ir.Undefined)
            spread = []
            for r in range(count):
                at = builder.inttoptr(builder.add(coefficients, WORD(8 * r)), DOUBLE.as_pointer())
                one = builder.insert_element(undefined, builder.load(at), ir.IntType(32)(0))
                spread.append(builder.shuffle_vector(one, undefined, lane))

            def body(offset: Any, nothing: list[Any]) -> list[Any]:
                at = _vector_at(builder, vector, offset)
                z = builder.load(at, align=8)
                for row, coefficient in zip(rows, spread, strict=True):
                    z = builder.fadd(z, _masked(builder, row, offset, coefficient))
                builder.store(z, at, align=8)
                return nothing

            _byte_loop(builder, row_bytes, [], body)
            return context.get_dummy_value()

        return types.void(*[types.uintp] * 5), emit

    return add


_dot_1, _dot_4 = _dot_rows(1), _dot_rows(4)
_add_1, _add_4 = _add_rows(1), _add_rows(4)


@numba.njit(cache=True)
def times(bits: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    """Write y = B x, for x of 64 entries a word (those beyond the matrix are not looked at)."""
    rows, row_bytes = bits.shape[0], numba.uintp(8 * bits.shape[1])
    if x.size < 64 * bits.shape[1] or y.size < rows:
        raise ValueError("vector too short for the packed matrix")
    first, into, vector = bits.ctypes.data, y.ctypes.data, numba.uintp(x.ctypes.data)
    done = rows // 4 * 4
    for i in range(0, done, 4):
        _dot_4(numba.uintp(first + i * row_bytes), row_bytes, vector, row_bytes, numba.uintp(into + 8 * i))
    for i in range(done, rows):
        _dot_1(numba.uintp(first + i * row_bytes), row_bytes, vector, row_bytes, numba.uintp(into + 8 * i))


@numba.njit(cache=True)
def times_transposed(bits: np.ndarray, y: np.ndarray, z: np.ndarray) -> None:
    """Write z = B^T y, with z of 64 entries a word."""
    rows, row_bytes = bits.shape[0], numba.uintp(8 * bits.shape[1])
    if z.size < 64 * bits.shape[1] or y.size < rows:
        raise ValueError("vector too short for the packed matrix")
    z[:] = 0.0
    first, coefficients, vector = bits.ctypes.data, y.ctypes.data, numba.uintp(z.ctypes.data)
    done = rows // 4 * 4
    for i in range(0, done, 4):
        _add_4(numba.uintp(first + i * row_bytes), row_bytes, vector, row_bytes, numba.uintp(coefficients + 8 * i))
    for i in range(done, rows):
        _add_1(numba.uintp(first + i * row_bytes), row_bytes, vector, row_bytes, numba.uintp(coefficients + 8 * i))


def count_columns(bits: np.ndarray, columns: int) -> np.ndarray:
    """Count the set bits of each column.

    Parameters
    ----------
    bits : ndarray of uint64, shape (rows, words)
    columns : int

    Returns
    -------
    ndarray of int64, shape (columns,)
    """
    counts = np.empty(64 * bits.shape[1])
    times_transposed(bits, np.ones(bits.shape[0]), counts)
    return counts[:columns].astype(np.int64)


@numba.njit(cache=True)
def transpose_bits(bits: np.ndarray, columns: int) -> np.ndarray:
    """Transpose a packed matrix, by 64 x 64 blocks with six rounds of exchanges (Warren, Hacker's Delight, 7-3)."""
    rows = bits.shape[0]
    turned = np.zeros((columns, (rows + 511) // 512 * 8), np.uint64)
    a = np.empty(64, np.uint64)
    for block_row in range((rows + 63) // 64):
        for block_column in range((columns + 63) // 64):
            some = np.uint64(0)
            for r in range(64):
                i = 64 * block_row + r
                a[r] = bits[i, block_column] if i < rows else np.uint64(0)
                some |= a[r]
            if some == np.uint64(0):
                continue
            width = 32
            mask = np.uint64(0x00000000FFFFFFFF)
            while width:
                k = 0
                while k < 64:
                    swap = ((a[k] >> np.uint64(width)) ^ a[k + width]) & mask
                    a[k + width] ^= swap
                    a[k] ^= swap << np.uint64(width)
                    k = (k + width + 1) & ~width
                width >>= 1
                if width:
                    mask ^= mask << np.uint64(width)
            for r in range(min(64, columns - 64 * block_column)):
                turned[64 * block_column + r, block_row] = a[r]
    return turned


@numba.njit(cache=True)
def pack_rows(stream: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Cut a packed stream of rows * columns bits into padded rows; `stream` has 16 spare bytes at its end."""
    words = (columns + 511) // 512 * 8
    out = np.zeros((rows, words), np.uint64)
    for r in range(rows):
        for word in range((columns + 63) // 64):
            bit = r * columns + 64 * word
            byte = bit >> 3
            shift = np.uint64(bit & 7)
            low = np.uint64(0)
            for b in range(8):
                low |= np.uint64(stream[byte + b]) << np.uint64(8 * b)
            value = low >> shift
            if shift:
                value |= np.uint64(stream[byte + 8]) << (np.uint64(64) - shift)
            left = columns - 64 * word
            if left < 64:
                value &= (np.uint64(1) << np.uint64(left)) - np.uint64(1)
            out[r, word] = value
    return out


def _emit_pack_floats(typing: Any, source: Any, target: Any, chunks: Any) -> Any:
    """Write one bit for each of 16 floats a chunk: whether it is not 0.0 (NaN is not)."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, target, chunks = arguments
        half, single = ir.IntType(16), ir.VectorType(ir.FloatType(), 16)
        zero = ir.Constant(single, [ir.Constant(ir.FloatType(), 0.0)] * 16)
        before = builder.block
        loop, after = builder.append_basic_block("chunks"), builder.append_basic_block("after")
        builder.branch(loop)
        builder.position_at_end(loop)
        chunk = builder.phi(WORD)
        chunk.add_incoming(WORD(0), before)
        at = builder.add(source, builder.mul(chunk, WORD(64)))
        values = builder.load(builder.inttoptr(at, single.as_pointer()), align=4)
        packed = builder.bitcast(builder.fcmp_unordered("!=", values, zero), half)
        builder.store(packed, builder.inttoptr(builder.add(target, builder.mul(chunk, WORD(2))), half.as_pointer()))
        following = builder.add(chunk, WORD(1))
        chunk.add_incoming(following, loop)
        builder.cbranch(builder.icmp_unsigned("<", following, chunks), loop, after)
        builder.position_at_end(after)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.uintp), emit


_pack_floats: Any = intrinsic(_emit_pack_floats)


@numba.njit(cache=True)
def pack_nonzero(matrix: np.ndarray) -> np.ndarray:
    """Pack where a C-contiguous float32 matrix is not zero, in one pass over it."""
    rows, columns = matrix.shape
    out = np.zeros((rows, (columns + 511) // 512 * 8), np.uint64)
    first, into = matrix.ctypes.data, out.ctypes.data
    chunks = columns // 16
    for r in range(rows):
        if chunks:
            _pack_floats(
                numba.uintp(first + 4 * r * columns), numba.uintp(into + 8 * r * out.shape[1]), numba.uintp(chunks)
            )
        for c in range(16 * chunks, columns):
            if matrix[r, c] != 0.0:
                out[r, c >> 6] |= np.uint64(1) << np.uint64(c & 63)
    return out


@numba.njit(cache=True)
def keep_bits(bits: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Return the matrix with only those set bits whose entry of `keep`, row after row, is true."""
    out = np.zeros_like(bits)
    e = 0
    for r in range(bits.shape[0]):
        for k in range(bits.shape[1]):
            word = bits[r, k]
            while word:
                lowest = word & (~word + np.uint64(1))
                if keep[e]:
                    out[r, k] |= lowest
                e += 1
                word ^= lowest
    return out


@numba.njit(cache=True)
def list_bits(bits: np.ndarray, index: np.ndarray) -> None:
    """Write the column of each set bit, row after row."""
    e = 0
    for r in range(bits.shape[0]):
        for k in range(bits.shape[1]):
            word = bits[r, k]
            while word:
                lowest = word & (~word + np.uint64(1))
                index[e] = 64 * k + np.int64(popcount(lowest - np.uint64(1)))
                e += 1
                word ^= lowest


@numba.njit(cache=True)
def list_bits_by_column(bits: np.ndarray, place: np.ndarray, index: np.ndarray, edge: np.ndarray) -> None:
    """Write the row of each set bit to `index`, column after column, and its number in row order to `edge`.

    `place` holds where each column begins, and is moved on; an empty `edge` is left alone.
    """
    e = 0
    for r in range(bits.shape[0]):
        for k in range(bits.shape[1]):
            word = bits[r, k]
            while word:
                lowest = word & (~word + np.uint64(1))
                c = 64 * k + np.int64(popcount(lowest - np.uint64(1)))
                index[place[c]] = r
                if edge.size:
                    edge[place[c]] = e
                place[c] += 1
                e += 1
                word ^= lowest
