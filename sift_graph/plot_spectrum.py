"""Draw the singular values of one mask: as a histogram, or their density beside the laws of random masks."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes

from sift_graph.graph import BipartiteGraph
from sift_graph.plot_style import INK, MUTED, PALETTE, add_legend, new_axes, note_nothing, style
from sift_graph.spectrum import density_of_states, kesten_mckay_density, marchenko_pastur_density

__all__ = ["spectral_density", "spectrum_histogram"]


def spectrum_histogram(
    sigma: np.ndarray,
    bound: float | None = None,
    *,
    density: float | None = None,
    n_left: int | None = None,
    n_right: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Draw the singular values of one mask with its bound and the edge of a random mask's spectrum.

    Parameters
    ----------
    sigma : ndarray
        Singular values, in any order; the largest is marked apart.
    bound : float, optional
        The biregular bound on ``sigma_2``.
    density, n_left, n_right : optional
        With all three, the edge :math:`\sqrt{p(1-p)}(\sqrt{n_L} + \sqrt{n_R})` of a random mask is marked.
    ax : Axes, optional
        Where to draw; by default new Axes.

    Returns
    -------
    Axes
        The Axes drawn on.
    """
    with style():
        ax = new_axes(ax)
        ax.set_xlabel("singular value σ")
        ax.set_ylabel("count")
        values = np.sort(np.asarray(sigma, dtype=float).ravel())
        values = values[np.isfinite(values)]
        if len(values) == 0:
            return note_nothing(ax, "no singular value is known")
        bulk = values[:-1] if len(values) > 1 else values
        bins = int(np.clip(round(2 * len(bulk) ** (1 / 3)), 5, 60))
        spread = float(np.ptp(bulk)) > 1e-9 * max(float(values[-1]), 1e-300)
        # numpy refuses bins narrower than a float's resolution: equal values get one bar of their own.
        ax.hist(bulk, bins=bins if spread else [bulk[0] - 0.05, bulk[0] + 0.05], color=PALETTE[5], label="spectrum")
        if len(values) > 1:
            ax.axvline(float(values[-1]), color=INK, linewidth=1.2, linestyle=":", label=f"σ₁ = {values[-1]:.4g}")
            ax.axvline(float(values[-2]), color=PALETTE[0], linewidth=1.4, label=f"σ₂ = {values[-2]:.4g}")
        if bound is not None and math.isfinite(bound):
            ax.axvline(bound, color=PALETTE[1], linewidth=1.4, linestyle="--", label=f"bound = {bound:.4g}")
        if density is not None and n_left is not None and n_right is not None and 0 <= density <= 1:
            edge = math.sqrt(density * (1 - density)) * (math.sqrt(n_left) + math.sqrt(n_right))
            ax.axvline(edge, color=MUTED, linewidth=1.2, linestyle="-.", label=f"random edge = {edge:.4g}")
        add_legend(ax)
        return ax


def spectral_density(
    graph: BipartiteGraph,
    *,
    bound: float | None = None,
    width: float | None = None,
    rng: np.random.Generator | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Draw the density of a mask's singular values over the laws of random masks of its density and mean degrees.

    Parameters
    ----------
    graph : BipartiteGraph
        Small layers are decomposed, large ones estimated by stochastic Lanczos quadrature, with its error band.
    bound : float, optional
        The biregular bound on ``sigma_2``.
    width : float, optional
        Smoothing; see :func:`sift_graph.spectrum.density_of_states`.
    rng : numpy.random.Generator, optional
        For the estimate; seeded with 0 by default.
    ax : Axes, optional
        Where to draw; by default new Axes.

    Returns
    -------
    Axes
        The Axes drawn on. The law of Marchenko and Pastur is that of independent entries of the layer's density, the
        one of Kesten and McKay that of a biregular graph of its mean degrees; neither is smoothed. For a grouped layer
        they are those of one block.
    """
    with style():
        ax = new_axes(ax)
        ax.set_xlabel("singular value σ")
        ax.set_ylabel("density")
        if graph.edges == 0:
            return note_nothing(ax, "the layer has no edges")
        found = density_of_states(graph, width=width, rng=rng)
        if found.method == "lanczos_quadrature":
            ax.fill_between(found.sigma, found.lo, found.hi, color=PALETTE[0], alpha=0.25, linewidth=0)
        ax.plot(found.sigma, found.density, color=PALETTE[0], label="mask")
        variance = graph.density * (1 - graph.density)
        if variance > 0:
            right = graph.n_right // graph.groups
            law = marchenko_pastur_density(found.sigma, graph.block_left, right, variance)
            ax.plot(found.sigma, law, color=MUTED, linestyle="-.", label="random entries (Marchenko-Pastur)")
        if min(graph.mean_left_degree, graph.mean_right_degree) > 1:
            law = kesten_mckay_density(found.sigma, graph.mean_left_degree, graph.mean_right_degree)
            ax.plot(found.sigma, law, color=PALETTE[2], linestyle="--", label="random biregular (Kesten-McKay)")
        if bound is not None and math.isfinite(bound):
            ax.axvline(bound, color=PALETTE[1], linewidth=1.4, linestyle=":", label=f"bound = {bound:.4g}")
        ax.set_ylim(0, 1.15 * float(np.max(found.hi)))
        ax.set_xlim(0, max(float(found.sigma[-1]), bound if bound is not None and math.isfinite(bound) else 0.0))
        add_legend(ax)
        return ax
