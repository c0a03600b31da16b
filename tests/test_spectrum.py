"""Leading singular values against closed forms, dense decompositions and the inequalities they must obey."""

from __future__ import annotations

import math

import numpy as np
import pytest
from closed_forms import CLOSED_FORMS, GOLDEN, block_diagonal, golden_mask
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sift_graph.errors import MaskError, SpectrumError, UsageError
from sift_graph.graph import BipartiteGraph
from sift_graph.masks import LayerMask
from sift_graph.spectrum import estimate_seconds, leading, singular_values

masks = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14).flatmap(
    lambda shape: hnp.arrays(bool, shape, elements=st.booleans())
)


def graph_of(mask, weight=None, groups=1):
    return BipartiteGraph.from_mask(LayerMask.from_dense("layer", mask, weight, groups=groups))


def reference(mask):
    return np.linalg.svd(np.asarray(mask, dtype=np.float64), compute_uv=False)


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_closed_forms_are_met(name):
    mask, sigma = CLOSED_FORMS[name]
    assert np.sum(np.square(sigma)) == pytest.approx(mask.sum())
    for oriented in (mask, mask.T):
        graph = graph_of(oriented)
        spectrum = leading(graph, k=3, certify="full")
        expected = [*sigma, 0.0, 0.0][:3]
        np.testing.assert_allclose(spectrum.sigma, expected, rtol=1e-6, atol=1e-6 * sigma[0])
        assert (spectrum.lo <= np.array(expected) + 1e-12).all()
        assert (spectrum.hi >= np.array(expected) - 1e-12).all()
        assert spectrum.status == "ok"
        np.testing.assert_allclose(singular_values(graph), sigma, rtol=1e-9, atol=1e-9 * sigma[0])


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_kronecker_weights_scale_the_closed_forms(name):
    # |W| = u v^T on the mask: for a constant weight the values scale, and signs do not matter.
    mask, sigma = CLOSED_FORMS[name]
    signs = np.where(np.add.outer(np.arange(mask.shape[0]), np.arange(mask.shape[1])) % 2, -0.25, 0.25)
    spectrum = leading(graph_of(mask, signs), k=2, kind="weighted")
    np.testing.assert_allclose(spectrum.sigma, 0.25 * np.array([*sigma, 0.0][:2]), atol=1e-6 * sigma[0])


def test_rank_one_weights_have_one_singular_value():
    u, v = np.linspace(0.1, 2, 9), np.linspace(3, 0.5, 31)
    spectrum = leading(graph_of(np.ones((9, 31), dtype=bool), np.outer(u, v)), kind="weighted")
    assert spectrum.sigma_1 == pytest.approx(np.linalg.norm(u) * np.linalg.norm(v))
    assert spectrum.sigma_2 == pytest.approx(0, abs=1e-6)


def test_diagonal_weights_are_the_values():
    weight = np.diag([0.5, -4.0, 2.0, 3.0, 0.1])
    spectrum = leading(graph_of(np.eye(5, dtype=bool), weight), k=5, kind="weighted")
    np.testing.assert_allclose(spectrum.sigma, [4.0, 3.0, 2.0, 0.5, 0.1], rtol=1e-6)


def test_an_edge_of_weight_zero_adds_nothing_to_the_weighted_spectrum():
    weight = np.array([[1.0, 0.0], [0.0, 2.0]])
    graph = graph_of(np.ones((2, 2), dtype=bool), weight)
    np.testing.assert_allclose(leading(graph, kind="weighted").sigma, [2.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(leading(graph).sigma, [2.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(leading(graph, kind="weighted_normalised").sigma, [1.0, 1.0], rtol=1e-6)


def test_the_golden_mask_has_its_reference_values():
    mask, weight = golden_mask()
    graph = graph_of(mask, weight)
    assert graph.edges == GOLDEN["edges"]
    np.testing.assert_allclose(leading(graph, k=3).sigma, GOLDEN["sigma"], atol=1e-9)
    np.testing.assert_allclose(leading(graph, kind="weighted").sigma, GOLDEN["weighted"], atol=1e-8)
    normalised = leading(graph, kind="normalised")
    assert normalised.sigma_1 == pytest.approx(1, abs=1e-12)
    assert normalised.sigma_2 == pytest.approx(GOLDEN["normalised_sigma_2"], abs=1e-9)
    weighted = leading(graph, kind="weighted_normalised")
    assert weighted.sigma_2 == pytest.approx(GOLDEN["weighted_normalised_sigma_2"], abs=1e-8)


def test_normalised_values_of_equal_components_tie_at_one():
    mask = block_diagonal([CLOSED_FORMS["Fano plane"][0], CLOSED_FORMS["crown of 9"][0]])
    np.testing.assert_allclose(leading(graph_of(mask), k=3, kind="normalised").sigma[:2], [1.0, 1.0], atol=1e-9)


@settings(max_examples=150, deadline=None)
@given(masks)
def test_any_mask_agrees_with_svd_and_obeys_the_inequalities(mask):
    graph = graph_of(mask)
    spectrum = leading(graph, k=2, certify="full")
    if not mask.any():
        assert spectrum.status == "empty"
        assert np.isnan(spectrum.sigma).all()
        assert math.isnan(spectrum.sigma_2_lo)
        return
    sigma = np.append(reference(mask), 0.0)
    np.testing.assert_allclose(spectrum.sigma, sigma[:2], atol=1e-6 * sigma[0])
    assert (spectrum.lo <= spectrum.sigma).all()
    assert (spectrum.sigma <= spectrum.hi).all()
    assert (spectrum.lo <= sigma[:2] + 1e-12).all()
    assert (sigma[:2] <= spectrum.hi + 1e-12).all()
    error = 1e-6 * sigma[0]
    assert math.sqrt(graph.mean_left_degree * graph.mean_right_degree) <= spectrum.sigma_1 + error
    left, right = graph.left_degree, graph.right_degree
    edges = np.argwhere(mask)
    assert spectrum.sigma_1 <= max(math.sqrt(right[r] * left[c]) for r, c in edges) + error
    small = min(np.count_nonzero(left), np.count_nonzero(right))
    if small > 1:
        trace_bound = math.sqrt(max(mask.sum() - spectrum.sigma_1**2, 0) / (small - 1))
        assert spectrum.sigma_2 >= trace_bound - 1e-3 * sigma[0]
    normalised = leading(graph, k=2, kind="normalised").sigma
    assert normalised[0] == pytest.approx(1, abs=1e-6)
    assert -1e-6 <= normalised[1] <= 1 + 1e-6


@settings(max_examples=60, deadline=None)
@given(masks, st.randoms(use_true_random=False))
def test_relabelling_and_transposing_leave_the_values(mask, random):
    if not mask.any():
        return
    rows, columns = list(range(mask.shape[0])), list(range(mask.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    expected = leading(graph_of(mask), k=2).sigma
    moved = leading(graph_of(mask[rows][:, columns].T), k=2).sigma
    np.testing.assert_allclose(moved, expected, atol=2e-6 * expected[0])


@settings(max_examples=60, deadline=None)
@given(masks, st.integers(0, 10**6))
def test_an_added_edge_never_lowers_sigma_1_and_a_lost_row_interlaces(mask, pick):
    if not mask.any():
        return
    sigma = leading(graph_of(mask), k=3).sigma
    error = 2e-6 * sigma[0]
    more = mask.copy()
    more.flat[pick % mask.size] = True
    assert leading(graph_of(more)).sigma_1 >= sigma[0] - error
    fewer = np.delete(mask, pick % mask.shape[0], axis=0)
    if fewer.any():
        lost = leading(graph_of(fewer), k=2).sigma
        assert sigma[1] - error <= lost[0] <= sigma[0] + error
        assert sigma[2] - error <= lost[1] <= sigma[1] + error


@pytest.mark.parametrize(("groups", "per_group", "left"), [(2, 6, 9), (16, 1, 9), (5, 3, 40), (3, 70, 90)])
def test_groups_are_one_block_diagonal_layer(groups, per_group, left):
    rng = np.random.default_rng(groups)
    mask = rng.random((groups * per_group, left)) < 0.4
    weight = rng.normal(size=mask.shape)
    whole = block_diagonal(np.split(mask, groups))
    heavy = block_diagonal(np.split(np.abs(weight) * mask, groups))
    heavy_dense = np.zeros(whole.shape)
    for g in range(groups):
        block = slice(g * per_group, (g + 1) * per_group), slice(g * left, (g + 1) * left)
        heavy_dense[block] = np.abs(weight * mask)[block[0]]
    assert heavy.sum() == np.count_nonzero(heavy_dense)
    graph = graph_of(mask, weight, groups)
    spectrum = leading(graph, k=4)
    np.testing.assert_allclose(spectrum.sigma, reference(whole)[:4], rtol=1e-6)
    np.testing.assert_allclose(leading(graph, k=2, kind="weighted").sigma, reference(heavy_dense)[:2], rtol=1e-6)
    full = singular_values(graph)
    assert full.size == groups * min(per_group, left)
    np.testing.assert_allclose(full, reference(whole)[: full.size], atol=1e-9)


def test_dense_depthwise_layers_tie():
    # The reference flattening would read this as K(9, 12) with sigma_2 = 0.
    spectrum = leading(graph_of(np.ones((12, 1, 3, 3), dtype=bool), groups=12))
    np.testing.assert_allclose(spectrum.sigma, [3.0, 3.0], rtol=1e-9)


@pytest.mark.parametrize("density", [0.02, 0.5, 0.99])
@pytest.mark.parametrize("shape", [(90, 400), (700, 640)])
def test_middling_layers_agree_with_dense_svd(shape, density):
    mask = np.random.default_rng(7).random(shape) < density
    mask[3] = False
    expected = reference(mask)
    spectrum = leading(graph_of(mask), k=2, certify="full")
    np.testing.assert_allclose(spectrum.sigma, expected[:2], rtol=1e-6)
    assert (spectrum.lo <= expected[:2] * (1 + 1e-12)).all()
    assert (expected[:2] * (1 - 1e-12) <= spectrum.hi).all()
    assert (spectrum.hi - spectrum.lo <= 4e-6 * expected[:2]).all()


def test_all_values_of_a_large_side_come_from_the_exact_gram():
    mask = np.random.default_rng(9).random((530, 900)) < 0.1
    weight = np.random.default_rng(9).normal(size=mask.shape)
    for oriented, heavy in ((mask, weight), (mask.T, weight.T)):
        graph = graph_of(oriented, np.ascontiguousarray(heavy))
        np.testing.assert_allclose(singular_values(graph), reference(mask), atol=1e-6)
        np.testing.assert_allclose(singular_values(graph, kind="weighted"), reference(np.abs(weight * mask)), atol=1e-6)


def test_one_and_two_vertices():
    assert leading(graph_of(np.ones((1, 1), dtype=bool))).sigma.tolist() == [1.0, 0.0]
    two = leading(graph_of(np.array([[True, True], [False, True]])))
    golden_ratio = (1 + math.sqrt(5)) / 2
    np.testing.assert_allclose(two.sigma, [golden_ratio, 1 / golden_ratio], rtol=1e-9)


def test_a_graph_without_edges_is_empty_not_zero():
    spectrum = leading(graph_of(np.zeros((4, 6), dtype=bool)), k=3)
    assert spectrum.status == "empty"
    assert math.isnan(spectrum.sigma_1)
    assert math.isnan(spectrum.sigma_2_hi)
    assert singular_values(graph_of(np.zeros((4, 6), dtype=bool))).tolist() == [0.0] * 4


def test_weights_that_are_not_finite_are_refused():
    weight = np.ones((3, 3))
    weight[1, 1] = np.nan
    graph = graph_of(np.ones((3, 3), dtype=bool), weight)
    with pytest.raises(SpectrumError, match=r"'layer': 1 of 9 weights are not finite.*before training diverged"):
        leading(graph, kind="weighted")
    assert leading(graph).sigma_1 == pytest.approx(3)


def test_missing_weights_are_named():
    with pytest.raises(MaskError, match="'layer' has no weights; record them with weights='fp32'"):
        leading(graph_of(np.ones((3, 3), dtype=bool)), kind="weighted")


def test_options_that_do_not_exist_are_refused():
    graph = graph_of(np.ones((3, 3), dtype=bool))
    with pytest.raises(UsageError, match="did you mean 'weighted'"):
        leading(graph, kind="weigthed")
    with pytest.raises(UsageError, match="'fulll'; did you mean 'full'"):
        leading(graph, certify="fulll")
    with pytest.raises(UsageError, match="expected k >= 1 singular values, found k=0"):
        leading(graph, k=0)
    with pytest.raises(UsageError, match="tol between 0 and 1, found 2"):
        leading(graph, tol=2)


def test_the_cost_estimate_grows_with_the_layer():
    sizes = [(9, 4, 20), (576, 64, 3_686), (1818, 202, 36_700), (14571, 1619, 2_359_045)]
    costs = [estimate_seconds(*size) for size in sizes]
    assert costs == sorted(costs)
    assert costs[-1] > 10 * costs[0] > 0
