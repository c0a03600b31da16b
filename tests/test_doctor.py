"""The doctor: each fault is found under its name, what can be mended is, and nothing is lost on the way."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from sift_graph.doctor import examine
from sift_graph.errors import RunDirectoryError
from sift_graph.masks import LayerMask, Snapshot
from sift_graph.mending import repair
from sift_graph.store import RunReader, RunWriter, snapshot_name
from sift_graph.store.packing import pack_run
from tests.runs import move, write_run
from tests.test_cli import invoke
from tests.test_packing import Killed, kill_after
from tests.test_store import rewrite, same_layer

RNG = np.random.default_rng(0)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run without a fault: ``moving`` moves at each of six snapshots, ``fixed`` never."""
    writer = RunWriter(tmp_path / "run", about={"sparsity": 0.8})
    moving, fixed = (RNG.random((60, 101)) < 0.2 for _ in range(2))
    for step in range(0, 60, 10):
        layers = {
            "moving": LayerMask.from_dense("moving", moving, RNG.standard_normal((60, 101))),
            "fixed": LayerMask.from_dense("fixed", fixed),
        }
        writer.write_snapshot(Snapshot(step, layers))
        writer.append_metrics({"step": step, "loss": 1.0})
        moving = move(moving, RNG, 0.05)
    return tmp_path / "run"


def kinds(run_dir: Path) -> list[tuple[str, str, str]]:
    return [(finding.kind, finding.severity, finding.where) for finding in examine(run_dir)]


def found(run_dir: Path, kind: str):
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


# A run that is well


def test_a_run_that_is_well_has_no_finding_and_is_not_touched(run):
    files = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.rglob("*") if path.is_file()}
    assert examine(run) == []
    assert repair(run) == []
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.rglob("*") if path.is_file()} == files
    pack_run(run)
    assert examine(run) == []


def test_what_is_no_run_is_said_as_everywhere(tmp_path):
    with pytest.raises(RunDirectoryError, match="not a run directory"):
        examine(tmp_path)
    invoke("doctor", tmp_path, code=3)
    RunWriter(tmp_path / "new")
    assert kinds(tmp_path / "new") == [("no_snapshots", "note", "run")]


# Damage and its repair


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


# Masks


def record(path: Path, *snapshots: dict[str, np.ndarray], weights: bool = True, **about) -> Path:
    writer = RunWriter(path, about=about)
    for step, layers in enumerate(snapshots):
        made = {
            name: LayerMask.from_dense(name, mask, np.ones(mask.shape) if weights else None)
            for name, mask in layers.items()
        }
        writer.write_snapshot(Snapshot(step * 10, made))
    return path


def sparse(seed: int = 0, density: float = 0.2) -> np.ndarray:
    return np.random.default_rng(seed).random((60, 60)) < density


FULL, EMPTY = np.ones((60, 60), bool), np.zeros((60, 60), bool)


@pytest.mark.parametrize(
    ("snapshots", "about", "expected"),
    [
        ([{"a": FULL, "b": FULL}], {}, [("all_ones", "warning", "run")]),
        ([{"a": FULL, "b": sparse()}], {}, [("all_ones", "note", "'a'")]),
        ([{"a": EMPTY, "b": sparse()}], {}, [("empty", "warning", "'a'")]),
        ([{"a": sparse()}], {"sparsity": 0.8}, []),
        ([{"a": sparse()}], {"sparsity": 0.9}, [("off_target", "warning", "run")]),
        ([{"a": sparse(), "b": FULL}], {"sparsity": 0.8}, [("all_ones", "note", "'b'")]),
        ([{"a": sparse(), "b": FULL}], {"sparsity": 0.4}, [("all_ones", "note", "'b'")]),  # 0.6 of both together
        ([{"a": sparse()}], {"sparsity": "high"}, []),
        ([{"a": sparse()}] * 2, {"method": "rigl"}, [("never_changed", "warning", "run")]),
        ([{"a": sparse()}] * 2, {"method": "static"}, []),
        ([{"a": sparse()}] * 2, {}, []),
        ([{"a": sparse()}] * 10, {}, [("never_changed", "warning", "run")]),
        ([{"a": sparse()}], {"method": "rigl"}, []),
        ([{"a": sparse(), "b": sparse(i)} for i in range(2)], {"method": "rigl"}, [("never_changed", "note", "'a'")]),
        ([{"a": sparse(i)} for i in range(2)], {"method": "static"}, [("changed", "warning", "'a'")]),
    ],
)
def test_masks_that_are_not_what_was_meant_are_found(tmp_path, snapshots, about, expected):
    assert kinds(record(tmp_path / "run", *snapshots, **about)) == expected


def test_the_margin_and_both_densities_are_stated(tmp_path):
    path = record(tmp_path / "run", {"a": np.arange(100).reshape(10, 10) < 25}, sparsity=0.8)
    assert found(path, "off_target").found == (
        "the sparse layers of step 0 have density 0.2500; sparsity 0.8 means 0.2000 (off by more than 10% of it)"
    )


def test_weights_that_do_not_fit_their_masks_are_found(tmp_path):
    weight = np.where(np.arange(3600).reshape(60, 60) % 3, 0.0, 1.0)
    odd = np.full((60, 60), np.nan)
    layers = {
        "unused": LayerMask.from_dense("unused", sparse(), weight),
        "odd": LayerMask.from_dense("odd", sparse(), odd),
        "newborn": LayerMask.from_dense("newborn", sparse(), 1.0 - weight),  # a third is 0: RigL grew it a moment ago
    }
    RunWriter(tmp_path / "run").write_snapshot(Snapshot(0, layers))
    assert kinds(tmp_path / "run") == [("drifted", "warning", "'unused'"), ("not_finite", "warning", "'odd'")]
    assert kinds(record(tmp_path / "none", {"a": sparse()}, weights=False)) == [("no_weights", "note", "run")]


def test_layers_that_are_dense_on_purpose_are_no_finding(tmp_path):
    layers = {
        "head": LayerMask.from_dense("head", FULL, FULL * 1.0, source="dense"),
        "fc": LayerMask.from_dense("fc", sparse(), FULL * 1.0),
    }
    RunWriter(tmp_path / "run", about={"sparsity": 0.8}).write_snapshot(Snapshot(0, layers))
    assert examine(tmp_path / "run") == []


@pytest.mark.parametrize(("on_change", "severity"), [(True, "note"), (False, "warning")])
def test_a_hole_in_a_regular_history_is_found(tmp_path, on_change, severity):
    writer = RunWriter(tmp_path / "run", recorder={"on_change": on_change})
    for i, step in enumerate([0, 10, 20, 30, 60, 70, 80, 83]):  # the last one is where training ended
        layer = LayerMask.from_dense("a", sparse(i), FULL * 1.0)
        writer.write_snapshot(Snapshot(step, {"a": layer}))
    assert kinds(tmp_path / "run") == [("hole", severity, "steps 30 to 60")]


def test_ranks_that_hold_different_masks_of_a_layer_are_found(run):
    path = RunReader(run).path(50)
    for rank in range(3):
        shutil.copy(path, path.with_name(f"step_000000050.rank{rank:05d}.safetensors"))
    assert examine(run) == []
    rewrite(path.with_name("step_000000050.rank00002.safetensors"), lambda e, t, h: e.update(xxh3="0" * 32))
    (finding,) = examine(run)
    assert (finding.kind, finding.where) == ("ranks_differ", "masks/step_000000050.rank00002.safetensors")
    assert finding.found == "the mask of 'moving' differs from that in step_000000050.rank00000.safetensors"
    shards = path.with_name("step_000000050.rank00002.safetensors")
    rewrite(shards, lambda e, t, h: e.update(part={"offset": [0, 0], "shape": [60, 101]}))
    assert examine(run) == []


# The command


def test_the_command_prints_a_table_and_its_exit_code_is_that_of_damage(run):
    assert invoke("doctor", run).stdout == ""
    flip(run, 50, "mask/moving")
    result = invoke("doctor", run, code=6)
    assert "damaged" in result.stdout
    assert f"masks/{snapshot_name(50)}" in result.stdout
    assert "1 error, 0 warnings, 0 notes" in result.stderr
    assert f"sift-graph doctor {run} --repair" in result.stderr
    repaired = invoke("doctor", run, "--repair")
    assert f"repaired  masks/{snapshot_name(50)}: moved to masks/damaged/" in repaired.stdout
    assert "0 errors, 0 warnings, 1 note" in repaired.stderr


def test_the_json_of_the_command_is_the_findings(run):
    path = cut(run, 50)
    content = json.loads(invoke("doctor", run, "--json", code=6).stdout)
    assert content["schema"] == "sift-graph/doctor/1"
    (finding,) = content["findings"]
    assert set(finding) == {"run", "kind", "severity", "where", "found", "cure", "repairable"}
    assert (finding["kind"], finding["where"], finding["repairable"]) == ("damaged", f"masks/{path.name}", True)
    assert content["repaired"] == []


def test_a_warning_alone_is_not_an_error_of_the_store(tmp_path):
    assert "all_ones" in invoke("doctor", record(tmp_path / "run", {"a": FULL})).stdout


def test_pack_and_unpack_print_what_they_did(tmp_path):
    path = write_run(tmp_path / "run", shapes={"fc": (60, 101)}, density=0.2, steps=(0, 10))
    assert f"{path}: 1 of 2 snapshots written anew; masks 0.003 MB before, 0.002" in invoke("pack", path).stdout
    content = json.loads(invoke("unpack", path, "--json").stdout)
    assert content["schema"] == "sift-graph/pack/1"
    assert content["runs"][0]["rewritten"] == [10]
    cut(path, 10)
    assert "left as it is" in invoke("pack", path, code=6).stderr


def test_the_page_lists_every_kind_of_finding(request):
    root = request.config.rootpath
    page = (root / "docs/keeping.md").read_text()
    sources = ("doctor.py", "symptoms.py", "store/condition.py")
    import ast

    said = set()
    for name in sources:
        for node in ast.walk(ast.parse((root / "sift_graph" / name).read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding" and node.args:
                first = node.args[0]
                said |= {first.value} if isinstance(first, ast.Constant) else set()
    assert len(said) > 15
    assert {kind for kind in said if f"`{kind}`" not in page} == set()


def test_a_directory_of_runs_is_examined_and_packed_run_by_run(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / name, shapes={"fc": (60, 101)}, density=0.2, steps=(0, 10))
    cut(tmp_path / "b", 10)
    content = json.loads(invoke("doctor", tmp_path, "--json", code=6).stdout)
    assert [(row["run"], row["where"]) for row in content["findings"]] == [
        (str(tmp_path / "b"), f"b/masks/{snapshot_name(10)}")
    ]
    result = invoke("pack", tmp_path, code=6)
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == [str(tmp_path / "a"), str(tmp_path / "b")]
    repaired = invoke("doctor", tmp_path, "--repair").stdout
    assert f"repaired  b/masks/{snapshot_name(10)}: moved to masks/damaged/{snapshot_name(10)}" in repaired


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_file_that_may_not_be_read_is_named(run):
    (run / "metrics.jsonl").chmod(0)
    with pytest.raises(RunDirectoryError, match=r"metrics.jsonl: cannot be read \(Permission denied\)"):
        examine(run)


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
