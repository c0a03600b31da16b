"""Put snapshots aside for a job that goes on from an earlier step; nothing is deleted."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from sift_graph.store.disk import sync_directory
from sift_graph.store.inside import check_folder

__all__ = ["make_aside", "move_aside"]


def make_aside(run_dir: Path) -> Path:
    """Make a new directory below ``masks/abandoned/``."""
    abandoned = run_dir / "masks" / "abandoned"
    check_folder(run_dir, abandoned)
    aside = abandoned / f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:6]}"
    aside.mkdir(parents=True)
    return aside


def move_aside(files: Sequence[Path], aside: Path) -> None:
    """Move files there, the last first: whenever this stops, no snapshot refers to one that has moved."""
    for path in reversed(files):
        path.rename(aside / path.name)
    sync_directory(aside)
    sync_directory(aside.parent.parent)
