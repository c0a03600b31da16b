"""Regular subgraphs against the golden mask, closed forms and a dense second opinion."""

from __future__ import annotations

import math

import numpy as np
import pytest
from closed_forms import CLOSED_FORMS, GOLDEN, block_diagonal, golden_mask

from sift_graph.errors import MaskError, UsageError
from sift_graph.graph import BipartiteGraph
from sift_graph.masks import LayerMask
from sift_graph.spectrum import left_regular_subgraphs


def graph_of(mask, weight=None, groups=1):
    return BipartiteGraph.from_mask(LayerMask.from_dense("layer", mask, weight, groups=groups))


def by_hand(mask, weight, gates=(3, 3, 3.0)):
    """Dense reference: degree -> (count, others, sigma_1, sigma_2, weighted sigma_1, weighted sigma_2)."""
    degree = mask.sum(axis=0)
    found = {}
    for d in np.unique(degree):
        part = mask[:, degree == d]
        heavy = np.abs(weight * mask)[:, degree == d]
        count, others = part.shape[1], int(part.any(axis=1).sum())
        if count >= gates[0] and d >= gates[1] and d * count >= gates[2] * others:
            values = np.append(np.linalg.svd(part.astype(float), compute_uv=False), 0.0)
            heavy_values = np.append(np.linalg.svd(heavy, compute_uv=False), 0.0)
            found[int(d)] = (count, others, *values[:2], *heavy_values[:2])
    return found


def agree(subgraphs, expected, side="left"):
    assert [s.degree for s in subgraphs] == sorted(expected)
    for s in subgraphs:
        count, others, *values = expected[s.degree]
        assert (s.n_left, s.n_right) == ((count, others) if side == "left" else (others, count))
        assert s.edges == s.degree * count
        np.testing.assert_allclose((s.sigma_1, s.sigma_2), values[:2], rtol=1e-6, atol=1e-6 * values[0])
        assert s.sigma_2_lo <= values[1] + 1e-12
        assert values[1] <= s.sigma_2_hi + 1e-12
        if not math.isnan(s.weighted_sigma_1):
            heavy = (s.weighted_sigma_1, s.weighted_sigma_2)
            np.testing.assert_allclose(heavy, values[2:], rtol=1e-6, atol=1e-6 * values[2])


def test_the_golden_subgraphs():
    mask, weight = golden_mask()
    subgraphs = left_regular_subgraphs(graph_of(mask, weight), weighted=True, min_other_degree=1)
    assert [s.degree for s in subgraphs] == [3, 4, 5]
    for s in subgraphs:
        count, others, sigma_2, gap = GOLDEN["subgraphs"][s.degree]
        assert (s.n_left, s.n_right) == (count, others)
        assert s.sigma_2 == pytest.approx(sigma_2, abs=1e-8)
        assert s.weighted_sigma_1 - s.weighted_sigma_2 == pytest.approx(gap, abs=1e-8)
    assert [s.degree for s in left_regular_subgraphs(graph_of(mask))] == [3, 5]


@pytest.mark.parametrize("name", ["Fano plane", "PG(2,11)", "net(4,11)", "crown of 9", "two copies of PG(2,3)"])
def test_a_left_regular_mask_is_its_own_subgraph(name):
    mask, sigma = CLOSED_FORMS[name]
    (only,) = left_regular_subgraphs(graph_of(mask))
    assert only.edges == mask.sum()
    assert (only.sigma_1, only.sigma_2) == pytest.approx(sigma[:2], rel=1e-6)
    assert only.sigma_2_lo <= sigma[1] * (1 + 1e-12)
    assert sigma[1] * (1 - 1e-12) <= only.sigma_2_hi


def test_two_complete_classes():
    # 7 inputs see all 9 outputs, 5 inputs the first 4: subgraphs K(9, 7) and K(4, 5).
    mask = np.zeros((9, 12), dtype=bool)
    mask[:, :7] = True
    mask[:4, 7:] = True
    low, high = left_regular_subgraphs(graph_of(mask))
    assert (low.degree, low.n_left, low.n_right) == (4, 5, 4)
    assert (high.degree, high.n_left, high.n_right) == (9, 7, 9)
    assert low.sigma_1 == pytest.approx(math.sqrt(20))
    assert high.sigma_1 == pytest.approx(math.sqrt(63))
    assert (low.sigma_2, high.sigma_2) == pytest.approx((0, 0), abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("side", ["left", "right"])
def test_random_layers_agree_with_dense_svd(seed, side):
    rng = np.random.default_rng(seed)
    shape = [(40, 300), (120, 500), (300, 120), (90, 90)][seed]
    mask = rng.random(shape) < 0.12
    mask[:, :5] = False
    weight = rng.normal(size=shape)
    subgraphs = left_regular_subgraphs(graph_of(mask, weight), side=side, weighted=True, min_other_degree=1)
    flipped = (mask.T, weight.T) if side == "right" else (mask, weight)
    expected = by_hand(*flipped, gates=(3, 3, 1))
    assert expected
    agree(subgraphs, expected, side)


@pytest.mark.parametrize("side", ["left", "right"])
def test_groups_count_as_one_layer(side):
    rng = np.random.default_rng(11)
    mask = rng.random((4 * 30, 60)) < 0.2
    weight = rng.normal(size=mask.shape)
    whole = block_diagonal(np.split(mask, 4))
    heavy = np.zeros(whole.shape)
    for g in range(4):
        heavy[g * 30 : g * 30 + 30, g * 60 : g * 60 + 60] = weight[g * 30 : g * 30 + 30]
    subgraphs = left_regular_subgraphs(graph_of(mask, weight, 4), side=side, weighted=True, min_other_degree=1)
    flipped = (whole.T, heavy.T) if side == "right" else (whole, heavy)
    expected = by_hand(*flipped, gates=(3, 3, 1))
    assert len(expected) > 3
    agree(subgraphs, expected, side)


def test_more_vertices_of_one_degree_than_there_are_on_the_other_side():
    rng = np.random.default_rng(2)
    mask = np.zeros((150, 4000), dtype=bool)
    for column in range(4000):
        mask[rng.choice(150, 5 + column % 2, replace=False), column] = True
    weight = rng.normal(size=mask.shape)
    subgraphs = left_regular_subgraphs(graph_of(mask, weight), weighted=True)
    assert [s.degree for s in subgraphs] == [5, 6]
    agree(subgraphs, by_hand(mask, weight))


def test_no_part_passes():
    assert left_regular_subgraphs(graph_of(np.eye(6, dtype=bool))) == []
    assert left_regular_subgraphs(graph_of(np.zeros((6, 9), dtype=bool))) == []


def test_weights_stay_nan_unless_asked_for():
    (only,) = left_regular_subgraphs(graph_of(np.ones((5, 6), dtype=bool)))
    assert math.isnan(only.weighted_sigma_1)
    with pytest.raises(MaskError, match="record them with weights='fp32'"):
        left_regular_subgraphs(graph_of(np.ones((5, 6), dtype=bool)), weighted=True)
    with pytest.raises(UsageError, match="certify 'off' or 'full', found 'gap'"):
        left_regular_subgraphs(graph_of(np.ones((5, 6), dtype=bool)), certify="gap")
    with pytest.raises(UsageError, match="side 'left' or 'right', found 'up'"):
        left_regular_subgraphs(graph_of(np.ones((5, 6), dtype=bool)), side="up")
