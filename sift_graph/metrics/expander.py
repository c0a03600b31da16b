"""The mask's singular values against other bounds than the core's, and the spectra that those rest on."""

from __future__ import annotations

import math

import numpy as np

from sift_graph.adjacency import Adjacency
from sift_graph.bounds import one_degree_bound, spectral_bound, trace_bound
from sift_graph.metrics.layer import Layer
from sift_graph.metrics.metric import Laws, Metric, Undefined
from sift_graph.metrics.ramanujan import NO_EDGES, bound
from sift_graph.metrics.structure import require
from sift_graph.spectrum.beyond import Backtracking, nonbacktracking, nonbacktracking_moduli
from sift_graph.spectrum.cover import cover_radius
from sift_graph.topology import core_numbers

__all__ = ["EXPANDER", "cores", "cover_bound", "lists"]

MODULI_SIDE = 400  # vertices up to which a real matrix without symmetry is decomposed within a second


def lists(layer: Layer) -> Adjacency:
    """Return lists of neighbours."""
    layer.require_edges()
    return Adjacency.of(layer.graph)


def sigma_1(layer: Layer) -> float:
    """Largest singular value."""
    return layer.binary.sigma_1


def sigma_2(layer: Layer) -> float:
    """Second largest singular value."""
    return layer.binary.sigma_2


def spectral_gap(layer: Layer) -> float:
    """First minus second singular value."""
    return sigma_1(layer) - sigma_2(layer)


def spectral_bound_gap(layer: Layer) -> float:
    """Difference of bound by spectrum."""
    return spectral_bound(max(sigma_1(layer), 1.0)) - sigma_2(layer)


def one_degree(layer: Layer) -> float:
    """Bound by the mean degree of both sides together."""
    layer.require_edges()
    return one_degree_bound(layer.graph.edges, layer.n_left_active + layer.n_right_active)


def lower_edge(layer: Layer) -> float:
    """Lower end of the biregular tree's spectrum."""
    layer.require_edges()
    left, right = layer.graph.mean_left_degree, layer.graph.mean_right_degree
    return abs(math.sqrt(left - 1) - math.sqrt(right - 1))


def welch(layer: Layer) -> float:
    """Trace bound: the smallest sigma_2 that these edges and this sigma_1 allow."""
    layer.require_edges()
    small = min(layer.n_left_active, layer.n_right_active)
    require(small >= 2, "one_sided")
    return trace_bound(layer.graph.edges, sigma_1(layer), small)


def attained_fraction(layer: Layer) -> float:
    """Gap over the largest possible gap."""
    best = bound(layer) - welch(layer)
    require(best > 1e-9 * max(layer.bound, 1.0), "bound_at_trace_bound")
    return (layer.bound - sigma_2(layer)) / best


def verdict(layer: Layer, limit: float, error: float) -> str:
    """Whether sigma_2 is within a limit that is itself known up to an error."""
    if layer.binary.sigma_2_hi <= limit - error:
        return "yes"
    return "no" if layer.binary.sigma_2_lo > limit + error else "undecided"


def cover(layer: Layer) -> float:
    """Spectral radius of the universal cover."""
    return cover_radius(layer.once(lists))


def cover_bound(layer: Layer) -> float:
    """Return the same, computed once."""
    return layer.once(cover)


def two_core(layer: Layer) -> Adjacency:
    """Return what is left when leaves are pruned until there is none."""
    edges = layer.once(lists)
    core = layer.once(cores)
    kept = edges.keep((core[edges.left] >= 2) & (core[edges.n_left + edges.right] >= 2))
    if kept.edges == 0:
        raise Undefined("no_cycle")
    if max(kept.left_degree.max(), kept.right_degree.max()) == 2:
        raise Undefined("only_cycles")
    return kept


def cores(layer: Layer) -> np.ndarray:
    """Core number of each vertex."""
    return core_numbers(layer.once(lists))


def real_eigenvalues(layer: Layer) -> Backtracking:
    """Two largest positive eigenvalues of the non-backtracking operator."""
    return nonbacktracking(layer.once(two_core))


def moduli(layer: Layer) -> np.ndarray:
    """Moduli of all eigenvalues of the non-backtracking operator, of small layers."""
    core = layer.once(two_core)
    vertices = np.count_nonzero(core.left_degree) + np.count_nonzero(core.right_degree)
    require(bool(vertices <= MODULI_SIDE), "too_large")
    return nonbacktracking_moduli(core)


def nonbacktracking_gap(layer: Layer) -> float:
    """Root of the largest modulus minus the second."""
    found = layer.once(moduli)
    return math.sqrt(float(found[0])) - float(found[1])


def nonbacktracking_real_gap(layer: Layer) -> float:
    """Root of the largest eigenvalue minus the next real one beyond it; 0 where there is none."""
    found = layer.once(real_eigenvalues)
    return math.sqrt(found.radius) - found.second


def rank(layer: Layer) -> int:
    """Return number of singular values that are not zero."""
    from sift_graph.spectrum.counts import rank_of

    layer.require_edges()
    return rank_of(layer.graph)


TREE = "Hoory 2005, Greenberg 1995; recursion of this project"
NB = "Stark & Terras 1996; Kotani & Sunada 2000"

EXPANDER = (
    Metric(
        "spectral_gap",
        spectral_gap,
        "sigma_1 - sigma_2",
        "[0, inf)",
        NO_EDGES,
        group="ramanujan",
        cost="top2",
        predicts="how fast signals mix; grows like the root of the width, so do not compare layers raw",
        oracle="closed forms",
    ),
    Metric(
        "relative_spectral_gap",
        lambda layer: 1 - sigma_2(layer) / sigma_1(layer),
        "1 - sigma_2 / sigma_1",
        "[0, 1]",
        NO_EDGES,
        group="ramanujan",
        cost="top2",
        predicts="the same without scale; 1 exactly for complete bipartite graphs",
        oracle="closed forms",
    ),
    Metric(
        "spectral_bound",
        lambda layer: spectral_bound(max(sigma_1(layer), 1.0)),
        "2 sqrt(sigma_1 - 1)",
        "[0, inf)",
        NO_EDGES,
        "Pal et al., ICML 2022",
        group="ramanujan",
        cost="top2",
        predicts="sigma_1 as effective degree: larger than B on irregular graphs, not comparable with it",
        oracle="golden mask",
    ),
    Metric(
        "spectral_bound_gap",
        spectral_bound_gap,
        "2 sqrt(sigma_1 - 1) - sigma_2",
        "(-inf, inf)",
        NO_EDGES,
        "Hoang et al., ICLR 2023 (Delta_s)",
        group="ramanujan",
        cost="top2",
        predicts="as ramanujan_gap, by another bound",
        oracle="golden mask",
    ),
    Metric(
        "one_degree_bound",
        one_degree,
        "2 sqrt(d - 1), d = 2E / (n_L+ + n_R+)",
        "[0, inf)",
        NO_EDGES,
        "Hoory 2005",
        group="ramanujan",
        cost="counts",
        predicts="one mean degree for both sides: far below B on rectangular layers",
        oracle="golden mask",
    ),
    Metric(
        "one_degree_gap",
        lambda layer: one_degree(layer) - sigma_2(layer),
        "2 sqrt(d - 1) - sigma_2",
        "(-inf, inf)",
        NO_EDGES,
        "formula of Hoang et al., NeurIPS 2023, as quoted",
        group="ramanujan",
        cost="top2",
        predicts="as ramanujan_gap; a rectangular layer fails it for its shape alone",
        oracle="golden mask",
    ),
    Metric(
        "biregular_lower_edge",
        lower_edge,
        "|sqrt(d_L - 1) - sqrt(d_R - 1)|",
        "[0, inf)",
        NO_EDGES,
        "Feng & Li 1996; Godsil & Mohar 1988",
        group="ramanujan",
        cost="counts",
        predicts="where the spectrum of the biregular tree begins; below it lie few singular values of a random mask",
        oracle="formula",
    ),
    Metric(
        "trace_bound",
        welch,
        "sqrt((E - sigma_1^2) / (m - 1)), m the smaller side",
        "[0, sigma_2]",
        "no edges, or one vertex on a side",
        "Welch; sum of sigma^2 = E",
        group="ramanujan",
        cost="top2",
        predicts="the best sigma_2 that any mask of these counts has; attained by designs",
        oracle="PG(2,q), AG(2,q), golden mask",
        laws=Laws(accuracy=1e-6),  # a root of what may be 0 within rounding
    ),
    Metric(
        "attained_fraction",
        attained_fraction,
        "(B - sigma_2) / (B - trace bound)",
        "(-inf, 1]",
        "no edges, one vertex on a side, or B at the trace bound",
        "this project",
        group="ramanujan",
        cost="top2",
        predicts="1 for the best possible mask; says nothing about trainability",
        oracle="PG(2,q)",
    ),
    Metric(
        "cover_bound",
        cover_bound,
        "rho, the spectral radius of the universal cover",
        "[B, inf) for minimum degree 2",
        NO_EDGES,
        TREE,
        group="ramanujan",
        cost="cover",
        predicts="the threshold that a theorem gives for irregular graphs; far above B where there are hubs",
        oracle="biregular graphs, trees, golden mask, bisection of the recursion",
        laws=Laws(accuracy=1e-6),
    ),
    Metric(
        "cover_gap",
        lambda layer: cover_bound(layer) - sigma_2(layer),
        "rho - sigma_2",
        "(-inf, rho]",
        NO_EDGES,
        TREE,
        group="ramanujan",
        cost="cover",
        predicts="the right generalisation of the Ramanujan gap; weaker than B: what passes with B passes here",
        oracle="golden mask",
        laws=Laws(accuracy=1e-6),
    ),
    Metric(
        "is_ramanujan_cover",
        lambda layer: verdict(layer, cover_bound(layer), 1e-7 * cover_bound(layer)),
        "sigma_2 <= rho, by the error bound of sigma_2; rho within 1e-7",
        "yes, no, undecided",
        NO_EDGES,
        TREE,
        missing=None,
        group="ramanujan",
        cost="cover",
        predicts="Ramanujan in the sense of the theorem",
        oracle="implied by is_ramanujan where the minimum degree is 2",
    ),
    Metric(
        "nonbacktracking_radius",
        lambda layer: layer.once(real_eigenvalues).radius,
        "lambda_1 of the non-backtracking operator, leaves pruned",
        "[1, inf)",
        "no cycle, or nothing but cycles",
        NB,
        group="ramanujan",
        cost="backtracking",
        predicts="growth of walks that do not turn back",
        oracle="biregular graphs; dense operator over directed edges; golden mask",
        laws=Laws(accuracy=1e-6),
    ),
    Metric(
        "nonbacktracking_second",
        lambda layer: float(layer.once(moduli)[1]),
        "second largest modulus of its eigenvalues",
        "[1, lambda_1]",
        "as nonbacktracking_radius, or more than 400 vertices (too_large)",
        NB,
        group="ramanujan",
        cost="moduli",
        predicts="complex and trivial eigenvalues included: unbalanced layers with a zero singular value fail by it",
        oracle="dense operator; net(3,4); golden mask",
        laws=Laws(accuracy=1e-5),
    ),
    Metric(
        "nonbacktracking_gap",
        nonbacktracking_gap,
        "sqrt(lambda_1) - |lambda_2|",
        "(-inf, sqrt(lambda_1)]",
        "as nonbacktracking_second",
        NB,
        group="ramanujan",
        cost="moduli",
        predicts="the graph's Riemann hypothesis; stricter than cover_gap on irregular masks",
        oracle="golden mask",
        laws=Laws(accuracy=1e-5),
    ),
    Metric(
        "nonbacktracking_real_gap",
        nonbacktracking_real_gap,
        "sqrt(lambda_1) - u, u the next real eigenvalue beyond sqrt(lambda_1); 0 without one",
        "(-inf, 0]",
        "as nonbacktracking_radius",
        NB,
        group="ramanujan",
        cost="backtracking",
        predicts="the eigenvalue that belongs to sigma_2, at any size; 0 on a biregular graph exactly if Ramanujan",
        oracle="biregular graphs; dense operator",
        laws=Laws(accuracy=1e-6),
    ),
    Metric(
        "stable_rank",
        lambda layer: layer.graph.edges / sigma_1(layer) ** 2,
        "E / sigma_1^2",
        "[1, m]",
        NO_EDGES,
        group="ramanujan",
        cost="top2",
        predicts="1 exactly for complete bipartite graphs",
        oracle="closed forms",
    ),
    Metric(
        "rank",
        rank,
        "number of sigma > 0",
        "integer, 1 to m",
        NO_EDGES,
        group="ramanujan",
        cost="rank",
        predicts="the structural limit of the layer's own rank is at least this for most weights",
        oracle="closed forms; numpy.linalg.matrix_rank",
    ),
)
