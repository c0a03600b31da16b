"""The coder of gap streams: one pass over 64-bit words, which touches only the bits that change."""

from __future__ import annotations

import numba
import numpy as np

from sift_graph.bits import popcount

__all__ = ["list_gaps", "set_listed"]

ONE = np.uint64(1)
ESCAPE = np.uint64(255)


@numba.njit(cache=True)
def list_gaps(among: np.ndarray, changed: np.ndarray, out: np.ndarray) -> int:
    """List how many candidates lie between those that change; return the bytes written.

    Parameters
    ----------
    among : ndarray of uint64, shape (words,)
        The candidates: set bits.
    changed : ndarray of uint64, shape (words,)
        Those of them that change.
    out : ndarray of uint8
        Room for a byte for each that changes, and one more for each 255 candidates.

    Returns
    -------
    int
    """
    e = 0
    seen = following = np.uint64(0)  # candidates before this word; number of the first after the last one listed
    for k in range(among.size):
        word = changed[k]
        while word:
            lowest = word & (~word + ONE)
            rank = seen + popcount(among[k] & (lowest - ONE))
            gap = rank - following
            while gap >= ESCAPE:
                out[e] = 255
                e += 1
                gap -= ESCAPE
            out[e] = np.uint8(gap)
            e += 1
            following = rank + ONE
            word ^= lowest
        seen += popcount(among[k])
    return e


@numba.njit(cache=True)
def set_listed(among: np.ndarray, gaps: np.ndarray, out: np.ndarray) -> bool:
    """Set those bits of `out` whose candidates a stream lists: the inverse of :func:`list_gaps`.

    Parameters
    ----------
    among : ndarray of uint64, shape (words,)
        One word or more.
    gaps : ndarray of uint8
    out : ndarray of uint64, shape (words,)

    Returns
    -------
    bool
        False if the stream lists a candidate that does not exist, or ends in the middle of a gap.
    """
    k = 0
    word, count = among[0], popcount(among[0])
    seen = target = np.uint64(0)  # candidates before this word; number of the one that is listed
    for e in range(gaps.size):
        target += np.uint64(gaps[e])
        if gaps[e] == 255:
            continue
        while target >= seen + count:
            seen += count
            k += 1
            if k == among.size:
                return False
            word, count = among[k], popcount(among[k])
        out[k] |= ONE << _select(word, target - seen)
        target += ONE
    return gaps.size == 0 or gaps[gaps.size - 1] != 255


@numba.njit(cache=True)
def _select(word: np.uint64, rank: np.uint64) -> np.uint64:
    """Place of the set bit of a word that has `rank` set bits below it; by halves, without a branch."""
    place, width = np.uint64(0), np.uint64(32)
    while width:
        low = popcount(word & ((ONE << width) - ONE))
        above = np.uint64(rank >= low)
        rank -= above * low
        place += above * width
        word >>= above * width
        width >>= ONE
    return place
