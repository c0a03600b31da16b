"""Write files so that they are whole or not there, and say what an error of the file system cost."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sift_graph.errors import RunDirectoryError

__all__ = ["explain_disk_errors", "sync_directory", "write_atomically"]


def write_atomically(
    path: Path, data: bytes, *, sync: bool = True, mark: str = "", check: Callable[[Path], None] | None = None
) -> None:
    """Write `data` to a temporary name beside `path`, sync it, and rename: whole, or not there at all.

    Parameters
    ----------
    path : Path
    data : bytes
    sync : bool
        Wait until it is on the disk.
    mark : str
        Stands in the temporary name, before its end.
    check : callable, optional
        Called with the temporary file before it is renamed; what it raises leaves `path` as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{mark}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # not through a link that someone put there
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        if check is not None:
            check(temporary)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if sync:
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make a rename in `path` survive a power cut, where the system can."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


@contextmanager
def explain_disk_errors(path: Path, loss: str) -> Iterator[None]:
    """Turn an error of the file system into one that says what was lost and how to mend it."""
    try:
        yield
    except OSError as error:
        cure = _CURES.get(error.errno or 0, "mend this, then go on with resume=True")
        raise RunDirectoryError(
            f"{path}: {loss} ({error.strerror or error}); what was recorded before is untouched. {cure}"
        ) from error


_CURES = {
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.ENOSPC: "Free some space, record less often or without weights, then go on with resume=True",
    errno.EDQUOT: "Free some of the quota, record less often or without weights, then go on with resume=True",
    errno.EROFS: "Choose a directory that can be written to",
    errno.EACCES: "Choose a directory that can be written to",
    errno.EPERM: "Choose a directory that can be written to",
    errno.ENOENT: "The directory was removed; choose another, or restore it",
}
