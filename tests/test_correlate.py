"""Correlations: against scipy, against closed forms, and what is said where there is nothing to say."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from frames import layers_frame, network_frame
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sift_graph.association import Association
from sift_graph.correlate import COLUMNS, CORE_METRICS, VIEWS, conclude, conclusions, correlate, target_column
from sift_graph.errors import UsageError


@pytest.fixture(scope="module")
def network():
    return network_frame(layers_frame(seeds=(0, 1, 2), steps=(0, 100)))


@pytest.fixture(scope="module")
def table(network):
    return correlate(network, n_boot=400)


def small(n=12, **columns):
    rng = np.random.default_rng(0)
    frame = {
        "run": [f"run{i}" for i in range(n)],
        "family": "sparse_wide",
        "method": "static",
        "sparsity": np.repeat([0.5, 0.9], [n // 2, n - n // 2]),
        "seed": np.arange(n),
        "step": 10,
        "imdb": rng.normal(size=n),
        "mean_density": rng.uniform(0.1, 0.5, size=n),
        "final_val_accuracy": rng.normal(size=n),
    }
    return pd.DataFrame(frame | columns)


def pick(table, metric, view, statistic="spearman", stratum=None):
    rows = table[(table["metric"] == metric) & (table["view"] == view) & (table["statistic"] == statistic)]
    return (rows if stratum is None else rows[rows["stratum"] == stratum]).iloc[0]


def partial_by_regression(x, y, controls):
    design = np.column_stack([np.ones(len(x)), *controls])
    left, right = (values - design @ np.linalg.lstsq(design, values, rcond=None)[0] for values in (x, y))
    return stats.pearsonr(left, right).statistic


def test_pooled_and_fixed_values_are_those_of_scipy():
    frame = small()
    table = correlate(frame, metrics=["imdb"], n_boot=200)
    for view, stratum, rows in (
        ("pooled", "all", frame),
        ("fixed sparsity", "0.5", frame[frame["sparsity"] == 0.5]),
        ("fixed sparsity", "0.9", frame[frame["sparsity"] == 0.9]),
    ):
        for statistic, second_opinion in (("spearman", stats.spearmanr), ("pearson", stats.pearsonr)):
            expected = second_opinion(rows["imdb"], rows["final_val_accuracy"])
            row = pick(table, "imdb", view, statistic, stratum)
            assert row["estimate"] == pytest.approx(expected.statistic, abs=1e-10)
            assert row["p"] == pytest.approx(expected.pvalue, abs=1e-9)
            assert row["n"] == len(rows)


@pytest.mark.parametrize("statistic", ["spearman", "pearson"])
def test_partial_values_are_those_of_a_regression(statistic):
    frame = small(30)
    table = correlate(frame, metrics=["imdb"], n_boot=200)
    values = [frame[name].to_numpy() for name in ("imdb", "final_val_accuracy", "mean_density")]
    x, y, density = values if statistic == "pearson" else (stats.rankdata(column) for column in values)
    category = (frame["sparsity"] == 0.9).to_numpy(dtype=float)
    within, partial = pick(table, "imdb", VIEWS[2], statistic), pick(table, "imdb", VIEWS[3], statistic)
    assert within["estimate"] == pytest.approx(partial_by_regression(x, y, [category]), abs=1e-9)
    assert partial["estimate"] == pytest.approx(partial_by_regression(x, y, [density]), abs=1e-9)


def test_table_has_a_row_per_metric_view_stratum_and_statistic(table):
    assert tuple(table.columns) == COLUMNS
    metrics = [*CORE_METRICS, "mean_density"]
    assert list(table["metric"].unique()) == metrics
    shown = list(table["view"].unique())
    assert shown == [view for view in VIEWS if view in shown]
    assert set(VIEWS) - set(shown) == {"fixed family"}  # there is one
    views = 1 + 3 + 1 + 1 + 1 + 3 + 1  # of each sparsity and of each method a row
    assert len(table) == len(metrics) * (views * 3 + 2)  # within runs there is no tau
    assert set(table.loc[table["view"] == "fixed sparsity", "stratum"]) == {"0.5", "0.75", "0.9"}
    defined = table[table["estimate"].notna()]
    assert (defined["lo"] <= defined["hi"]).all()
    assert defined[["estimate", "lo", "hi"]].abs().to_numpy().max() <= 1
    assert (table.loc[table["estimate"].isna(), "note"] != "").all()


def test_density_stands_beside_the_metrics_as_the_control(table):
    assert pick(table, "mean_density", "pooled")["estimate"] < -0.5
    assert "is_the_control" in pick(table, "mean_density", VIEWS[3])["note"]
    assert "determined_by_control" in pick(table, "mean_density", "within sparsity")["note"]


def test_density_that_differs_in_the_last_bit_is_not_ranked(network):
    jitter = 1 + np.finfo(float).eps * np.arange(len(network))
    table = correlate(network.assign(mean_density=network["mean_density"] * jitter), metrics=[], n_boot=100)
    assert "determined_by_control" in pick(table, "mean_density", "within sparsity")["note"]


def test_adjusted_p_is_benjamini_hochberg_over_metrics(table):
    rows = table[(table["view"] == "pooled") & (table["statistic"] == "spearman")]
    expected = stats.false_discovery_control(rows["p"])
    np.testing.assert_allclose(rows["p_adjusted"], expected)
    assert (rows["p_adjusted"] >= rows["p"]).all()


def test_same_seed_same_table_and_metrics_do_not_disturb_each_other(network, table):
    pd.testing.assert_frame_equal(correlate(network, n_boot=400), table)
    alone = correlate(network, metrics=["excess_gap"], n_boot=400)
    assert pick(alone, "excess_gap", "pooled")["lo"] == pick(table, "excess_gap", "pooled")["lo"]
    other = correlate(network, metrics=["excess_gap"], n_boot=400, seed=1)
    assert pick(other, "excess_gap", "pooled")["lo"] != pick(table, "excess_gap", "pooled")["lo"]


def test_interval_is_bca_over_runs():
    frame = small(40)
    row = pick(correlate(frame, metrics=["imdb"], n_boot=500, seed=3), "imdb", "pooled", "pearson")
    expected = stats.bootstrap(
        (frame["imdb"], frame["final_val_accuracy"]),
        lambda x, y: stats.pearsonr(x, y).statistic,
        paired=True,
        vectorized=False,
        n_resamples=500,
        rng=np.random.default_rng(3),
    ).confidence_interval
    assert (row["lo"], row["hi"]) == pytest.approx((expected.low, expected.high), abs=1e-8)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(200):
        x = rng.normal(size=30)
        y = 0.6 * x + 0.8 * rng.normal(size=30)
        lo, hi, _ = Association(x, y).interval(0.9, 300, 0)
        hits += lo <= 0.6 <= hi
    assert 0.82 <= hits / 200 <= 0.96


def test_simpson_reversal_is_flagged_and_said():
    rng = np.random.default_rng(1)
    sparsity = np.repeat([0.5, 0.75, 0.9], 12)
    x = rng.normal(size=36) - 20 * sparsity
    y = rng.normal(scale=0.2, size=36) - x - 40 * sparsity
    frame = small(36, sparsity=sparsity, imdb=x, final_val_accuracy=y)
    table = correlate(frame, metrics=["imdb"], n_boot=400)
    pooled, within = pick(table, "imdb", "pooled"), pick(table, "imdb", "within sparsity")
    assert pooled["estimate"] > 0 > within["estimate"]
    assert "simpson" in pooled["note"]
    assert "simpson" in within["note"]
    assert "sign reverses" in conclusions(table)["imdb"]


def test_metric_that_only_ranks_density_is_seen_through():
    density = np.linspace(0.05, 0.6, 20)
    rng = np.random.default_rng(2)
    frame = small(
        20,
        mean_density=density,
        imdb=1 - np.sqrt(1 - density),
        final_val_accuracy=density + rng.normal(scale=0.01, size=20),
    )
    table = correlate(frame, metrics=["imdb"], n_boot=200)
    assert pick(table, "imdb", "pooled")["estimate"] > 0.9
    assert pick(table, "imdb", VIEWS[3])["note"].startswith("determined_by_control")
    assert math.isnan(pick(table, "imdb", VIEWS[3])["p"])


def test_dense_runs_are_left_out_unless_asked_for(network):
    without = correlate(network, metrics=["imdb"], n_boot=100)
    included = correlate(network, metrics=["imdb"], n_boot=100, include_dense=True)
    assert pick(without, "imdb", "pooled")["n_runs"] == 27
    assert without.attrs["n_dense_left_out"] == 3
    assert pick(included, "imdb", "pooled")["n_runs"] == 30


def test_last_step_of_each_run_counts_whatever_the_row_order(network):
    shuffled = network.sample(frac=1, random_state=0)
    first = correlate(network, metrics=["excess_gap"], n_boot=100)
    second = correlate(shuffled, metrics=["excess_gap"], n_boot=100)
    assert pick(second, "excess_gap", "pooled")["estimate"] == pytest.approx(
        pick(first, "excess_gap", "pooled")["estimate"]
    )


@pytest.mark.parametrize(
    ("columns", "n", "view", "word"),
    [
        ({}, 3, "pooled", "too_few_runs"),
        ({"imdb": 1.0}, 12, "pooled", "constant"),
        ({"imdb": math.nan}, 12, "pooled", "no_values"),
        ({"final_val_accuracy": 0.7}, 12, "pooled", "constant_target"),
        ({"final_val_accuracy": math.nan}, 12, "pooled", "target_missing"),
        ({"mean_density": math.nan}, 12, VIEWS[3], "control_missing"),
    ],
)
def test_missing_number_comes_with_its_reason(columns, n, view, word):
    table = correlate(small(n, **columns), metrics=["imdb"], n_boot=100)
    row = pick(table, "imdb", view)
    assert math.isnan(row["estimate"])
    assert math.isnan(row["lo"])
    assert math.isnan(row["p_adjusted"])
    assert row["note"].split("; ")[0] == word
    if view == "pooled":
        assert "nothing can be concluded" in conclude(table[table["metric"] == "imdb"])


@pytest.mark.parametrize(
    ("columns", "view", "word"),
    [
        ({"sparsity": 0.9}, "within sparsity", "one_sparsity"),
        ({"sparsity": [math.nan] * 2 + [0.5] * 10}, "within sparsity", "sparsity_missing:2"),
        ({"imdb": [math.inf, *range(11)]}, "pooled", "infinite_dropped:1"),
    ],
)
def test_number_that_stands_is_qualified(columns, view, word):
    row = pick(correlate(small(**columns), metrics=["imdb"], n_boot=100), "imdb", view)
    assert math.isfinite(row["estimate"])
    assert word in row["note"].split("; ")


def test_small_sample_is_said():
    assert "small_sample" in pick(correlate(small(6), metrics=["imdb"], n_boot=100), "imdb", "pooled")["note"]


def test_frame_without_sparsity_or_density_still_gives_the_pooled_view():
    table = correlate(small().drop(columns=["sparsity", "mean_density"]), metrics=["imdb"], n_boot=100)
    assert set(table["view"]) == {"pooled"}
    assert "neither sparsity nor mean density" in conclude(table)


def test_copies_of_a_run_are_dropped_and_counted():
    frame = small()
    copied = pd.concat([frame, frame.iloc[:3].assign(run=["a", "b", "c"])], ignore_index=True)
    row = pick(correlate(copied, metrics=["imdb"], n_boot=100), "imdb", "pooled")
    assert row["n"] == 12
    assert "duplicates_dropped:3" in row["note"]


def test_repeated_run_and_step_is_refused():
    frame = pd.concat([small(), small().iloc[:1]])
    with pytest.raises(UsageError, match=r"run 'run0': step 10 occurs more than once .* give each run its own name"):
        correlate(frame)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "val_acuracy"}, "target 'val_acuracy': .*did you mean 'val_accuracy'"),
        ({"metrics": ["imbd"]}, "metric 'imbd' is not in the network frame; did you mean 'imdb'"),
        ({"metrics": ["run"]}, "metric 'run' is not numeric"),
        ({"confidence": 95}, "expected a share between 0 and 1"),
        ({"n_boot": 5}, "at least 100 resamples"),
    ],
)
def test_wrong_option_says_what_is_known(options, message):
    with pytest.raises(UsageError, match=message):
        correlate(small(), **options)


def test_frame_without_any_accuracy_says_how_to_mend_it():
    with pytest.raises(UsageError, match=r"write metrics\.jsonl beside the masks"):
        correlate(small().drop(columns="final_val_accuracy"))


def test_frame_without_steps_or_metrics_is_refused():
    with pytest.raises(UsageError, match="column 'step' is missing"):
        correlate(small().drop(columns="step"))
    with pytest.raises(UsageError, match="no metric to correlate; expected one of ramanujan_gap"):
        correlate(small().drop(columns=["imdb", "mean_density"]))


def test_target_falls_back_to_the_running_value():
    frame = small().rename(columns={"final_val_accuracy": "val_accuracy"})
    assert target_column(frame, "val_accuracy") == "val_accuracy"
    assert target_column(frame, "loss") is None
    assert math.isfinite(pick(correlate(frame, metrics=["imdb"], n_boot=100), "imdb", "pooled")["estimate"])


def test_every_metric_gets_one_plain_sentence(table):
    sentences = conclusions(table)
    assert list(sentences) == list(table["metric"].unique())
    for metric, sentence in sentences.items():
        assert sentence.startswith(f"{metric}: ")
        assert "nan" not in sentence
    assert "confounder" in sentences["mean_density"]
    assert "It holds with density controlled" in sentences["excess_gap"]
    assert "not a cause" in sentences["excess_gap"]


def test_conclude_wants_one_metric(table):
    with pytest.raises(UsageError, match=r"got 11; pass .* or call `conclusions"):
        conclude(table)


@given(st.integers(0, 2**32 - 1), st.integers(8, 25))
def test_spearman_ignores_monotone_maps_and_pearson_linear_ones(seed, n):
    rng = np.random.default_rng(seed)
    x, y, z = rng.normal(size=(3, n))
    codes = np.arange(n) % 2
    ranked = Association(x, y, codes=codes, control=z, rank=True).estimate()
    assert Association(np.exp(x), y, codes=codes, control=z**3, rank=True).estimate() == pytest.approx(ranked, abs=1e-9)
    linear = Association(x, y, codes=codes, control=z).estimate()
    assert Association(3 * x + 7, -2 * y, codes=codes, control=5 - z).estimate() == pytest.approx(-linear, abs=1e-6)
    assert Association(y, x, codes=codes, control=z).estimate() == pytest.approx(linear, abs=1e-9)
