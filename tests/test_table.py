"""From recorded runs to frames: values, resuming, selections, damage."""

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest

import sift_graph
from sift_graph import table, work
from sift_graph.errors import DamagedStoreError, RunDirectoryError, UsageError
from sift_graph.masks import LayerMask, Snapshot
from sift_graph.metrics import CORE
from sift_graph.store import RunReader, RunWriter
from tests.runs import HOSTILE, SHAPES, write_run


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "a", accuracy=0.8)


@pytest.fixture
def count_units(monkeypatch):
    """List the units that are really measured."""
    measured = []
    real = work.measure_unit
    monkeypatch.setattr(work, "measure_unit", lambda unit: measured.append(unit) or real(unit))
    return measured


def test_rows_are_what_measure_says(run):
    analysis = table.analyze_runs(run)
    frame = analysis.layers
    assert list(frame.columns) == list(table.COLUMNS)
    assert len(frame) == 4 * len(SHAPES)
    assert frame["layer"].cat.categories.tolist() == list(SHAPES)
    reader = RunReader(run)
    for row in frame.to_dict("records"):
        expected = sift_graph.measure(reader.load_layer(row["step"], row["layer"]))
        for name in CORE:
            assert row[name] == expected[name] or (pd.isna(row[name]) and pd.isna(expected[name])), name
        assert row["note"] == expected["note"]
    assert set(frame["family"]) == {"sparse_wide"}
    assert not analysis.failures
    assert analysis.timing["computed"] == 16


def test_network_rows_are_means_with_their_coverage(run):
    analysis = table.analyze_runs(run)
    last = analysis.network.iloc[-1]
    part = analysis.layers[analysis.layers["step"] == 30]
    assert last["imdb_norm"] == pytest.approx(part["imdb_norm"].mean())
    assert last["imdb_norm_coverage"] == part["imdb_norm"].notna().mean() < 1
    sizes = [math.prod(s) for s in SHAPES.values()]
    assert last["density"] == pytest.approx(part["edges"].sum() / sum(sizes))
    assert last["mean_density"] == pytest.approx(part["density"].mean())
    assert last["val_accuracy"] == last["final_val_accuracy"] == pytest.approx(0.8 - 0.1 / 31)
    assert analysis.network["val_accuracy"].iloc[0] == pytest.approx(0.7)
    assert set(analysis.network["final_val_accuracy"]) == {last["val_accuracy"]}


def test_a_second_call_computes_nothing(run, count_units):
    first = table.analyze_runs(run)
    done = len(count_units)
    assert done == 2 * 16  # each mask once, each weight once
    second = table.analyze_runs(run)
    assert len(count_units) == done
    assert (second.timing["computed"], second.timing["reused"]) == (0, 16)
    pd.testing.assert_frame_equal(first.layers, second.layers)
    pd.testing.assert_frame_equal(first.network, second.network)


def test_only_new_snapshots_are_computed(run, count_units):
    reader = RunReader(run)
    first = table.analyze_runs(run)
    before = len(count_units)
    newest = reader.load_snapshot(30)
    moved = {n: LayerMask.from_dense(n, ~m.mask, groups=m.groups) for n, m in newest.layers.items()}
    RunWriter(run, resume=True).write_snapshot(Snapshot(40, moved, epoch=4.0))
    second = table.analyze_runs(run)
    assert {u.step for u in count_units[before:]} == {40}
    assert second.timing["computed"] == 4
    pd.testing.assert_frame_equal(first.layers, second.layers[second.layers["step"] < 40], check_dtype=False)
    assert second.layers["iou_previous"].iloc[-4:].tolist() == [0.0] * 4


def test_a_static_mask_is_measured_once(tmp_path, count_units):
    write_run(tmp_path / "s", moving=False)
    frame = table.analyze_runs(tmp_path / "s").layers
    assert sum(u.needs == "mask" for u in count_units) == len(SHAPES)
    assert sum(u.needs == "weight" for u in count_units) == 4 * len(SHAPES)
    assert frame.groupby("layer", observed=True)["sigma_2"].nunique().tolist() == [1] * 4
    assert frame.loc[frame["layer"] == "fc", "weighted_spectral_gap"].nunique() == 4
    assert set(frame["iou_previous"].dropna()) == {1.0}


def test_settings_and_force_compute_again(run, count_units):
    table.analyze_runs(run)
    before = len(count_units)
    table.analyze_runs(run, metrics=["sigma_1"])
    assert len(count_units) == before + 16
    table.analyze_runs(run, force=True)
    assert len(count_units) == before + 16 + 32


def test_interrupted_rows_are_kept(run, monkeypatch, count_units):
    real = work.measure_unit

    def interrupt(unit):
        if len(count_units) == 20:
            raise KeyboardInterrupt("stop")
        return real(unit)

    monkeypatch.setattr(work, "measure_unit", interrupt)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        table.analyze_runs(run)
    monkeypatch.setattr(work, "measure_unit", real)
    kept = len(next(run.glob("analysis/*/rows.jsonl")).read_text().splitlines())
    assert kept > 0
    analysis = table.analyze_runs(run)
    assert analysis.timing["reused"] == kept
    pd.testing.assert_frame_equal(analysis.layers, table.analyze_runs(run, force=True).layers)


def test_a_kept_line_that_a_crash_cut_short_is_computed_again(run):
    first = table.analyze_runs(run)
    rows = next(run.glob("analysis/*/rows.jsonl"))
    lines = rows.read_text().splitlines(keepends=True)
    rows.write_text("".join(lines[:5]) + lines[5][:40])
    again = table.analyze_runs(run)
    assert again.timing["reused"] == 5
    pd.testing.assert_frame_equal(first.layers, again.layers)
    third = table.analyze_runs(run)  # the cut line must not have swallowed the one appended after it
    assert third.timing["computed"] == 0


def test_two_workers_find_the_same(run, monkeypatch):
    one = table.analyze_runs(run, force=True)
    monkeypatch.setattr(work, "INLINE_SECONDS", 0.0)
    two = table.analyze_runs(run, jobs=2, force=True)
    pd.testing.assert_frame_equal(one.layers, two.layers)


@pytest.mark.parametrize(
    ("wanted", "steps"),
    [
        (None, [0, 10, 20, 30]),
        ("all", [0, 10, 20, 30]),
        ("last", [30]),
        ("first", [0]),
        ("every:3", [0, 30]),
        ("10:20", [10, 20]),
        (":10", [0, 10]),
        ("20:", [20, 30]),
        ("10,30", [10, 30]),
        ([0, 20], [0, 20]),
    ],
)
def test_steps_can_be_selected(run, wanted, steps):
    frame = table.analyze_runs(run, steps=wanted, layers="fc").layers
    assert frame["step"].tolist() == steps
    assert set(frame["layer"]) == {"fc"}


def test_dynamics_of_a_selection_are_those_of_the_whole_history(run):
    whole = table.analyze_runs(run, force=True).layers
    last = table.analyze_runs(run, steps="last", force=True).layers
    columns = ["iou_previous", "hamming_first", "itop_rate"]
    pd.testing.assert_frame_equal(last[columns], whole.loc[whole["step"] == 30, columns].reset_index(drop=True))


def test_layers_are_chosen_by_glob(run):
    assert set(table.analyze_runs(run, layers="stage1.*").layers["layer"]) == {"stage1.0.conv1", "stage1.0.conv2"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "stge*"}, r"no layer matches 'stge\*'.*known: fc, stage1"),
        ({"steps": "lst"}, "cannot read steps 'lst'; expected last, first, all, every:N"),
        ({"steps": "every:0"}, "no recorded step is in 'every:0'"),
        ({"steps": "55"}, "no recorded step is in '55'; recorded: 0 to 30, 4 in all"),
        ({"metrics": ["imbd"]}, "no metric 'imbd'; did you mean 'imdb'"),
        ({"jobs": 0}, "expected 1 or more jobs, found 0"),
    ],
)
def test_what_does_not_exist_is_said(run, options, message):
    with pytest.raises(UsageError, match=message):
        table.analyze_runs(run, **options)


def test_not_a_run_directory(tmp_path, run):
    with pytest.raises(RunDirectoryError, match="expected a run directory or a directory of runs, found nothing"):
        table.analyze_runs(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunDirectoryError, match=r"not a run directory \(no sift.json"):
        table.analyze_runs(tmp_path / "empty")
    RunWriter(tmp_path / "new")
    with pytest.raises(RunDirectoryError, match="has no snapshot yet"):
        table.analyze_runs(tmp_path / "new")


def test_several_runs_are_one_frame(tmp_path):
    for seed in range(3):
        write_run(tmp_path / f"group/run{seed}", seed=seed, accuracy=0.5 + 0.1 * seed)
    RunWriter(tmp_path / "group/unborn")
    analysis = table.analyze_runs(tmp_path)
    assert set(analysis.layers["run"]) == {f"group/run{seed}" for seed in range(3)}
    assert len(analysis.network) == 12
    assert any("has no snapshot yet" in w for w in analysis.warnings)
    single = table.analyze_runs(tmp_path / "group/run1").layers
    together = analysis.layers[analysis.layers["run"] == "group/run1"].reset_index(drop=True)
    pd.testing.assert_frame_equal(single.drop(columns="run"), together.drop(columns="run"))


def test_a_glob_may_fit_one_run_and_not_another(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", shapes={"other": (6, 6)})
    analysis = table.analyze_runs(tmp_path, layers="other")
    assert set(analysis.layers["run"]) == {"b"}
    assert any("a: left out: no layer matches 'other'" in w for w in analysis.warnings)


def test_a_truncated_snapshot_is_named_and_the_rest_analyzed(run):
    path = RunReader(run).path(20)
    path.write_bytes(path.read_bytes()[:-50])
    analysis = table.analyze_runs(run)
    assert sorted(set(analysis.layers["step"])) == [0, 10, 30]
    assert any(f.step == 20 and "truncated" in f.message and str(path) in f.message for f in analysis.failures)


def test_an_altered_mask_is_named_and_the_rest_analyzed(run):
    path = RunReader(run).path(30)
    data = bytearray(path.read_bytes())
    start = data.find(b"\x28\xb5\x2f\xfd")  # the first zstd frame
    data[start + 12] ^= 0x10
    path.write_bytes(bytes(data))
    analysis = table.analyze_runs(run)
    assert len(analysis.failures) == 1
    assert len(analysis.layers) == 15
    assert analysis.network["n_failed"].tolist() == [0, 0, 0, 1]


def test_damage_far_from_what_is_asked_for_does_not_matter(run):
    table.analyze_runs(run)
    path = RunReader(run).path(10)
    path.unlink()
    analysis = table.analyze_runs(run, steps="last")
    assert len(analysis.layers) == 4


def test_a_damaged_header_is_said(run):
    (run / "sift.json").write_text("{")
    with pytest.raises(DamagedStoreError, match="cannot be read as JSON"):
        table.analyze_runs(run)


def test_a_run_that_cannot_be_written_is_still_measured(run):
    (run / "analysis").write_text("in the way")
    analysis = table.analyze_runs(run)
    assert len(analysis.layers) == 16
    assert any("cannot be written" in w for w in analysis.warnings)


def test_an_unexpected_fault_in_one_layer_is_a_failure_of_that_layer(run, monkeypatch, caplog):
    real = work.measure_encoded

    def fail(graph, names, **options):
        if graph.layer == "fc":
            raise ZeroDivisionError("a bug")
        return real(graph, names, **options)

    monkeypatch.setattr(work, "measure_encoded", fail)
    analysis = table.analyze_runs(run, steps="last")
    assert set(analysis.layers["layer"]) == set(SHAPES) - {"fc"}
    assert {f.layer for f in analysis.failures} == {"fc"}
    assert "unexpected ZeroDivisionError: a bug" in analysis.failures[0].message


def test_an_all_zero_layer_is_a_row(tmp_path):
    writer = RunWriter(tmp_path / "z")
    empty = LayerMask.from_dense("dead", np.zeros((4, 5), dtype=bool))
    alive = LayerMask.from_dense("alive", np.ones((4, 5), dtype=bool))
    writer.write_snapshot(Snapshot(0, {"dead": empty, "alive": alive}))
    frame = table.analyze_runs(tmp_path / "z").layers.set_index("layer")
    assert frame.loc["dead", "note"] == "empty"
    assert math.isnan(frame.loc["dead", "sigma_2"])
    assert frame.loc["alive", "sigma_1"] == pytest.approx(math.sqrt(20))


def test_hostile_layer_names_are_data(tmp_path):
    write_run(tmp_path / "h", shapes=dict.fromkeys(HOSTILE, (5, 6)), steps=(0, 1))
    analysis = table.analyze_runs(tmp_path / "h")
    assert analysis.layers["layer"].cat.categories.tolist() == HOSTILE
    paths = table.write_tables(analysis, tmp_path / "out")
    back = pd.read_parquet(paths[1])
    assert back["layer"].tolist() == analysis.layers["layer"].tolist()
    assert {p.name for p in (tmp_path / "h").rglob("*") if p.is_file()} == {
        "sift.json",
        "step_000000000.safetensors",
        "step_000000001.safetensors",
        "rows.jsonl",
    }


def test_tables_are_written_and_read_back(run, tmp_path):
    analysis = table.analyze_runs(run)
    paths = table.write_tables(analysis, tmp_path / "out")
    assert [p.name for p in paths] == ["layers.csv", "layers.parquet", "network.csv", "summary.json"]
    read = pd.read_csv(paths[0])
    assert read["sigma_2"].to_numpy() == pytest.approx(analysis.layers["sigma_2"].to_numpy())
    assert json.loads(paths[3].read_text())["rows"] == 16


def test_a_moved_run_is_the_same_run(run, tmp_path, count_units):
    table.analyze_runs(run)
    before = len(count_units)
    shutil.move(run, tmp_path / "elsewhere")
    assert table.analyze_runs(tmp_path / "elsewhere").timing["reused"] == 16
    assert len(count_units) == before
