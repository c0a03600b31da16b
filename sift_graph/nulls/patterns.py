"""N:M patterns: of every M consecutive entries of an output's row N are kept, and no others are drawn.

Groups lie along the flattened row of inputs times kernel positions, or along the input channels of one kernel position,
as hardware that multiplies 2:4 matrices wants them. A transposable mask keeps N in each row and each column of M by M
blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np

from sift_graph.errors import NullModelError, UsageError
from sift_graph.graph import BipartiteGraph
from sift_graph.masks import LayerMask
from sift_graph.nulls.choose import choose_few, random_state
from sift_graph.nulls.trades import trade_blocks

__all__ = ["Grouped", "Pattern", "find_pattern", "read_pattern"]

DETECTED = (2, 4, 8, 16, 32)  # M that are looked for; any up to 64 may be told
MAX_M = 64  # a group is a word
BLOCK_ROUNDS = 32


@dataclass(frozen=True)
class Pattern:
    """An N:M pattern, and where its groups lie.

    Attributes
    ----------
    n, m : int
        Kept entries of a group, and its length.
    axis : {"row", "input"}
        Along the flattened row, or along input channels at one kernel position.
    transposable : bool
        Whether columns of M by M blocks keep N too.
    """

    n: int
    m: int
    axis: Literal["row", "input"] = "row"
    transposable: bool = False

    def __str__(self) -> str:
        """For instance ``2:4``."""
        words = [f"{self.n}:{self.m}"]
        words += ["over inputs"] if self.axis == "input" else []
        words += ["transposable"] if self.transposable else []
        return " ".join(words)


def read_pattern(text: str) -> tuple[int, int]:
    """Read N and M from ``"2:4"``.

    Parameters
    ----------
    text : str

    Returns
    -------
    tuple of int
        N and M.

    Raises
    ------
    UsageError
        If it is no such pattern.
    """
    first, _, second = str(text).partition(":")
    if not (first.isdecimal() and second.isdecimal() and 0 < int(first) < int(second) <= MAX_M):
        raise UsageError(f"cannot read the pattern {text!r}; expected N:M with 0 < N < M <= {MAX_M}, for instance 2:4")
    return int(first), int(second)


@dataclass(frozen=True, eq=False)
class Grouped:
    """A mask cut into the groups of a pattern: a word a group, row after row."""

    pattern: Pattern
    words: np.ndarray
    graph: BipartiteGraph
    positions: int  # kernel positions between two inputs of a group

    def draw(self, rng: np.random.Generator) -> BipartiteGraph:
        """Draw a graph in which each group keeps its count, each block of a transposable one those of its columns too.

        Parameters
        ----------
        rng : numpy.random.Generator

        Returns
        -------
        BipartiteGraph
        """
        m, state = self.pattern.m, random_state(rng)
        if self.pattern.transposable:
            across = self.graph.block_left // m
            blocks = self.words.reshape(-1, m, across).swapaxes(1, 2).reshape(-1, m)  # a copy
            trade_blocks(blocks, BLOCK_ROUNDS, state)
            words = np.ascontiguousarray(blocks.reshape(-1, across, m).swapaxes(1, 2)).reshape(-1)
        else:
            words = _draw_groups(self.words, m, state)
        dense = _spread(words, m).reshape(self.graph.n_right, -1)
        if self.pattern.axis == "input":
            dense = _swap(dense, self.positions, back=True)
        return _packed(self.graph, dense)


def find_pattern(mask: LayerMask, told: tuple[int, int] | None = None) -> Grouped:
    """Find the N:M pattern of a mask, and cut the mask into its groups.

    Parameters
    ----------
    mask : LayerMask
    told : tuple of int, optional
        N and M, of a mask whose groups keep N or fewer: each group then keeps its own count. Otherwise the smallest
        M of 2, 4, 8, 16, 32 counts for which each group has the same N.

    Returns
    -------
    Grouped

    Raises
    ------
    NullModelError
        If the mask has none, or not the one told.
    """
    graph = BipartiteGraph.from_mask(mask)
    positions = math.prod(mask.shape[2:]) if mask.layout == "oi" else 1
    views = {"row": graph.dense_rows(0, graph.n_right)}
    if positions > 1:
        views["input"] = _swap(views["row"], positions)
    lengths = {"row": graph.block_left, "input": graph.block_left // positions}
    worst = 0
    for m in DETECTED if told is None else (told[1],):
        n, rest = (graph.edges * m // mask.size, graph.edges * m % mask.size) if told is None else (told[0], 0)
        if rest or not 0 < n < m:
            continue
        for axis, dense in views.items():
            if lengths[axis] % m:
                continue
            counts = dense.reshape(graph.n_right, -1, m).sum(axis=2, dtype=np.uint8)
            worst = max(worst, int(counts.max()))
            if counts.max() > n or (told is None and counts.min() < n):
                continue
            even = _columns_keep(dense, n, m, graph.n_right // graph.groups) and int(counts.min()) == n
            pattern = Pattern(n, m, "input" if axis == "input" else "row", even)
            return Grouped(pattern, _gather(dense.reshape(-1, m)), graph, positions)
    if told is None:
        sizes = ", ".join(map(str, DETECTED))
        raise NullModelError(
            f"layer {mask.layer!r}: no N:M pattern found: for no M of {sizes} have all groups of M the same count; "
            "tell it (pattern='2:4') where groups may keep fewer, or take the null model 'degree'",
            "no_pattern",
        )
    found = f"a group keeps {worst}" if worst else f"groups of {told[1]} do not divide its rows of {graph.block_left}"
    raise NullModelError(
        f"layer {mask.layer!r}: the mask is not {told[0]}:{told[1]}: {found}; leave the pattern away to have it "
        "detected, or take the null model 'degree'",
        "no_pattern",
    )


def _columns_keep(dense: np.ndarray, n: int, m: int, per_group: int) -> bool:
    """Whether each column of each M by M block has N entries."""
    if per_group % m:
        return False
    counts = dense.reshape(-1, m, dense.shape[1]).sum(axis=1, dtype=np.uint8)
    return bool((counts == n).all())


def _swap(dense: np.ndarray, positions: int, *, back: bool = False) -> np.ndarray:
    """Bring the inputs of one kernel position side by side, or back."""
    inputs = dense.shape[1] // positions
    shape = (len(dense), positions, inputs) if back else (len(dense), inputs, positions)
    return np.ascontiguousarray(dense.reshape(shape).swapaxes(1, 2)).reshape(dense.shape)


def _packed(graph: BipartiteGraph, dense: np.ndarray) -> BipartiteGraph:
    """Pack rows of uint8 as the graph has them."""
    rows = np.zeros((graph.n_right, 8 * graph.bits.shape[1]), np.uint8)
    packed = np.packbits(dense, axis=1, bitorder="little")
    rows[:, : packed.shape[1]] = packed
    return BipartiteGraph(graph.layer, rows.view(np.uint64), graph.block_left, graph.groups)


@numba.njit(cache=True)
def _gather(dense: np.ndarray) -> np.ndarray:
    """Pack each row of at most 64 bytes into one word."""
    words = np.zeros(dense.shape[0], np.uint64)
    for g in range(dense.shape[0]):
        for i in range(dense.shape[1]):
            words[g] |= np.uint64(dense[g, i]) << np.uint64(i)
    return words


@numba.njit(cache=True)
def _spread(words: np.ndarray, m: int) -> np.ndarray:
    """Undo :func:`_gather`."""
    dense = np.empty((words.size, m), np.uint8)
    for g in range(words.size):
        for i in range(m):
            dense[g, i] = np.uint8((words[g] >> np.uint64(i)) & np.uint64(1))
    return dense


@numba.njit(cache=True)
def _draw_groups(words: np.ndarray, m: int, state: np.ndarray) -> np.ndarray:
    """Draw for each group as many of its M entries as it has."""
    whole = ~np.uint64(0) >> np.uint64(64 - m)
    drawn = np.empty_like(words)
    for g in range(words.size):
        count = 0
        word = words[g]
        while word:
            word &= word - np.uint64(1)
            count += 1
        drawn[g] = choose_few(whole, count, state)
    return drawn
