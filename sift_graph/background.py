"""One thread that does jobs in order behind a bounded queue, and tells afterwards what went wrong."""

from __future__ import annotations

import logging
import os
import queue
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass

from sift_graph.errors import RunDirectoryError, SiftGraphError

__all__ = ["BackgroundWriter"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Job:
    act: Callable[[], object]
    what: str


class _Failures:
    """What went wrong, shared by the thread and its owner."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.all: list[tuple[str, Exception]] = []
        self.told = 0
        self.lost = False


class BackgroundWriter:
    """Do jobs in the order in which they are put, in a thread of its own.

    Parameters
    ----------
    size : int
        Jobs that may wait.

    Notes
    -----
    The thread starts with the first job. It does not hold this object, so that one which is forgotten is collected;
    its jobs are finished then, or at the latest when the interpreter ends.
    """

    def __init__(self, size: int) -> None:
        self._queue: queue.Queue[_Job | None] = queue.Queue(size)
        self._failures = _Failures()
        self._thread: threading.Thread | None = None
        self._finish: weakref.finalize[..., BackgroundWriter] | None = None
        self.refusing = False

    def refuse(self) -> None:
        """Take no more jobs: what was put is finished, what comes now is turned away."""
        self.refusing = True

    @property
    def lost(self) -> bool:
        """Whether a job failed since this was last asked."""
        with self._failures.lock:
            lost, self._failures.lost = self._failures.lost, False
        return lost

    def put(self, act: Callable[[], object], what: str, *, wait: bool = True) -> bool:
        """Hand on a job.

        Parameters
        ----------
        act : callable
            The job.
        what : str
            What is lost if it fails, for the error.
        wait : bool
            Wait for room in the queue.

        Returns
        -------
        bool
            Whether it was taken: false if the queue is full and `wait` is false, or after :meth:`refuse`.
        """
        if self.refusing:
            return False
        if self._thread is None:
            self._thread = threading.Thread(
                target=_work, args=(self._queue, self._failures), name="sift-graph-writer", daemon=True
            )
            self._thread.start()
            self._finish = weakref.finalize(self, _end, self._queue, self._thread, os.getpid())
        try:
            self._queue.put(_Job(act, what), block=wait)
        except queue.Full:
            return False
        return True

    def wait(self) -> None:
        """Wait until every job that was put is done."""
        self._queue.join()

    def surface(self, *, again: bool = False) -> None:
        """Raise what went wrong, if it was not raised yet.

        Parameters
        ----------
        again : bool
            Raise it although it was raised before.

        Raises
        ------
        SiftGraphError
            The first error, of its own kind; its message names all that was lost.
        """
        with self._failures.lock:
            failures = self._failures.all if again else self._failures.all[self._failures.told :]
            self._failures.told = len(self._failures.all)
        if not failures:
            return
        first = failures[0][1]
        others = [what for what, _ in failures[1:]]
        more = f"; lost as well: {', '.join(others[:5])}{' and others' if len(others) > 5 else ''}" if others else ""
        kind = type(first) if isinstance(first, SiftGraphError) else RunDirectoryError
        text = str(first) if isinstance(first, SiftGraphError) else f"{failures[0][0]} is lost ({first!r})"
        raise kind(f"{text}{more}") from first

    def finish(self) -> None:
        """Finish all jobs, and end the thread; a later job starts another."""
        if self._finish is not None:
            self._finish()
            self._thread = self._finish = None

    def close(self) -> None:
        """Finish all jobs, end the thread (a later job starts another), and raise what ever went wrong."""
        self.finish()
        self.surface(again=True)


def _work(jobs: queue.Queue[_Job | None], failures: _Failures) -> None:
    while True:
        job = jobs.get()
        try:
            if job is None:
                return
            job.act()
        except Exception as error:  # told by surface(): nothing may end the thread but the end itself
            assert job is not None
            logger.info("%s failed", job.what, exc_info=error)
            _let_go(error)
            with failures.lock:
                failures.all.append((job.what, error))
                failures.lost = True
        finally:
            del job  # or the thread would hold the last snapshot while it waits for the next
            jobs.task_done()


def _end(jobs: queue.Queue[_Job | None], thread: threading.Thread, pid: int) -> None:
    if os.getpid() == pid:  # a forked child has the queue but not the thread
        jobs.put(None)
        thread.join()


def _let_go(error: BaseException | None) -> None:
    """Drop the frames that an error holds on to: they hold the snapshot that could not be written."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
