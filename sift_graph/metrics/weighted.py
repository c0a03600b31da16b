"""The spectrum of the absolute weights on the mask, A = |W| on M, unnormalised as in the NeurIPS 2023 code."""

from __future__ import annotations

from sift_graph.metrics.layer import Layer
from sift_graph.metrics.metric import Metric

__all__ = ["WEIGHTED"]


def weighted_spectral_gap(layer: Layer) -> float:
    """First minus second singular value of the absolute weights."""
    return layer.weighted.sigma_1 - layer.weighted.sigma_2


HOANG = "Hoang et al., NeurIPS 2023"
NO_WEIGHTS = "no edges, no weights recorded, a weight that is not finite, or all weights 0"

WEIGHTED = (
    Metric(
        "weighted_sigma_1",
        lambda layer: layer.weighted.sigma_1,
        "sigma_1(A)",
        "[0, inf)",
        NO_WEIGHTS,
        HOANG,
        "weight",
    ),
    Metric(
        "weighted_sigma_2",
        lambda layer: layer.weighted.sigma_2,
        "sigma_2(A)",
        "[0, sigma_1(A)]",
        NO_WEIGHTS,
        HOANG,
        "weight",
    ),
    Metric(
        "weighted_spectral_gap",
        weighted_spectral_gap,
        "sigma_1(A) - sigma_2(A)",
        "[0, inf)",
        NO_WEIGHTS,
        HOANG,
        "weight",
    ),
)
