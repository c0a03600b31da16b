"""N:M transposable masks: counts, optimality, and what they are as graphs; Top-KAST beside them."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sift_graph.errors import UsageError
from sift_graph.sparsify import METHODS, MethodOptions, Schedule, largest, lay_out
from sift_graph.sparsify.assignment import ASSIGNMENTS, exact_blocks, greedy_blocks, transposable_mask
from sift_graph.sparsify.transposable import pattern_counts
from sift_graph.train import describe, load_config, run
from tests.sparse_run import SCHEDULE, Run

ROWS = [row for row in itertools.product((0, 1), repeat=4) if sum(row) == 2]
ALL_4_2 = np.array([m for m in itertools.product(ROWS, repeat=4) if (np.sum(m, axis=0) == 2).all()])


def number_with_margins(m, n):
    """Count the 0/1 matrices of m rows whose rows and columns all have n ones, row by row, by what columns lack."""
    lacking = {(n,) * m: 1}
    for _ in range(m):
        following = {}
        for state, ways in lacking.items():
            for row in itertools.combinations(range(m), n):
                after = tuple(sorted(left - (j in row) for j, left in enumerate(state)))
                if min(after) >= 0:
                    following[after] = following.get(after, 0) + ways
        lacking = following
    return lacking[(0,) * m]


def test_the_number_of_masks():
    # Columns are sorted on the way, which keeps the number of ways right: a state stands for all of its orders.
    assert len(ALL_4_2) == number_with_margins(4, 2) == 90
    assert number_with_margins(8, 1) == math.factorial(8) == 40_320
    assert number_with_margins(8, 2) == 187_530_840
    assert number_with_margins(8, 4) == 116_963_796_250


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 4), (4, 4), (1, 8), (2, 8), (4, 8), (3, 5)])
def test_every_row_and_column_of_every_block_keeps_n(assignment, n, m):
    generator = np.random.default_rng(0)
    for values in (generator.random((3 * m, 2 * m)), generator.integers(0, 2, (3 * m, 2 * m)) * 1.0):
        mask = transposable_mask(values, (n, m), assignment=assignment)
        blocks = mask.reshape(3, m, 2, m)
        assert (blocks.sum(1) == n).all()
        assert (blocks.sum(3) == n).all()


@given(st.integers(0, 10_000))
def test_exact_is_the_best_of_all_and_greedy_at_least_half_of_it(seed):
    values = np.random.default_rng(seed).exponential(size=(1, 4, 4))
    best = (ALL_4_2 * values).sum((1, 2)).max()
    exact, greedy = ((chosen(values, 2) * values).sum() for chosen in (exact_blocks, greedy_blocks))
    assert exact == pytest.approx(best)
    assert best / 2 <= greedy <= best + 1e-12


def test_greedy_is_near_and_exact_takes_many_blocks():
    values = np.abs(np.random.default_rng(0).standard_normal((150, 8, 8)))
    exact, greedy = ((chosen(values, 4) * values).sum((1, 2)) for chosen in (exact_blocks, greedy_blocks))
    assert (greedy <= exact + 1e-9).all()
    assert greedy.sum() > 0.95 * exact.sum()
    assert (exact_blocks(values * 1e-9, 4) == exact_blocks(values, 4)).all()
    assert exact_blocks(values[:0], 4).shape == greedy_blocks(values[:0], 4).shape == (0, 8, 8)


def test_the_layer_is_biregular_and_its_first_singular_value_known():
    weight = np.abs(np.random.default_rng(0).standard_normal((24, 40)))
    mask = transposable_mask(weight, (2, 8))
    assert set(mask.sum(0)) == {6}
    assert set(mask.sum(1)) == {10}
    assert np.linalg.svd(mask, compute_uv=False)[0] == pytest.approx(2 * math.sqrt(24 * 40) / 8)


def test_the_transposed_mask_is_one_too():
    weight = np.abs(np.random.default_rng(0).standard_normal((16, 16)))
    mask = transposable_mask(weight, (4, 8), assignment="exact")
    again = transposable_mask(weight.T, (4, 8), assignment="exact")
    assert (weight * mask).sum() == pytest.approx((weight * again.T).sum())


def test_patterns_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="pattern 2:4: blocks of 4 by 4 do not divide a matrix of 8 by 6"):
        transposable_mask(np.ones((8, 6)), (2, 4))
    with pytest.raises(UsageError, match="pattern 5:4: expected to keep between 1 and 4 of 4"):
        transposable_mask(np.ones((8, 8)), (5, 4))
    with pytest.raises(UsageError, match=r"2:4 keeps 2 of 4, a sparsity of 0\.5, found 0\.75; ask for --sparsity 0\.5"):
        load_config(family="sparse_wide", sparsity=0.75, method="nm")


def test_masks_follow_dense_weights_that_all_learn():
    run_ = Run("nm")
    for _ in range(9):
        before = {name: value.clone() for name, value in run_.masks.latent.items()}
        run_.backward()
        gradient = {name: p.grad.clone() for name, p in run_.masks.parameters.items()}
        run_.optimizer.step()
        for name in run_.masks:  # straight through: also where the mask is 0
            assert torch.equal(run_.masks.parameters[name].grad, gradient[name])
            assert (run_.masks.latent[name] != before[name])[~run_.masks[name]].any()
        run_.t += 1
        run_.method.step(run_.t)
        for name, latent in run_.masks.latent.items():
            if SCHEDULE.is_update(run_.t):
                expected = transposable_mask(latent.abs().numpy(), (2, 4))
                assert (run_.masks[name].numpy() == expected).all()
            assert torch.equal(run_.weights()[name], latent * run_.masks[name])


def test_a_convolution_is_cut_as_outputs_by_inputs_times_kernel():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.Conv2d(16, 6, 3))
    shapes = {f"{i}.weight": tuple(model[i].weight.shape) for i in range(2)}
    counts = pattern_counts(shapes, MethodOptions(pattern=(2, 8)))
    assert counts == {"0.weight": 16 * 72 // 4, "1.weight": 6 * 144}  # 8 does not divide 6: dense
    masks = lay_out(model, counts, layout="dense")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = MethodOptions(pattern=(2, 8), assignment="exact")
    METHODS["nm"].make(masks, optimizer, Schedule(0, 9, every=1), model=model, options=options)
    mask = masks["0.weight"].flatten(1)
    assert (mask.view(2, 8, 9, 8).sum(1) == 2).all()
    assert (mask.view(2, 8, 9, 8).sum(3) == 2).all()
    assert masks.edges() == counts


def test_a_run_of_the_trainer_keeps_the_pattern(tmp_path):
    from sift_graph.store import RunReader

    sets = ["model.depths=[1]", "model.width=4", "training.epochs=1", "masks.every=5", "options.pattern=[2, 8]"]
    config = load_config(sets=sets, family="sparse_wide", sparsity=0.75, method="nm")
    result = run(config, tmp_path / "a")
    assert result.ratio == pytest.approx(describe(config)["ratio"])
    for layer in RunReader(tmp_path / "a").load_snapshot(5):
        mask = layer.mask.reshape(len(layer.mask), -1)
        assert set(mask.sum(0)) == {2 * mask.shape[0] // 8}
        assert set(mask.sum(1)) == {2 * mask.shape[1] // 8}


def test_top_kast_computes_with_a_and_learns_on_b():
    options = MethodOptions(backward_factor=1.5, penalty=0.01)
    run_ = Run("top_kast", options=options)
    counts = run_.masks.counts
    for _ in range(9):
        before = {name: value.clone() for name, value in run_.masks.latent.items()}
        backward = {name: run_.masks.extra[f"backward:{name}"].clone() for name in run_.masks}
        run_.backward()
        dense = {name: p.grad.clone() for name, p in run_.masks.parameters.items()}
        run_.optimizer.step()
        for name in run_.masks:
            a, b = run_.masks[name], backward[name]
            assert (a <= b).all()
            assert int(b.sum()) == round(1.5 * counts[name])
            density = counts[name] / a.numel()
            weight = 0.01 * (a + (b & ~a) / density)
            assert torch.allclose(
                run_.masks.parameters[name].grad, (dense[name] + weight * before[name]) * b, atol=1e-7
            )
        run_.t += 1
        if run_.method.step(run_.t):
            for name, latent in run_.masks.latent.items():
                assert torch.equal(run_.masks[name], largest(latent.abs(), counts[name]))
        assert all(torch.equal(run_.weights()[n], run_.masks.latent[n] * run_.masks[n]) for n in counts)
