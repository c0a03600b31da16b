"""The null models: what each keeps of a mask, and how it draws another one.

A model turns a mask into a sampler once, and the sampler draws graphs; :data:`NULLS` is the registry by name. The
functions :func:`erdos_renyi`, :func:`rewire` and :func:`same_pattern` draw one mask in its weight's own shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sift_graph.errors import NullModelError, UsageError, did_you_mean
from sift_graph.graph import BipartiteGraph
from sift_graph.masks import LayerMask
from sift_graph.nulls.choose import choose_bits, random_state
from sift_graph.nulls.patterns import find_pattern
from sift_graph.nulls.trades import ROUNDS as TURN
from sift_graph.nulls.trades import is_rigid, trade_sides

__all__ = ["NULLS", "ROUNDS", "NullModel", "Sampler", "erdos_renyi", "find_null", "rewire", "same_pattern"]

ROUNDS = 24  # of trades on each side; see the page "null models" of the docs for how far that mixes


class Sampler(Protocol):
    """Draws graphs of one null model for one mask."""

    def draw(self, rng: np.random.Generator) -> BipartiteGraph:
        """Draw a graph without weights."""


@dataclass(frozen=True)
class NullModel:
    """A null model.

    Attributes
    ----------
    name : str
    keeps : str
        What a drawn mask shares with the measured one.
    asks : str
        The question that the comparison answers.
    sampler : callable
        Mask, a generator, rounds of trades, told pattern to :class:`Sampler`; raises NullModelError where there is no
        other mask to draw.
    """

    name: str
    keeps: str
    asks: str
    sampler: Callable[[LayerMask, np.random.Generator, int, tuple[int, int] | None], Sampler]


@dataclass(frozen=True, eq=False)
class Uniform:
    """Any mask with this number of edges; of a grouped layer, anywhere in its blocks."""

    graph: BipartiteGraph

    def draw(self, rng: np.random.Generator) -> BipartiteGraph:
        """Draw one.

        Parameters
        ----------
        rng : numpy.random.Generator

        Returns
        -------
        BipartiteGraph
        """
        graph = self.graph
        rows, columns = graph.n_right, graph.block_left
        row = np.zeros(graph.bits.shape[1], np.uint64)
        row[: columns // 64] = ~np.uint64(0)
        if columns % 64:
            row[columns // 64] = ~np.uint64(0) >> np.uint64(64 - columns % 64)
        used = (columns + 63) // 64
        entries = np.tile(row[:used], rows)
        chosen = np.empty_like(entries)
        choose_bits(entries, rows * columns, graph.edges, chosen, random_state(rng))
        bits = np.zeros_like(graph.bits)
        bits[:, :used] = chosen.reshape(rows, used)
        return BipartiteGraph(graph.layer, bits, columns, graph.groups)


@dataclass(frozen=True, eq=False)
class Rewired:
    """Any mask with these degrees on both sides, in each block of a grouped layer: `cycles` of the chain of trades."""

    graph: BipartiteGraph
    cycles: int

    def draw(self, rng: np.random.Generator, *, backwards: bool = False) -> BipartiteGraph:
        """Run the chain from the sampler's own graph.

        Parameters
        ----------
        rng : numpy.random.Generator
        backwards : bool
            Back in time.

        Returns
        -------
        BipartiteGraph
        """
        graph, state = self.graph, random_state(rng)
        per_group = graph.n_right // graph.groups
        bits = graph.bits.copy()
        for first in range(0, graph.n_right, per_group):
            block = bits[first : first + per_group]
            if per_group > 1 and not is_rigid(block):
                block[:] = trade_sides(block, graph.block_left, self.cycles, state, backwards)
        return BipartiteGraph(graph.layer, bits, graph.block_left, graph.groups)


def _uniform(mask: LayerMask, rng: np.random.Generator, rounds: int, pattern: tuple[int, int] | None) -> Sampler:
    """Sample masks with the same number of edges."""
    refuse_full_and_empty(mask)
    return Uniform(BipartiteGraph.from_mask(mask))


def _rewired(mask: LayerMask, rng: np.random.Generator, rounds: int, pattern: tuple[int, int] | None) -> Sampler:
    """Sample masks with the same degrees, from a hub that makes p exact."""
    # The chain first runs backwards from the mask to a hub, and every sample runs forwards from the hub. Were the mask
    # itself drawn from the null model, mask and samples would be exchangeable, however short the chain (J. Besag and
    # P. Clifford, Biometrika 76, 1989): its rank among them is exact before the chain has mixed.
    start = _start(mask, rounds)
    return Rewired(start.draw(rng, backwards=True), start.cycles)


def _start(mask: LayerMask, rounds: int) -> Rewired:
    if rounds < 1:
        raise UsageError(f"expected 1 or more rounds of trades, found {rounds}")
    refuse_full_and_empty(mask)
    graph = BipartiteGraph.from_mask(mask)
    per_group = graph.n_right // graph.groups
    if all(is_rigid(graph.bits[first : first + per_group]) for first in range(0, graph.n_right, per_group)):
        raise NullModelError(
            f"layer {mask.layer!r}: no other mask has the same degrees on both sides: its outputs, by degree, contain "
            "one another's inputs; take the null model 'er'",
            "rigid",
        )
    return Rewired(graph, -(-rounds // TURN))


def _patterned(mask: LayerMask, rng: np.random.Generator, rounds: int, pattern: tuple[int, int] | None) -> Sampler:
    """Sample masks with the same N:M pattern."""
    refuse_full_and_empty(mask)
    return find_pattern(mask, pattern)


def refuse_full_and_empty(mask: LayerMask) -> None:
    """Refuse masks that leave nothing to chance.

    Parameters
    ----------
    mask : LayerMask

    Raises
    ------
    NullModelError
        If all entries are kept, or none.
    """
    if 0 < mask.edges < mask.size:
        return
    full = mask.edges > 0
    raise NullModelError(
        f"layer {mask.layer!r}: the mask keeps {'all' if full else 'none'} of its {mask.size} entries, and no other "
        "mask does; a null model needs a sparse layer",
        "complete" if full else "empty",
    )


NULLS: dict[str, NullModel] = {
    model.name: model
    for model in (
        NullModel("er", "shape, blocks, number of edges", "more than density?", _uniform),
        NullModel("degree", "every vertex's degree on both sides, blocks", "more than density and degrees?", _rewired),
        NullModel("nm", "the N:M pattern, row-wise or transposable", "more than the pattern gives?", _patterned),
    )
}
"""Null models by name."""


def find_null(name: str) -> NullModel:
    """Look up a null model.

    Parameters
    ----------
    name : str

    Returns
    -------
    NullModel

    Raises
    ------
    UsageError
        If there is none of that name.
    """
    if name not in NULLS:
        raise UsageError(f"no null model {name!r}{did_you_mean(name, NULLS)}")
    return NULLS[name]


def erdos_renyi(mask: LayerMask, rng: np.random.Generator, *, permute_weights: bool = False) -> LayerMask:
    """Draw a mask of the same shape and the same number of edges, uniformly among all of them.

    Parameters
    ----------
    mask : LayerMask
    rng : numpy.random.Generator
    permute_weights : bool
        Put the mask's weights on the new edges, in random order.

    Returns
    -------
    LayerMask
        With ``source="erdos_renyi"``. A mask that is full or empty is its own.

    Examples
    --------
    >>> mask = LayerMask.from_dense("fc", np.eye(8, dtype=bool))
    >>> erdos_renyi(mask, np.random.default_rng(0)).edges
    8
    """
    drawn = Uniform(BipartiteGraph.from_mask(mask)).draw(rng)
    return as_mask(drawn, mask, rng, "erdos_renyi", permute_weights=permute_weights)


def rewire(
    mask: LayerMask, rng: np.random.Generator, *, rounds: int = ROUNDS, permute_weights: bool = False
) -> LayerMask:
    """Draw a mask with the same degrees on both sides, by a chain of trades that starts at the mask.

    Parameters
    ----------
    mask : LayerMask
    rng : numpy.random.Generator
    rounds : int
        Of trades on each side, in each of which every vertex trades once.
    permute_weights : bool
        Put the mask's weights on the new edges, in random order.

    Returns
    -------
    LayerMask
        With ``source="rewired"``. Blocks of a grouped layer are rewired one by one.

    Raises
    ------
    NullModelError
        If no other mask has these degrees.

    Examples
    --------
    >>> mask = LayerMask.from_dense("fc", np.eye(8, dtype=bool))
    >>> rewire(mask, np.random.default_rng(0)).mask.sum(axis=0)
    array([1, 1, 1, 1, 1, 1, 1, 1])
    """
    return as_mask(_start(mask, rounds).draw(rng), mask, rng, "rewired", permute_weights=permute_weights)


def same_pattern(
    mask: LayerMask,
    rng: np.random.Generator,
    *,
    pattern: tuple[int, int] | None = None,
    permute_weights: bool = False,
) -> LayerMask:
    """Draw a mask with the same N:M pattern, uniformly (a transposable one by a chain of trades in each block).

    Parameters
    ----------
    mask : LayerMask
    rng : numpy.random.Generator
    pattern : tuple of int, optional
        N and M; found in the mask by default.
    permute_weights : bool
        Put the mask's weights on the new edges, in random order.

    Returns
    -------
    LayerMask
        With ``source="same_pattern"``.

    Raises
    ------
    NullModelError
        If the mask has no pattern, or not that one.

    Examples
    --------
    >>> mask = LayerMask.from_dense("fc", np.tile([True, True, False, False], (4, 2)))
    >>> same_pattern(mask, np.random.default_rng(0)).mask.reshape(4, 2, 4).sum(axis=2).tolist()
    [[2, 2], [2, 2], [2, 2], [2, 2]]
    """
    drawn = _patterned(mask, rng, ROUNDS, pattern).draw(rng)
    return as_mask(drawn, mask, rng, "same_pattern", permute_weights=permute_weights)


def as_mask(
    graph: BipartiteGraph, mask: LayerMask, rng: np.random.Generator, source: str, *, permute_weights: bool
) -> LayerMask:
    """Write a drawn graph as a mask in the weight's own shape."""
    dense = graph.dense_rows(0, graph.n_right)
    if mask.layout == "oi":
        dense = dense.reshape(mask.shape)
    else:
        dense = np.moveaxis(dense.reshape(mask.shape[-1], *mask.shape[:-1]), 0, -1)
    bits = np.packbits(np.ascontiguousarray(dense), axis=None, bitorder="little")
    values = rng.permutation(mask.values) if permute_weights and mask.values is not None else None
    return LayerMask(mask.layer, mask.shape, bits, values, mask.groups, mask.layout, source)
