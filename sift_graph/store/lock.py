"""One live process writes a run directory: a lock that the system takes back when that process ends, however it ends.

The lock is an ``flock`` on the file ``.lock`` in the run directory. The file stays there and means nothing by itself:
no crash leaves a lock behind, and nothing has to be removed by hand. Its text says who holds it, for the message.
"""

from __future__ import annotations

import errno
import gc
import json
import logging
import os
import socket
import time
import weakref
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, Self

from sift_graph.errors import RunDirectoryError
from sift_graph.store.inside import check_file
from sift_graph.store.parsing import parse_json

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["LOCK", "RunLock", "against_recorders"]

logger = logging.getLogger(__name__)

LOCK = ".lock"
PATIENCE = 60  # tries, 0.05 s apart, where the holder has ended already
HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


class RunLock:
    """Hold a run directory until :meth:`release`, or until this object or its process ends.

    Parameters
    ----------
    run_dir : Path
        An existing directory.

    Raises
    ------
    RunDirectoryError
        If another live process holds it, or another recorder of this one, or the file cannot be made.

    Notes
    -----
    A file system without locks (some network mounts) is used without one. A child made by ``fork`` lets go of its copy
    at once, so that a worker which outlives its parent holds nothing.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path, self._handle = run_dir / LOCK, -1
        check_file(run_dir, self.path)
        try:
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        except OSError as error:
            raise RunDirectoryError(
                f"{self.path}: could not be made ({error.strerror}); choose a directory that can be written to"
            ) from error
        try:
            self._take()
        except BaseException:
            self.release()
            raise
        _ALL.add(self)

    def _take(self) -> None:
        if fcntl is None:
            return
        for attempt in range(PATIENCE):
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in HELD:
                    logger.info("%s: the file system has no locks (%s)", self.path, error.strerror)
                    return
                if attempt < PATIENCE - 1 and self._is_passing(attempt):
                    continue
                raise RunDirectoryError(self._refusal()) from error
        text = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        with suppress(OSError):  # a full disk: the lock holds without its text
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, (json.dumps(text) + "\n").encode(), 0)

    def _is_passing(self, attempt: int) -> bool:
        """Whether it may be free in a moment, after having waited for that moment."""
        holder = self._holder()
        pid = holder.get("pid")
        if holder.get("host") != socket.gethostname() or not isinstance(pid, int):
            return False
        if pid == os.getpid():
            gc.collect()  # a recorder that is forgotten in a cycle of references still holds it
            return attempt == 0
        try:
            os.kill(pid, 0)
        except ProcessLookupError:  # it has ended; a child that it has just forked has not let go yet
            time.sleep(0.05)
            return True
        except (OSError, OverflowError):
            pass
        return False

    def _holder(self) -> dict[str, Any]:
        try:
            content = parse_json(os.pread(self._handle, 4096, 0))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _refusal(self) -> str:
        holder, run_dir = self._holder(), self.path.parent
        if holder.get("pid") == os.getpid() and holder.get("host") == socket.gethostname():
            return f"{run_dir}: another recorder of this process writes to it; close that one first (recorder.close())"
        who = f"process {holder['pid']} on {holder.get('host')}" if "pid" in holder else "another process"
        since = f" since {holder['since']}" if "since" in holder else ""
        return (
            f"{run_dir}: {who} has been writing to it{since}, and a run has one writer; wait until that process ends, "
            "end it, or choose another directory. The lock ends with the process: there is no file to remove"
        )

    def in_place(self) -> bool | None:
        """Whether the file in the directory is still the one that is held; None if there is none, or none is held."""
        if self._handle < 0:
            return None
        try:
            there = self.path.stat()
        except OSError:
            return None
        held = os.fstat(self._handle)
        return (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)

    def release(self) -> None:
        """Let go; may be called again."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def __del__(self) -> None:
        """Let go of what is forgotten."""
        if hasattr(self, "_handle"):
            self.release()


def against_recorders(run_dir: Path) -> AbstractContextManager[Any]:
    """Hold a run while its files are changed; one without a lock file is not being recorded, and gets none.

    Parameters
    ----------
    run_dir : Path

    Returns
    -------
    context manager

    Raises
    ------
    RunDirectoryError
        If it is being recorded.
    """
    return RunLock(run_dir) if (run_dir / LOCK).exists() else nullcontext()


_ALL: weakref.WeakSet[RunLock] = weakref.WeakSet()


def _let_go_in_child() -> None:
    for lock in list(_ALL):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)
