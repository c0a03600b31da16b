"""Random masks: what each model keeps, that it draws uniformly, and what a comparison says."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.stats import chisquare

from sift_graph import nulls
from sift_graph.errors import NullModelError, UsageError
from sift_graph.graph import BipartiteGraph
from sift_graph.masks import LayerMask
from sift_graph.metrics import measure
from sift_graph.nulls.choose import below, choose_bits, random_state
from sift_graph.nulls.comparing import overlap
from sift_graph.nulls.models import Rewired, find_null
from sift_graph.nulls.patterns import find_pattern
from sift_graph.nulls.trades import is_rigid
from sift_graph.sparsify.assignment import transposable_mask
from tests.strategies import layer_masks

NESTED = np.tri(6, dtype=bool)


def mask_of(dense, weight=None, **options):
    return LayerMask.from_dense("fc", np.asarray(dense, dtype=bool), weight, **options)


def matrices(rows, columns):
    """Every 0/1 matrix with these row and column sums."""
    lines = [[c for c in itertools.product((0, 1), repeat=len(columns)) if sum(c) == r] for r in rows]
    return [m for m in itertools.product(*lines) if tuple(np.sum(m, axis=0)) == tuple(columns)]


def assert_uniform(drawn, possible):
    """Refuse where chance alone would do so once in ten thousand."""
    counts = dict.fromkeys(possible, 0)
    for key in drawn:
        counts[key] += 1
    assert chisquare(list(counts.values())).pvalue > 1e-4


def key_of(mask):
    return tuple(map(tuple, mask.mask.astype(int)))


@pytest.mark.parametrize("candidates", [[1, 5, 8, 63, 64, 90], [0, 3, 4, 17, 40, 63]])  # listed; guessed and mended
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 6])
def test_choices_among_bits_are_uniform(candidates, count):
    words = max(candidates) // 64 + 1
    among, chosen = np.zeros(words, np.uint64), np.empty(words, np.uint64)
    for c in candidates:
        among[c >> 6] |= np.uint64(1 << (c & 63))
    state = random_state(np.random.default_rng(count))
    drawn = []
    for _ in range(6000):
        choose_bits(among, len(candidates), count, chosen, state)
        drawn.append(tuple(int(word) for word in chosen))
    possible = [
        tuple(sum(1 << (c & 63) for c in subset if c >> 6 == k) for k in range(words))
        for subset in itertools.combinations(candidates, count)
    ]
    if len(possible) == 1:
        assert set(drawn) == set(possible)
    else:
        assert_uniform(drawn, possible)


def test_integers_are_uniform_and_below_their_bound():
    state = random_state(np.random.default_rng(0))
    assert_uniform([below(state, 7) for _ in range(7000)], range(7))
    assert [below(state, 1) for _ in range(3)] == [0, 0, 0]
    assert max(below(state, 2**32) for _ in range(200)) > 2**31


@given(layer_masks())
@settings(max_examples=60, deadline=None)
def test_a_random_mask_keeps_edges_shape_groups_and_layout(mask):
    drawn = nulls.erdos_renyi(mask, np.random.default_rng(1))
    assert (drawn.edges, drawn.shape, drawn.groups, drawn.layout) == (mask.edges, mask.shape, mask.groups, mask.layout)
    assert (drawn.source, drawn.values) == ("erdos_renyi", None)


def test_random_masks_are_uniform():
    rng = np.random.default_rng(2)
    mask = mask_of([[1, 1, 0], [0, 0, 0]])
    possible = [
        tuple(map(tuple, np.isin(np.arange(6), kept).reshape(2, 3).astype(int)))
        for kept in itertools.combinations(range(6), 2)
    ]
    assert_uniform([key_of(nulls.erdos_renyi(mask, rng)) for _ in range(3000)], possible)


def test_a_large_random_mask_has_the_moments_of_chance():
    mask = mask_of(np.arange(900 * 1100).reshape(900, 1100) % 10 == 0)
    graph = BipartiteGraph.from_mask(nulls.erdos_renyi(mask, np.random.default_rng(3)))
    assert graph.edges == mask.edges
    variance = 1100 * 0.1 * 0.9
    assert graph.right_degree.var() == pytest.approx(variance, rel=0.2)
    assert graph.left_degree.var() == pytest.approx(900 * 0.1 * 0.9, rel=0.2)


@given(layer_masks())
@settings(max_examples=60, deadline=None)
def test_rewiring_keeps_both_degree_sequences_of_each_block(mask):
    graph = BipartiteGraph.from_mask(mask)
    if all(is_rigid(graph.block(g).bits) for g in range(graph.groups)):
        with pytest.raises(NullModelError, match="no other mask"):
            nulls.rewire(mask, np.random.default_rng(1))
        return
    drawn = nulls.rewire(mask, np.random.default_rng(1), rounds=8)
    found = BipartiteGraph.from_mask(drawn)
    assert np.array_equal(found.left_degree, graph.left_degree)
    assert np.array_equal(found.right_degree, graph.right_degree)
    assert (drawn.shape, drawn.groups, drawn.layout) == (mask.shape, mask.groups, mask.layout)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [((2, 2, 1), (2, 2, 1)), ((1, 1, 1, 1), (1, 1, 1, 1)), ((3, 1, 1, 2), (2, 2, 1, 1, 1)), ((2, 2), (1, 1, 1, 1))],
)
def test_rewired_masks_are_uniform_among_all_of_their_degrees(rows, columns):
    possible = matrices(rows, columns)
    assert len(possible) >= 5
    mask, rng = mask_of(possible[0]), np.random.default_rng(4)
    drawn = [key_of(nulls.rewire(mask, rng)) for _ in range(150 * len(possible))]
    assert_uniform(drawn, possible)


def test_a_mask_is_rigid_exactly_if_no_other_has_its_degrees():
    for entries in itertools.product((0, 1), repeat=9):
        dense = np.reshape(entries, (3, 3))
        alone = len(matrices(dense.sum(axis=1), tuple(dense.sum(axis=0)))) == 1
        assert is_rigid(BipartiteGraph.from_mask(mask_of(dense)).bits) == alone


def test_the_chain_forgets_a_start_that_no_random_mask_looks_like():
    blocks = mask_of(np.kron(np.eye(8), np.ones((20, 60))))  # eight complete components: sigma_2 = sigma_1
    graph = BipartiteGraph.from_mask(blocks)
    drawn = [Rewired(graph, 8).draw(np.random.default_rng(i)) for i in range(40)]
    overlaps = [np.bitwise_count(one.bits & graph.bits).sum() / graph.edges for one in drawn]
    assert np.mean(overlaps) == pytest.approx(1 / 8, abs=0.005)  # what chance gives biregular masks
    sigma = np.array(
        [measure(nulls.rewire(blocks, np.random.default_rng(i)), metrics="sigma_2")["sigma_2"] for i in range(20)]
    )
    longer = np.array(
        [
            measure(nulls.rewire(blocks, np.random.default_rng(i), rounds=320), metrics="sigma_2")["sigma_2"]
            for i in range(20)
        ]
    )
    assert sigma.mean() == pytest.approx(longer.mean(), abs=4 * longer.std() / math.sqrt(20))
    assert measure(blocks, metrics="sigma_2")["sigma_2"] > 2 * sigma.max()


def test_a_mask_of_the_null_model_is_as_far_from_the_hub_as_its_samples_are():
    # Which makes p exact however short the chain. Nearly nested rows rewire slowly: four rounds do not mix them, so a
    # chain that began at the mask itself, or samples that began elsewhere, would show.
    nearly = mask_of(np.tri(200, dtype=bool) ^ np.eye(200, k=-100, dtype=bool))
    differences, far = [], []
    for i in range(40):
        mask = nulls.rewire(nearly, np.random.default_rng([5, i]), rounds=600)
        sampler = find_null("degree").sampler(mask, np.random.default_rng([6, i]), 4, None)
        first, second = (sampler.draw(np.random.default_rng([7, i, s])) for s in range(2))
        own = overlap(BipartiteGraph.from_mask(mask), sampler.graph)
        differences.append(own - overlap(first, sampler.graph))
        far.append(own - overlap(first, second))
    error = np.std(differences, ddof=1) / math.sqrt(len(differences))
    assert abs(np.mean(differences)) < 4 * error
    assert np.mean(far) > 10 * error  # indeed not mixed


def test_weights_are_permuted_onto_the_new_edges():
    rng = np.random.default_rng(8)
    dense = rng.random((6, 8)) < 0.5
    mask = mask_of(dense, rng.standard_normal(dense.shape))
    for draw in (nulls.erdos_renyi, nulls.rewire):
        drawn = draw(mask, np.random.default_rng(9), permute_weights=True)
        assert np.array_equal(np.sort(drawn.values), np.sort(mask.values))
        assert not np.array_equal(drawn.values, mask.values)
        assert draw(mask, np.random.default_rng(9)).values is None


def two_of_four(rng, shape):
    return rng.random((*shape[:-1], shape[-1] // 4, 4)).argsort(axis=-1).argsort(axis=-1).reshape(shape) < 2


@pytest.mark.parametrize("layout", ["oi", "io"])
def test_an_n_m_pattern_is_found_along_rows_and_along_inputs(layout):
    rng = np.random.default_rng(10)
    flat = mask_of(two_of_four(rng, (6, 16)))
    assert str(find_pattern(flat).pattern) == "2:4"
    by_input = np.moveaxis(two_of_four(rng, (6, 3, 3, 8)), -1, 1)  # outputs, inputs, kernel
    if layout == "io":
        by_input = np.moveaxis(by_input, (0, 1), (-1, -2))
    mask = mask_of(by_input, layout=layout)
    assert str(find_pattern(mask).pattern) == ("2:4 over inputs" if layout == "oi" else "2:4")
    drawn = nulls.same_pattern(mask, rng).mask
    if layout == "io":
        drawn = np.moveaxis(drawn, (-1, -2), (0, 1))
    groups = np.moveaxis(drawn, 1, -1).reshape(-1, 4)
    assert set(groups.sum(axis=1)) == {2}
    assert not np.array_equal(drawn, by_input)


@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 4), (3, 8)])
def test_a_transposable_pattern_is_found_and_kept(n, m):
    rng = np.random.default_rng(11)
    mask = mask_of(transposable_mask(rng.random((2 * m, 3 * m)), (n, m)))
    assert str(find_pattern(mask).pattern) == f"{n}:{m} transposable"
    blocks = nulls.same_pattern(mask, rng).mask.reshape(2, m, 3, m)
    assert set(blocks.sum(axis=1).reshape(-1)) == set(blocks.sum(axis=3).reshape(-1)) == {n}


def test_transposable_blocks_are_uniform():
    possible = matrices((1, 1, 1, 1), (1, 1, 1, 1))
    mask, rng = mask_of(np.eye(4)), np.random.default_rng(12)
    assert_uniform([key_of(nulls.same_pattern(mask, rng)) for _ in range(100 * len(possible))], possible)


def test_rows_of_a_pattern_are_uniform():
    mask, rng = mask_of([[1, 1, 0, 0], [1, 1, 0, 0]]), np.random.default_rng(13)
    pairs = [tuple(int(i in kept) for i in range(4)) for kept in itertools.combinations(range(4), 2)]
    drawn = [key_of(nulls.same_pattern(mask, rng)) for _ in range(3600)]
    assert_uniform(drawn, list(itertools.product(pairs, pairs)))


def test_a_told_pattern_keeps_the_count_of_each_group():
    mask, rng = mask_of([[1, 1, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 1, 1]]), np.random.default_rng(14)
    with pytest.raises(NullModelError, match=r"no N:M pattern found: for no M of 2, 4"):
        nulls.same_pattern(mask, rng)
    counts = nulls.same_pattern(mask, rng, pattern=(2, 4)).mask.reshape(-1, 4).sum(axis=1)
    assert counts.tolist() == [2, 0, 1, 2]
    with pytest.raises(NullModelError, match=r"not 1:4: a group keeps 2; leave the pattern away"):
        nulls.same_pattern(mask, rng, pattern=(1, 4))
    with pytest.raises(NullModelError, match=r"groups of 5 do not divide its rows of 8"):
        nulls.same_pattern(mask, rng, pattern=(1, 5))


@pytest.mark.parametrize(
    ("dense", "null", "word", "message"),
    [
        (np.ones((3, 4)), "er", "complete", "keeps all of its 12 entries"),
        (np.zeros((3, 4)), "degree", "empty", "keeps none of its 12 entries"),
        (NESTED, "degree", "rigid", "no other mask has the same degrees .* take the null model 'er'"),
        (NESTED, "nm", "no_pattern", "no N:M pattern found"),
    ],
)
def test_a_model_that_cannot_exist_says_why(dense, null, word, message):
    with pytest.raises(NullModelError, match=message) as error:
        nulls.compare(mask_of(dense), null, samples=5)
    assert error.value.word == word


def test_depthwise_blocks_of_one_row_are_rigid():
    dense = np.random.default_rng(0).random((10, 1, 3, 3)) < 0.5
    with pytest.raises(NullModelError, match="same degrees"):
        nulls.rewire(mask_of(dense, groups=10), np.random.default_rng(0))
    assert nulls.erdos_renyi(mask_of(dense, groups=10), np.random.default_rng(0)).edges == dense.sum()


def test_scores_of_known_values():
    found = nulls.score(3.0, [1.0, 2.0, 3.0, 4.0])
    assert (found.mean, found.n, found.note) == (2.5, 4, "")
    assert found.std == pytest.approx(math.sqrt(5 / 3))
    assert found.z == pytest.approx(0.5 / math.sqrt(5 / 3))
    assert found.p == 1.0  # 2 (1 + 2) / 5, at most 1
    assert found.quantile == 0.625
    assert nulls.score(9.0, [1.0, 2.0, 3.0, 4.0]).p == nulls.score(-9.0, [1.0, 2.0, 3.0, 4.0]).p == 2 / 5
    assert nulls.score(9.0, list(range(9)) * 11).p == 0.02


def test_scores_without_spread_or_value():
    flat = nulls.score(2.0, [1.0, 1.0, 1.0])
    assert (flat.note, flat.p, flat.quantile) == ("no_spread", 0.5, 1.0)
    assert math.isnan(flat.z)
    assert nulls.score(1.0, [1.0, 1.0, 1.0]).p == 1.0
    missing = nulls.score(math.nan, [1.0, 2.0])
    assert (missing.note, missing.n, missing.mean) == ("undefined", 2, 1.5)
    assert nulls.score(1.0, [math.nan, math.nan]).note == "undefined"
    assert nulls.score(1.0, [math.nan, 1.0, 3.0]).n == 2


def test_a_planted_bottleneck_stands_out_and_a_random_mask_does_not():
    rng = np.random.default_rng(15)
    planted = np.kron(np.eye(4), np.ones((12, 20))) * (rng.random((48, 80)) < 0.6)
    found = nulls.compare(mask_of(planted), "degree", samples=60)
    assert found["ramanujan_gap"].z < -10
    assert found["ramanujan_gap"].p == pytest.approx(2 / 61)
    assert found["sigma_2"].quantile == 1.0
    ps = [
        nulls.compare(mask_of(rng.random((48, 80)) < 0.2), null, samples=60)["sigma_2"].p
        for null in ("er", "degree")
        for _ in range(12)
    ]
    assert np.mean(np.array(ps) < 0.1) < 0.35
    assert np.mean(ps) > 0.3


def test_samples_depend_on_seed_and_mask_and_not_on_who_draws_them():
    mask = mask_of(np.random.default_rng(16).random((20, 30)) < 0.3)
    for null in ("er", "degree"):
        request = nulls.Request(null, ("sigma_2",), 6, seed=3)
        whole = nulls.draw_samples(mask, request).values["sigma_2"]
        parts = [nulls.draw_samples(mask, request, first=i, count=2).values["sigma_2"] for i in (4, 0, 2)]
        assert whole == [*parts[1], *parts[2], *parts[0]]
        assert len(set(whole)) == 6
        other = nulls.draw_samples(mask, nulls.Request(null, ("sigma_2",), 6, seed=4)).values["sigma_2"]
        assert not set(other) & set(whole)


def test_weighted_metrics_are_compared_on_permuted_weights():
    rng = np.random.default_rng(17)
    dense = rng.random((30, 40)) < 0.3
    mask = mask_of(dense, np.exp(np.add.outer(np.linspace(0, 3, 30), np.zeros(40))))  # a few rows hold the weight
    found = nulls.compare(mask, "degree", samples=20, metrics="weighted_sigma_1,sigma_1")
    assert list(found) == ["sigma_1", "weighted_sigma_1"]
    assert found["weighted_sigma_1"].z > 10
    without = nulls.compare(mask_of(dense), "degree", samples=5, metrics="weighted_sigma_1")["weighted_sigma_1"]
    assert (without.note, without.n) == ("undefined", 0)


def test_a_chain_that_has_not_mixed_is_noted():
    nearly = mask_of(np.tri(200, dtype=bool) ^ np.eye(200, k=-100, dtype=bool))
    assert nulls.compare(nearly, "degree", samples=6, rounds=4)["sigma_2"].note == "not_mixed"
    dense = mask_of(np.random.default_rng(18).random((60, 90)) < 0.2)
    assert nulls.compare(dense, "degree", samples=6)["sigma_2"].note == ""


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: nulls.compare(m, "degre"), "no null model 'degre'; did you mean 'degree'"),
        (lambda m: nulls.compare(m, samples=1), "expected 2 or more samples, found 1"),
        (lambda m: nulls.compare(m, rounds=0), "expected 1 or more rounds of trades, found 0"),
        (lambda m: nulls.rewire(m, np.random.default_rng(0), rounds=0), "expected 1 or more rounds"),
        (lambda m: nulls.compare(m, seed=-1), "expected a seed of 0 or more, found -1"),
        (lambda m: nulls.compare(m, metrics="sigma2"), "no metric 'sigma2'; did you mean 'sigma_2'"),
        (
            lambda m: nulls.compare(m, metrics="nothing_like_it"),
            "no metric 'nothing_like_it'; `sift-graph metrics` lists",
        ),
        (lambda m: nulls.compare(m, metrics="is_ramanujan"), "is a verdict, not a number"),
        (lambda m: nulls.compare(m, metrics="survival"), "metric 'survival' is of a layer's history"),
        (lambda m: nulls.compare(m, metrics="dead_neurons"), "metric 'dead_neurons' is of a whole network"),
        (lambda m: nulls.compare(m, metrics="gradient_imsg"), "'gradient_imsg' needs gradients"),
        (lambda m: nulls.compare(m, metrics=[]), "expected at least one metric"),
        (lambda m: nulls.read_pattern("4:2"), "expected N:M with 0 < N < M <= 64"),
        (lambda m: nulls.read_pattern("half"), "cannot read the pattern 'half'"),
    ],
)
def test_what_does_not_exist_is_refused(call, message):
    with pytest.raises(UsageError, match=message):
        call(mask_of(np.eye(4)))
