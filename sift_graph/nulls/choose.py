"""Uniform choices among the set bits of packed words, exact and fast: what every null model is made of.

Random bits come from xoshiro256++ (D. Blackman and S. Vigna, 2021), seeded by a numpy Generator: compiled code draws a
word in two nanoseconds, so that a whole mask is drawn in milliseconds.

A subset of given size is drawn in two stages. First each candidate is taken with probability q, 64 candidates at once:
a word whose bits are 1 with a probability of b binary digits is made of b random words by AND and OR. Then single
candidates, drawn by rejection, are added or removed until the size is right. Whatever its size, what the first stage
took is uniform among the subsets of that size, and adding or removing a uniform one keeps it so: the result is exactly
uniform, and q decides nothing but the time.
"""

from __future__ import annotations

import numba
import numpy as np

from sift_graph.bits import popcount

__all__ = ["below", "choose_bits", "choose_few", "random_state", "shuffle"]

ONE = np.uint64(1)
LOW_HALF = np.uint64(0xFFFFFFFF)
DIGITS = 16  # binary digits of q, at most


def random_state(rng: np.random.Generator) -> np.ndarray:
    """Seed the generator of the compiled code.

    Parameters
    ----------
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of uint64, shape (4,)
        Changed by every draw.
    """
    return rng.integers(1, 2**64, size=4, dtype=np.uint64)


@numba.njit(cache=True, inline="always")
def _rotate(word, k):  # type: ignore[no-untyped-def]
    return (word << np.uint64(k)) | (word >> np.uint64(64 - k))


@numba.njit(cache=True)
def _draw(state):  # type: ignore[no-untyped-def]
    """Next 64 random bits."""
    drawn = _rotate(state[0] + state[3], 23) + state[0]
    t = state[1] << np.uint64(17)
    state[2] ^= state[0]
    state[3] ^= state[1]
    state[1] ^= state[2]
    state[0] ^= state[3]
    state[2] ^= t
    state[3] = _rotate(state[3], 45)
    return drawn


@numba.njit(cache=True)
def below(state, n):  # type: ignore[no-untyped-def]
    """Draw an integer from 0 to n - 1, n at most 2^32, without bias (D. Lemire, 2019)."""
    bound = np.uint64(n)
    product = (_draw(state) >> np.uint64(32)) * bound
    low = product & LOW_HALF
    if low < bound:
        threshold = ((ONE << np.uint64(32)) - bound) % bound
        while low < threshold:
            product = (_draw(state) >> np.uint64(32)) * bound
            low = product & LOW_HALF
    return np.int64(product >> np.uint64(32))


@numba.njit(cache=True)
def shuffle(order: np.ndarray, state: np.ndarray) -> None:
    """Put the entries into random order."""
    for i in range(order.size - 1, 0, -1):
        j = below(state, i + 1)
        order[i], order[j] = order[j], order[i]


@numba.njit(cache=True)
def choose_few(word, count, state):  # type: ignore[no-untyped-def]
    """Draw `count` of the set bits of one word, bit after bit, each with its exact probability."""
    chosen = np.uint64(0)
    left = np.int64(popcount(word))
    while word and count > 0:
        lowest = word & (~word + ONE)
        if below(state, left) < count:
            chosen |= lowest
            count -= 1
        left -= 1
        word ^= lowest
    return chosen


@numba.njit(cache=True)
def _digits_of(share, total):  # type: ignore[no-untyped-def]
    """Binary digits that q needs for its error to be lost in the chance of the first stage."""
    noise = 0.5 * np.sqrt(total * share * (1.0 - share)) + 1.0
    for digits in range(1, DIGITS):
        nearest = np.floor(share * (1 << digits) + 0.5) / (1 << digits)
        if abs(nearest - share) * total <= noise:
            return digits
    return DIGITS


@numba.njit(cache=True)
def _list_and_choose(among, count, chosen, total, state):  # type: ignore[no-untyped-def]
    """Draw from few candidates: list them, and shuffle the first `count`."""
    places = np.empty(total, np.int64)
    e = 0
    for k in range(among.size):
        chosen[k] = np.uint64(0)
        word = among[k]
        while word:
            lowest = word & (~word + ONE)
            places[e] = 64 * k + np.int64(popcount(lowest - ONE))
            e += 1
            word ^= lowest
    for i in range(count):
        j = i + below(state, total - i)
        place = places[j]
        places[j] = places[i]
        chosen[place >> 6] |= ONE << np.uint64(place & 63)


@numba.njit(cache=True)
def _guess_and_mend(among, count, chosen, total, state):  # type: ignore[no-untyped-def]
    """Draw from many candidates, in the two stages that the module describes."""
    words = among.size
    share = count / total
    digits = _digits_of(share, total)
    pattern = np.int64(np.floor(share * (1 << digits) + 0.5))
    while digits > 1 and pattern and not pattern & 1:
        pattern >>= 1
        digits -= 1
    taken = np.int64(0)
    for k in range(words):
        word = np.uint64(0)
        if pattern and among[k]:
            for digit in range(digits):  # from the last one up
                word = word | _draw(state) if (pattern >> digit) & 1 else word & _draw(state)
            word &= among[k]
            taken += np.int64(popcount(word))
        chosen[k] = word
    missing = taken < count
    while taken != count:
        k = below(state, words)
        candidates = among[k] & ~chosen[k] if missing else chosen[k]
        bit = ONE << (_draw(state) & np.uint64(63))
        if candidates & bit:
            chosen[k] ^= bit
            taken += 1 if missing else -1


@numba.njit(cache=True)
def choose_bits(among: np.ndarray, total: int, count: int, chosen: np.ndarray, state: np.ndarray) -> None:
    """Draw `count` of the set bits of packed words, uniformly among all choices of that many.

    Parameters
    ----------
    among : ndarray of uint64, shape (words,)
        Candidates.
    total : int
        How many they are.
    count : int
        How many to take.
    chosen : ndarray of uint64, shape (words,)
        Written.
    state : ndarray of uint64, shape (4,)
        From :func:`random_state`.
    """
    fewer = min(count, total - count)  # of what is taken or of what is left out
    if total <= 4 * among.size:
        _list_and_choose(among, fewer, chosen, total, state)
    else:
        _guess_and_mend(among, fewer, chosen, total, state)
    if fewer < count:
        for k in range(among.size):
            chosen[k] ^= among[k]
