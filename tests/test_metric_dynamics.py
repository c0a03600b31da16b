"""Mask dynamics beyond the core: constructed updates, theory, memory that does not grow."""

import itertools
import math

import numpy as np
import pytest

from sift_graph.errors import MaskError
from sift_graph.graph import BipartiteGraph
from sift_graph.masks import LayerMask
from sift_graph.metrics import DYNAMICS, History
from sift_graph.metrics.matching import matched_distance, nnstd
from tests.runs import move


def layer(mask, weight=None):
    return LayerMask.from_dense("a", np.asarray(mask, dtype=bool), weight)


def follow(*masks, weights=None):
    history = History(DYNAMICS)
    weights = [None] * len(masks) if weights is None else weights
    return [history.update(layer(m, w)) for m, w in zip(masks, weights, strict=True)], history


FIRST = np.array([[1, 1, 0, 0], [0, 0, 1, 1]])
SECOND = np.array([[1, 0, 1, 0], [0, 0, 1, 1]])  # one edge moved
THIRD = np.array([[1, 1, 0, 0], [0, 0, 0, 1]])  # it came back, another went


def test_constructed_updates():
    (one, two, three), history = follow(FIRST, SECOND, THIRD)
    assert (two["hamming_count"], three["hamming_count"]) == (2, 3)
    assert two["dropped_share"] == two["grown_share"] == 1 / 4
    assert three["dropped_share"] == 2 / 4
    assert (one["survival"], two["survival"], three["survival"]) == (1, 3 / 4, 3 / 4)
    assert two["dice_distance_previous"] == 2 / 8
    assert (two["overlap_previous"], three["overlap_first"]) == (3 / 4, 1)
    assert (two["revival_rate"], three["revival_rate"]) == (0, 1)
    assert (one["flips"], two["flips"], three["flips"]) == (0, 2, 5)
    assert three["mean_flips"] == 5 / 8
    assert three["max_flips"] == 2
    assert three["flipped_share"] == pytest.approx(3 / 8)
    assert history.flip_histogram().tolist() == [5, 1, 2]
    assert (one["mean_age"], two["mean_age"], three["mean_age"]) == (0, 3 / 4, (2 + 0 + 2) / 3)
    assert (one["r_doc"], two["r_doc"], three["r_doc"]) == (4 / 8, 3 / 8, 2 / 8)
    assert three["itop_rate"] == 5 / 8
    assert three["itop_rate"] - three["r_doc"] == pytest.approx(three["flipped_share"])


def test_at_the_first_snapshot_there_is_no_change():
    (values,), _ = follow(FIRST)
    assert math.isnan(values["dropped_share"])
    assert math.isnan(values["spectral_velocity"])
    assert values["nnstd_first"] == 0
    assert History(DYNAMICS).noted_update(layer(FIRST, np.ones((2, 4))))["note"] == ""


def test_signs():
    ones, mixed = np.ones((2, 4)), np.where(np.arange(4) == 0, -1.0, 1.0) * np.ones((2, 4))
    (_, two), _ = follow(FIRST, SECOND, weights=[ones, mixed])
    assert two["sign_agreement_previous"] == pytest.approx(2 / 3)  # shared: (0,0) turned, (1,2), (1,3) kept
    assert two["sign_iou_previous"] == pytest.approx(2 / 8)
    history = History(["sign_agreement_previous"])
    history.update(layer(FIRST))
    assert history.noted_update(layer(SECOND))["note"] == "no_weights"


def test_half_life_is_the_snapshot_at_which_half_was_gone():
    mask, values = np.ones((4, 8), dtype=bool), []
    history = History(["survival", "half_life"])
    for kept in (32, 24, 18, 14, 10):
        flat = np.zeros(32, dtype=bool)
        flat[:kept] = True
        values.append(history.update(layer(flat.reshape(mask.shape))))
    assert [v["half_life"] if not math.isnan(v["half_life"]) else None for v in values] == [None, None, None, 3, 3]


def test_constraint_and_exploration_enclose_the_density():
    rng = np.random.default_rng(0)
    mask, history = rng.random((40, 50)) < 0.2, History(DYNAMICS)
    last = (1.0, 0.0)
    for _ in range(12):
        values = history.update(layer(mask))
        assert values["r_doc"] <= values["itop_rate"]
        assert values["r_doc"] <= last[0]
        assert values["itop_rate"] >= last[1]
        last = values["r_doc"], values["itop_rate"]
        mask = move(mask, rng, 0.3)
    # growth is uniform over the inactive entries, those just dropped left out of them by `move`
    assert values["exploration_reference"] == pytest.approx(values["itop_rate"], abs=0.05)


def test_a_static_mask_stands_still():
    _, history = follow(FIRST, FIRST, FIRST)
    values = history.update(layer(FIRST))
    assert (values["flips"], values["mean_age"], values["r_doc"], values["itop_rate"]) == (0, 3, 0.5, 0.5)
    assert (values["spectral_velocity"], values["nnstd_previous"], values["exploration_reference"]) == (0, 0, 0.5)


def test_spectral_velocity_is_that_of_the_dense_values():
    rng = np.random.default_rng(3)
    a, b = rng.random((2, 9, 13)) < 0.4
    (_, two), _ = follow(a, b)
    moved = np.abs(np.linalg.svd(a.astype(float), compute_uv=False) - np.linalg.svd(b.astype(float), compute_uv=False))
    assert two["spectral_velocity"] == pytest.approx(moved.mean())
    assert two["spectral_velocity_l2"] == pytest.approx(np.linalg.norm(moved))


def test_matching_undoes_a_permutation_of_the_outputs():
    rng = np.random.default_rng(1)
    mask = rng.random((12, 30)) < 0.3
    (_, two), _ = follow(mask, mask[rng.permutation(12)])
    assert two["nnstd_previous"] == 0
    assert two["iou_previous"] < 0.6
    disjoint = np.array([[1, 1, 0, 0], [1, 1, 0, 0]]), np.array([[0, 0, 1, 1], [0, 0, 1, 0]])
    graphs = [BipartiteGraph.from_mask(layer(m)) for m in disjoint]
    assert matched_distance(*graphs) == 1


def test_greedy_matching_takes_the_nearest_pair_first():
    a, b = np.array([[1, 1, 1, 0], [1, 1, 0, 0]]), np.array([[1, 1, 0, 0], [0, 0, 0, 1]])
    found = matched_distance(*(BipartiteGraph.from_mask(layer(m)) for m in (a, b)))
    assert found == pytest.approx((0 + 1) / 2)  # row 1 meets row 0 exactly, so row 0 is left with the last


def test_networks_are_compared_greedily_or_as_published():
    rng = np.random.default_rng(4)
    shapes = {"conv": (6, 2, 3, 3), "wide": (8, 6, 3, 3), "fc": (5, 8 * 4)}  # the last reads a flattened image
    masks = {name: rng.random(shape) < 0.3 for name, shape in shapes.items()}
    one, two = rng.permutation(6), rng.permutation(8)
    moved = {"conv": masks["conv"][one], "wide": masks["wide"][two][:, one]}
    moved["fc"] = masks["fc"].reshape(5, 8, 4)[:, two].reshape(5, -1)
    first, second = ({n: LayerMask.from_dense(n, m) for n, m in part.items()} for part in (masks, moved))
    assert nnstd(first, second, as_published=True) == pytest.approx(dict.fromkeys(shapes, 0))
    greedy = nnstd(first, second)
    assert greedy["conv"] == 0
    assert min(greedy["wide"], greedy["fc"]) > 0.3  # the order of the outputs is not carried on

    a, b = np.zeros((2, 4, 4), dtype=bool)
    a[0, :2] = b[1, 1:3] = True  # two outputs without an edge in both: equal ones as published, else not counted
    pair = {"l": LayerMask.from_dense("l", a)}, {"l": LayerMask.from_dense("l", b)}
    assert nnstd(*pair)["l"] == pytest.approx(2 / 3)
    assert nnstd(*pair, as_published=True)["l"] == pytest.approx(2 / 3 / 4)
    with pytest.raises(MaskError, match="expected the same layers in the same order"):
        nnstd(first, {"fc": second["fc"]})
    with pytest.raises(MaskError, match=r"layer 'l': expected one shape in both networks, found \(4, 4\) and \(4, 2\)"):
        nnstd(pair[0], {"l": LayerMask.from_dense("l", b[:, :2])})


def test_the_published_assignment_is_the_best_one():
    a, b = np.random.default_rng(5).random((2, 5, 9)) < 0.4
    jaccard = np.array([[1 - (x & y).sum() / (x | y).sum() for y in b] for x in a])
    best = min(jaccard[range(5), list(order)].mean() for order in itertools.permutations(range(5)))
    pair = {"l": LayerMask.from_dense("l", a)}, {"l": LayerMask.from_dense("l", b)}
    assert nnstd(*pair, as_published=True)["l"] == pytest.approx(best)
    assert nnstd(*pair)["l"] >= best - 1e-12


def held(history):
    """Bytes that a history holds."""
    return sum(v.nbytes for v in vars(history).values() if isinstance(v, np.ndarray)) + history.previous.bits.nbytes


def test_memory_does_not_grow_with_the_snapshots():
    rng = np.random.default_rng(0)
    mask, history, sizes = rng.random((64, 128)) < 0.3, History([n for n in DYNAMICS if "nnstd" not in n]), []
    for _ in range(30):
        history.update(layer(mask))
        sizes.append(held(history))
        mask = move(mask, rng, 0.3)
    assert len(set(sizes[2:])) == 1
    core = History()
    core.update(layer(mask))
    core.update(layer(~mask))
    assert held(core) == 4 * 64 * 128 / 8
