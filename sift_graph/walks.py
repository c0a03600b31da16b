"""Short walks in a graph given by lists of neighbours: two steps, triangles, odd cycles. See also `topology`."""

from __future__ import annotations

import numba
import numpy as np

from sift_graph.bits import popcount

__all__ = ["count_triangles", "count_within_two", "has_odd_cycle"]


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
def count_triangles(starts: np.ndarray, index: np.ndarray) -> np.int64:
    """Count triangles of a graph without directed cycles: lists of where the edges of each vertex lead."""
    n = starts.size - 1
    words = (n + 63) // 64
    bits = np.zeros((n, words), np.uint64)
    first, last = np.full(n, words, np.int64), np.full(n, -1, np.int64)  # words in which a row has bits
    for v in range(n):
        for k in range(starts[v], starts[v + 1]):
            word = index[k] >> 6
            bits[v, word] |= np.uint64(1) << np.uint64(index[k] & 63)
            first[v], last[v] = min(first[v], word), max(last[v], word)
    total = np.int64(0)
    for v in range(n):
        for k in range(starts[v], starts[v + 1]):
            u = index[k]
            for word in range(max(first[v], first[u]), min(last[v], last[u]) + 1):
                total += np.int64(popcount(bits[v, word] & bits[u, word]))
    return total


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
