"""The mask's two leading singular values against the biregular bound."""

from __future__ import annotations

from sift_graph.bounds import random_gap_norm
from sift_graph.metrics.layer import Layer
from sift_graph.metrics.metric import Metric, Undefined

__all__ = ["RAMANUJAN"]

HOANG = "Hoang et al., ICLR 2023"


def bound(layer: Layer) -> float:
    """Biregular bound at mean degrees over vertices with an edge."""
    layer.require_edges()
    return layer.bound


def ramanujan_gap(layer: Layer) -> float:
    """Bound minus sigma_2; at least 0 means within the bound."""
    return bound(layer) - layer.binary.sigma_2


def ramanujan_gap_norm(layer: Layer) -> float:
    """Ramanujan gap over its bound; undefined where all degrees are 1, whose bound is 0."""
    if bound(layer) == 0:
        raise Undefined("bound_zero")
    return ramanujan_gap(layer) / layer.bound


def is_ramanujan(layer: Layer) -> str:
    """Say yes or no only where the error bound of sigma_2 leaves no doubt."""
    limit = bound(layer)
    if layer.binary.sigma_2_hi <= limit:
        return "yes"
    if layer.binary.sigma_2_lo > limit:
        return "no"
    return "undecided"


def excess_gap(layer: Layer) -> float:
    """Normalised gap minus that of a random mask of the same density."""
    return ramanujan_gap_norm(layer) - random_gap_norm(layer.graph.density)


def normalised_sigma_2(layer: Layer) -> float:
    """Second singular value of the degree-normalised biadjacency; 1 exactly when disconnected."""
    return layer.normalised.sigma_2


NO_EDGES = "no edges"
NO_BOUND = "no edges, or all degrees 1"

RAMANUJAN = (
    Metric("sigma_1", lambda layer: layer.binary.sigma_1, "largest singular value of M", "[1, sqrt(E)]", NO_EDGES),
    Metric(
        "sigma_2",
        lambda layer: layer.binary.sigma_2,
        "second, multiplicity counted; 0 if one side has one vertex",
        "[0, sigma_1]",
        NO_EDGES,
    ),
    Metric(
        "sigma_2_lo",
        lambda layer: layer.binary.sigma_2_lo,
        "lower bound of sigma_2",
        "[0, sigma_2]",
        NO_EDGES,
    ),
    Metric(
        "sigma_2_hi",
        lambda layer: layer.binary.sigma_2_hi,
        "upper bound of sigma_2",
        "[sigma_2, inf)",
        NO_EDGES,
    ),
    Metric(
        "bound",
        bound,
        "B = sqrt(d_L - 1) + sqrt(d_R - 1)",
        "[0, inf)",
        NO_EDGES,
        "Feng & Li 1996; mean degrees: " + HOANG,
    ),
    Metric("ramanujan_gap", ramanujan_gap, "B - sigma_2", "(-inf, B]", NO_EDGES, HOANG),
    Metric("ramanujan_gap_norm", ramanujan_gap_norm, "(B - sigma_2) / B", "(-inf, 1]", NO_BOUND, HOANG),
    Metric(
        "is_ramanujan",
        is_ramanujan,
        "sigma_2 <= B, proven by its error bound",
        "yes, no, undecided",
        NO_EDGES,
        HOANG,
        missing=None,
    ),
    Metric(
        "random_gap_norm",
        lambda layer: random_gap_norm(layer.graph.density),
        "1 - sqrt(1 - density): the same of a random mask",
        "[0, 1]",
        "never",
        "Marchenko-Pastur edge",
    ),
    Metric(
        "excess_gap",
        excess_gap,
        "ramanujan_gap_norm - random_gap_norm",
        "(-inf, 1]",
        NO_BOUND,
        "density-corrected gap",
    ),
    Metric("normalised_sigma_2", normalised_sigma_2, "sigma_2(D_R^-1/2 M D_L^-1/2)", "[0, 1]", NO_EDGES),
)
