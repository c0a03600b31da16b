"""Mend a run directory, as far as what is there allows; nothing is deleted, what cannot be used is put aside."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sift_graph.doctor import examine
from sift_graph.errors import DamagedStoreError, RunDirectoryError
from sift_graph.store import FORMAT, RunReader, check_folder, snapshot_name, write_atomically
from sift_graph.store.condition import Finding, few, is_row, path_step
from sift_graph.store.disk import sync_directory
from sift_graph.store.lock import against_recorders
from sift_graph.store.reader import HEADER
from sift_graph.store.rewriting import compress_whole, is_one_file, open_contents, replace
from sift_graph.store.snapshot import read_header

__all__ = ["repair"]

ROUNDS = 4  # what is mended may let more be seen: a header, then the snapshots


def repair(run_dir: str | os.PathLike[str]) -> list[str]:
    """Mend what can be mended in a run directory. Not for a run that is being recorded.

    Parameters
    ----------
    run_dir : path

    Returns
    -------
    list of str
        What was done, in order; empty if there was nothing to mend.

    Raises
    ------
    RunDirectoryError
        If the directory neither is a run nor holds snapshots of one, is being recorded, or cannot be written to.
    """
    path = Path(run_dir)
    with against_recorders(path):
        return _repair(path)


def _repair(path: Path) -> list[str]:
    """Mend in rounds."""
    done: list[str] = []
    for _ in range(ROUNDS):
        deeds: list[str] = []
        try:
            for finding in reversed(examine(path)):  # the newest first, so that no damaged snapshot is to be freed
                if finding.repairable:
                    deeds += _REPAIRS[finding.kind](path, finding)
        except OSError as error:
            raise RunDirectoryError(
                f"{error.filename or path}: the repair stopped here ({error.strerror or error}); what it did so far is "
                f"sound: {few(done + deeds) or 'nothing yet'}. Mend this, then give the same command again"
            ) from error
        done += deeds
        if not deeds:
            break
    return done


def _aside(run_dir: Path, file: Path) -> Path:
    """Move a file to masks/damaged, beside what has that name there already."""
    directory = run_dir / "masks" / "damaged"
    check_folder(run_dir, directory)
    directory.mkdir(exist_ok=True, parents=True)
    name = file.name.lstrip(".")
    target = directory / name
    number = 1
    while target.exists():
        target = directory / f"{name}.{number}"
        number += 1
    file.rename(target)
    sync_directory(directory)
    sync_directory(file.parent)
    return target


def _put_aside(run_dir: Path, finding: Finding) -> list[str]:
    if not (run_dir / finding.where).exists():
        return []  # a temporary that another repair used up
    target = _aside(run_dir, run_dir / finding.where)
    return [f"{finding.where}: moved to {target.relative_to(run_dir).as_posix()}"]


def _give_its_name(run_dir: Path, finding: Finding) -> list[str]:
    """Rename a snapshot to what its header says, if that name is free; else put it aside."""
    file = run_dir / finding.where
    try:
        header = read_header(file)
        step = header.get("step")
        own = header.get("run_id") == RunReader(run_dir).header["run_id"] and isinstance(step, int) and step >= 0
        target = run_dir / "masks" / snapshot_name(step) if own and isinstance(step, int) else None
    except DamagedStoreError:
        target = None
    if target is None or target.exists():
        return _put_aside(run_dir, finding)
    file.rename(target)
    sync_directory(file.parent)
    return [f"{finding.where}: renamed to masks/{target.name}"]


def _put_damaged_aside(run_dir: Path, finding: Finding) -> list[str]:
    """Put a damaged snapshot aside, after what later ones need of it was written into them."""
    file = run_dir / finding.where
    reader = RunReader(run_dir)
    step = path_step(file)
    deeds: list[str] = []
    lost: dict[int, list[str]] = {}
    if step is not None:
        homes: dict[str, tuple[int, str]] = {}
        for later in [s for s in reader.steps if s > step]:
            kept, gone = _move_in(reader, later, step, homes)
            if kept:
                deeds.append(f"masks/{snapshot_name(later)}: holds or finds {few(kept)} without step {step} now")
            if gone:
                lost[later] = gone
    target = _aside(run_dir, file)
    deeds.append(f"{finding.where}: moved to {target.relative_to(run_dir).as_posix()}")
    if lost:
        names = list(dict.fromkeys(name for gone in lost.values() for name in gone))
        steps = few([str(s) for s in lost])
        deeds.append(f"the masks of {few(names)} at steps {steps} were in it, and are lost unless it is restored")
    return deeds


def _move_in(
    reader: RunReader, later: int, damaged: int, homes: dict[str, tuple[int, str]]
) -> tuple[list[str], list[str]]:
    """Free a snapshot of a damaged one: write what it needs of it into it, or refer to a step where that was done.

    Returns
    -------
    list of str, list of str
        Layers that need it no more, and layers whose masks cannot be read from it.
    """
    kept: list[str] = []
    gone: list[str] = []
    if not is_one_file(reader, later):
        return kept, gone  # what several processes write refers only to files of their own
    try:
        contents = open_contents(reader, later)
    except DamagedStoreError:
        return kept, gone  # damaged itself, and put aside in its turn
    for entry in contents.header["layers"]:
        if damaged not in (entry.get("ref"), entry.get("base")):
            continue
        name = entry["name"]
        try:
            bits = reader.load_entry(later, entry, weights=False).bits
        except DamagedStoreError:
            gone.append(repr(name))
            continue
        home = homes.get(name)
        if home is not None and home[1] == entry["xxh3"]:
            contents.refer(entry, home[0])
        else:
            contents.store_whole(entry, compress_whole(bits))
            homes[name] = (later, entry["xxh3"])
        kept.append(repr(name))
    if kept:
        replace(reader, contents)
    return kept, gone


def _cut_lines(run_dir: Path, finding: Finding) -> list[str]:
    """Move lines that are no rows to a file beside; the file of rows is replaced last."""
    path = run_dir / finding.where
    beside = path.with_name(f"{path.stem}.damaged{path.suffix}")
    lines = path.read_bytes().splitlines(keepends=True)
    bad = [line for line in lines if line.strip() and not is_row(line)]
    before = beside.read_bytes() if beside.exists() else b""
    write_atomically(beside, before + b"".join(line.rstrip(b"\r\n") + b"\n" for line in bad))
    write_atomically(path, b"".join(line for line in lines if is_row(line)))
    return [f"{finding.where}: {len(bad)} lines moved to {beside.name}"]


def _make_header(run_dir: Path, finding: Finding) -> list[str]:
    """Make a sift.json of the newest snapshot that can be read."""
    for file in sorted((run_dir / "masks").glob("step_*.safetensors"), reverse=True):
        try:
            newest: Mapping[str, Any] = read_header(file)
        except DamagedStoreError:
            continue
        break
    else:
        raise RunDirectoryError(
            f"{run_dir}: no snapshot in masks/ can be read, so that sift.json cannot be made anew; restore either "
            "from a copy"
        )
    deeds = []
    path = run_dir / HEADER
    if path.exists():
        target = _aside(run_dir, path)
        deeds.append(f"{HEADER}: moved to {target.relative_to(run_dir).as_posix()}")
    content = {
        "format": FORMAT,
        "run_id": newest.get("run_id", ""),
        "about": {},
        "layers": [{"name": entry["name"], "shape": entry["shape"]} for entry in newest["layers"]],
        "rebuilt_from": f"masks/{file.name}",
    }
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
    return [*deeds, f"{HEADER}: made anew of masks/{file.name}; what the run was (`about`) is not known any more"]


_REPAIRS: dict[str, Callable[[Path, Finding], list[str]]] = {
    "no_header": _make_header,
    "bad_header": _make_header,
    "damaged": _put_damaged_aside,
    "foreign": _put_aside,
    "renamed": _give_its_name,
    "misnamed": _give_its_name,
    "temporary": _put_aside,
    "metrics_lines": _cut_lines,
}
