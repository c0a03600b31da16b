"""One diagonal block: split into connected components, each turned to its smaller side and solved by itself.

A connected component has a simple largest singular value (Perron and Frobenius), so two equal components, which an
iteration on the whole block would see as one, are two parts here. Complete components are known without computing:
sigma_1 squared is the number of edges, all others are exactly zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from sift_graph.bits import count_columns, count_rows, keep_bits, list_bits, order_by_column, transpose_bits
from sift_graph.components import join_components
from sift_graph.graph import BipartiteGraph
from sift_graph.spectrum.choose import choose_path
from sift_graph.spectrum.iterate import solve_operator
from sift_graph.spectrum.operators import Operator, gram_operator, integer_gram, packed_operator, sparse_operator
from sift_graph.spectrum.result import Bracket

__all__ = ["Part", "components", "exact_bracket", "part_operator", "solve_parts", "whole_operators"]


@dataclass(frozen=True, eq=False)
class Part:
    """A connected component: its rows, with the edges' absolute weights or none, and an upper bound of sigma_1."""

    bits: np.ndarray
    columns: int
    weights: np.ndarray | None
    row_degree: np.ndarray
    limit: float


def components(bits: np.ndarray, columns: int, weights: np.ndarray | None, *, normalised: bool = False) -> list[Part]:
    """Split a block into its connected components.

    Parameters
    ----------
    bits : ndarray of uint64, shape (rows, words)
    columns : int
    weights : ndarray of float32 or float64, shape (edges,), or None
        Absolute weights, row after row; None for the 0/1 matrix. An edge of weight zero connects nothing.
    normalised : bool
        Whether the parts will be divided by the roots of their degrees.

    Returns
    -------
    list of Part
        Isolated vertices are in none.
    """
    if weights is not None and not weights.all():
        bits, weights = keep_bits(bits, weights > 0), weights[weights > 0]
    return list(_components(bits, columns, weights, normalised=normalised))


def solve_parts(
    parts: list[Part],
    count: int,
    *,
    normalised: bool = False,
    certify: str,
    bound: float | None = None,
    tol: float,
) -> list[Bracket]:
    """Bracket the largest singular values of a block-diagonal matrix.

    Parameters
    ----------
    parts : list of Part
        Its connected components.
    count : int
        Two or more.
    normalised, certify, bound, tol
        As in :func:`sift_graph.spectrum.leading`.

    Returns
    -------
    list of Bracket
        One for each component that can matter; no other has a value above the `count` largest of these.
    """
    parts = sorted(parts, key=lambda part: -part.limit)
    if len(parts) <= 1 or certify != "gap" or bound is None or not math.isfinite(bound):
        return _solve_in_turn(parts, count, lambda part: (certify, bound), normalised=normalised, tol=tol)
    found = _solve_in_turn(parts, count, lambda part: ("off", None), normalised=normalised, tol=tol)
    second = np.sort(np.concatenate([bracket.lo for bracket in found]))[-2:][0]
    if second > bound:  # proven from below; what lies above does not matter
        return [replace(bracket, certificate="sign") for bracket in found]

    def needed(part: Part) -> tuple[str, float | None]:
        # Only one part may hold a value above the bound; of the others all values must be below it.
        return ("gap", bound) if part is parts[0] else ("off" if part.limit < bound else "full", None)

    found = _solve_in_turn(parts, count, needed, normalised=normalised, tol=tol)
    below = [
        replace(bracket, hi=np.full_like(bracket.hi, part.limit), certificate="sign")
        if part is not parts[0] and part.limit < bound and bracket.certificate == "none"
        else bracket
        for part, bracket in zip(parts, found, strict=False)
    ]
    seconds = np.sort(np.concatenate([bracket.hi for bracket in below]))[-2:][0]
    if seconds < bound and all(bracket.certificate in {"sign", "full"} for bracket in below):
        return below
    return [replace(bracket, certificate="undecided") for bracket in below]


def _solve_in_turn(
    parts: list[Part],
    count: int,
    needed: Callable[[Part], tuple[str, float | None]],
    *,
    normalised: bool,
    tol: float,
) -> list[Bracket]:
    """Solve the parts, the most promising first, until no other can matter."""
    found: list[Bracket] = []
    values: list[float] = []
    for part in parts:
        if len(values) >= count and part.limit <= sorted(values)[-count]:
            break
        certify, bound = needed(part)
        found.append(_solve_part(part, count, normalised=normalised, certify=certify, bound=bound, tol=tol))
        values.extend(found[-1].sigma)
    return found


def exact_bracket(sigma: list[float], method: str = "closed_form") -> Bracket:
    """Make a bracket of values that are exact up to the last rounding."""
    values = np.array(sigma)
    return Bracket(values, values * (1 - 1e-15), values * (1 + 1e-15), method, "ok", "full")


def _components(bits: np.ndarray, columns: int, weights: np.ndarray | None, *, normalised: bool) -> Iterator[Part]:
    degree = count_rows(bits)
    active = np.flatnonzero(degree)
    if active.size == 0:
        return
    label = join_components(bits, columns)
    if label is None:
        rows = bits if active.size == len(bits) else bits[active]
        yield Part(rows, columns, weights, degree[active], math.inf)
        return
    row_label = label[columns:][active]
    order = active[np.argsort(row_label, kind="stable")]
    cuts = np.flatnonzero(np.diff(np.sort(row_label))) + 1
    first_edge = np.concatenate([[0], np.cumsum(degree)])
    across = count_columns(bits, columns)
    column_order = np.argsort(label[:columns], kind="stable")
    column_label = label[:columns][column_order]
    for rows in np.split(order, cuts):
        own = None
        if weights is not None:
            own = np.concatenate([weights[first_edge[r] : first_edge[r + 1]] for r in rows])
        span = np.searchsorted(column_label, [label[columns + rows[0]], label[columns + rows[0]] + 1])
        heaviest = across[column_order[span[0] : span[1]]].max()
        limit = math.sqrt(float(degree[rows].max()) * float(heaviest))  # sigma_1 <= sqrt(largest row * column sum)
        if normalised:
            limit = 1.0
        elif own is not None:
            limit *= float(own.max())
        yield Part(bits[rows], columns, own, degree[rows], limit * (1 + 1e-12))


def _solve_part(part: Part, count: int, *, normalised: bool, certify: str, bound: float | None, tol: float) -> Bracket:
    rows = len(part.bits)
    union = np.bitwise_or.reduce(part.bits, axis=0)
    edges, across = int(part.row_degree.sum()), int(np.bitwise_count(union).sum(dtype=np.int64))
    small, large = min(rows, across), max(rows, across)
    if small == 1 or (part.weights is None and edges == small * large):
        if normalised:
            first = 1.0
        elif part.weights is None:
            first = math.sqrt(edges)
        else:
            scale = float(part.weights.max())
            first = scale * math.sqrt(math.fsum(np.square(part.weights.astype(np.float64) / scale)))
        return exact_bracket([first] + [0.0] * (min(count, small) - 1))
    operator = part_operator(part, across, normalised=normalised)
    bracket = solve_operator(operator, count, tol=tol, certify=certify, bound=bound)
    if normalised:  # the largest value is 1, by D^-1/2 M D^-1/2 sqrt(d) = sqrt(d)
        for values in (bracket.sigma, bracket.lo, bracket.hi):
            values[0] = 1.0
            np.minimum(values, 1.0, out=values)
    return bracket


def part_operator(part: Part, across: int, *, normalised: bool) -> Operator:
    """Build the operator of a part on its smaller side; `across` counts its columns with an edge."""
    rows, edges = len(part.bits), int(part.row_degree.sum())
    exact = part.weights is None and not normalised
    uneven = is_uneven(part.row_degree, across)
    path = choose_path(min(rows, across), max(rows, across), edges, uneven=uneven, exact=exact)
    if path == "sparse":
        return _sparse(part, turned=across < rows, normalised=normalised, rough=uneven)
    bits, columns = _small_side(part, turned=across < rows)
    return gram_operator(bits, uneven=uneven) if path == "gram" else packed_operator(bits, columns, rough=uneven)


def whole_operators(graph: BipartiteGraph, weights: np.ndarray | None, *, normalised: bool) -> list[Operator]:
    """Build the operator of each diagonal block that has an edge, whether connected or not; for traces."""
    found = []
    ends = np.concatenate([[0], np.cumsum(graph.right_degree)])
    per_group = graph.n_right // graph.groups
    for group in range(graph.groups):
        rows = slice(group * per_group, (group + 1) * per_group)
        bits = graph.bits[rows]
        own = None if weights is None else weights[ends[rows.start] : ends[rows.stop]]
        if own is not None and not own.all():
            bits, own = keep_bits(bits, own > 0), own[own > 0]
        degree = count_rows(bits)
        if degree.any():
            part = Part(bits[degree > 0], graph.block_left, own, degree[degree > 0], math.inf)
            across = int(np.bitwise_count(np.bitwise_or.reduce(bits, axis=0)).sum(dtype=np.int64))
            found.append(part_operator(part, across, normalised=normalised))
    return found


def _small_side(part: Part, *, turned: bool) -> tuple[np.ndarray, int]:
    """Packed rows of the smaller side: the part's own, or its active columns if `turned`; and their width."""
    if not turned:
        return part.bits, part.columns
    union = np.bitwise_or.reduce(part.bits, axis=0).view(np.uint8)
    used = np.unpackbits(union, count=part.columns, bitorder="little").astype(bool)
    return transpose_bits(part.bits, part.columns)[used], len(part.bits)


def _sparse(part: Part, *, turned: bool, normalised: bool, rough: bool) -> Operator:
    """List the edges of each vertex of the larger side: the columns, or the rows if `turned`."""
    row_degree, listed_rows = part.row_degree, part.bits
    if turned:
        column_degree = count_columns(part.bits, part.columns)
    else:
        listed_rows = transpose_bits(part.bits, part.columns)
        column_degree = count_rows(listed_rows)
    edges = int(row_degree.sum())
    small = int(np.count_nonzero(column_degree)) if turned else len(part.bits)
    index = np.empty(edges + 8, dtype=np.uint16 if max(small, part.columns if turned else 0) <= 1 << 16 else np.int32)
    starts = np.concatenate([[0], np.cumsum(row_degree if turned else column_degree)])
    weights = np.empty(0) if part.weights is None else part.weights
    list_bits(listed_rows, index)
    index = index[:edges]
    if turned:
        index = (np.cumsum(column_degree > 0) - 1).astype(index.dtype)[index]
    elif weights.size:
        listed, place = np.empty_like(weights), np.concatenate([[0], np.cumsum(row_degree)[:-1]])
        order_by_column(index, place, weights, listed)
        weights = listed
    nothing = np.empty(0)
    if not normalised:
        operator = sparse_operator(small, starts, index, weights, nothing, nothing, rough=rough)
        if part.weights is not None:
            return operator

        def count() -> tuple[np.ndarray, float]:
            return integer_gram(_small_side(part, turned=turned)[0], whole=False), 0.0

        return replace(operator, form_gram=count)
    entries = weights.astype(np.float64) if weights.size else np.ones(edges)
    owner = np.repeat(np.arange(starts.size - 1), np.diff(starts))
    small_sum = np.bincount(index, weights=entries, minlength=small)
    large_sum = np.bincount(owner, weights=entries, minlength=starts.size - 1)
    large_sum[large_sum == 0] = 1.0  # isolated: an empty list
    operator = sparse_operator(small, starts, index, weights, 1 / np.sqrt(small_sum), 1 / large_sum)
    return replace(operator, perron=np.sqrt(small_sum / small_sum.sum()))


def is_uneven(degree: np.ndarray, other_side: int) -> bool:
    """Whether degrees vary at least ten times as much as if each edge were drawn by itself."""
    mean = float(degree.mean())
    return float(degree.var()) > 10 * max(mean * (1 - mean / other_side), 1.0)
