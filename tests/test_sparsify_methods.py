"""The invariants that every method keeps, and the rule of those that move masks."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sift_graph.errors import MaskError, TrainingError, UsageError
from sift_graph.sparsify import METHODS, MaskSet, MethodOptions, Rewire, Schedule, largest, largest_overall, layer_name
from sift_graph.sparsify.rewire import rigl, set_
from sift_graph.train import load_config
from sift_graph.train.build import mask_schedule
from tests.sparse_run import COUNTS, OPTIMIZERS, SCHEDULE, Run, equal


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_invariants_of_every_method(method, optimizer):
    source = METHODS[method]
    run = Run(method, optimizer=optimizer)
    first = run.masks.edges()
    moved = 0
    for _ in range(30):
        before, fired, accumulated = run.mask(), copy.deepcopy(run.masks.fired), copy.deepcopy(run.masks.accumulated)
        run.backward()
        run.optimizer.step()
        untouched = {n: w for n, w in run.weights().items() if n not in COUNTS}
        run.t += 1
        is_update = run.method.step(run.t)
        after = run.mask()
        if not source.every_step:
            assert is_update == (source.moves and SCHEDULE.is_update(run.t))
        if source.keeps_counts:
            assert run.masks.edges() == run.masks.counts == first  # (ii)
        for name, mask in after.items():
            weight = dict(run.model.named_parameters())[name]
            assert run.buffers(name) or is_update
            tensors = [weight.detach()]
            if not source.keeps_dense_weights:
                tensors += [weight.grad, *run.buffers(name)]
            for tensor in tensors:  # (i)
                assert torch.count_nonzero(tensor[~mask]) == 0
            grown, dropped = mask & ~before[name], before[name] & ~mask
            if source.keeps_counts:
                assert int(grown.sum()) == int(dropped.sum())  # (iii)
            assert not (grown & before[name]).any()  # (iv)
            if not source.keeps_dense_weights:
                for tensor in (weight.detach(), *run.buffers(name)):  # (v)
                    assert torch.count_nonzero(tensor[grown]) == 0
            assert is_update or not grown.any()
            moved += int(grown.sum()) + int(dropped.sum())
            assert (run.masks.fired[name] >= fired[name]).all()  # (viii)
            assert (run.masks.accumulated[name] <= accumulated[name]).all()
            assert (run.masks.fired[name] >= mask).all()
            assert (run.masks.accumulated[name] <= mask).all()
        assert equal(untouched, {n: w for n, w in run.weights().items() if n not in COUNTS})  # (vi)
    assert (moved > 0) == source.moves


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
    # Masks that are laid out by weights and data do not depend on the seed of random ones.
    assert equal(other.mask(), Run(method).mask()) == (METHODS[method].init not in ("random", "constant_fan_in"))


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


@pytest.mark.parametrize("method", ["set", "rigl", "rigl_original"])
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
            if method != "set":
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
        run.method = rigl(run.masks, run.optimizer, SCHEDULE, model=run.model, options=MethodOptions())
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
    schedule = Schedule(0, 10, every=1, drop_fraction=0.0)
    method = set_(masks, optimizer, schedule, model=nn.Module(), options=MethodOptions())
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert method.step(1)
    assert torch.equal(masks["w"], before)


def test_a_dense_mask_stays_dense():
    weight = nn.Parameter(torch.randn(4, 4))
    masks = MaskSet({"w": weight}, {"w": 16}, seed=0)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    method = rigl(masks, optimizer, Schedule(0, 10, every=1), model=nn.Module(), options=MethodOptions())
    weight.grad = torch.randn(4, 4)
    optimizer.step()
    assert method.step(1)
    assert masks["w"].all()
    assert torch.count_nonzero(weight) == 16


def test_without_a_gradient_rigl_says_what_is_missing():
    run = Run("rigl", schedule=Schedule(0, 9, every=1))
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
    with pytest.raises(MaskError, match=r"'w': expected a mask of 4 ones, found 9"):
        masks.replace("w", torch.ones(3, 3, dtype=torch.bool))
    with pytest.raises(MaskError, match=r"\(\(3, 3\), torch.bool\), found \(\(2, 3\), torch.float32\)"):
        masks.replace("w", torch.ones(2, 3), exact=False)
    with pytest.raises(MaskError, match="unknown placement 'exat'; did you mean 'exact'"):
        MaskSet({"w": weight}, {"w": 4}, seed=0, placement="exat")
    with pytest.raises(MaskError, match="constant fan-in needs 1 or more weights for each of 3 outputs, found 2"):
        MaskSet({"w": weight}, {"w": 2}, seed=0, placement="constant_fan_in")
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


def test_an_update_of_the_first_rigl_leaves_weights_and_buffers_alone():
    run = Run("rigl_original", optimizer="adamw")
    for _ in range(2):
        run.step()
    before, state = run.weights(), [b.clone() for b in run.buffers("1.weight")]
    run.backward()
    run.optimizer.step()  # step 3 of the schedule
    assert equal(before, run.weights())
    assert all(torch.equal(a, b) for a, b in zip(state, run.buffers("1.weight"), strict=True))
    assert all(p.grad is not None for p in run.model.parameters())  # put back, for whoever reads them
    run.t += 1
    assert run.method.step(run.t)
    run.step()
    assert not equal(before, run.weights())


def test_masks_drawn_weight_by_weight_snap_to_their_count_at_the_first_update():
    run = Run("rigl", layout="bernoulli")
    drawn = run.masks.edges()
    assert drawn != COUNTS
    for _ in range(2):
        run.step()
    assert run.masks.edges() == drawn
    run.step()
    assert run.masks.edges() == COUNTS


def test_bernoulli_masks_have_their_density_on_average():
    # 400 draws of 32 positions at 1/4: 3200 expected, standard deviation 49.
    found = [
        MaskSet({"w": nn.Parameter(torch.ones(4, 8))}, {"w": 8}, seed=seed, placement="bernoulli").edges()["w"]
        for seed in range(400)
    ]
    assert abs(sum(found) - 3200) < 245
    assert len(set(found)) > 5
    assert min(found) > 0


def test_constant_fan_in_gives_each_output_as_many():
    masks = MaskSet({"w": nn.Parameter(torch.ones(6, 3, 2, 2))}, {"w": 30}, seed=0, placement="constant_fan_in")
    assert masks["w"].flatten(1).sum(1).tolist() == [5] * 6
    assert not torch.equal(masks["w"][0], masks["w"][1])


def test_gradual_pruning_follows_its_cubic_and_ends_at_the_count():
    run = Run("gmp")
    size = run.masks["1.weight"].numel()
    found, masks = [], []
    for _ in range(30):
        if run.step():
            found.append(run.masks.edges()["1.weight"])
            masks.append(run.masks["1.weight"].clone())
    n = len(SCHEDULE.updates)
    assert found == [60 + int((size - 60) * (1 - k / n) ** 3) for k in range(1, n + 1)]
    assert found[-1] == 60
    assert all((later <= earlier).all() for earlier, later in pairwise(masks))
    assert Run("gmp").masks.edges() == {"1.weight": size, "4.weight": 384}
    half = Run("gmp", options=MethodOptions(initial_sparsity=0.5))
    assert half.masks.edges() == {"1.weight": 96, "4.weight": 192}
    magnitude = Run("static", layout="dense").weights()["1.weight"].abs()
    assert torch.equal(half.masks["1.weight"], largest(magnitude, 96))


def test_gradual_pruning_under_one_threshold():
    run = Run("gmp", options=MethodOptions(scope="global"))
    for _ in range(30):
        run.step()
    edges = run.masks.edges()
    assert sum(edges.values()) == sum(COUNTS.values())
    assert edges != COUNTS


@given(st.lists(st.integers(0, 9), min_size=2, max_size=30), st.data())
def test_one_threshold_over_all_spends_the_budget(values, data):
    cut = data.draw(st.integers(1, len(values) - 1))
    prices = {"a": data.draw(st.integers(1, 4)), "b": data.draw(st.integers(1, 4))}
    tensors = {"a": torch.tensor(values[:cut]).float(), "b": torch.tensor(values[cut:]).float()}
    each = [prices["a"] if i < cut else prices["b"] for i in range(len(values))]
    budget = data.draw(st.integers(0, sum(each)))
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    expected, spent = set(), 0
    for i in order:
        spent += each[i]
        if spent > budget:
            break
        expected.add(i)
    chosen = largest_overall(tensors, budget, costs=prices)
    assert set(torch.cat([chosen["a"], chosen["b"]]).nonzero().flatten().tolist()) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scope": "glob"}, "options.scope: unknown scope 'glob'; did you mean 'global'"),
        ({"pattern": (5, 4)}, "options.pattern: 5:4 keeps more weights than a row of its block has"),
        ({"block": (4,)}, r"options.block: expected two numbers, each 1 or more, found \(4,\)"),
        ({"sharpness": 0.5}, "options.sharpness: expected 1 or more, found 0.5"),
        ({"exploration": 0.0}, "options.exploration: expected above 0, found 0.0"),
        ({"assignment": "best"}, "options.assignment: unknown assignment 'best'"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        MethodOptions(**options)


def test_a_scope_that_a_method_does_not_have_is_refused():
    with pytest.raises(UsageError, match=r"ranks weights by layer, not by 'global'; leave options.scope out"):
        METHODS["rigl"].scope(MethodOptions(scope="global"))
    assert METHODS["snip"].scope(MethodOptions()) == "global"


def test_the_preset_of_itop_moves_masks_to_the_end():
    config = load_config(preset="cifar100_resnet34_itop", family="sparse_wide", sparsity=0.9)
    schedule = mask_schedule(config, 78_200)
    assert (config.method, config.masks.distribution, len(schedule.updates)) == ("rigl", "erk", 19)
    assert schedule.fraction(78_200) == pytest.approx(0.005)
    assert schedule.fraction(0) == pytest.approx(0.5)
