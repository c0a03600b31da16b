"""What a mask's second singular value is held against: bounds of the theory, and what a random mask would give.

Degrees are means over vertices that have an edge: for an irregular graph a convention of the field, not a theorem.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = [
    "RandomWeights",
    "biregular_bound",
    "one_degree_bound",
    "random_gap_norm",
    "random_sigma_1",
    "random_sigma_2",
    "random_weights",
    "sparse_wide_gap_norm",
    "spectral_bound",
    "trace_bound",
]


def biregular_bound(left_degree: float, right_degree: float) -> float:
    r"""Bound the second singular value of a biregular Ramanujan graph.

    The bound is :math:`B = \sqrt{d_L - 1} + \sqrt{d_R - 1}`, the edge of the spectrum of the biregular tree [1]_.

    Parameters
    ----------
    left_degree, right_degree : float
        Edges per vertex on each side. For an irregular graph pass the means over its non-isolated vertices, as the
        field does [2]_; by a theorem of Hoory the universal cover of a graph with minimum degree 2 then has at least
        this spectral radius.

    Returns
    -------
    float
        The bound, in units of ``sigma_2``; NaN if a degree is undefined or below 1.

    References
    ----------
    .. [1] K. Feng and W.-C. W. Li, J. Number Theory 60 (1996) 1-22.
    .. [2] D. Hoang, S. Liu, R. Marculescu, Z. Wang, "Revisiting pruning at initialization through the lens of
       Ramanujan graph", ICLR 2023.

    Examples
    --------
    >>> biregular_bound(3, 3)  # the Heawood graph; its sigma_2 is sqrt(2)
    2.8284271247461903
    """
    if not (left_degree >= 1 and right_degree >= 1):  # so written, NaN lands here too
        return math.nan
    return math.sqrt(left_degree - 1) + math.sqrt(right_degree - 1)


def spectral_bound(sigma_1: float) -> float:
    r"""Bound by the spectral radius as effective degree, :math:`2 \sqrt{\sigma_1 - 1}`.

    Parameters
    ----------
    sigma_1 : float

    Returns
    -------
    float
        NaN if `sigma_1` is below 1, which no graph with an edge has. Not comparable with :func:`biregular_bound`:
        larger on irregular graphs.

    References
    ----------
    .. [1] B. Pal et al., "A study on the Ramanujan graph property of winning lottery tickets", ICML 2022.

    Examples
    --------
    >>> spectral_bound(5.0)
    4.0
    """
    return 2 * math.sqrt(sigma_1 - 1) if sigma_1 >= 1 else math.nan


def one_degree_bound(edges: int, vertices: int) -> float:
    r"""Bound by the mean degree over both sides, :math:`2 \sqrt{d - 1}` with :math:`d = 2E / (n_L^+ + n_R^+)`.

    Parameters
    ----------
    edges, vertices : int
        Edges, and vertices with an edge on both sides together.

    Returns
    -------
    float
        NaN if there is no edge. Far below :func:`biregular_bound` on rectangular layers.

    References
    ----------
    .. [1] S. Hoory, "A lower bound on the spectral radius of the universal cover of a graph", J. Combin. Theory B 93
       (2005) 33-43.

    Examples
    --------
    >>> one_degree_bound(21, 14)
    2.8284271247461903
    """
    degree = 2 * edges / vertices if vertices else math.nan
    return 2 * math.sqrt(degree - 1) if degree >= 1 else math.nan


def trace_bound(edges: int, sigma_1: float, rank_side: int) -> float:
    r"""Smallest ``sigma_2`` that any mask with these edges and this ``sigma_1`` can have.

    From :math:`\sum_i \sigma_i^2 = E`: :math:`\sqrt{(E - \sigma_1^2) / (m - 1)}`, with equality exactly when all
    nontrivial singular values are equal (2-designs).

    Parameters
    ----------
    edges : int
    sigma_1 : float
    rank_side : int
        Vertices with an edge on the smaller side, m.

    Returns
    -------
    float
        NaN if the smaller side has fewer than two vertices with an edge.

    Examples
    --------
    >>> round(trace_bound(21, 3.0, 7), 12) == round(math.sqrt(2), 12)  # the Heawood graph attains it
    True
    """
    if rank_side < 2:
        return math.nan
    return math.sqrt(max(edges - sigma_1**2, 0.0) / (rank_side - 1))


def random_sigma_2(density: float, n_left: int, n_right: int) -> float:
    r"""Second singular value expected of a uniformly random mask, :math:`\sqrt{p(1-p)}(\sqrt{n_L} + \sqrt{n_R})`.

    Parameters
    ----------
    density : float
        p, in [0, 1].
    n_left, n_right : int

    Returns
    -------
    float
        The Marchenko-Pastur edge; too small where ``p * n`` is of order 1 on a side.

    Examples
    --------
    >>> round(random_sigma_2(0.1, 1152, 128), 2)
    13.58
    """
    return math.sqrt(density * (1 - density)) * (math.sqrt(n_left) + math.sqrt(n_right))


def random_sigma_1(density: float, n_left: int, n_right: int) -> float:
    r"""Largest singular value expected of a uniformly random mask.

    :math:`\sqrt{(t^2 + v n_L)(t^2 + v n_R)} / t` with :math:`t = p \sqrt{n_L n_R}` and :math:`v = p(1-p)`.

    Parameters
    ----------
    density : float
        p, in [0, 1].
    n_left, n_right : int

    Returns
    -------
    float
        NaN if the density is 0.

    Examples
    --------
    >>> random_sigma_1(1.0, 9, 4)
    6.0
    """
    if not density > 0:
        return math.nan
    t = density * math.sqrt(n_left * n_right)
    v = density * (1 - density)
    return math.sqrt((t * t + v * n_left) * (t * t + v * n_right)) / t


def random_gap_norm(density: float) -> float:
    r"""Normalised Ramanujan gap expected of a random mask, :math:`1 - \sqrt{1 - p}`: a function of density alone.

    This is why Ramanujan metrics rank masks about as well as density does, and no better. Subtract it:
    the rest is structure.

    Parameters
    ----------
    density : float
        p, in [0, 1].

    Returns
    -------
    float
        In [0, 1]; NaN if the density is NaN.

    References
    ----------
    .. [1] From the Marchenko-Pastur edge over :func:`biregular_bound` with mean degrees ``p n``; compared with the
       conclusion of E. Cunegatti et al., TMLR 2024, that Ramanujan metrics follow layer-wise density.

    Examples
    --------
    >>> random_gap_norm(0.75)
    0.5
    """
    return 1 - math.sqrt(1 - density) if 0 <= density <= 1 else math.nan


def sparse_wide_gap_norm(sparsity: float) -> float:
    r"""Normalised Ramanujan gap expected of a random Sparse Wide layer, :math:`1 - \sqrt{s}`.

    Its density is ``1 - s``, so this is :func:`random_gap_norm` by the name of the sparsity: the gap falls as the
    layers grow wider and sparser, whatever the accuracy does.

    Parameters
    ----------
    sparsity : float
        s, in [0, 1].

    Returns
    -------
    float

    Examples
    --------
    >>> round(sparse_wide_gap_norm(0.9), 4)
    0.0513
    """
    return random_gap_norm(1 - sparsity)


@dataclass(frozen=True)
class RandomWeights:
    """Expected singular values of absolute Gaussian weights on a random mask.

    Attributes
    ----------
    sigma_1, sigma_2 : float
        The outlier that the mean weight makes, and the edge of the bulk.
    separation : float
        The mean's strength over what it takes to leave the bulk; only above 1 is `sigma_1` an outlier.
    """

    sigma_1: float
    sigma_2: float
    separation: float


def random_weights(density: float, n_left: int, n_right: int, scale: float) -> RandomWeights:
    r"""Singular values expected of ``|g| scale`` on a uniformly random mask, g standard normal.

    The entries have mean :math:`\mu = p s \sqrt{2/\pi}` and variance :math:`v = p s^2 (1 - 2p/\pi)`.

    Parameters
    ----------
    density : float
        p, in (0, 1].
    n_left, n_right : int
    scale : float
        s, the root mean square of the weights that are kept.

    Returns
    -------
    RandomWeights

    References
    ----------
    .. [1] J. Baik, G. Ben Arous, S. Peche, Ann. Probab. 33 (2005) 1643-1697 (where an outlier separates).

    Examples
    --------
    >>> found = random_weights(0.1, 1152, 128, (2 / 1152) ** 0.5)
    >>> round(found.sigma_1 - found.sigma_2, 2)
    0.78
    """
    t = density * scale * math.sqrt(2 / math.pi) * math.sqrt(n_left * n_right)
    v = density * scale**2 * (1 - 2 * density / math.pi)
    sigma_1 = math.sqrt((t * t + v * n_left) * (t * t + v * n_right)) / t
    sigma_2 = math.sqrt(v) * (math.sqrt(n_left) + math.sqrt(n_right))
    return RandomWeights(sigma_1, sigma_2, t / (math.sqrt(v) * (n_left * n_right) ** 0.25))
