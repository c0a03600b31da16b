r"""The exact Gram matrix :math:`G = A A^T` of a packed 0/1 matrix, by the cheaper of two ways.

Entry :math:`G_{ij}` is the number of columns in which rows i and j both have a one: an integer below :math:`2^{24}`,
hence exact in float32.

comparing
    The population count of the AND of two packed rows, for each pair of rows: :math:`n^2 m / 128` word operations for n
    rows of m bits, whatever the density.
adding up
    Row i of G is the sum of those columns of A in which row i has a one, and a column is a vector of n bits. They are
    added as bits, all entries of a register side by side: a full adder turns three vectors of one weight into one of
    that weight and one of twice that, so five logical operations take in as many summands as a register has bits, and
    the counts stand in "planes", one for each binary digit, until a row is finished. That takes :math:`E n / 2` bit
    additions, with symmetry, for E ones: density times as many as bits compared. Above density 1/2 the zeros
    are added up instead, since

    .. math:: G_{ij} = d_i + d_j - m + \bar G_{ij},

    with degrees d and the Gram matrix of the zeros.

The carry-save tree is that of W. Muła, N. Kurz and D. Lemire, "Faster population counts using AVX2 instructions", The
Computer Journal 61 (2018), used for many counters at once.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba.core import cgutils, types
from numba.extending import intrinsic

from sift_graph.bits import list_row, popcount, transpose_64

__all__ = ["gram_of_bits", "mirror"]

WORD = ir.IntType(64)
EIGHT_WORDS, EIGHT_FLOATS = ir.VectorType(WORD, 8), ir.VectorType(ir.FloatType(), 8)
ROWS, LANES = 4, 16  # of one tile of comparisons: eight vectors of counts, four words spread out, two loaded
FEATURES = get_host_cpu_features()
WIDE = bool(FEATURES.get("avx512f", False))
COUNTS = bool(FEATURES.get("avx512vpopcntdq", False))  # population counts of eight words at once
SPAN = 8 if WIDE else 4  # words that one addition takes in: a register
BLOCK = 64 * SPAN
STRIP, CHUNK = 128, 64 if WIDE else 32  # rows, and words of each, at a time: all of it stays in the second cache
DIGITS = 5  # planes kept in registers: 32 summands go in before a carry leaves them
SUMMANDS = 1 << DIGITS
PLANES = 24
TILE = 32
# Nanoseconds: to add a vector of bits, list the bits of a word, write a count, turn 64 x 64 bits; compare a word.
ADD, LIST, WRITE, TURN = 0.9 if WIDE else 1.1, 8.0, 0.2, 150.0
COMPARE = 0.028 if COUNTS else 0.25


def _full_adder(builder: Any, x: Any, y: Any, z: Any) -> tuple[Any, Any]:
    """Add three vectors of bits; the sum's low digits and its high digits."""
    either = builder.xor(x, y)
    return builder.xor(either, z), builder.or_(builder.and_(x, y), builder.and_(either, z))


def _emit_add_up(typing: Any, table: Any, offsets: Any, count: Any, carries: Any, planes: Any) -> Any:
    """Add `count` vectors of bits, those at ``table + offsets[k]`` bytes, to the numbers whose digits are in `planes`.

    `count` is a multiple of `SUMMANDS`, and not zero. The first `DIGITS` planes stay in registers; what leaves them is
    added to the `carries` (one or more) planes behind them.

    Returns
    -------
    tuple
        Signature and code generator, as numba's ``intrinsic`` wants them.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        table, offsets, count, carries, planes = arguments
        vector, offset = ir.VectorType(WORD, SPAN), ir.IntType(32)

        def plane(place: Any) -> Any:
            return builder.inttoptr(builder.add(planes, builder.mul(place, WORD(8 * SPAN))), vector.as_pointer())

        before = builder.block
        loop, carry, following, after = (builder.append_basic_block(n) for n in ("add", "carry", "following", "added"))
        begun = [builder.load(plane(WORD(level)), align=8) for level in range(DIGITS)]
        builder.branch(loop)
        builder.position_at_end(loop)
        k = builder.phi(WORD)
        digits = [builder.phi(vector) for _ in range(DIGITS)]
        sums, waiting, out = list(digits), [None] * DIGITS, None
        for summand in range(SUMMANDS):
            at = builder.add(offsets, builder.mul(builder.add(k, WORD(summand)), WORD(4)))
            place = builder.zext(builder.load(builder.inttoptr(at, offset.as_pointer())), WORD)
            value = builder.load(builder.inttoptr(builder.add(table, place), vector.as_pointer()), align=8)
            for level in range(DIGITS):
                if waiting[level] is None:
                    waiting[level] = value
                    break
                sums[level], value = _full_adder(builder, sums[level], waiting[level], value)
                waiting[level] = None
            else:
                out = value  # only the last summand's carry comes this far
        builder.branch(carry)
        builder.position_at_end(carry)
        digit, bits = builder.phi(WORD), builder.phi(vector)
        at = plane(builder.add(digit, WORD(DIGITS)))
        old = builder.load(at, align=8)
        builder.store(builder.xor(old, bits), at, align=8)
        higher = builder.add(digit, WORD(1))
        for phi, start, last in ((digit, WORD(0), higher), (bits, out, builder.and_(old, bits))):
            phi.add_incoming(start, loop)
            phi.add_incoming(last, carry)
        builder.cbranch(builder.icmp_unsigned("<", higher, carries), carry, following)
        builder.position_at_end(following)
        done = builder.add(k, WORD(SUMMANDS))
        for phi, start, last in zip([k, *digits], [WORD(0), *begun], [done, *sums], strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(last, following)
        builder.cbranch(builder.icmp_unsigned("<", done, count), loop, after)
        builder.position_at_end(after)
        for level, value in enumerate(sums):
            builder.store(value, plane(WORD(level)), align=8)
        return context.get_dummy_value()

    return types.void(*[types.uintp] * 5), emit


_add_up: Any = intrinsic(_emit_add_up)


def _write_digits(parts: int) -> Any:
    """Make the kernel that writes the `BLOCK` numbers whose binary digits stand in ``8 * parts`` planes, as float32.

    Eight planes are turned as 8 x 8 bits in each column of bytes, then as 8 x 8 bytes: three rounds of exchanges each.

    Returns
    -------
    callable
        ``write(planes, out)``, of addresses.
    """

    @intrinsic
    def write(typing: Any, planes: Any, out: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            vector, lane = ir.VectorType(WORD, SPAN), ir.IntType(32)
            bytes_, eight = ir.VectorType(ir.IntType(8), 8), ir.VectorType(lane, 8)

            def turned(part: int) -> list[Any]:
                at = [builder.add(arguments[0], WORD(8 * SPAN * (8 * part + p))) for p in range(8)]
                lines = [builder.load(builder.inttoptr(place, vector.as_pointer()), align=8) for place in at]
                for unit in (1, 8):
                    for apart in (4, 2, 1):
                        width = unit * apart
                        mask = sum(((1 << width) - 1) << group for group in range(0, 64, 2 * width))
                        kept, shift = (ir.Constant(vector, [WORD(value)] * SPAN) for value in (mask, width))
                        for p in range(8):
                            if not p & apart:
                                low, high = lines[p], lines[p + apart]
                                swap = builder.and_(builder.xor(builder.lshr(low, shift), high), kept)
                                lines[p] = builder.xor(low, builder.shl(swap, shift))
                                lines[p + apart] = builder.xor(high, swap)
                return lines

            found = [turned(part) for part in range(parts)]
            for p in range(8):
                for k in range(SPAN):
                    total = None
                    for part in range(parts):
                        word = builder.extract_element(found[part][p], lane(k))
                        digits = builder.zext(builder.bitcast(word, bytes_), eight)
                        digits = builder.shl(digits, ir.Constant(eight, [lane(8 * part)] * 8))
                        total = digits if total is None else builder.or_(total, digits)
                    at = builder.inttoptr(builder.add(arguments[1], WORD(32 * (8 * k + p))), EIGHT_FLOATS.as_pointer())
                    builder.store(builder.sitofp(total, EIGHT_FLOATS), at, align=4)
            return context.get_dummy_value()

        return types.void(types.uintp, types.uintp), emit

    return write


_write_8_digits, _write_16_digits, _write_24_digits = (_write_digits(parts) for parts in (1, 2, 3))


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
    """Write the upper triangle of the exact Gram matrix of packed rows to ``gram[:n, :n]``, a float32 array.

    Of what lies below only blocks of `ROWS` by `ROWS` on the diagonal are sure to be written; :func:`mirror` does the
    rest.
    """
    n, words = bits.shape
    while words > 1:  # the padding, as far as it is all zeros
        some = np.uint64(0)
        for i in range(n):
            some |= bits[i, words - 1]
        if some:
            break
        words -= 1
    degree = np.zeros(n, np.int64)
    edges = 0
    for i in range(n):
        total = np.uint64(0)
        for k in range(words):
            total += popcount(bits[i, k])
        degree[i] = np.int64(total)
        edges += degree[i]
    zeros = 2 * edges > 64 * words * n
    summands = 64 * words * n - edges if zeros else edges
    blocks = (n + BLOCK - 1) // BLOCK
    compared = COMPARE * n * n * words / 2
    added = (ADD * summands + WRITE * BLOCK * n) * (blocks + 1) / 2 + (LIST * n + TURN * ((n + 63) // 64)) * words
    if compared <= added or n < ROWS:
        _by_comparing(bits, words, gram)
    elif zeros:
        turned = np.empty((n, words), np.uint64)
        for i in range(n):
            for k in range(words):
                turned[i, k] = ~bits[i, k]
        _by_adding_up(turned, words, 64 * words - degree, gram)
        for i in range(n):
            start = i // ROWS * ROWS
            line, others, own = gram[i, start:n], degree[start:n], degree[i] - 64 * words
            for j in range(n - start):
                line[j] += np.float32(own + others[j])
    else:
        _by_adding_up(bits, words, degree, gram)


@numba.njit(cache=True)
def _by_comparing(bits: np.ndarray, words: int, gram: np.ndarray) -> None:
    """Write the Gram matrix, `ROWS` rows against `LANES` at a time."""
    n = bits.shape[0]
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


@numba.njit(cache=True)
def _by_adding_up(bits: np.ndarray, words: int, degree: np.ndarray, gram: np.ndarray) -> None:
    """Write the Gram matrix by strips of rows against blocks of columns, from the diagonal on."""
    n = bits.shape[0]
    blocks, chunks = (n + BLOCK - 1) // BLOCK, (words + CHUNK - 1) // CHUNK
    lines = 64 * min(CHUNK, words)
    table = np.zeros((blocks, chunks, lines + 1, SPAN), np.uint64)  # the last line of a chunk adds nothing
    _turn(bits, words, table)
    step = 8 * SPAN * (lines + 1)
    offsets = np.empty(STRIP * (min(lines, degree.max()) + 2 * SUMMANDS), np.int32)
    begin, carries = np.empty(STRIP + 1, np.int64), np.empty(STRIP, np.int64)
    planes = np.empty((min(STRIP, n), blocks, PLANES, SPAN), np.uint64)
    line = np.empty(BLOCK, np.float32)
    for first in range(0, n, STRIP):
        count, start = min(STRIP, n - first), first // BLOCK
        for r in range(count):
            carries[r] = 1
            while SUMMANDS << carries[r] <= degree[first + r]:
                carries[r] += 1
        for r in range(count):
            for block in range(start, blocks):
                for p in range((DIGITS + carries[r] + 7) // 8 * 8):
                    for k in range(SPAN):
                        planes[r, block, p, k] = np.uint64(0)
        for chunk in range(chunks):
            begin[0] = 0
            for r in range(count):
                row = numba.uintp(bits.ctypes.data + 8 * (bits.shape[1] * (first + r) + CHUNK * chunk))
                count_words = numba.uintp(min(CHUNK, words - CHUNK * chunk))
                end = np.int64(list_row(offsets, numba.uintp(begin[r]), row, count_words, numba.uintp(8 * SPAN)))
                while (end - begin[r]) % SUMMANDS:
                    offsets[end] = 8 * SPAN * lines
                    end += 1
                begin[r + 1] = end
            for block in range(start, blocks):
                at = numba.uintp(table.ctypes.data + step * (chunks * block + chunk))
                for r in range(count):
                    summands = numba.uintp(begin[r + 1] - begin[r])
                    if summands:
                        listed = numba.uintp(offsets.ctypes.data + 4 * begin[r])
                        into = numba.uintp(planes.ctypes.data + 8 * SPAN * PLANES * (blocks * r + block))
                        _add_up(at, listed, summands, numba.uintp(carries[r]), into)
        for block in range(start, blocks):
            j0, width = block * BLOCK, min(BLOCK, n - block * BLOCK)
            for r in range(count):
                found = numba.uintp(planes.ctypes.data + 8 * SPAN * PLANES * (blocks * r + block))
                whole = width == BLOCK
                into = numba.uintp(gram[first + r, j0:].ctypes.data if whole else line.ctypes.data)
                if DIGITS + carries[r] <= 8:
                    _write_8_digits(found, into)
                elif DIGITS + carries[r] <= 16:
                    _write_16_digits(found, into)
                else:
                    _write_24_digits(found, into)
                if not whole:
                    for j in range(width):
                        gram[first + r, j0 + j] = line[j]


@numba.njit(cache=True)
def mirror(gram: np.ndarray) -> None:
    """Copy what stands above the diagonal of a square array to its place below, by tiles that the first cache holds."""
    n = gram.shape[0]
    for i0 in range(0, n, TILE):
        for j0 in range(i0, n, TILE):
            for j in range(j0, min(j0 + TILE, n)):
                for i in range(i0, min(i0 + TILE, j)):
                    gram[j, i] = gram[i, j]


@numba.njit(cache=True)
def _turn(bits: np.ndarray, words: int, table: np.ndarray) -> None:
    """Write column c of the rows of each block to line c of the block's table, by 64 x 64 bits."""
    rows = bits.shape[0]
    a = np.empty(64, np.uint64)
    for block in range(table.shape[0]):
        for k in range(words):
            for place in range(SPAN):
                first = BLOCK * block + 64 * place
                count = min(64, rows - first)
                some = np.uint64(0)
                for r in range(count):
                    a[r] = bits[first + r, k]
                    some |= a[r]
                if some == np.uint64(0):
                    continue
                for r in range(count, 64):
                    a[r] = np.uint64(0)
                transpose_64(numba.uintp(a.ctypes.data))
                for r in range(64):
                    table[block, k // CHUNK, 64 * (k % CHUNK) + r, place] = a[r]
