"""The regular subgraphs behind IMDB and IMSG: all vertices of one degree on one side, with their edges."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sift_graph.errors import UsageError
from sift_graph.graph import BipartiteGraph
from sift_graph.spectrum.dense import dense_values
from sift_graph.spectrum.result import RegularSubgraph
from sift_graph.spectrum.weights import checked_weights

__all__ = ["left_regular_subgraphs"]

SMALL_WORDS = 1 << 12  # up to here numpy is done before compiled code is loaded
SVD_ROWS = 16
LARGE_GROUP = 3_000  # rows; beyond it the choice of path is worth its time


def left_regular_subgraphs(
    graph: BipartiteGraph,
    *,
    side: Literal["left", "right"] = "left",
    weighted: bool = False,
    min_count: int = 3,
    min_degree: int = 3,
    min_other_degree: float = 3.0,
    certify: Literal["off", "full"] = "full",
    tol: float = 1e-6,
) -> list[RegularSubgraph]:
    """Split a layer by the degree of one side's vertices and measure each part.

    A part consists of all vertices of exactly degree d on `side`, over all blocks of a grouped layer, and of their
    neighbours. The parts share no edge.

    Parameters
    ----------
    graph : BipartiteGraph
    side : {"left", "right"}
        Whose degrees count: ``left`` are the inputs, as in the literature.
    weighted : bool
        Also compute the singular values of the absolute weights.
    min_count, min_degree, min_other_degree
        A part enters if it has at least `min_count` vertices on `side`, of degree at least `min_degree`, and if its
        vertices on the other side have a mean degree of at least `min_other_degree`.
    certify : {"off", "full"}
        ``full`` proves that `sigma_2` of each part lies between its bounds, some `tol` apart: about one iteration in
        a thousand settles on sigma_3 with nothing to show for it but this. ``off`` takes two thirds of the time and
        leaves `sigma_2_hi` an estimate.
    tol : float
        Relative accuracy of the singular values.

    Returns
    -------
    list of RegularSubgraph
        By ascending degree; empty if no part passes.

    Raises
    ------
    MaskError
        If weights are asked for and there are none.
    SpectrumError
        If a weight is not finite.
    UsageError
        If `side`, `certify` or `tol` is none of the above.
    """
    if side not in {"left", "right"}:
        raise UsageError(f"expected side 'left' or 'right', found {side!r}")
    if certify not in {"off", "full"}:
        raise UsageError(f"expected certify 'off' or 'full', found {certify!r}")
    if not 0 < tol < 1:
        raise UsageError(f"expected a relative tolerance tol between 0 and 1, found {tol}")
    if weighted:
        checked_weights(graph)  # before anything is computed
    turned = graph.transpose() if side == "left" else graph  # rows are the vertices whose degrees count
    layout = _Layout.of(turned)
    edges = layout.degrees * layout.counts
    enough = (layout.degrees >= min_degree) & (layout.counts >= min_count) & (edges >= min_other_degree * layout.others)
    accepted = np.flatnonzero(enough)
    binary = _binary_values(layout, accepted, tol, prove=certify == "full")
    heavy = _weighted_values(turned, layout, accepted, tol) if weighted else np.full((len(accepted), 2), math.nan)
    n_left, n_right = (layout.counts, layout.others) if side == "left" else (layout.others, layout.counts)
    sizes = np.stack([layout.degrees, n_left, n_right, edges], axis=1)[accepted].tolist()
    return [
        RegularSubgraph(*size, *values, *weights)
        for size, values, weights in zip(sizes, binary.tolist(), heavy.tolist(), strict=True)
    ]


@dataclass(frozen=True, eq=False)
class _Layout:
    """Rows sorted by degree, then by block: a run of equal degree is a subgraph, cut into `segments` by block.

    Attributes
    ----------
    order : ndarray of int64
        The row at each place.
    bits : ndarray of uint64
        The rows in that order.
    columns : int
    degrees, counts, others : ndarray of int64, one entry for each distinct degree
        The degree, its rows, and the vertices of the other side that they meet.
    segments : ndarray of int64
        Where each segment begins, and the end of the last.
    first : ndarray of int64
        The first segment of each degree, and the end of the last.
    """

    order: np.ndarray
    bits: np.ndarray
    columns: int
    degrees: np.ndarray
    counts: np.ndarray
    others: np.ndarray
    segments: np.ndarray
    first: np.ndarray

    @classmethod
    def of(cls, graph: BipartiteGraph) -> _Layout:
        degree = graph.right_degree
        narrow = degree.astype(np.uint16) if degree.max(initial=0) < 1 << 16 else degree  # sorted by counting
        order = np.argsort(narrow, kind="stable")
        block = order // (graph.n_right // graph.groups)
        runs = np.flatnonzero(np.diff(degree[order], prepend=-1))
        cuts = np.flatnonzero((np.diff(degree[order], prepend=-1) != 0) | (np.diff(block, prepend=-1) != 0))
        segments = np.append(cuts, degree.size)
        bits = graph.bits[order]
        met = _unions(bits, segments)
        first = np.append(np.searchsorted(cuts, runs), cuts.size)
        others = np.add.reduceat(met, first[:-1])
        counts = np.diff(np.append(runs, degree.size))
        return cls(order, bits, graph.block_left, degree[order][runs], counts, others, segments, first)


def _unions(bits: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Count the columns that each segment meets."""
    if bits.size <= SMALL_WORDS:
        unions = np.bitwise_or.reduceat(bits, segments[:-1], axis=0)
        counts: np.ndarray = np.bitwise_count(unions).sum(axis=1, dtype=np.int64)
    else:
        from sift_graph.spectrum.groups import count_unions

        counts = count_unions(bits, segments)
    return counts


def _binary_values(layout: _Layout, accepted: np.ndarray, tol: float, *, prove: bool) -> np.ndarray:
    """sigma_1, sigma_2 and the bounds of sigma_2 of each accepted degree."""
    firsts, ends = layout.first[accepted], layout.first[accepted + 1]
    chosen = np.flatnonzero(np.repeat(np.isin(np.arange(layout.degrees.size), accepted), np.diff(layout.first)))
    values = np.zeros((layout.segments.size - 1, 4))
    if layout.bits.size <= SMALL_WORDS:
        for g in chosen:
            values[g] = _by_svd(layout, int(g))
    else:
        _fill_by_iteration(layout, chosen, tol, prove, values)
    if np.all(ends - firsts == 1):
        alone: np.ndarray = values[firsts]
        return alone
    return np.array([_join(values[start:stop]) for start, stop in zip(firsts, ends, strict=True)])


def _fill_by_iteration(layout: _Layout, chosen: np.ndarray, tol: float, prove: bool, values: np.ndarray) -> None:
    """Small segments in one compiled loop, larger ones one by one, and what was refused by the slow, sure way."""
    from sift_graph.bits import transpose_bits
    from sift_graph.spectrum.blocks import components, solve_parts
    from sift_graph.spectrum.groups import GROUP_SIDE, Workspace, group_noise, top_two_of_groups, top_two_of_large_group

    sizes = np.diff(layout.segments)[chosen]
    small = chosen[(sizes >= 2) & (sizes <= GROUP_SIDE)]
    out = np.empty((small.size, 4))
    starts, stops = layout.segments[small], layout.segments[small + 1]
    top_two_of_groups(layout.bits, starts, stops, group_noise(GROUP_SIDE), tol, prove, out)
    values[small] = out
    sides = np.minimum(sizes, layout.columns)
    middling = chosen[(sizes > GROUP_SIDE) & (sides <= LARGE_GROUP) & (sides > 1)]
    values[chosen[(sizes == 1) | (sides > LARGE_GROUP) | (sides == 1)]] = np.nan
    if middling.size:
        workspace = Workspace.of(int(sides[sides <= LARGE_GROUP].max()))
        for g in middling:
            rows = layout.bits[layout.segments[g] : layout.segments[g + 1]]
            if len(rows) > layout.columns:  # the other side is the smaller one
                rows = transpose_bits(rows, layout.columns)
                rows = rows[rows.any(axis=1)]
            values[g] = top_two_of_large_group(rows, tol, workspace, prove=prove) if len(rows) > 1 else np.nan
    open_ = np.isnan(values[chosen, 2]) | (np.isnan(values[chosen, 3]) if prove else False)
    for g in chosen[open_]:
        rows = layout.bits[layout.segments[g] : layout.segments[g + 1]]
        certify = "full" if prove else "off"
        found = solve_parts(components(rows, layout.columns, None), 2, certify=certify, tol=tol)
        sigma, lo, hi = (_top_two([getattr(part, name) for part in found]) for name in ("sigma", "lo", "hi"))
        values[g] = (*sigma, lo[1], hi[1])
    if not prove:
        rest = chosen[~open_]
        values[rest, 3] = values[rest, 1] * (1 + tol)


def _join(segments: np.ndarray) -> np.ndarray:
    """Top two values, and bounds of the second, over the blocks of one degree."""
    if len(segments) == 1:
        only: np.ndarray = segments[0]
        return only
    margin = 1e-9 * segments[:, 0]  # sigma_1 of a segment has no bracket of its own
    sigma = _top_two([segments[:, 0], segments[:, 1]])
    lo = _top_two([segments[:, 0] - margin, segments[:, 2]])
    hi = _top_two([segments[:, 0] + margin, segments[:, 3]])
    return np.array([*sigma, lo[1], hi[1]])


def _by_svd(layout: _Layout, g: int) -> tuple[float, float, float, float]:
    packed = layout.bits[layout.segments[g] : layout.segments[g + 1]].view(np.uint8)
    dense = np.unpackbits(packed, axis=1, count=layout.columns, bitorder="little").astype(np.float64)
    sigma, lo, hi = (_top_two([values]) for values in dense_values(dense))
    return (*sigma, lo[1], hi[1])


def _weighted_values(graph: BipartiteGraph, layout: _Layout, accepted: np.ndarray, tol: float) -> np.ndarray:
    """sigma_1 and sigma_2 of the absolute weights of each accepted degree."""
    weights = checked_weights(graph)
    ends = np.concatenate([[0], np.cumsum(graph.right_degree)])
    found = np.zeros((len(accepted), 2))
    for line, i in enumerate(accepted):
        parts = []
        for g in range(layout.first[i], layout.first[i + 1]):
            rows = layout.order[layout.segments[g] : layout.segments[g + 1]]
            d = int(layout.degrees[i])
            own = weights[(ends[rows][:, None] + np.arange(d)).reshape(-1)]
            bits = layout.bits[layout.segments[g] : layout.segments[g + 1]]
            dense = np.unpackbits(bits.view(np.uint8), axis=1, count=layout.columns, bitorder="little")
            matrix = dense.astype(np.float64)
            matrix[dense.astype(bool)] = own
            parts.append(_top_of_matrix(matrix, tol))
        found[line] = _top_two(parts)
    return found


def _top_of_matrix(matrix: np.ndarray, tol: float) -> np.ndarray:
    """Two largest singular values of a dense matrix whose entries are not negative."""
    if min(matrix.shape) <= SVD_ROWS:
        sigma: np.ndarray = np.linalg.svd(matrix, compute_uv=False)[:2]
        return sigma
    from sift_graph.spectrum.iterate import solve_operator
    from sift_graph.spectrum.operators import matrix_operator

    return solve_operator(matrix_operator(matrix), 2, tol=tol, certify="full").sigma


def _top_two(parts: list[np.ndarray]) -> tuple[float, float]:
    """Two largest values over all blocks, zeros where there are not two."""
    together = -np.sort(-np.concatenate([*parts, np.zeros(2)]))
    return float(together[0]), float(together[1])
