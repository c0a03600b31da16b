"""Spectra of the weights on the mask: A = |W| on M, unnormalised as in the NeurIPS 2023 code, and without scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from sift_graph import spectrum
from sift_graph.adjacency import Adjacency
from sift_graph.bounds import biregular_bound
from sift_graph.metrics.expander import lists
from sift_graph.metrics.layer import Layer
from sift_graph.metrics.metric import Laws, Metric
from sift_graph.metrics.structure import Side, require
from sift_graph.spectrum import RegularSubgraph, Spectrum
from sift_graph.spectrum.beyond import LaplacianEnds, laplacian_ends
from sift_graph.spectrum.cover import cover_radius
from sift_graph.spectrum.vectors import leading_pairs

__all__ = ["GRADIENT", "WEIGHTED", "WEIGHTED_MORE", "weighted_spectral_gap"]


def weighted_spectral_gap(layer: Layer) -> float:
    """First minus second singular value of the absolute weights."""
    return layer.weighted.sigma_1 - layer.weighted.sigma_2


def heavy_lists(layer: Layer) -> tuple[Adjacency, np.ndarray]:
    """Return lists of the edges whose weight is not 0, and their absolute weights, over the largest."""
    graph = layer.require_weights()
    edges = layer.once(lists)
    values = np.abs(graph.values) if graph.values is not None else np.ones(edges.edges)
    kept = values > 0
    if not kept.all():
        edges, values = edges.keep(kept), values[kept]
    return edges, values / values.max()


def largest_weight(layer: Layer) -> float:
    """Largest absolute weight: the unit of `heavy_lists`."""
    values = layer.require_weights().values
    return float(np.abs(values).max()) if values is not None else math.nan


def signed(layer: Layer) -> np.ndarray:
    """Two leading singular values of the weights with their signs."""
    graph = layer.require_weights()
    unit = largest_weight(layer)
    values = None if graph.values is None else graph.values / unit
    return leading_pairs(layer.once(lists), 2, values=values, tol=1e-6).sigma * unit


def weighted_laplacian(layer: Layer) -> LaplacianEnds:
    """Both ends of the spectrum of the weighted Laplacian, in units of the largest weight."""
    return laplacian_ends(*layer.once(heavy_lists))


def weighted_cover(layer: Layer) -> float:
    """Spectral radius of the weighted universal cover."""
    return cover_radius(*layer.once(heavy_lists)) * largest_weight(layer)


def laplacian_ratio(layer: Layer) -> float:
    """Largest over second smallest eigenvalue of the weighted Laplacian."""
    require(layer.once(heavy_lists)[0].components[0] == 1, "disconnected")
    ends = layer.once(weighted_laplacian)
    return ends.largest / ends.second


def sparsifier_bound(layer: Layer) -> float:
    """Smallest such ratio at this mean degree, where the girth is large."""
    layer.require_edges()
    return 1 + 4 / math.sqrt(2 * layer.graph.edges / (layer.n_left_active + layer.n_right_active))


def effective_degree(layer: Layer, side: Side) -> float:
    """Mean over vertices of (sum w)^2 / sum w^2."""
    edges, values = layer.once(heavy_lists)
    at, n = (edges.left, edges.n_left) if side == "left" else (edges.right, edges.n_right)
    total, squares = np.bincount(at, values, minlength=n), np.bincount(at, np.square(values), minlength=n)
    there = total > 0
    return float(np.mean(np.square(total[there]) / squares[there]))


def effective_bound(layer: Layer) -> float:
    """Biregular bound at the effective degrees."""
    return biregular_bound(
        max(layer.once(left_effective_degree), 1.0), max(layer.once(right_effective_degree), 1.0)
    )  # 1 - 1e-16 is 1


def left_effective_degree(layer: Layer) -> float:
    """Mean effective degree of the inputs."""
    return effective_degree(layer, "left")


def right_effective_degree(layer: Layer) -> float:
    """Mean effective degree of the outputs."""
    return effective_degree(layer, "right")


def mean_strength(layer: Layer) -> float:
    """Mean over vertices with an edge of the sum of their absolute weights."""
    graph = layer.require_weights()
    total = 0.0 if graph.values is None else float(np.abs(graph.values).sum())
    return 2 * total / (layer.n_left_active + layer.n_right_active)


def gradient_spectrum(layer: Layer) -> Spectrum:
    """Two leading singular values of the absolute gradients on the mask."""
    return spectrum.leading(layer.require_gradient(), kind="weighted")


def gradient_spectral_gap(layer: Layer) -> float:
    """First minus second of them."""
    found = layer.once(gradient_spectrum)
    return found.sigma_1 - found.sigma_2


def gradient_subgraphs(layer: Layer) -> list[RegularSubgraph]:
    """Left-regular subgraphs with the gradients as weights."""
    return spectrum.left_regular_subgraphs(layer.require_gradient(), weighted=True)


def gradient_imsg(layer: Layer) -> float:
    """Mean over them of the gap of the gradients."""
    found = layer.once(gradient_subgraphs)
    require(bool(found), "no_subgraph")
    return math.fsum(s.weighted_sigma_1 - s.weighted_sigma_2 for s in found) / len(found)


HOANG = "Hoang et al., NeurIPS 2023"
NO_WEIGHTS = "no edges, no weights recorded, a weight that is not finite, or all weights 0"
SCALES, SCALELESS = Laws(degree=1), Laws(degree=0)


def row(
    name: str, compute: Callable[[Layer], Any], formula: str, values: str, source: str, cost: str, **more: Any
) -> Metric:
    """Return a column of this family."""
    usual: dict[str, Any] = {"undefined": NO_WEIGHTS, "needs": "weight", "group": "weighted"}
    return Metric(name, compute, formula, values, source=source, cost=cost, **usual | more)


WEIGHTED = (
    row(
        "weighted_sigma_1",
        lambda layer: layer.weighted.sigma_1,
        "sigma_1(A)",
        "[0, inf)",
        HOANG,
        "weighted",
        core=True,
        laws=SCALES,
        predicts="gain of the layer for inputs of one sign; scales with the weights",
        oracle="diagonal and rank-one matrices, golden mask",
    ),
    row(
        "weighted_sigma_2",
        lambda layer: layer.weighted.sigma_2,
        "sigma_2(A)",
        "[0, sigma_1(A)]",
        HOANG,
        "weighted",
        core=True,
        laws=SCALES,
        predicts="the same for all other directions",
        oracle="diagonal and rank-one matrices, golden mask",
    ),
    row(
        "weighted_spectral_gap",
        weighted_spectral_gap,
        "lambda_w = sigma_1(A) - sigma_2(A)",
        "[0, inf)",
        HOANG,
        "weighted",
        core=True,
        laws=SCALES,
        predicts="claimed to follow the accuracy of dynamically sparse masks; scales with initialisation and width",
        oracle="golden mask",
    ),
)

WEIGHTED_MORE = (
    row(
        "weighted_relative_gap",
        lambda layer: weighted_spectral_gap(layer) / layer.weighted.sigma_1,
        "1 - sigma_2(A) / sigma_1(A)",
        "[0, 1]",
        "this project",
        "weighted",
        laws=SCALELESS,
        predicts="the same without the scale of the weights, which changes with the width at initialisation",
        oracle="golden mask",
    ),
    row(
        "weighted_normalised_sigma_2",
        lambda layer: layer.weighted_normalised.sigma_2,
        "sigma_2(N_w)",
        "[0, 1]",
        "standard",
        "weighted_normalised",
        laws=SCALELESS,
        predicts="mixing of the walk that follows the weights",
        oracle="golden mask",
    ),
    row(
        "weighted_normalised_gap",
        lambda layer: 1 - layer.weighted_normalised.sigma_2,
        "1 - sigma_2(N_w)",
        "[0, 1]",
        "standard",
        "weighted_normalised",
        laws=SCALELESS,
        predicts="0 exactly when the weights that are not 0 disconnect the layer",
        oracle="golden mask",
    ),
    row(
        "signed_sigma_1",
        lambda layer: float(layer.once(signed)[0]),
        "sigma_1(W on M)",
        "[0, inf)",
        "spectral norm",
        "signed",
        laws=SCALES,
        predicts="the layer's real gain; at random initialisation the edge of the Marchenko-Pastur law",
        oracle="sign patterns s_o t_i, numpy",
    ),
    row(
        "signed_sigma_2",
        lambda layer: float(layer.once(signed)[1]),
        "sigma_2(W on M)",
        "[0, inf)",
        "standard",
        "signed",
        laws=SCALES,
        predicts="as signed_sigma_1",
        oracle="sign patterns s_o t_i, numpy",
    ),
    row(
        "signed_gap",
        lambda layer: float(layer.once(signed)[0] - layer.once(signed)[1]),
        "sigma_1(W on M) - sigma_2(W on M)",
        "[0, inf)",
        "standard",
        "signed",
        laws=SCALES,
        predicts="small at random initialisation, for there is no Perron outlier; what grows is learned",
        oracle="sign patterns s_o t_i, numpy",
    ),
    row(
        "weighted_laplacian_radius",
        lambda layer: layer.once(weighted_laplacian).largest * largest_weight(layer),
        "largest eigenvalue of diag(A) - adjacency",
        "[0, inf)",
        "Cunegatti et al., TMLR 2024, code",
        "weighted_laplacian",
        laws=Laws(degree=1, accuracy=1e-6),
        predicts="strength of the strongest hub",
        oracle="dense Laplacian",
    ),
    row(
        "weighted_algebraic_connectivity",
        lambda layer: layer.once(weighted_laplacian).second * largest_weight(layer),
        "second smallest eigenvalue of diag(A) - adjacency",
        "[0, inf)",
        "Fiedler 1973",
        "weighted_laplacian",
        laws=Laws(degree=1, accuracy=1e-6),
        predicts="weakest link; 0 exactly when the weights that are not 0 disconnect the layer",
        oracle="dense Laplacian",
    ),
    row(
        "laplacian_ratio",
        laplacian_ratio,
        "lambda_max / lambda_2 of diag(A) - adjacency",
        "[1, inf)",
        "Srivastava & Trevisan 2018",
        "weighted_laplacian",
        undefined=NO_WEIGHTS + ", or disconnected",
        laws=Laws(accuracy=1e-5),
        predicts="quality as a spectral sparsifier, against sparsifier_bound",
        oracle="dense Laplacian",
    ),
    row(
        "sparsifier_bound",
        sparsifier_bound,
        "1 + 4 / sqrt(d), d = 2E / (n_L+ + n_R+)",
        "[1, 5]",
        "Srivastava & Trevisan 2018",
        "counts",
        undefined="no edges",
        needs="mask",
        predicts="the smallest laplacian_ratio for large girth; a mask with short cycles may lie below",
        oracle="formula",
    ),
    row(
        "weighted_cover_bound",
        lambda layer: layer.once(weighted_cover),
        "rho_w, the spectral radius of the weighted universal cover",
        "[0, inf)",
        "Young 2022; recursion of this project",
        "weighted_cover",
        laws=Laws(degree=1, accuracy=1e-6),
        predicts="threshold for sigma_2(A), as cover_bound for sigma_2",
        oracle="biregular graphs of constant weight, bisection of the recursion, golden mask",
    ),
    row(
        "weighted_cover_gap",
        lambda layer: layer.once(weighted_cover) - layer.weighted.sigma_2,
        "rho_w - sigma_2(A)",
        "(-inf, rho_w]",
        "Young 2022",
        "weighted_cover",
        laws=Laws(degree=1, accuracy=1e-6),
        predicts="weighted Ramanujan where it is at least 0",
        oracle="golden mask",
    ),
    row(
        "left_effective_degree",
        left_effective_degree,
        "mean over inputs of (sum w)^2 / sum w^2",
        "[1, d_L]",
        "participation ratio",
        "edges",
        laws=Laws(transposed="right_effective_degree"),
        predicts="how many edges of an input really carry weight",
        oracle="constant weights give the degree",
    ),
    row(
        "right_effective_degree",
        right_effective_degree,
        "mean over outputs of (sum w)^2 / sum w^2",
        "[1, d_R]",
        "participation ratio",
        "edges",
        laws=Laws(transposed="left_effective_degree"),
        predicts="how many edges of an output really carry weight",
        oracle="constant weights give the degree",
    ),
    row(
        "effective_bound",
        effective_bound,
        "B at the effective degrees",
        "[0, B]",
        "this project",
        "edges",
        laws=SCALELESS,
        predicts="what B is for edges that carry weight",
        oracle="constant weights give B",
    ),
    row(
        "effective_gap",
        lambda layer: effective_bound(layer) - layer.binary.sigma_2,
        "B at the effective degrees - sigma_2",
        "(-inf, B]",
        "this project",
        "top2",
        laws=SCALELESS,
        predicts="a weighted proxy of the Ramanujan gap; no theorem stands behind it",
        oracle="constant weights give the gap",
    ),
    row(
        "mean_strength",
        mean_strength,
        "2 sum A / (n_L+ + n_R+)",
        "[0, inf)",
        "Cunegatti et al., TMLR 2024; canonical",
        "edges",
        laws=SCALES,
        predicts="scale of the weights times mean degree",
        oracle="golden mask",
    ),
)

GRADIENT = (
    row(
        "gradient_spectral_gap",
        gradient_spectral_gap,
        "lambda_g = sigma_1 - sigma_2 of |grad W| on M",
        "[0, inf)",
        HOANG + ", code",
        "gradient",
        needs="gradient",
        undefined="no edges, or no finite gradients",
        laws=Laws(degree=None),
        predicts="where the loss would change weights; for one batch, so noisy",
        oracle="weighted_spectral_gap of the same numbers",
    ),
    row(
        "gradient_imsg",
        gradient_imsg,
        "mean over d of sigma_1 - sigma_2 of |grad W| on K_d",
        "[0, inf)",
        HOANG + ", code",
        "gradient_subgraphs",
        needs="gradient",
        undefined="no edges, no finite gradients, or no subgraph",
        laws=Laws(degree=None, transposed=None),
        predicts="as gradient_spectral_gap",
        oracle="imsg of the same numbers",
    ),
)
