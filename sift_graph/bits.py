r"""Packed 0/1 matrices: products with a vector, counts, transposition, all on 64-bit words in numba.

A packed matrix has one row of words for each row, least significant bit first, padded with zeros to 512 bits; so has
:class:`sift_graph.graph.BipartiteGraph`. A product adds the entries of a float64 vector where a bit is set, eight at a
time: eight bits of a row are the mask of one vector addition, which AVX-512 does in one instruction. Nothing is
multiplied, so counts (products with ones) are exact integers below 2^53.

Everything runs on one thread. Compiled code is kept on disk, and loading it still takes a fifth of a second: callers
leave small matrices to numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from sift_graph.pack_kernels import pack_chunks

__all__ = [
    "count_columns",
    "count_rows",
    "gram_times_single",
    "keep_bits",
    "list_bits",
    "list_row",
    "narrow_absolute",
    "order_by_column",
    "pack_nonzero",
    "pack_rows",
    "popcount",
    "times",
    "times_transposed",
    "transpose_64",
    "transpose_bits",
]

WORD = ir.IntType(64)
LANE = ir.IntType(32)


@dataclass(frozen=True)
class Lanes:
    """A vector of 512 bits, and as many bits of a row as it has entries."""

    scalar: Any
    count: int
    suffix: str

    @property
    def vector(self) -> Any:
        """Type of the vector."""
        return ir.VectorType(self.scalar, self.count)

    @property
    def zeros(self) -> Any:
        """A vector of 0.0."""
        return ir.Constant(self.vector, [ir.Constant(self.scalar, 0.0)] * self.count)

    @property
    def size(self) -> int:
        """Bytes of an entry."""
        return 64 // self.count


DOUBLES = Lanes(ir.DoubleType(), 8, "v8f64")
FLOATS = Lanes(ir.FloatType(), 16, "v16f32")


def _emit_popcount(typing: Any, word: Any) -> Any:
    """Count the set bits of a word, with the processor's instruction."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.call(builder.module.declare_intrinsic("llvm.ctpop", [WORD]), arguments)

    return types.uint64(types.uint64), emit


popcount: Any = intrinsic(_emit_popcount)


def _emit_list_row(typing: Any, out: Any, at: Any, row: Any, words: Any, factor: Any) -> Any:
    """Write `factor` times the column of each set bit of a row to the array `out` from place `at` on; return the end.

    `row` is the address of its words. Of a word eight at a time, without a question: what is too much is written over,
    so `out` needs room for eight more.

    Returns
    -------
    tuple
        Signature and code generator, as numba's ``intrinsic`` wants them.
    """
    size = out.dtype.bitwidth

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, start, row, words, factor = arguments
        base_of_out = context.make_array(out)(context, builder, array).data
        index, flag = ir.IntType(size), ir.IntType(1)
        insert: Any = cgutils.get_or_insert_function
        count = insert(builder.module, ir.FunctionType(WORD, [WORD]), "llvm.ctpop.i64")
        zeros = insert(builder.module, ir.FunctionType(WORD, [WORD, flag]), "llvm.cttz.i64")
        before = builder.block
        names = ("word", "eight", "following", "listed")
        loop, eight, following, after = (builder.append_basic_block(name) for name in names)
        builder.branch(loop)
        builder.position_at_end(loop)
        k, e = builder.phi(WORD), builder.phi(WORD)
        word = builder.load(builder.inttoptr(builder.add(row, builder.shl(k, WORD(3))), WORD.as_pointer()))
        end = builder.add(e, builder.call(count, [word]))
        base = builder.shl(k, WORD(6))
        builder.branch(eight)
        builder.position_at_end(eight)
        at, rest = builder.phi(WORD), builder.phi(WORD)
        left = rest
        for s in range(8):
            place = builder.mul(builder.add(base, builder.call(zeros, [left, flag(0)])), factor)
            builder.store(builder.trunc(place, index), builder.gep(base_of_out, [builder.add(at, WORD(s))]))
            left = builder.and_(left, builder.sub(left, WORD(1)))
        further = builder.add(at, WORD(8))
        for phi, first, last in ((at, e, further), (rest, word, left)):
            phi.add_incoming(first, loop)
            phi.add_incoming(last, eight)
        builder.cbranch(builder.icmp_unsigned("<", further, end), eight, following)
        builder.position_at_end(following)
        done = builder.add(k, WORD(1))
        for phi, first, last in ((k, WORD(0), done), (e, start, end)):
            phi.add_incoming(first, before)
            phi.add_incoming(last, following)
        builder.cbranch(builder.icmp_unsigned("<", done, words), loop, after)
        builder.position_at_end(after)
        return end

    return types.uintp(out, *[types.uintp] * 4), emit


list_row: Any = intrinsic(_emit_list_row)


def _masked(builder: Any, lanes: Lanes, row: Any, chunk: Any, vector: Any) -> Any:
    """`vector` where the bits of a chunk of `row` are set, 0.0 elsewhere."""
    word = ir.IntType(lanes.count)
    at = builder.add(row, builder.mul(chunk, WORD(lanes.count // 8)))
    bits = builder.load(builder.inttoptr(at, word.as_pointer()), align=1)
    return builder.select(builder.bitcast(bits, ir.VectorType(ir.IntType(1), lanes.count)), vector, lanes.zeros)


def _chunk_loop(builder: Any, lanes: Lanes, row_bytes: Any, carried: list[Any], body: Any) -> Any:
    """Emit a loop over the chunks of a row; `body(chunk, values)` is emitted twice in each pass."""
    chunks = builder.udiv(row_bytes, WORD(lanes.count // 8))
    before = builder.block
    loop, after = builder.append_basic_block("chunks"), builder.append_basic_block("after")
    builder.branch(loop)
    builder.position_at_end(loop)
    chunk = builder.phi(WORD)
    chunk.add_incoming(WORD(0), before)
    values = [builder.phi(lanes.vector) for _ in carried]
    for value, start in zip(values, carried, strict=True):
        value.add_incoming(start, before)
    current = body(builder.add(chunk, WORD(1)), body(chunk, list(values)))
    following = builder.add(chunk, WORD(2))
    chunk.add_incoming(following, loop)
    for value, last in zip(values, current, strict=True):
        value.add_incoming(last, loop)
    builder.cbranch(builder.icmp_unsigned("<", following, chunks), loop, after)
    builder.position_at_end(after)
    return current


def _vector_at(builder: Any, lanes: Lanes, base: Any, chunk: Any) -> Any:
    """Pointer to the entries that belong to a chunk."""
    return builder.inttoptr(builder.add(base, builder.mul(chunk, WORD(64))), lanes.vector.as_pointer())


def _scalar_at(builder: Any, lanes: Lanes, base: Any, i: int) -> Any:
    return builder.inttoptr(builder.add(base, WORD(lanes.size * i)), lanes.scalar.as_pointer())


def _rows(builder: Any, first: Any, stride: Any, count: int) -> list[Any]:
    return [builder.add(first, builder.mul(stride, WORD(r))) for r in range(count)]


def _dot_rows(lanes: Lanes, count: int) -> Any:
    """Make the kernel that multiplies `count` packed rows with one vector, sharing its loads."""

    @intrinsic
    def dot(typing: Any, first: Any, stride: Any, vector: Any, row_bytes: Any, out: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            first, stride, vector, row_bytes, out = arguments
            rows = _rows(builder, first, stride, count)

            def body(chunk: Any, sums: list[Any]) -> list[Any]:
                x = builder.load(_vector_at(builder, lanes, vector, chunk), align=lanes.size)
                masked = [_masked(builder, lanes, row, chunk, x) for row in rows]
                return [builder.fadd(s, one) for s, one in zip(sums, masked, strict=True)]

            sums = _chunk_loop(builder, lanes, row_bytes, [lanes.zeros] * count, body)
            insert: Any = cgutils.get_or_insert_function
            kind = ir.FunctionType(lanes.scalar, [lanes.scalar, lanes.vector])
            add = insert(builder.module, kind, f"llvm.vector.reduce.fadd.{lanes.suffix}")
            for r, total in enumerate(sums):
                value = builder.call(add, [ir.Constant(lanes.scalar, 0.0), total], fastmath=("reassoc",))
                builder.store(value, _scalar_at(builder, lanes, out, r))
            return context.get_dummy_value()

        return types.void(*[types.uintp] * 5), emit

    return dot


def _add_rows(lanes: Lanes, count: int) -> Any:
    """Make the kernel that adds `count` packed rows, each times its coefficient, to one vector."""

    @intrinsic
    def add(typing: Any, first: Any, stride: Any, vector: Any, row_bytes: Any, coefficients: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            first, stride, vector, row_bytes, coefficients = arguments
            rows = _rows(builder, first, stride, count)
            same = ir.Constant(ir.VectorType(LANE, lanes.count), [ir.Constant(LANE, 0)] * lanes.count)
            undefined = ir.Constant(lanes.vector, ir.Undefined)
            spread = []
            for r in range(count):
                one = builder.load(_scalar_at(builder, lanes, coefficients, r))
                spread.append(builder.shuffle_vector(builder.insert_element(undefined, one, LANE(0)), undefined, same))

            def body(chunk: Any, nothing: list[Any]) -> list[Any]:
                at = _vector_at(builder, lanes, vector, chunk)
                z = builder.load(at, align=lanes.size)
                for row, coefficient in zip(rows, spread, strict=True):
                    z = builder.fadd(z, _masked(builder, lanes, row, chunk, coefficient))
                builder.store(z, at, align=lanes.size)
                return nothing

            _chunk_loop(builder, lanes, row_bytes, [], body)
            return context.get_dummy_value()

        return types.void(*[types.uintp] * 5), emit

    return add


_dot_1, _dot_4 = _dot_rows(DOUBLES, 1), _dot_rows(DOUBLES, 4)
_add_1, _add_4 = _add_rows(DOUBLES, 1), _add_rows(DOUBLES, 4)
_single_dot_1, _single_dot_4 = _dot_rows(FLOATS, 1), _dot_rows(FLOATS, 4)
_single_add_1, _single_add_4 = _add_rows(FLOATS, 1), _add_rows(FLOATS, 4)


@numba.njit(cache=True)
def times(bits: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    """Write y = B x, for float64 x of 64 entries a word (those beyond the matrix are not looked at)."""
    if x.size < 64 * bits.shape[1] or y.size < bits.shape[0] or x.strides[0] != 8 or y.strides[0] != 8:
        raise ValueError("vector too short for the packed matrix, or not contiguous")
    step, first, into, vector = numba.uintp(8 * bits.shape[1]), bits.ctypes.data, y.ctypes.data, x.ctypes.data
    done = bits.shape[0] // 4 * 4
    for i in range(0, done, 4):
        _dot_4(numba.uintp(first + i * step), step, numba.uintp(vector), step, numba.uintp(into + 8 * i))
    for i in range(done, bits.shape[0]):
        _dot_1(numba.uintp(first + i * step), step, numba.uintp(vector), step, numba.uintp(into + 8 * i))


@numba.njit(cache=True)
def times_transposed(bits: np.ndarray, y: np.ndarray, z: np.ndarray) -> None:
    """Write z = B^T y, with float64 z of 64 entries a word."""
    if z.size < 64 * bits.shape[1] or y.size < bits.shape[0] or z.strides[0] != 8 or y.strides[0] != 8:
        raise ValueError("vector too short for the packed matrix, or not contiguous")
    z[:] = 0.0
    step, first, at, vector = numba.uintp(8 * bits.shape[1]), bits.ctypes.data, y.ctypes.data, z.ctypes.data
    done = bits.shape[0] // 4 * 4
    for i in range(0, done, 4):
        _add_4(numba.uintp(first + i * step), step, numba.uintp(vector), step, numba.uintp(at + 8 * i))
    for i in range(done, bits.shape[0]):
        _add_1(numba.uintp(first + i * step), step, numba.uintp(vector), step, numba.uintp(at + 8 * i))


@numba.njit(cache=True)
def gram_times_single(bits: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    """Write y = B B^T x with float32 sums: twice as fast, for steps whose rounding a later one corrects."""
    step, first = numba.uintp(8 * bits.shape[1]), bits.ctypes.data
    narrow = x[: bits.shape[0]].astype(np.float32)
    across, back = np.zeros(64 * bits.shape[1], np.float32), np.empty(bits.shape[0], np.float32)
    vector, at, into = across.ctypes.data, narrow.ctypes.data, back.ctypes.data
    done = bits.shape[0] // 4 * 4
    for i in range(0, done, 4):
        _single_add_4(numba.uintp(first + i * step), step, numba.uintp(vector), step, numba.uintp(at + 4 * i))
    for i in range(done, bits.shape[0]):
        _single_add_1(numba.uintp(first + i * step), step, numba.uintp(vector), step, numba.uintp(at + 4 * i))
    for i in range(0, done, 4):
        _single_dot_4(numba.uintp(first + i * step), step, numba.uintp(vector), step, numba.uintp(into + 4 * i))
    for i in range(done, bits.shape[0]):
        _single_dot_1(numba.uintp(first + i * step), step, numba.uintp(vector), step, numba.uintp(into + 4 * i))
    for i in range(bits.shape[0]):
        y[i] = back[i]


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


def _emit_transpose_64(typing: Any, block: Any) -> Any:
    """Transpose 64 words of 64 bits in place, by six rounds of exchanges (Warren, Hacker's Delight, 7-3).

    Round w exchanges the high bits of each word whose number has bit w clear with the low bits of the word w further,
    for groups of 2 w bits. Vectors are paired by shuffles where both words lie in one.

    Returns
    -------
    tuple
        Signature and code generator, as numba's ``intrinsic`` wants them.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        size = 8
        vector, lane = ir.VectorType(WORD, size), ir.IntType(32)
        first, count = arguments[0], 64 // size
        places = [builder.inttoptr(builder.add(first, WORD(8 * size * i)), vector.as_pointer()) for i in range(count)]
        words = [builder.load(place, align=8) for place in places]

        def shuffle(x: Any, y: Any, numbers: list[int]) -> Any:
            return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(lane, size), [lane(n) for n in numbers]))

        for width in (32, 16, 8, 4, 2, 1):
            mask = sum(((1 << width) - 1) << group for group in range(0, 64, 2 * width))
            kept, shift = (ir.Constant(vector, [WORD(value)] * size) for value in (mask, width))
            inside = width < size
            apart = 1 if inside else width // size
            clear = [i for i in range(2 * size) if not i & width]
            together = [(clear + [i + width for i in clear]).index(i) for i in range(2 * size)]
            for i in range(count):
                if i & apart:
                    continue
                low, high = words[i], words[i + apart]
                if inside:
                    low, high = shuffle(low, high, clear), shuffle(low, high, [n + width for n in clear])
                swap = builder.and_(builder.xor(builder.lshr(low, shift), high), kept)
                low, high = builder.xor(low, builder.shl(swap, shift)), builder.xor(high, swap)
                if inside:
                    low, high = shuffle(low, high, together[:size]), shuffle(low, high, together[size:])
                words[i], words[i + apart] = low, high
        for place, word in zip(places, words, strict=True):
            builder.store(word, place, align=8)
        return context.get_dummy_value()

    return types.void(types.uintp), emit


transpose_64: Any = intrinsic(_emit_transpose_64)


@numba.njit(cache=True)
def transpose_bits(bits: np.ndarray, columns: int) -> np.ndarray:
    """Transpose a packed matrix, by 64 x 64 blocks."""
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
            transpose_64(numba.uintp(a.ctypes.data))
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


@numba.njit(cache=True)
def pack_nonzero(matrix: np.ndarray) -> np.ndarray:
    """Pack where a C-contiguous float32 matrix is not zero, in one pass over it."""
    rows, columns = matrix.shape
    out = np.zeros((rows, (columns + 511) // 512 * 8), np.uint64)
    first, into = matrix.ctypes.data, out.ctypes.data
    chunks = columns // 16
    for r in range(rows):
        if chunks:
            pack_chunks(
                numba.uintp(first + 4 * r * columns), numba.uintp(into + 8 * r * out.shape[1]), numba.uintp(chunks)
            )
        for c in range(16 * chunks, columns):
            if matrix[r, c] != 0.0:
                out[r, c >> 6] |= np.uint64(1) << np.uint64(c & 63)
    return out


@numba.njit(cache=True)
def count_rows(bits: np.ndarray) -> np.ndarray:
    """Count the set bits of each row, int64."""
    counts = np.empty(bits.shape[0], np.int64)
    for r in range(bits.shape[0]):
        total = np.uint64(0)
        for k in range(bits.shape[1]):
            total += popcount(bits[r, k])
        counts[r] = np.int64(total)
    return counts


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
    """Write the column of each set bit, row after row, to `index`, which has room for eight more."""
    rows, words = bits.shape
    e = np.int64(0)
    for r in range(rows):
        row = numba.uintp(bits.ctypes.data + 8 * words * r)
        e = np.int64(list_row(index, numba.uintp(e), row, numba.uintp(words), numba.uintp(1)))


@numba.njit(cache=True)
def order_by_column(index: np.ndarray, place: np.ndarray, values: np.ndarray, out: np.ndarray) -> None:
    """Write the values of edges that are listed row after row in the order of the columns.

    `index` names the row of each edge, column after column; `place` holds where each row's values begin, and is moved
    on. The values are read as many streams as there are rows, and written as one.
    """
    for e in range(index.size):
        r = np.uint64(index[e])  # unsigned: no look for negative places
        at = np.uint64(place[r])
        out[e] = values[at]
        place[r] = at + np.uint64(1)


@numba.njit(cache=True)
def narrow_absolute(values: np.ndarray, out: np.ndarray) -> tuple[bool, bool]:
    """Write absolute values in float32; return whether all are finite, and whether float32 holds each exactly."""
    infinite = inexact = 0
    for i in range(values.size):
        value = abs(values[i])
        single = np.float32(value)
        out[i] = single
        infinite += not value < np.inf
        inexact += np.float64(single) != value
    return infinite == 0, inexact == 0
