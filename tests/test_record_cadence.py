"""When the recorder looks, and with which weights: every, schedule, epochs' ends, weights at a cadence of their own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from sift_graph.errors import UsageError
from sift_graph.record import MaskRecorder
from sift_graph.recording.cadence import Cadence
from sift_graph.store import RunReader

EYE = np.eye(4, dtype=bool)


def run_of(tmp_path: Path, *, moves: tuple[int, ...] = (), epoch: int = 0, steps: int = 12, **options) -> RunReader:
    """Train some steps, the mask moved before some of them, epochs so many steps long, and read what was recorded."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 4))
    prune.random_unstructured(model[0], "weight", 0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with MaskRecorder(tmp_path / "run", **options).attach(model, optimizer) as recorder:
        for step in range(1, steps + 1):
            if step in moves:
                model[0].weight_mask.copy_(model[0].weight_mask.roll(1, 0))
            model(torch.randn(5, 8)).square().mean().backward()
            optimizer.step()
            if epoch and step % epoch == 0:
                recorder.end_epoch(step / epoch)
    return RunReader(tmp_path / "run")


def with_weights(reader: RunReader) -> list[int]:
    return [s for s in reader.steps if all(e["weight_xxh3"] is not None for e in reader.entries(s))]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"schedule": [2, 3, 7, 50]}, [0, 2, 3, 7, 12]),
        ({"schedule": np.array([5])}, [0, 5, 12]),
        ({"schedule": lambda step: step in (4, 9)}, [0, 4, 9, 12]),
        ({"schedule": range(2, 6, 2), "every": 5}, [0, 2, 4, 5, 10, 12]),
    ],
)
def test_a_schedule_says_when_to_look(tmp_path: Path, options, expected):
    assert run_of(tmp_path, on_change=False, **options).steps == expected


def test_a_schedule_leaves_out_what_has_not_changed(tmp_path: Path):
    reader = run_of(tmp_path, schedule=[2, 4, 8], moves=(3,))
    assert reader.steps == [0, 4, 12]
    assert reader.header["recorder"]["schedule"] == [2, 4, 8]


def test_the_header_says_that_a_function_was_the_schedule(tmp_path: Path):
    header = run_of(tmp_path, schedule=lambda step: False, layers=["0", "none*"]).header
    assert header["recorder"]["schedule"] == "callable"
    assert header["recorder"]["layers"] == ["0", "none*"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": 5}, "schedule: expected a function from a step to a bool, or whole steps, found '5'"),
        ({"schedule": [1.5]}, "or whole steps, found '"),
        ({"schedule": "1,2"}, "or whole steps, found '1,2'"),
        ({"schedule": [-1, 2]}, "schedule: expected steps of 0 or more"),
        ({"schedule": []}, "schedule: expected steps of 0 or more, found"),
        ({"weights_every": 0}, "weights_every: expected 1 or more optimizer steps, found 0"),
        ({"weights_every": 10, "weights": "none"}, "weights_every: 10 steps, but weights='none' stores none"),
    ],
)
def test_what_is_no_cadence_is_refused_before_anything_is_made(tmp_path: Path, options, message):
    with pytest.raises(UsageError, match=message):
        MaskRecorder(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_the_end_of_an_epoch_is_looked_at_whatever_the_cadence(tmp_path: Path):
    reader = run_of(tmp_path, every=100, epoch=4, moves=(2, 11))
    assert reader.steps == [0, 4, 12]
    assert [reader.snapshot_header(step)["epoch"] for step in reader.steps] == [None, 1.0, 3.0]


def test_the_end_of_an_epoch_without_a_change_is_recorded_if_all_are(tmp_path: Path):
    assert run_of(tmp_path, every=100, epoch=5, on_change=False).steps == [0, 5, 10, 12]


def test_end_epoch_says_whether_it_recorded(tmp_path: Path):
    model = nn.Linear(4, 4)
    prune.random_unstructured(model, "weight", 0.5)
    recorder = MaskRecorder(tmp_path / "run", every=10).attach(model, None)
    recorder.after_step()
    assert not recorder.end_epoch(1)
    model.weight_mask.copy_(1 - model.weight_mask)
    assert recorder.end_epoch(2)
    assert not recorder.end_epoch(3)
    recorder.detach()
    with pytest.raises(UsageError, match=r"end_epoch: the recorder is not attached; attach it, or pass step="):
        recorder.end_epoch(4)
    recorder.close()
    assert RunReader(tmp_path / "run").steps == [0, 1]


def test_end_epoch_by_hand(tmp_path: Path):
    with MaskRecorder(tmp_path / "run", every=10) as recorder:
        recorder.snapshot(0, {"fc": EYE})
        assert not recorder.end_epoch(1, step=3, masks={"fc": EYE})
        assert recorder.end_epoch(2, step=6, masks={"fc": ~EYE})
    assert RunReader(tmp_path / "run").steps == [0, 6]


def test_end_epoch_of_a_recorder_that_is_switched_off(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("SIFT_GRAPH_DISABLED", "1")
    assert not MaskRecorder(tmp_path / "run").end_epoch(1)


def test_weights_have_a_cadence_of_their_own(tmp_path: Path):
    reader = run_of(tmp_path, moves=(2, 7), weights_every=5, steps=12)
    assert reader.steps == [0, 2, 5, 7, 10, 12]  # 5 and 10 for the weights, 2 and 7 for the masks
    assert with_weights(reader) == [0, 5, 10, 12]
    reader = run_of(tmp_path / "all", every=4, on_change=False, weights_every=8)
    assert (reader.steps, with_weights(reader)) == ([0, 4, 8, 12], [0, 8])


def test_weights_by_hand_are_stored_as_they_are_handed_over_unless_it_should_be_due(tmp_path: Path):
    with MaskRecorder(tmp_path / "run", weights_every=4) as recorder:
        for step in (1, 2):
            recorder.snapshot(step, {"fc": (np.roll(EYE, step, 0), np.ones((4, 4)))})
        for step in (3, 4):
            recorder.snapshot(step, {"fc": (np.roll(EYE, step, 0), np.ones((4, 4)))}, if_due=True)
        assert recorder.snapshot(8, {"fc": (EYE, np.ones((4, 4)))}, if_due=True)  # unchanged, but for its weights
        assert not recorder.snapshot(9, {"fc": (EYE, np.ones((4, 4)))}, if_due=True)
    reader = RunReader(tmp_path / "run")
    assert (reader.steps, with_weights(reader)) == ([1, 2, 3, 4, 8], [1, 2, 4, 8])


def test_layers_are_globs_in_a_list_where_commas_belong_to_names(tmp_path: Path):
    with MaskRecorder(tmp_path / "run", layers=["a,b", "c*"]) as recorder:
        recorder.snapshot(0, {"a,b": EYE, "b": EYE, "c1": EYE})
    assert list(RunReader(tmp_path / "run").load_snapshot(0).layers) == ["a,b", "c1"]


def test_is_due_says_what_a_loop_need_not_prepare(tmp_path: Path):
    with MaskRecorder(tmp_path / "run", every=6, schedule=[4], weights_every=9) as recorder:
        assert [step for step in range(1, 20) if recorder.is_due(step)] == [4, 6, 9, 12, 18]
    assert Cadence.make(None, None, None).is_due(7)
    assert json.dumps(Cadence.make(3, {9, 2}, None).described())


def test_rows_that_reach_further_than_the_snapshots_are_put_aside_on_resume(tmp_path: Path):
    def train(steps: range, **options) -> None:
        with MaskRecorder(tmp_path / "run", every=100, **options).attach(model, None, step=steps.start) as recorder:
            for step in steps:
                recorder.after_step()
                recorder.log({"loss": float(step)})
            raise KeyboardInterrupt("killed")  # before a last snapshot

    model = nn.Linear(4, 4)
    prune.random_unstructured(model, "weight", 0.5)
    for steps, resume in ((range(9), False), (range(5, 12), True)):
        with pytest.raises(KeyboardInterrupt, match="killed"):
            train(steps, resume=resume)
    assert [row["loss"] for row in RunReader(tmp_path / "run").metrics()] == list(range(12))
