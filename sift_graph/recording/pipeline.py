"""Where a recorder's snapshots go: the run directory behind a bounded queue, what is measured of them, and who is told.

Three threads, none of which the training waits for unless it asks to: one writes, in order; one has snapshots that are
on disk measured (:mod:`sift_graph.recording.measuring`); one hands scalars to trackers (:mod:`sift_graph.sinks`).
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from sift_graph.background import BackgroundWriter
from sift_graph.errors import RunDirectoryError, SiftGraphError
from sift_graph.masks import LayerMask, Snapshot
from sift_graph.recording.ending import finish_on_sigterm, forget_sigterm
from sift_graph.recording.measuring import Measurer
from sift_graph.sinks import Teller
from sift_graph.store import RunWriter, ShardWriter, SilentWriter, WeightPolicy

__all__ = ["Pipeline", "RecorderWarning", "Writer"]

Writer = RunWriter | ShardWriter | SilentWriter


class RecorderWarning(UserWarning):
    """Something about a recording that the user should know while training goes on."""


class Pipeline:
    """Take snapshots and rows from the training thread, and see to it that they reach the disk.

    Parameters
    ----------
    run_dir : path
    weights : {"none", "fp16", "fp32"}
    queue_size : int
    policy : {"block", "drop"}
    measurer : Measurer, optional
    teller : Teller, optional
    writer : RunWriter, ShardWriter or SilentWriter, optional
        Of one of several processes; a new RunWriter if not given.
    **options
        Of :class:`sift_graph.store.RunWriter`.

    Attributes
    ----------
    newest : int or None
        Step of the newest snapshot, on disk or handed on.
    dropped : int
        Snapshots dropped because the queue was full.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        *,
        weights: WeightPolicy,
        queue_size: int,
        policy: Literal["block", "drop"],
        measurer: Measurer | None = None,
        teller: Teller | None = None,
        writer: Writer | None = None,
        **options: Any,
    ) -> None:
        self.writer: Writer = writer or RunWriter(run_dir, exclusive=True, **options)  # type: ignore[arg-type]
        self.weights: WeightPolicy = weights
        self.policy = policy
        self.newest, self.digests = self.writer.newest, self.writer.digests
        self.background = BackgroundWriter(queue_size)
        self.measurer, self.teller = measurer, teller
        self.dropped = 0
        self._lines: deque[bytes] = deque()
        self._warned: set[str] = set()
        finish_on_sigterm(self.background)

    @property
    def first_writer(self) -> RunWriter | None:
        """The writer of the whole run, where this process has it."""
        return self.writer if isinstance(self.writer, RunWriter) else None

    def adopt(self, writer: Writer) -> None:
        """Write with another writer from now on."""
        self.background.wait()
        self.writer = writer
        self.newest, self.digests = writer.newest, writer.digests

    def begin(self) -> None:
        """Hold the directory again if it was closed, and warn of what went wrong."""
        if self.writer.hold():
            self.newest, self.digests = self.writer.newest, self.writer.digests
            finish_on_sigterm(self.background)
        self.warn_of_losses()

    def warn_of_losses(self) -> None:
        """Warn of what went wrong in the background since this was last asked; once, then be silent."""
        try:
            self.background.surface()
        except SiftGraphError as error:
            self.warn("lost", f"training goes on, but {error}")
        if self.measurer is not None and (problem := self.measurer.problem()):
            self.warn("unmeasured", problem)
        if self.teller is not None and (problem := self.teller.problem()):
            self.warn("untold", problem)

    def warn(self, kind: str, message: str) -> None:
        """Warn once of each kind."""
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(message, RecorderWarning, stacklevel=5)

    def put(self, act: Any, what: str, *, wait: bool = True) -> bool:
        """Hand on a job for the thread that writes; as :meth:`sift_graph.background.BackgroundWriter.put`."""
        return self.background.put(act, what, wait=wait)

    def remember(self) -> None:
        """Forget what a snapshot held that never reached the disk."""
        if self.background.lost:
            self.background.wait()
            self.digests, self.newest = {}, self.writer.newest

    def changed(self, layers: Mapping[str, LayerMask]) -> bool:
        """Whether a mask differs from the last one on disk or handed on."""
        self.remember()
        return any(self.digests.get(name) != layer.digest for name, layer in layers.items())

    def snapshot(self, snapshot: Snapshot, *, wait: bool = False) -> bool:
        """Hand on a snapshot, waiting for room if the policy says so or `wait` does; return whether it was taken."""
        if self.newest is None:
            _warn_if_all_ones(snapshot)
        write = partial(_write, self.writer, snapshot, self.weights, self.measurer, self.teller)
        if not self.put(write, f"the snapshot of step {snapshot.step}", wait=wait or self.policy == "block"):
            if self.background.refusing:  # the process is about to end
                return False
            self.dropped += 1
            self.warn(
                "dropped",
                f"the disk is slower than the training: the snapshot of step {snapshot.step} was dropped, and so "
                "will be others (recorder.dropped counts them); record less often, without weights, or with "
                "policy='block'",
            )
            return False
        self.digests = {name: layer.digest for name, layer in snapshot.layers.items()}
        self.newest = snapshot.step
        return True

    def log(self, row: Mapping[str, Any]) -> None:
        """Hand on a row of metrics."""
        line = RunWriter.encode_metrics(row)  # now: a tensor may change before it is written
        what, writer = f"the metrics of step {row.get('step')}", self.writer
        if self.policy == "block":  # in its turn: a row is not on disk before the snapshot that came before it
            self.put(lambda: writer.append_line(line), what)
        else:  # a line that finds no room waits for the next one, or for flush(): lines are small
            self._lines.append(line)
            self._put_lines(what, wait=False)
        if self.teller is not None:
            self.teller.tell(row)

    def _put_lines(self, what: str, *, wait: bool) -> None:
        self.put(partial(_append, self.writer, self._lines), what, wait=wait)

    def write_layers(self, table: Sequence[Mapping[str, Any]]) -> None:
        """Hand on the layer table."""
        writer = self.writer
        self.put(lambda: writer.write_layers(table), "the layer table")

    def write_graph(self, record: Mapping[str, Any]) -> None:
        """Hand on how the layers hang together."""
        writer = self.writer
        self.put(lambda: writer.write_graph(record), "the network graph")

    def rewind(self, step: int) -> None:
        """Put aside what was recorded after a step, rows of metrics included."""
        self.begin()
        self.flush()
        if self.measurer is not None:
            self.measurer.wait()
        self.writer.rewind(step)  # the background thread has nothing to do, so this one may use the writer
        self.newest, self.digests = self.writer.newest, self.writer.digests

    def go_on_from(self, step: int, run_id: str | None) -> None:
        """Check that a checkpoint belongs to this run, and put aside what was recorded after it.

        Parameters
        ----------
        step : int
        run_id : str, optional
            Of the run that the checkpoint belongs to, where that is known.

        Raises
        ------
        RunDirectoryError
            If it belongs to another run, and this one holds snapshots.
        """
        if run_id and run_id != self.writer.run_id:
            told = (
                f"{self.writer.run_dir}: the checkpoint of step {step} belongs to run {run_id}, this directory to run "
                f"{self.writer.run_id}"
            )
            if self.newest is not None:
                raise RunDirectoryError(
                    f"{told}, which has snapshots up to step {self.newest}; nothing was put aside. Record into the "
                    "directory of the checkpoint's own run, or into a new one"
                )
            self.warn("other run", f"{told}; its history begins here, at the checkpoint's step")
        self.rewind(step)

    def flush(self) -> None:
        """Wait until all that was handed on is on disk, and raise what went wrong since the last call."""
        if self._lines:
            self._put_lines("some metrics", wait=True)
        self.background.wait()
        self.background.surface()

    def close(self) -> None:
        """Finish everything, let go of the directory, and raise what went wrong, if anything ever did."""
        try:
            try:
                if self._lines:
                    self._put_lines("some metrics", wait=True)
                self.background.close()
            finally:
                if self.measurer is not None:  # after the writer, whose last snapshots it has to be asked for
                    self.measurer.close()
                if self.teller is not None:
                    self.teller.close()
                self.warn_of_losses()
        finally:
            forget_sigterm(self.background)
            self.writer.release()


def _write(
    writer: Writer, snapshot: Snapshot, weights: WeightPolicy, measurer: Measurer | None, teller: Teller | None
) -> None:
    """Write a snapshot, and have it measured; a function of its own, so that no job holds the recorder."""
    writer.write_snapshot(snapshot, weights=weights)
    if measurer is not None and isinstance(writer, RunWriter):
        measurer.ask(writer, snapshot.step, snapshot.epoch, teller)


def _append(writer: Writer, lines: deque[bytes]) -> None:
    """Append the rows that wait."""
    while lines:
        writer.append_line(lines.popleft())


def _warn_if_all_ones(snapshot: Snapshot) -> None:
    """Say so when nothing is sparse at the first snapshot; a layer that calls itself dense is meant to be."""
    sparse = [layer for layer in snapshot if layer.source != "dense" and layer.size]
    if sparse and all(layer.edges == layer.size for layer in sparse):
        warnings.warn(
            f"at step {snapshot.step} every entry of all {len(sparse)} masks is 1: nothing is pruned yet. If sparsity "
            "comes later all is well; if not, check that the pruning is applied to this model",
            RecorderWarning,
            stacklevel=5,
        )
