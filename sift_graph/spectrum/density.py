r"""Density of singular values: estimated for layers too large to decompose, and the laws that random masks follow.

*Stochastic Lanczos quadrature.* For a random vector z of signs, :math:`E\, z^T f(G) z = \mathrm{tr} f(G)`. A Lanczos
run of k steps from :math:`z / \|z\|` gives the Gauss quadrature of that quadratic form: nodes :math:`\theta_j`, the
eigenvalues of :math:`T_k`, and weights :math:`\tau_j^2`, the squared first entries of its eigenvectors, exact for
polynomials f of degree 2k - 1. With f a Gaussian bump of width h around each point of a grid of
:math:`\sigma = \sqrt\lambda` this is the density of singular values seen with resolution h. Each probe is an unbiased
sample up to the quadrature, so the spread between probes gives the error band: two standard errors to each side.

The largest singular value of a mask stands far above the others and holds one of n parts of the mass. It is found by
any probe and may lie beyond the grid, which by default ends just above the second.

*Laws*, as densities of :math:`\sigma > 0`, normalised to the smaller side:

- Marchenko and Pastur: entries that are independent with variance v, n of them on the smaller side and m on the larger.
- Kesten and McKay, biregular (Godsil and Mohar): the tree that a random biregular mask looks like from each vertex.

References
----------
.. [1] G. H. Golub and G. Meurant, Matrices, Moments and Quadrature with Applications, Princeton (2010), chapter 11.
.. [2] L. Lin, Y. Saad and C. Yang, Approximating spectral densities of large matrices, SIAM Review 58 (2016).
.. [3] V. A. Marchenko and L. A. Pastur, Mat. Sb. 72 (1967).
.. [4] C. D. Godsil and B. Mohar, Walk generating functions and spectral measures of infinite graphs, Linear Algebra
   Appl. 107 (1988).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sift_graph.errors import SpectrumError, UsageError
from sift_graph.graph import BipartiteGraph
from sift_graph.spectrum.solve import WEIGHTED, Kind, check_options, singular_values
from sift_graph.spectrum.weights import checked_weights

__all__ = ["Density", "density_of_states", "kesten_mckay_density", "marchenko_pastur_density"]

EXACT_SIDE = 256  # a whole decomposition is quicker than the estimate


@dataclass(frozen=True, eq=False)
class Density:
    """Density of the singular values of one layer.

    Attributes
    ----------
    sigma : ndarray of float64, shape (points,)
        The grid.
    density : ndarray of float64, shape (points,)
        Share of the singular values of the smaller side per unit of sigma, smoothed; isolated vertices left out.
    lo, hi : ndarray of float64, shape (points,)
        Error band, two standard errors wide to each side; equal to `density` where it is exact.
    width : float
        Standard deviation of the Gaussian that smooths it.
    method : str
        ``dense``, or ``lanczos_quadrature``.
    """

    sigma: np.ndarray
    density: np.ndarray
    lo: np.ndarray
    hi: np.ndarray
    width: float
    method: str


def density_of_states(
    graph: BipartiteGraph,
    *,
    kind: Kind = "binary",
    sigma: np.ndarray | None = None,
    width: float | None = None,
    probes: int = 16,
    steps: int = 80,
    rng: np.random.Generator | None = None,
) -> Density:
    """Estimate the density of a layer's singular values.

    Parameters
    ----------
    graph : BipartiteGraph
    kind : {"binary", "weighted", "normalised", "weighted_normalised"}
        As in :func:`sift_graph.spectrum.leading`.
    sigma : ndarray of float64, optional
        Where to evaluate it; 200 points from 0 to just above the second singular value by default.
    width : float, optional
        Smoothing; by default what `steps` can resolve, three times the range of the grid over `steps`.
    probes : int
        Random vectors; the band shrinks with their root.
    steps : int
        Lanczos steps for each.
    rng : numpy.random.Generator, optional
        Seeded with 0 by default.

    Returns
    -------
    Density

    Raises
    ------
    MaskError
        If weights are asked for and there are none.
    SpectrumError
        If the layer has no edges, or a weight is not finite.
    UsageError
        If there are fewer than 2 probes or 4 steps.
    """
    check_options(1, kind, "off", 1e-6)
    if probes < 2 or steps < 4:
        raise UsageError(f"expected probes >= 2 and steps >= 4, found probes={probes} and steps={steps}")
    if graph.edges == 0:
        raise SpectrumError(f"layer {graph.layer!r} has no edges, so its singular values have no density")
    rng = np.random.default_rng(0) if rng is None else rng
    per_group = graph.n_right // graph.groups
    if min(graph.block_left, per_group) <= EXACT_SIDE:
        values = singular_values(graph, kind=kind)[: _active_side(graph)]
        grid = _grid(values) if sigma is None else sigma
        h = 3 * grid.max() / steps if width is None else width
        exact = _smooth(values, np.full(values.size, 1 / values.size), grid, h)
        return Density(grid, exact, exact, exact, h, "dense")
    samples = _quadratures(graph, kind, probes, steps, rng)
    if sigma is None:
        sigma = _grid(np.sort(np.concatenate([nodes for blocks in samples[:1] for nodes, _ in blocks]))[::-1])
    h = 3 * sigma.max() / steps if width is None else width
    curves = np.array([sum(_smooth(nodes, weights, sigma, h) for nodes, weights in sample) for sample in samples])
    mean, error = curves.mean(axis=0), curves.std(axis=0, ddof=1) / np.sqrt(probes)
    return Density(sigma, mean, np.maximum(mean - 2 * error, 0.0), mean + 2 * error, h, "lanczos_quadrature")


def _active_side(graph: BipartiteGraph) -> int:
    """Vertices with an edge on the smaller side, summed over blocks: singular values that isolation does not fix."""
    left = np.count_nonzero(graph.left_degree.reshape(graph.groups, -1), axis=1)
    right = np.count_nonzero(graph.right_degree.reshape(graph.groups, -1), axis=1)
    return int(np.minimum(left, right).sum())


def _grid(descending: np.ndarray) -> np.ndarray:
    """200 points up to just above the second value; above the first where there is no other."""
    top = descending[1] if descending.size > 1 and descending[1] > 1e-6 * descending[0] else descending[0]
    return np.linspace(0.0, 1.08 * top, 200)


def _smooth(nodes: np.ndarray, weights: np.ndarray, grid: np.ndarray, width: float) -> np.ndarray:
    """Gaussian bumps at the nodes, reflected at zero so that no mass leaks below it."""
    total = np.zeros(grid.size)
    for center in (nodes, -nodes):
        total += np.exp(-0.5 * ((grid[:, None] - center) / width) ** 2) @ weights
    density: np.ndarray = total / (width * np.sqrt(2 * np.pi))
    return density


def _quadratures(
    graph: BipartiteGraph, kind: Kind, probes: int, steps: int, rng: np.random.Generator
) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Nodes and weights of each probe, for each block."""
    from sift_graph.spectrum.blocks import whole_operators
    from sift_graph.spectrum.lanczos import extend

    weights = checked_weights(graph) if kind in WEIGHTED else None
    operators = whole_operators(graph, weights, normalised=kind.endswith("normalised"))
    total = sum(operator.n for operator in operators)
    samples: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(probes)]
    for operator in operators:
        n, limit = operator.n, min(steps, operator.n)
        basis, w = np.empty((limit, n)), np.empty(n)
        for sample in samples:
            alpha, beta = np.zeros(limit), np.zeros(limit)
            basis[0] = rng.choice((-1.0, 1.0), n) / np.sqrt(n)
            for k in range(limit):
                operator.apply(basis[k], w)
                if extend(basis, alpha, beta, k, n, w):
                    break
            used = k + 1
            tridiagonal = np.diag(alpha[:used]) + np.diag(beta[: used - 1], 1) + np.diag(beta[: used - 1], -1)
            theta, vectors = np.linalg.eigh(tridiagonal)
            sample.append((np.sqrt(np.maximum(theta, 0.0)), vectors[0] ** 2 * (n / total)))
    return samples


def marchenko_pastur_density(sigma: np.ndarray, n_left: int, n_right: int, variance: float) -> np.ndarray:
    """Evaluate the law of Marchenko and Pastur for singular values.

    For an Erdos-Renyi mask of density p subtract its mean and take ``variance = p (1 - p)``: the mean only adds the one
    large singular value.

    Parameters
    ----------
    sigma : ndarray of float64
    n_left, n_right : int
    variance : float
        Of an entry.

    Returns
    -------
    ndarray of float64
        Integrates to 1; its support ends at ``sqrt(variance) (sqrt(n_left) + sqrt(n_right))``.

    Examples
    --------
    >>> float(marchenko_pastur_density(np.array([0.5]), 1, 1, 1.0)[0].round(6))  # the quarter circle law
    0.616404
    """
    n = min(n_left, n_right)
    low = variance * (np.sqrt(n_left) - np.sqrt(n_right)) ** 2
    high = variance * (np.sqrt(n_left) + np.sqrt(n_right)) ** 2
    square = np.square(np.asarray(sigma, dtype=np.float64))
    root = np.sqrt(np.maximum((high - square) * (square - low), 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        density = root / (np.pi * n * variance * np.sqrt(square))
    at_zero = np.sqrt(high) / (np.pi * n * variance)  # the limit for a square mask; elsewhere zero lies outside
    filled: np.ndarray = np.where(square > 0, density, at_zero if low == 0 else 0.0)
    return filled


def kesten_mckay_density(sigma: np.ndarray, left_degree: float, right_degree: float) -> np.ndarray:
    r"""Evaluate the biregular law of Kesten and McKay for singular values.

    It is the spectral measure of the biregular tree at a vertex of the side with the larger degree, which is the
    smaller side of the mask. With a >= b the degrees, p = a - 1, q = b - 1, the branches obey
    :math:`g_a = 1 / (x - p g_b)`, :math:`g_b = 1 / (x - q g_a)`, the root :math:`G = 1 / (x - a g_b)`, and the density
    is :math:`-\frac{2}{\pi} \Im G(x + i0)`. The trivial value :math:`\sqrt{a b}` of a finite mask is not in it.

    Parameters
    ----------
    sigma : ndarray of float64
    left_degree, right_degree : float
        For an irregular mask its means: then a comparison, not a limit.

    Returns
    -------
    ndarray of float64
        Integrates to 1; supported between ``abs(sqrt(a - 1) - sqrt(b - 1))`` and their sum. Zero everywhere
        if (a - 1)(b - 1) < 1, where the tree is finite or its spectrum is mostly atoms.

    Examples
    --------
    >>> float(kesten_mckay_density(np.array([0.0]), 3, 3)[0].round(6))  # 2 d sqrt(4 (d - 1)) / (2 pi d^2)
    0.300105
    """
    x = np.asarray(sigma, dtype=np.float64)
    a, b = max(left_degree, right_degree), min(left_degree, right_degree)
    p, q = a - 1, b - 1
    if not (b > 1 and p * q >= 1):
        return np.zeros_like(x)
    middle = np.square(x) - p - q
    inside = 4 * p * q - np.square(middle)
    imaginary = np.sqrt(np.maximum(inside, 0.0)) / (2 * p * q)  # of g_a g_b, up to sign
    real = middle / (2 * p * q)
    distance = np.square(np.square(x) - a - a * q * real) + np.square(a * q * imaginary)
    with np.errstate(divide="ignore", invalid="ignore"):
        density = 2 / np.pi * x * a * q * imaginary / distance
        if a == b:  # the law of Kesten and McKay itself, which has a limit at zero where the above is 0 / 0
            density = a * np.sqrt(np.maximum(4 * p - np.square(x), 0.0)) / (np.pi * (a * a - np.square(x)))
            inside = 4 * p - np.square(x)
    result: np.ndarray = np.where((inside > 0) & np.isfinite(density), density, 0.0)
    return result
