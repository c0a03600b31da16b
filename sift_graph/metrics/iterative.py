"""Iterative metrics: means over the regular subgraphs of a mask.

For each degree d, the vertices of one side of degree exactly d and their neighbours are one subgraph. A subgraph counts
if it has at least 3 such vertices, d >= 3 and a mean degree of at least 3 on the other side: the gates of the ICLR 2023
code. The subgraphs partition the edges that they cover, which can be few, or none, at high sparsity: read
``edge_coverage`` beside every mean. The literature goes by the degrees of the inputs, the left side; the same by the
outputs is another number, and so is the mean of both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from sift_graph.bounds import biregular_bound, spectral_bound
from sift_graph.metrics.layer import Layer
from sift_graph.metrics.metric import Laws, Metric
from sift_graph.metrics.structure import Side, require
from sift_graph.spectrum import RegularSubgraph

__all__ = ["ITERATIVE", "ITERATIVE_MORE", "bound", "mean"]

Value = Callable[[RegularSubgraph], float]


def found(layer: Layer, side: Side = "left") -> list[RegularSubgraph]:
    """Subgraphs that pass the gates."""
    return layer.subgraphs if side == "left" else layer.subgraphs_right


def bound(subgraph: RegularSubgraph) -> float:
    """Biregular bound of one subgraph, whichever side is regular."""
    return biregular_bound(subgraph.edges / subgraph.n_left, subgraph.edges / subgraph.n_right)


def gap(subgraph: RegularSubgraph) -> float:
    """Bound minus sigma_2 of one subgraph."""
    return bound(subgraph) - subgraph.sigma_2


def gap_norm(subgraph: RegularSubgraph) -> float:
    """Return the same over its bound."""
    return gap(subgraph) / bound(subgraph)


def spectral(subgraph: RegularSubgraph) -> float:
    """Difference of bound by spectrum of one subgraph."""
    return spectral_bound(subgraph.sigma_1) - subgraph.sigma_2


def spectral_norm(subgraph: RegularSubgraph) -> float:
    """Return the same over that bound."""
    return spectral(subgraph) / spectral_bound(subgraph.sigma_1)


def weighted_gap(subgraph: RegularSubgraph) -> float:
    """Spectral gap of the absolute weights of one subgraph."""
    return subgraph.weighted_sigma_1 - subgraph.weighted_sigma_2


def mean(subgraphs: list[RegularSubgraph], value: Value, *, by_edges: bool = False) -> float:
    """Mean over subgraphs, each with one vote or with one vote an edge; without one there is no mean.

    Parameters
    ----------
    subgraphs : list of RegularSubgraph
    value : callable
    by_edges : bool

    Returns
    -------
    float
    """
    require(bool(subgraphs), "no_subgraph")
    votes = [s.edges if by_edges else 1 for s in subgraphs]
    return math.fsum(v * value(s) for v, s in zip(votes, subgraphs, strict=True)) / sum(votes)


def by_subgraph(value: Value, *, side: Side = "left", by_edges: bool = False, weighted: bool = False) -> Any:
    """Make a metric's function of a value of one subgraph."""

    def compute(layer: Layer) -> float:
        if weighted:
            layer.require_weights()
        return mean(found(layer, side), value, by_edges=by_edges)

    return compute


def symmetric(value: Value, *, weighted: bool = False) -> Any:
    """Make the function of the mean of both sides' values."""
    sides = [by_subgraph(value, side=side, weighted=weighted) for side in ("left", "right")]

    def compute(layer: Layer) -> float:
        return 0.5 * math.fsum(of_side(layer) for of_side in sides)

    return compute


def coverage(layer: Layer, side: Side) -> float:
    """Share of the edges that these subgraphs hold."""
    layer.require_edges()
    return sum(s.edges for s in found(layer, side)) / layer.graph.edges


def expansion(subgraph: RegularSubgraph) -> float:
    """Return outputs over inputs of one subgraph."""
    return subgraph.n_right / subgraph.n_left


def largest_expansion(layer: Layer) -> float:
    """Largest expansion ratio of a subgraph."""
    require(bool(layer.subgraphs), "no_subgraph")
    return max(expansion(s) for s in layer.subgraphs)


NONE = "no edges, or no subgraph passes the gates"
NO_WEIGHTS = NONE + ", or no finite weights"
ICLR, NEURIPS = "Hoang et al., ICLR 2023", "Hoang et al., NeurIPS 2023"
BETTER = "ranks pruning at initialisation better than ramanujan_gap, by two tables; most of that is density"


def row(name: str, compute: Any, formula: str, values: str, undefined: str = NONE, **more: Any) -> Metric:
    """Return a column of this family."""
    usual: dict[str, Any] = {"group": "iterative", "cost": "subgraphs", "source": ICLR}
    return Metric(name, compute, formula, values, undefined, **usual | more)


ITERATIVE = (
    row(
        "imdb",
        by_subgraph(gap),
        "mean over d of B_d - sigma_2(K_d)",
        "(-inf, inf)",
        core=True,
        predicts=BETTER,
        oracle="left-regular masks: ramanujan_gap; two-class masks; golden mask",
        laws=Laws(transposed="imdb_right"),
    ),
    row(
        "imdb_norm",
        by_subgraph(gap_norm),
        "mean over d of (B_d - sigma_2(K_d)) / B_d",
        "(-inf, 1]",
        core=True,
        source=ICLR + ", code",
        predicts=BETTER,
        oracle="two-class masks: 1; golden mask",
        laws=Laws(transposed="imdb_norm_right"),
    ),
    row(
        "n_subgraphs",
        lambda layer: len(layer.subgraphs) if layer.graph.edges else 0,
        "number of d that pass the gates",
        "integer >= 0",
        "never",
        core=True,
        source="this project",
        predicts="how many votes the means rest on",
        oracle="golden mask",
        laws=Laws(transposed="n_subgraphs_right"),
    ),
    row(
        "edge_coverage",
        lambda layer: coverage(layer, "left"),
        "sum of d n_d over accepted d / E",
        "[0, 1]",
        "no edges",
        core=True,
        source="this project",
        predicts="how much of the layer the means are about",
        oracle="golden mask",
        laws=Laws(transposed="edge_coverage_right"),
    ),
    row(
        "imsg",
        by_subgraph(weighted_gap, weighted=True),
        "mean over d of sigma_1(A_d) - sigma_2(A_d)",
        "[0, inf)",
        NO_WEIGHTS,
        needs="weight",
        core=True,
        source=NEURIPS,
        predicts="claimed to follow the accuracy of dynamically sparse masks; scales with the weights",
        oracle="two-class masks; golden mask",
        laws=Laws(degree=1, transposed="imsg_right"),
    ),
)

ITERATIVE_MORE = (
    row(
        "imds",
        by_subgraph(spectral),
        "mean over d of 2 sqrt(sigma_1(K_d) - 1) - sigma_2(K_d)",
        "(-inf, inf)",
        predicts="imdb by the bound of the spectrum",
        oracle="golden mask",
        laws=Laws(transposed=None),
    ),
    row(
        "imds_norm",
        by_subgraph(spectral_norm),
        "mean over d of the ratio of that to 2 sqrt(sigma_1(K_d) - 1)",
        "(-inf, 1]",
        predicts="imdb_norm by the bound of the spectrum",
        oracle="golden mask",
        laws=Laws(transposed=None),
    ),
    row(
        "imdb_edges",
        by_subgraph(gap, by_edges=True),
        "sum d n_d (B_d - sigma_2(K_d)) / sum d n_d",
        "(-inf, inf)",
        source="this project",
        predicts="imdb without one vote for each degree, however rare",
        oracle="left-regular masks: ramanujan_gap",
        laws=Laws(transposed=None),
    ),
    row(
        "imdb_norm_edges",
        by_subgraph(gap_norm, by_edges=True),
        "sum d n_d (B_d - sigma_2(K_d)) / B_d / sum d n_d",
        "(-inf, 1]",
        source="this project",
        predicts="as imdb_edges",
        oracle="two-class masks: 1",
        laws=Laws(transposed=None),
    ),
    row(
        "imsg_edges",
        by_subgraph(weighted_gap, by_edges=True, weighted=True),
        "sum d n_d (sigma_1(A_d) - sigma_2(A_d)) / sum d n_d",
        "[0, inf)",
        NO_WEIGHTS,
        needs="weight",
        source="this project",
        predicts="as imdb_edges, for imsg",
        oracle="left-regular masks: weighted_spectral_gap",
        laws=Laws(degree=1, transposed=None),
    ),
    row(
        "imdb_right",
        by_subgraph(gap, side="right"),
        "imdb by the degrees of the outputs",
        "(-inf, inf)",
        cost="subgraphs_right",
        source="this project",
        predicts="another number than imdb: always state the side",
        oracle="imdb of the transposed mask",
        laws=Laws(transposed="imdb"),
    ),
    row(
        "imdb_norm_right",
        by_subgraph(gap_norm, side="right"),
        "imdb_norm by the degrees of the outputs",
        "(-inf, 1]",
        cost="subgraphs_right",
        source="this project",
        predicts="another number than imdb_norm",
        oracle="imdb_norm of the transposed mask",
        laws=Laws(transposed="imdb_norm"),
    ),
    row(
        "imsg_right",
        by_subgraph(weighted_gap, side="right", weighted=True),
        "imsg by the degrees of the outputs",
        "[0, inf)",
        NO_WEIGHTS,
        needs="weight",
        cost="subgraphs_right",
        source="this project",
        predicts="another number than imsg",
        oracle="imsg of the transposed mask",
        laws=Laws(degree=1, transposed="imsg"),
    ),
    row(
        "n_subgraphs_right",
        lambda layer: len(layer.subgraphs_right) if layer.graph.edges else 0,
        "n_subgraphs by the degrees of the outputs",
        "integer >= 0",
        "never",
        cost="subgraphs_right",
        source="this project",
        predicts="how many votes the right means rest on",
        oracle="n_subgraphs of the transposed mask",
        laws=Laws(transposed="n_subgraphs"),
    ),
    row(
        "edge_coverage_right",
        lambda layer: coverage(layer, "right"),
        "edge_coverage by the degrees of the outputs",
        "[0, 1]",
        "no edges",
        cost="subgraphs_right",
        source="this project",
        predicts="how much of the layer the right means are about",
        oracle="edge_coverage of the transposed mask",
        laws=Laws(transposed="edge_coverage"),
    ),
    row(
        "imdb_both",
        symmetric(gap),
        "(imdb + imdb_right) / 2",
        "(-inf, inf)",
        cost="subgraphs_right",
        source="this project",
        predicts="imdb that does not depend on the side",
        oracle="the same of the transposed mask",
    ),
    row(
        "imdb_norm_both",
        symmetric(gap_norm),
        "(imdb_norm + imdb_norm_right) / 2",
        "(-inf, 1]",
        cost="subgraphs_right",
        source="this project",
        predicts="imdb_norm that does not depend on the side",
        oracle="the same of the transposed mask",
    ),
    row(
        "imsg_both",
        symmetric(weighted_gap, weighted=True),
        "(imsg + imsg_right) / 2",
        "[0, inf)",
        NO_WEIGHTS,
        needs="weight",
        cost="subgraphs_right",
        source="this project",
        predicts="imsg that does not depend on the side",
        oracle="the same of the transposed mask",
        laws=Laws(degree=1),
    ),
    row(
        "iterative_expansion_max",
        largest_expansion,
        "max over d of n_R,d+ / n_d",
        "(0, inf)",
        source=ICLR + ", code (imax_ep)",
        predicts="the rarest degree more than anything else",
        oracle="golden mask",
        laws=Laws(transposed=None),
    ),
    row(
        "iterative_expansion_mean",
        by_subgraph(expansion),
        "mean over d of n_R,d+ / n_d",
        "(0, inf)",
        source=ICLR + ", code (i_mean_ep)",
        predicts="how rare degrees are",
        oracle="golden mask",
        laws=Laws(transposed=None),
    ),
)
