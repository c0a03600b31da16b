"""A run that is well, ways to damage it, and what the doctor says of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from sift_graph.doctor import Finding, examine
from sift_graph.masks import LayerMask, Snapshot
from sift_graph.store import RunReader, RunWriter, snapshot_name
from tests.runs import move


def write_well_run(path: Path) -> Path:
    """A run without a fault: ``moving`` moves at each of six snapshots, ``fixed`` never."""
    rng = np.random.default_rng(0)
    writer = RunWriter(path, about={"sparsity": 0.8})
    moving, fixed = (rng.random((60, 101)) < 0.2 for _ in range(2))
    for step in range(0, 60, 10):
        layers = {
            "moving": LayerMask.from_dense("moving", moving, rng.standard_normal((60, 101))),
            "fixed": LayerMask.from_dense("fixed", fixed),
        }
        writer.write_snapshot(Snapshot(step, layers))
        writer.append_metrics({"step": step, "loss": 1.0})
        moving = move(moving, rng, 0.05)
    return path


def kinds(run_dir: Path) -> list[tuple[str, str, str]]:
    return [(finding.kind, finding.severity, finding.where) for finding in examine(run_dir)]


def found(run_dir: Path, kind: str) -> Finding:
    (finding,) = [finding for finding in examine(run_dir) if finding.kind == kind]
    return finding


def cut(run_dir: Path, step: int) -> Path:
    path = run_dir / "masks" / snapshot_name(step)
    path.write_bytes(path.read_bytes()[:-5])
    return path


def flip(run_dir: Path, step: int, tensor: str) -> None:
    """Alter a byte in the middle of a tensor."""
    path = run_dir / "masks" / snapshot_name(step)
    data = bytearray(path.read_bytes())
    start = int.from_bytes(data[:8], "little") + 8
    first, last = json.loads(data[8:start])[tensor]["data_offsets"]
    data[start + (first + last) // 2] ^= 0x10
    path.write_bytes(bytes(data))


def masks(run_dir: Path) -> dict[tuple[int, str], LayerMask]:
    reader = RunReader(run_dir)
    return {(step, layer.layer): layer for step in reader.steps for layer in reader.load_snapshot(step)}
