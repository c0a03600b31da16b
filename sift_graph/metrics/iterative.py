"""Iterative metrics: means over the left-regular subgraphs of a mask.

For each degree d, the left vertices of degree exactly d and their neighbours are one subgraph. A subgraph counts if it
has at least 3 left vertices, d >= 3 and a mean right degree of at least 3: the gates of the ICLR 2023 code. The
subgraphs partition the edges that they cover, which can be few, or none, at high sparsity: read ``edge_coverage``
beside every mean.
"""

from __future__ import annotations

import math

from sift_graph.bounds import biregular_bound
from sift_graph.metrics.layer import Layer
from sift_graph.metrics.metric import Metric, Undefined
from sift_graph.spectrum import RegularSubgraph

__all__ = ["ITERATIVE"]


def accepted(layer: Layer) -> list[RegularSubgraph]:
    """Subgraphs that pass the gates, at least one."""
    found = layer.subgraphs
    if not found:
        raise Undefined("no_subgraph")
    return found


def bound(subgraph: RegularSubgraph) -> float:
    """Biregular bound of one subgraph."""
    return biregular_bound(subgraph.degree, subgraph.edges / subgraph.n_right)


def imdb(layer: Layer) -> float:
    """Mean over subgraphs of bound minus sigma_2."""
    found = accepted(layer)
    return math.fsum(bound(s) - s.sigma_2 for s in found) / len(found)


def imdb_norm(layer: Layer) -> float:
    """Mean over subgraphs of the ratio of that gap to its bound."""
    found = accepted(layer)
    return math.fsum((bound(s) - s.sigma_2) / bound(s) for s in found) / len(found)


def imsg(layer: Layer) -> float:
    """Mean over subgraphs of the weighted spectral gap."""
    layer.require_weights()
    found = accepted(layer)
    return math.fsum(s.weighted_sigma_1 - s.weighted_sigma_2 for s in found) / len(found)


def n_subgraphs(layer: Layer) -> int:
    """Subgraphs that pass the gates; 0 is a value."""
    return len(layer.subgraphs) if layer.graph.edges else 0


def edge_coverage(layer: Layer) -> float:
    """Share of the edges that these subgraphs hold."""
    layer.require_edges()
    return sum(s.edges for s in layer.subgraphs) / layer.graph.edges


NONE = "no edges, or no subgraph passes the gates"

ITERATIVE = (
    Metric("imdb", imdb, "mean over d of B_d - sigma_2(K_d)", "(-inf, inf)", NONE, "Hoang et al., ICLR 2023"),
    Metric(
        "imdb_norm",
        imdb_norm,
        "mean over d of (B_d - sigma_2(K_d)) / B_d",
        "(-inf, 1]",
        NONE,
        "Hoang et al., ICLR 2023, code",
    ),
    Metric("n_subgraphs", n_subgraphs, "number of d that pass the gates", "integer >= 0"),
    Metric("edge_coverage", edge_coverage, "sum of d n_d over accepted d / E", "[0, 1]", "no edges"),
    Metric(
        "imsg",
        imsg,
        "mean over d of sigma_1(A_d) - sigma_2(A_d)",
        "[0, inf)",
        NONE + ", or no finite weights",
        "Hoang et al., NeurIPS 2023",
        "weight",
    ),
)
