"""The recorder: what it records and when, that it leaves training alone, and what it does when the disk does not."""

from __future__ import annotations

import gc
import io
import json
import os
import warnings
import weakref
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from sift_graph.errors import MaskError, RunDirectoryError, UsageError
from sift_graph.masks import LayerMask
from sift_graph.record import MaskRecorder, RecorderWarning
from sift_graph.store import RunReader, RunWriter

EYE = np.eye(4, dtype=bool)


def make_model(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    for layer in (model[0], model[2]):
        prune.random_unstructured(layer, "weight", 0.5)
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    optimizer.zero_grad()
    loss = model(torch.randn(5, 8)).square().mean()
    loss.backward()
    optimizer.step()
    return loss.item()


def prune_masks(model: nn.Module) -> dict[str, torch.Tensor]:
    return {"0": model[0].weight_mask}


def train_and_close(recorder: MaskRecorder, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Train on, and let the background thread finish after each step."""
    try:
        for _ in range(steps):
            train_step(model, optimizer)
            recorder._pipeline.background.wait()
    finally:
        recorder.close()


def move_mask(model: nn.Module) -> None:
    mask = model[0].weight_mask
    mask.copy_(mask.roll(1, 0))


@pytest.mark.parametrize(
    "options", [{}, {"measure": "density", "log_to": lambda step, scalars: None, "every": 3, "weights_every": 5}]
)
def test_training_is_bit_identical_with_and_without_a_recorder(tmp_path: Path, options):
    def train(recorder: MaskRecorder | None) -> tuple[list[float], list[torch.Tensor], torch.Tensor, bytes]:
        model, optimizer = make_model()
        np.random.seed(0)  # noqa: NPY002 - the legacy global state is what must stay untouched
        if recorder is not None:
            recorder.attach(model, optimizer)
        losses = []
        for step in range(12):
            losses.append(train_step(model, optimizer))
            if step % 4 == 3:
                move_mask(model)
            if recorder is not None:
                recorder.log({"loss": losses[-1]})
                if step % 6 == 5:
                    recorder.end_epoch(step // 6 + 1)
        if recorder is not None:
            recorder.close()
        state = np.random.get_state()[1].tobytes()  # noqa: NPY002
        return losses, [p.detach().clone() for p in model.parameters()], torch.get_rng_state(), state

    plain = train(None)
    recorder = MaskRecorder(tmp_path / "run", weights="fp32", **options)
    recorded = train(recorder)
    assert len(RunReader(tmp_path / "run").steps) > 2
    assert plain[0] == recorded[0]
    assert all(torch.equal(a, b) for a, b in zip(plain[1], recorded[1], strict=True))
    assert torch.equal(plain[2], recorded[2])
    assert plain[3] == recorded[3]


def test_nothing_keeps_the_model_alive_after_detach(tmp_path: Path):
    model, optimizer = make_model()
    ref = weakref.ref(model)
    weight = weakref.ref(model[0].weight_orig)
    recorder = MaskRecorder(tmp_path / "run").attach(model, optimizer, masks=partial(prune_masks, model))
    train_step(model, optimizer)
    recorder.detach()
    recorder.flush()
    del model, optimizer
    gc.collect()
    assert ref() is None
    assert weight() is None
    recorder.close()


def test_a_model_may_die_while_the_recorder_is_attached(tmp_path: Path):
    model, optimizer = make_model()
    ref = weakref.ref(model)
    recorder = MaskRecorder(tmp_path / "run").attach(model, optimizer)
    del model, optimizer
    gc.collect()
    assert ref() is None
    recorder.close()
    assert RunReader(tmp_path / "run").steps == [0]


def test_a_snapshot_is_taken_at_attach_at_each_change_and_at_the_end(tmp_path: Path):
    model, optimizer = make_model()
    before = model[0].weight_mask.numpy().astype(bool)
    with MaskRecorder(tmp_path / "run").attach(model, optimizer) as recorder:
        for step in range(1, 8):
            if step == 3:
                move_mask(model)
            train_step(model, optimizer)
        assert recorder.step == 7
    reader = RunReader(tmp_path / "run")
    assert reader.steps == [0, 3, 7]
    assert np.array_equal(reader.load_layer(0, "0").mask, before)
    assert np.array_equal(reader.load_layer(3, "0").mask, np.roll(before, 1, 0))
    last = reader.load_layer(7, "2")
    expected = (model[2].weight_orig * model[2].weight_mask).detach().numpy()
    assert np.allclose(last.weight, expected, atol=1e-3)
    assert last.source == "torch.nn.utils.prune"


@pytest.mark.parametrize(
    ("every", "on_change", "expected"), [(3, False, [0, 3, 6, 8]), (2, True, [0, 6, 8]), (None, False, list(range(9)))]
)
def test_every_says_when_to_look_and_on_change_what_to_leave_out(tmp_path: Path, every, on_change, expected):
    model, optimizer = make_model()
    with MaskRecorder(tmp_path / "run", every=every, on_change=on_change).attach(model, optimizer):
        for step in range(1, 9):
            if step == 5:
                move_mask(model)
            train_step(model, optimizer)
    assert RunReader(tmp_path / "run").steps == expected


def test_pre_step_sees_a_mask_that_is_moved_after_the_optimizer_step(tmp_path: Path):
    steps = {}
    for when in ("post_step", "pre_step"):
        model, optimizer = make_model()
        with MaskRecorder(tmp_path / when, when=when, weights="none").attach(model, optimizer):
            for step in range(1, 7):
                train_step(model, optimizer)
                if step == 3:
                    move_mask(model)  # as cbsparse does, in the same training step
        steps[when] = RunReader(tmp_path / when).steps
        assert RunReader(tmp_path / when).header["recorder"]["when"] == when
    assert steps == {"post_step": [0, 4, 6], "pre_step": [0, 3, 6]}


def test_attach_is_idempotent_and_refuses_a_second_model(tmp_path: Path):
    model, optimizer = make_model()
    recorder = MaskRecorder(tmp_path / "run", on_change=False)
    recorder.attach(model, optimizer)
    assert recorder.attach(model, optimizer) is recorder
    train_step(model, optimizer)
    assert recorder.step == 1
    other, other_optimizer = make_model(1)
    with pytest.raises(UsageError, match=r"attached to another model.*detach\(\) first"):
        recorder.attach(other, other_optimizer)
    recorder.detach()
    recorder.detach()
    assert not recorder.attached
    assert not optimizer._optimizer_step_post_hooks
    recorder.close()
    recorder.close()
    assert RunReader(tmp_path / "run").steps == [0, 1]


def test_an_object_without_step_hooks_is_refused_with_the_way_out(tmp_path: Path):
    model, _ = make_model()
    with (
        MaskRecorder(tmp_path / "run") as recorder,
        pytest.raises(UsageError, match=r"found object.*snapshot\(step, masks\)"),
    ):
        recorder.attach(model, object())


def test_a_model_without_masks_is_an_error_at_attach(tmp_path: Path):
    model = nn.Linear(4, 4)
    with (
        MaskRecorder(tmp_path / "run") as recorder,
        pytest.raises(MaskError, match=r"none of its 2 parameters has a mask.*masks=.*weight!=0"),
    ):
        recorder.attach(model, torch.optim.SGD(model.parameters()))


def test_masks_that_vanish_while_training_warn_once_and_training_goes_on(tmp_path: Path):
    model, optimizer = make_model()
    recorder = MaskRecorder(tmp_path / "run").attach(model, optimizer)
    train_step(model, optimizer)
    prune.remove(model[0], "weight")
    prune.remove(model[2], "weight")
    with pytest.warns(RecorderWarning, match="training goes on, but Sequential: none of its 4 parameters") as caught:
        train_and_close(recorder, model, optimizer, steps=3)
    assert len(caught) == 1
    assert RunReader(tmp_path / "run").steps == [0]


def test_snapshot_takes_arrays_tensors_pairs_and_layer_masks(tmp_path: Path):
    weight = np.arange(16, dtype=np.float32).reshape(4, 4)
    with MaskRecorder(tmp_path / "run", weights="fp32") as recorder:
        assert recorder.snapshot(
            5,
            {
                "array": EYE,
                "module.tensor.weight": torch.eye(4),
                "pair": (EYE, weight),
                "mask": LayerMask.from_dense("mask", EYE, groups=2, source="dense"),
            },
            epoch=0.5,
        )
    snapshot = RunReader(tmp_path / "run").load_snapshot(5)
    assert list(snapshot.layers) == ["array", "tensor", "pair", "mask"]
    assert snapshot.epoch == 0.5
    assert all(np.array_equal(layer.mask, EYE) for layer in snapshot)
    assert np.array_equal(snapshot.layers["pair"].weight, weight * EYE)
    assert snapshot.layers["mask"].groups == 2


def test_the_layer_globs_choose_what_is_recorded(tmp_path: Path):
    with MaskRecorder(tmp_path / "run", layers="stage*.conv") as recorder:
        recorder.snapshot(0, {"stem": EYE, "stage1.conv": EYE, "stage2.conv": EYE})
        with pytest.raises(UsageError, match=r"no layer matches 'stage\*.conv'"):
            recorder.snapshot(1, {"stem": EYE})
    assert list(RunReader(tmp_path / "run").load_snapshot(0).layers) == ["stage1.conv", "stage2.conv"]


def test_the_same_step_twice_is_taken_once_and_refused_if_it_differs(tmp_path: Path):
    with MaskRecorder(tmp_path / "run") as recorder:
        assert recorder.snapshot(3, {"fc": EYE})
        assert not recorder.snapshot(3, {"fc": EYE})
        with pytest.raises(RunDirectoryError, match=r"step 3 is recorded already, so step 3 cannot follow.*rewind"):
            recorder.snapshot(3, {"fc": ~EYE})
        with pytest.raises(RunDirectoryError, match=r"step 3 is recorded already, so step 2 cannot"):
            recorder.snapshot(2, {"fc": EYE})
    assert RunReader(tmp_path / "run").steps == [3]


def test_two_names_of_one_layer_are_refused(tmp_path: Path):
    with (
        MaskRecorder(tmp_path / "run") as recorder,
        pytest.raises(UsageError, match="two of the masks belong to the same layer"),
    ):
        recorder.snapshot(0, {"fc": EYE, "module.fc.weight": EYE})


def test_masks_of_ones_everywhere_warn_unless_the_layers_call_themselves_dense(tmp_path: Path):
    ones = np.ones((4, 4), dtype=bool)
    with MaskRecorder(tmp_path / "a") as recorder:
        with pytest.warns(RecorderWarning, match="every entry of all 2 masks is 1"):
            recorder.snapshot(0, {"a": ones, "b": ones})
        recorder.snapshot(1, {"a": ones, "b": ones})  # a second warning would be an error here
    with MaskRecorder(tmp_path / "b") as recorder:
        recorder.snapshot(0, {"a": LayerMask.from_dense("a", ones, source="dense")})
    with MaskRecorder(tmp_path / "c") as recorder:
        recorder.snapshot(0, {"a": ones, "b": EYE})


def test_log_appends_rows_and_reads_tensors_at_once(tmp_path: Path):
    model, optimizer = make_model()
    loss = torch.tensor(0.25)
    with MaskRecorder(tmp_path / "run").attach(model, optimizer) as recorder:
        train_step(model, optimizer)
        recorder.log({"epoch": 1.0, "loss": loss, "accuracy": np.float32(0.5), "bad": float("nan")})
        loss.fill_(7.0)
    rows = list(RunReader(tmp_path / "run").metrics())
    assert rows == [{"step": 1, "epoch": 1.0, "loss": 0.25, "accuracy": 0.5, "bad": None}]


def test_the_header_describes_the_recording_and_the_layers(tmp_path: Path):
    model, optimizer = make_model()
    with MaskRecorder(tmp_path / "run", every=2, about={"family": "dense", "seed": 3}).attach(model, optimizer):
        pass
    header = json.loads((tmp_path / "run" / "sift.json").read_text())
    assert header["about"] == {"family": "dense", "seed": 3}
    assert header["recorder"]["every"] == 2
    assert [layer["name"] for layer in header["layers"]] == ["0", "2"]
    assert header["layers"][0] == {"name": "0", "shape": [16, 8], "kind": "Linear", "depth": 0}


def test_resume_goes_on_where_the_run_stands(tmp_path: Path):
    model, optimizer = make_model()
    with MaskRecorder(tmp_path / "run").attach(model, optimizer):
        for _ in range(4):
            train_step(model, optimizer)
    with MaskRecorder(tmp_path / "run", resume=True).attach(model, optimizer) as recorder:
        assert recorder.step == 4
        for _ in range(2):
            train_step(model, optimizer)
    reader = RunReader(tmp_path / "run")
    assert reader.steps == [0, 4, 6]
    assert reader.entries(6)[0]["ref"] == 0  # an equal mask is not stored again, even by another process


def test_resume_at_an_earlier_step_keeps_the_rest_aside(tmp_path: Path):
    model, optimizer = make_model()
    with MaskRecorder(tmp_path / "run", on_change=False).attach(model, optimizer) as recorder:
        for step in range(1, 6):
            train_step(model, optimizer)
            recorder.log({"loss": float(step)})
    with MaskRecorder(tmp_path / "run", on_change=False, resume=True).attach(model, optimizer, step=3) as recorder:
        train_step(model, optimizer)
        recorder.log({"loss": 40.0})
    reader = RunReader(tmp_path / "run")
    assert reader.steps == [0, 1, 2, 3, 4]
    assert [row["loss"] for row in reader.metrics()] == [1.0, 2.0, 3.0, 40.0]
    aside = list((tmp_path / "run" / "masks" / "abandoned").iterdir())
    assert len(aside) == 1
    assert sorted(path.name for path in aside[0].iterdir()) == [
        "metrics.jsonl",
        "step_000000004.safetensors",
        "step_000000005.safetensors",
    ]


def test_a_snapshot_by_hand_at_a_resumed_step_is_not_recorded_twice(tmp_path: Path):
    with MaskRecorder(tmp_path / "run") as recorder:
        recorder.snapshot(7, {"fc": EYE})
    with MaskRecorder(tmp_path / "run", resume=True) as recorder:
        assert not recorder.snapshot(7, {"fc": EYE})
        assert recorder.snapshot(8, {"fc": ~EYE})
    with MaskRecorder(tmp_path / "run", resume=True) as recorder:
        with pytest.raises(RunDirectoryError, match="step 8 is recorded already"):
            recorder.snapshot(8, {"fc": EYE})
        recorder.rewind(7)
        assert recorder.snapshot(8, {"fc": EYE})
    assert np.array_equal(RunReader(tmp_path / "run").load_layer(8, "fc").mask, EYE)


def test_attaching_below_what_is_recorded_needs_resume(tmp_path: Path):
    model, optimizer = make_model()
    with MaskRecorder(tmp_path / "run") as recorder:
        recorder.snapshot(9, {"fc": EYE})
        with pytest.raises(RunDirectoryError, match=r"step 9 is recorded already.*begin at step 2.*resume=True"):
            recorder.attach(model, optimizer, step=2)


def test_another_run_is_not_overwritten(tmp_path: Path):
    MaskRecorder(tmp_path / "run").close()
    before = (tmp_path / "run" / "sift.json").read_bytes()
    with pytest.raises(RunDirectoryError, match=r"holds another run.*nothing was overwritten.*resume=True"):
        MaskRecorder(tmp_path / "run")
    assert (tmp_path / "run" / "sift.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "fp8"}, "weights: expected one of 'none', 'fp16', 'fp32', found 'fp8'"),
        ({"when": "never"}, "when: expected one of 'post_step', 'pre_step'"),
        ({"policy": "wait"}, "policy: expected one of 'block', 'drop'"),
        ({"every": 0}, "every: expected 1 or more optimizer steps, found 0"),
        ({"queue_size": 0}, "queue_size: expected 1 or more snapshots, found 0"),
    ],
)
def test_an_unknown_option_is_refused_before_anything_is_made(tmp_path: Path, options, message):
    with pytest.raises(UsageError, match=message):
        MaskRecorder(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_the_kill_switch_makes_it_do_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SIFT_GRAPH_DISABLED", "1")
    model, optimizer = make_model()
    with MaskRecorder(tmp_path / "run").attach(model, optimizer) as recorder:
        train_step(model, optimizer)
        assert not recorder.enabled
        assert not recorder.snapshot(1, {"fc": EYE})
        recorder.log({"loss": 1.0})
        recorder.flush()
        recorder.rewind(0)
    assert not (tmp_path / "run").exists()
    assert not optimizer._optimizer_step_post_hooks


def fail_on(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Let the disk be full at some steps."""
    write = RunWriter.write_snapshot

    def broken(self, snapshot, **options):
        if snapshot.step in steps:
            raise RunDirectoryError(f"the snapshot of step {snapshot.step} is lost (No space left on device)")
        return write(self, snapshot, **options)

    monkeypatch.setattr(RunWriter, "write_snapshot", broken)


def test_an_error_of_the_background_surfaces_at_the_next_call_and_at_close(tmp_path: Path, monkeypatch):
    fail_on(monkeypatch, 1)
    recorder = MaskRecorder(tmp_path / "run")
    recorder.snapshot(0, {"fc": EYE})
    recorder.snapshot(1, {"fc": ~EYE})
    with pytest.raises(RunDirectoryError, match=r"step 1 is lost \(No space left"):
        recorder.flush()
    recorder.snapshot(2, {"fc": ~EYE})
    with pytest.raises(RunDirectoryError, match=r"step 1 is lost \(No space left"):
        recorder.close()
    reader = RunReader(tmp_path / "run")
    assert reader.steps == [0, 2]
    assert np.array_equal(reader.load_layer(2, "fc").mask, ~EYE)


def test_a_step_that_was_lost_may_be_recorded_again(tmp_path: Path, monkeypatch):
    fail_on(monkeypatch, 1)
    recorder = MaskRecorder(tmp_path / "run")
    recorder.snapshot(1, {"fc": EYE})
    with pytest.raises(RunDirectoryError, match="step 1 is lost"):
        recorder.flush()
    monkeypatch.undo()
    assert recorder.snapshot(1, {"fc": EYE})
    recorder.flush()
    assert RunReader(tmp_path / "run").steps == [1]


def test_a_full_disk_does_not_stop_training_and_the_masks_are_tried_again(tmp_path: Path, monkeypatch):
    model, optimizer = make_model()
    fail_on(monkeypatch, 1, 2)
    recorder = MaskRecorder(tmp_path / "run").attach(model, optimizer)
    move_mask(model)
    with (
        pytest.warns(RecorderWarning, match="training goes on, but the snapshot of step 1 is lost") as caught,
        pytest.raises(RunDirectoryError, match=r"step 1 is lost.*; lost as well: the snapshot of step 2"),
    ):
        train_and_close(recorder, model, optimizer, steps=4)
    assert len(caught) == 1
    assert RunReader(tmp_path / "run").steps == [0, 3, 4]


def test_a_failed_snapshot_is_not_kept_in_memory(tmp_path: Path, monkeypatch):
    fail_on(monkeypatch, 0)
    recorder = MaskRecorder(tmp_path / "run")
    mask = LayerMask.from_dense("fc", EYE)
    ref = weakref.ref(mask)
    recorder.snapshot(0, {"fc": mask})
    with pytest.raises(RunDirectoryError, match="step 0 is lost"):
        recorder.flush()
    del mask
    gc.collect()
    assert ref() is None
    with pytest.raises(RunDirectoryError, match="step 0 is lost"):
        recorder.close()


def test_a_full_queue_drops_counts_and_warns_once_if_asked_to(tmp_path: Path, monkeypatch):
    import threading

    gate = threading.Event()
    started = threading.Event()
    write = RunWriter.write_snapshot

    def slow(self, snapshot, **options):
        started.set()
        gate.wait(60)
        return write(self, snapshot, **options)

    monkeypatch.setattr(RunWriter, "write_snapshot", slow)
    recorder = MaskRecorder(tmp_path / "run", queue_size=1, policy="drop")
    assert recorder.snapshot(0, {"fc": EYE})
    assert started.wait(60)
    assert recorder.snapshot(1, {"fc": EYE})
    with pytest.warns(RecorderWarning, match="the snapshot of step 2 was dropped"):
        assert not recorder.snapshot(2, {"fc": ~EYE})
    assert not recorder.snapshot(3, {"fc": ~EYE})  # a second warning would be an error here
    assert recorder.dropped == 2
    gate.set()
    recorder.flush()
    assert recorder.snapshot(4, {"fc": ~EYE})
    recorder.close()
    assert RunReader(tmp_path / "run").steps == [0, 1, 4]


def test_an_error_in_the_loop_is_not_hidden_and_what_was_recorded_is_written(tmp_path: Path, monkeypatch):
    model, optimizer = make_model()
    fail_on(monkeypatch, 2)
    recorder = MaskRecorder(tmp_path / "run")

    def train() -> None:
        with recorder.attach(model, optimizer):
            train_step(model, optimizer)
            move_mask(model)
            train_step(model, optimizer)
            raise KeyboardInterrupt("by hand")

    with pytest.raises(KeyboardInterrupt, match="by hand"):
        train()
    assert RunReader(tmp_path / "run").steps == [0]
    assert not optimizer._optimizer_step_post_hooks


def test_a_recorder_that_is_forgotten_still_writes(tmp_path: Path):
    recorder = MaskRecorder(tmp_path / "run")
    recorder.snapshot(0, {"fc": EYE})
    recorder.log({"step": 0, "loss": 1.0})
    del recorder
    gc.collect()
    assert RunReader(tmp_path / "run").steps == [0]
    assert len(list(RunReader(tmp_path / "run").metrics())) == 1


def test_the_recorder_may_be_used_after_close(tmp_path: Path):
    recorder = MaskRecorder(tmp_path / "run")
    recorder.snapshot(0, {"fc": EYE})
    recorder.close()
    recorder.log({"step": 0, "val_accuracy": 0.5})
    recorder.close()
    assert list(RunReader(tmp_path / "run").metrics()) == [{"step": 0, "val_accuracy": 0.5}]


def test_recording_by_hand_needs_no_torch(tmp_path: Path):
    import subprocess
    import sys

    program = (
        "import sys, numpy as np\n"
        "from sift_graph.record import MaskRecorder\n"
        f"with MaskRecorder({str(tmp_path / 'run')!r}) as recorder:\n"
        "    recorder.snapshot(0, {'fc': np.eye(4, dtype=bool)})\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert RunReader(tmp_path / "run").steps == [0]


def test_a_program_that_ends_without_close_still_writes(tmp_path: Path):
    import subprocess
    import sys

    program = (
        "import numpy as np\n"
        "from sift_graph.record import MaskRecorder\n"
        f"recorder = MaskRecorder({str(tmp_path / 'run')!r}, queue_size=30)\n"
        "for step in range(20):\n"
        "    recorder.snapshot(step, {'fc': np.eye(400, k=step, dtype=bool)})\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=os.environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert RunReader(tmp_path / "run").steps == list(range(20))


@pytest.mark.parametrize("stop", [3, 4, 5])
def test_interrupted_and_resumed_gives_the_same_history_as_uninterrupted(tmp_path: Path, stop: int):
    def train(run_dir: Path, start: int, end: int, state: dict | None, **options) -> dict:
        model, optimizer = make_model()
        if state is not None:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["rng"])
        with MaskRecorder(run_dir, every=2, on_change=False, **options).attach(
            model, optimizer, step=start
        ) as recorder:
            for step in range(start + 1, end + 1):
                if step % 3 == 0:
                    move_mask(model)
                recorder.log({"loss": train_step(model, optimizer)})
                if step == stop and end > stop:
                    recorder.flush()
                    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                    state = {key: torch_copy(part) for key, part in state.items()} | {"rng": torch.get_rng_state()}
        return state or {}

    checkpoint = train(tmp_path / "straight", 0, 10, None)
    train(tmp_path / "resumed", 0, stop + 2, None)  # it went on for two steps after its checkpoint
    train(tmp_path / "resumed", stop, 10, checkpoint, resume=True)
    straight, resumed = RunReader(tmp_path / "straight"), RunReader(tmp_path / "resumed")
    assert list(straight.metrics()) == list(resumed.metrics())
    assert set(straight.steps) <= set(resumed.steps) <= {*straight.steps, stop}
    for step in straight.steps:
        for one, other in zip(straight.load_snapshot(step), resumed.load_snapshot(step), strict=True):
            assert (one.layer, one.digest) == (other.layer, other.digest)
            assert np.array_equal(one.values, other.values)


def torch_copy(value):
    return torch.load(buffer_of(value), weights_only=True)


def buffer_of(value) -> io.BytesIO:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return buffer


def test_a_wrapped_optimizer_is_followed_through_its_wrapper(tmp_path: Path):
    class Accelerated(torch.optim.Optimizer):  # as Accelerate's: an optimizer in name, without hooks of its own
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.optimizer = optimizer

        def step(self, closure=None):
            self.optimizer.step(closure)

        def zero_grad(self, set_to_none=True):
            self.optimizer.zero_grad(set_to_none)

    model, optimizer = make_model()
    wrapped = Accelerated(optimizer)
    with MaskRecorder(tmp_path / "run", on_change=False).attach(model, wrapped) as recorder:
        assert recorder.attach(model, wrapped) is recorder
        train_step(model, wrapped)
        train_step(model, wrapped)
    assert RunReader(tmp_path / "run").steps == [0, 1, 2]


def test_gradient_accumulation_counts_optimizer_steps(tmp_path: Path):
    model, optimizer = make_model()
    with MaskRecorder(tmp_path / "run", on_change=False).attach(model, optimizer) as recorder:
        for batch in range(6):
            (model(torch.randn(5, 8)).square().mean() / 2).backward()
            if batch % 2:
                optimizer.step()
                optimizer.zero_grad()
        assert recorder.step == 3
    assert RunReader(tmp_path / "run").steps == [0, 1, 2, 3]


def test_snapshot_of_something_else_than_a_mapping_is_refused(tmp_path: Path):
    with (
        MaskRecorder(tmp_path / "run") as recorder,
        pytest.raises(
            UsageError, match=r"expected a mapping of layer names to masks, found Linear.*find_masks\(model\)"
        ),
    ):
        recorder.snapshot(0, nn.Linear(2, 2))


def test_a_change_of_the_working_directory_does_not_matter(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with MaskRecorder("run") as recorder:
        monkeypatch.chdir(tmp_path / "elsewhere")
        recorder.snapshot(0, {"fc": EYE})
    assert RunReader(tmp_path / "run").steps == [0]


def test_the_epoch_set_in_the_loop_is_recorded(tmp_path: Path):
    model, optimizer = make_model()
    with MaskRecorder(tmp_path / "run", on_change=False).attach(model, optimizer) as recorder:
        recorder.epoch = 0.5
        train_step(model, optimizer)
    assert [RunReader(tmp_path / "run").load_snapshot(step).epoch for step in (0, 1)] == [None, 0.5]


def test_no_warning_of_ours_is_raised_in_a_quiet_run(tmp_path: Path):
    model, optimizer = make_model()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with MaskRecorder(tmp_path / "run", queue_size=1).attach(model, optimizer):
            for _ in range(3):
                move_mask(model)
                train_step(model, optimizer)
    assert RunReader(tmp_path / "run").steps == [0, 1, 2, 3]
