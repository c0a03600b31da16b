"""Statistics beside a plain correlation: Kendall, within runs, tables from elsewhere, null z, prediction, power."""

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.multitest import multipletests
from test_correlate import pick, small
from typer.testing import CliRunner

from sift_graph import prediction
from sift_graph.association import Association
from sift_graph.cli import app
from sift_graph.concordance import Concordance
from sift_graph.correlate import conclusions, correlate
from sift_graph.errors import UsageError
from sift_graph.joining import read_table, with_null_scores
from sift_graph.over_time import Trajectories
from sift_graph.power import runs_needed, smallest_seen
from sift_graph.prediction import held_out, sentence


def study(rng, *, gap_matters=0.0, seeds=6, steps=(0, 10, 20)):
    """Runs whose accuracy follows density, and the gap's own part by `gap_matters`."""
    rows = []
    for family in ("wide", "parallel", "doped"):
        for s in (0.5, 0.75, 0.9):
            for seed in range(seeds):
                density, excess = 1 - s + rng.normal(0, 0.01), rng.normal(0, 0.05)
                gap = 1 - math.sqrt(1 - density) + excess
                accuracy = 0.6 + 0.3 * density + gap_matters * excess + rng.normal(0, 0.01)
                for step in steps:
                    rows.append({"run": f"{family}-{s}-{seed}", "step": step, "family": family, "method": "static",
                                 "sparsity": s, "seed": seed, "mean_density": density, "ramanujan_gap_norm": gap,
                                 "imdb": rng.normal(), "val_accuracy": accuracy * (1 + step) / (2 + step),
                                 "final_val_accuracy": accuracy})  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# Kendall


def test_tau_is_scipys_with_ties_and_without(rng):
    x, y = rng.normal(size=40), rng.normal(size=40)
    for a, b in ((x, y), (np.round(x), np.round(2 * y))):
        ours, theirs = Concordance(a, b), stats.kendalltau(a, b)
        assert ours.estimate() == pytest.approx(theirs.statistic)
        assert ours.p_value(ours.estimate()) == pytest.approx(theirs.pvalue)


def test_tau_within_strata_compares_no_pair_across_them(rng):
    x, y, codes = rng.normal(size=30), rng.normal(size=30), np.repeat([0, 1, 2], 10)
    parts = [stats.kendalltau(x[codes == c], y[codes == c]).statistic for c in range(3)]
    shifted = Concordance(x + 100 * codes, y - 50 * codes, codes)
    assert shifted.estimate() == pytest.approx(np.mean(parts))
    assert shifted.estimate() == pytest.approx(Concordance(x, y, codes).estimate())


def test_partial_tau_is_kendalls_formula(rng):
    z = rng.normal(size=60)
    x, y = z + rng.normal(size=60), z + rng.normal(size=60)
    xy, xz, yz = (stats.kendalltau(a, b).statistic for a, b in ((x, y), (x, z), (y, z)))
    expected = (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))
    assert Concordance(x, y, control=z).estimate() == pytest.approx(expected)
    assert math.isnan(Concordance(x, y, control=x.copy()).estimate())


def test_its_interval_is_bca(rng):
    x = rng.normal(size=25)
    y = x + rng.normal(size=25)
    lo, hi, word = Concordance(x, y).interval(0.95, 4000, 1)
    theirs = stats.bootstrap(
        (x, y), lambda a, b: stats.kendalltau(a, b).statistic, paired=True, vectorized=False, n_resamples=4000,
        method="BCa", random_state=np.random.default_rng(2),
    ).confidence_interval  # fmt: skip
    assert word == ""
    assert (lo, hi) == pytest.approx((theirs.low, theirs.high), abs=0.03)


@pytest.mark.parametrize("kind", [Concordance, Association])
def test_intervals_cover_as_often_as_they_say(kind):
    rho, n, trials = 0.5, 40, 120
    truth = 2 / math.pi * math.asin(rho) if kind is Concordance else rho
    hit = 0
    for trial in range(trials):
        x, e = np.random.default_rng(trial).normal(size=(2, n))
        lo, hi, _ = kind(x, rho * x + math.sqrt(1 - rho**2) * e).interval(0.9, 400, trial)
        hit += lo <= truth <= hi
    assert stats.binomtest(hit, trials, 0.9).pvalue > 0.01


# Views


def test_adjusted_p_is_that_of_statsmodels(rng):
    frame = small(20, **{f"m{i}": rng.normal(size=20) for i in range(6)})
    table = correlate(frame, metrics=[f"m{i}" for i in range(6)], n_boot=200)
    rows = table[(table["view"] == "pooled") & (table["statistic"] == "kendall")]
    assert np.allclose(rows["p_adjusted"], multipletests(rows["p"], method="fdr_bh")[1])


def test_what_density_drives_vanishes_given_density_at_the_nominal_rate():
    rejected, pooled, trials = 0, 0, 200
    for seed in range(trials):
        frame = study(np.random.default_rng(seed), steps=(0,), seeds=3)
        x, y, density = (frame[c].to_numpy() for c in ("ramanujan_gap_norm", "final_val_accuracy", "mean_density"))
        codes = frame.groupby("sparsity").ngroup().to_numpy()
        alone, held = Association(x, y, rank=True), Association(x, y, codes, density, rank=True)
        pooled += alone.p_value(alone.estimate()) < 0.05
        rejected += held.p_value(held.estimate()) < 0.05
    assert pooled == trials
    assert stats.binomtest(rejected, trials, 0.05).pvalue > 0.01


def test_an_effect_of_its_own_is_found_between_seeds(rng):
    table = correlate(study(rng, gap_matters=1.0, steps=(0,)), metrics=["ramanujan_gap_norm"], n_boot=200)
    row = pick(table, "ramanujan_gap_norm", "within family, method and sparsity", "kendall")
    assert row["lo"] > 0.3
    assert set(table.loc[table["view"] == "fixed family", "stratum"]) == {"wide", "parallel", "doped"}
    assert "fixed method" not in set(table["view"])  # there is one


# Within runs


def test_within_runs_ignores_what_differs_between_them(rng):
    rows = [
        {"run": f"r{i}", "step": t, "x": 10 * i + t + rng.normal(0, 0.1), "y": -10 * i + t + rng.normal(0, 0.1)}
        for i in range(8)
        for t in range(6)
    ]
    sample = Trajectories.of(pd.DataFrame(rows), "x", "y", rank=False)
    assert sample.estimate() > 0.98
    assert sample.n == 48
    lo, hi = sample.interval(0.95, 500, 0)
    assert lo < sample.estimate() < hi


def test_its_p_value_is_that_of_a_regression_clustered_by_run(rng):
    run, t = np.repeat(np.arange(12), 5), np.tile(np.arange(5), 12)
    shock = rng.normal(size=12)[run]
    x, y = t * shock + rng.normal(size=60), 0.4 * t * shock + rng.normal(size=60)
    frame = pd.DataFrame({"run": [f"r{i}" for i in run], "step": t, "x": x, "y": y})
    sample = Trajectories.of(frame, "x", "y", rank=False)
    centred = frame[["x", "y"]] - frame.groupby("run")[["x", "y"]].transform("mean")
    fitted = sm.OLS(centred["y"], centred[["x"]]).fit(
        cov_type="cluster", cov_kwds={"groups": run, "df_correction": True}, use_t=True
    )
    # statsmodels corrects by (n - 1) / (n - k) as well, which is 1 for one regressor without a constant
    assert sample.p_value() == pytest.approx(float(fitted.pvalues["x"]), rel=1e-6)


def test_within_runs_stands_in_the_table_and_says_when_it_cannot(rng):
    table = correlate(study(rng), metrics=["imdb", "ramanujan_gap_norm"], n_boot=200)
    row = pick(table, "imdb", "within runs")
    assert row["n"] == 54 * 3
    assert abs(row["estimate"]) < 0.4
    assert pick(table, "ramanujan_gap_norm", "within runs")["note"] == "constant"  # the same at each step
    short = correlate(study(rng, seeds=1, steps=(0, 10)), metrics=["imdb"], n_boot=200)
    assert pick(short, "imdb", "within runs")["note"] == "too_few_runs"


# Tables from elsewhere, and null z


def test_a_table_of_another_tool(tmp_path):
    path = tmp_path / "theirs.csv"
    path.write_text(
        "name,acc,density,irm\n" + "".join(f"r{i},{0.5 + i / 50},{i / 20},{['inf', i][i > 0]}\n" for i in range(12))
    )
    frame = read_table(path, {"run": "name", "val_accuracy": "acc", "mean_density": "density", "imdb": "irm"})
    assert math.isinf(frame["imdb"][0])
    row = pick(correlate(frame, metrics=["imdb"], n_boot=200), "imdb", "pooled")
    assert row["n"] == 11
    assert "infinite_dropped:1" in row["note"]
    frame.to_parquet(tmp_path / "theirs.parquet")
    pd.testing.assert_frame_equal(read_table(tmp_path / "theirs.parquet"), frame)
    with pytest.raises(UsageError, match=r"theirs.csv: has no column 'accuracy' \(for 'val_accuracy'\); .*"):
        read_table(path, {"val_accuracy": "accuracy"})
    with pytest.raises(UsageError, match=r"a.txt: expected a table \(.csv, .tsv, .parquet\) or a directory of runs"):
        read_table(tmp_path / "a.txt")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UsageError, match=r"bad.parquet: cannot be read as a table"):
        read_table(tmp_path / "bad.parquet")


def test_null_scores_stand_as_metrics(rng):
    frame = study(rng, steps=(0,))
    z = [
        {"run": run, "step": 0, "layer": layer, "null": "degree", "metric": "ramanujan_gap", "z": value}
        for i, run in enumerate(frame["run"])
        for layer, value in (("a", float(i)), ("b", i + 1.0), ("c", math.nan))
    ]
    nulls = pd.DataFrame(z)
    joined = with_null_scores(frame, nulls)
    assert joined["ramanujan_gap_null_z"].tolist() == [i + 0.5 for i in range(len(frame))]
    assert joined["ramanujan_gap_null_z_coverage"].iloc[0] == pytest.approx(2 / 3)
    table = correlate(frame, metrics=["imdb"], nulls=nulls, n_boot=200)
    assert list(dict.fromkeys(table["metric"])) == ["imdb", "ramanujan_gap_null_z", "mean_density"]
    assert pick(table, "ramanujan_gap_null_z", "pooled")["coverage"] == pytest.approx(2 / 3)
    with pytest.raises(UsageError, match=r"comparisons with degree, er together"):
        with_null_scores(frame, pd.concat([nulls, nulls.assign(null="er")]))


# Prediction and power


def test_a_family_left_out_is_ranked_by_what_matters(rng):
    frame = study(rng, gap_matters=2.0, steps=(0,))
    table = held_out(frame, metrics=["ramanujan_gap_norm", "imdb", "mean_density"])
    whole = table[table["group"] == "all"].set_index("model")
    assert whole.loc["metrics", "tau"] > whole.loc["density", "tau"] + 0.1
    assert set(table["group"]) == {"doped", "parallel", "wide", "all"}
    assert whole.loc["gain", "tau"] == pytest.approx(
        whole.loc["metrics", "tau"] - whole.loc["density and sparsity", "tau"]
    )
    assert 0 < whole.loc["gain", "lo"] < whole.loc["gain", "tau"] < whole.loc["gain", "hi"]
    assert "more than density tells" in sentence(table)
    nothing = held_out(study(rng, steps=(0,)), metrics=["imdb"])
    assert nothing.loc[(nothing["group"] == "all") & (nothing["model"] == "gain"), "hi"].item() < 0
    assert "less than density tells" in sentence(nothing)
    unsure = nothing.assign(lo=-0.1, hi=0.1)
    assert "no more than density tells" in sentence(unsure)
    below = nothing.assign(tau=np.where(nothing["model"] == "metrics", -0.02, -0.2))
    assert sentence(below).endswith("neither orders them.")  # a worse rival proves nothing


def test_a_resampled_tau_is_scipys_of_the_runs_drawn(rng):
    predicted, target = np.round(rng.normal(size=30), 1), np.round(rng.normal(size=30), 1)
    counts = rng.multinomial(30, np.full(30, 1 / 30), size=20)
    taus = prediction._weighted_taus(predicted, target, counts.astype(float))
    for tau, count in zip(taus, counts, strict=True):
        drawn = np.repeat(np.arange(30), count)
        assert tau == pytest.approx(stats.kendalltau(predicted[drawn], target[drawn]).statistic)


def test_prediction_says_what_it_cannot(rng):
    one = study(rng, steps=(0,)).query("family == 'wide'")
    table = held_out(one, metrics=["imdb"])
    assert set(table["note"]) == {"one_group"}
    assert sentence(table) == "Nothing can be said about a family that was not seen (one_group)."
    few = held_out(study(rng, seeds=1, steps=(0,)), metrics=["imdb"])
    assert set(few.loc[few["group"] != "all", "note"]) == {"too_few_runs"}
    constant = held_out(study(rng, steps=(0,)).assign(imdb=1.0), metrics=["imdb"])
    assert set(constant.loc[constant["model"] == "metrics", "note"]) == {"no_features"}
    with pytest.raises(UsageError, match=r"column 'optimizer' is missing"):
        held_out(one, left_out="optimizer")


def test_the_runs_needed_show_the_effect_as_often_as_they_say():
    n, rho = runs_needed(0.5), 0.5
    pearson = 2 * math.sin(math.pi * rho / 6)  # of a normal pair whose Spearman correlation is rho
    seen = 0
    for seed in range(300):
        x, e = np.random.default_rng(seed).normal(size=(2, n))
        seen += stats.spearmanr(x, pearson * x + math.sqrt(1 - pearson**2) * e).pvalue < 0.05
    assert 0.72 < seen / 300 < 0.88
    assert runs_needed(0.3) == runs_needed(-0.3) < runs_needed(0.3, tests=10) < runs_needed(0.1)
    assert smallest_seen(runs_needed(0.3)) == pytest.approx(0.3, abs=0.002)
    assert math.isnan(smallest_seen(3))
    with pytest.raises(UsageError, match=r"rho: expected a number between -1 and 1 and not 0, found 1.5"):
        runs_needed(1.5)


def test_the_command_on_a_table(rng, tmp_path):
    frame = study(rng, gap_matters=1.0).rename(columns={"val_accuracy": "acc"}).drop(columns="final_val_accuracy")
    frame.to_csv(tmp_path / "t.csv", index=False)
    call = ["correlate", str(tmp_path / "t.csv"), "--map", "val_accuracy=acc", "--statistic", "kendall"]
    call += ["--predict", "family", "--power", "0.3"]
    shown = CliRunner().invoke(app, call, env={"COLUMNS": "160"})
    assert shown.exit_code == 0, shown.output
    said = ("Kendall's τ with val_accuracy", "each family left out", "Of a family left out", "shows in 89 independent")
    for words in (*said, "ramanujan_gap_norm: "):
        assert words in shown.output
    asked = CliRunner().invoke(app, [*call, "--json"])
    assert '"held_out"' in asked.stdout
    assert '"runs_needed": 89' in asked.stdout
    wrong = CliRunner().invoke(app, [*call[:2], "--map", "acc"])
    assert wrong.exit_code == 2
    assert "expected OURS=THEIRS" in wrong.stderr


def test_the_sentence_says_what_is_left_between_seeds():
    rng = np.random.default_rng(1)
    frame = study(rng, steps=(0,))
    shift = frame["family"].map({"wide": 0.0, "parallel": 0.2, "doped": 0.4})  # the family makes both
    made = frame.assign(
        imdb=shift + rng.normal(0, 0.01, len(frame)), final_val_accuracy=frame["final_val_accuracy"] + shift
    )
    said = conclusions(correlate(made, metrics=["imdb"], n_boot=300))["imdb"]
    assert "It holds with density controlled" in said
    assert "Between seeds of one family, method and sparsity it is not seen" in said
    own = conclusions(correlate(study(rng, gap_matters=2.0, steps=(0,)), metrics=["ramanujan_gap_norm"], n_boot=300))
    assert "Between seeds of one family, method and sparsity it is +" in own["ramanujan_gap_norm"]


def test_each_metric_gets_its_sentence(rng):
    table = correlate(study(rng), metrics=["imdb"], n_boot=200)
    assert list(conclusions(table)) == ["imdb", "mean_density"]
