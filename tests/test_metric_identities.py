"""Exact identities and inequalities between metrics: lifts, complements, interlacing, and known extremal graphs."""

import itertools
import math

import numpy as np
import pytest

import sift_graph
from sift_graph.masks import LayerMask
from sift_graph.metrics import History
from tests.closed_forms import CLOSED_FORMS, projective_plane
from tests.runs import move


def sigma(mask, **options):
    return sift_graph.measure(np.asarray(mask), metrics="core,ramanujan,mixing", **options)


def full(mask):
    return np.linalg.svd(np.asarray(mask, dtype=float), compute_uv=False)


def lps_5_13():
    """The Ramanujan graph of Lubotzky, Phillips and Sarnak on PGL(2, 13), from the six quaternions of norm 5."""
    q, i = 13, 5  # 5 * 5 = -1 mod 13

    def canonical(m):
        m = tuple(x % q for x in m)
        first = pow(next(x for x in m if x), -1, q)
        return tuple(x * first % q for x in m)

    quaternions = [(1, *t) for t in ((2, 0, 0), (-2, 0, 0), (0, 2, 0), (0, -2, 0), (0, 0, 2), (0, 0, -2))]
    steps = [(a + b * i, c + d * i, -c + d * i, a - b * i) for a, b, c, d in quaternions]
    squares = {x * x % q for x in range(1, q)}
    everything = {canonical(m) for m in itertools.product(range(q), repeat=4) if (m[0] * m[3] - m[1] * m[2]) % q}
    square = {m: (m[0] * m[3] - m[1] * m[2]) % q in squares for m in everything}
    sides = [sorted(m for m in everything if square[m] is even) for even in (True, False)]
    index = {m: j for j, m in enumerate(sides[1])}
    mask = np.zeros((len(sides[0]), len(sides[1])), dtype=bool)
    for r, (a, b, c, d) in enumerate(sides[0]):
        for e, f, g, h in steps:
            mask[r, index[canonical((a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h))]] = True
    return mask


def test_the_ramanujan_graph_of_lubotzky_phillips_and_sarnak():
    mask = lps_5_13()
    assert mask.shape == (1092, 1092)
    assert set(mask.sum(0)) == set(mask.sum(1)) == {6}
    values = sift_graph.measure(mask)
    assert values["sigma_1"] == pytest.approx(6)
    assert values["sigma_2"] == pytest.approx(4.24972085, abs=5e-9)
    assert values["ramanujan_gap"] == pytest.approx(4.4721359550 - 4.24972085, abs=1e-8)
    assert values["is_ramanujan"] == "yes"


def test_a_generalised_hexagon():
    heawood = projective_plane(2)[0]
    rows, columns = np.nonzero(heawood)
    mask = np.zeros((21, 14), dtype=bool)  # points of order (1, 2): the vertices of the Heawood graph; lines: its edges
    mask[np.arange(21), rows] = mask[np.arange(21), 7 + columns] = True
    expected = [math.sqrt(6), *[math.sqrt(3 + math.sqrt(2))] * 6, *[math.sqrt(3 - math.sqrt(2))] * 6, 0]
    assert full(mask) == pytest.approx(expected, abs=1e-7)
    values = sigma(mask)
    assert values["sigma_2"] == pytest.approx(expected[1])
    assert values["is_ramanujan"] == "yes"


def test_a_net_of_order_four_and_its_walks_that_do_not_turn_back():
    points = list(itertools.product(range(4), repeat=2))
    classes = (lambda x, y: x, lambda x, y: y, lambda x, y: (x + y) % 4)
    mask = np.array([[line(x, y) == b for x, y in points] for line in classes for b in range(4)])
    values = sigma(mask)
    assert (values["sigma_1"], values["sigma_2"]) == (pytest.approx(math.sqrt(12)), pytest.approx(2))
    assert values["nonbacktracking_radius"] == pytest.approx(math.sqrt(6))
    assert values["nonbacktracking_second"] == pytest.approx(math.sqrt(3))
    assert values["rank"] == 1 + 3 * 3


def test_a_two_lift_has_both_spectra():
    rng = np.random.default_rng(0)
    base = rng.random((7, 9)) < 0.5
    first = base & (rng.random(base.shape) < 0.5)
    second = base & ~first
    lift = np.block([[first, second], [second, first]])
    expected = np.sort([*full(base), *full(first.astype(int) - second.astype(int))])
    assert np.sort(full(lift)) == pytest.approx(expected, abs=1e-9)
    assert sigma(lift)["sigma_1"] == pytest.approx(full(base)[0])
    assert sigma(lift)["sigma_2"] == pytest.approx(expected[-2])


@pytest.mark.parametrize("name", ["Fano plane", "AG(2,3)", "net(4,11)", "W(3,2)"])
def test_the_complement_of_a_biregular_mask_keeps_what_is_nontrivial(name):
    mask = CLOSED_FORMS[name][0]
    d_left, d_right = mask.sum(0)[0], mask.sum(1)[0]
    here, there = full(mask), full(~mask)
    assert there[0] == pytest.approx(math.sqrt((mask.shape[0] - d_left) * (mask.shape[1] - d_right)))
    nontrivial = [s[1:][s[1:] > 1e-7] for s in (here, there)]
    assert nontrivial[0] == pytest.approx(nontrivial[1])
    assert sigma(~mask)["sigma_2"] == pytest.approx(sigma(mask)["sigma_2"])


def test_dense_grouped_and_depthwise_layers():
    grouped = sigma(np.ones((8, 3, 3, 3), dtype=bool), groups=4)
    assert grouped["sigma_1"] == grouped["sigma_2"] == pytest.approx(math.sqrt(2 * 3 * 9))
    assert grouped["spectral_gap"] == pytest.approx(0)
    depthwise = sigma(np.ones((5, 1, 3, 3), dtype=bool), groups=5)
    assert (depthwise["sigma_1"], depthwise["spectral_gap"]) == (pytest.approx(3), pytest.approx(0))
    assert depthwise["cover_bound"] == pytest.approx(3)  # stars are their own covers


def masks():
    for seed in range(25):
        rng = np.random.default_rng(seed)
        mask = rng.random((rng.integers(3, 12), rng.integers(3, 14))) < rng.choice([0.2, 0.5, 0.8])
        if mask.any():
            yield mask, rng


def test_inequalities_that_every_mask_obeys():
    for mask, _ in masks():
        values = sigma(mask)
        left, right = mask.sum(0), mask.sum(1)
        assert math.sqrt(values["mean_left_degree"] * values["mean_right_degree"]) <= values["sigma_1"] + 1e-9
        assert values["sigma_1"] <= math.sqrt((np.outer(right, left) * mask).max()) + 1e-9
        assert 0 <= values["normalised_sigma_2"] <= 1 + 1e-12
        assert values["algebraic_connectivity"] <= min(left[left > 0].min(), right[right > 0].min()) + 1 + 1e-9
        if not math.isnan(values["trace_bound"]):
            assert values["sigma_2"] >= values["trace_bound"] - 1e-7
        if not math.isnan(values["sweep_conductance"]):
            assert values["cheeger_lower"] - 1e-9 <= values["sweep_conductance"]
        if min(left.min(), right.min()) >= 2:
            assert values["cover_bound"] >= values["bound"] - 1e-7


def test_removing_an_edge_or_a_vertex():
    for mask, rng in masks():
        before = full(mask)
        edge = tuple(rng.choice(np.argwhere(mask)))
        without = mask.copy()
        without[edge] = False
        if without.any():
            assert sigma(without)["sigma_1"] <= sigma(mask)["sigma_1"] + 1e-9
        fewer = np.delete(mask, rng.integers(len(mask)), axis=0)
        if fewer.any():
            values = sigma(fewer)
            assert before[1] - 1e-7 <= values["sigma_1"] <= before[0] + 1e-7
            assert (before[2] if len(before) > 2 else 0) - 1e-7 <= values["sigma_2"] <= before[1] + 1e-7


def test_an_update_that_regrows_nothing_it_dropped():
    rng = np.random.default_rng(0)
    mask = rng.random((50, 60)) < 0.3
    history = History(["iou_previous", "survival"])
    history.update(LayerMask.from_dense("a", mask))
    moved = move(mask, rng, 0.25)
    values = history.update(LayerMask.from_dense("a", moved))
    share = 1 - (mask & moved).sum() / mask.sum()
    assert values["iou_previous"] == pytest.approx((1 - share) / (1 + share))
    assert values["survival"] == pytest.approx(1 - share)
    assert share == pytest.approx(0.25, abs=0.01)
