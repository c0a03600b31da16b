"""Measurements and scalars on the side: by another process, to whoever keeps track, and never in the training's way."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import types
import warnings
from pathlib import Path

import numpy as np
import pytest

import sift_graph
from sift_graph.errors import UsageError
from sift_graph.masks import LayerMask
from sift_graph.record import MaskRecorder, RecorderWarning
from sift_graph.recording.measuring import Measurer, scalars
from sift_graph.recording.worker import measured
from sift_graph.sinks import Teller, make_sink, mlflow_sink, wandb_sink
from sift_graph.store import RunReader

RNG = np.random.default_rng(0)
MASK = RNG.random((12, 20)) < 0.4
WEIGHT = RNG.standard_normal((12, 20)).astype(np.float32)
EYE = np.eye(4, dtype=bool)


def measured_rows(run: Path) -> list[dict]:
    return [row for row in RunReader(run).metrics() if "measured" in row]


def test_each_snapshot_is_measured_by_another_process_as_the_library_measures_it(tmp_path: Path):
    sent = []
    with MaskRecorder(tmp_path / "run", measure=True, weights="fp32", log_to=lambda *row: sent.append(row)) as recorder:
        recorder.snapshot(3, {"fc": (MASK, WEIGHT), "empty": np.zeros((4, 4), dtype=bool)}, epoch=0.5)
        recorder.log({"step": 3, "loss": 0.25, "name": "x"})
        child = recorder._pipeline.measurer._process
        recorder._pipeline.background.wait()
        recorder._pipeline.measurer.wait()
        recorder.snapshot(5, {"fc": (~MASK, WEIGHT)})
        pid = child._child.pid
        assert pid != os.getpid()
    rows = measured_rows(tmp_path / "run")
    assert [(row["step"], row.get("epoch")) for row in rows] == [(3, 0.5), (5, None)]
    expected = sift_graph.measure(LayerMask.from_dense("fc", MASK, WEIGHT))
    found = rows[0]["measured"]["fc"]
    assert found.keys() | {"note"} == expected.keys()
    for name, value in found.items():
        known = expected[name]
        if value is None:
            assert known is None or np.isnan(known), name
        else:
            assert value == (pytest.approx(known, rel=1e-9) if isinstance(value, float) else known), name
    assert rows[0]["measured"]["empty"]["sigma_1"] is None
    assert "empty" in rows[0]["measured"]["empty"]["note"]
    at = {step: values for step, values in sent if "sigma_2/fc" in values}
    assert at.keys() == {3, 5}
    assert at[3]["sigma_2/mean"] == at[3]["sigma_2/fc"] == found["sigma_2"]
    assert (3, {"loss": 0.25}) in sent
    assert child._child is None
    with pytest.raises(ProcessLookupError, match="No such process"):
        os.kill(pid, 0)


def test_measurements_do_not_become_columns_of_the_training(tmp_path: Path):
    from sift_graph.network_means import training_history

    with MaskRecorder(tmp_path / "run", measure="density") as recorder:
        recorder.snapshot(0, {"fc": MASK})
        recorder.log({"step": 0, "loss": 0.5})
    assert measured_rows(tmp_path / "run")[0]["measured"]["fc"]["density"] == MASK.mean()
    assert training_history(RunReader(tmp_path / "run")) == {"loss": [(0, 0.5)]}


def test_a_metric_that_does_not_exist_is_refused_at_once(tmp_path: Path):
    with pytest.raises(UsageError, match=r"no metric 'sigma_3'; did you mean 'sigma_"):
        MaskRecorder(tmp_path / "run", measure=["sigma_3"])
    assert not (tmp_path / "run").exists()


def test_what_lags_is_passed_over_counted_and_told_once(tmp_path: Path, monkeypatch):
    gate = threading.Event()

    def slow(self, run_dir, step):
        gate.wait(20)
        return {"fc": {"density": 0.5}}

    monkeypatch.setattr("sift_graph.recording.measuring._Process.measure", slow)
    recorder = MaskRecorder(tmp_path / "run", measure=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(8):
            recorder.snapshot(step, {"fc": np.roll(EYE, step, 0)})
        recorder.flush()  # does not wait for measurements
        recorder.log({"step": 7, "loss": 1.0})
    assert [str(warning.message)[:35] for warning in caught] == ["measuring is slower than recording:"]
    assert recorder.unmeasured >= 3
    recorder.log({"step": 7, "loss": 1.0})  # a second warning would be an error here
    gate.set()
    recorder.close()
    assert len(measured_rows(tmp_path / "run")) == 8 - recorder.unmeasured
    assert RunReader(tmp_path / "run").steps == list(range(8))


def test_a_process_that_is_killed_costs_one_measurement(tmp_path: Path):
    recorder = MaskRecorder(tmp_path / "run", measure="density")
    measurer = recorder._pipeline.measurer
    measurer._process._child = measurer._process._start()
    os.kill(measurer._process._child.pid, signal.SIGKILL)
    recorder.snapshot(0, {"fc": MASK})
    recorder.flush()
    measurer.wait()
    with pytest.warns(RecorderWarning, match=r"go on, but step 0 was not measured: .*ended \(exit code -9\)"):
        recorder.snapshot(1, {"fc": ~MASK})
    recorder.close()
    assert [row["step"] for row in measured_rows(tmp_path / "run")] == [1]


def test_what_cannot_be_measured_is_a_warning(tmp_path: Path):
    (tmp_path / "none").mkdir()
    measurer = Measurer("density")
    with pytest.raises(sift_graph.SiftGraphError, match=r"step 4 was not measured: RunDirectoryError: .*not a run"):
        measurer._process.measure(tmp_path / "none", 4)
    measurer.close()
    with MaskRecorder(tmp_path / "run") as recorder:
        recorder.snapshot(0, {"fc": MASK})
    assert measured(tmp_path / "run", 0, ["edges"]) == {"fc": {"edges": int(MASK.sum())}}


def test_a_forgotten_recorder_ends_its_process(tmp_path: Path):
    recorder = MaskRecorder(tmp_path / "run", measure="density")
    process = recorder._pipeline.measurer._process
    recorder.snapshot(0, {"fc": MASK})
    recorder.flush()
    del recorder
    gc.collect()
    assert process._child is None
    assert len(measured_rows(tmp_path / "run")) == 1


def test_rewinding_takes_measurements_along(tmp_path: Path):
    with MaskRecorder(tmp_path / "run", measure="density") as recorder:
        recorder.snapshot(0, {"fc": MASK})
        recorder.snapshot(1, {"fc": ~MASK})
        recorder.rewind(0)
        recorder.snapshot(1, {"fc": MASK | ~MASK})
    rows = measured_rows(tmp_path / "run")
    assert [(row["step"], row["measured"]["fc"]["density"]) for row in rows] == [(0, MASK.mean()), (1, 1.0)]


def test_scalars_leave_out_what_is_no_number():
    layers = {"a": {"gap": 1.0, "is_ramanujan": "yes", "note": "x"}, "b": {"gap": None, "edges": 3}}
    assert scalars(layers) == {"gap/a": 1.0, "gap/mean": 1.0, "edges/b": 3.0, "edges/mean": 3.0}


# Trackers


def test_a_summary_writer_gets_each_scalar_at_its_step():
    calls = []

    class SummaryWriter:
        def add_scalar(self, tag, scalar_value, global_step=None, walltime=None):
            calls.append((tag, scalar_value, global_step))

    make_sink(SummaryWriter())(7, {"loss": 0.5, "gap/fc": 1.0})
    assert calls == [("loss", 0.5, 7), ("gap/fc", 1.0, 7)]


def test_a_real_summary_writer_where_it_is_installed(tmp_path: Path):
    pytest.importorskip("tensorboard", reason="tensorboard is not among the extras")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        make_sink(writer)(7, {"loss": 0.5})
    assert any(b"loss" in path.read_bytes() for path in tmp_path.iterdir())


class WandbRun:
    """A run as wandb documents it: history rows whose steps ascend."""

    def __init__(self):
        self.defined, self.rows = {}, []

    def define_metric(self, name, step_metric=None, **options):
        self.defined[name] = step_metric

    def log(self, data, step=None, commit=None):
        self.rows.append((data, step, commit))


def test_a_wandb_run_gets_an_axis_of_its_own_and_no_step():
    run = WandbRun()
    make_sink(run)(7, {"loss": 0.5})
    assert run.defined == {"sift_graph/step": None, "sift_graph/*": "sift_graph/step"}
    assert run.rows == [({"sift_graph/step": 7, "sift_graph/loss": 0.5}, None, True)]
    run = WandbRun()
    make_sink(wandb_sink(run, prefix="masks/", commit=False))(7, {"loss": 0.5})
    assert run.rows == [({"masks/step": 7, "masks/loss": 0.5}, None, False)]


def fake_mlflow(run_id: str | None) -> types.SimpleNamespace:
    """The module as it is documented: the active run is that of the thread that asks."""
    thread, calls = threading.current_thread(), []

    def active_run():
        if run_id is None or threading.current_thread() is not thread:
            return None
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id))

    def log_metrics(metrics, step=None, synchronous=None, run_id=None, timestamp=None):
        calls.append((metrics, step, run_id or active_run().info.run_id))

    return types.SimpleNamespace(active_run=active_run, log_metrics=log_metrics, calls=calls)


def test_mlflow_gets_the_run_that_was_active_in_the_training_thread(tmp_path: Path):
    mlflow = fake_mlflow("r1")
    with MaskRecorder(tmp_path / "run", log_to=mlflow) as recorder:
        recorder.log({"step": 7, "loss": 0.5, "gap/fc[0]": 1.0})
    assert mlflow.calls == [({"loss": 0.5, "gap/fc_0_": 1.0}, 7, "r1")]
    make_sink(mlflow_sink(mlflow, "r2"))(8, {"loss": 0.25})
    assert mlflow.calls[-1] == ({"loss": 0.25}, 8, "r2")
    with pytest.raises(UsageError, match=r"mlflow has no active run; begin one with mlflow\.start_run"):
        make_sink(fake_mlflow(None))


def test_what_is_no_tracker_is_refused_with_the_way_out(tmp_path: Path):
    with pytest.raises(
        UsageError, match=r"log_to: expected a SummaryWriter.*found int; wrap its own call: log_to=lambda"
    ):
        MaskRecorder(tmp_path / "run", log_to=[print, 5])
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_fails_costs_neither_training_nor_recording(tmp_path: Path):
    seen = []

    def broken(step, values):
        if step < 2:
            raise ConnectionError("no network")
        seen.append(step)

    recorder = MaskRecorder(tmp_path / "run", log_to=broken)
    recorder.log({"step": 0, "loss": 1.0})
    recorder._pipeline.teller._jobs.wait()
    with pytest.warns(RecorderWarning, match=r"go on, but a tracker failed: .*of step 0 is lost \(ConnectionError"):
        recorder.log({"step": 1, "loss": 1.0})
    recorder.log({"step": 2, "loss": 1.0})
    recorder.close()
    assert seen == [2]
    assert [row["step"] for row in RunReader(tmp_path / "run").metrics()] == [0, 1, 2]


def test_a_tracker_that_is_slow_drops_rows_and_holds_up_nothing(monkeypatch):
    monkeypatch.setattr("sift_graph.sinks.WAITING", 1)
    gate, started = threading.Event(), threading.Event()

    def slow(step, values):
        started.set()
        gate.wait(20)

    teller = Teller(slow)
    teller.tell({"step": 0, "loss": 1.0})
    assert started.wait(20)
    for step in (1, 2, 3):
        teller.tell({"step": step, "loss": 1.0})
    teller.tell({"loss": 1.0})  # without a step
    teller.tell({"step": 4, "name": "x"})  # without a number
    assert teller.dropped == 2
    assert "2 rows were not sent" in teller.problem()
    gate.set()
    teller.close()


def test_no_tracker_is_imported_by_the_recorder(tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with MaskRecorder(tmp_path / "run", log_to=lambda step, values: None) as recorder:
            recorder.log({"step": 0, "loss": 1.0})
    assert not {"wandb", "mlflow", "tensorboardX"} & sys.modules.keys()
