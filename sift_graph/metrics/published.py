"""What the published codes compute, their faults included, so that their tables can be reproduced and compared.

Ask for a whole code with ``measure(mask, weight, compat="vita")``, which names the columns as the code does, or for one
column as ``vita_irm_norm``. ``"all"`` leaves them out: a fault is no metric. Eigenvalues here are those of this package
in double precision, where the codes' single precision is good to about 1e-6.

What they share: an edge is what has a weight that is not 0, so newborn edges vanish (where no weight is given, the mask
stands in), and a grouped layer is flattened, so all its groups share one set of inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from sift_graph import spectrum
from sift_graph.bits import keep_bits
from sift_graph.bounds import biregular_bound, spectral_bound
from sift_graph.graph import BipartiteGraph
from sift_graph.metrics import iterative
from sift_graph.metrics.layer import Layer
from sift_graph.metrics.metric import Undefined
from sift_graph.metrics.structure import require
from sift_graph.spectrum import RegularSubgraph

ABOVE_ONE = float(np.nextafter(1.0, 2.0))


def flattened(layer: Layer, keep: np.ndarray | None, values: np.ndarray | None) -> Layer:
    """Return the layer with only some of its edges, and all groups on one set of inputs."""
    graph = layer.graph
    bits = graph.bits
    if keep is not None and not keep.all():
        bits = keep_bits(bits, keep)
        values = None if values is None else values[keep]
    return Layer(BipartiteGraph(graph.layer, bits, graph.block_left, 1, values))


def as_vita(layer: Layer) -> Layer:
    """Edges are weights that are not 0."""
    values = layer.graph.values
    return flattened(layer, None if values is None else values != 0, values)


def as_mge(layer: Layer) -> Layer:
    """Return the same after rounding the absolute weights to half precision, which makes 0 of those below 3e-8."""
    if layer.graph.values is None:
        return flattened(layer, None, None)
    with np.errstate(over="ignore"):
        half = np.abs(layer.graph.values).astype(np.float16).astype(np.float64)
    return flattened(layer, half != 0, half)


def as_oldest(layer: Layer) -> Layer:
    """Edges are weights above 0: negative ones are dropped, and what is left is 0/1."""
    graph = layer.require_weights()
    return flattened(layer, graph.values > 0 if graph.values is not None else None, None)


def as_full_spectrum(layer: Layer) -> Layer:
    """Edges are the mask's, as given."""
    return flattened(layer, None, layer.graph.values)


def gated(layer: Layer, left: float, right: float) -> Layer:
    """Leave unless both mean degrees reach the code's gates."""
    layer.require_edges()
    require(layer.graph.mean_left_degree >= left and layer.graph.mean_right_degree >= right, "deg_gate")
    return layer


# ICLR 2023


def vita(layer: Layer) -> Layer:
    """Return the layer as read, with mean degrees of at least 3."""
    return gated(layer.once(as_vita), 3, 3)


def vita_gap(layer: Layer) -> float:
    """Bound minus sigma_2."""
    read = vita(layer)
    return read.bound - read.binary.sigma_2


def vita_spectral_gap(layer: Layer) -> float:
    """Difference of bound by spectrum."""
    read = vita(layer)
    return spectral_bound(read.binary.sigma_1) - read.binary.sigma_2


def vita_random_factor(layer: Layer) -> float:
    """Normalised random coefficient with each edge counted twice."""
    read = vita(layer)
    pairs = read.n_left_active * read.n_right_active
    first = (read.binary.sigma_2**2 / 4 + 1) * math.sqrt(pairs)
    second = abs(2 * read.graph.edges - read.graph.mean_left_degree / read.graph.n_right * pairs)
    return (first - second) / (read.graph.n_left * read.graph.n_right)


def vita_mean(value: Any) -> Callable[[Layer], float]:
    """Mean over the layer's accepted subgraphs."""

    def compute(layer: Layer) -> float:
        read = layer.once(as_vita)
        read.require_edges()
        return iterative.mean(read.subgraphs, value)

    return compute


def vita_largest_expansion(layer: Layer) -> float:
    """Largest expansion ratio of a subgraph."""
    return iterative.largest_expansion(layer.once(as_vita))


def vita_stable(layer: Layer) -> float:
    """imdb_norm, or ramanujan_gap_norm where that is undefined."""
    try:
        return vita_mean(iterative.gap_norm)(layer)
    except Undefined:
        return vita_gap(layer) / vita(layer).bound


# TMLR 2024


def mge(layer: Layer) -> Layer:
    """Return the layer as read, with more than 3 vertices."""
    read = layer.once(as_mge)
    read.require_edges()
    require(read.n_left_active + read.n_right_active > 3, "too_small")
    return read


def mge_degree_bound(layer: Layer) -> float:
    """Gap over bound; minus infinity where all degrees are 1."""
    read = mge(layer)
    return (read.bound - read.binary.sigma_2) / read.bound if read.bound else -math.inf


def mge_subgraphs(layer: Layer) -> list[RegularSubgraph]:
    """Subgraphs by the code's gates: degrees of at least 3, any number of vertices."""
    read = mge(layer)
    weighted = read.graph.values is not None and bool(np.isfinite(read.graph.values).all())
    return spectrum.left_regular_subgraphs(read.graph, weighted=weighted, min_count=1)


def mge_imdb(layer: Layer) -> float:
    """Mean of the ratios."""
    return iterative.mean(layer.once(mge_subgraphs), iterative.gap_norm)


def mge_imsg(layer: Layer) -> float:
    """Mean of the gaps of weights in half precision."""
    mge(layer).require_weights()
    return iterative.mean(layer.once(mge_subgraphs), iterative.weighted_gap)


def mge_spectral_gap(layer: Layer) -> float:
    """Gap of weights in half precision."""
    read = mge(layer)
    return read.weighted.sigma_1 - read.weighted.sigma_2


def mge_delta_r(layer: Layer) -> float:
    """Gap over the bound 2 sqrt(2 d - 1), d the mean degree of all vertices, isolated ones included."""
    read = layer.once(as_mge)
    read.require_edges()
    degree = 2 * read.graph.edges / (read.graph.n_left + read.graph.n_right)
    require(2 * degree > 1, "bound_zero")
    limit = 2 * math.sqrt(2 * degree - 1)
    return (limit - read.binary.sigma_2) / limit


# NeurIPS 2023


def full_spectrum(layer: Layer) -> Layer:
    """Return the layer with the code's gates: its "left" is the outputs here, and the inputs in the subgraphs."""
    return gated(layer.once(as_full_spectrum), ABOVE_ONE, 3)


def fs_gap(layer: Layer) -> float:
    """Bound minus sigma_2."""
    read = full_spectrum(layer)
    return read.bound - read.binary.sigma_2


def fs_weighted_gap(layer: Layer) -> float:
    """Weighted gap."""
    read = full_spectrum(layer)
    read.require_weights()
    return read.weighted.sigma_1 - read.weighted.sigma_2


def fs_subgraphs(layer: Layer) -> list[RegularSubgraph]:
    """Subgraphs by the code's gates."""
    read = layer.once(as_full_spectrum)
    read.require_edges()
    weighted = read.graph.values is not None and bool(np.isfinite(read.graph.values).all())
    return spectrum.left_regular_subgraphs(
        read.graph, weighted=weighted, min_count=2, min_degree=3, min_other_degree=ABOVE_ONE
    )


def cut_factor(subgraph: RegularSubgraph) -> float:
    """Conductance of the cut between the sides in the complete graph on all vertices: "cheeger" in the code."""
    return max(subgraph.n_left, subgraph.n_right) / (subgraph.n_left + subgraph.n_right - 1)


def fs_mean(value: Any, *, weighted: bool = False) -> Callable[[Layer], float]:
    """Mean over subgraphs of a value times the cut factor; 0 without a subgraph."""

    def compute(layer: Layer) -> float:
        if weighted:
            layer.require_weights()
        found = layer.once(fs_subgraphs)
        return iterative.mean(found, lambda s: cut_factor(s) * value(s)) if found else 0.0

    return compute


fs_imdb = fs_mean(iterative.gap)
fs_imsg = fs_mean(iterative.weighted_gap, weighted=True)


def fs_norm4(layer: Layer) -> float:
    """Norm of the four, with 0 for what the gates leave out."""
    layer.require_weights()
    total = 0.0
    for compute in (fs_gap, fs_imdb, fs_weighted_gap, fs_imsg):
        try:
            total += compute(layer) ** 2
        except Undefined:
            continue
    return math.sqrt(total)


def fs_mixing(layer: Layer) -> float:
    """Return the code's mixing term of the full graph, before any division."""
    read = layer.once(as_full_spectrum)
    read.require_edges()
    left, right = read.n_right_active, read.n_left_active  # its sides are exchanged here
    expected = read.graph.mean_right_degree * left * right / (left + right)
    return read.binary.sigma_2 * math.sqrt(left * right) - abs(2 * read.graph.edges - expected)


def v0(layer: Layer) -> Layer:
    """Return the layer as the oldest version reads it, with its gates."""
    return gated(layer.once(as_oldest), ABOVE_ONE, 3)


def v0_gap(layer: Layer) -> float:
    """Bound minus sigma_1: the one eigenvalue that was asked for."""
    read = v0(layer)
    return read.bound - read.binary.sigma_1


def v0_imdb(layer: Layer) -> float:
    """Sum, not mean, of the cut factor times bound minus sigma_1; 0 without a subgraph."""
    found = as_full_spectrum_subgraphs(layer.once(as_oldest))
    return math.fsum(
        cut_factor(s) * (biregular_bound(s.edges / s.n_left, s.edges / s.n_right) - s.sigma_1) for s in found
    )


def v0_imsg(layer: Layer) -> float:
    """Sum of the cut factor times sigma_1 of the 0/1 subgraphs: weights and a second value never enter."""
    return math.fsum(cut_factor(s) * s.sigma_1 for s in as_full_spectrum_subgraphs(layer.once(as_oldest)))


def as_full_spectrum_subgraphs(read: Layer) -> list[RegularSubgraph]:
    """Subgraphs of a layer that is read already."""
    return read.once(fs_subgraphs)
