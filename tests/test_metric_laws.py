"""Laws that every metric obeys, as far as it declares them: a new metric joins by being registered."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sift_graph
from sift_graph.graph import BipartiteGraph
from sift_graph.masks import LayerMask
from sift_graph.metrics import (
    COSTS,
    DYNAMICS,
    GROUPS,
    METRICS,
    NETWORK_METRICS,
    History,
    is_missing,
    measure_layer,
    select,
)

EVERYTHING = {**METRICS, **DYNAMICS, **NETWORK_METRICS}
CASES = ["uniform", "sparse", "hubs", "blocks", "matching", "complete", "one row", "one edge", "tree", "grouped"]


def case(kind, seed=3):
    """A mask of each kind that metrics meet, with weights and gradients."""
    rng = np.random.default_rng(seed)
    mask = {
        "uniform": lambda: rng.random((9, 14)) < 0.45,
        "sparse": lambda: rng.random((12, 15)) < 0.12,
        "hubs": lambda: rng.random((10, 13)) < np.linspace(0.05, 0.95, 13) ** 2,
        "blocks": lambda: np.kron(np.eye(2), np.ones((4, 5))) > 0,
        "matching": lambda: np.eye(6, dtype=bool),
        "complete": lambda: np.ones((4, 7), dtype=bool),
        "one row": lambda: np.ones((1, 5), dtype=bool),
        "one edge": lambda: np.eye(1, dtype=bool),
        "tree": lambda: np.array([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1]], dtype=bool),
        "grouped": lambda: rng.random((8, 3, 2, 2)) < 0.6,
    }[kind]()
    weight, gradient = rng.standard_normal((2, *mask.shape))
    return mask, weight, gradient, 4 if kind == "grouped" else 1


def names_but_dynamics():
    return [name for name in METRICS if METRICS[name].scope == "layer"]


def measure(mask, weight, gradient, groups=1, names=None):
    layer = LayerMask.from_dense("law", mask, weight, groups=groups)
    graph = BipartiteGraph.from_mask(layer)
    of_gradient = BipartiteGraph.from_mask(LayerMask.from_dense("law", mask, gradient, groups=groups))
    return measure_layer(graph, names or names_but_dynamics(), gradient=of_gradient)


def agree(a, b, accuracy):
    if is_missing(a) or is_missing(b):
        return is_missing(a) and is_missing(b)
    if isinstance(a, str):
        return a == b or "undecided" in (a, b)  # a bound attained exactly is decided by luck of rounding
    return a == b or a == pytest.approx(b, abs=max(accuracy, 1e-8), rel=max(accuracy, 1e-6))


def differing(a, b, law, other=lambda metric: metric.name, scale=lambda metric: 1.0):
    """Names of the metrics that promise a law and break it."""
    return {
        metric.name: (a[metric.name], b[other(metric)])
        for metric in METRICS.values()
        if law(metric.laws) and not agree(a[metric.name], _times(b[other(metric)], scale(metric)), metric.laws.accuracy)
    }


def _times(value, factor):
    return value * factor if isinstance(value, int | float) and factor != 1.0 else value


@pytest.mark.parametrize("name", sorted(EVERYTHING))
def test_every_metric_is_documented(name):
    metric = EVERYTHING[name]
    assert metric.name == name
    for text in (metric.formula, metric.values, metric.undefined, metric.source):
        assert text
    assert metric.group in GROUPS
    if metric.origin == "sift_graph":
        assert metric.cost in COSTS
        assert metric.predicts, "say what the value tells, and what it does not"
        assert metric.oracle, "say what its values are tested against"
        assert metric.group != "custom"


@pytest.mark.parametrize("kind", CASES)
def test_numbering_the_vertices_otherwise_changes_nothing(kind):
    mask, weight, gradient, groups = case(kind)
    rng = np.random.default_rng(0)
    per_group = len(mask) // groups
    rows = np.concatenate([g * per_group + rng.permutation(per_group) for g in range(groups)])
    if groups == 1:
        columns = rng.permutation(mask.shape[1])
        there = measure(*(x[rows][:, columns] for x in (mask, weight, gradient)))
    else:
        there = measure(*(x[rows][:, ::-1] for x in (mask, weight, gradient)), groups)
    assert not differing(measure(mask, weight, gradient, groups), there, lambda laws: laws.relabelled)


@pytest.mark.parametrize("kind", [k for k in CASES if k != "grouped"])
def test_vertices_without_an_edge_change_nothing(kind):
    mask, weight, gradient, _ = case(kind)
    padded = [np.pad(x, ((0, 3), (2, 0))) for x in (mask, weight, gradient)]
    assert not differing(measure(mask, weight, gradient), measure(*padded), lambda laws: laws.padded)


@pytest.mark.parametrize("kind", [k for k in CASES if k != "grouped"])
def test_exchanging_the_sides_exchanges_the_columns(kind):
    mask, weight, gradient, _ = case(kind)
    here, there = measure(mask, weight, gradient), measure(mask.T, weight.T, gradient.T)
    broken = differing(
        here, there, lambda laws: laws.transposed is not None, other=lambda m: m.laws.transposed or m.name
    )
    assert not broken


@pytest.mark.parametrize("kind", CASES)
def test_scaling_the_weights_scales_as_declared(kind):
    mask, weight, gradient, groups = case(kind)
    once, thrice = measure(mask, weight, gradient, groups), measure(mask, -3 * weight, gradient, groups)
    broken = differing(
        thrice,
        once,
        lambda laws: laws.degree is not None,
        scale=lambda m: 3.0**m.laws.degree,
    )
    signed = {name for name in broken if METRICS[name].group == "fullspectrum_v0"}  # drops negative weights
    assert not set(broken) - signed


@pytest.mark.parametrize("name", sorted(METRICS))
def test_an_empty_layer_has_a_value_or_a_word(name):
    values = sift_graph.measure(np.zeros((4, 5), dtype=bool), np.ones((4, 5)), metrics=[name])
    assert not is_missing(values[name]) or values["note"]


@pytest.mark.parametrize("kind", CASES)
def test_what_is_undefined_says_why_and_numbers_are_plain(kind):
    mask, weight, gradient, groups = case(kind)
    for name in names_but_dynamics():
        values = measure(mask, weight, gradient, groups, names=[name])
        if is_missing(values[name]):
            assert values["note"], name
        else:
            assert isinstance(values[name], int | float | str), name
            assert METRICS[name].missing is None or not isinstance(values[name], str), name


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.15, 0.4, 0.8]))
def test_the_core_obeys_the_laws_on_any_mask(seed, density):
    rng = np.random.default_rng(seed)
    mask = rng.random((9, 14)) < density
    weight = rng.standard_normal(mask.shape)
    rows, columns = rng.permutation(9), rng.permutation(14)
    core = [METRICS[name] for name in select("core")]
    here = sift_graph.measure(mask, weight)
    there = sift_graph.measure(mask[rows][:, columns], weight[rows][:, columns])
    padded = sift_graph.measure(np.pad(mask, ((0, 3), (2, 0))), np.pad(weight, ((0, 3), (2, 0))))
    for metric in core:
        assert agree(here[metric.name], there[metric.name], metric.laws.accuracy), metric.name
        if metric.laws.padded:
            assert agree(here[metric.name], padded[metric.name], metric.laws.accuracy), metric.name


def chain(rng, weights=True):
    """A layer over five updates, as packed masks with weights."""
    mask = rng.random((6, 9)) < 0.4
    for _ in range(5):
        yield mask, rng.standard_normal(mask.shape) if weights else None
        mask = mask ^ (rng.random(mask.shape) < 0.15)


def follow(masks):
    history = History(DYNAMICS)
    for mask, weight in masks:
        values = history.noted_update(LayerMask.from_dense("law", mask, weight))
    return values


def test_dynamics_obey_their_laws():
    base = list(chain(np.random.default_rng(5)))
    here = follow(base)
    rng = np.random.default_rng(1)
    rows, columns = rng.permutation(6), rng.permutation(9)
    there = follow([(m[rows][:, columns], w[rows][:, columns]) for m, w in base])
    padded = follow([(np.pad(m, ((0, 2), (1, 0))), np.pad(w, ((0, 2), (1, 0)))) for m, w in base])
    for metric in DYNAMICS.values():
        assert not math.isnan(here[metric.name]) or metric.name == "half_life", metric.name
        if metric.laws.relabelled:
            assert agree(here[metric.name], there[metric.name], 1e-8), metric.name
        if metric.laws.padded:
            assert agree(here[metric.name], padded[metric.name], 1e-8), metric.name


@pytest.mark.parametrize("name", sorted(DYNAMICS))
def test_dynamics_of_an_empty_layer_have_a_value_or_a_word(name):
    history = History([name])
    for _ in range(2):
        values = history.noted_update(LayerMask.from_dense("law", np.zeros((3, 4), dtype=bool)))
    assert not math.isnan(values[name]) or values["note"] or name == "half_life"
