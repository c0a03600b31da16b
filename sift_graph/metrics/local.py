"""Short cycles, cores, cuts and neighbourhoods: how a layer hangs together around each vertex."""

from __future__ import annotations

import math

import numpy as np

from sift_graph import topology
from sift_graph.bits import transpose_bits
from sift_graph.metrics.expander import cores, lists
from sift_graph.metrics.layer import Layer
from sift_graph.metrics.metric import Metric
from sift_graph.metrics.ramanujan import NO_EDGES
from sift_graph.metrics.structure import require
from sift_graph.spectrum.counts import Wedges, wedges

__all__ = ["LOCAL"]


def pairs(layer: Layer) -> Wedges:
    """Return common neighbours of all pairs of the smaller side."""
    layer.require_edges()
    return wedges(layer.graph)


def butterflies(layer: Layer) -> int:
    """Cycles of four edges."""
    return layer.once(pairs).butterflies


def choose(degree: np.ndarray, k: int) -> int:
    """Sum over vertices of the number of ways to choose k of their edges."""
    return sum(math.comb(int(d), k) * int(n) for d, n in enumerate(np.bincount(degree)))


def butterfly_ratio(layer: Layer) -> float:
    """Butterflies over what the configuration model expects at these degrees."""
    found = butterflies(layer)
    left, right = (choose(d, 2) for d in (layer.graph.left_degree, layer.graph.right_degree))
    require(left > 0 and right > 0, "matching")
    return found / (4 * (left * right / layer.graph.edges**2) ** 2)


def girth(layer: Layer) -> int:
    """Length of the shortest cycle."""
    found = topology.girth(layer.once(lists))
    require(found > 0, "no_cycle")
    return found


def cuts(layer: Layer) -> tuple[int, int]:
    """Bridges and articulation points."""
    return topology.cuts(layer.once(lists))


def mean_core(layer: Layer) -> float:
    """Mean core number over vertices with an edge."""
    numbers = layer.once(cores)
    return float(numbers[numbers > 0].mean())


def active(layer: Layer) -> int:
    """Vertices with an edge, both sides."""
    layer.require_edges()
    return layer.n_left_active + layer.n_right_active


def one_hop(layer: Layer) -> float:
    """Mean number of vertices within one edge, the vertex itself included."""
    return 1 + 2 * layer.graph.edges / active(layer)


def two_hop(layer: Layer) -> float:
    """Mean number of vertices within two edges, the vertex itself included."""
    found, graph = layer.once(pairs), layer.graph
    blocks = [layer] if graph.groups == 1 else [Layer(graph.block(group)) for group in range(graph.groups)]
    others = sum(meeting(block, found.side) for block in blocks if block.graph.edges)
    return 1 + (2 * graph.edges + int(found.meeting.sum()) + others) / active(layer)


def meeting(block: Layer, counted: str) -> int:
    """Pairs of vertices that share a neighbour, on the side that was not counted, each from both ends."""
    edges, graph = block.once(lists), block.graph
    if counted == "right":
        starts, index, _ = edges.columns
        bits, full = graph.bits, block.n_left_active
    else:
        starts, index = edges.row_starts, edges.left
        bits, full = transpose_bits(graph.bits, graph.block_left), block.n_right_active
    return int(topology.two_hop_counts(bits, starts, index, full).sum()) - full


def stars(layer: Layer) -> int:
    """Vertices with three of their neighbours."""
    layer.require_edges()
    return choose(layer.graph.left_degree, 3) + choose(layer.graph.right_degree, 3)


def paths(layer: Layer) -> int:
    """Induced paths of three edges."""
    edges = layer.once(lists)
    all_paths = int((edges.left_degree[edges.left] - 1) @ (edges.right_degree[edges.right] - 1))
    return all_paths - 4 * butterflies(layer)


SECOND = "networkx"
MGE = "Cunegatti et al., TMLR 2024; canonical, exact"

LOCAL = (
    Metric(
        "butterflies",
        butterflies,
        "sum over pairs of outputs of C(common inputs, 2)",
        "integer >= 0",
        NO_EDGES,
        group="local",
        cost="gram",
        predicts="short cycles raise sigma_2; follows density closely",
        oracle="sum of sigma^4; complete graphs, planes, golden mask",
    ),
    Metric(
        "butterfly_ratio",
        butterfly_ratio,
        "butterflies / (4 (sum C(d_l, 2) sum C(d_r, 2) / E^2)^2)",
        "[0, inf)",
        "no edges, or degrees 1 on a side",
        group="local",
        cost="gram",
        predicts="more (> 1) or fewer short cycles than the degrees alone give",
        oracle="near 1 for random masks; 0 for planes",
    ),
    Metric(
        "girth",
        girth,
        "shortest cycle",
        "even integer >= 4",
        "no cycle",
        group="local",
        cost="walks",
        predicts="4 for almost every mask; longer only in designs and very sparse layers",
        oracle=SECOND,
    ),
    Metric(
        "bridges",
        lambda layer: layer.once(cuts)[0],
        "edges whose removal disconnects their component",
        "integer >= 0",
        NO_EDGES,
        MGE,
        group="local",
        cost="walks",
        predicts="fragile connections, nearly all of them at vertices of degree 1",
        oracle=SECOND,
    ),
    Metric(
        "articulation_points",
        lambda layer: layer.once(cuts)[1],
        "vertices whose removal disconnects their component",
        "integer >= 0",
        NO_EDGES,
        MGE,
        group="local",
        cost="walks",
        predicts="fragile neurons",
        oracle=SECOND,
    ),
    Metric(
        "mean_core",
        mean_core,
        "mean core number of vertices with an edge",
        "[1, min side]",
        NO_EDGES,
        MGE,
        group="local",
        cost="walks",
        predicts="how dense the dense part is",
        oracle=SECOND,
    ),
    Metric(
        "one_hop",
        one_hop,
        "1 + 2E / (n_L+ + n_R+)",
        "[2, inf)",
        NO_EDGES,
        MGE,
        group="local",
        cost="counts",
        predicts="mean degree by another name",
        oracle=SECOND,
    ),
    Metric(
        "two_hop",
        two_hop,
        "mean number of vertices within two edges, itself included",
        "[2, inf)",
        NO_EDGES,
        MGE,
        group="local",
        cost="gram",
        predicts="how soon a neuron hears of all others; saturates already at low densities",
        oracle=SECOND,
    ),
    Metric(
        "four_stars",
        stars,
        "sum C(d, 3), both sides",
        "integer >= 0",
        NO_EDGES,
        MGE,
        group="local",
        cost="counts",
        predicts="third moment of the degrees",
        oracle="counted one by one",
    ),
    Metric(
        "four_paths",
        paths,
        "sum over edges (d_l - 1)(d_r - 1) - 4 butterflies",
        "integer >= 0",
        NO_EDGES,
        MGE,
        group="local",
        cost="gram",
        predicts="open against closed quadruples",
        oracle="counted one by one",
    ),
    Metric(
        "four_motifs",
        lambda layer: stars(layer) + paths(layer) + butterflies(layer),
        "connected sets of four vertices",
        "integer >= 0",
        NO_EDGES,
        MGE,
        group="local",
        cost="gram",
        predicts="what that code estimates from a random sample",
        oracle="counted one by one",
    ),
)
