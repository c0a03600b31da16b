"""Lose nothing to SIGTERM, which schedulers send some seconds before they kill.

Python's default is to die at once, with whatever is still in a queue. Where that default is in place, a handler is put
there while a recorder is open: it lets what was handed on be written, then lets the process die of SIGTERM after all,
so that whoever waits for it sees what it would have seen. The program's own handlers are never replaced; one that is
installed later and calls ours (Lightning's does) decides alone how the program ends.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
import weakref
from types import FrameType
from typing import Any

from sift_graph.background import BackgroundWriter

__all__ = ["finish_on_sigterm", "forget_sigterm"]

_OPEN: weakref.WeakSet[BackgroundWriter] = weakref.WeakSet()


def finish_on_sigterm(background: BackgroundWriter) -> bool:
    """Let a queue be written out when SIGTERM comes.

    Parameters
    ----------
    background : BackgroundWriter

    Returns
    -------
    bool
        Whether it will be: false off the main thread, and where the program has a handler of its own.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    if signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, _on_sigterm):
        return False
    signal.signal(signal.SIGTERM, _on_sigterm)
    _OPEN.add(background)
    return True


def forget_sigterm(background: BackgroundWriter) -> None:
    """Put the default back once no queue is open; may be called for one that was never known."""
    _OPEN.discard(background)
    on_main = threading.current_thread() is threading.main_thread()
    if not _OPEN and on_main and signal.getsignal(signal.SIGTERM) is _on_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _on_sigterm(number: int, frame: FrameType | None) -> Any:
    if signal.getsignal(number) is not _on_sigterm:  # called by a handler that was put over it
        return
    signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
    writers = list(_OPEN)
    if not writers:
        os.kill(os.getpid(), number)
        return
    for writer in writers:
        writer.refuse()
    # This runs between two instructions of the main thread, which may hold a lock of the queue: waiting here could be
    # for ever. And not threading.Thread: starting one takes a lock that the main thread may hold as well.
    _thread.start_new_thread(_finish, (writers, number))


def _in_child() -> None:
    """Put the default back in a forked child, which has our handler but not the threads."""
    _OPEN.clear()
    if signal.getsignal(signal.SIGTERM) is _on_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def _finish(writers: list[BackgroundWriter], number: int) -> None:
    try:
        for writer in writers:
            writer.wait()
    finally:
        os.kill(os.getpid(), number)
