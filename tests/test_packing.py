"""Packed runs: smaller, the same to every reader, and whole wherever packing stops."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

import sift_graph
from sift_graph.errors import DamagedStoreError, RunDirectoryError, UsageError
from sift_graph.masks import LayerMask, Snapshot
from sift_graph.store import RunReader, RunWriter, disk, packing
from sift_graph.store import rewriting as rewriting_module
from sift_graph.store.deltas import forget
from sift_graph.store.packing import pack_run, unpack_run
from tests.moving_runs import SHAPES, STEPS, Killed, assert_same, codecs, kill_after, read, write_moving_run
from tests.runs import move, write_run
from tests.strategies import networks
from tests.test_store import same_layer


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_moving_run(tmp_path / "run")


def test_a_packed_run_is_smaller_and_reads_the_same(run):
    before = read(run)
    result = pack_run(run)
    assert result.snapshots == 6
    assert result.rewritten == STEPS[1:]
    assert result.bytes_after < result.bytes_before - 2000
    assert result.bytes_after == sum(path.stat().st_size for path in (run / "masks").iterdir())
    assert codecs(run, "fc") == [("zstd", None), *(("gaps", step) for step in STEPS[:-1])]
    assert_same(read(run), before)


def test_a_sparse_mask_is_told_from_nothing_where_that_is_smaller(tmp_path):
    path = write_run(tmp_path / "run", shapes={"fc": (200, 300)}, density=0.05, steps=(0, 10))
    before = read(path)
    pack_run(path)
    assert codecs(path, "fc") == [("gaps", None), ("gaps", 0)]
    assert_same(read(path), before)
    assert pack_run(path).rewritten == ()


def test_unpacking_gives_the_same_headers_and_tensors(run, tmp_path):
    shutil.copytree(run, tmp_path / "original")
    pack_run(run)
    assert unpack_run(run).rewritten == STEPS[1:]
    for step in STEPS:
        parts = []
        for where in (run, tmp_path / "original"):
            with safe_open(RunReader(where).path(step), framework="np") as file:
                tensors = {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118
                parts.append((file.metadata(), tensors))
        assert parts[0] == parts[1]


def test_packing_again_changes_nothing(run):
    pack_run(run)
    files = {path: path.read_bytes() for path in (run / "masks").iterdir()}
    assert pack_run(run).rewritten == ()
    assert {path: path.read_bytes() for path in (run / "masks").iterdir()} == files
    unpack_run(run)
    assert unpack_run(run).rewritten == ()


def test_what_is_recorded_after_packing_is_packed_with_the_rest(run):
    pack_run(run)
    newest = RunReader(run).load_snapshot(50)
    rng = np.random.default_rng(1)
    layers = dict(newest.layers)
    layers["fc"] = LayerMask.from_dense("fc", move(layers["fc"].mask, rng, 0.05))
    RunWriter(run, resume=True).write_snapshot(Snapshot(60, layers))
    entries = {e["name"]: e["ref"] for e in RunReader(run).entries(60)}
    assert entries == {"conv": 50, "fc": None, "fixed": 0}  # packed masks are referred to as others are
    before = read(run)
    assert pack_run(run).rewritten == (60,)
    assert codecs(run, "fc")[-1] == ("gaps", 50)
    assert_same(read(run), before)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_no_mask_is_more_changes_away_than_was_asked_for(run, every):
    before = read(run)
    pack_run(run, keyframe_every=4)
    pack_run(run, keyframe_every=every)  # a packed run may be packed otherwise
    depth: dict[int | None, int] = {}
    for step, (codec, base) in zip(STEPS, codecs(run, "fc"), strict=True):
        depth[step] = depth[base] + 1 if codec == "gaps" and base is not None else 1
    assert max(depth.values()) == every
    assert_same(read(run), before)
    with pytest.raises(UsageError, match="keyframe_every: expected 1 or more masks, found 0"):
        pack_run(run, keyframe_every=0)


def test_analysis_of_a_packed_run_is_the_same(tmp_path):
    path = write_run(tmp_path / "run", shapes=SHAPES, steps=(0, 10, 20), density=0.2)
    frame = sift_graph.open(path).analyze(force=True)
    pack_run(path)
    assert ("gaps", 10) in codecs(path, "fc")
    again = sift_graph.open(path).analyze(force=True)
    assert again.equals(frame)
    assert len(again) == 6


def test_a_mask_whose_file_was_packed_in_the_meantime_is_still_read(run):
    reader = RunReader(run)
    entries = {step: reader.entries(step) for step in STEPS}
    before = read(run)
    pack_run(run)
    for step in STEPS:
        for entry in entries[step]:
            assert same_layer(reader.load_entry(step, entry), before[step].layers[entry["name"]])


def test_the_reader_of_the_docs_reads_a_packed_run(run, request):
    page = (request.config.rootpath / "docs/file-format.md").read_text()
    _, code = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    namespace: dict[str, object] = {}
    exec(code, namespace)
    before = read(run)
    pack_run(run)
    for step in STEPS:
        for layer in before[step]:
            assert np.array_equal(namespace["read_mask"](run, step, layer.layer), layer.mask)


@pytest.mark.parametrize("act", [pack_run, unpack_run])
def test_a_run_is_whole_wherever_packing_stops_and_the_same_call_finishes(run, tmp_path, monkeypatch, act):
    before = read(run)
    if act is unpack_run:
        pack_run(run)
    shutil.copytree(run, tmp_path / "whole")
    with monkeypatch.context() as patch:
        calls = kill_after(patch, 10**6)
        act(tmp_path / "whole")
        assert {"open", "write", "sync", "rename"} <= set(calls)
    goal = {path.name: path.stat().st_size for path in (tmp_path / "whole/masks").iterdir()}
    for count in range(len(calls)):
        stopped = tmp_path / f"stopped{count}"
        shutil.copytree(run, stopped)
        with monkeypatch.context() as patch:
            kill_after(patch, count)
            with pytest.raises(Killed, match="stopped"):
                act(stopped)
        assert_same(read(stopped), before)
        act(stopped)
        assert_same(read(stopped), before)
        assert {path.name: path.stat().st_size for path in (stopped / "masks").iterdir()} == goal
        shutil.rmtree(stopped)


def test_what_another_process_is_writing_is_left_alone(run):
    theirs = run / "masks" / f".step_000000000.safetensors.{os.getppid()}.rewrite.tmp"
    recorded = run / "masks" / ".step_000000060.safetensors.1.tmp"
    ours = run / "masks" / f".step_000000000.safetensors.{2**22 + 1}.rewrite.tmp"  # above every process number
    for path in (theirs, recorded, ours):
        path.write_bytes(b"half")
    pack_run(run)
    assert [theirs.exists(), recorded.exists(), ours.exists()] == [True, True, False]


def test_a_full_disk_is_one_error_and_nothing_is_lost(run, monkeypatch):
    before = read(run)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk.os, "fsync", full)
    with pytest.raises(
        RunDirectoryError,
        match=r"step_000000010\.safetensors: could not be written anew \(No space left on device\), and is as it was",
    ):
        pack_run(run)
    monkeypatch.undo()
    assert_same(read(run), before)
    assert len(list((run / "masks").iterdir())) == 6


def test_a_file_that_does_not_read_back_never_takes_the_place_of_the_original(run, monkeypatch):
    files = {path: path.read_bytes() for path in (run / "masks").iterdir()}
    real = disk.write_atomically

    def rotten(path: Path, data: bytes, **options) -> None:
        real(path, data[:-3] + b"rot", **options)

    monkeypatch.setattr(rewriting_module, "write_atomically", rotten)
    with pytest.raises(DamagedStoreError, match="read back as it was written"):
        pack_run(run)
    assert {path: path.read_bytes() for path in (run / "masks").iterdir()} == files


def test_a_snapshot_that_was_moved_meanwhile_does_not_come_back(run, monkeypatch):
    real = rewriting_module._verify

    def moved(reader, contents, written) -> None:
        contents.path.rename(run / "gone")
        real(reader, contents, written)

    monkeypatch.setattr(rewriting_module, "_verify", moved)
    with pytest.raises(RunDirectoryError, match="could not be written anew"):
        pack_run(run)
    assert RunReader(run).steps == [0, 20, 30, 40, 50]


def test_a_damaged_snapshot_is_left_alone_and_nothing_leans_on_it(run):
    path = RunReader(run).path(20)
    path.write_bytes(path.read_bytes()[:-7])
    damaged = path.read_bytes()
    result = pack_run(run)
    assert [f"{path}: truncated" in said for said in result.skipped] == [True]
    assert path.read_bytes() == damaged
    assert [base for _, base in codecs_of(run, (0, 10, 30, 40))] == [None, 0, 10, 30]
    forget()
    RunReader(run).load_snapshot(50)


def codecs_of(run_dir: Path, steps: tuple[int, ...]) -> list[tuple[str, int | None]]:
    reader = RunReader(run_dir)
    entries = [next(e for e in reader.entries(step) if e["name"] == "fc") for step in steps]
    return [(e["codec"], e.get("base")) for e in entries]


def test_a_snapshot_that_several_processes_wrote_is_left_as_it_is(run, monkeypatch):
    shard = run / "masks" / "step_000000020.rank00000.safetensors"
    RunReader(run).path(20).rename(shard)
    data = shard.read_bytes()
    real = RunReader.path
    monkeypatch.setattr(RunReader, "steps", list(STEPS))
    monkeypatch.setattr(RunReader, "path", lambda self, step: shard if step == 20 else real(self, step))
    assert pack_run(run).rewritten == (10, 30, 40, 50)
    assert shard.read_bytes() == data
    assert [base for _, base in codecs_of(run, (10, 30, 40))] == [0, 10, 30]


@given(steps=st.lists(networks(), min_size=1, max_size=3))
@settings(deadline=None, max_examples=25)
def test_any_layers_are_packed_and_unpacked(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("any") / "run"
    writer = RunWriter(path)
    for step, layers in enumerate(steps):
        writer.write_snapshot(Snapshot(step, layers, epoch=step / 3))
    before = read(path)
    with mock.patch.object(packing, "OVERHEAD", -(10**6)):  # else masks as small as these stay whole
        pack_run(path)
    assert_same(read(path), before)
    unpack_run(path)
    assert_same(read(path), before)


def test_a_packed_run_goes_on_from_an_earlier_step(run):
    before = read(run)
    pack_run(run)
    writer = RunWriter(run, resume=True)
    writer.rewind(20)
    layers = dict(before[30].layers)
    layers["conv"] = before[20].layers["conv"]
    writer.write_snapshot(Snapshot(25, layers))
    assert {e["name"]: e["ref"] for e in RunReader(run).entries(25)} == {"conv": 20, "fc": None, "fixed": 0}
    pack_run(run)
    after = read(run)
    assert list(after) == [0, 10, 20, 25]
    assert same_layer(after[25].layers["fc"], before[30].layers["fc"])
