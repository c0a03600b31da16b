"""Kill a recording process at random, many times: ``python -m analysis.stress.kill [--times 200] [--seed 0]``.

Each time a process goes on with the same run: it rewinds now and then, records a snapshot a step behind a queue,
flushes now and then, and says in a pipe what it hands on and what has been promised. It is killed with SIGKILL at any
moment, start and rewinding included, and then must hold: every file with a final name is whole and none has changed
since the kill before; steps follow each other without a gap; whatever was flushed is there, and of what was handed on
after that only what was in flight is gone (the queue, and the one being written); the next process can go on.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sift_graph.record import MaskRecorder
from sift_graph.store import RunReader, is_run
from sift_graph.store.snapshot import read_header

QUEUE = 3
IN_FLIGHT = QUEUE + 2  # in the queue, with the thread that writes, and in the hands of the one that was killed
SHAPE = (150, 120)


def record(run_dir: Path, pipe: int, seed: int) -> None:
    """Record until killed, and say what is promised."""

    def say(text: str) -> None:
        os.write(pipe, text.encode() + b"\n")

    rng = np.random.default_rng(seed)
    fixed = np.random.default_rng(0).random((64, 64)) < 0.5
    recorder = MaskRecorder(run_dir, resume=True, weights="fp32", queue_size=QUEUE)
    newest = -1 if recorder.newest is None else recorder.newest
    if newest > 3 and rng.random() < 0.25:
        newest -= int(rng.integers(1, 4))
        say(f"rewound {newest}")
        recorder.rewind(newest)
    step, first = newest + 1, newest + 4
    while True:
        say(f"handed {step}")
        mask = rng.random(SHAPE) < 0.5
        recorder.snapshot(step, {"fixed": fixed, "moving": (mask, rng.standard_normal(SHAPE))})
        recorder.log({"step": step, "loss": 0.5})
        if step == first or rng.random() < 0.2:
            recorder.flush()
            say(f"flushed {step}")
        step += 1


def killed(run_dir: Path, seed: int, seconds: float, *, soon: bool) -> list[tuple[str, int]]:
    """Let a process record for so long, from its start or from its first promise on, kill it; return what it said."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            record(run_dir, writing, seed)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writing)
    heard = b""
    while not soon and b"flushed" not in heard and (more := os.read(reading, 1 << 16)):
        heard += more
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as file:
        said = [line.split() for line in (heard + file.read()).decode().splitlines()]
    if not os.WIFSIGNALED(status):
        raise SystemExit(f"the process ended by itself, after {said[-1:]}: a run could not be gone on with")
    return [(word, int(step)) for word, step in said]


@dataclass
class Tally:
    """What was seen so far."""

    times: int = 0
    unborn: int = 0
    in_writing: int = 0
    lost: list[int] = field(default_factory=list)
    promised: int = -1  # what must be there
    known: dict[str, tuple[int, int, int]] = field(default_factory=dict)  # files that were whole

    def look(self, run_dir: Path, said: list[tuple[str, int]]) -> None:
        """Check a run whose process was killed."""
        self.times += 1
        handed = self.promised
        for word, step in said:
            self.promised = min(self.promised, step) if word == "rewound" else self.promised
            self.promised = step if word == "flushed" else self.promised
            handed = step if word == "handed" else handed
        rewound = {step for word, step in said if word == "rewound"}
        if not is_run(run_dir):
            assert self.promised < 0, "the header of a run with promised snapshots is gone"
            self.unborn += 1
            return
        self.in_writing += any((run_dir / "masks").glob(".*.tmp"))
        reader = RunReader(run_dir)
        newest = len(reader.steps) - 1
        assert reader.steps == list(range(newest + 1)), f"a gap in {reader.steps}"
        assert newest >= self.promised, f"step {self.promised} was flushed, but only {newest} is there"
        if said and said[-1][0] != "rewound":
            assert newest <= handed, f"step {newest} is there, but only {handed} was handed on"
            self.lost.append(handed - newest)
            assert handed - newest <= IN_FLIGHT, f"{handed} was handed on, but only {newest} is there"
        files = {}
        for step in reader.steps:
            path = reader.path(step)
            now = path.stat()
            files[path.name] = (now.st_ino, now.st_size, now.st_mtime_ns)
            if self.known.get(path.name) != files[path.name]:
                assert path.name not in self.known or rewound, f"{path.name} was altered"
                assert set(reader.load_snapshot(step).layers) == {"fixed", "moving"}
        self.known = files
        self.promised = newest  # and from now on it must stay
        logged = [row["step"] for row in reader.metrics()]
        assert logged == sorted(set(logged)), "rows of metrics are out of order"


def main(arguments: list[str]) -> None:
    """Kill, look, and say what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    chance = random.Random(options.seed)
    tally = Tally()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory) / "run"
        for number in range(options.times):
            soon = chance.random() < 0.3
            seconds = chance.uniform(0, 0.012 if soon else 0.05)
            tally.look(run_dir, killed(run_dir, options.seed + number, seconds, soon=soon))
        reader = RunReader(run_dir)
        for step in reader.steps:
            reader.load_snapshot(step)
        aside = list((run_dir / "masks" / "abandoned").rglob("step_*"))
        for path in aside:
            read_header(path)
        size = sum(path.stat().st_size for path in run_dir.rglob("*") if path.is_file())
    lost = tally.lost or [0]
    print(f"{tally.times} kills in {time.perf_counter() - began:.1f} s, seed {options.seed}")
    print(f"{tally.unborn} of them before the run had a header, {tally.in_writing} with a file half written")
    print(f"{len(reader.steps)} snapshots recorded, all whole; {len(aside)} put aside, all whole; {size / 1e6:.1f} MB")
    print(f"in flight and gone: {sum(lost) / len(lost):.2f} snapshots a kill, at most {max(lost)} (limit {IN_FLIGHT})")
    print("flushed and gone: 0")


if __name__ == "__main__":
    main(sys.argv[1:])
