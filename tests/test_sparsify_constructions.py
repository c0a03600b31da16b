"""Masks of known structure: equal density and fan-in whatever the strength, and a gap that follows the dial."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sift_graph import measure
from sift_graph.errors import MaskError
from sift_graph.sparsify import MethodOptions, lay_out
from sift_graph.sparsify.binding import bind
from sift_graph.sparsify.constructions import CONSTRUCTIONS, construct
from sift_graph.sparsify.incidence import incidence, net, plane
from sift_graph.sparsify.lifts import lift, most_layers

SHAPE, COUNT = (24, 24, 3, 3), 24 * 22 + 5


def draw(name, strength=0.0, seed=0, shape=SHAPE, count=COUNT):
    return construct(name, shape, count, np.random.default_rng(seed), strength=strength)


def mean_gap(name, strength=0.0):
    return np.mean([measure(draw(name, strength, seed))["ramanujan_gap_norm"] for seed in range(6)])


@given(
    name=st.sampled_from(sorted(set(CONSTRUCTIONS) - {"incidence", "lifts"})),  # which have few sizes
    outputs=st.integers(1, 9),
    channels=st.integers(1, 9),
    kernel=st.sampled_from([(), (1, 1), (3, 3)]),
    share=st.floats(0.01, 1),
    strength=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_every_output_has_the_same_fan_in(name, outputs, channels, kernel, share, strength, seed):
    shape = (outputs, channels, *kernel)
    count = max(outputs, round(share * np.prod(shape)))
    if name in ("community", "aligned_community") and min(outputs, channels) < 2:
        return
    given_strength = strength if name in ("community", "aligned_community", "hubs") else 0
    mask = draw(name, given_strength, seed, shape, count)
    assert mask.dtype == np.bool_
    assert mask.shape == shape
    assert set(mask.reshape(outputs, -1).sum(axis=1)) == {count // outputs}


def test_the_gap_falls_with_the_strength_of_communities():
    gaps = [mean_gap("community", strength) for strength in (0, 0.5, 0.75, 0.9, 1)]
    assert all(np.diff(gaps) < 0)
    assert gaps[0] - gaps[-1] > 0.25


def test_full_strength_is_two_components_and_no_strength_a_random_mask():
    assert measure(draw("community", 1.0), metrics=["n_components"])["n_components"] == 2
    four = construct("community", SHAPE, COUNT, np.random.default_rng(0), strength=1.0, communities=4)
    assert measure(four, metrics=["n_components"])["n_components"] == 4
    random = [measure(draw("hubs", 0.0, seed))["ramanujan_gap_norm"] for seed in range(6)]
    assert mean_gap("community") == pytest.approx(np.mean(random), abs=0.02)


def test_aligned_communities_are_the_same_in_every_layer():
    first = draw("aligned_community", 1.0).any(axis=(2, 3))
    assert not first[:12, 12:].any()
    assert not first[12:, :12].any()
    assert draw("community", 1.0).any(axis=(2, 3))[:12, 12:].any()


def test_hubs_spread_the_fan_out_and_even_does_not():
    def spread(name, strength=0.0):
        return measure(draw(name, strength), metrics=["cv_left_degree_all"])["cv_left_degree_all"]

    assert spread("hubs", 0.5) < spread("hubs", 1.0) < spread("hubs", 1.5)
    degrees = draw("even").sum(axis=0)
    assert np.ptp(degrees) <= 1
    assert spread("even") < spread("hubs", 0.0) < spread("hubs", 1.0)


@given(
    base=st.integers(1, 5).flatmap(
        lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1, max_size=5)
    ),
    layers=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_a_lift_keeps_degrees_and_holds_the_spectrum_of_its_base(base, layers, seed):
    base = np.array(base)
    lifted = lift(base, layers, np.random.default_rng(seed))
    blocks = lifted.reshape(base.shape[0], layers, base.shape[1], layers)
    assert (blocks.sum(axis=1) == base[:, :, None]).all()  # a permutation for each edge, nothing elsewhere
    assert (blocks.sum(axis=3) == base[:, None, :]).all()
    of_base, of_lift = (np.linalg.eigvalsh((b.T @ b).astype(float)) for b in (base.astype(float), lifted.astype(float)))
    assert all(np.abs(of_lift - value).min() < 1e-9 * (1 + value) for value in of_base)


def test_lifts_have_the_fan_in_and_even_fan_out_and_the_gap_of_random_masks():
    assert [most_layers(*sizes) for sizes in ((24, 216, 22), (24, 216, 216), (7, 30, 2), (8, 12, 3))] == [8, 1, 1, 4]
    mask = draw("lifts", count=24 * 18)  # 8 copies of 3 outputs and 27 inputs: fan-out 2
    assert (mask.sum(axis=(1, 2, 3)) == 18).all()
    assert (mask.sum(axis=0) == 2).all()
    assert (draw("lifts", seed=1, count=24 * 18) != mask).any()
    with pytest.raises(MaskError, match=r"7 outputs, 30 inputs and fan-in 2 are no lift of a smaller graph"):
        construct("lifts", (7, 30), 14, np.random.default_rng(0))


def test_low_overlap_is_better_than_random():
    random, even, best = mean_gap("hubs"), mean_gap("even"), mean_gap("low_overlap")
    assert best > even + 0.02
    assert best > random + 0.04
    assert np.ptp(draw("low_overlap").sum(axis=0)) <= 1


@pytest.mark.parametrize("name", ["even", "hubs"])
def test_binding_lowers_the_gap_and_keeps_every_degree(name):
    strength = 1.0 if name == "hubs" else 0.0

    def bound(binding):
        generator = np.random.default_rng(3)
        return construct(
            name, (32, 32, 3, 3), 1152, generator, strength=strength, communities=4, binding=binding
        ).reshape(32, -1)

    levels = [bound(binding) for binding in (0, 0.5, 0.75, 1)]
    for mask in levels[1:]:
        assert (mask.sum(axis=0) == levels[0].sum(axis=0)).all()
        assert (mask.sum(axis=1) == levels[0].sum(axis=1)).all()
    gaps = [measure(mask)["ramanujan_gap_norm"] for mask in levels]
    assert all(np.diff(gaps) < -0.1)


def test_binding_brings_home_the_share_that_is_asked_for():
    mine = np.arange(40) % 4
    mask = construct("even", (40, 40), 400, np.random.default_rng(0))
    away = mine[:, None] != mine
    for share in (0.0, 0.3, 0.6, 1.0):
        left = bind(mask, mine, mine, share, np.random.default_rng(1)) & away
        assert left.sum() == pytest.approx((1 - share) * (mask & away).sum(), abs=0.05 * mask.sum() * (share == 1) + 2)


@pytest.mark.parametrize("q", [2, 3, 5, 7])
def test_planes_and_nets_have_the_spectra_of_their_geometry(q):
    sigma = np.linalg.svd(plane(q).astype(float), compute_uv=False)
    assert sigma == pytest.approx([q + 1] + [q**0.5] * (q * q + q))
    assert measure(plane(q))["ramanujan_gap_norm"] == pytest.approx(0.5)
    for classes in range(1, q + 2):
        lines = net(q, classes)
        assert (lines.sum(axis=1) == q).all()
        assert (lines.sum(axis=0) == classes).all()
        sigma = np.linalg.svd(lines.astype(float), compute_uv=False)
        assert sigma[0] == pytest.approx((classes * q) ** 0.5)
        assert sigma[1 : 1 + classes * (q - 1)] == pytest.approx([q**0.5] * (classes * (q - 1)))


def test_incidence_structures_are_found_by_their_sizes_and_relabelled():
    assert incidence(57, 57, 8).sum() == 456
    assert incidence(35, 49, 7).shape == (35, 49)
    for sizes in ((57, 57, 7), (73, 73, 9), (72, 49, 7), (30, 25, 6)):  # 73: a plane over 8, which is no prime
        assert incidence(*sizes) is None
    first, second = (draw("incidence", 0, seed, (57, 57), 456) for seed in (0, 1))
    assert (first != second).any()
    assert measure(first)["ramanujan_gap_norm"] == pytest.approx(0.5)
    with pytest.raises(MaskError, match=r"there is none of 24 outputs, 216 inputs and fan-in 22; for a prime q take"):
        draw("incidence")


def test_kernels_are_whole_spread_or_at_the_same_positions():
    whole, spread, same = (draw(name) for name in ("whole_kernels", "spread_kernels", "same_positions"))
    degree, positions = COUNT // 24, 9
    assert set(whole.any(axis=(2, 3)).sum(axis=1)) == {-(-degree // positions)}
    assert set(spread.any(axis=(2, 3)).sum(axis=1)) == {degree}  # 22 of 24 channels: one position each
    assert same.any(axis=(0, 1)).sum() == 1


def test_a_strength_that_does_not_fit_is_said():
    with pytest.raises(
        MaskError, match=r"'community': expected a strength in \[0, 1\], found 1.5; set options.strength"
    ):
        draw("community", 1.5)
    with pytest.raises(MaskError, match=r"'even': expected a strength 0, as it has none, found 0.5"):
        draw("even", 0.5)
    with pytest.raises(MaskError, match=r"expected 1 to 24 communities for 24 outputs and 24 channels, found 25"):
        construct("community", SHAPE, COUNT, np.random.default_rng(0), communities=25)
    with pytest.raises(MaskError, match=r"expected 1 or more weights for each of 24 outputs, found 20 in all"):
        draw("hubs", count=20)


def test_a_model_takes_them_as_its_first_masks():
    model = nn.Sequential(nn.Conv2d(6, 8, 3, bias=False), nn.Conv2d(8, 8, 3, bias=False))
    counts = {"0.weight": 100, "1.weight": 100}
    masks = lay_out(model, counts, layout="community", seed=1, options=MethodOptions(strength=1.0))
    again = lay_out(model, counts, layout="community", seed=1, options=MethodOptions(strength=1.0))
    assert masks.edges() == {"0.weight": 96, "1.weight": 96}
    for name, mask in masks.masks().items():
        assert (mask == again.masks()[name]).all()
        assert measure(mask, metrics=["n_components"])["n_components"] >= 2
