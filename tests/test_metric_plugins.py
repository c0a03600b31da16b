"""Metrics of other packages and of notebooks: registration, faults, workers, the command."""

import json
import math
import re
from importlib.metadata import EntryPoint

import numpy as np
import pytest
from typer.testing import CliRunner

import sift_graph
from sift_graph import table, work
from sift_graph.cli import app
from sift_graph.errors import UsageError
from sift_graph.metrics import CORE, METRICS, Metric, Undefined, register, select
from sift_graph.metrics.plugins import FAILED, load_plugins
from tests.runs import SHAPES, write_run


def twice_the_edges(layer):
    return 2 * layer.graph.edges


def divided_by_zero(layer):
    raise ZeroDivisionError("no luck, none\nat all")


PLUGIN = Metric("twice_the_edges", twice_the_edges, "2 E", "integer >= 0")
SEVERAL = [Metric("divided_by_zero", divided_by_zero, "1 / 0", "none"), Metric("ones", lambda layer: 1, "1", "1")]
NO_METRIC = 7


@pytest.fixture(autouse=True)
def clean():
    """Leave the registry as it was."""
    before, failed = dict(METRICS), dict(FAILED)
    yield
    METRICS.clear()
    METRICS.update(before)
    FAILED.clear()
    FAILED.update(failed)


def point(value, name="mine"):
    return EntryPoint(name, value, "sift_graph.metrics")


def test_entry_points_add_metrics():
    added = load_plugins([point("tests.test_metric_plugins:PLUGIN"), point("tests.test_metric_plugins:SEVERAL")])
    assert [m.name for m in added] == ["twice_the_edges", "divided_by_zero", "ones"]
    assert METRICS["ones"].origin == "tests"
    values = sift_graph.measure(np.ones((2, 3), dtype=bool), metrics="core,twice_the_edges")
    assert values["twice_the_edges"] == 12
    assert "twice_the_edges" in select("all")
    assert "twice_the_edges" not in select("core")


@pytest.mark.parametrize(
    "value", ["tests.test_metric_plugins:MISSING", "no_such_package:M", "tests.test_metric_plugins:NO_METRIC"]
)
def test_a_broken_package_is_left_out_and_named(value, caplog):
    load_plugins([point(value, "broken"), point("tests.test_metric_plugins:PLUGIN")])
    assert "broken" in FAILED
    assert "'broken' are left out" in caplog.text
    assert "twice_the_edges" in METRICS
    shown = CliRunner().invoke(app, ["metrics", "twice_the_edges"])
    assert shown.exit_code == 0
    assert "'broken' are left out" in shown.stderr


def test_a_metric_that_raises_is_a_column_of_nothing_with_the_reason():
    load_plugins([point("tests.test_metric_plugins:SEVERAL")])
    values = sift_graph.measure(np.ones((2, 3), dtype=bool), metrics="divided_by_zero,ones,sigma_1")
    assert math.isnan(values["divided_by_zero"])
    assert values["note"] == "divided_by_zero: ZeroDivisionError: no luck; none at all"
    assert (values["ones"], values["sigma_1"]) == (1, pytest.approx(math.sqrt(6)))


def test_only_numbers_and_words_are_values():
    register(Metric("vector", lambda layer: layer.graph.left_degree, "d", "counts"))
    register(Metric("scalar", lambda layer: np.float32(0.5), "1/2", "1/2"))
    values = sift_graph.measure(np.ones((2, 3), dtype=bool), metrics=["vector", "scalar"])
    assert values["note"] == "vector: TypeError: expected a number or a text; found ndarray"
    assert type(values["scalar"]) is float


def test_an_undefined_value_has_its_own_word():
    def odd(layer):
        raise Undefined("too_odd")

    register(Metric("odd", odd, "?", "?"))
    assert sift_graph.measure(np.ones((2, 3), dtype=bool), metrics=["odd"])["note"] == "too_odd"


def test_names_are_guarded():
    with pytest.raises(UsageError, match="sift_graph has a metric of that name; choose another"):
        register(Metric("sigma_1", twice_the_edges, "", ""))
    with pytest.raises(UsageError, match="expected a name that can be a column"):
        Metric("my metric", twice_the_edges, "", "")
    with pytest.raises(UsageError, match="no group 'wieghted'; did you mean 'weighted'"):
        Metric("mine", twice_the_edges, "", "", group="wieghted")
    with pytest.raises(UsageError, match="expected a function of a layer, found 3"):
        Metric("mine", 3, "", "")


def test_an_added_metric_goes_the_whole_line_and_is_computed_again_when_it_changes(tmp_path):
    run = write_run(tmp_path / "a", steps=(0, 10))
    register(Metric("answer", lambda layer: 42, "42", "42"))
    first = table.analyze_runs(run, metrics="core,answer")
    assert set(first.layers["answer"]) == {42}
    assert first.network["answer_coverage"].tolist() == [1.0, 1.0]
    assert table.analyze_runs(run, metrics="core,answer").timing["computed"] == 0
    register(Metric("answer", lambda layer: 43, "43", "43"))
    assert set(table.analyze_runs(run, metrics="core,answer").layers["answer"]) == {43}


def test_workers_know_added_metrics(tmp_path, monkeypatch):
    run = write_run(tmp_path / "a", steps=(0, 10))
    monkeypatch.setattr(work, "INLINE_SECONDS", 0.0)
    register(Metric("answer", lambda layer: 42, "42", "42"))
    found = table.analyze_runs(run, metrics=["answer"], jobs=2)
    assert not found.failures
    assert set(found.layers["answer"]) == {42}


def test_one_raising_metric_does_not_stop_a_table(tmp_path):
    run = write_run(tmp_path / "a", steps=(0,))
    load_plugins([point("tests.test_metric_plugins:SEVERAL")])
    found = table.analyze_runs(run, metrics="core,divided_by_zero")
    assert not found.failures
    assert found.layers["divided_by_zero"].isna().all()
    assert found.layers["note"].str.contains("ZeroDivisionError").all()
    assert found.layers["sigma_1"].notna().all()


def test_the_command_lists_the_catalogue():
    shown = CliRunner().invoke(app, ["metrics", "--json"])
    listed = json.loads(shown.stdout)["metrics"]
    assert {m["name"] for m in listed} >= set(METRICS)
    assert {"formula", "values", "undefined", "order", "source", "predicts", "oracle"} <= set(listed[0])
    text = CliRunner().invoke(app, ["metrics", "core"], env={"COLUMNS": "250"}).stdout
    assert "sigma_2" in text
    assert "itop_rate" in text
    assert "cover_bound" not in text
    wrong = CliRunner().invoke(app, ["metrics", "imbd"])
    assert wrong.exit_code == 2
    assert "did you mean 'imdb'" in wrong.stderr


def test_of_a_few_metrics_the_command_says_everything():
    def text(names):
        return CliRunner().invoke(app, ["metrics", names], env={"COLUMNS": "200"}).stdout

    shown = text("imdb,iou_previous")
    assert "undefined: no edges, or no subgraph passes the gates" in shown
    assert "tells: how much one update moves" in shown
    assert "n_left_isolated" not in shown  # every table has it; nobody asked
    assert "n_left_isolated" in text("structure")
    assert "tells: the main confounder" in text("density")
    assert "tells:" not in text("core")


def test_analyze_takes_all_groups_and_names(tmp_path):
    run = write_run(tmp_path / "a", steps=(0, 10), shapes={"fc": (12, 20)})
    done = CliRunner().invoke(app, ["analyze", str(run), "--metrics", "all", "--json"])
    assert done.exit_code == 0, done.stderr
    row = json.loads(done.stdout)["rows"][-1]
    assert {"cover_gap", "survival", "nnstd_previous", "imdb_right", *CORE} <= set(row)
    assert not any(name.startswith("vita_") for name in row)
    few = CliRunner().invoke(app, ["analyze", str(run), "--metrics", "cover_gap,survival,vita", "--json"])
    row = json.loads(few.stdout)["rows"][-1]
    assert {"cover_gap", "survival", "vita_irm_norm", "edges"} <= set(row)
    assert "sigma_1" not in row


def test_means_are_over_sparse_layers(tmp_path):
    run = write_run(tmp_path / "a", steps=(0,), shapes=SHAPES)
    dense = write_run(tmp_path / "b", steps=(0,), shapes={"stem": (6, 5)}, density=1.1)
    both = tmp_path / "c"
    from sift_graph.masks import Snapshot
    from sift_graph.store import RunReader, RunWriter

    layers = {**RunReader(dense).load_snapshot(0).layers, **RunReader(run).load_snapshot(0).layers}
    RunWriter(both).write_snapshot(Snapshot(0, layers))
    sparse, every = (table.analyze_runs(both, average=a) for a in ("sparse", "all"))
    rows = sparse.layers
    below = rows["density"] < 1
    assert sparse.network["ramanujan_gap_norm"].iloc[0] == pytest.approx(rows.loc[below, "ramanujan_gap_norm"].mean())
    assert every.network["ramanujan_gap_norm"].iloc[0] == pytest.approx(rows["ramanujan_gap_norm"].mean())
    assert (sparse.network["n_layers"].iloc[0], sparse.network["n_averaged"].iloc[0]) == (5, 4)
    assert every.network["n_averaged"].iloc[0] == 5
    assert sparse.network["density"].iloc[0] == every.network["density"].iloc[0]  # of all entries, in any case
    alone = table.analyze_runs(dense).network
    assert alone["ramanujan_gap_norm"].iloc[0] == pytest.approx(1)  # nothing sparse: all of it
    with pytest.raises(UsageError, match="expected means over 'sparse' or 'all' layers, found 'dense'"):
        table.analyze_runs(run, average="dense")


def test_undefined_layers_are_counted_as_the_published_share_counts_them(tmp_path):
    shapes = {"thick": (30, 40), "thin": (30, 6), "even": (20, 20)}
    run = write_run(tmp_path / "a", steps=(0,), shapes=shapes, density=0.25)
    found = table.analyze_runs(run, metrics="core,vita")
    network, layers = found.network.iloc[0], found.layers
    assert layers["vita_rm"].isna().sum() == 1  # of `thin`: inputs have fewer than three edges
    assert (layers["is_ramanujan"] == "yes").sum() > (layers["vita_rm"] > 0).sum()
    assert network["ramanujan_share_vita"] == pytest.approx((layers["vita_rm"] > 0).mean())
    assert network["ramanujan_share"] == pytest.approx((layers["is_ramanujan"] == "yes").mean())


def test_the_distances_of_a_network_start_at_zero(tmp_path):
    network = table.analyze_runs(write_run(tmp_path / "a")).network
    columns = [c for c in network if c.startswith("fs_")]
    assert {"fs_distance_first", "fs_distance_first_stacked", "fs_anchor_distance_imsg"} <= set(columns)
    assert network.loc[0, columns].to_numpy(float) == pytest.approx(0)
    assert (network.loc[1:, "fs_distance_first"] > 0).all()
    assert (network["fs_distance_first_stacked"] >= network["fs_distance_first"] - 1e-12).all()


def test_velocities_are_absolute_changes_within_a_layer(tmp_path):
    frame = table.analyze_runs(write_run(tmp_path / "a")).layers
    moved = table.velocities(frame)
    assert moved.index.equals(frame.index)
    assert moved.loc[frame["step"] == 0, "sigma_2"].isna().all()
    one, then = (frame[(frame["layer"] == "fc") & (frame["step"] == s)]["sigma_2"].iloc[0] for s in (10, 20))
    found = moved[(frame["layer"] == "fc") & (frame["step"] == 20)]["sigma_2"].iloc[0]
    assert found == pytest.approx(abs(then - one))
    assert "is_ramanujan" not in moved


def test_the_network_is_printed_where_it_was_asked_for(tmp_path):
    run = write_run(tmp_path / "a", steps=(0, 10), shapes={"a": (12, 20), "b": (5, 12)})
    shown = CliRunner().invoke(app, ["analyze", str(run), "--metrics", "network"], env={"COLUMNS": "160"}).stdout
    values = table.analyze_runs(run, metrics="network").network.iloc[-1]
    assert "whole network   step 10" in shown
    assert re.search(rf"effective_edges +{int(values['effective_edges'])} ", shown)
    assert "gap/bound   " not in shown  # not measured: no column of dashes
    assert "whole network" not in CliRunner().invoke(app, ["analyze", str(run)]).stdout
