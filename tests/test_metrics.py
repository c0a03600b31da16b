"""The core: golden values, closed forms, and what is undefined."""

import math

import numpy as np
import pytest

import sift_graph
from sift_graph.errors import MaskError, SpectrumError, UsageError
from sift_graph.masks import LayerMask
from sift_graph.metrics import CORE, CORE_DYNAMICS, History, is_missing, select
from sift_graph.spectrum import Spectrum
from tests.closed_forms import CLOSED_FORMS, golden_mask


@pytest.fixture(scope="module")
def golden():
    mask, weight = golden_mask()
    return sift_graph.measure(mask, weight)


@pytest.mark.parametrize(
    ("name", "value", "tolerance"),
    [
        ("n_left", 20, 0),
        ("n_right", 12, 0),
        ("n_left_isolated", 1, 0),
        ("n_right_isolated", 1, 0),
        ("edges", 80, 0),
        ("density", 80 / 240, 1e-15),
        ("mean_left_degree", 4.2105263158, 1e-10),
        ("mean_right_degree", 7.2727272727, 1e-10),
        ("sigma_1", 6.5181971845, 1e-10),
        ("sigma_2", 3.3933310158, 1e-10),
        ("bound", 4.2963354909, 1e-10),
        ("ramanujan_gap", 0.9030044752, 1e-10),
        ("ramanujan_gap_norm", 0.2101801587, 1e-10),
        ("normalised_sigma_2", 0.6850395914, 1e-9),
        ("imdb", 1.0428214755, 1e-10),
        ("imdb_norm", 0.3240690614, 1e-10),
        ("imsg", 0.9612045853, 1e-8),
        ("n_subgraphs", 2, 0),
        ("edge_coverage", (25 + 18) / 80, 1e-15),
        ("weighted_sigma_1", 3.92152001, 1e-8),
        ("weighted_sigma_2", 2.11693581, 1e-8),
        ("weighted_spectral_gap", 1.8045841957, 1e-10),
    ],
)
def test_golden_mask(golden, name, value, tolerance):
    assert golden[name] == pytest.approx(value, abs=tolerance)


def test_golden_verdict(golden):
    assert golden["is_ramanujan"] == "yes"
    assert golden["note"] == ""
    assert golden["sigma_2_lo"] <= 3.3933310158 + 1e-10
    assert golden["sigma_2_hi"] >= 3.3933310158 - 1e-10


def by_degrees(mask):
    """Gap of a mask from its degrees and a dense SVD: an independent second opinion."""
    sigma = np.linalg.svd(mask.astype(float), compute_uv=False)
    left, right = mask.sum(0), mask.sum(1)
    bound = math.sqrt(left[left > 0].mean() - 1) + math.sqrt(right[right > 0].mean() - 1)
    return bound - (sigma[1] if len(sigma) > 1 else 0.0)


@pytest.mark.parametrize("name", sorted(CLOSED_FORMS))
def test_closed_forms_through_measure(name):
    mask, sigma = CLOSED_FORMS[name]
    values = sift_graph.measure(mask)
    assert values["sigma_1"] == pytest.approx(sigma[0], rel=1e-9)
    assert values["sigma_2"] == pytest.approx(sigma[1] if len(sigma) > 1 else 0.0, abs=1e-6 * sigma[0])
    assert values["ramanujan_gap"] == pytest.approx(by_degrees(mask), abs=1e-6 * sigma[0])


def test_a_perfect_matching_has_no_norm():
    values = sift_graph.measure(np.eye(5, dtype=bool))
    assert values["ramanujan_gap"] == pytest.approx(-1)
    assert values["is_ramanujan"] == "no"
    assert math.isnan(values["ramanujan_gap_norm"])
    assert "bound_zero" in values["note"].split(",")


def cube(n):
    even = [v for v in range(2**n) if v.bit_count() % 2 == 0]
    odd = [v for v in range(2**n) if v.bit_count() % 2]
    return np.array([[(u ^ v).bit_count() == 1 for v in odd] for u in even])


def test_the_seven_cube_is_the_first_that_leaves_the_bound():
    assert sift_graph.measure(cube(6))["is_ramanujan"] == "yes"
    assert sift_graph.measure(cube(7))["is_ramanujan"] == "no"


@pytest.mark.parametrize(
    ("lo", "hi", "verdict"), [(1.5, 1.9, "yes"), (2.1, 2.2, "no"), (1.9, 2.1, "undecided"), (2.0, 2.1, "undecided")]
)
def test_a_verdict_is_given_only_beyond_the_error(monkeypatch, lo, hi, verdict):
    found = Spectrum(np.array([3.0, (lo + hi) / 2]), np.array([3.0, lo]), np.array([3.0, hi]), "test", "ok")
    monkeypatch.setattr("sift_graph.spectrum.leading", lambda *args, **options: found)
    cycle = np.eye(6, dtype=bool) | np.eye(6, k=1, dtype=bool) | np.eye(6, k=-5, dtype=bool)
    values = sift_graph.measure(cycle, metrics=["bound", "is_ramanujan"])
    assert values["bound"] == 2
    assert values["is_ramanujan"] == verdict


def test_an_empty_layer_is_a_row_not_an_error():
    values = sift_graph.measure(np.zeros((4, 5), dtype=bool), np.ones((4, 5)))
    assert values["note"] == "empty"
    assert (values["edges"], values["density"], values["n_subgraphs"]) == (0, 0.0, 0)
    assert values["is_ramanujan"] is None
    undefined = [n for n in CORE if is_missing(values[n])]
    assert {"sigma_1", "sigma_2", "bound", "ramanujan_gap", "imdb", "weighted_spectral_gap"} <= set(undefined)


@pytest.mark.parametrize(
    ("weight", "word"),
    [(None, "no_weights"), (np.inf, "weights_not_finite"), (np.nan, "weights_not_finite"), (0.0, "weights_all_zero")],
)
def test_bad_weights_leave_the_mask_metrics_alone(weight, word):
    mask, _ = golden_mask()
    full = None if weight is None else np.where(mask, weight, 1.0)
    values = sift_graph.measure(mask, full)
    assert values["ramanujan_gap"] == pytest.approx(0.9030044752)
    assert values["imdb"] == pytest.approx(1.0428214755)
    assert math.isnan(values["weighted_spectral_gap"])
    assert math.isnan(values["imsg"])
    assert values["note"] == word


def test_newborn_zero_weights_are_edges():
    mask, weight = golden_mask()
    newborn = weight.copy()
    newborn[mask & (np.arange(20) % 2 == 0)] = 0.0
    assert sift_graph.measure(mask, newborn)["sigma_2"] == sift_graph.measure(mask, weight)["sigma_2"]
    assert sift_graph.measure(mask, newborn)["edges"] == 80


def test_a_solver_that_gives_up_is_a_note(monkeypatch):
    def fail(*args, **options):
        raise SpectrumError("no luck")

    monkeypatch.setattr("sift_graph.spectrum.leading", fail)
    values = sift_graph.measure(np.ones((3, 3), dtype=bool))
    assert math.isnan(values["sigma_2"])
    assert "not_converged" in values["note"]
    assert values["edges"] == 9


def test_a_depthwise_layer_is_disjoint_stars():
    values = sift_graph.measure(np.ones((6, 1, 3, 3), dtype=bool), groups=6)
    assert (values["sigma_1"], values["sigma_2"]) == (pytest.approx(3), pytest.approx(3))
    assert values["normalised_sigma_2"] == pytest.approx(1)
    assert values["ramanujan_gap"] == pytest.approx(math.sqrt(8) - 3)


def test_two_class_masks_have_two_complete_subgraphs():
    mask = np.zeros((7, 9), dtype=bool)
    mask[:, :4] = True
    mask[:3, 4:] = True
    values = sift_graph.measure(mask, np.full(mask.shape, 2.0))
    bounds = math.sqrt(6) + math.sqrt(3), math.sqrt(2) + math.sqrt(4)
    assert values["imdb"] == pytest.approx(sum(bounds) / 2)
    assert values["imdb_norm"] == pytest.approx(1)
    assert values["imsg"] == pytest.approx(2 * (math.sqrt(28) + math.sqrt(15)) / 2)
    assert (values["n_subgraphs"], values["edge_coverage"]) == (2, 1.0)


def test_a_tensor_is_as_good_as_an_array():
    torch = pytest.importorskip("torch", reason="torch is an extra")
    mask, weight = golden_mask()
    values = sift_graph.measure(torch.tensor(mask), torch.nn.Parameter(torch.tensor(weight)))
    assert values == sift_graph.measure(mask, weight)


def test_only_what_was_asked_for():
    values = sift_graph.measure(np.ones((3, 4), dtype=bool), metrics="sigma_1")
    assert values["sigma_1"] == pytest.approx(math.sqrt(12))
    assert "sigma_2" not in values
    assert values["note"] == ""
    assert select(None) == select("core") == list(CORE)


def test_bad_input_says_how_to_mend_it():
    with pytest.raises(UsageError, match="no metric 'sigma2'; did you mean 'sigma_2'"):
        sift_graph.measure(np.ones((2, 2), dtype=bool), metrics=["sigma2"])
    with pytest.raises(MaskError, match=r"zeros and ones, found 0\.5 at \(0, 1\).*mask >= threshold"):
        sift_graph.measure(np.array([[1.0, 0.5]]))
    with pytest.raises(MaskError, match=r"2 or more axes.*found shape \(3,\)"):
        sift_graph.measure(np.ones(3, dtype=bool))
    with pytest.raises(MaskError, match=r"mask has shape \(2, 2\) and the weight \(2, 3\)"):
        sift_graph.measure(np.ones((2, 2), dtype=bool), np.ones((2, 3)))
    with pytest.raises(MaskError, match="3 groups do not divide its 4 outputs"):
        sift_graph.measure(np.ones((4, 2), dtype=bool), groups=3)


def independent(seed, density=0.3, shape=(60, 70)):
    return LayerMask.from_dense("a", np.random.default_rng(seed).random(shape) < density)


def test_dynamics_of_independent_masks_are_those_of_theory():
    history = History()
    first = history.update(independent(1))
    assert math.isnan(first["iou_previous"])
    assert first["itop_rate"] == pytest.approx(independent(1).density)
    then = history.update(independent(2))
    assert then["iou_previous"] == then["iou_first"] == pytest.approx(0.3 / 1.7, abs=0.02)
    assert then["hamming_previous"] == pytest.approx(2 * 0.3 * 0.7, abs=0.02)
    assert then["itop_rate"] == pytest.approx(1 - 0.7**2, abs=0.02)


def test_dynamics_of_a_static_mask_stand_still():
    history = History()
    for _ in range(3):
        values = history.update(independent(1))
    assert values == {
        "hamming_previous": 0,
        "iou_previous": 1,
        "hamming_first": 0,
        "iou_first": 1,
        "itop_rate": independent(1).density,
    }
    assert set(values) == set(CORE_DYNAMICS)


def test_dropping_a_share_without_regrowth_gives_that_iou():
    mask = independent(1).mask
    dropped = mask.copy()
    on = np.flatnonzero(mask)
    dropped.reshape(-1)[on[: len(on) // 4]] = False
    history = History()
    history.update(LayerMask.from_dense("a", mask))
    values = history.update(LayerMask.from_dense("a", dropped))
    assert values["iou_previous"] == pytest.approx(dropped.sum() / mask.sum())


def test_a_layer_that_changes_shape_starts_afresh():
    history = History()
    history.update(independent(1))
    values = history.update(independent(2, shape=(5, 9)))
    assert math.isnan(values["iou_previous"])
