"""Recorded masks against random ones: rows, resuming, sharing out, and what the doors show of it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import sift_graph
from sift_graph import encodings, null_table, nulls, plots, table
from sift_graph.cli import app
from sift_graph.errors import SiftGraphError, UsageError
from sift_graph.masks import LayerMask, Snapshot
from sift_graph.report_nulls import null_findings
from sift_graph.store import RunReader, RunWriter
from tests.runs import SHAPES, write_run


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "a", steps=(0, 10), accuracy=0.8)


@pytest.fixture
def drawn_units(monkeypatch):
    """List the units that are really drawn."""
    drawn = []
    real = null_table.draw_unit
    monkeypatch.setattr(null_table, "draw_unit", lambda unit: drawn.append(unit) or real(unit))
    return drawn


def test_rows_are_what_compare_says(run):
    frame = table.analyze_runs(run, null="degree", n_null=30, null_metrics="sigma_2,ramanujan_gap").nulls
    assert list(frame.columns) == list(null_table.NULL_COLUMNS)
    assert set(frame["step"]) == {10}
    assert frame["layer"].unique().tolist() == list(SHAPES)
    reader = RunReader(run)
    for name in ("stage1.0.conv1", "fc"):
        found = nulls.compare(reader.load_layer(10, name), "degree", samples=30, metrics="sigma_2,ramanujan_gap")
        for metric, one in found.items():
            (row,) = frame[(frame["layer"] == name) & (frame["metric"] == metric)].to_dict("records")
            assert {k: row[k] for k in ("observed", "mean", "std", "z", "p", "quantile", "n", "note")} == vars(one)
    rigid = frame[frame["layer"] == "stage2.dw"]
    assert set(rigid["note"]) == {"rigid"}
    assert rigid["observed"].notna().all()
    assert rigid[["mean", "z", "p"]].isna().all(axis=None)


def test_a_second_call_draws_nothing_and_other_settings_draw_again(run, drawn_units):
    first = table.analyze_runs(run, null="er", n_null=30).nulls
    assert len(drawn_units) == 2 * 4  # 30 samples are two units
    again = table.analyze_runs(run, null="er", n_null=30, metrics="sigma_1").nulls
    assert len(drawn_units) == 8
    pd.testing.assert_frame_equal(first, again)
    for count, options in ((4, {"null_seed": 1}), (4, {"null_metrics": "sigma_2"}), (4, {"null": "degree"})):
        before = len(drawn_units)
        table.analyze_runs(run, **({"null": "er", "n_null": 20} | options))
        assert len(drawn_units) - before == count
    before = len(drawn_units)
    forced = table.analyze_runs(run, null="er", n_null=30, force=True).nulls
    assert len(drawn_units) - before == 8
    pd.testing.assert_frame_equal(forced[forced["null"] == "er"], first)


def test_a_static_mask_is_compared_once(tmp_path, drawn_units):
    path = write_run(tmp_path / "s", moving=False)
    frame = table.analyze_runs(path, null="er", n_null=10, null_steps="all").nulls
    assert len(drawn_units) == len(SHAPES)
    assert frame.groupby(["layer", "metric"])["z"].nunique(dropna=False).max() == 1
    assert len(frame) == 4 * 4 * len(nulls.METRICS_COMPARED)


def test_rows_of_another_mask_are_not_shown(run):
    table.analyze_runs(run, null="er", n_null=10)
    assert len(table.analyze_runs(run).nulls) == 16  # kept, without being asked for
    moved = {
        n: LayerMask.from_dense(n, ~m.mask, groups=m.groups) for n, m in RunReader(run).load_snapshot(10).layers.items()
    }
    RunWriter(run, resume=True).write_snapshot(Snapshot(20, moved))
    kept = table.analyze_runs(run).nulls
    assert set(kept["step"]) == {10}
    both = table.analyze_runs(run, null="degree", n_null=10).nulls
    assert set(zip(both["null"], both["step"], strict=True)) == {("er", 10), ("degree", 20)}


def test_of_several_comparisons_the_one_asked_for_comes_first_and_then_the_larger(run):
    table.analyze_runs(run, null="er", n_null=40, layers="fc")
    small = table.analyze_runs(run, null="er", n_null=10, layers="fc").nulls
    assert set(small["n"]) == {10}
    assert set(table.analyze_runs(run, layers="fc").nulls["n"]) == {40}


def test_a_kept_line_that_a_crash_cut_short_is_computed_again(run, drawn_units):
    first = table.analyze_runs(run, null="er", n_null=10).nulls
    kept = run / "analysis" / "nulls.jsonl"
    kept.write_text(kept.read_text()[:-40])
    again = table.analyze_runs(run, null="er", n_null=10).nulls
    assert len(drawn_units) == 4 + 1
    pd.testing.assert_frame_equal(first, again)
    table.analyze_runs(run, null="er", n_null=10)
    assert len(drawn_units) == 5


def test_two_workers_find_the_same(run, monkeypatch):
    one = table.analyze_runs(run, null="degree", n_null=30, force=True).nulls
    monkeypatch.setattr(null_table, "INLINE_SECONDS", 0.0)
    two = table.analyze_runs(run, null="degree", n_null=30, jobs=2, force=True).nulls
    pd.testing.assert_frame_equal(one, two)


def test_a_failure_in_one_layer_leaves_the_others(run, monkeypatch):
    real = null_table.draw_samples

    def broken(mask, *args, **options):
        if mask.layer == "fc":
            raise RuntimeError("no")
        return real(mask, *args, **options)

    monkeypatch.setattr(null_table, "draw_samples", broken)
    analysis = table.analyze_runs(run, null="er", n_null=10)
    assert [str(f) for f in analysis.failures] == ["a, step 10, layer 'fc': null model: unexpected RuntimeError: no"]
    assert "fc" not in set(analysis.nulls["layer"])
    assert len(analysis.layers) == 8


def test_the_pattern_is_found_or_told(tmp_path):
    dense = np.random.default_rng(0).random((12, 6, 4)).argsort(axis=2).argsort(axis=2).reshape(12, 24) < 2
    path = tmp_path / "nm"
    RunWriter(path).write_snapshot(Snapshot(0, {"fc": LayerMask.from_dense("fc", dense)}))
    found = table.analyze_runs(path, null="nm", n_null=20).nulls
    assert found["z"].notna().sum() == 4
    told = table.analyze_runs(path, null="nm", n_null=20, null_pattern="2:4").nulls
    assert told["mean"].tolist() == found["mean"].tolist()
    other = table.analyze_runs(path, null="nm", n_null=20, null_pattern="1:4").nulls
    assert set(other["note"]) == {"no_pattern"}
    with pytest.raises(UsageError, match="cannot read the pattern '2/4'"):
        table.analyze_runs(path, null="nm", null_pattern="2/4")


def test_tables_are_written_for_each_run(run):
    invoke("analyze", run, "--null", "er", "--samples", "10")
    invoke("analyze", run, "--null", "degree", "--samples", "10")
    (csv,) = run.glob("analysis/*/nulls.csv")
    frame = pd.read_csv(csv)
    assert list(frame.columns) == list(null_table.NULL_COLUMNS)
    assert frame["null"].unique().tolist() == ["degree", "er"]
    pd.testing.assert_frame_equal(
        pd.read_parquet(csv.with_suffix(".parquet"))[["z", "p"]], frame[["z", "p"]], check_dtype=False
    )


@pytest.mark.parametrize("encoding", ["unrolled", "channel_count", "factorized", "parallel_sum", "attention"])
def test_an_encoding_whose_edges_are_not_free_has_no_null_model(run, encoding):
    with pytest.raises(UsageError, match=f"encodings kernel, channel, qkv, heads, parallel_or; '{encoding}' "):
        table.analyze_runs(run, null="er", encoding=encoding, heads=2)


def test_null_models_of_channels_are_drawn_from_channels_and_kept_apart(tmp_path, drawn_units):
    conv = LayerMask.from_dense("conv", np.random.default_rng(0).random((24, 16, 3, 3)) < 0.05)
    RunWriter(tmp_path).write_snapshot(Snapshot(0, {"conv": conv}))
    options = {"null": "degree", "n_null": 20, "null_metrics": "sigma_2"}
    kernels = table.analyze_runs(tmp_path, **options).nulls
    channels = table.analyze_runs(tmp_path, **options, encoding="channel").nulls
    assert len(drawn_units) == 2
    for frame, own in ((kernels, conv), (channels, encodings.channel(conv).mask)):
        found = nulls.compare(own, "degree", samples=20, metrics="sigma_2")["sigma_2"]
        assert [frame[k].item() for k in ("observed", "mean", "z")] == [found.observed, found.mean, found.z]
    assert kernels["observed"].item() != channels["observed"].item()
    again = table.analyze_runs(tmp_path, **options, encoding="channel").nulls
    assert len(drawn_units) == 2
    pd.testing.assert_frame_equal(channels, again)
    assert table.analyze_runs(tmp_path, encoding="unrolled", input_size=["8x8"]).nulls.empty


def test_null_models_of_fused_projections_and_of_branches(tmp_path):
    rng = np.random.default_rng(3)
    masks = {"attn.qkv": rng.random((24, 8)) < 0.5, "p.branches.0": rng.random((8, 8)) < 0.3}
    masks["p.branches.1"] = rng.random((8, 8)) < 0.3
    writer = RunWriter(tmp_path / "a")
    writer.write_snapshot(Snapshot(0, {name: LayerMask.from_dense(name, mask) for name, mask in masks.items()}))
    options = {"null": "er", "n_null": 20, "null_metrics": "sigma_1"}
    by_part = table.analyze_runs(tmp_path, **options, encoding="qkv", layers="attn*").nulls
    assert by_part["layer"].tolist() == ["attn.qkv[q]", "attn.qkv[k]", "attn.qkv[v]"]
    whole = table.analyze_runs(tmp_path, **options, encoding="parallel_or", layers="p*").nulls
    joined = LayerMask.from_dense("p", masks["p.branches.0"] | masks["p.branches.1"])
    assert whole["observed"].item() == nulls.compare(joined, "er", samples=20, metrics="sigma_1")["sigma_1"].observed


def test_more_rounds_are_another_comparison(run, drawn_units):
    options = {"null": "degree", "n_null": 20, "null_metrics": "sigma_2", "layers": "fc"}
    table.analyze_runs(run, **options)
    table.analyze_runs(run, **options, null_rounds=100)
    assert [unit.request.rounds for unit in drawn_units] == [nulls.ROUNDS, 100]
    found = CliRunner().invoke(
        app, ["analyze", str(run), "--null", "degree", "--samples", "20", "--layers", "fc", "--null-rounds", "200"]
    )
    assert found.exit_code == 0
    assert drawn_units[-1].request.rounds == 200


def test_a_notebook_gets_frames(run):
    opened = sift_graph.open(run)
    frame = opened.analyze(null="degree", n_null=20)
    assert len(frame) == 8
    assert len(pd.DataFrame(frame.attrs["nulls"])) == 16
    own = opened.nulls("degree", samples=20, metrics="sigma_2", steps="all", layers="fc")
    assert own[["step", "metric", "null"]].to_numpy().tolist() == [[0, "sigma_2", "degree"], [10, "sigma_2", "degree"]]
    assert own.attrs == {"failures": [], "warnings": []}


def invoke(*words, code=0):
    result = CliRunner(env={"COLUMNS": "140"}).invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


def test_the_terminal_shows_z_of_the_gap(run):
    plain = invoke("analyze", run).stdout
    assert " z " not in plain
    shown = invoke("analyze", run, "--null", "degree", "--samples", "20").stdout
    assert "z and p of the gap among 20 random masks (degree)" in shown
    assert " z " in shown
    assert "rigid" in shown
    frame = table.analyze_runs(run, null="degree", n_null=20).nulls
    z = frame.loc[(frame["layer"] == "fc") & (frame["metric"] == "ramanujan_gap"), "z"].item()
    (line,) = [line for line in shown.splitlines() if line.startswith("fc")]
    assert f"{z:+.3f}" in line


def test_json_holds_the_comparisons_of_the_model_asked_for(run):
    content = json.loads(invoke("analyze", run, "--null", "er", "--samples", "10", "--json").stdout)
    assert {row["null"] for row in content["nulls"]} == {"er"}
    assert content["nulls"][0]["n"] == 10
    assert "nulls" not in json.loads(invoke("analyze", run, "--json").stdout)


def test_the_report_holds_what_was_kept(run):
    invoke("analyze", run, "--null", "degree", "--samples", "10")
    page = Path(invoke("report", run).stdout.strip()).read_text()
    assert '<section id="nulls">' in page
    assert "differ from random masks of the same degrees" in page
    assert "card-excess" not in page  # samples take the place of the formula
    assert 'id="nulls-figure_1"' in page


def test_the_report_without_comparisons_has_no_section_of_them(run):
    page = Path(invoke("report", run).stdout.strip()).read_text()
    assert 'id="nulls"' not in page
    assert "card-excess" in page


def scores(null, z, p, *, step=10, metric="ramanujan_gap"):
    return [
        {"run": "a", "step": step, "layer": f"l{i}", "null": null, "metric": metric, "observed": 1.0, "mean": 0.5}
        | {"std": 0.1, "z": one, "p": q, "quantile": 0.5, "n": 50, "note": ""}
        for i, (one, q) in enumerate(zip(z, p, strict=True))
    ]


def test_findings_count_layers_above_and_below():
    layers = pd.DataFrame({"run": ["a"] * 2, "step": [0, 10]})
    rows = scores("er", [3.0, -4.0, -2.5, 0.1], [0.04, 0.04, 0.04, 0.9]) + scores("er", [9.0], [0.01], step=0)
    rows += scores("degree", [0.1, np.nan, 0.2, -0.3], [0.8, np.nan, 0.7, 0.6])
    strict, loose = null_findings(null_table.null_frame(rows), layers)
    assert (loose.layers, loose.above, loose.below, loose.samples, loose.left_out) == (4, 1, 2, 50, 0)
    assert loose.sentence == (
        "1 of 4 layers have a larger gap than random masks give and 2 a smaller one; mean z −0.85."
    )
    assert strict.sentence == (
        "None of 3 layers can be told from random masks; mean z +0.00; 1 without such random masks, or without a "
        "spread among them."
    )
    assert null_findings(null_table.null_frame([]), layers) == []


def test_the_profile_draws_masks_and_random_ones():
    rows = scores("er", [3.0, -4.0], [0.04, 0.04]) + scores("degree", [0.1, 0.3], [0.8, 0.9])
    ax = plots.null_profile(null_table.null_frame(rows), "ramanujan_gap")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "mask",
        "random, same edges (±2 sd)",
        "random, same degrees (±2 sd)",
    ]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["l0", "l1"]
    empty = plots.null_profile(null_table.null_frame([]))
    assert "no random mask was compared" in "".join(text.get_text() for text in empty.texts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--null", "erdos"], "no null model 'erdos'"),
        (["--null", "er", "--samples", "1"], "--samples"),
        (["--null", "er", "--null-metrics", "gap"], "no metric 'gap'"),
        (["--null", "nm", "--pattern", "4"], "cannot read the pattern '4'"),
        (["--null", "er", "--null-steps", "77"], "no recorded step is in '77'"),
        (["--samples", "20"], "--samples is about random masks, and none are drawn: add --null degree"),
        (["--pattern", "2:4"], "--pattern is about random masks, and none are drawn: add --null nm"),
        (["--null", "er", "--null-rounds", "50"], "--null-rounds is of --null degree; --null er has no use for it"),
    ],
)
def test_wrong_options_are_one_line(run, options, message):
    result = CliRunner().invoke(app, ["analyze", str(run), *options])
    assert result.exit_code == 2 or isinstance(result.exception, SiftGraphError)
    assert message in result.output + str(result.exception)
