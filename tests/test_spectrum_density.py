"""Density of states: the estimate against whole spectra, the laws against their own integrals and random masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from closed_forms import CLOSED_FORMS

from sift_graph.errors import SpectrumError, UsageError
from sift_graph.graph import BipartiteGraph
from sift_graph.masks import LayerMask
from sift_graph.spectrum import (
    density_of_states,
    kesten_mckay_density,
    marchenko_pastur_density,
    singular_values,
)


def graph_of(mask, weight=None, groups=1):
    return BipartiteGraph.from_mask(LayerMask.from_dense("layer", mask, weight, groups=groups))


def smoothed(values, grid, width):
    bumps = [np.exp(-0.5 * ((grid - c) / width) ** 2) for v in values for c in (v, -v)]
    return np.sum(bumps, axis=0) / (values.size * width * math.sqrt(2 * math.pi))


@pytest.mark.parametrize("kind", ["binary", "weighted", "normalised"])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_band_holds_the_true_density(kind, groups):
    rng = np.random.default_rng(3)
    mask = rng.random((groups * 320, 900)) < 0.1
    graph = graph_of(mask, rng.normal(size=mask.shape), groups)
    found = density_of_states(graph, kind=kind, probes=12)
    assert found.method == "lanczos_quadrature"
    truth = smoothed(singular_values(graph, kind=kind), found.sigma, found.width)
    inside = (found.lo <= truth) & (truth <= found.hi)
    assert inside.mean() > 0.8  # two standard errors of 12 probes, point by point
    assert np.abs(found.density - truth).max() < 0.1 * truth.max()
    area = np.trapezoid(found.density, found.sigma)
    assert area == pytest.approx(1 - groups / (320 * groups), abs=0.02)


def test_more_probes_narrow_the_band():
    graph = graph_of(np.random.default_rng(0).random((400, 700)) < 0.1)
    few, many = (density_of_states(graph, probes=p, steps=40) for p in (4, 32))
    assert np.mean(many.hi - many.lo) < np.mean(few.hi - few.lo)
    np.testing.assert_array_equal(many.density, density_of_states(graph, probes=32, steps=40).density)


def test_small_layers_are_exact():
    mask, sigma = CLOSED_FORMS["PG(2,5)"]
    found = density_of_states(graph_of(mask), sigma=np.linspace(0, 7, 500), width=0.1)
    assert found.method == "dense"
    np.testing.assert_array_equal(found.lo, found.hi)
    np.testing.assert_allclose(found.density, smoothed(np.array(sigma), found.sigma, 0.1), atol=1e-9)


@pytest.mark.parametrize(("n_left", "n_right"), [(300, 100), (64, 1024), (50, 50)])
def test_marchenko_pastur_integrates_to_one_and_fits_random_masks(n_left, n_right):
    variance = 0.09
    edge = math.sqrt(variance) * (math.sqrt(n_left) + math.sqrt(n_right))
    grid = np.linspace(0, 1.1 * edge, 200_001)
    law = marchenko_pastur_density(grid, n_left, n_right, variance)
    assert np.trapezoid(law, grid) == pytest.approx(1, abs=1e-4)
    assert (law[grid > edge * (1 + 1e-12)] == 0).all()
    second = np.trapezoid(law * grid**2, grid)  # n times the mean square is the sum of squares: n_left n_right variance
    assert min(n_left, n_right) * second == pytest.approx(n_left * n_right * variance, rel=1e-3)


def test_a_random_mask_follows_marchenko_pastur():
    mask = np.random.default_rng(1).random((500, 1500)) < 0.1
    grid = np.linspace(3, 20, 60)
    found = density_of_states(graph_of(mask), sigma=grid, width=0.5)
    law = marchenko_pastur_density(np.linspace(0, 25, 5001), 1500, 500, 0.09)
    kernel = np.exp(-0.5 * ((grid[:, None] - np.linspace(0, 25, 5001)) / 0.5) ** 2) / (0.5 * math.sqrt(2 * math.pi))
    expected = kernel @ law * 0.005
    assert np.abs(found.density - expected).max() < 0.06 * expected.max()


@pytest.mark.parametrize(("left", "right"), [(3, 3), (3, 4), (2, 9), (4.5, 12.25), (7, 3), (1.5, 9)])
def test_kesten_mckay_integrates_to_one_within_its_edges(left, right):
    low, high = sorted((abs(math.sqrt(left - 1) - math.sqrt(right - 1)), math.sqrt(left - 1) + math.sqrt(right - 1)))
    grid = np.linspace(0, 1.1 * high, 400_001)
    law = kesten_mckay_density(grid, left, right)
    assert np.trapezoid(law, grid) == pytest.approx(1, abs=2e-3)
    assert (law[(grid < low * (1 - 1e-9)) | (grid > high * (1 + 1e-9))] == 0).all()
    mean_square = np.trapezoid(law * grid**2, grid)  # closed walks of length two from the root: its degree
    assert mean_square == pytest.approx(max(left, right), rel=2e-3)
    fourth = np.trapezoid(law * grid**4, grid)  # of length four, in a tree
    a, b = max(left, right), min(left, right)
    assert fourth == pytest.approx(a * (a + b - 1), rel=2e-3)


def test_laws_without_continuous_spectrum_are_zero():
    assert not kesten_mckay_density(np.linspace(0, 3, 10), 1, 1).any()
    assert not kesten_mckay_density(np.linspace(0, 3, 10), 1.2, 3).any()
    path = kesten_mckay_density(np.array([0.0, 1.0, 3.0]), 2, 2)  # the arcsine law
    np.testing.assert_allclose(path, [1 / math.pi, 2 / (math.pi * math.sqrt(3)), 0])


def test_what_has_no_density_is_refused():
    with pytest.raises(SpectrumError, match="'layer' has no edges, so its singular values have no density"):
        density_of_states(graph_of(np.zeros((4, 5), dtype=bool)))
    with pytest.raises(UsageError, match="probes >= 2 and steps >= 4, found probes=1 and steps=80"):
        density_of_states(graph_of(np.ones((4, 5), dtype=bool)), probes=1)
