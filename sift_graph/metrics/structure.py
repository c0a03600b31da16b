"""Sizes, degrees and density: what a graph is before its spectrum is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from sift_graph.metrics.layer import Layer
from sift_graph.metrics.metric import Laws, Metric, Undefined

__all__ = ["DEGREES", "STRUCTURE"]

Side = Literal["left", "right"]


def mean_left_degree(layer: Layer) -> float:
    """Edges per left vertex that has one."""
    layer.require_edges()
    return layer.graph.mean_left_degree


def mean_right_degree(layer: Layer) -> float:
    """Edges per right vertex that has one."""
    layer.require_edges()
    return layer.graph.mean_right_degree


def degrees(layer: Layer, side: Side, *, isolated: bool = False) -> np.ndarray:
    """Degrees of one side, of its vertices that have an edge, or of all."""
    layer.require_edges()
    found = layer.graph.left_degree if side == "left" else layer.graph.right_degree
    return found if isolated else found[found > 0]


def variation(values: np.ndarray) -> float:
    """Return standard deviation over mean."""
    return float(values.std() / values.mean())


def gini(values: np.ndarray) -> float:
    """Gini coefficient: half the mean difference of two values, over their mean.

    Parameters
    ----------
    values : ndarray
        Not negative, with a positive sum.

    Returns
    -------
    float
        In [0, 1); 0 if all are equal.

    Examples
    --------
    >>> gini(np.array([0, 0, 0, 4]))
    0.75
    """
    ordered = np.sort(values)
    n = ordered.size
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * ordered.sum()))


def expansion_ratio(layer: Layer) -> float:
    """Return used outputs over used inputs."""
    layer.require_edges()
    return layer.n_right_active / layer.n_left_active


def flags(layer: Layer) -> str:
    """Words for what makes a layer special, with spaces between; the empty text for none."""
    if layer.graph.edges == 0:
        return "empty"
    left, right = layer.graph.mean_left_degree, layer.graph.mean_right_degree
    found = {
        "one_sided": min(layer.n_left_active, layer.n_right_active) == 1,
        "bound_zero": left == right == 1,
        "deg_lt_3": min(left, right) < 3,
        "disconnected": layer.once(n_components) > 1,
        "dense": layer.graph.edges == layer.graph.block_left * layer.graph.n_right,
    }
    return " ".join(word for word, holds in found.items() if holds)


def n_components(layer: Layer) -> int:
    """Return connected components that have an edge."""
    layer.require_edges()
    return layer.graph.components[0]


def largest_component_share(layer: Layer) -> float:
    """Vertices of the largest component over vertices that have an edge."""
    layer.require_edges()
    _, left, right = layer.graph.components
    labels = np.concatenate([left, right])
    return float(np.bincount(labels[labels >= 0]).max() / np.count_nonzero(labels >= 0))


SIZE = Laws(padded=False)
BY_COUNTING = "counted by numpy; golden mask"
OF_SIZE = "the layer's size; a control, not a cause"


def core(name: str, compute: Callable[[Layer], Any], formula: str, values: str, **more: Any) -> Metric:
    """One of the columns that are always there."""
    usual: dict[str, Any] = {"group": "structure", "core": True, "oracle": BY_COUNTING}
    return Metric(name, compute, formula, values, **usual | more)


STRUCTURE = (
    core(
        "n_left",
        lambda layer: layer.graph.n_left,
        "inputs x kernel positions",
        "integer >= 1",
        predicts=OF_SIZE,
        laws=Laws(padded=False, transposed="n_right"),
    ),
    core(
        "n_right",
        lambda layer: layer.graph.n_right,
        "outputs",
        "integer >= 1",
        predicts=OF_SIZE,
        laws=Laws(padded=False, transposed="n_left"),
    ),
    core(
        "n_left_isolated",
        lambda layer: layer.graph.n_left_isolated,
        "left vertices of degree 0",
        "integer >= 0",
        predicts="inputs that this layer ignores; dead for the network only if no other layer reads them",
        laws=Laws(padded=False, transposed="n_right_isolated"),
    ),
    core(
        "n_right_isolated",
        lambda layer: layer.graph.n_right_isolated,
        "right vertices of degree 0",
        "integer >= 0",
        predicts="outputs that are constant, unless a skip connection feeds them",
        laws=Laws(padded=False, transposed="n_left_isolated"),
    ),
    core("edges", lambda layer: layer.graph.edges, "E = sum(M)", "integer >= 0", predicts=OF_SIZE),
    core(
        "density",
        lambda layer: layer.graph.density,
        "p = E / entries of the weight",
        "[0, 1]",
        predicts="the main confounder: it ranks masks about as well as any Ramanujan metric",
        laws=SIZE,
    ),
    core(
        "mean_left_degree",
        mean_left_degree,
        "d_L = E / n_L+",
        "[1, n_right]",
        undefined="no edges",
        predicts="mean fan-out of a used input",
        laws=Laws(transposed="mean_right_degree"),
    ),
    core(
        "mean_right_degree",
        mean_right_degree,
        "d_R = E / n_R+",
        "[1, n_left]",
        undefined="no edges",
        predicts="mean fan-in of a used output",
        laws=Laws(transposed="mean_left_degree"),
    ),
)


def of_degrees(
    word: str, statistic: Callable[[np.ndarray], float], formula: str, values: str, predicts: str, *, isolated: bool
) -> tuple[Metric, Metric]:
    """Make the columns of one statistic of the degrees, left and right."""
    suffix, whose = ("_all", "all vertices") if isolated else ("", "vertices with an edge")

    def metric(side: Side, other: Side) -> Metric:
        return Metric(
            f"{word}_{side}_degree{suffix}",
            lambda layer: statistic(degrees(layer, side, isolated=isolated)),
            f"{formula}, {side}, over {whose}",
            values,
            undefined="no edges",
            group="structure",
            predicts=predicts,
            oracle=BY_COUNTING,
            laws=Laws(padded=not isolated, transposed=f"{word}_{other}_degree{suffix}"),
        )

    return metric("left", "right"), metric("right", "left")


SPREAD = "hubs; the larger, the farther sigma_2 lies above that of a random mask of the same density"

DEGREES = (
    *of_degrees("min", lambda d: int(d.min()), "smallest degree", "integer >= 1", "weakest vertex", isolated=False),
    *of_degrees("max", lambda d: int(d.max()), "largest degree", "integer >= 1", "strongest hub", isolated=False),
    *of_degrees("cv", variation, "standard deviation over mean of degrees", "[0, inf)", SPREAD, isolated=False),
    *of_degrees("gini", gini, "Gini coefficient of degrees", "[0, 1)", SPREAD, isolated=False),
    *of_degrees("mean", lambda d: float(d.mean()), "mean degree", "(0, inf)", "fan-out, fan-in", isolated=True),
    *of_degrees("cv", variation, "standard deviation over mean of degrees", "[0, inf)", SPREAD, isolated=True),
    *of_degrees("gini", gini, "Gini coefficient of degrees", "[0, 1)", SPREAD, isolated=True),
    Metric(
        "expansion_ratio",
        expansion_ratio,
        "n_R+ / n_L+",
        "(0, inf)",
        "no edges",
        "Hoang et al., ICLR 2023, code",
        group="structure",
        predicts="the layer's shape more than its mask",
        oracle="golden mask",
        laws=Laws(transposed=None),
    ),
    Metric(
        "n_components",
        n_components,
        "connected components with an edge",
        "integer >= 1",
        "no edges",
        group="structure",
        cost="walks",
        predicts="more than one: information of one part never meets the other in this layer",
        oracle="networkx; multiplicity of sigma_1(N) = 1",
    ),
    Metric(
        "largest_component_share",
        largest_component_share,
        "vertices of the largest component / n_L+ + n_R+",
        "(0, 1]",
        "no edges",
        group="structure",
        cost="walks",
        predicts="whether several components are crumbs or halves",
        oracle="networkx",
    ),
    Metric(
        "flags",
        flags,
        "one_sided: n_L+ or n_R+ is 1; bound_zero: all degrees 1; deg_lt_3; disconnected; dense; empty",
        "words with spaces between",
        group="structure",
        cost="walks",
        predicts="for which layers a gap is not what it seems",
        oracle="one layer of each kind",
        laws=Laws(padded=False),
        missing=None,
    ),
)


def require(holds: bool, word: str) -> None:
    """Leave with a word unless something holds."""
    if not holds:
        raise Undefined(word)
