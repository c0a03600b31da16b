"""Watch what reading a file does: how long, how much memory, and whether anything is run or written elsewhere."""

from __future__ import annotations

import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from sift_graph.errors import SiftGraphError

__all__ = ["Outcome", "watched"]

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
RUNS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "pty.spawn")
MOVES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.chmod", "os.truncate")


class Stuck(BaseException):
    """It takes too long; no `except Exception` may swallow this."""


@dataclass(frozen=True)
class Outcome:
    """What became of one reading.

    Attributes
    ----------
    word : str
        ``"read"``, ``"refused"`` (a SiftGraphError that names the file), or what is wrong: ``"crash"``, ``"stuck"``,
        ``"memory"``, ``"touched"``, ``"unnamed"``.
    detail : str
    """

    word: str
    detail: str = ""

    @property
    def is_bad(self) -> bool:
        """Whether this is a finding."""
        return self.word not in ("read", "refused")


class _Watch:
    """One audit hook for the process: hooks cannot be taken away again."""

    folder: str | None = None
    touched: str = ""
    is_set = False

    @classmethod
    def hook(cls, event: str, arguments: tuple[Any, ...]) -> None:
        if cls.folder is None:
            return
        if event in RUNS:
            cls.touched = cls.touched or f"{event} {arguments[:1]!r}"
        elif event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & WRITES and not isinstance(path, int):
                cls.note(event, path)
        elif event in MOVES:
            cls.note(event, arguments[1 if event in ("os.rename", "os.symlink", "os.link") else 0])

    @classmethod
    def note(cls, event: str, path: Any) -> None:
        real = os.path.realpath(os.fsdecode(path))
        if not real.startswith(str(cls.folder)) and real != os.devnull:
            cls.touched = cls.touched or f"{event} {real}"


def _peak(*, begin: bool = False) -> int:
    """Largest size of the process so far in KiB; since `begin` where the system can forget an earlier one."""
    try:
        if begin:
            Path("/proc/self/clear_refs").write_text("5")
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _stop(number: int, frame: FrameType | None) -> None:
    where = traceback.extract_stack(frame)[-1]
    raise Stuck(f"at {where.filename}:{where.lineno}")


def watched(
    read: Callable[[Path], None], path: Path, folder: Path, *, seconds: float = 20.0, mebibytes: int = 512
) -> Outcome:
    """Read a file under watch.

    Parameters
    ----------
    read : callable
    path : Path
        What it reads.
    folder : Path
        Nothing outside of it may be written, moved or removed.
    seconds : float
        Of the processor; more is ``"stuck"``, however busy the machine is.
    mebibytes : int
        A rise of the process's peak by more is ``"memory"``.

    Returns
    -------
    Outcome
    """
    if not _Watch.is_set:
        sys.addaudithook(_Watch.hook)
        _Watch.is_set = True
    before = _peak(begin=True)
    _Watch.folder, _Watch.touched = os.path.realpath(folder), ""
    old = signal.signal(signal.SIGPROF, _stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        read(path)
        outcome = Outcome("read")
    except SiftGraphError as error:
        named = path.name in str(error) or str(path.parent) in str(error)
        outcome = Outcome("refused" if named else "unnamed", str(error))
    except Stuck as error:
        outcome = Outcome("stuck", f"{error} after {seconds} s")
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        outcome = Outcome("crash", f"{type(error).__name__}: {str(error)[:200]}")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)
        _Watch.folder = None
    risen = (_peak() - before) // 1024
    if _Watch.touched:
        return Outcome("touched", _Watch.touched)
    if risen > mebibytes and not outcome.is_bad:
        return Outcome("memory", f"{risen} MiB")
    return outcome
