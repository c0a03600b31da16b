"""Runs whose masks move, reading them whole, and a file system that stops in the middle."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from sift_graph.masks import LayerMask, Snapshot
from sift_graph.store import RunReader, RunWriter, disk
from sift_graph.store.deltas import forget
from tests.runs import move
from tests.test_store import same_layer

SHAPES = {"conv": (16, 40, 3, 3), "fc": (60, 101)}
STEPS = tuple(range(0, 60, 10))


def write_moving_run(path: Path) -> Path:
    """Six snapshots whose masks move by a twentieth, one layer that never moves, and weights."""
    rng = np.random.default_rng(0)
    writer = RunWriter(path, about={"method": "rigl"})
    masks = {name: rng.random(shape) < 0.2 for name, shape in SHAPES.items()}
    fixed = rng.random((50, 50)) < 0.2
    for step in STEPS:
        layers = {n: LayerMask.from_dense(n, m, rng.standard_normal(m.shape).astype("f")) for n, m in masks.items()}
        layers["fixed"] = LayerMask.from_dense("fixed", fixed)
        writer.write_snapshot(Snapshot(step, layers, epoch=step / 10, wall_time=1e9 + step))
        masks = {name: move(mask, rng, 0.05) for name, mask in masks.items()}
    return path


def read(run_dir: Path) -> dict[int, Snapshot]:
    forget()
    reader = RunReader(run_dir)
    return {step: reader.load_snapshot(step) for step in reader.steps}


def assert_same(one: dict[int, Snapshot], other: dict[int, Snapshot]) -> None:
    assert list(one) == list(other)
    for step, snapshot in one.items():
        assert (snapshot.epoch, snapshot.wall_time) == (other[step].epoch, other[step].wall_time)
        assert list(snapshot.layers) == list(other[step].layers)
        for a, b in zip(snapshot, other[step], strict=True):
            assert same_layer(a, b)
            assert (a.values is None) == (b.values is None)


def codecs(run_dir: Path, layer: str) -> list[tuple[str, int | None]]:
    reader = RunReader(run_dir)
    entries = [next(e for e in reader.entries(step) if e["name"] == layer) for step in reader.steps]
    return [(e["codec"], e.get("base")) for e in entries]


class Killed(BaseException):
    """What a process that is killed does not see."""


def kill_after(monkeypatch: pytest.MonkeyPatch, count: int) -> list[str]:
    """Let the file system obey so many calls more, and then none: as if the process was killed there.

    The write that is the last one gets half of its bytes out. Returns the calls so far.
    """
    calls: list[str] = []
    real_open, real_fsync, real_replace, real_unlink = Path.open, os.fsync, Path.replace, Path.unlink
    real_rename = Path.rename

    def step(name: str) -> None:
        calls.append(name)
        if len(calls) > count:
            raise Killed("stopped")

    class File:
        def __init__(self, file) -> None:
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *why) -> None:
            self.file.close()

        def write(self, data: bytes) -> None:
            try:
                step("write")
            except Killed:
                self.file.write(data[: len(data) // 2])
                raise
            self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

    def opened(self: Path, mode: str = "r", *args, **kwargs):
        if mode not in ("wb", "xb"):
            return real_open(self, mode, *args, **kwargs)
        step("open")
        return File(real_open(self, mode, *args, **kwargs))

    monkeypatch.setattr(Path, "open", opened)
    monkeypatch.setattr(disk.os, "fsync", lambda handle: (step("sync"), real_fsync(handle))[1])
    monkeypatch.setattr(Path, "replace", lambda self, target: (step("rename"), real_replace(self, target))[1])
    monkeypatch.setattr(Path, "rename", lambda self, target: (step("rename"), real_rename(self, target))[1])
    monkeypatch.setattr(Path, "unlink", lambda self, **k: (step("remove"), real_unlink(self, **k))[1])
    return calls
