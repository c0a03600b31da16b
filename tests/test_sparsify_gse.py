"""Guided stochastic exploration: its samples, bounds and estimates, and its exchange of connections."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import nn
from torch.nn import functional

from sift_graph.errors import UsageError
from sift_graph.sparsify import METHODS, MaskSet, MethodOptions, Schedule
from sift_graph.sparsify.exploration import SAMPLINGS, exchange, pair_gradients, propose, sample_pairs
from sift_graph.sparsify.gse import Explore, input_rows, output_rows
from tests.sparse_run import COUNTS, SCHEDULE, Run

GSE = ["gse_uniform", "gse_grabo", "gse_graest"]


@pytest.mark.parametrize("groups", [1, 3])
def test_pairs_are_drawn_by_the_product_of_their_weights(groups):
    generator = np.random.default_rng(0)
    left, right = generator.random((groups, 5)) + 0.05, generator.random((groups, 4)) + 0.05
    columns, outputs = sample_pairs(left, right, 60_000, np.random.default_rng(1))
    joint = np.zeros((groups * 4, 5))
    np.add.at(joint, (outputs, columns), 1)
    expected = (right[:, :, None] * left[:, None, :]).reshape(groups * 4, 5)
    expected *= joint.sum() / expected.sum()
    assert stats.chisquare(joint.ravel(), expected.ravel()).pvalue > 0.01
    assert stats.chisquare(joint.sum(0), expected.sum(0)).pvalue > 0.01
    assert stats.chisquare(joint.sum(1), expected.sum(1)).pvalue > 0.01
    # The test can fail: against weights that are a little off, it does.
    assert stats.chisquare(joint.ravel(), np.full(joint.size, joint.mean())).pvalue < 1e-10


def test_a_vertex_without_weight_is_never_drawn_and_all_zero_is_uniform():
    columns, outputs = sample_pairs(np.array([[0.0, 1.0, 0.0]]), np.array([[1.0, 0.0]]), 100, np.random.default_rng(0))
    assert set(columns) == {1}
    assert set(outputs) == {0}
    columns, outputs = sample_pairs(np.zeros((1, 3)), np.zeros((1, 2)), 200, np.random.default_rng(0))
    assert set(zip(columns, outputs, strict=True)) == set(itertools.product(range(3), range(2)))


@given(seed=st.integers(0, 1000), rows=st.integers(1, 6))
def test_grabo_bounds_every_gradient_and_is_exact_for_one_row(seed, rows):
    generator = torch.Generator().manual_seed(seed)
    h, delta = (torch.randn(rows, n, generator=generator, dtype=torch.float64) for n in (5, 4))
    bound = SAMPLINGS["grabo"](delta, torch.empty(0))[:, None] * SAMPLINGS["grabo"](h, torch.empty(0))
    gradient = (delta.T @ h).abs()
    assert (gradient <= bound + 1e-12).all()
    if rows == 1:
        assert torch.allclose(gradient, bound)


def test_graest_is_the_gradient_on_average_over_all_signs():
    torch.manual_seed(0)
    h, delta = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    total = torch.zeros(4, 5, dtype=torch.float64)
    for signs in itertools.product((-1.0, 1.0), repeat=6):
        s = torch.tensor(signs, dtype=torch.float64)
        total += SAMPLINGS["graest"](delta, s)[:, None] * SAMPLINGS["graest"](h, s)
    assert torch.allclose(total / 64, delta.T @ h)


@given(st.integers(0, 1000), st.integers(0, 60))
def test_candidates_are_new_and_at_most_as_many_as_asked_for(seed, count):
    generator = np.random.default_rng(seed)
    active = np.flatnonzero(generator.random(7 * 9) < 0.3)
    candidates = propose(active, generator.random((1, 9)), generator.random((1, 7)), count, generator)
    assert len(candidates) <= count
    assert not np.isin(candidates, active).any()
    assert (np.diff(candidates) > 0).all()
    assert ((candidates >= 0) & (candidates < 63)).all()
    weights, gradients = generator.random(len(active)), generator.random(len(candidates))
    k = min(5, len(active), len(candidates))
    new = exchange(active, weights, candidates, gradients, k)
    dropped, grown = np.setdiff1d(active, new), np.setdiff1d(new, active)
    assert len(dropped) == len(grown) == k
    assert set(dropped) == set(active[np.argsort(weights)[:k]])
    assert set(grown) == set(candidates[np.argsort(-gradients)[:k]])


MODULES = {
    "linear": (lambda: nn.Linear(5, 4), (3, 2, 5)),
    "conv": (lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1), (2, 3, 7, 6)),
    "same": (lambda: nn.Conv2d(3, 4, (3, 2), padding="same", dilation=2, padding_mode="circular"), (2, 3, 7, 6)),
    "grouped": (lambda: nn.Conv2d(6, 4, 3, groups=2), (2, 6, 5, 5)),
}


@pytest.mark.parametrize("kind", MODULES)
def test_rows_multiply_to_the_gradient_of_the_weight(kind):
    torch.manual_seed(0)
    module, x = MODULES[kind][0]().double(), torch.randn(MODULES[kind][1], dtype=torch.float64)
    y = module(x)
    delta = torch.randn_like(y)
    y.backward(delta)
    h, d = input_rows(module, x), output_rows(module, delta)
    gradient = module.weight.grad.flatten(1)
    groups = getattr(module, "groups", 1)
    parts = [b.T @ a for a, b in zip(h.chunk(groups, 1), d.chunk(groups, 1), strict=True)]
    assert torch.allclose(torch.cat(parts), gradient)
    if groups == 1:
        positions = torch.arange(gradient.numel())
        assert torch.allclose(pair_gradients(h, d, positions, chunk=64), gradient.flatten())
        assert len(pair_gradients(h, d, positions[:0])) == 0


@pytest.mark.parametrize("method", GSE)
def test_connections_are_exchanged_by_the_rule(method):
    run = Run(method)
    for _ in range(24):
        old, weights = run.mask(), run.weights()
        run.backward()
        gradient = {name: p.grad.clone().flatten().abs() for name, p in run.masks.parameters.items()}
        run.optimizer.step()
        sampled = dict(run.method._sampled)
        run.t += 1
        moved = run.method.step(run.t)
        if not moved:
            continue
        for name, mask in old.items():
            candidates, scores = sampled[name]
            assert np.array_equal(scores, gradient[name][candidates].numpy())
            active = int(mask.sum())
            k = min(math.ceil(SCHEDULE.fraction(run.t) * active), len(candidates))
            assert len(candidates) <= active
            grown, dropped = run.masks[name] & ~mask, mask & ~run.masks[name]
            assert int(grown.sum()) == int(dropped.sum()) == k
            best = candidates[np.argsort(-scores, kind="stable")[:k]]
            assert set(grown.flatten().nonzero().flatten().tolist()) == set(best.tolist())
            if k:
                assert weights[name][dropped].abs().max() <= weights[name][mask & ~dropped].abs().min()


def test_what_the_hooks_see_is_what_the_batch_brings():
    run = Run("static")
    method = Explore(run.masks, run.optimizer, Schedule(0, 9, every=1), model=run.model, sampling="grabo")
    run.backward()
    left, right = method._vertex_weights("1.weight")
    h = run.model[0](run.x).detach()
    assert left[0] == pytest.approx(h.abs().sum(0).numpy(), rel=1e-5)
    gradient = run.model[1].weight.grad.abs().numpy()
    assert (gradient <= right[0][:, None] * left[0] * (1 + 1e-5)).all()
    method = Explore(run.masks, run.optimizer, Schedule(0, 9, every=1), model=run.model, sampling="graest")
    run.backward()
    assert all(part.min() >= 0 for part in method._vertex_weights("4.weight"))


def test_a_batch_that_is_taken_again_counts_once_and_its_parts_add_up():
    run = Run("static")
    method = Explore(run.masks, run.optimizer, Schedule(0, 9, every=1), model=run.model, sampling="grabo")
    run.backward()
    once = method._vertex_weights("1.weight")
    run.backward()  # gradients are thrown away first
    assert all(np.array_equal(a, b) for a, b in zip(once, method._vertex_weights("1.weight"), strict=True))
    functional.cross_entropy(run.model(run.x), run.y).backward()
    for a, b in zip(once, method._vertex_weights("1.weight"), strict=True):
        assert b == pytest.approx(2 * a, rel=1e-5)


def test_over_all_layers_the_number_of_weights_stays_and_none_is_emptied():
    options = MethodOptions(scope="global")
    run = Run("gse_grabo", options=options, schedule=Schedule(0, 30, every=1, drop_fraction=1.0))
    for _ in range(28):
        run.step()
        edges = run.masks.edges()
        assert sum(edges.values()) == sum(COUNTS.values())
        assert min(edges.values()) >= 1
    assert edges != COUNTS
    assert METHODS["gse_grabo"].scope(options) == "global"


def test_grouped_convolutions_explore_within_their_groups():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.Flatten(), nn.LazyLinear(3))
    model(torch.zeros(1, 4, 6, 6))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    masks = MaskSet({"0.weight": model[0].weight}, {"0.weight": 20}, seed=0)
    method = Explore(masks, optimizer, Schedule(0, 9, every=1), model=model, sampling="graest")
    before = masks["0.weight"].clone()
    functional.cross_entropy(model(torch.randn(6, 4, 6, 6)), torch.randint(3, (6,))).backward()
    optimizer.step()
    assert method.step(1)
    assert masks.edges() == {"0.weight": 20}
    assert not torch.equal(before, masks["0.weight"])


def test_a_layer_that_is_neither_linear_nor_convolution_is_refused():
    model = nn.Sequential(nn.Embedding(5, 4))
    masks = MaskSet({"0.weight": model[0].weight}, {"0.weight": 5}, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(
        UsageError, match="layer '0': GSE needs inputs and outputs of a Linear or a Conv2d, found Embed"
    ):
        Explore(masks, optimizer, Schedule(0, 9, every=1), model=model, sampling="grabo")
