"""Byte pair encoding, learnt from a text: frequent pairs of tokens become a token, beginning with bytes."""

from __future__ import annotations

import heapq
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from sift_graph.errors import UsageError

__all__ = ["BPE", "BYTES", "learn_bpe"]

# Letters (and every byte of a character outside ASCII), digits, other signs, each with a space before; then blanks.
# Every byte falls in one of the four, so nothing is lost.
WORD = re.compile(rb" ?[A-Za-z\x80-\xff]+| ?[0-9]+| ?[^\sA-Za-z0-9\x80-\xff]+|\s+")
BYTES = 256
CHUNK = 1_000_000  # words put together at a time

Pair = tuple[int, int]


@dataclass(frozen=True)
class BPE:
    """A tokenizer.

    Attributes
    ----------
    merges : tuple of pair of int
        In the order in which they were learnt: the n-th makes token 256 + n.
    """

    merges: tuple[Pair, ...]

    def encode(self, text: bytes) -> np.ndarray:
        """Turn a text into tokens.

        Parameters
        ----------
        text : bytes

        Returns
        -------
        ndarray of int32

        Examples
        --------
        >>> bpe = learn_bpe(b"low lower lowest", 258)
        >>> bpe.encode(b"slow").tolist(), bpe.decode(bpe.encode(b"slow"))
        ([115, 257], b'slow')
        """
        ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        # Each word is merged once, and a hundred million of them are never objects at the same time.
        known: dict[bytes, int] = {}
        order = np.fromiter((known.setdefault(word.group(), len(known)) for word in WORD.finditer(text)), np.int32)
        pieces = [np.array(merged(list(word), ranks), np.int32) for word in known]
        lengths = np.array([len(piece) for piece in pieces], np.int64)
        starts, tokens = np.cumsum(lengths) - lengths, np.concatenate([np.empty(0, np.int32), *pieces])
        parts = [np.empty(0, np.int32)]
        for first in range(0, len(order), CHUNK):
            chosen = order[first : first + CHUNK]
            count = lengths[chosen]
            end = np.cumsum(count)
            parts.append(tokens[np.arange(end[-1]) + np.repeat(starts[chosen] - (end - count), count)])
        return np.concatenate(parts)

    def decode(self, tokens: np.ndarray) -> bytes:
        """Turn tokens back into the text.

        Parameters
        ----------
        tokens : ndarray of int

        Returns
        -------
        bytes
        """
        pieces = [bytes([byte]) for byte in range(BYTES)]
        for left, right in self.merges:
            pieces.append(pieces[left] + pieces[right])
        return b"".join(pieces[token] for token in tokens.tolist())


def merged(tokens: list[int], ranks: dict[Pair, int]) -> list[int]:
    """Apply merges to a word, the earliest learnt first."""
    while len(tokens) > 1:
        best = min(pairwise(tokens), key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        tokens = replaced(tokens, best, BYTES + ranks[best])
    return tokens


def replaced(tokens: list[int], pair: Pair, new: int) -> list[int]:
    """Put a token in the place of each pair, from the left."""
    result, i = [], 0
    while i < len(tokens):
        if i + 1 < len(tokens) and (tokens[i], tokens[i + 1]) == pair:
            result.append(new)
            i += 2
        else:
            result.append(tokens[i])
            i += 1
    return result


def learn_bpe(text: bytes, vocabulary: int) -> BPE:
    """Learn merges from a text: again and again the most frequent pair within a word; of equal ones, the smallest.

    Parameters
    ----------
    text : bytes
    vocabulary : int
        Tokens in all, 256 or more. A short text may have pairs for fewer.

    Returns
    -------
    BPE

    Raises
    ------
    UsageError
        If the vocabulary is below 256.

    References
    ----------
    .. [1] R. Sennrich, B. Haddow, A. Birch, "Neural Machine Translation of Rare Words with Subword Units", ACL 2016,
       algorithm 1.
    """
    if vocabulary < BYTES:
        raise UsageError(f"data.vocabulary: expected {BYTES} or more, a token for each byte, found {vocabulary}")
    counted = Counter(word.group() for word in WORD.finditer(text))
    words, weights = [list(word) for word in counted], list(counted.values())
    counts: Counter[Pair] = Counter()
    places: defaultdict[Pair, set[int]] = defaultdict(set)
    for index, (word, weight) in enumerate(zip(words, weights, strict=True)):
        for pair in pairwise(word):
            counts[pair] += weight
            places[pair].add(index)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    merges: list[Pair] = []
    while heap and len(merges) < vocabulary - BYTES:
        negative, pair = heapq.heappop(heap)
        if counts[pair] != -negative:  # an entry from before a merge changed the count
            continue
        if -negative < 2:
            break  # each further pair would stand for one place in the text
        new = BYTES + len(merges)
        merges.append(pair)
        changed = set()
        for index in places.pop(pair):
            old, weight = words[index], weights[index]
            words[index] = replaced(old, pair, new)
            for tokens, sign in ((old, -1), (words[index], 1)):
                for neighbours in pairwise(tokens):
                    counts[neighbours] += sign * weight
                    changed.add(neighbours)
            for neighbours in pairwise(words[index]):
                places[neighbours].add(index)
        del counts[pair]
        changed.discard(pair)
        for neighbours in changed:
            if counts[neighbours] > 0:
                heapq.heappush(heap, (-counts[neighbours], neighbours))
    return BPE(tuple(merges))
