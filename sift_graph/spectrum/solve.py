"""A layer's leading singular values, over all of its diagonal blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from sift_graph.errors import UsageError, did_you_mean
from sift_graph.graph import BipartiteGraph
from sift_graph.spectrum.choose import fits_dense
from sift_graph.spectrum.dense import dense_values
from sift_graph.spectrum.result import Bracket, Spectrum
from sift_graph.spectrum.weights import checked_weights

__all__ = ["Certify", "Kind", "block_stack", "leading", "singular_values"]

WEIGHTED = frozenset({"weighted", "weighted_normalised"})
NORMALISED = frozenset({"normalised", "weighted_normalised"})
SVD_SIDE = 512  # beyond it values below a millionth of the largest are blurred by squaring, and few ask for them

Kind = Literal["binary", "weighted", "normalised", "weighted_normalised"]
Certify = Literal["off", "gap", "full"]


def leading(
    graph: BipartiteGraph,
    *,
    k: int = 2,
    kind: Kind = "binary",
    certify: Certify = "gap",
    bound: float | None = None,
    tol: float = 1e-6,
) -> Spectrum:
    """Compute the `k` largest singular values of a layer, repeated ones counted.

    Parameters
    ----------
    graph : BipartiteGraph
        The layer. A grouped one is block-diagonal: the values are the largest over all of its blocks.
    k : int
        How many.
    kind : {"binary", "weighted", "normalised", "weighted_normalised"}
        ``binary``: the 0/1 biadjacency. ``weighted``: absolute weights on it. ``normalised``: entry (l, r) divided by
        ``sqrt(degree(l) degree(r))``, so that the largest value is 1. ``weighted_normalised``: the absolute weights
        divided so by their row and column sums.
    certify : {"off", "gap", "full"}
        ``gap`` proves on which side of `bound` the value `sigma_2` lies; ``full`` proves bounds within `tol` of each
        value.
    bound : float, optional
        The Ramanujan bound, for ``certify="gap"``.
    tol : float
        Relative accuracy.

    Returns
    -------
    Spectrum
        All NaN with status ``empty`` if the layer has no edges.

    Raises
    ------
    MaskError
        If weights are asked for and there are none.
    SpectrumError
        If a weight is not finite.
    UsageError
        If an option is none of the above.

    Examples
    --------
    >>> from sift_graph.masks import LayerMask
    >>> fano = np.array([[(j - i) % 7 in (0, 1, 3) for i in range(7)] for j in range(7)])
    >>> spectrum = leading(BipartiteGraph.from_mask(LayerMask.from_dense("fano", fano)))
    >>> round(spectrum.sigma_1, 9), round(spectrum.sigma_2, 9)
    (3.0, 1.414213562)
    """
    check_options(k, kind, certify, tol)
    if graph.edges == 0:
        nothing = np.full(k, np.nan)
        return Spectrum(nothing, nothing, nothing, "none", "empty")
    weights = checked_weights(graph) if kind in WEIGHTED else None
    rows, columns = graph.n_right // graph.groups, graph.block_left
    if fits_dense(min(rows, columns), max(rows, columns)):
        solved = [dense_values(stack) for stack in _stacks(graph, kind, weights)]
        parts = [Bracket(s.reshape(-1), lo.reshape(-1), hi.reshape(-1), "dense", "ok", "full") for s, lo, hi in solved]
        return _merge(parts, k)
    from sift_graph.spectrum.blocks import components, solve_parts  # here: small layers load no compiled code

    normalised = kind in NORMALISED
    connected = []
    ends = np.concatenate([[0], np.cumsum(graph.right_degree)])[:: graph.n_right // graph.groups]
    for group in range(graph.groups):
        block = graph.block(group)
        own = None if weights is None else weights[ends[group] : ends[group + 1]]
        connected += components(block.bits, columns, own, normalised=normalised)
    return _merge(solve_parts(connected, max(k, 2), normalised=normalised, certify=certify, bound=bound, tol=tol), k)


def _merge(parts: list[Bracket], k: int) -> Spectrum:
    """Largest values over all parts; the j-th lies between the j-th largest lower and the j-th largest upper bound."""
    if not parts:  # edges, but all of weight zero
        nothing = np.zeros(k)
        return Spectrum(nothing, nothing, nothing, "dense", "ok", "full")
    sigma, lo, hi = (
        -np.sort(-np.concatenate([*(getattr(part, name) for part in parts), np.zeros(k)]))[:k]
        for name in ("sigma", "lo", "hi")
    )
    rank = {name: i for i, name in enumerate(("undecided", "none", "sign", "full"))}
    certificate = min((part.certificate for part in parts), key=lambda name: rank[name])
    status = "not_converged" if any(part.status == "not_converged" for part in parts) else "ok"
    method = max(parts, key=lambda part: float(part.sigma.max(initial=0.0))).method
    return Spectrum(sigma, lo, hi, method, status, certificate)


def singular_values(graph: BipartiteGraph, *, kind: Kind = "binary") -> np.ndarray:
    """Compute all singular values of a layer.

    Parameters
    ----------
    graph : BipartiteGraph
    kind : {"binary", "weighted", "normalised", "weighted_normalised"}
        As in :func:`leading`.

    Returns
    -------
    ndarray of float64, shape (groups * min(block_left, n_right / groups),)
        Descending; zeros included.

    Raises
    ------
    MaskError
        If weights are asked for and there are none.
    SpectrumError
        If a weight is not finite.
    """
    check_options(1, kind, "off", 1e-6)
    weights = checked_weights(graph) if kind in WEIGHTED else None
    rows, columns = graph.n_right // graph.groups, graph.block_left
    if min(rows, columns) <= SVD_SIDE:
        stacks = _stacks(graph, kind, weights)
        found = [np.linalg.svd(stack, compute_uv=False).reshape(-1) for stack in stacks]
    elif kind == "binary":
        found = [_by_counting(graph.block(group)) for group in range(graph.groups)]
    else:
        found = [_by_gram(stack[0]) for stack in _stacks(graph, kind, weights)]
    return -np.sort(-np.concatenate(found))


def _by_counting(block: BipartiteGraph) -> np.ndarray:
    """All values of a 0/1 block, from its exact integer Gram."""
    from sift_graph.spectrum.operators import integer_gram

    small = block if block.n_right <= block.n_left else block.transpose()
    return _roots(integer_gram(small.bits).astype(np.float64))


def _by_gram(matrix: np.ndarray) -> np.ndarray:
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    return _roots(small @ small.T)


def _roots(gram: np.ndarray) -> np.ndarray:
    roots: np.ndarray = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0.0))
    return roots


def check_options(k: int, kind: str, certify: str, tol: float) -> None:
    """Refuse options that do not exist."""
    kinds = ("binary", "weighted", "normalised", "weighted_normalised")
    if kind not in kinds:
        raise UsageError(f"unknown kind of spectrum {kind!r}{did_you_mean(kind, kinds)}")
    if certify not in {"off", "gap", "full"}:
        raise UsageError(f"unknown certify={certify!r}{did_you_mean(certify, ('off', 'gap', 'full'))}")
    if k < 1:
        raise UsageError(f"expected k >= 1 singular values, found k={k}")
    if not 0 < tol < 1:
        raise UsageError(f"expected a relative tolerance tol between 0 and 1, found {tol}")


def _stacks(graph: BipartiteGraph, kind: Kind, weights: np.ndarray | None) -> Iterator[np.ndarray]:
    """Unpack the blocks, as many at a time as fit 32 MiB of doubles."""
    step = max(1, (1 << 22) // (graph.block_left * (graph.n_right // graph.groups)))
    for first in range(0, graph.groups, step):
        yield block_stack(graph, kind, weights, first, first + step)


def block_stack(
    graph: BipartiteGraph, kind: Kind, weights: np.ndarray | None, first: int = 0, last: int | None = None
) -> np.ndarray:
    """Unpack blocks `first` to `last`, each right by left, scaled as `kind` says; isolated vertices stay, as zeros."""
    per_group = graph.n_right // graph.groups
    last = graph.groups if last is None else min(last, graph.groups)
    rows = slice(first * per_group, last * per_group)
    matrix: np.ndarray = graph.dense_rows(rows.start, rows.stop).astype(np.float64)
    if weights is not None:
        ends = np.concatenate([[0], np.cumsum(graph.right_degree)])
        matrix[matrix.astype(bool)] = weights[ends[rows.start] : ends[rows.stop]]
    matrix = matrix.reshape(last - first, per_group, graph.block_left)
    if kind in NORMALISED:
        sums = matrix.sum(axis=2, keepdims=True), matrix.sum(axis=1, keepdims=True)
        for total in sums:
            matrix = matrix / np.sqrt(np.where(total > 0, total, 1.0))
    return matrix
