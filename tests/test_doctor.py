"""The doctor: what recorded masks tell, and how the command says it."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from sift_graph.doctor import examine
from sift_graph.errors import RunDirectoryError
from sift_graph.masks import LayerMask, Snapshot
from sift_graph.mending import repair
from sift_graph.store import RunReader, RunWriter, snapshot_name
from sift_graph.store.packing import pack_run
from tests.damage import cut, flip, found, kinds, write_well_run
from tests.runs import write_run
from tests.test_cli import invoke
from tests.test_store import rewrite


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "220")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_well_run(tmp_path / "run")


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
    for i, step in enumerate([0, 10, 20, 30, 60, 70, 80, 90, 100, 103, 133]):  # frozen at 103, all ends at 133
        layer = LayerMask.from_dense("a", sparse(min(i, 9)), FULL * 1.0)
        writer.write_snapshot(Snapshot(step, {"a": layer}))
    assert kinds(tmp_path / "run") == [("hole", severity, "steps 30 to 60")]


def test_ranks_that_hold_different_masks_of_a_layer_are_found(run):
    path = RunReader(run).path(50)
    for rank in range(3):
        shard = path.with_name(f"step_000000050.rank{rank:05d}.safetensors")
        shutil.copy(path, shard)
        rewrite(shard, lambda e, t, h, rank=rank: h.update(rank=rank, ranks=3, layers=[e]))
    path.unlink()
    assert examine(run) == []
    rewrite(shard, lambda e, t, h: e.update(xxh3="0" * 32))
    damaged, finding = examine(run)
    assert "layer 'moving' is there twice and differs: on rank 0 and on rank 2" in damaged.found
    assert (finding.kind, finding.where) == ("ranks_differ", "masks/step_000000050.rank00002.safetensors")
    assert finding.found == "the mask of 'moving' differs from that in step_000000050.rank00000.safetensors"
    rewrite(shard, lambda e, t, h: e.update(part={"offset": [0, 0], "shape": [60, 101]}))
    assert [finding.kind for finding in examine(run)] == ["damaged"]  # a part is compared with parts
    shard.unlink()
    (finding,) = examine(run)
    assert "of the 3 shards of step 50 there is none of rank 2" in finding.found
    assert (finding.kind, finding.repairable) == ("damaged", False)


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
