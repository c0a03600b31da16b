"""Pack large masks, and pick the weights that they keep, each in one pass over memory.

A recorder does this on the training thread, where numpy's way costs more than a copy of the weights: to check that
float32 entries are zeros and ones takes it five passes, and 111.8 M of them 150 ms. Compiled code is kept on disk, and
loading it takes a fifth of a second: callers leave small arrays to numpy.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

__all__ = ["pack_chunks", "pack_nonzero", "pick"]

WORD = ir.IntType(64)
LANES = 16  # floats a chunk


def _emit_pack_chunks(typing: Any, source: Any, target: Any, chunks: Any) -> Any:
    """Write one bit for each of 16 floats a chunk: whether it is not 0.0 (NaN is not); whether all are 0.0 or 1.0."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, target, chunks = arguments
        half, single = ir.IntType(LANES), ir.VectorType(ir.FloatType(), LANES)
        zero, one = (ir.Constant(single, [ir.Constant(ir.FloatType(), x)] * LANES) for x in (0.0, 1.0))
        before = builder.block
        loop, after = builder.append_basic_block("chunks"), builder.append_basic_block("after")
        builder.branch(loop)
        builder.position_at_end(loop)
        chunk, odd = builder.phi(WORD), builder.phi(half)
        chunk.add_incoming(WORD(0), before)
        odd.add_incoming(half(0), before)
        at = builder.add(source, builder.mul(chunk, WORD(64)))
        values = builder.load(builder.inttoptr(at, single.as_pointer()), align=4)
        kept = builder.fcmp_unordered("!=", values, zero)
        builder.store(
            builder.bitcast(kept, half),
            builder.inttoptr(builder.add(target, builder.mul(chunk, WORD(2))), half.as_pointer()),
            align=1,
        )
        strange = builder.and_(kept, builder.fcmp_unordered("!=", values, one))
        odder = builder.or_(odd, builder.bitcast(strange, half))
        following = builder.add(chunk, WORD(1))
        chunk.add_incoming(following, loop)
        odd.add_incoming(odder, loop)
        builder.cbranch(builder.icmp_unsigned("<", following, chunks), loop, after)
        builder.position_at_end(after)
        return builder.icmp_unsigned("==", odder, half(0))

    return types.boolean(types.uintp, types.uintp, types.uintp), emit


pack_chunks: Any = intrinsic(_emit_pack_chunks)


def _emit_lowest(typing: Any, word: Any) -> Any:
    """Find the number of the lowest set bit of a word."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        flag = ir.IntType(1)
        count = builder.module.declare_intrinsic("llvm.cttz", [WORD], ir.FunctionType(WORD, [WORD, flag]))
        return builder.call(count, [arguments[0], flag(0)])

    return types.uint64(types.uint64), emit


_lowest: Any = intrinsic(_emit_lowest)


@numba.njit(cache=True)
def pack_nonzero(values: np.ndarray) -> tuple[np.ndarray, bool]:
    """Pack where float32 values of one axis are not zero, least significant bit first.

    Parameters
    ----------
    values : ndarray of float32, C-contiguous

    Returns
    -------
    bits : ndarray of uint8
    are_ones : bool
        Whether all that are not 0.0 are 1.0.
    """
    bits = np.zeros((values.size + 7) // 8, np.uint8)
    chunks = values.size // 16
    are_ones = True
    if chunks:
        are_ones = pack_chunks(numba.uintp(values.ctypes.data), numba.uintp(bits.ctypes.data), numba.uintp(chunks))
    for i in range(16 * chunks, values.size):
        if values[i] != 0.0:
            bits[i >> 3] |= np.uint8(1 << (i & 7))
            are_ones = are_ones and values[i] == 1.0
    return bits, are_ones


@numba.njit(cache=True)
def pick(bits: np.ndarray, values: np.ndarray, out: np.ndarray) -> None:
    """Copy the values at the set bits, in their order, to `out`, which has room for them.

    Parameters
    ----------
    bits : ndarray of uint8
        Least significant bit first.
    values : ndarray of float32 or float64
        Of one axis, C-contiguous.
    out : ndarray of the same dtype
    """
    whole = bits.size // 8
    words = bits[: 8 * whole].view(np.uint64)
    e = 0
    for k in range(whole):
        word = words[k]
        while word:
            out[e] = values[64 * k + np.int64(_lowest(word))]
            e += 1
            word &= word - np.uint64(1)
    for i in range(64 * whole, values.size):
        if bits[i >> 3] >> np.uint8(i & 7) & np.uint8(1):
            out[e] = values[i]
            e += 1
