"""A layer's leading singular values, over all of its diagonal blocks."""

from __future__ import annotations

from typing import Literal

import numpy as np

from sift_graph.errors import MaskError, SpectrumError, UsageError, did_you_mean
from sift_graph.graph import BipartiteGraph
from sift_graph.spectrum.dense import dense_values
from sift_graph.spectrum.result import Spectrum

__all__ = ["Certify", "Kind", "block_matrix", "checked_weights", "leading", "singular_values"]

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
    parts = [dense_values(block_matrix(graph.block(group), kind)) for group in range(graph.groups)]
    values, lo, hi = (np.concatenate([part[i][:k] for part in parts] + [np.zeros(k)]) for i in range(3))
    order = np.argsort(-values, kind="stable")[:k]
    # The j-th largest value lies between the j-th largest lower and the j-th largest upper bound.
    return Spectrum(values[order], -np.sort(-lo)[:k], -np.sort(-hi)[:k], "dense", "ok", "full")


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
    per_block = min(graph.block_left, graph.n_right // graph.groups)
    found = np.zeros(per_block * graph.groups)
    for group in range(graph.groups):
        sigma = dense_values(block_matrix(graph.block(group), kind), squared_ok=False)[0]
        found[group * per_block : group * per_block + sigma.size] = sigma
    return -np.sort(-found)


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


def checked_weights(graph: BipartiteGraph) -> np.ndarray:
    """Absolute weights of a layer, or an error if it has none or one is not finite."""
    if graph.values is None:
        raise MaskError(f"layer {graph.layer!r} has no weights; record them with weights='fp32'")
    weights: np.ndarray = np.abs(graph.values)
    if not np.isfinite(weights).all():
        count = int(np.count_nonzero(~np.isfinite(weights)))
        raise SpectrumError(
            f"layer {graph.layer!r}: {count} of {weights.size} weights are not finite; its weighted spectrum does not "
            "exist: measure a step before training diverged, or the mask alone"
        )
    return weights


def block_matrix(block: BipartiteGraph, kind: Kind) -> np.ndarray:
    """Unpack one block, right by left, isolated vertices dropped, scaled as `kind` says."""
    matrix: np.ndarray = block.dense_rows(0, block.n_right).astype(np.float64)
    if kind in {"weighted", "weighted_normalised"}:
        matrix[matrix.astype(bool)] = checked_weights(block)
    rows, columns = matrix.sum(axis=1), matrix.sum(axis=0)
    matrix = matrix[rows > 0][:, columns > 0]
    if kind in {"normalised", "weighted_normalised"}:
        matrix /= np.sqrt(rows[rows > 0])[:, None]
        matrix /= np.sqrt(columns[columns > 0])
    return matrix
