"""The normalised spectrum and the Laplacian: mixing, conductance, and cuts that are really there."""

from __future__ import annotations

import math

import numpy as np

from sift_graph.adjacency import Adjacency
from sift_graph.metrics.expander import lists
from sift_graph.metrics.layer import Layer
from sift_graph.metrics.metric import Laws, Metric
from sift_graph.metrics.ramanujan import NO_EDGES
from sift_graph.metrics.structure import require
from sift_graph.spectrum.beyond import LaplacianEnds, laplacian_ends
from sift_graph.spectrum.vectors import leading_pairs

__all__ = ["MIXING", "best_prefix"]

SAMPLES = 64
SHARE = 0.5  # of the inputs that a sampled set may hold
CHEEGER = "Cheeger; Alon & Milman 1985"


def weak_bound(layer: Layer) -> float:
    """Chung's threshold for the normalised second singular value."""
    layer.require_edges()
    degree = np.concatenate([layer.graph.left_degree, layer.graph.right_degree]).astype(np.float64)
    degree = degree[degree > 0]
    return float(2 * (degree @ np.sqrt(degree - 1)) / (degree @ degree))


def is_weak_ramanujan(layer: Layer) -> str:
    """Whether the normalised second singular value is within Chung's threshold."""
    limit, found = weak_bound(layer), layer.normalised
    if found.sigma_2_hi <= limit:
        return "yes"
    return "no" if found.sigma_2_lo > limit else "undecided"


def laplacian(layer: Layer) -> LaplacianEnds:
    """Both ends of the Laplacian's spectrum."""
    return laplacian_ends(layer.once(lists))


def normalised_gap(layer: Layer) -> float:
    """One minus the normalised second singular value."""
    return 1 - layer.normalised.sigma_2


def sweep(layer: Layer) -> float:
    """Best conductance of a prefix in the order of the second eigenvector of the normalised Laplacian."""
    edges = layer.once(lists)
    require(layer.graph.components[0] == 1, "disconnected")
    of_right, of_left = edges.right_degree, edges.left_degree
    scale_right, scale_left = (1 / np.sqrt(np.maximum(d, 1)) for d in (of_right, of_left))
    if min(np.count_nonzero(of_right), np.count_nonzero(of_left)) == 1:
        return best_prefix(edges, np.zeros(edges.n_right), np.where(of_left > 0, np.arange(edges.n_left), 0.0))
    pairs = leading_pairs(edges, 2, right_scale=scale_right, left_scale=scale_left, tol=1e-5)
    return best_prefix(edges, pairs.right[:, 1] * scale_right, pairs.left[:, 1] * scale_left)


def best_prefix(edges: Adjacency, of_right: np.ndarray, of_left: np.ndarray) -> float:
    """Smallest conductance of {v: x_v <= t} over all thresholds t.

    An edge is cut by the thresholds from the smaller to the larger value of its ends, so a running sum over the sorted
    vertices counts the cut edges of each prefix.

    Parameters
    ----------
    edges : Adjacency
    of_right, of_left : ndarray of float64
        x, on each side.

    Returns
    -------
    float
    """
    values = np.concatenate([of_left, of_right])
    degree = np.concatenate([edges.left_degree, edges.right_degree])
    order = np.argsort(np.where(degree > 0, values, np.inf), kind="stable")
    rank = np.empty(order.size, dtype=np.int64)
    rank[order] = np.arange(order.size)
    one, other = rank[edges.left], rank[edges.n_left + edges.right]
    low, high = np.minimum(one, other), np.maximum(one, other)
    change = np.bincount(low, minlength=order.size) - np.bincount(high, minlength=order.size)
    cut, volume = np.cumsum(change), np.cumsum(degree[order])
    smaller = np.minimum(volume, 2 * edges.edges - volume)
    inside = smaller > 0
    # vertices of one value belong together, else their numbering would decide
    last = np.append(np.diff(values[order]) > 1e-9 * (np.abs(values).max() or 1.0), False)
    inside &= last | (~last.any())
    return float((cut[inside] / smaller[inside]).min())


def generator(layer: Layer) -> np.random.Generator:
    """Return the same random numbers for each layer of these counts, so that a value can be computed again."""
    return np.random.default_rng([layer.graph.n_left, layer.graph.n_right, layer.graph.edges])


def mixing_discrepancy(layer: Layer) -> float:
    """Largest ratio, over sampled pairs of vertex sets, of the discrepancy to what the mixing lemma allows."""
    layer.require_edges()
    graph, rng = layer.graph, generator(layer)
    of_left, of_right, edges = graph.left_degree, graph.right_degree, graph.edges
    bits = graph.bits.reshape(graph.groups, -1, graph.bits.shape[1])
    limit = layer.normalised.sigma_2
    worst = 0.0
    for _ in range(SAMPLES):
        s, t = (rng.random(d.size) < rng.uniform(0.1, 0.9) for d in (of_left, of_right))
        volume_s, volume_t = of_left[s].sum() / edges, of_right[t].sum() / edges
        words = np.zeros((graph.groups, 1, bits.shape[2] * 8), dtype=np.uint8)
        packed = np.packbits(s.reshape(graph.groups, -1), axis=1, bitorder="little")
        words[:, 0, : packed.shape[1]] = packed
        met = np.bitwise_count(bits & words.view(np.uint64)).sum(axis=2, dtype=np.int64).reshape(-1)
        between = int(met[t].sum()) / edges
        allowed = math.sqrt(volume_s * volume_t * (1 - volume_s) * (1 - volume_t))
        if allowed > 1e-9:
            worst = max(worst, abs(between - volume_s * volume_t) / allowed)
    if limit < 1e-6:  # complete: nothing is allowed, and nothing is found but rounding
        require(worst < 1e-6, "not_converged")
        return 0.0
    return worst / limit


def vertex_expansion(layer: Layer) -> float:
    """Smallest ratio of neighbours to vertices over sampled sets of inputs: an upper bound of the expansion."""
    layer.require_edges()
    edges, rng = layer.once(lists), generator(layer)
    starts, index, _ = edges.columns
    active = np.flatnonzero(edges.left_degree)
    largest = max(1, int(SHARE * active.size))
    worst = math.inf
    light = active[np.argsort(edges.left_degree[active], kind="stable")]
    for sample in range(SAMPLES):
        size = max(1, round(largest ** rng.random()))
        chosen = light[:size] if sample % 2 == 0 else rng.choice(active, size, replace=False)
        seen = np.zeros(edges.n_right, dtype=bool)
        for vertex in chosen:
            seen[index[starts[vertex] : starts[vertex + 1]]] = True
            if seen.all():
                break
        worst = min(worst, np.count_nonzero(seen) / size)
    return worst


MIXING = (
    Metric(
        "normalised_gap",
        normalised_gap,
        "lambda_2 = 1 - sigma_2(N)",
        "[0, 1]",
        NO_EDGES,
        group="mixing",
        cost="normalised",
        predicts="mixing of the random walk; 0 exactly when disconnected; robust to hubs",
        oracle="golden mask, hypercubes, cycles",
    ),
    Metric(
        "weak_bound",
        weak_bound,
        "sigma_C = 2 sum d sqrt(d - 1) / sum d^2, both sides",
        "[0, 1]",
        NO_EDGES,
        "Chung 2016",
        group="mixing",
        cost="counts",
        predicts="threshold for irregular graphs; loose with hubs",
        oracle="golden mask",
    ),
    Metric(
        "weak_ramanujan_gap",
        lambda layer: weak_bound(layer) - layer.normalised.sigma_2,
        "sigma_C - sigma_2(N)",
        "[-1, 1]",
        NO_EDGES,
        "Chung 2016",
        group="mixing",
        cost="normalised",
        predicts="as ramanujan_gap, for the normalised matrix",
        oracle="golden mask",
    ),
    Metric(
        "is_weak_ramanujan",
        is_weak_ramanujan,
        "sigma_2(N) <= sigma_C",
        "yes, no, undecided",
        NO_EDGES,
        "Chung 2016",
        missing=None,
        group="mixing",
        cost="normalised",
        predicts="as is_ramanujan, for the normalised matrix",
        oracle="golden mask",
    ),
    Metric(
        "cheeger_lower",
        lambda layer: normalised_gap(layer) / 2,
        "lambda_2 / 2",
        "[0, 1/2]",
        NO_EDGES,
        CHEEGER,
        group="mixing",
        cost="normalised",
        predicts="no cut has a smaller conductance",
        oracle="tight on hypercubes",
    ),
    Metric(
        "cheeger_upper",
        lambda layer: math.sqrt(2 * max(normalised_gap(layer), 0.0)),
        "sqrt(2 lambda_2)",
        "[0, sqrt 2]",
        NO_EDGES,
        CHEEGER,
        group="mixing",
        cost="normalised",
        predicts="some cut has at most this conductance",
        oracle="above the sweep cut",
        laws=Laws(accuracy=3e-4),  # a root of what is 0 within rounding
    ),
    Metric(
        "sweep_conductance",
        sweep,
        "best prefix cut in the order of the second eigenvector",
        "[cheeger_lower, cheeger_upper]",
        "no edges, or disconnected",
        CHEEGER,
        group="mixing",
        cost="vectors",
        predicts="a bottleneck that is really there; another eigenvector of the same value may show a better one",
        oracle="cycles; between the Cheeger bounds",
        laws=Laws(relabelled=False, padded=False, transposed=None),  # a repeated eigenvalue has no one eigenvector
    ),
    Metric(
        "mixing_discrepancy",
        mixing_discrepancy,
        "max over 64 sampled (S, T) of |e(S,T) - vol S vol T / E| over the mixing lemma's bound",
        "[0, 1]",
        NO_EDGES,
        "expander mixing lemma, with volumes",
        group="mixing",
        cost="samples",
        predicts="near 0: pseudo-random; 1 would be as uneven as sigma_2(N) allows",
        oracle="at most 1 on every graph",
        laws=Laws(relabelled=False, padded=False, transposed=None),
    ),
    Metric(
        "vertex_expansion",
        vertex_expansion,
        "min over sampled S, up to half of the inputs, of |N(S)| / |S|",
        "(0, inf)",
        NO_EDGES,
        "expanders; Stewart et al. 2023",
        group="mixing",
        cost="samples",
        predicts="an upper bound of the expansion of small input sets; the exact value is NP-hard",
        oracle="complete graphs, matchings",
        laws=Laws(relabelled=False, padded=False, transposed=None),
    ),
    Metric(
        "algebraic_connectivity",
        lambda layer: layer.once(laplacian).second,
        "second smallest eigenvalue of D - A",
        "[0, min degree]",
        NO_EDGES,
        "Fiedler 1973",
        group="mixing",
        cost="laplacian",
        predicts="robustness to the removal of edges; 0 exactly when disconnected",
        oracle="dense Laplacian, closed forms",
        laws=Laws(accuracy=1e-6),
    ),
    Metric(
        "laplacian_radius",
        lambda layer: layer.once(laplacian).largest,
        "largest eigenvalue of D - A",
        "[2, n_L+ + n_R+]",
        NO_EDGES,
        group="mixing",
        cost="laplacian",
        predicts="the strongest hub",
        oracle="dense Laplacian, closed forms",
        laws=Laws(accuracy=1e-6),
    ),
)
