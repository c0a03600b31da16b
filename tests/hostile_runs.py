"""A small run to be damaged, and a measure of memory."""

from __future__ import annotations

import tempfile
import tracemalloc
from collections.abc import Callable
from functools import cache
from pathlib import Path

from analysis.stress.targets import make_run


@cache
def _files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder) / "run")
        return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def copy_run(run: Path) -> Path:
    """Lay out the files of a small run that was analyzed."""
    for name, data in _files().items():
        path = run / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return run


def peak_of(act: Callable[[], object]) -> int:
    """Bytes allocated at most while something is done."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
