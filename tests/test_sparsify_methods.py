"""The invariants that every method keeps, and the rule of those that move masks."""

import copy
import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from sift_graph.errors import MaskError, TrainingError
from sift_graph.sparsify import METHODS, MaskSet, Rewire, Schedule, largest, layer_name

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, centered=True, momentum=0.5),
}
SCHEDULE = Schedule(2, 24, every=3, drop_fraction=0.4)
COUNTS = {"1.weight": 60, "4.weight": 96}


class Run:
    """A small network on fixed random data, with masks on its inner layers."""

    def __init__(self, method, *, optimizer="sgd", seed=0, schedule=SCHEDULE):
        torch.manual_seed(7)
        self.model = nn.Sequential(
            nn.Linear(6, 12), nn.Linear(12, 16, bias=True), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 24),
            nn.ReLU(), nn.Linear(24, 3),
        )  # fmt: skip
        self.x, self.y = torch.randn(40, 6), torch.randint(3, (40,))
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        parameters = dict(self.model.named_parameters())
        self.masks = MaskSet({name: parameters[name] for name in COUNTS}, COUNTS, seed=seed)
        self.method = METHODS[method](self.masks, self.optimizer, schedule)
        self.t = 0

    def backward(self):
        self.optimizer.zero_grad()
        functional.cross_entropy(self.model(self.x), self.y).backward()

    def step(self):
        self.backward()
        self.optimizer.step()
        self.t += 1
        return self.method.step(self.t)

    def weights(self):
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def mask(self):
        return {name: self.masks[name].clone() for name in self.masks}

    def buffers(self, name):
        parameter = dict(self.model.named_parameters())[name]
        state = self.optimizer.state.get(parameter, {})
        return [v for v in state.values() if isinstance(v, torch.Tensor) and v.shape == parameter.shape]

    def state(self):
        file = io.BytesIO()
        torch.save([self.model.state_dict(), self.optimizer.state_dict(), self.masks.state_dict(), self.t], file)
        return file.getvalue()

    def load(self, state):
        model, optimizer, masks, self.t = torch.load(io.BytesIO(state), weights_only=True)
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(optimizer)
        self.masks.load_state_dict(masks)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_invariants_of_every_method(method, optimizer):
    run = Run(method, optimizer=optimizer)
    moved = 0
    for _ in range(30):
        before, fired, accumulated = run.mask(), copy.deepcopy(run.masks.fired), copy.deepcopy(run.masks.accumulated)
        run.backward()
        run.optimizer.step()
        untouched = {n: w for n, w in run.weights().items() if n not in COUNTS}
        run.t += 1
        is_update = run.method.step(run.t)
        after = run.mask()
        assert is_update == (method != "static" and SCHEDULE.is_update(run.t))
        for name, mask in after.items():
            weight = dict(run.model.named_parameters())[name]
            assert run.buffers(name)
            for tensor in (weight.detach(), weight.grad, *run.buffers(name)):  # (i)
                assert torch.count_nonzero(tensor[~mask]) == 0
            assert int(mask.sum()) == COUNTS[name]  # (ii)
            grown, dropped = mask & ~before[name], before[name] & ~mask
            assert int(grown.sum()) == int(dropped.sum())  # (iii)
            assert not (grown & before[name]).any()  # (iv)
            for tensor in (weight.detach(), *run.buffers(name)):  # (v)
                assert torch.count_nonzero(tensor[grown]) == 0
            assert is_update or not grown.any()
            moved += int(grown.sum())
            assert (run.masks.fired[name] >= fired[name]).all()  # (viii)
            assert (run.masks.accumulated[name] <= accumulated[name]).all()
            assert (run.masks.fired[name] >= mask).all()
            assert (run.masks.accumulated[name] <= mask).all()
        assert equal(untouched, {n: w for n, w in run.weights().items() if n not in COUNTS})  # (vi)
    assert (moved > 0) == (method != "static")


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_masks_on_every_rank(method):
    ranks = [Run(method), Run(method)]
    for _ in range(20):
        for rank, run in enumerate(ranks):
            torch.manual_seed(rank)  # (vii), (x): nothing that belongs to a process may matter
            np.random.seed(rank)  # noqa: NPY002
            run.step()
        assert equal(ranks[0].mask(), ranks[1].mask())
    other = Run(method, seed=1)
    assert not equal(other.mask(), Run(method).mask())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_a_state_dict_round_trip_goes_on_bit_for_bit(method, optimizer):
    run = Run(method, optimizer=optimizer)
    for _ in range(8):
        run.step()
    state = run.state()
    other = Run(method, optimizer=optimizer, seed=99)
    other.load(state)
    for _ in range(14):  # (ix)
        run.step()
        other.step()
        assert equal(run.mask(), other.mask())
    assert equal(run.weights(), other.weights())
    assert equal(run.masks.fired, other.masks.fired)
    assert equal(run.masks.accumulated, other.masks.accumulated)
    assert run.masks.itop_rate() == other.masks.itop_rate()


def by_rule(weight, mask, fraction, score):
    """The rule of Sparse-IFT, written out with sorts: keep the largest, grow by score outside of them."""
    weight, mask, score = weight.ravel(), mask.ravel(), score.ravel()
    count = int(mask.sum())
    order = sorted(range(len(weight)), key=lambda i: (not mask[i], -abs(weight[i]), i))
    kept = set(order[: count - int(fraction * count)])
    outside = sorted((i for i in range(len(weight)) if i not in kept), key=lambda i: (-score[i], i))
    new = np.zeros(len(weight), dtype=bool)
    new[[*kept, *outside[: count - len(kept)]]] = True
    return new, kept


@pytest.mark.parametrize("method", ["set", "rigl"])
def test_masks_move_by_the_rule(method):
    run = Run(method)
    regrown = 0
    for _ in range(24):
        old = run.mask()
        run.backward()
        gradient = {name: p.grad.clone() for name, p in run.masks.parameters.items()}
        assert all(torch.count_nonzero(gradient[name][~old[name]]) for name in old)  # it is the dense gradient
        run.optimizer.step()
        weight = run.weights()
        run.t += 1
        if not run.method.step(run.t):
            continue
        fraction = SCHEDULE.fraction(run.t)
        for name, mask in old.items():
            if method == "rigl":
                score = gradient[name].abs().numpy()
            else:
                score = run.masks.generator(name, step=run.t).random(mask.numel())
            new, kept = by_rule(weight[name].numpy(), mask.numpy(), fraction, score)
            found = run.masks[name].numpy().ravel()
            assert (found == new).all()
            # A net-dropped weight is no larger than any kept one that was not dropped and grown again.
            magnitude = weight[name].abs().numpy().ravel()
            dropped = mask.numpy().ravel() & ~found
            assert magnitude[dropped].max(initial=0) <= magnitude[list(kept)].min()
            again = mask.numpy().ravel() & found & ~np.isin(np.arange(found.size), list(kept))
            regrown += int(again.sum())
            # What was dropped and grown again at once keeps its value.
            assert (run.weights()[name].numpy().ravel()[again] == weight[name].numpy().ravel()[again]).all()
    assert regrown > 0


def test_the_gradient_is_taken_before_an_optimizer_overwrites_it():
    # SGD's foreach form with Nesterov momentum and no decay adds the momentum to the gradients in place.
    masks = []
    for foreach in (False, True):
        run = Run("rigl")
        run.optimizer = torch.optim.SGD(run.model.parameters(), lr=0.05, momentum=0.9, nesterov=True, foreach=foreach)
        run.method = METHODS["rigl"](run.masks, run.optimizer, SCHEDULE)
        for _ in range(3):
            run.step()
        masks.append(run.mask())
    assert equal(*masks)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.data())
def test_largest_takes_the_lower_index_of_equals(values, data):
    count = data.draw(st.integers(0, len(values)))
    chosen = largest(torch.tensor(values, dtype=torch.float32), count)
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    assert chosen.nonzero().flatten().tolist() == sorted(order[:count])


def test_a_kept_weight_of_zero_wins_over_a_pruned_one():
    weight = nn.Parameter(torch.zeros(4, 4))
    masks = MaskSet({"w": weight}, {"w": 6}, seed=0)
    before = masks["w"].clone()
    optimizer = torch.optim.SGD([weight], lr=0.1)
    method = METHODS["set"](masks, optimizer, Schedule(0, 10, every=1, drop_fraction=0.0))
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert method.step(1)
    assert torch.equal(masks["w"], before)


def test_a_dense_mask_stays_dense():
    weight = nn.Parameter(torch.randn(4, 4))
    masks = MaskSet({"w": weight}, {"w": 16}, seed=0)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    method = METHODS["rigl"](masks, optimizer, Schedule(0, 10, every=1))
    weight.grad = torch.randn(4, 4)
    optimizer.step()
    assert method.step(1)
    assert masks["w"].all()
    assert torch.count_nonzero(weight) == 16


def test_without_a_gradient_rigl_says_what_is_missing():
    run = Run("rigl")
    run.method = METHODS["rigl"](run.masks, run.optimizer, Schedule(0, 9, every=1))
    with pytest.raises(
        TrainingError, match=r"'1.weight' at step 1: no gradient to grow by; call optimizer.step\(\) once"
    ):
        run.method.step(1)


def test_a_gradient_that_is_not_finite_is_named():
    run = Run("rigl", schedule=Schedule(0, 9, every=1))
    run.backward()
    run.masks.parameters["4.weight"].grad[0, 0] = torch.nan
    run.optimizer.step()
    with pytest.raises(TrainingError, match=r"'4.weight' at step 1: its gradient is not finite"):
        run.method.step(1)


def test_masks_are_exact_independent_of_order_and_applied_at_once():
    weights = {name: nn.Parameter(torch.ones(8, 9)) for name in ("a", "b")}
    masks = MaskSet(weights, {"a": 10, "b": 20}, seed=3)
    assert [int(masks[name].sum()) for name in masks] == [10, 20]
    assert [int(weight.sum()) for weight in weights.values()] == [10, 20]
    again = {name: nn.Parameter(torch.ones(8, 9)) for name in ("b", "a")}
    assert torch.equal(MaskSet(again, {"b": 20, "a": 10}, seed=3)["a"], masks["a"])
    assert repr(masks) == "MaskSet(2 masks, 30 of 144 weights kept, step 0)"
    assert len(masks) == 2
    assert masks.itop_rate() == pytest.approx(30 / 144)


def test_initial_masks_are_uniform_over_positions():
    # 400 draws of 8 from 32: each position 100 times, standard deviation 8.66; 5 of those is 43.
    hits = sum(MaskSet({"w": nn.Parameter(torch.ones(4, 8))}, {"w": 8}, seed=seed)["w"].int() for seed in range(400))
    assert int(hits.sum()) == 3200
    assert hits.min() > 57
    assert hits.max() < 143


def test_masks_go_by_layer_name():
    run = Run("static")
    assert list(run.masks.masks()) == ["1", "4"]
    assert layer_name("head.in_proj_weight") == "head.in_proj_weight"
    assert layer_name("weight") == "weight"


def test_mask_set_refuses_what_does_not_fit():
    weight = nn.Parameter(torch.ones(3, 3))
    with pytest.raises(MaskError, match="'w': expected to keep between 1 and 9 weights, found 10"):
        MaskSet({"w": weight}, {"w": 10}, seed=0)
    with pytest.raises(MaskError, match=r"a count for each of the parameters \['w'\], found \['v'\]"):
        MaskSet({"w": weight}, {"v": 1}, seed=0)
    masks = MaskSet({"w": weight}, {"w": 4}, seed=0)
    with pytest.raises(MaskError, match=r"\(\(3, 3\), torch.bool, 4\), found \(\(3, 3\), torch.bool, 9\)"):
        masks.replace("w", torch.ones(3, 3, dtype=torch.bool))
    other = MaskSet({"w": nn.Parameter(torch.ones(3, 4))}, {"w": 4}, seed=0)
    kept = masks["w"].clone()
    with pytest.raises(
        MaskError, match=r"masks: not the state of these parameters; they differ at \[\('w', \(3, 3\)\)"
    ):
        masks.load_state_dict(other.state_dict())
    assert torch.equal(masks["w"], kept)


def test_a_method_of_ones_own_needs_one_function():
    def grow_low_indices(masks, name, kept, gradient):
        return 1e6 - torch.arange(kept.numel(), dtype=torch.float32).view(kept.shape)

    run = Run("static")
    method = Rewire(
        run.masks,
        run.optimizer,
        Schedule(0, 9, every=1, drop_fraction=1.0),
        grow=grow_low_indices,
        needs_gradient=False,
    )
    run.backward()
    run.optimizer.step()
    assert method.step(1)
    assert run.masks["1.weight"].flatten()[:20].all()
