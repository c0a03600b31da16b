"""Spartan: the soft top-k and its gradient, and the method around them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from sift_graph.errors import UsageError
from sift_graph.sparsify import METHODS, MethodOptions, Schedule, lay_out
from sift_graph.sparsify.soft_top_k import soft_top_k
from sift_graph.sparsify.spartan import block_sums, spread_blocks
from tests.sparse_run import COUNTS, SCHEDULE, Run


@given(seed=st.integers(0, 500), share=st.floats(0.05, 0.99), sharpness=st.floats(0.5, 200))
def test_the_soft_mask_spends_its_budget_and_is_monotone(seed, share, sharpness):
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(30, generator=generator, dtype=torch.float64)
    costs = torch.randint(1, 5, (30,), generator=generator).double()
    budget = share * float(costs.sum())
    mask = soft_top_k(values, costs, budget, sharpness=sharpness)
    assert float((costs * mask).sum()) == pytest.approx(budget, rel=1e-8)
    assert ((mask >= 0) & (mask <= 1)).all()
    order = (values / costs).argsort()
    assert (mask[order].diff() >= -1e-12).all()


def test_it_is_the_fixed_point_of_sinkhorn():
    torch.manual_seed(0)
    values, costs, beta = torch.rand(20).double(), torch.randint(1, 4, (20,)).double(), 5.0
    budget = 0.3 * float(costs.sum())
    z, nu = beta * values / costs, torch.zeros(20).double()
    for _ in range(5000):
        mu = math.log(budget) - torch.logsumexp(z + nu, 0)
        nu = costs.log() - functional.softplus(z + mu)
    found = soft_top_k(values, costs, budget, sharpness=beta)
    assert torch.allclose(found, torch.sigmoid(z + mu), atol=1e-6)


def test_the_sharper_the_nearer_to_the_largest():
    values = torch.tensor([0.3, 0.9, 0.5, 0.1, 0.7], dtype=torch.float64)
    mask = soft_top_k(values, torch.ones(5).double(), 2.0, sharpness=1000.0)
    assert torch.allclose(mask, torch.tensor([0.0, 1, 0, 0, 1]).double(), atol=1e-9)
    assert torch.equal(soft_top_k(values, torch.ones(5).double(), 5.0, sharpness=3.0), torch.ones(5).double())


@pytest.mark.parametrize("sharpness", [1.0, 8.0])
@pytest.mark.parametrize("share", [0.2, 0.7])
def test_the_gradient_agrees_with_finite_differences(sharpness, share):
    torch.manual_seed(0)
    values = torch.rand(12, dtype=torch.float64, requires_grad=True)
    costs = torch.randint(1, 4, (12,)).double()
    budget = share * float(costs.sum())
    assert torch.autograd.gradcheck(lambda v: soft_top_k(v, costs, budget, sharpness=sharpness), values, atol=1e-7)


def test_everything_chosen_has_no_gradient():
    values = torch.rand(4, dtype=torch.float64, requires_grad=True)
    soft_top_k(values, torch.ones(4).double(), 4.0, sharpness=2.0).sum().backward()
    assert not values.grad.any()


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(UsageError, match=r"budget and a sharpness above 0, found 0\.0 and 2\.0"):
        soft_top_k(torch.ones(3), torch.ones(3), 0.0, sharpness=2.0)


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("block", [(1, 1), (4, 2)])
def test_gradients_of_dense_weights_are_those_of_autograd(scope, block):
    options = MethodOptions(scope=scope, block=block)
    run = Run("spartan", options=options)
    for _ in range(7):
        run.step()
    masks, method, t = run.masks, run.method, run.t
    theta = {name: masks.latent[name].clone().requires_grad_() for name in masks}
    parts = [list(masks)] if scope == "global" else [[name] for name in masks]
    size, total = block[0] * block[1], 0.0
    run.backward()
    given = {name: p.grad.clone() for name, p in masks.parameters.items()}
    for part in parts:
        values = [block_sums(theta[name].abs(), block) for name in part]
        flat = torch.cat([v.flatten() for v in values])
        soft = soft_top_k(
            flat.double(),
            torch.full_like(flat, size).double(),
            method.budget(part, t),
            sharpness=method.sharpness_at(t),
        ).to(flat.dtype)
        for name, piece, v in zip(part, soft.split([v.numel() for v in values]), values, strict=True):
            spread = spread_blocks(piece.view(v.shape), block)
            effective = (theta[name] * spread).detach() * masks[name]
            assert torch.allclose(effective, run.weights()[name], atol=1e-6)
            total = total + (given[name] * theta[name] * spread).sum()  # the hard cut is the identity backwards
    total.backward()
    found = method._pass_back(given)
    for name in masks:
        assert torch.allclose(found[name], theta[name].grad, atol=1e-6)
        assert found[name][~masks[name]].abs().min() > 0  # pruned weights learn


def test_forward_weights_number_the_budget_and_reach_the_target():
    run = Run("spartan", options=MethodOptions(scope="layer", ramp=0.5))
    sizes = {name: p.numel() for name, p in run.masks.parameters.items()}
    assert run.masks.edges() == sizes
    for _ in range(30):
        run.step()
        for name, count in run.masks.edges().items():
            assert count == int(run.method.budget([name], run.t) * (1 + 1e-12))
            assert int((run.weights()[name] != 0).sum()) == count
        if run.t == 13:  # halfway from 2 to 24
            assert run.masks.edges() == COUNTS
    assert run.masks.edges() == COUNTS


def test_schedules_of_budget_and_sharpness():
    run = Run("spartan", options=MethodOptions(scope="layer", ramp=0.5, sharpness=11.0, block=(2, 2)))
    method, name = run.method, "4.weight"
    assert [method.budget([name], t) for t in (0, 2, 13, 24)] == [384, 384, 96, 96]
    assert method.budget([name], 7) == pytest.approx(384 + (96 - 384) * 5 / 11)
    assert [method.sharpness_at(t) for t in (0, 2, 13, 24, 30)] == [1, 1, 11.5, 22, 22]


def test_after_the_freeze_support_and_soft_values_stay_and_pruned_weights_rest():
    run = Run("spartan")
    while run.t < SCHEDULE.end:
        run.step()
    mask, extra = run.mask(), {name: value.clone() for name, value in run.masks.extra.items()}
    assert not run.step()
    run.backward()
    found = run.method._pass_back({name: p.grad for name, p in run.masks.parameters.items()})
    for name in run.masks:
        assert not found[name][~mask[name]].any()
        soft = extra[f"soft:{name}"]
        assert torch.equal(run.masks.extra[f"soft:{name}"], soft)
        assert torch.equal(run.masks[name], mask[name])
        assert soft[mask[name]].min() < 1  # real values, not binary


@pytest.mark.parametrize("block", [(4, 2), (2, 3)])
def test_blocks_are_kept_or_pruned_as_one(block):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(6, 8, 3))
    counts = {"0.weight": 144}
    masks = lay_out(model, counts, layout="dense")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    options = MethodOptions(block=block, ramp=0.0)
    method = METHODS["spartan"].make(masks, optimizer, Schedule(0, 10, every=1), model=model, options=options)
    model(torch.randn(2, 6, 5, 5)).square().mean().backward()
    optimizer.step()
    assert method.step(1)
    sums = block_sums(masks["0.weight"].int(), block)
    assert set(sums.flatten().tolist()) == {0, math.prod(block)}
    assert masks.edges() == counts
    assert torch.equal(spread_blocks(sums, block) > 0, masks["0.weight"])


def test_a_costly_layer_pays():
    edges = []
    for costs in ({"1.weight": 1.0, "4.weight": 1.0}, {"1.weight": 8.0, "4.weight": 1.0}):
        run = Run("static", layout="dense")
        masks = lay_out(run.model, COUNTS, layout="dense", costs=costs)
        options = MethodOptions(ramp=0.0)
        run.optimizer = torch.optim.SGD(run.model.parameters(), lr=0.05)
        method = METHODS["spartan"].make(masks, run.optimizer, SCHEDULE, model=run.model, options=options)
        run.backward()
        run.optimizer.step()
        method.step(3)
        found = masks.edges()
        budget = sum(costs[name] * COUNTS[name] for name in COUNTS)
        assert budget - 8 < sum(costs[name] * found[name] for name in found) <= budget
        edges.append(found)
    assert edges[1]["1.weight"] < edges[0]["1.weight"]


def test_blocks_that_do_not_divide_are_refused():
    with pytest.raises(UsageError, match=r"layer '1': blocks of 5 by 1 do not divide its weight of shape \(16, 12\)"):
        Run("spartan", options=MethodOptions(block=(5, 1)))


def test_dense_weights_learn_where_the_model_is_pruned():
    run = Run("spartan", options=MethodOptions(ramp=0.0))
    for _ in range(4):
        run.step()
    before = {name: value.clone() for name, value in run.masks.latent.items()}
    outside = {name: ~mask for name, mask in run.mask().items()}
    run.step()
    for name, value in run.masks.latent.items():
        assert (value != before[name])[outside[name]].all()
