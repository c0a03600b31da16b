"""Closed forms of the bounds, and the random references against drawn masks."""

import math

import numpy as np
import pytest

from sift_graph import bounds
from tests.closed_forms import golden_mask


def test_biregular_bound_is_undefined_below_degree_one():
    assert bounds.biregular_bound(1, 1) == 0
    assert bounds.biregular_bound(5, 1) == 2
    for degrees in ((0.5, 3), (3, 0), (math.nan, 3), (3, math.nan)):
        assert math.isnan(bounds.biregular_bound(*degrees))


def test_biregular_bound_is_not_two_to_the_root():
    # networkx once shipped 2 ** sqrt(d - 1): the two agree at d = 1 + 4 only by chance of rounding, not at 10.
    assert bounds.biregular_bound(10, 10) == 6


def test_golden_bounds():
    mask, _ = golden_mask()
    sigma_1 = 6.5181971845
    assert bounds.biregular_bound(80 / 19, 80 / 11) == pytest.approx(4.2963354909, abs=1e-9)
    assert bounds.one_degree_bound(80, 30) == pytest.approx(4.1633319990, abs=1e-9)
    assert bounds.spectral_bound(sigma_1) == pytest.approx(4.6981686579, abs=1e-9)
    assert bounds.trace_bound(int(mask.sum()), sigma_1, 11) == pytest.approx(1.9368, abs=5e-5)


def test_one_degree_bound_never_exceeds_the_biregular_one():
    for left in (4, 9, 30):
        for right in (3, 5, 17):
            edges = 12 * left * right
            vertices = edges // left + edges // right
            assert bounds.one_degree_bound(edges, vertices) <= bounds.biregular_bound(left, right) + 1e-12


def test_degenerate_graphs_have_no_bound():
    assert math.isnan(bounds.one_degree_bound(0, 0))
    assert math.isnan(bounds.spectral_bound(0.5))
    assert math.isnan(bounds.trace_bound(5, math.sqrt(5), 1))
    assert math.isnan(bounds.random_sigma_1(0, 10, 10))
    assert math.isnan(bounds.random_gap_norm(math.nan))


@pytest.mark.parametrize("density", [0.1, 0.5])
def test_random_references_predict_a_random_mask(density):
    rng = np.random.default_rng(1)
    sigma = np.linalg.svd(rng.random((128, 1152)) < density, compute_uv=False)
    assert bounds.random_sigma_2(density, 1152, 128) == pytest.approx(sigma[1], rel=0.015)
    assert bounds.random_sigma_1(density, 1152, 128) == pytest.approx(sigma[0], rel=0.01)
    limit = math.sqrt(density * 128) + math.sqrt(density * 1152)  # of the bound, as degrees grow
    assert bounds.random_gap_norm(density) == pytest.approx(1 - sigma[1] / limit, abs=0.015)
