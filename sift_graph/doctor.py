"""Examine a run directory: its files, its history and its masks, each finding with its cure.

Examples
--------
>>> import tempfile, numpy as np
>>> from sift_graph.store import RunWriter
>>> from sift_graph.masks import LayerMask, Snapshot
>>> directory = tempfile.TemporaryDirectory()
>>> full = LayerMask.from_dense("fc", np.ones((4, 4), dtype=bool), np.ones((4, 4)))
>>> _ = RunWriter(directory.name + "/run").write_snapshot(Snapshot(0, {"fc": full}))
>>> [(finding.kind, finding.severity) for finding in examine(directory.name + "/run")]
[('all_ones', 'warning')]
>>> directory.cleanup()
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from sift_graph.errors import DamagedStoreError, RunDirectoryError
from sift_graph.store import RunReader, is_run
from sift_graph.store.condition import Condition, Finding, find_condition, is_barred
from sift_graph.symptoms import find_symptoms

__all__ = ["Finding", "examine"]

SEVERITIES = ("error", "warning", "note")


def examine(run_dir: str | os.PathLike[str], *, progress: Callable[[int, int], None] | None = None) -> list[Finding]:
    """Read everything in a run directory, and say what is wrong with it.

    Nothing is changed.

    Parameters
    ----------
    run_dir : path
    progress : callable, optional
        Called with the snapshots read and the snapshots in all.

    Returns
    -------
    list of Finding
        Errors first, then warnings, then notes. Empty for a run without anything to say.

    Raises
    ------
    RunDirectoryError
        If the directory neither is a run nor holds snapshots of one, or a file in it may not be read.
    """
    path = Path(run_dir)
    if not is_run(path):
        if not any((path / "masks").glob("step_*.safetensors")):
            RunReader(path)  # which says what a run is, and raises
        cure = "--repair makes it anew of the newest snapshot, without what only it knew (`about`, versions)"
        return [Finding("no_header", "error", "sift.json", "is missing", cure, True)]
    try:
        reader = RunReader(path)
    except DamagedStoreError as error:
        said = str(error).removeprefix(f"{path / 'sift.json'}: ")
        if is_barred(error):
            return [Finding("bad_header", "error", "sift.json", said, "make it readable")]
        cure = "restore it from a copy; --repair puts it aside, and makes it anew of the newest snapshot"
        return [Finding("bad_header", "error", "sift.json", said, cure, True)]
    try:
        condition: Condition = find_condition(reader, progress=progress)
    except OSError as error:
        raise RunDirectoryError(
            f"{error.filename or path}: cannot be read ({error.strerror or error}); make it readable, nothing was done"
        ) from error
    findings = condition.findings + find_symptoms(reader, condition)
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
