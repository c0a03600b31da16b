"""Sizes, degrees and density: what a graph is before its spectrum is asked for."""

from __future__ import annotations

from sift_graph.metrics.layer import Layer
from sift_graph.metrics.metric import Metric

__all__ = ["STRUCTURE"]


def mean_left_degree(layer: Layer) -> float:
    """Edges per left vertex that has one."""
    layer.require_edges()
    return layer.graph.mean_left_degree


def mean_right_degree(layer: Layer) -> float:
    """Edges per right vertex that has one."""
    layer.require_edges()
    return layer.graph.mean_right_degree


STRUCTURE = (
    Metric("n_left", lambda layer: layer.graph.n_left, "inputs x kernel positions", "integer >= 1"),
    Metric("n_right", lambda layer: layer.graph.n_right, "outputs", "integer >= 1"),
    Metric(
        "n_left_isolated",
        lambda layer: layer.graph.n_left_isolated,
        "left vertices of degree 0",
        "integer >= 0",
    ),
    Metric(
        "n_right_isolated",
        lambda layer: layer.graph.n_right_isolated,
        "right vertices of degree 0",
        "integer >= 0",
    ),
    Metric("edges", lambda layer: layer.graph.edges, "E = sum(M)", "integer >= 0"),
    Metric("density", lambda layer: layer.graph.density, "E / entries of the weight", "[0, 1]"),
    Metric("mean_left_degree", mean_left_degree, "d_L = E / n_L+", "[1, n_right]", "no edges"),
    Metric("mean_right_degree", mean_right_degree, "d_R = E / n_R+", "[1, n_left]", "no edges"),
)
