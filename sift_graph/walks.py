"""Short walks in a graph given by lists of neighbours: two steps, small sets, odd cycles. See also `topology`."""

from __future__ import annotations

import numba
import numpy as np

from sift_graph.bits import popcount

__all__ = ["count_quadruples", "count_triangles", "count_within_two", "has_odd_cycle"]


@numba.njit(cache=True)
def count_within_two(starts: np.ndarray, index: np.ndarray) -> np.int64:
    """Sum over vertices of how many are within two steps along the lists, the vertex itself included."""
    n = starts.size - 1
    words = (n + 63) // 64
    bits = np.zeros((n, words), np.uint64)
    for v in range(n):
        bits[v, v >> 6] |= np.uint64(1) << np.uint64(v & 63)
        for k in range(starts[v], starts[v + 1]):
            bits[v, index[k] >> 6] |= np.uint64(1) << np.uint64(index[k] & 63)
    first, last = np.zeros(n, np.int64), np.zeros(n, np.int64)  # words in which a row has bits
    for v in range(n):
        first[v] = words
        for word in range(words):
            if bits[v, word]:
                first[v] = min(first[v], word)
                last[v] = word
    union = np.zeros(words, np.uint64)
    total = np.int64(0)
    for v in range(n):
        low, high = first[v], last[v]
        union[low : high + 1] = bits[v, low : high + 1]
        for k in range(starts[v], starts[v + 1]):
            u = index[k]
            for word in range(first[u], last[u] + 1):
                union[word] |= bits[u, word]
            low, high = min(low, first[u]), max(high, last[u])
        for word in range(low, high + 1):
            total += np.int64(popcount(union[word]))
            union[word] = np.uint64(0)
    return total


@numba.njit(cache=True)
def _pack_lists(starts: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pack the lists of all vertices to rows of bits; with the first and the last word in which each has any."""
    n = starts.size - 1
    words = (n + 63) // 64
    bits = np.zeros((n, words), np.uint64)
    first, last = np.full(n, words, np.int64), np.full(n, -1, np.int64)
    for v in range(n):
        for k in range(starts[v], starts[v + 1]):
            word = index[k] >> 6
            bits[v, word] |= np.uint64(1) << np.uint64(index[k] & 63)
            first[v], last[v] = min(first[v], word), max(last[v], word)
    return bits, first, last


@numba.njit(cache=True)
def count_triangles(starts: np.ndarray, index: np.ndarray) -> np.int64:
    """Count triangles of a graph without directed cycles: lists of where the edges of each vertex lead."""
    n = starts.size - 1
    bits, first, last = _pack_lists(starts, index)
    total = np.int64(0)
    for v in range(n):
        for k in range(starts[v], starts[v + 1]):
            u = index[k]
            for word in range(max(first[v], first[u]), min(last[v], last[u]) + 1):
                total += np.int64(popcount(bits[v, word] & bits[u, word]))
    return total


@numba.njit(cache=True)
def count_quadruples(starts: np.ndarray, index: np.ndarray) -> tuple[np.int64, np.int64, np.int64, np.int64]:
    """Count 4-cycles, triangles with a tail, pairs of triangles on an edge, K(4); lists hold both directions."""
    n = starts.size - 1
    bits, first, last = _pack_lists(starts, index)
    words = bits.shape[1]
    union, common = np.zeros(words, np.uint64), np.zeros(words, np.uint64)
    diagonals = tails = pairs = complete = np.int64(0)
    for v in range(n):
        for k in range(starts[v], starts[v + 1]):
            u = index[k]
            for word in range(max(first[u], v >> 6), last[u] + 1):
                union[word] |= bits[u, word]
            if u <= v:
                continue
            shared = np.int64(0)
            low, high = max(first[v], first[u]), min(last[v], last[u])
            for word in range(low, high + 1):
                common[word] = bits[v, word] & bits[u, word]
                shared += np.int64(popcount(common[word]))
            # each triangle at a vertex is seen from both of its edges there: halved below
            tails += shared * (starts[v + 1] - starts[v] - 2 + starts[u + 1] - starts[u] - 2)
            pairs += shared * (shared - 1) // 2
            if shared < 2:
                continue
            for word in range(max(low, u >> 6), high + 1):
                left = common[word]
                while left:
                    lowest = left & (~left + np.uint64(1))
                    left ^= lowest
                    w = 64 * word + np.int64(popcount(lowest - np.uint64(1)))
                    if w > u:
                        complete += np.int64(popcount(left & bits[w, word]))
                        for beyond in range(word + 1, high + 1):
                            complete += np.int64(popcount(common[beyond] & bits[w, beyond]))
        for word in range(v >> 6, words):
            left, union[word] = union[word], np.uint64(0)
            while left:
                lowest = left & (~left + np.uint64(1))
                left ^= lowest
                w = 64 * word + np.int64(popcount(lowest - np.uint64(1)))
                if w > v:
                    shared = np.int64(0)
                    for other in range(max(first[v], first[w]), min(last[v], last[w]) + 1):
                        shared += np.int64(popcount(bits[v, other] & bits[w, other]))
                    diagonals += shared * (shared - 1) // 2
    return diagonals // 2, tails // 2, pairs, complete


@numba.njit(cache=True)
def has_odd_cycle(starts: np.ndarray, index: np.ndarray) -> bool:
    """Whether two colours do not suffice; lists hold both directions."""
    n = starts.size - 1
    colour, queue = np.full(n, -1, np.int8), np.empty(n, np.int64)
    for root in range(n):
        if colour[root] >= 0:
            continue
        colour[root] = 0
        queue[0] = root
        head, tail = 0, 1
        while head < tail:
            v = queue[head]
            head += 1
            for k in range(starts[v], starts[v + 1]):
                u = index[k]
                if colour[u] < 0:
                    colour[u] = 1 - colour[v]
                    queue[tail] = u
                    tail += 1
                elif colour[u] == colour[v]:
                    return True
    return False
