"""Have recorded snapshots measured while training goes on, by another process.

Not in a thread of this one: metrics would share the interpreter with the training loop, and their linear algebra its
threads. The process (:mod:`sift_graph.recording.worker`) has one thread, low priority and the run directory; it reads
steps from its standard input, answers with a line each, and ends when that input does, so that none outlives a kill.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from sift_graph.background import BackgroundWriter
from sift_graph.errors import RunDirectoryError, SiftGraphError
from sift_graph.sinks import Teller
from sift_graph.store import RunWriter

__all__ = ["Measurer", "scalars"]

WAITING = 4  # snapshots that may wait to be measured
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class Measurer:
    """Measure snapshots that are on disk, and append a row each to ``metrics.jsonl``.

    Parameters
    ----------
    metrics : True, str or iterable of str
        True or ``"core"`` for the core; else as :func:`sift_graph.metrics.select`.

    Attributes
    ----------
    skipped : int
        Snapshots that were not measured because others still waited.

    Raises
    ------
    UsageError
        If a metric does not exist.
    """

    def __init__(self, metrics: bool | str | Iterable[str]) -> None:
        self.names: tuple[str, ...] = ()
        if metrics is not True and metrics != "core":
            from sift_graph.metrics import METRICS, select

            chosen = select(metrics if isinstance(metrics, str) else list(metrics))  # type: ignore[arg-type]
            self.names = tuple(name for name in chosen if name in METRICS)
        self.skipped = 0
        self._jobs = BackgroundWriter(WAITING)
        self._process = _Process(self.names)
        self._end = weakref.finalize(self, _end, self._jobs, self._process)

    def ask(self, writer: RunWriter, step: int, epoch: float | None, teller: Teller | None) -> None:
        """Have a snapshot measured that is on disk; never waits.

        Parameters
        ----------
        writer : RunWriter
            Of the run; gets the row.
        step : int
        epoch : float or None
        teller : Teller or None
            Is told the row's scalars.
        """
        act = partial(_measure, self._process, writer, step, epoch, teller)
        if not self._jobs.put(act, f"the measurements of step {step}", wait=False):
            self.skipped += 1

    def problem(self) -> str:
        """Say what went wrong since this was last asked, for a warning; empty if nothing did."""
        try:
            self._jobs.surface()
        except SiftGraphError as error:
            return f"training and recording go on, but {error}"
        if self.skipped:
            return (
                f"measuring is slower than recording: {self.skipped} snapshots were not measured "
                "(recorder.unmeasured counts them). They are on disk: `sift-graph analyze` measures what is missing"
            )
        return ""

    def wait(self) -> None:
        """Wait until all that was asked for is measured."""
        self._jobs.wait()

    def close(self) -> None:
        """Measure what was asked for, and end the process; a later :meth:`ask` starts another."""
        _end(self._jobs, self._process)


def _end(jobs: BackgroundWriter, process: _Process) -> None:
    jobs.finish()
    process.close()


def _measure(process: _Process, writer: RunWriter, step: int, epoch: float | None, teller: Teller | None) -> None:
    layers = process.measure(writer.run_dir, step)
    at = {"step": step} | ({} if epoch is None else {"epoch": epoch})
    writer.append_line(RunWriter.encode_metrics({**at, "measured": layers}))
    if teller is not None:
        teller.tell({**at, **scalars(layers)})


def scalars(layers: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Name measurements as trackers want them: ``metric/layer``, and ``metric/mean`` over the layers.

    Parameters
    ----------
    layers : mapping of str to mapping
        Values by metric, by layer; what is not a number is left out.

    Returns
    -------
    dict of str to float

    Examples
    --------
    >>> scalars({"a": {"density": 0.5, "note": ""}, "b": {"density": 0.25}})
    {'density/a': 0.5, 'density/b': 0.25, 'density/mean': 0.375}
    """
    found: dict[str, dict[str, float]] = {}
    for layer, values in layers.items():
        for metric, value in values.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                found.setdefault(metric, {})[layer] = float(value)
    named: dict[str, float] = {}
    for metric, values in found.items():
        named |= {f"{metric}/{layer}": value for layer, value in values.items()}
        named[f"{metric}/mean"] = sum(values.values()) / len(values)
    return named


class _Process:
    """The process that measures: started when first needed, and again if it died."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def measure(self, run_dir: Path, step: int) -> dict[str, dict[str, Any]]:
        """Measure one snapshot: values by metric, by layer."""
        with self._lock:
            if self._child is None:
                self._child = self._start()
            child = self._child
            assert child.stdin is not None
            assert child.stdout is not None
            try:
                child.stdin.write(json.dumps({"run_dir": os.fspath(run_dir), "step": step}).encode() + b"\n")
                child.stdin.flush()
                line = child.stdout.readline()
            except OSError:
                line = b""
            if not line:
                code = self._stop()
                raise RunDirectoryError(
                    f"step {step} was not measured: the process that measures ended (exit code {code}); "
                    "`sift-graph analyze` measures it later"
                )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RunDirectoryError(f"step {step} was not measured: {answer['error']}")
        layers: dict[str, dict[str, Any]] = answer["layers"]
        return layers

    def _start(self) -> subprocess.Popen[bytes]:
        here = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
        environment = os.environ | dict.fromkeys(THREADS, "1") | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", "sift_graph.recording.worker", *self.names]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def _stop(self) -> int | None:
        child, self._child = self._child, None
        if child is None:
            return None
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with suppress(OSError):  # it died with something of ours unread
                    pipe.close()
        return child.wait()

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._stop()
