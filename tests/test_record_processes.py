"""The recorder among processes: two writers of one run, forked workers, kills and signals."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from sift_graph.errors import RunDirectoryError
from sift_graph.masks import Snapshot
from sift_graph.record import MaskRecorder
from sift_graph.recording import ending
from sift_graph.store import RunReader, RunWriter

EYE = np.eye(4, dtype=bool)

# Two writers

HOLDING = """
import os, sys, time
import numpy as np
from sift_graph.record import MaskRecorder
recorder = MaskRecorder(sys.argv[1], resume=True)
recorder.snapshot((recorder.newest or 0) + 1, {"fc": np.eye(4, dtype=bool)})
recorder.flush()
if os.fork() == 0:
    time.sleep(60)  # a worker that outlives its parent, as data loaders can
    os._exit(0)
print("holding", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_has_ended_however_it_ended(tmp_path: Path):
    run = tmp_path / "run"
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDING, run], stdout=subprocess.PIPE, start_new_session=True
    )  # fmt: skip
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"holding\n"
        with pytest.raises(RunDirectoryError, match=rf"run: process {child.pid} on .* has been writing to it since 20"):
            MaskRecorder(run, resume=True)
        with pytest.raises(RunDirectoryError, match="nothing was overwritten"):
            MaskRecorder(run)
        assert RunReader(run).steps == [1]  # readers are not in its way
        os.kill(child.pid, signal.SIGKILL)  # its own worker lives on
        child.wait()
        with MaskRecorder(run, resume=True) as recorder:
            recorder.snapshot(2, {"fc": ~EYE})
        assert RunReader(run).steps == [1, 2]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()


def test_a_second_recorder_of_one_process_is_refused_until_the_first_is_closed(tmp_path: Path):
    first = MaskRecorder(tmp_path / "run")
    with pytest.raises(RunDirectoryError, match=r"another recorder of this process writes to it; close that one"):
        MaskRecorder(tmp_path / "run", resume=True)
    first.close()
    second = MaskRecorder(tmp_path / "run", resume=True)
    with pytest.raises(RunDirectoryError, match="another recorder of this process"):
        first.log({"step": 0, "loss": 1.0})
    second.snapshot(5, {"fc": EYE})
    second.close()
    first.log({"step": 5, "loss": 1.0})  # free again
    with pytest.raises(RunDirectoryError, match="step 5 is already recorded and 3 comes before it"):
        first._pipeline.writer.write_snapshot(Snapshot(3, {}))
    first.close()


def test_a_run_that_is_being_recorded_is_neither_packed_nor_repaired(tmp_path: Path):
    from sift_graph.mending import repair
    from sift_graph.store.packing import pack_run

    with MaskRecorder(tmp_path / "run") as recorder:
        recorder.snapshot(0, {"fc": EYE})
        for act in (pack_run, repair):
            with pytest.raises(RunDirectoryError, match="another recorder of this process writes to it"):
                act(tmp_path / "run")
    assert pack_run(tmp_path / "run").snapshots == 1
    repair(tmp_path / "run")


def test_the_bundled_trainer_holds_its_run_while_it_trains(tmp_path: Path):
    from sift_graph.train import load_config, run

    config = load_config(model="mlp", sets=["training.epochs=1", "data.train_samples=256"])

    def at_each_epoch(step: int, steps: int) -> None:
        MaskRecorder(tmp_path / "run", resume=True)

    with pytest.raises(RunDirectoryError, match="another recorder of this process writes to it"):
        run(config, tmp_path / "run", progress=at_each_epoch)
    with (
        MaskRecorder(tmp_path / "run", resume=True),
        pytest.raises(RunDirectoryError, match="another recorder of this"),
    ):
        run(config, tmp_path / "run", resume=True)


def test_a_recorder_that_is_forgotten_in_a_cycle_does_not_block_the_next(tmp_path: Path):
    recorder = MaskRecorder(tmp_path / "run")
    recorder.itself = recorder
    del recorder
    MaskRecorder(tmp_path / "run", resume=True).close()


def test_a_file_system_without_locks_is_used_without_one(tmp_path: Path, monkeypatch):
    def without(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without)
    with MaskRecorder(tmp_path / "run") as recorder:
        recorder.snapshot(0, {"fc": EYE})
    assert RunReader(tmp_path / "run").steps == [0]


def test_a_lock_file_that_a_crash_left_means_nothing(tmp_path: Path):
    MaskRecorder(tmp_path / "run").close()
    (tmp_path / "run" / ".lock").write_text('{"pid": 1, "host": "elsewhere", "since": "2026-01-01 00:00:00"}\n')
    MaskRecorder(tmp_path / "run", resume=True).close()


def test_a_kill_before_the_header_does_not_block_the_run(tmp_path: Path, monkeypatch):
    def die(self: RunWriter, content: object) -> None:
        raise KeyboardInterrupt("killed")

    monkeypatch.setattr(RunWriter, "_write_header", die)
    with pytest.raises(KeyboardInterrupt, match="killed"):
        MaskRecorder(tmp_path / "run")
    monkeypatch.undo()
    with MaskRecorder(tmp_path / "run", resume=True) as recorder:
        recorder.snapshot(0, {"fc": EYE})
    assert RunReader(tmp_path / "run").steps == [0]


# Signals

SIGNALLED = """
import os, signal, sys, time
import numpy as np
from sift_graph.record import MaskRecorder
from sift_graph.store import RunWriter
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to it
write = RunWriter.write_snapshot
def slow(self, snapshot, **options):
    time.sleep(0.05)
    return write(self, snapshot, **options)
RunWriter.write_snapshot = slow
recorder = MaskRecorder(sys.argv[1], queue_size=10)
for step in range(8):
    recorder.snapshot(step, {"fc": np.eye(40, k=step, dtype=bool)})
if os.fork() == 0:
    time.sleep(60)
    os._exit(0)
os.kill(os.getpid(), getattr(signal, sys.argv[2]))
for step in range(8, 1000):
    recorder.snapshot(step, {"fc": np.eye(40, k=step % 40, dtype=bool)})  # a loop that knows of nothing
    time.sleep(0.01)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_the_process_as_ever_but_what_was_handed_on_is_written(tmp_path: Path, name):
    command = [sys.executable, "-c", SIGNALLED, tmp_path / "run", name]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        assert child.wait(60) == -getattr(signal, name)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # its own worker lives on
    steps = RunReader(tmp_path / "run").steps
    assert steps[:8] == list(range(8))
    assert len(steps) < 12


def test_a_handler_that_is_put_over_ours_decides_alone(tmp_path: Path):
    ending._OPEN.clear()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    seen = []
    with MaskRecorder(tmp_path / "run") as recorder:
        ours = signal.getsignal(signal.SIGTERM)

        def composed(number: int, frame: object) -> None:  # as Lightning's: it stops after the batch, in its own way
            seen.append(number)
            ours(number, frame)

        signal.signal(signal.SIGTERM, composed)
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == [signal.SIGTERM]
        assert recorder.snapshot(0, {"fc": EYE})
    assert signal.getsignal(signal.SIGTERM) is composed
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert RunReader(tmp_path / "run").steps == [0]


def test_a_recorder_made_before_a_fork_records_in_the_child(tmp_path: Path):
    program = (
        "import os, sys\n"
        "import numpy as np\n"
        "from sift_graph.record import MaskRecorder\n"
        "recorder = MaskRecorder(sys.argv[1])\n"
        "child = os.fork()\n"
        "if child:\n"
        "    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "recorder.snapshot(0, {'fc': np.eye(4, dtype=bool)})\n"
        "recorder.close()\n"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path / "run"], check=True)
    assert RunReader(tmp_path / "run").steps == [0]


def test_a_forked_worker_dies_of_sigterm_at_once(tmp_path: Path):
    recorder = MaskRecorder(tmp_path / "run")
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads: this child does nothing but wait
        child = os.fork()
    if child == 0:
        os.write(writing, b".")
        time.sleep(20)
        os._exit(0)
    os.read(reading, 1)
    os.close(reading)
    os.close(writing)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    recorder.close()


def test_sigterm_is_left_alone_where_the_program_or_another_thread_has_it(tmp_path: Path):
    def theirs(number: int, frame: object) -> None: ...

    ending._OPEN.clear()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # whatever a test before this one has left open
    before = signal.signal(signal.SIGTERM, theirs)
    try:
        with MaskRecorder(tmp_path / "a"):
            assert signal.getsignal(signal.SIGTERM) is theirs
    finally:
        signal.signal(signal.SIGTERM, before)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with MaskRecorder(tmp_path / "b"):
        with MaskRecorder(tmp_path / "c"):
            assert signal.getsignal(signal.SIGTERM) is ending._on_sigterm
        assert signal.getsignal(signal.SIGTERM) is ending._on_sigterm
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    thread = threading.Thread(target=lambda: MaskRecorder(tmp_path / "d"))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
