"""Distributions and the schedule of mask updates."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sift_graph.errors import UsageError
from sift_graph.sparsify import DISTRIBUTIONS, Schedule, densities, layer_counts

SIDE = st.integers(1, 40)
SHAPE = st.one_of(st.tuples(SIDE, SIDE), st.tuples(SIDE, SIDE, st.sampled_from([1, 3, 5]), st.sampled_from([1, 3, 5])))
SHAPES = st.lists(SHAPE, min_size=1, max_size=8).map(lambda shapes: {f"layer{i}": s for i, s in enumerate(shapes)})
DENSITY = st.floats(0.02, 1.0)
PROPORTIONAL = [name for name in DISTRIBUTIONS if name != "uniform_plus"]  # that can be met at any density
EXACT = [name for name in PROPORTIONAL if name != "constant_fan_in"]


@pytest.mark.parametrize("distribution", PROPORTIONAL)
@given(shapes=SHAPES, density=DENSITY)
def test_densities_are_fractions_and_meet_the_total(distribution, shapes, density):
    layers = densities(shapes, density, distribution=distribution)
    assert all(0 < d <= 1 + 1e-12 for d in layers.values())
    size = sum(map(math.prod, shapes.values()))
    assert sum(layers[name] * math.prod(shape) for name, shape in shapes.items()) == pytest.approx(density * size)


@pytest.mark.parametrize("distribution", PROPORTIONAL)
@given(shapes=SHAPES, density=DENSITY, cost=st.lists(st.integers(1, 1000), min_size=8, max_size=8))
def test_with_costs_the_total_is_of_macs(distribution, shapes, density, cost):
    costs = dict(zip(shapes, cost, strict=False))
    layers = densities(shapes, density, distribution=distribution, costs=costs)
    assert all(0 < d <= 1 + 1e-12 for d in layers.values())
    macs = {name: math.prod(shape) * costs[name] for name, shape in shapes.items()}
    assert sum(layers[name] * macs[name] for name in shapes) == pytest.approx(density * sum(macs.values()))


@pytest.mark.parametrize("distribution", EXACT)
@given(shapes=SHAPES, density=DENSITY)
def test_counts_add_up_and_each_is_within_one(distribution, shapes, density):
    exact = densities(shapes, density, distribution=distribution)
    targets = {name: exact[name] * math.prod(shape) for name, shape in shapes.items()}
    assume(min(targets.values()) >= 1)
    counts = layer_counts(shapes, density, distribution=distribution)
    assert sum(counts.values()) == round(sum(targets.values()))
    assert all(1 <= counts[name] <= math.prod(shape) for name, shape in shapes.items())
    assert all(abs(counts[name] - targets[name]) < 1 + 1e-9 for name in shapes)


@given(shapes=st.lists(st.tuples(SIDE, SIDE), min_size=1, max_size=8), density=DENSITY)
def test_er_and_erk_agree_on_linear_layers(shapes, density):
    named = {f"layer{i}": shape for i, shape in enumerate(shapes)}
    er = densities(named, density, distribution="er")
    assert er == pytest.approx(densities(named, density, distribution="erk"))


def test_uniform_is_the_same_everywhere():
    assert set(densities({"a": (3, 4), "b": (5, 6, 3, 3)}, 0.3).values()) == {0.3}


def test_erk_by_hand():
    # p is 6/9 for a and 18/81 for b. 0.5 (9 + 81) = eps (6 + 18) gives eps = 1.875, and a a density of 1.25.
    # So a is dense; then 45 - 9 = eps 18 gives eps = 2, and b a density of 2 * 18 / 81.
    layers = densities({"a": (3, 3), "b": (9, 9)}, 0.5, distribution="erk")
    assert layers == pytest.approx({"a": 1.0, "b": 36 / 81})


def test_erk_makes_thin_layers_dense_all_ties_at_once():
    layers = densities({"a": (4, 4), "b": (4, 4), "c": (64, 64)}, 0.1, distribution="erk")
    assert layers["a"] == layers["b"] == 1.0
    assert layers["c"] == pytest.approx((0.1 * (16 + 16 + 4096) - 32) / 4096)


def test_uniform_plus_spares_the_ends():
    shapes = {"a": (10, 10), "b": (20, 20), "c": (20, 20), "d": (10, 10)}
    layers = densities(shapes, 0.5, distribution="uniform_plus")
    assert layers == pytest.approx({"a": 1.0, "b": 400 / 900, "c": 400 / 900, "d": 400 / 900})
    layers = densities(shapes, 0.15, distribution="uniform_plus")
    assert layers == pytest.approx({"a": 1.0, "b": 30 / 800, "c": 30 / 800, "d": 0.2})
    with pytest.raises(UsageError, match=r"layers that it keeps dense use up a density of 0\.1; lower the sparsity"):
        densities(shapes, 0.1, distribution="uniform_plus")
    assert set(densities({"a": (10, 10), "b": (20, 20)}, 0.1, distribution="uniform_plus").values()) == {0.1}


def test_balanced_gives_equal_counts_and_the_rest_to_those_that_can():
    shapes = {"a": (2, 3), "b": (10, 10), "c": (20, 20)}
    assert layer_counts(shapes, 166 / 506, distribution="balanced") == {"a": 6, "b": 80, "c": 80}


@given(shapes=SHAPES, density=DENSITY)
def test_constant_fan_in_is_whole_and_near(shapes, density):
    counts = layer_counts(shapes, density, distribution="constant_fan_in")
    for name, shape in shapes.items():
        degree, rest = divmod(counts[name], shape[0])
        assert not rest
        assert degree == 1 or abs(degree - density * math.prod(shape[1:])) <= 0.5 + 1e-9


def test_everything_is_dense_at_density_one():
    shapes = {"a": (4, 4), "b": (64, 8, 3, 3)}
    for distribution in DISTRIBUTIONS:
        assert layer_counts(shapes, 1.0, distribution=distribution) == {"a": 16, "b": 4608}


def test_errors_say_what_to_do():
    with pytest.raises(UsageError, match="did you mean 'erk'"):
        densities({"a": (3, 3)}, 0.5, distribution="erkk")
    with pytest.raises(UsageError, match="above 0 and at most 1, found 0"):
        densities({"a": (3, 3)}, 0)
    with pytest.raises(
        UsageError, match=r"layer 'a': a density of 0\.01 keeps none of its 9 weights; lower the sparsity"
    ):
        layer_counts({"a": (3, 3), "b": (100, 100)}, 0.01)


@given(begin=st.integers(0, 60), length=st.integers(1, 200), every=st.integers(1, 50))
def test_a_schedule_lists_exactly_the_steps_that_are_updates(begin, length, every):
    schedule = Schedule(begin, begin + length, every=every)
    assert schedule.updates == [t for t in range(begin + length + every) if schedule.is_update(t)]
    assert all(begin < t < begin + length and t % every == 0 for t in schedule.updates)


def test_the_published_numbers_of_updates():
    assert len(Schedule(0, 58_650, every=100).updates) == 586  # CIFAR-100: 200 epochs of 391 steps, to 75 %
    assert len(Schedule(0, 337_837, every=100).updates) == 3378  # ImageNet: 90 epochs of 5005
    schedule = Schedule(0, 58_650, every=100, drop_fraction=0.3)
    assert sum(map(schedule.fraction, schedule.updates)) == pytest.approx(87.8, abs=0.05)


def test_the_fraction_falls_as_a_cosine():
    schedule = Schedule(100, 300, every=10, drop_fraction=0.4)
    assert schedule.fraction(100) == pytest.approx(0.4)
    assert schedule.fraction(150) == pytest.approx(0.2 + 0.2 * math.sqrt(0.5))
    assert schedule.fraction(200) == pytest.approx(0.2)
    assert schedule.fraction(300) == pytest.approx(0)


def test_schedules_that_cannot_be_are_refused():
    with pytest.raises(UsageError, match=r"ends at step 5, before or where it begins \(5\)"):
        Schedule(5, 5)
    with pytest.raises(UsageError, match="1 or more steps between two mask updates, found 0"):
        Schedule(0, 5, every=0)
    with pytest.raises(UsageError, match=r"drop fraction in \[0, 1\], found 1\.5"):
        Schedule(0, 5, drop_fraction=1.5)
    with pytest.raises(UsageError, match=r"drop floor between 0 and the drop fraction of 0\.3, found 0\.4"):
        Schedule(0, 5, drop_floor=0.4)


def test_the_fraction_may_end_above_zero():
    schedule = Schedule(0, 100, every=10, drop_fraction=0.5, drop_floor=0.005)  # ITOP
    assert schedule.fraction(0) == pytest.approx(0.5)
    assert schedule.fraction(50) == pytest.approx((0.5 + 0.005) / 2)
    assert schedule.fraction(100) == pytest.approx(0.005)
