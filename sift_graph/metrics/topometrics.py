"""Topometrics of the whole network as one graph of channels, all exact and without a random number.

Those that begin with ``mge_`` are what the code of TMLR 2024 computes, its faults included.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from sift_graph.metrics.metric import Metric, Undefined
from sift_graph.metrics.multipartite import Multipartite, multipartite
from sift_graph.metrics.network import LAWS

__all__ = ["TOPOMETRICS"]

MAX_VERTICES = 1 << 16  # for neighbourhoods, whose bits are packed: half a gigabyte


def neighbourhood(graph: Multipartite, steps: int) -> float:
    """Mean number of vertices within so many steps along the edges, the vertex itself included."""
    if steps == 1:
        return 1 + graph.edges / graph.size
    if graph.size > MAX_VERTICES:
        raise Undefined("too_large")
    from sift_graph.walks import count_within_two

    indptr, indices = graph.adjacency.indptr.astype(np.int64), graph.adjacency.indices.astype(np.int64)
    return float(count_within_two(indptr, indices)) / graph.size


def trees_of_four(graph: Multipartite) -> int:
    """Count the trees on four vertices: claws and paths, without directions."""
    degree = np.diff(graph.lists[0])
    claws = sum(int(d) * (int(d) - 1) * (int(d) - 2) // 6 for d in degree if d > 2)
    ones = graph.both.copy()
    ones.data = np.ones_like(ones.data)
    row = np.repeat(np.arange(graph.size), degree)
    walks = int(((degree[row] - 1) * (degree[ones.indices] - 1)).sum()) // 2
    return claws + walks - 3 * triangles(graph)


def triangles(graph: Multipartite) -> int:
    """Count the triangles without directions: only a skip connection closes one."""
    if graph.size > MAX_VERTICES:
        raise Undefined("too_large")
    from sift_graph.walks import count_triangles

    return int(count_triangles(graph.adjacency.indptr.astype(np.int64), graph.adjacency.indices.astype(np.int64)))


def motifs_of_four(graph: Multipartite) -> int:
    """Count the connected sets of four vertices, without directions."""
    if graph.size > MAX_VERTICES:
        raise Undefined("too_large")
    from sift_graph.walks import count_quadruples

    # A set holds one tree if it is one, 4 if a cycle, 3 if a triangle with a tail, 8 if an edge short of complete, 16
    # if complete; a cycle is also in each of the last two, and so on: the trees less what makes each set count once.
    cycles, tails, pairs, complete = (int(count) for count in count_quadruples(*graph.lists))
    return trees_of_four(graph) - 3 * cycles - 2 * tails + 4 * pairs - 6 * complete


def core(graph: Multipartite) -> float:
    """Mean coreness: the largest k such that the vertex is in a subgraph of least degree k."""
    from sift_graph.topology import core_numbers

    return float(core_numbers(graph).mean())


def components(graph: Multipartite) -> int:
    """Count connected components without directions, isolated vertices included."""
    from scipy.sparse.csgraph import connected_components

    return int(connected_components(graph.adjacency, directed=False)[0])


def largest_component_share(graph: Multipartite) -> float:
    """Vertices of the largest component over all vertices."""
    from scipy.sparse.csgraph import connected_components

    labels = connected_components(graph.adjacency, directed=False)[1]
    return float(np.bincount(labels).max()) / graph.size


def is_bipartite(graph: Multipartite) -> str:
    """Whether the graph has no odd cycle."""
    from sift_graph.walks import has_odd_cycle

    return "no" if has_odd_cycle(*graph.lists) else "yes"


def largest_values(matrix: Any, count: int) -> np.ndarray:
    """Largest eigenvalues of a symmetric sparse matrix by value, descending."""
    from sift_graph.spectrum.largest import largest_eigenvalues

    return largest_eigenvalues(matrix, count)


def spectral_gap(graph: Multipartite) -> float:
    """Two largest eigenvalues, by value, of the weighted adjacency without directions: their difference."""
    graph.require_weights()
    values = largest_values(graph.symmetric(), 2)
    return float(values[0] - values[1])


def laplacian(matrix: Any) -> Any:
    """Combinatorial Laplacian of a symmetric matrix."""
    from scipy.sparse import diags_array

    return (diags_array(matrix.sum(axis=1)) - matrix).tocsr()


def spectral_radius(graph: Multipartite) -> float:
    """Largest eigenvalue of the weighted combinatorial Laplacian."""
    graph.require_weights()
    return float(largest_values(laplacian(graph.symmetric()), 1)[0])


def strength(graph: Multipartite) -> float:
    """Mean over vertices of the weights of all edges at it."""
    graph.require_weights()
    return float(graph.symmetric().sum()) / graph.size


def mge_removable(graph: Multipartite, ends: np.ndarray, degree: np.ndarray, shift: int) -> int:
    """Edges at dead ends as the code of TMLR 2024 adds them up: the vertex beside the border is passed over."""
    index = np.flatnonzero(ends)
    inside = index > graph.first if shift > 0 else index < graph.size - graph.last - 1
    return int(degree[index[inside]].sum())


def mge_spectral_gap(graph: Multipartite) -> float:
    """Largest minus third largest absolute eigenvalue, of weights rounded to float16."""
    graph.require_weights()
    matrix = graph.symmetric(half=True)
    top, bottom = largest_values(matrix, 3), -largest_values(-matrix, 3)
    values = np.sort(np.abs(np.concatenate([top[top >= 0], bottom[bottom < 0]])))[::-1]
    if len(values) < 3:
        raise Undefined("too_small")
    return float(values[0] - values[2])


def mge_spectral_radius(graph: Multipartite) -> float:
    """Largest Laplacian eigenvalue, of weights rounded to float16."""
    graph.require_weights()
    return float(largest_values(laplacian(graph.symmetric(half=True)), 1)[0])


CUNEGATTI = "Cunegatti et al., TMLR 2024"
TOO_LARGE = f", or more than {MAX_VERTICES} vertices (too_large)"


def topometric(
    name: str,
    compute: Callable[[Multipartite], object],
    formula: str,
    values: str,
    *,
    predicts: str,
    needs: str = "mask",
    group: str = "network",
    unless: str = "",
) -> Metric:
    """Describe a metric of this file."""
    return Metric(
        name,
        lambda network: compute(multipartite(network)),
        formula,
        values,
        "no recorded layer has a place" + (", or no weights" if needs == "weight" else "") + unless,
        CUNEGATTI,
        "weight" if needs == "weight" else "mask",
        missing=None if name == "network_is_bipartite" else math.nan,
        group=group,
        scope="network",
        laws=LAWS,
        predicts=predicts,
        oracle="networkx, and dense eigenvalues, on small networks",
    )


TOPOMETRICS = (
    topometric(
        "network_nodes",
        lambda g: g.size,
        "vertices of the channel graph",
        "integer >= 1",
        predicts="size of the graph, for the ratios of the others",
    ),
    topometric(
        "network_edges",
        lambda g: g.edges,
        "edges of the channel graph",
        "integer >= 0",
        predicts="connections between channels, whatever the kernel position",
    ),
    topometric(
        "network_sinks",
        lambda g: int(g.sinks.sum()),
        "in but no out, outputs excluded",
        "integer >= 0",
        predicts="neurons whose output nobody reads, in one round; dead_neurons goes on to the end",
    ),
    topometric(
        "network_sources",
        lambda g: int(g.sources.sum()),
        "out but no in, inputs excluded",
        "integer >= 0",
        predicts="neurons that read nothing, in one round; dead_neurons goes on to the end",
    ),
    topometric(
        "network_disconnected",
        lambda g: int(((g.in_degree == 0) & (g.out_degree == 0)).sum()),
        "vertices without an edge",
        "integer >= 0",
        predicts="channels that the masks have cut off on both sides",
    ),
    topometric(
        "network_removable_in",
        lambda g: int(g.out_degree[g.sources].sum()),
        "edges out of sources, in one round",
        "integer >= 0",
        predicts="connections that carry a constant",
    ),
    topometric(
        "network_removable_out",
        lambda g: int(g.in_degree[g.sinks].sum()),
        "edges into sinks, in one round",
        "integer >= 0",
        predicts="connections that nobody listens to",
    ),
    topometric(
        "network_hop_1",
        lambda g: neighbourhood(g, 1),
        "mean size of the out-neighbourhood, itself included",
        ">= 1",
        predicts="how far one layer spreads a channel: mostly the density",
    ),
    topometric(
        "network_hop_2",
        lambda g: neighbourhood(g, 2),
        "the same within two steps",
        ">= 1",
        predicts="how far two layers spread a channel: expansion",
        unless=TOO_LARGE,
    ),
    topometric(
        "network_trees_4",
        lambda g: float(trees_of_four(g)),
        "claws and paths on four vertices, in whatever set of four they lie",
        ">= 0",
        predicts="small subgraphs: mostly degrees, hubs above all",
        unless=TOO_LARGE,
    ),
    topometric(
        "network_motifs_4",
        lambda g: float(motifs_of_four(g)),
        "connected sets of four vertices; the code estimates them at random",
        ">= 0",
        predicts="network_trees_4 with each set counted once: fewer where short cycles are many",
        unless=TOO_LARGE,
    ),
    topometric(
        "network_core",
        core,
        "mean coreness, without directions",
        ">= 0",
        predicts="how deeply channels are embedded; falls with density",
    ),
    topometric(
        "network_cut_edges",
        lambda g: g.cuts[0],
        "bridges",
        "integer >= 0",
        predicts="connections whose loss cuts the network in two",
    ),
    topometric(
        "network_cut_nodes",
        lambda g: g.cuts[1],
        "articulation points",
        "integer >= 0",
        predicts="channels whose loss cuts the network in two",
    ),
    topometric(
        "network_components",
        components,
        "connected components",
        "integer >= 1",
        predicts="pieces into which the masks have cut the network",
    ),
    topometric(
        "network_largest_component",
        largest_component_share,
        "share of the vertices in it",
        "(0, 1]",
        predicts="how much of the network hangs together",
    ),
    topometric(
        "network_is_bipartite",
        is_bipartite,
        "no odd cycle; skip connections can close one",
        "yes, no",
        predicts="whether the spectrum is symmetric about 0",
    ),
    topometric(
        "network_strength",
        strength,
        "mean weighted degree",
        "[0, inf)",
        needs="weight",
        predicts="scale of the weights times the degree",
    ),
    topometric(
        "network_spectral_gap",
        spectral_gap,
        "lambda_1 - lambda_2 of the weighted adjacency without directions, by value",
        "[0, inf)",
        needs="weight",
        predicts="mixing of the whole network; scales with the weights",
    ),
    topometric(
        "network_spectral_radius",
        spectral_radius,
        "largest eigenvalue of the weighted Laplacian",
        "[0, inf)",
        needs="weight",
        predicts="strength of the strongest hub",
    ),
    topometric(
        "mge_sinks",
        lambda g: int(((g.out_degree == 0) & (g.in_degree > 0)).sum()) - g.last,
        "vertices with in and no out, minus the size of the last layer",
        "integer",
        group="mge",
        predicts="as published; not comparable with network_sinks",
    ),
    topometric(
        "mge_sources",
        lambda g: int(((g.in_degree == 0) & (g.out_degree > 0)).sum()) - g.first,
        "vertices with out and no in, minus the size of the input",
        "integer",
        group="mge",
        predicts="as published; not comparable with network_sources",
    ),
    topometric(
        "mge_removable_in",
        lambda g: mge_removable(g, (g.in_degree == 0) & (g.out_degree > 0), g.out_degree, 1),
        "edges at sources beyond the inputs; the first hidden vertex is passed over",
        "integer >= 0",
        group="mge",
        predicts="as published; one vertex too few",
    ),
    topometric(
        "mge_removable_out",
        lambda g: mge_removable(g, (g.out_degree == 0) & (g.in_degree > 0), g.in_degree, -1),
        "edges at sinks before the outputs; the last hidden vertex is passed over",
        "integer >= 0",
        group="mge",
        predicts="as published; one vertex too few",
    ),
    topometric(
        "mge_mean_components",
        lambda g: 1 / components(g),
        "1 / connected components",
        "(0, 1]",
        group="mge",
        predicts="as published: 1 if the network is one piece",
    ),
    topometric(
        "mge_network_gap",
        mge_spectral_gap,
        "first minus third absolute eigenvalue, weights in float16",
        "[0, inf)",
        needs="weight",
        group="mge",
        predicts="as published; no gap where the graph is bipartite: the second value is then minus the first",
        unless=", or fewer than three vertices (too_small)",
    ),
    topometric(
        "mge_network_radius",
        mge_spectral_radius,
        "largest Laplacian eigenvalue, weights in float16",
        "[0, inf)",
        needs="weight",
        group="mge",
        predicts="as published",
    ),
)
