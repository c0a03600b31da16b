"""Read run directories: find them, list their steps, load and verify their masks."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sift_graph.errors import DamagedStoreError, RunDirectoryError
from sift_graph.masks import LayerMask, Snapshot
from sift_graph.store.deltas import read_bits
from sift_graph.store.inside import check_file, check_folder
from sift_graph.store.parsing import MAX_BYTES, parse_json, read_rows
from sift_graph.store.shards import find_shards, merge_headers, shard_name, stitch
from sift_graph.store.snapshot import FORMAT, decode_layer, read_header

__all__ = ["HEADER", "RunReader", "find_runs", "is_run", "snapshot_name"]

HEADER = "sift.json"
_NAME = re.compile(r"step_(\d{9,18})\.safetensors")


def snapshot_name(step: int) -> str:
    """File name of the snapshot at `step`.

    Returns
    -------
    str
        With at least nine digits, so that names sort as steps do.

    Examples
    --------
    >>> snapshot_name(1200)
    'step_000001200.safetensors'
    """
    return f"step_{step:09d}.safetensors"


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a run directory, that is, holds a ``sift.json``."""
    return (Path(path) / HEADER).is_file()


def find_runs(path: str | os.PathLike[str]) -> list[Path]:
    """List the run directories at or below `path`, sorted by name.

    Parameters
    ----------
    path : path
        A run directory, or a directory that holds some, at most four levels down.

    Returns
    -------
    list of Path
        The directory itself if it is a run.

    Raises
    ------
    RunDirectoryError
        If there is no such directory, or no run in it.
    """
    root = Path(path)
    if not root.is_dir():
        what = "a file" if root.exists() else "nothing"
        raise RunDirectoryError(
            f"{root}: expected a run directory or a directory of runs, found {what}; "
            "make one with `sift-graph train --out DIR` or `sift-graph import FILE DIR`"
        )
    if is_run(root):
        return [root]
    found: list[Path] = []
    level = [root]
    for _ in range(4):
        below: list[Path] = []
        for directory in level:
            for child in _children(directory):
                if child.is_dir() and not child.is_symlink() and not child.name.startswith("."):
                    if is_run(child):
                        found.append(child)
                    else:
                        below.append(child)
        level = below
    if not found:
        raise RunDirectoryError(
            f"{root}: not a run directory (no {HEADER} in it or below it); "
            "record one with MaskRecorder, `sift-graph train` or `sift-graph import`"
        )
    return sorted(found)


def _children(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:  # not ours to read: then there is no run of ours in it
        return []


@dataclass(frozen=True)
class RunReader:
    """Read one run directory, layer by layer; nothing is loaded before it is asked for.

    Parameters
    ----------
    run_dir : path

    Raises
    ------
    RunDirectoryError
        If the directory is not a run.
    DamagedStoreError
        If ``sift.json`` cannot be read.
    """

    run_dir: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "run_dir", Path(self.run_dir))
        if not is_run(self.run_dir):
            raise RunDirectoryError(
                f"{self.run_dir}: not a run directory (no {HEADER}); "
                "record one with MaskRecorder, `sift-graph train` or `sift-graph import`"
            )
        if self.header.get("format") != FORMAT:
            raise DamagedStoreError(
                f"{self.run_dir / HEADER}: expected format {FORMAT!r}, found {str(self.header.get('format'))[:80]!r}; "
                "a newer sift-graph may read it"
            )

    @cached_property
    def header(self) -> dict[str, Any]:
        """The content of ``sift.json``."""
        path = self.run_dir / HEADER
        check_file(self.run_dir, path)
        if path.stat().st_size > MAX_BYTES:
            raise DamagedStoreError(
                f"{path}: is larger than {MAX_BYTES >> 20} MiB, so not one of ours; restore it from a copy"
            )
        try:
            content = parse_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise DamagedStoreError(f"{path}: cannot be read as JSON ({error}); restore it from a copy") from error
        if not isinstance(content, dict):
            raise DamagedStoreError(f"{path}: expected a JSON object, found {type(content).__name__}")
        if not isinstance(content.setdefault("run_id", ""), str):
            raise DamagedStoreError(f"{path}: expected a text as run_id; restore it from a copy")
        if not isinstance(content.get("about"), dict):
            content["about"] = {}
        return content

    @property
    def about(self) -> dict[str, Any]:
        """What the run is: family, method, sparsity, seed and the like."""
        return dict(self.header["about"])

    @cached_property
    def steps(self) -> list[int]:
        """Recorded steps, ascending, from the file names."""
        directory = self.run_dir / "masks"
        if not directory.is_dir():
            return []
        found = set(self.shards)
        names = (_NAME.fullmatch(path.name) for path in directory.iterdir())
        return sorted(found | {int(name.group(1)) for name in names if name})

    @cached_property
    def shards(self) -> dict[int, list[int]]:
        """Ranks that wrote a shard, by step; see :mod:`sift_graph.store.shards`."""
        check_folder(self.run_dir, self.run_dir / "masks")
        return find_shards(self.run_dir / "masks")

    def path(self, step: int) -> Path:
        """File of the snapshot at `step`; the first one, where processes wrote a shard each."""
        whole = self.run_dir / "masks" / snapshot_name(step)
        return whole.with_name(shard_name(step, self.shards[step][0])) if step in self.shards else whole

    def snapshot_header(self, step: int) -> dict[str, Any]:
        """Read the header of one snapshot; its tensors stay on disk.

        Parameters
        ----------
        step : int

        Returns
        -------
        dict

        Raises
        ------
        DamagedStoreError
            If the file is missing, truncated, altered, or belongs to another step or run; or if it is in shards, and
            one is.
        """
        ranks = self.shards.get(step)
        if ranks is None:
            return self._read_header(self.run_dir / "masks" / snapshot_name(step), step)
        headers = {rank: self._read_header(self.path(step).with_name(shard_name(step, rank)), step) for rank in ranks}
        return merge_headers(self.run_dir / "masks", step, headers)

    def _read_header(self, path: Path, step: int) -> dict[str, Any]:
        header = read_header(path)
        if header.get("step") != step:
            raise DamagedStoreError(f"{path}: its header is that of step {header.get('step')!r}; the file was renamed")
        if header.get("run_id") != self.header["run_id"]:
            raise DamagedStoreError(
                f"{path}: belongs to another run ({str(header.get('run_id'))[:40]!r}, expected "
                f"{str(self.header['run_id'])[:40]!r}); move it back to its own directory"
            )
        for entry in header["layers"]:
            if entry["ref"] is not None and entry["ref"] >= step:
                raise DamagedStoreError(
                    f"{path}: layer {entry['name']!r} refers to step {entry['ref']}, which is not an earlier one; "
                    "the file was altered"
                )
        return header

    def entries(self, step: int) -> list[dict[str, Any]]:
        """Layer entries of one snapshot's header, in network order."""
        return list(self.snapshot_header(step)["layers"])

    def load_layer(self, step: int, layer: str, *, weights: bool = True) -> LayerMask:
        """Load one layer of one snapshot, following a reference to an earlier one, and verify its hash.

        Parameters
        ----------
        step : int
        layer : str
        weights : bool
            Load its weights too, if any were recorded.

        Returns
        -------
        LayerMask

        Raises
        ------
        DamagedStoreError
            If the file is truncated, altered, or does not hold the layer.
        """
        for entry in self.entries(step):
            if entry["name"] == layer:
                return self.load_entry(step, entry, weights=weights)
        raise DamagedStoreError(f"{self.path(step)}: holds no layer {layer!r}")

    def load_entry(self, step: int, entry: Mapping[str, Any], *, weights: bool = True) -> LayerMask:
        """Load the layer of a header entry; as :meth:`load_layer`.

        Parameters
        ----------
        step : int
        entry : mapping
            One of :meth:`entries`.
        weights : bool

        Returns
        -------
        LayerMask

        Raises
        ------
        DamagedStoreError
            As :meth:`load_layer`.
        """
        if "shards" in entry:
            return stitch(self.run_dir / "masks", step, entry, weights=weights)
        where = step if entry.get("ref") is None else entry["ref"]
        bits = read_bits(self.path, where, entry["name"], (math.prod(entry["shape"]) + 7) // 8)
        return decode_layer(self.path(step), self.path(where), entry, weights=weights, bits=bits)

    def load_snapshot(self, step: int, *, weights: bool = True) -> Snapshot:
        """Load all layers of one snapshot; as :meth:`load_layer`."""
        header = self.snapshot_header(step)
        layers = {entry["name"]: self.load_entry(step, entry, weights=weights) for entry in header["layers"]}
        wall_time = math.nan if header["wall_time"] is None else float(header["wall_time"])
        return Snapshot(step, layers, header["epoch"], wall_time)

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Read the rows of ``metrics.jsonl``; a last line that a crash cut short is left out.

        Yields
        ------
        dict
        """
        path = self.run_dir / "metrics.jsonl"
        check_file(self.run_dir, path)
        for _, row in read_rows(path):
            if row is not None:
                yield row
