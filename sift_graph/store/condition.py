"""The condition of a run's files: what is damaged, missing, misplaced or left over, each with its cure."""

from __future__ import annotations

import errno
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from sift_graph.errors import DamagedStoreError
from sift_graph.store.deltas import forget
from sift_graph.store.inside import check_file
from sift_graph.store.reader import RunReader
from sift_graph.store.snapshot import read_header

__all__ = ["Condition", "Finding", "Severity", "few", "find_condition", "is_barred", "is_row", "path_step"]

Severity = Literal["error", "warning", "note"]
Progress = Callable[[int, int], None]

BARRED = {errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE}
STALE_SECONDS = 60.0  # a younger temporary may be somebody's who is writing it
_NAME = re.compile(r"step_(\d{9,18})(\.rank\d+)?\.safetensors")


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be, or that is worth to know.

    Attributes
    ----------
    kind : str
        A word for it, such as ``"damaged"``; always the same.
    severity : {"error", "warning", "note"}
        An error: something recorded cannot be read. A warning: what is recorded is hardly what was meant, or a little
        of it is lost. A note: nothing to mend.
    where : str
        A file, by its path in the run directory, or a layer, or ``"run"``.
    found : str
    cure : str
    repairable : bool
        Whether :func:`sift_graph.mending.repair` mends it.
    """

    kind: str
    severity: Severity
    where: str
    found: str
    cure: str
    repairable: bool = False


@dataclass
class Condition:
    """What was found in the files of a run, and what of it can be read.

    Attributes
    ----------
    findings : list of Finding
    headers : dict of int to dict
        By step, of the snapshots whose header can be read.
    held : dict of (int, str) to str
        Hash of each mask that a file holds and that can be read, by step and layer.
    """

    findings: list[Finding] = field(default_factory=list)
    headers: dict[int, dict[str, Any]] = field(default_factory=dict)
    held: dict[tuple[int, str], str] = field(default_factory=dict)


def find_condition(reader: RunReader, *, progress: Progress | None = None) -> Condition:
    """Read everything that a run holds, and say what is wrong with its files.

    Parameters
    ----------
    reader : RunReader
    progress : callable, optional
        Called with the snapshots read and the snapshots in all.

    Returns
    -------
    Condition
    """
    forget()
    condition = Condition()
    for done, step in enumerate(reader.steps, 1):
        _read_snapshot(reader, step, condition)
        if progress is not None:
            progress(done, len(reader.steps))
    if not condition.headers:  # then it is sift.json that is not theirs
        cure = "put sift.json away if these belong together: --repair makes it anew of the newest"
        condition.findings = [
            replace(finding, cure=cure, repairable=False) if finding.kind == "foreign" else finding
            for finding in condition.findings
        ]
    condition.findings += _strays(reader)
    condition.findings += _ranks(reader)
    condition.findings += _lines(reader.run_dir)
    return condition


def few(names: Sequence[str], most: int = 3) -> str:
    """Name the first few, and count the others.

    Parameters
    ----------
    names : sequence of str
    most : int

    Returns
    -------
    str

    Examples
    --------
    >>> few(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _read_snapshot(reader: RunReader, step: int, condition: Condition) -> None:
    """Read one snapshot whole: its own masks and weights, and whether what it refers to is there."""
    path = reader.path(step)
    where = f"masks/{path.name}"
    try:
        header = reader.snapshot_header(step)
    except DamagedStoreError as error:
        condition.findings.append(_unusable(reader, path, error))
        return
    condition.headers[step] = header
    damaged: list[str] = []
    first: DamagedStoreError | None = None
    broken: dict[int, list[str]] = {}
    for entry in header["layers"]:
        name, shown = entry["name"], repr(entry["name"])
        needed = entry["ref"] if entry["ref"] is not None else entry.get("base")
        digest = entry["xxh3"] if entry["ref"] is not None else entry.get("base_xxh3")
        if needed is not None and condition.held.get((needed, name)) != digest:
            broken.setdefault(needed, []).append(shown)
            continue
        try:
            reader.load_entry(step, entry)
        except DamagedStoreError as error:
            damaged.append(shown)
            first = first or error
        else:
            if entry["ref"] is None:
                condition.held[step, name] = entry["xxh3"]
    if first is not None:
        condition.findings.append(_damaged(path, first, f" (of {few(damaged)})" if len(damaged) > 1 else ""))
    for at, names in broken.items():
        state = "which does not hold it" if at in reader.steps else "which is missing"
        if at not in condition.headers and at in reader.steps:
            state = "which is damaged"
        condition.findings.append(
            Finding(
                "broken_reference",
                "error",
                where,
                f"the mask of {few(names)} is that of step {at}, or a change of it, {state}",
                f"restore masks/{reader.path(at).name} from a copy; the other layers can be read",
            )
        )


def _unusable(reader: RunReader, path: Path, error: DamagedStoreError) -> Finding:
    """Say why a snapshot's header cannot be used: damaged, or the good one of another place."""
    where, said = f"masks/{path.name}", str(error).removeprefix(f"{path}: ")
    try:
        header = read_header(path)
    except DamagedStoreError:
        return _damaged(path, error)
    if header.get("run_id") != reader.header["run_id"]:
        return Finding("foreign", "error", where, said, "move it back; --repair moves it to masks/damaged", True)
    if header.get("step") != path_step(path):
        cure = "give it its own name; --repair does, or moves it to masks/damaged if that name is taken"
        return Finding("renamed", "error", where, said, cure, True)
    return _damaged(path, error)


def is_barred(error: BaseException) -> bool:
    """Whether a file may be whole, and only could not be read now: then nothing is done to it."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in BARRED


def _damaged(path: Path, error: DamagedStoreError, more: str = "") -> Finding:
    """Say that a snapshot is damaged; one of several files is not moved without the others."""
    said = str(error).removeprefix(f"{path}: ") + more
    cure = "restore it from a copy"
    if _is_ranked(path) or is_barred(error):
        return Finding("damaged", "error", f"masks/{path.name}", said, "make it readable" if is_barred(error) else cure)
    cure += "; --repair moves it to masks/damaged, and keeps what others need of it"
    return Finding("damaged", "error", f"masks/{path.name}", said, cure, True)


def path_step(path: Path) -> int | None:
    """Step in the name of a snapshot's file; None where there is none."""
    name = _NAME.fullmatch(path.name)
    return int(name[1]) if name else None


def _is_ranked(path: Path) -> bool:
    """Whether a file is what one of several processes wrote of a snapshot."""
    name = _NAME.fullmatch(path.name)
    return name is not None and name[2] is not None


def _strays(reader: RunReader) -> Iterator[Finding]:
    """Files that no reader looks at: temporaries, odd names, what was put aside."""
    masks = reader.run_dir / "masks"
    recorded = {reader.path(step).name for step in reader.steps}
    for path in sorted(p for place in (".", "masks", "analysis/*") for p in reader.run_dir.glob(f"{place}/.*.tmp")):
        if not path.is_file():
            continue
        where = path.relative_to(reader.run_dir).as_posix()
        try:
            age = time.time() - path.stat().st_mtime
        except FileNotFoundError:
            continue
        if age < STALE_SECONDS:
            cure = "nothing to do if a process is writing to this run now; else look again in a minute"
            yield Finding("temporary", "note", where, f"a temporary file, {age:.0f} s old", cure)
        else:
            cure = "a process that was killed left it; --repair moves it to masks/damaged"
            yield Finding("temporary", "warning", where, "a temporary file that nobody writes to", cure, True)
    for path in sorted(masks.glob("*.safetensors*")):
        if path.name not in recorded and not path.name.startswith(".") and not _is_ranked(path):
            found = "its name is not that of a snapshot, so that nobody reads it"
            cure = "give it its own name; --repair does, if it is a snapshot of this run and that name is free"
            yield Finding("misnamed", "warning", f"masks/{path.name}", found, cure, True)
    for name, kind, what in (
        ("abandoned", "abandoned", "put aside when the run went on from an earlier step"),
        ("damaged", "put_aside", "put aside by doctor --repair"),
    ):
        count = sum(1 for path in (masks / name).rglob("*") if path.is_file())
        if count:
            cure = "nothing to do; remove the directory when you do not need them"
            yield Finding(
                kind, "note", f"masks/{name}", f"{count} {'file was' if count == 1 else 'files were'} {what}", cure
            )


def _ranks(reader: RunReader) -> Iterator[Finding]:
    """Compare what the processes of a run recorded: where two hold the same layer whole, it must be the same mask."""
    seen: dict[tuple[int | None, str], tuple[str, str]] = {}
    for path in sorted((reader.run_dir / "masks").glob("step_*.rank*.safetensors")):
        if not _is_ranked(path):
            continue
        try:
            layers = read_header(path)["layers"]
        except DamagedStoreError:
            continue  # what cannot be read is no opinion; a reader of shards says so
        differing = []
        for entry in layers:
            if entry.get("part") is not None:
                continue
            file, digest = seen.setdefault((path_step(path), entry["name"]), (path.name, entry["xxh3"]))
            if digest != entry["xxh3"]:
                differing.append((entry["name"], file))
        if differing:
            found = f"the mask of {few([repr(layer) for layer, _ in differing])} differs from that in {differing[0][1]}"
            cure = "each process moves masks of its own: give them the same seed, or the masks of the first"
            yield Finding("ranks_differ", "warning", f"masks/{path.name}", found, cure)


def _lines(run_dir: Path) -> Iterator[Finding]:
    """Lines of metrics and of kept rows that are no JSON."""
    try:
        check_file(run_dir, run_dir / "metrics.jsonl")
    except DamagedStoreError as error:
        said = str(error).removeprefix(f"{run_dir / 'metrics.jsonl'}: ")
        yield Finding("damaged", "error", "metrics.jsonl", said, "put a file in its place")
        return
    bad, total = bad_lines(run_dir / "metrics.jsonl")
    if bad:
        found = f"{bad} of {total} lines cannot be read; readers leave them out"
        cure = "a crash cut them short; --repair moves them to metrics.damaged.jsonl"
        yield Finding("metrics_lines", "warning", "metrics.jsonl", found, cure, True)
    for path in sorted(run_dir.glob("analysis/*/*.jsonl")):
        bad, total = bad_lines(path)
        if bad:
            found = f"{bad} of {total} lines cannot be read"
            cure = "nothing to do: the next analyze computes them again"
            yield Finding("analysis_lines", "note", path.relative_to(run_dir).as_posix(), found, cure)


def bad_lines(path: Path) -> tuple[int, int]:
    """Count the lines of a file that are no JSON object, and all of them."""
    if not path.is_file():
        return 0, 0
    bad = total = 0
    with path.open("rb") as file:
        for line in file:
            total += bool(line.strip())
            bad += bool(line.strip()) and not is_row(line)
    return bad, total


def is_row(line: bytes) -> bool:
    """Whether a line is a JSON object."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
