"""The recorder when the disk fills, vanishes or crawls, and when a checkpoint is of another run."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import threading
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from sift_graph.errors import RunDirectoryError
from sift_graph.integrations.following import Following
from sift_graph.record import MaskRecorder, RecorderWarning
from sift_graph.store import RunReader
from sift_graph.store import disk as disk_module

EYE = np.eye(4, dtype=bool)


@contextmanager
def warned_once(pattern: str):
    """Expect one warning of the recorder, and no more."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    told = [str(warning.message) for warning in caught if issubclass(warning.category, RecorderWarning)]
    assert len(told) == 1
    assert re.search(pattern, told[0]), told[0]


class Training:
    """A small training whose mask moves at each step; `train` waits for the disk after each, so that nothing races."""

    def __init__(self, size: int = 8) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(size, 16))
        prune.random_unstructured(self.model[0], "weight", 0.5)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.size = size

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.model(torch.randn(5, self.size)).square().mean().backward()
        mask = self.model[0].weight_mask
        mask.copy_(mask.roll(1, 0))
        self.optimizer.step()

    def train(self, recorder: MaskRecorder, steps: int) -> None:
        for _ in range(steps):
            self.step()
            recorder._pipeline.background.wait()


@pytest.fixture
def small_disk(tmp_path: Path):
    """A disk of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root; the other tests fake the errors")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_disk_that_is_really_full_costs_snapshots_and_nothing_else(small_disk: Path):
    training = Training(size=64)
    recorder = MaskRecorder(small_disk / "run").attach(training.model, training.optimizer)
    training.train(recorder, 1)
    free = shutil.disk_usage(small_disk).free
    (small_disk / "others").write_bytes(bytes(free - free % 4096))
    with warned_once(r"training goes on, but .*step 2 is lost.*No space left.*Free"):
        training.train(recorder, 4)
    (small_disk / "others").unlink()
    training.train(recorder, 1)
    with pytest.raises(RunDirectoryError, match=r"step 2 is lost.*; lost as well: the snapshot of step 3, .*step 4"):
        recorder.close()
    reader = RunReader(small_disk / "run")
    assert reader.steps == [0, 1, 6]
    assert all(reader.load_snapshot(step).layers for step in reader.steps)
    assert not list((small_disk / "run").rglob(".*.tmp"))


def test_a_disk_that_becomes_read_only(tmp_path: Path, monkeypatch):
    real_open = Path.open

    def read_only(self: Path, mode: str = "r", *args, **options):
        if mode != "r":
            raise OSError(errno.EROFS, "Read-only file system")
        return real_open(self, mode, *args, **options)

    training = Training()
    recorder = MaskRecorder(tmp_path / "run").attach(training.model, training.optimizer)
    recorder.flush()
    monkeypatch.setattr(Path, "open", read_only)
    with warned_once(r"step 1 is lost.*\(Read-only file system\)"):
        training.train(recorder, 3)
        recorder.log({"loss": 1.0})
    recorder._pipeline.background.wait()
    monkeypatch.undo()
    with pytest.raises(RunDirectoryError, match=r"step 1 is lost.*lost as well: .*the metrics of step 3"):
        recorder.close()
    assert RunReader(tmp_path / "run").steps == [0, 3]


def test_a_disk_that_is_really_read_only_is_refused_at_once(small_disk: Path):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(RunDirectoryError, match=r"Read-only file system.*can be written to"):
        MaskRecorder(small_disk / "other")


def test_a_limit_on_file_sizes_costs_the_large_snapshots(tmp_path: Path):
    program = (
        "import resource, signal, sys, warnings\n"
        "import numpy as np\n"
        "from sift_graph.record import MaskRecorder\n"
        "rng = np.random.default_rng(0)\n"
        "recorder = MaskRecorder(sys.argv[1])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))\n"
        "for step, size in enumerate((20, 600, 600, 30)):\n"
        "    recorder.snapshot(step, {'fc': rng.random((size, size)) < 0.5})\n"
        "    recorder._pipeline.background.wait()\n"
        "try:\n"
        "    recorder.close()\n"
        "except Exception as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "run"], capture_output=True, text=True, check=True)
    assert "step 1 is lost, and nothing of it is left (File too large)" in done.stdout
    assert "lost as well: the snapshot of step 2" in done.stdout
    assert done.stderr.count("RecorderWarning: training goes on, but") == 1
    assert RunReader(tmp_path / "run").steps == [0, 3]


def test_a_directory_that_is_removed_and_restored_while_training(tmp_path: Path):
    training = Training()
    run, away = tmp_path / "run", tmp_path / "away"
    recorder = MaskRecorder(run).attach(training.model, training.optimizer)
    recorder.flush()
    shutil.copytree(run, away)
    shutil.rmtree(run)
    with warned_once(r"step 1 is lost.*No such file.*was removed"):
        training.train(recorder, 3)
    assert not run.exists()
    away.rename(run)
    training.train(recorder, 1)
    with pytest.raises(RunDirectoryError, match=r"lost as well: the snapshot of step 2, the snapshot of step 3$"):
        recorder.close()
    assert RunReader(run).steps == [0, 4]


def test_a_directory_that_is_replaced_by_another_run_is_left_alone(tmp_path: Path):
    run = tmp_path / "run"
    recorder = MaskRecorder(run)
    recorder.snapshot(0, {"fc": EYE})
    recorder.flush()
    shutil.rmtree(run)
    with MaskRecorder(run) as other:
        other.snapshot(0, {"fc": ~EYE})
        other.flush()
        recorder.snapshot(1, {"fc": EYE})
        with pytest.raises(RunDirectoryError, match=f"holds another run now \\({other.run_id}; this one is"):
            recorder.close()
    assert RunReader(run).steps == [0]


@pytest.mark.parametrize("policy", ["block", "drop"])
def test_a_slow_disk(tmp_path: Path, monkeypatch, policy):
    gate, started = threading.Event(), threading.Event()
    real_fsync = os.fsync

    def slow(handle: int) -> None:
        started.set()
        gate.wait(20)
        real_fsync(handle)

    training = Training()
    recorder = MaskRecorder(tmp_path / "run", queue_size=1, policy=policy)
    recorder.attach(training.model, training.optimizer)
    recorder.flush()
    monkeypatch.setattr(disk_module.os, "fsync", slow)
    training.step()
    assert started.wait(20)
    training.step()  # in the queue, which is full now
    if policy == "block":
        threading.Timer(0.05, gate.set).start()
        training.step()  # has waited
        assert gate.is_set()
        recorder.close()
        assert RunReader(tmp_path / "run").steps == [0, 1, 2, 3]
        return
    with warned_once("slower than the training: the snapshot of step 3 was dropped"):
        for _ in range(3):
            training.step()
            recorder.log({"loss": 1.0})  # does not wait, and is not lost
    assert recorder.dropped == 3
    gate.set()
    recorder.flush()
    training.step()
    recorder.close()
    assert RunReader(tmp_path / "run").steps == [0, 1, 2, 6]
    assert [row["step"] for row in RunReader(tmp_path / "run").metrics()] == [3, 4, 5]


def test_logging_by_hand_warns_of_a_loss_and_goes_on(tmp_path: Path, monkeypatch):
    recorder = MaskRecorder(tmp_path / "run")
    recorder.flush()

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk_module.os, "fsync", full)
    recorder.snapshot(0, {"fc": EYE})
    recorder._pipeline.background.wait()
    with warned_once("training goes on, but .*step 0 is lost"):
        recorder.log({"step": 0, "loss": 1.0})
        recorder.snapshot(1, {"fc": EYE})
        recorder._pipeline.background.wait()
    monkeypatch.undo()
    recorder.log({"step": 1, "loss": 0.5})
    with pytest.raises(RunDirectoryError, match=r"step 0 is lost.*; lost as well: the snapshot of step 1"):
        recorder.close()
    assert [row["loss"] for row in RunReader(tmp_path / "run").metrics()] == [1.0, 0.5]


# Checkpoints


def test_a_checkpoint_of_another_run_puts_nothing_of_this_one_aside(tmp_path: Path):
    with MaskRecorder(tmp_path / "a") as recorder:
        recorder.snapshot(3, {"fc": EYE})
        state = recorder.state_dict()
    with MaskRecorder(tmp_path / "b") as recorder:
        recorder.snapshot(9, {"fc": EYE})
        with pytest.raises(
            RunDirectoryError,
            match=rf"step 0 belongs to run {state['run_id']}, this directory to run {recorder.run_id}.*nothing was put",
        ):
            recorder.load_state_dict(state)
    assert RunReader(tmp_path / "b").steps == [9]
    with MaskRecorder(tmp_path / "c") as recorder:
        with pytest.warns(
            RecorderWarning, match=rf"run {state['run_id']}, this directory to run {recorder.run_id}; its"
        ):
            recorder.load_state_dict(state | {"step": 3})
        assert recorder.step == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with MaskRecorder(tmp_path / "a", resume=True) as recorder:
            recorder.load_state_dict(state | {"step": 3})
            recorder.load_state_dict({"step": 3})  # of an earlier version


def test_a_callback_keeps_the_run_of_its_checkpoint(tmp_path: Path):
    training = Training()
    following = Following(tmp_path / "a")
    following.begin(training.model, training.optimizer, 0)
    training.step()
    state = following.state_dict()
    following.finish()
    assert following.state_dict() == state == {"step": 1, "run_id": RunReader(tmp_path / "a").header["run_id"]}
    other = Following(tmp_path / "b")
    other.step, other.run_id = state["step"], state["run_id"]
    with warned_once(f"belongs to run {state['run_id']}"):
        other.begin(training.model, training.optimizer, 1)
    other.finish()
