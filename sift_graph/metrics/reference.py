"""What a random mask of the same counts would give, in closed form, and how far a layer is from it.

The random weights of the reference have the layer's own mean square, and are Gaussian. In a grouped layer the sizes are
those of one block. Masks drawn at random, which keep more than the counts, stand in :mod:`sift_graph.nulls`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from sift_graph.bounds import random_sigma_1, random_sigma_2, random_weights
from sift_graph.metrics.layer import Layer
from sift_graph.metrics.metric import Laws, Metric
from sift_graph.metrics.ramanujan import NO_EDGES
from sift_graph.metrics.weighted import NO_WEIGHTS, signed, weighted_spectral_gap

__all__ = ["REFERENCE"]


def sizes(layer: Layer) -> tuple[int, int]:
    """Left and right vertices of one block."""
    return layer.graph.block_left, layer.graph.n_right // layer.graph.groups


def expected_sigma_1(layer: Layer) -> float:
    """Largest singular value of a random mask."""
    layer.require_edges()
    return random_sigma_1(layer.graph.density, *sizes(layer))


def expected_sigma_2(layer: Layer) -> float:
    """Second singular value of a random mask."""
    layer.require_edges()
    return random_sigma_2(layer.graph.density, *sizes(layer))


def root_mean_square(layer: Layer) -> float:
    """Of the weights on the mask."""
    values = layer.require_weights().values
    return math.sqrt(float(np.mean(np.square(values)))) if values is not None else math.nan


def expected(layer: Layer) -> Any:
    """Singular values of random weights of the same scale on a random mask."""
    return random_weights(layer.graph.density, *sizes(layer), root_mean_square(layer))


def expected_weighted_gap(layer: Layer) -> float:
    """Weighted spectral gap of the same."""
    found = layer.once(expected)
    return float(max(found.sigma_1 - found.sigma_2, 0.0)) if found.separation > 1 else 0.0


def narc(layer: Layer) -> float:
    """First term of the normalised random coefficient; the second is 0 when edges are counted once."""
    layer.require_edges()
    spread = (layer.binary.sigma_2**2 / 4 + 1) * math.sqrt(layer.n_left_active * layer.n_right_active)
    return spread / (layer.graph.n_left * layer.graph.n_right)


def narc_single_count(layer: Layer) -> float:
    """Return the coefficient with edges counted once, and all outputs in the mean degree."""
    layer.require_edges()
    pairs = layer.n_left_active * layer.n_right_active
    second = abs(layer.graph.edges - layer.graph.mean_left_degree / layer.graph.n_right * pairs)
    return narc(layer) - second / (layer.graph.n_left * layer.graph.n_right)


def row(
    name: str, compute: Callable[[Layer], Any], formula: str, values: str, undefined: str = NO_EDGES, **more: Any
) -> Metric:
    """Return a column of this family; sizes count isolated vertices, so padding changes it."""
    usual: dict[str, Any] = {"group": "reference", "laws": Laws(padded=False)}
    return Metric(name, compute, formula, values, undefined, **usual | more)


WEIGHTS: dict[str, Any] = {"needs": "weight", "undefined": NO_WEIGHTS, "cost": "edges"}
SCALES = Laws(padded=False, degree=1)
NARC = "Hoang et al., ICLR 2023"
MODEL = "Marchenko-Pastur edge, for independent entries; drawn random masks"

REFERENCE = (
    row(
        "random_sigma_1",
        expected_sigma_1,
        "sqrt((t^2 + v n_L)(t^2 + v n_R)) / t, t = p sqrt(n_L n_R), v = p (1 - p)",
        "[0, inf)",
        cost="counts",
        source="random matrix theory",
        predicts="sigma_1 of a random mask of this density",
        oracle="drawn random masks",
    ),
    row(
        "random_sigma_2",
        expected_sigma_2,
        "sqrt(p (1 - p)) (sqrt n_L + sqrt n_R)",
        "[0, inf)",
        cost="counts",
        source="Marchenko-Pastur edge",
        predicts="sigma_2 of a random mask of this density; too small where p n is of order 1",
        oracle="drawn random masks",
    ),
    row(
        "random_weighted_sigma_1",
        lambda layer: layer.once(expected).sigma_1,
        "as random_sigma_1, t = p s sqrt(2/pi) sqrt(n_L n_R), v = p s^2 (1 - 2p/pi), s^2 the mean square weight",
        "[0, inf)",
        source="random matrix theory",
        predicts="sigma_1(A) at random initialisation",
        oracle=MODEL,
        **WEIGHTS | {"laws": SCALES},
    ),
    row(
        "random_weighted_sigma_2",
        lambda layer: layer.once(expected).sigma_2,
        "sqrt(v) (sqrt n_L + sqrt n_R)",
        "[0, inf)",
        source="Marchenko-Pastur edge",
        predicts="sigma_2(A) at random initialisation",
        oracle=MODEL,
        **WEIGHTS | {"laws": SCALES},
    ),
    row(
        "random_weighted_gap",
        expected_weighted_gap,
        "their difference; 0 where the outlier is not separated",
        "[0, inf)",
        source="Baik, Ben Arous & Peche 2005",
        predicts="weighted_spectral_gap at random initialisation",
        oracle=MODEL,
        **WEIGHTS | {"laws": SCALES},
    ),
    row(
        "weighted_excess_gap",
        lambda layer: weighted_spectral_gap(layer) - expected_weighted_gap(layer),
        "weighted_spectral_gap - random_weighted_gap",
        "(-inf, inf)",
        source="this project",
        predicts="the part of the weighted gap that is learned, or that the mask's structure adds",
        oracle="near 0 for random weights on random masks",
        **WEIGHTS | {"laws": SCALES, "cost": "weighted"},
    ),
    row(
        "outlier_separation",
        lambda layer: layer.once(expected).separation,
        "theta = t / (sqrt(v) (n_L n_R)^(1/4))",
        "(0, inf)",
        source="Baik, Ben Arous & Peche 2005",
        predicts="above 1 the mean weight stands out of the bulk, and a gap is expected at all",
        oracle="formula; drawn random masks",
        **WEIGHTS,
    ),
    row(
        "random_signed_sigma_1",
        lambda layer: root_mean_square(layer) * layer.once(signed_edge),
        "s sqrt(p) (sqrt n_L + sqrt n_R)",
        "[0, inf)",
        source="Marchenko-Pastur edge",
        predicts="signed_sigma_1 at random initialisation",
        oracle=MODEL,
        **WEIGHTS | {"laws": SCALES},
    ),
    row(
        "signed_excess",
        lambda layer: float(layer.once(signed)[0]) / (root_mean_square(layer) * layer.once(signed_edge)) - 1,
        "signed_sigma_1 / random_signed_sigma_1 - 1",
        "[-1, inf)",
        source="this project",
        predicts="spikes of the weights beyond the random bulk",
        oracle="near 0 for random weights on random masks",
        **WEIGHTS | {"cost": "signed"},
    ),
    row(
        "narc",
        narc,
        "(sigma_2^2 / 4 + 1) sqrt(n_L+ n_R+) / (n_L n_R)",
        "(0, inf)",
        source=NARC + ", corrected",
        cost="top2",
        predicts="positive always: the published sign comes from counting edges twice, see vita_random_factor",
        oracle="K(m,n): 1 / sqrt(mn); golden mask",
        laws=Laws(padded=False, accuracy=1e-7),
    ),
    row(
        "narc_single_count",
        narc_single_count,
        "narc - |E - (d_L / n_R) n_L+ n_R+| / (n_L n_R)",
        "(-inf, inf)",
        source=NARC + ", edges counted once",
        cost="top2",
        predicts="differs from narc only where outputs are isolated",
        oracle="golden mask",
        laws=Laws(padded=False, transposed=None, accuracy=1e-7),
    ),
)


def signed_edge(layer: Layer) -> float:
    """Edge of the bulk of signed random weights of mean square 1."""
    left, right = sizes(layer)
    return math.sqrt(layer.graph.density) * (math.sqrt(left) + math.sqrt(right))
