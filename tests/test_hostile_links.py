"""Links, pipes and directories in a run directory from a stranger: nothing outside of it is read or touched."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from sift_graph.doctor import examine
from sift_graph.errors import DamagedStoreError, RunDirectoryError
from sift_graph.mending import repair
from sift_graph.record import MaskRecorder
from sift_graph.store import RunReader, RunWriter
from sift_graph.store.packing import pack_run
from sift_graph.table import analyze_runs
from tests.hostile_runs import copy_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return copy_run(tmp_path / "run")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Files beside the run that no one may read or touch."""
    (tmp_path / "outside" / "masks").mkdir(parents=True)
    (tmp_path / "outside" / "secret.jsonl").write_text('{"step": 1, "password": 5}\n')
    return tmp_path / "outside"


def replace_by_link(path: Path, target: Path) -> None:
    path.rename(path.with_name("." + path.name))
    path.symlink_to(target)


@pytest.mark.parametrize("name", ["sift.json", "metrics.jsonl", "masks/step_000000010.safetensors", "masks"])
def test_a_link_out_of_the_run_directory_is_not_followed(run: Path, outside: Path, name):
    replace_by_link(run / name, outside / ("masks" if name == "masks" else "secret.jsonl"))

    def read() -> None:
        reader = RunReader(run)
        list(reader.metrics())
        reader.load_snapshot(reader.steps[1])

    with pytest.raises(DamagedStoreError, match=rf"{Path(name).name}: is a link out of the run directory .*cp -rL"):
        read()


@pytest.mark.parametrize("name", ["metrics.jsonl", "masks", "masks/abandoned"])
def test_nothing_is_written_through_a_link(run: Path, outside: Path, name):
    if (run / name).exists():
        replace_by_link(run / name, outside)
    else:
        (run / name).symlink_to(outside)
    before = {path: path.stat().st_mtime_ns for path in outside.rglob("*")}

    def write(metrics: bool) -> None:
        writer = RunWriter(run, resume=True)
        if metrics:
            writer.append_metrics({"step": 30})
        writer.rewind(0)

    for metrics in (False, True):
        with pytest.raises(DamagedStoreError, match="is a link out of the run directory"):
            write(metrics)
    assert before == {path: path.stat().st_mtime_ns for path in outside.rglob("*")}


@pytest.mark.parametrize("name", ["analysis", "analysis/*", "analysis/*/rows.jsonl", "analysis/*/network.jsonl"])
def test_an_analysis_is_not_written_through_a_link(run: Path, outside: Path, name):
    (path,) = run.glob(name)
    replace_by_link(path, outside if path.is_dir() else outside / "secret.jsonl")
    with pytest.raises(DamagedStoreError, match="is a link out of the run directory"):
        analyze_runs(run, metrics=["core", "effective_sparsity"])
    assert [path.name for path in sorted(outside.rglob("*"))] == ["masks", "secret.jsonl"]
    assert (outside / "secret.jsonl").read_text() == '{"step": 1, "password": 5}\n'


def test_a_run_is_not_mended_or_packed_through_a_link(run: Path, outside: Path):
    path = RunReader(run).path(10)
    path.write_bytes(path.read_bytes()[:-1])
    (run / "masks" / "damaged").symlink_to(outside)
    with pytest.raises(DamagedStoreError, match=r"masks/damaged: is a link out of the run directory"):
        repair(run)
    assert path.exists()
    replace_by_link(run / "metrics.jsonl", outside / "secret.jsonl")
    (finding,) = (found for found in examine(run) if found.where == "metrics.jsonl")
    assert "is a link out of the run directory" in finding.found
    assert not finding.repairable
    (outside / ".step_000000010.safetensors.99999999.rewrite.tmp").touch()
    replace_by_link(run / "masks", outside)
    with pytest.raises(DamagedStoreError, match="masks: is a link out of the run directory"):
        pack_run(run)
    assert len(list(outside.iterdir())) == 3


def test_links_within_the_run_and_to_the_run_are_followed(run: Path):
    replace_by_link(run / "metrics.jsonl", run / ".metrics.jsonl")
    run.with_name("link").symlink_to(run)
    assert len(list(RunReader(run.with_name("link")).metrics())) == 3
    assert RunReader(run.with_name("link")).load_snapshot(10).step == 10


def test_a_pipe_a_loop_or_a_directory_does_not_stop_a_reader(run: Path):
    path = RunReader(run).path(10)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DamagedStoreError, match=r"step_000000010\.safetensors: expected a file, found a pipe"):
        RunReader(run).load_snapshot(10)
    path.unlink()
    path.mkdir()
    with pytest.raises(DamagedStoreError, match="expected a file, found a directory"):
        RunReader(run).load_snapshot(10)
    path.rmdir()
    path.symlink_to(path)
    with pytest.raises(DamagedStoreError, match="cannot be looked at"):
        RunReader(run).load_snapshot(10)


def test_a_lock_is_not_taken_through_a_link(run: Path, outside: Path):
    (run / ".lock").symlink_to(outside / "secret.jsonl")
    with pytest.raises(DamagedStoreError, match=r"\.lock: is a link out of the run directory"):
        MaskRecorder(run, resume=True)
    with pytest.raises(DamagedStoreError, match=r"\.lock: is a link out of the run directory"):
        pack_run(run)
    assert "password" in (outside / "secret.jsonl").read_text()
    (run / ".lock").unlink()
    (run / ".lock").write_text("[" * 4000)  # what it says is only for a message
    with MaskRecorder(run, resume=True), pytest.raises(RunDirectoryError, match="another recorder of this process"):
        MaskRecorder(run, resume=True)
    holder = {"pid": 10**30, "host": socket.gethostname()}
    with MaskRecorder(run, resume=True):
        (run / ".lock").write_text(json.dumps(holder))
        with pytest.raises(RunDirectoryError, match="another process has been writing to it"):
            MaskRecorder(run, resume=True)


def test_a_link_in_the_place_of_a_temporary_is_not_written_through(run: Path, outside: Path):
    writer = RunWriter(run, resume=True)
    (run / f".sift.json.{os.getpid()}.tmp").symlink_to(outside / "secret.jsonl")
    writer.write_layers([{"name": "fc1", "shape": [8, 6]}])
    assert "password" in (outside / "secret.jsonl").read_text()
    assert not list(run.glob(".*.tmp"))
