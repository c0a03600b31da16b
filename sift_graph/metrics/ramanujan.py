"""The mask's two leading singular values against the biregular bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sift_graph.bounds import random_gap_norm
from sift_graph.metrics.layer import Layer
from sift_graph.metrics.metric import Laws, Metric, Undefined

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


def row(
    name: str, compute: Callable[[Layer], Any], formula: str, values: str, undefined: str = NO_EDGES, **more: Any
) -> Metric:
    """Return a core column of this family."""
    usual: dict[str, Any] = {"group": "ramanujan", "cost": "top2", "core": True}
    return Metric(name, compute, formula, values, undefined, **usual | more)


RAMANUJAN = (
    row(
        "sigma_1",
        lambda layer: layer.binary.sigma_1,
        "largest singular value of M",
        "[1, sqrt(E)]",
        predicts="gain of the 0/1 layer, at least sqrt(d_L d_R)",
        oracle="closed forms, dense SVD, golden mask",
    ),
    row(
        "sigma_2",
        lambda layer: layer.binary.sigma_2,
        "second, multiplicity counted; 0 if one side has one vertex",
        "[0, sigma_1]",
        predicts="bottlenecks and equal components; grows with the root of the width and of the density",
        oracle="closed forms, dense SVD, golden mask",
        laws=Laws(accuracy=1e-7),
    ),
    row(
        "sigma_2_lo",
        lambda layer: layer.binary.sigma_2_lo,
        "lower bound of sigma_2",
        "[0, sigma_2]",
        predicts="how far sigma_2 can be off",
        oracle="below the dense SVD",
        laws=Laws(accuracy=1e-6),
    ),
    row(
        "sigma_2_hi",
        lambda layer: layer.binary.sigma_2_hi,
        "upper bound of sigma_2",
        "[sigma_2, inf)",
        predicts="how far sigma_2 can be off",
        oracle="above the dense SVD",
        laws=Laws(accuracy=1e-6),
    ),
    row(
        "bound",
        bound,
        "B = sqrt(d_L - 1) + sqrt(d_R - 1)",
        "[0, inf)",
        source="Feng & Li 1996; mean degrees: " + HOANG,
        cost="counts",
        predicts="what sigma_2 of a biregular Ramanujan graph is at most",
        oracle="golden mask",
    ),
    row(
        "ramanujan_gap",
        ramanujan_gap,
        "Delta_r = B - sigma_2",
        "(-inf, B]",
        source=HOANG,
        predicts="whether the layer expands as well as its degrees allow; alone it does not rank pruning methods",
        oracle="closed forms, golden mask",
        laws=Laws(accuracy=1e-7),
    ),
    row(
        "ramanujan_gap_norm",
        ramanujan_gap_norm,
        "(B - sigma_2) / B",
        "(-inf, 1]",
        NO_BOUND,
        source=HOANG,
        predicts="the same across widths; of a random mask it is a function of density alone",
        oracle="PG(2,q): 1/2 exactly; golden mask",
        laws=Laws(accuracy=1e-7),
    ),
    row(
        "is_ramanujan",
        is_ramanujan,
        "sigma_2 <= B, proven by its error bound",
        "yes, no, undecided",
        source=HOANG,
        missing=None,
        predicts="a claim about the mask, not about accuracy",
        oracle="hypercubes: yes up to 6, no from 7",
    ),
    row(
        "random_gap_norm",
        lambda layer: random_gap_norm(layer.graph.density),
        "1 - sqrt(1 - density): the same of a random mask",
        "[0, 1]",
        "never",
        source="Marchenko-Pastur edge",
        group="reference",
        cost="counts",
        predicts="the part of ramanujan_gap_norm that is density",
        oracle="drawn random masks",
        laws=Laws(padded=False),
    ),
    row(
        "excess_gap",
        excess_gap,
        "ramanujan_gap_norm - random_gap_norm",
        "(-inf, 1]",
        NO_BOUND,
        source="density-corrected gap",
        group="reference",
        predicts="structure beyond density; negative where degrees are heterogeneous",
        oracle="near 0 for drawn random masks",
        laws=Laws(padded=False, accuracy=1e-7),
    ),
    row(
        "normalised_sigma_2",
        normalised_sigma_2,
        "sigma_2(N), N = D_R^-1/2 M D_L^-1/2",
        "[0, 1]",
        group="mixing",
        cost="normalised",
        predicts="mixing of the random walk, robust to hubs; 1 exactly when disconnected",
        oracle="golden mask, closed forms",
        laws=Laws(accuracy=1e-7),
    ),
)
