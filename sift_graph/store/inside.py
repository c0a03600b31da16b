"""Keep to the run directory: a link that leads out of it, a pipe or a device in it is refused before it is opened."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from sift_graph.errors import DamagedStoreError

__all__ = ["check_file", "check_folder"]


def check_file(run_dir: Path, path: Path) -> None:
    """Refuse what is not a plain file within the run directory; a file that is not there passes.

    Parameters
    ----------
    run_dir : Path
        May itself be a link.
    path : Path
        In it.

    Raises
    ------
    DamagedStoreError
        If it is a link to somewhere else, a directory, a pipe or a device.
    """
    check_folder(run_dir, path)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise DamagedStoreError(f"{path}: cannot be looked at ({error.strerror}); restore it from a copy") from error
    if not stat.S_ISREG(mode):
        raise DamagedStoreError(f"{path}: expected a file, found {_kind(mode)}; restore it from a copy, or remove it")


def check_folder(run_dir: Path, path: Path) -> None:
    """Refuse a directory that is not within the run directory, but a link to somewhere else.

    Parameters
    ----------
    run_dir : Path
        May itself be a link.
    path : Path

    Raises
    ------
    DamagedStoreError
        If it is a link out of the run directory.
    """
    real, root = os.path.realpath(path), os.path.realpath(run_dir)
    if os.path.commonpath([real, root]) != root:
        raise DamagedStoreError(
            f"{path}: is a link out of the run directory (to {real[:200]}); nothing there was read or written. "
            "If you trust it, copy the run with what its links mean: cp -rL"
        )


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFREG: "a file"}
    return kinds.get(stat.S_IFMT(mode), "a device")
