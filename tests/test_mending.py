"""What is damaged is found under its name, what can be mended is, and nothing is lost on the way."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from sift_graph.doctor import examine
from sift_graph.errors import RunDirectoryError
from sift_graph.mending import repair
from sift_graph.store import RunReader, RunWriter, snapshot_name
from sift_graph.store.packing import pack_run
from tests.damage import cut, flip, found, kinds, masks, write_well_run
from tests.moving_runs import Killed, kill_after
from tests.runs import write_run
from tests.test_store import rewrite, same_layer


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_well_run(tmp_path / "run")


@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_snapshot_is_put_aside_and_what_others_need_is_kept(run, packed):
    if packed:
        pack_run(run)
    before = masks(run)
    flip(run, 0, "weight/moving")  # its masks are whole, and later ones lean on both
    assert kinds(run)[0] == ("damaged", "error", "masks/step_000000000.safetensors")
    deeds = repair(run)
    assert "masks/step_000000000.safetensors: moved to masks/damaged/step_000000000.safetensors" in deeds
    assert any(deed.startswith("masks/step_000000010.safetensors: holds or finds") for deed in deeds)
    assert kinds(run) == [("put_aside", "note", "masks/damaged")]
    after = masks(run)
    assert list(after) == [key for key in before if key[0] > 0]
    assert all(same_layer(after[key], before[key]) for key in after)
    assert [e["ref"] for step in RunReader(run).steps for e in RunReader(run).entries(step)[1:]] == [None, *[10] * 4]


def test_what_only_a_damaged_file_held_is_named_as_lost(run):
    before = masks(run)
    cut(run, 0)
    listed = kinds(run)
    assert listed[0] == ("damaged", "error", "masks/step_000000000.safetensors")
    assert [where for kind, _, where in listed if kind == "broken_reference"] == [
        f"masks/{snapshot_name(step)}" for step in range(10, 60, 10)
    ]
    assert found(run, "damaged").found.startswith("truncated or not a snapshot")
    *_, last = repair(run)
    assert last == "the masks of 'fixed' at steps 10, 20, 30 and 2 more were in it, and are lost unless it is restored"
    left = [finding for finding in examine(run) if finding.severity == "error"]
    assert {finding.kind for finding in left} == {"broken_reference"}
    assert "the mask of 'fixed' is that of step 0, or a change of it, which is missing" in left[0].found
    reader = RunReader(run)
    assert all(same_layer(reader.load_layer(s, "moving"), before[s, "moving"]) for s in reader.steps)
    shutil.move(run / "masks/damaged" / snapshot_name(0), run / "masks")
    assert found(run, "damaged").where == f"masks/{snapshot_name(0)}"


def test_two_damaged_snapshots_are_mended_together(run):
    before = masks(run)
    flip(run, 0, "weight/moving")
    flip(run, 20, "mask/moving")
    repair(run)
    assert not any(finding.severity == "error" for finding in examine(run))
    after = masks(run)
    assert {step for step, _ in after} == {10, 30, 40, 50}
    assert all(same_layer(after[key], before[key]) for key in after)


def test_a_change_of_a_damaged_mask_is_a_broken_reference_and_the_rest_is_kept(run):
    pack_run(run)
    before = masks(run)
    flip(run, 20, "grow/moving")
    broken = [finding for finding in examine(run) if finding.kind == "broken_reference"]
    assert [finding.where for finding in broken] == [f"masks/{snapshot_name(step)}" for step in (30, 40, 50)]
    assert "the mask of 'moving' is that of step 20" in broken[0].found
    repair(run)
    reader = RunReader(run)
    assert reader.steps == [0, 10, 30, 40, 50]
    assert all(same_layer(reader.load_layer(s, "fixed"), before[s, "fixed"]) for s in reader.steps)
    assert {finding.kind for finding in examine(run) if finding.severity == "error"} == {"broken_reference"}


def test_a_renamed_snapshot_gets_its_name_back(run):
    before = masks(run)
    (run / "masks" / snapshot_name(30)).rename(run / "masks" / snapshot_name(35))
    (run / "masks" / snapshot_name(50)).rename(run / "masks/step_50 (copy).safetensors")
    shutil.copy(run / "masks" / snapshot_name(10), run / "masks" / snapshot_name(60))
    assert set(kinds(run)) >= {
        ("renamed", "error", "masks/step_000000035.safetensors"),
        ("renamed", "error", "masks/step_000000060.safetensors"),
        ("misnamed", "warning", "masks/step_50 (copy).safetensors"),
    }
    assert set(repair(run)) == {
        "masks/step_000000035.safetensors: renamed to masks/step_000000030.safetensors",
        "masks/step_000000060.safetensors: moved to masks/damaged/step_000000060.safetensors",
        "masks/step_50 (copy).safetensors: renamed to masks/step_000000050.safetensors",
    }
    assert all(same_layer(layer, before[key]) for key, layer in masks(run).items())
    assert len(masks(run)) == len(before)


def test_a_snapshot_of_another_run_is_put_aside(run, tmp_path):
    other = write_run(tmp_path / "other", steps=(60,))
    shutil.copy(RunReader(other).path(60), run / "masks")
    assert ("foreign", "error", f"masks/{snapshot_name(60)}") in kinds(run)
    assert repair(run) == [f"masks/{snapshot_name(60)}: moved to masks/damaged/{snapshot_name(60)}"]
    assert RunReader(run).steps[-1] == 50


def test_a_header_of_another_run_does_not_cost_the_snapshots(run, tmp_path):
    before = masks(run)
    shutil.copy(write_run(tmp_path / "other") / "sift.json", run)
    assert {(finding.kind, finding.repairable) for finding in examine(run)} == {("foreign", False)}
    assert repair(run) == []
    (run / "sift.json").unlink()  # as the cure says
    repair(run)
    assert all(same_layer(layer, before[key]) for key, layer in masks(run).items())


def test_a_missing_file_is_named_by_those_that_need_it(run):
    RunReader(run).path(0).unlink()
    broken = [finding for finding in examine(run) if finding.kind == "broken_reference"]
    assert len(broken) == 5
    assert broken[0].cure.startswith("restore masks/step_000000000.safetensors from a copy")
    assert repair(run) == []


def test_a_mask_that_is_not_the_one_referred_to_is_found(run):
    def lie(entry, tensors, header):
        entry.update(ref=10, xxh3="0" * 32)
        tensors.pop("mask/moving")

    rewrite(RunReader(run).path(20), lie)
    assert "is that of step 10, or a change of it, which does not hold it" in found(run, "broken_reference").found


@pytest.mark.parametrize("content", [None, b"{", b'{"format": "other"}'])
def test_a_header_is_made_anew_of_the_newest_snapshot(run, content):
    before = masks(run)
    run_id = RunReader(run).header["run_id"]
    (run / "sift.json").unlink()
    if content is not None:
        (run / "sift.json").write_bytes(content)
    assert [kind for kind, *_ in kinds(run)] == ["no_header" if content is None else "bad_header"]
    cut(run, 50)  # the newest cannot be read
    deeds = repair(run)
    assert any("sift.json: made anew of masks/step_000000040.safetensors" in deed for deed in deeds)
    assert f"masks/{snapshot_name(50)}: moved to masks/damaged/{snapshot_name(50)}" in deeds  # seen with a header
    assert RunReader(run).header["run_id"] == run_id
    assert [layer["name"] for layer in RunReader(run).header["layers"]] == ["moving", "fixed"]
    assert all(same_layer(layer, before[key]) for key, layer in masks(run).items())
    if content is not None:
        assert (run / "masks/damaged/sift.json").read_bytes() == content


def test_a_header_cannot_be_made_of_nothing(run):
    (run / "sift.json").unlink()
    for step in range(0, 60, 10):
        cut(run, step)
    with pytest.raises(RunDirectoryError, match=r"no snapshot in masks/ can be read, so that sift.json cannot be made"):
        repair(run)


def test_temporaries_are_left_alone_while_they_are_young(run):
    (run / "analysis/abc").mkdir(parents=True)
    left = [
        run / "masks/.step_000000060.safetensors.1.tmp",
        run / ".sift.json.1.tmp",
        run / "analysis/abc/.a.csv.1.tmp",
    ]
    for path in left:
        path.write_bytes(b"half")
    assert [severity for kind, severity, _ in kinds(run) if kind == "temporary"] == ["note"] * 3
    assert repair(run) == []
    for path in left:
        os.utime(path, (time.time() - 3600,) * 2)
    assert [severity for kind, severity, _ in kinds(run) if kind == "temporary"] == ["warning"] * 3
    repair(run)
    names = {path.name: path.read_bytes() for path in (run / "masks/damaged").iterdir()}
    assert names == {"step_000000060.safetensors.1.tmp": b"half", "sift.json.1.tmp": b"half", "a.csv.1.tmp": b"half"}


def test_half_lines_move_to_a_file_beside(run):
    metrics = run / "metrics.jsonl"
    lines = metrics.read_bytes().splitlines(keepends=True)
    half = [b'{"step": 1, "lo\n', b"[1]\n", b'{"step": 2, "lo']
    metrics.write_bytes(b"".join([lines[0], *half[:2], *lines[1:], half[2]]))
    finding = found(run, "metrics_lines")
    assert (finding.severity, finding.found) == ("warning", "3 of 9 lines cannot be read; readers leave them out")
    assert repair(run) == ["metrics.jsonl: 3 lines moved to metrics.damaged.jsonl"]
    assert metrics.read_bytes() == b"".join(lines)
    metrics.write_bytes(b"".join(lines) + b"{")
    repair(run)
    assert (run / "metrics.damaged.jsonl").read_bytes() == b"".join(half) + b"\n{\n"
    assert examine(run) == []


def test_kept_results_that_cannot_be_read_are_a_note(run):
    (run / "analysis/abc").mkdir(parents=True)
    (run / "analysis/abc/rows.jsonl").write_text('{"step": 0}\n{"st')
    assert kinds(run) == [("analysis_lines", "note", "analysis/abc/rows.jsonl")]


def test_an_abandoned_tail_is_a_note(run):
    RunWriter(run, resume=True).rewind(30)
    assert kinds(run) == [("abandoned", "note", "masks/abandoned")]


def test_a_repair_that_cannot_write_says_what_is_sound(run, monkeypatch):
    cut(run, 50)

    def refuse(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(
        RunDirectoryError,
        match=r"the repair stopped here \(Read-only file system\); what it did so far is sound: nothing yet",
    ):
        repair(run)


def test_what_cannot_be_read_now_is_named_and_left_alone(run, monkeypatch):
    real = Path.open

    def broken(self, *args, **kwargs):
        if self.name == barred:
            raise OSError(5, "Input/output error", str(self))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", broken)
    barred = "metrics.jsonl"
    with pytest.raises(RunDirectoryError, match=r"metrics.jsonl: cannot be read \(Input/output error\)"):
        examine(run)
    barred = "sift.json"
    (finding,) = examine(run)
    assert (finding.kind, finding.cure, finding.repairable) == ("bad_header", "make it readable", False)
    assert repair(run) == []


def test_a_snapshot_that_cannot_be_read_now_is_left_alone(run, monkeypatch):
    import safetensors

    real = safetensors.safe_open

    def barred(path, framework):
        if Path(path).name == snapshot_name(50):
            raise PermissionError(13, "Permission denied")
        return real(path, framework=framework)

    monkeypatch.setattr(safetensors, "safe_open", barred)
    finding = found(run, "damaged")
    assert (finding.where, finding.cure) == (f"masks/{snapshot_name(50)}", "make it readable")
    assert repair(run) == []


def test_a_repair_that_is_stopped_anywhere_is_finished_by_the_next(run, tmp_path, monkeypatch):
    pack_run(run)
    before = masks(run)
    flip(run, 0, "weight/moving")
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"half')
    shutil.copytree(run, tmp_path / "whole")
    with monkeypatch.context() as patch:
        calls = kill_after(patch, 10**6)
        repair(tmp_path / "whole")
    assert len(calls) > 20
    for count in range(len(calls)):
        stopped = tmp_path / f"stopped{count}"
        shutil.copytree(run, stopped)
        with monkeypatch.context() as patch:
            kill_after(patch, count)
            with pytest.raises(Killed, match="stopped"):
                repair(stopped)
        for left in stopped.rglob(".*.tmp"):
            os.utime(left, (0, 0))
        repair(stopped)
        assert {finding.severity for finding in examine(stopped)} == {"note"}
        after = masks(stopped)
        assert {step for step, _ in after} == {10, 20, 30, 40, 50}
        assert all(same_layer(after[key], before[key]) for key in after)
        assert (stopped / "metrics.damaged.jsonl").read_bytes().splitlines()[-1] == b'{"half'
        shutil.rmtree(stopped)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_file_that_may_not_be_read_is_named(run):
    (run / "metrics.jsonl").chmod(0)
    with pytest.raises(RunDirectoryError, match=r"metrics.jsonl: cannot be read \(Permission denied\)"):
        examine(run)
