"""The run directory: what is written is read again, and what was damaged is named, never believed."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from sift_graph.errors import DamagedStoreError, RunDirectoryError
from sift_graph.masks import LayerMask, Snapshot
from sift_graph.store import RunReader, RunWriter, find_runs, is_run, snapshot_name
from sift_graph.store import disk as disk_module
from tests.strategies import HOSTILE_NAMES, networks

EYE = np.eye(4, dtype=bool)
RNG = np.random.default_rng(0)


def snapshot_of(step: int, **masks: np.ndarray) -> Snapshot:
    return Snapshot(step, {name: LayerMask.from_dense(name, mask) for name, mask in masks.items()})


def same_layer(one: LayerMask, other: LayerMask) -> bool:
    parts = [(m.layer, m.shape, m.digest, m.groups, m.layout, m.source, m.values is None) for m in (one, other)]
    equal = one.values is None or other.values is None or np.array_equal(one.values, other.values, equal_nan=True)
    return parts[0] == parts[1] and equal


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three snapshots: the mask of ``fixed`` never changes, that of ``moving`` always does."""
    writer = RunWriter(tmp_path / "run", about={"family": "sparse_wide", "seed": 1})
    for step in (0, 10, 20):
        weight = RNG.standard_normal((16, 8)).astype(np.float32)
        layers = {
            "fixed": LayerMask.from_dense("fixed", EYE),
            "moving": LayerMask.from_dense("moving", np.roll(np.eye(16, 8), step, 0), weight),
        }
        writer.write_snapshot(Snapshot(step, layers, step / 10))
        writer.append_metrics({"step": step, "loss": 1.0 / (step + 1)})
    return tmp_path / "run"


# Round trips


@given(networks=st.lists(networks(), min_size=1, max_size=3), weights=st.sampled_from(["none", "fp16", "fp32"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
def test_what_is_written_is_read_again(tmp_path: Path, networks, weights):
    run_dir = tmp_path / "run"
    shutil.rmtree(run_dir, ignore_errors=True)
    writer = RunWriter(run_dir)
    for step, layers in enumerate(networks):
        writer.write_snapshot(Snapshot(step, layers, epoch=step / 3, wall_time=12.5), weights=weights)
    reader = RunReader(run_dir)
    assert reader.steps == list(range(len(networks)))
    for step, layers in enumerate(networks):
        found = reader.load_snapshot(step)
        assert (found.step, found.epoch, found.wall_time) == (step, step / 3, 12.5)
        assert list(found.layers) == list(layers)
        for name, layer in layers.items():
            kept = layer.values if weights != "none" else None
            if weights == "fp16" and kept is not None:
                with np.errstate(over="ignore"):
                    half = kept.astype(np.float16).astype(np.float32)
                kept = half if np.array_equal(np.isfinite(half), np.isfinite(kept)) else kept
            expected = LayerMask(name, layer.shape, layer.bits, kept, layer.groups, layer.layout, layer.source)
            assert same_layer(found.layers[name], expected)
            assert same_layer(reader.load_layer(step, name), expected)
    assert sorted(path.name for path in run_dir.iterdir()) == ["masks", "sift.json"]
    assert sorted(path.name for path in (run_dir / "masks").iterdir()) == [snapshot_name(s) for s in reader.steps]


def test_the_header_says_what_made_the_run(run: Path):
    header = json.loads((run / "sift.json").read_text())
    assert header["format"] == "sift-mask/1"
    assert {"python", "numpy", "sift-graph"} <= set(header["versions"])
    assert header["about"] == {"family": "sparse_wide", "seed": 1}
    assert RunReader(run).about == header["about"]


def test_about_takes_paths_and_numpy_scalars_and_has_no_nan(tmp_path: Path):
    about = {"seed": np.int64(3), "data": Path("digits"), "sparsity": np.float32(0.5), "lr": math.nan, "w": (1, 2)}
    RunWriter(tmp_path / "run", about=about)
    assert RunReader(tmp_path / "run").about == {"seed": 3, "data": "digits", "sparsity": 0.5, "lr": None, "w": [1, 2]}


def test_an_equal_mask_is_stored_once_and_referred_to(run: Path):
    reader = RunReader(run)
    for step, ref in ((0, None), (10, 0), (20, 0)):
        entries = {entry["name"]: entry for entry in reader.entries(step)}
        assert entries["fixed"]["ref"] == ref
        assert entries["moving"]["ref"] is None
        with safe_open(reader.path(step), framework="np") as file:
            assert ("mask/fixed" in file.keys()) == (ref is None)  # noqa: SIM118
        assert np.array_equal(reader.load_layer(step, "fixed").mask, EYE)


def test_a_mask_that_returns_is_referred_to_only_while_it_is_the_newest(tmp_path: Path):
    writer = RunWriter(tmp_path / "run")
    for step, mask in enumerate([EYE, ~EYE, EYE, EYE]):
        writer.write_snapshot(snapshot_of(step, fc=mask))
    reader = RunReader(tmp_path / "run")
    assert [reader.entries(step)[0]["ref"] for step in range(4)] == [None, None, None, 2]
    assert [reader.load_layer(step, "fc").edges for step in range(4)] == [4, 12, 4, 4]


def test_a_stranger_can_read_the_format_with_numpy_zstandard_and_safetensors(run: Path):
    with safe_open(run / "masks" / "step_000000010.safetensors", framework="np") as file:
        header = json.loads(file.metadata()["sift"])
        entry = next(entry for entry in header["layers"] if entry["name"] == "moving")
        raw = zstandard.ZstdDecompressor().decompress(file.get_tensor("mask/moving").tobytes())
        bits = np.unpackbits(np.frombuffer(raw, np.uint8), count=math.prod(entry["shape"]), bitorder="little")
        values = file.get_tensor("weight/moving")
    assert np.array_equal(bits.reshape(entry["shape"]).astype(bool), np.roll(np.eye(16, 8, dtype=bool), 10, 0))
    assert len(values) == entry["nnz"] == 8


def test_weights_that_float16_cannot_hold_are_stored_as_float32(tmp_path: Path):
    writer = RunWriter(tmp_path / "run")
    layers = {
        "large": LayerMask.from_dense("large", EYE, EYE * 1e6),
        "small": LayerMask.from_dense("small", EYE, EYE * 0.1),
    }
    writer.write_snapshot(Snapshot(0, layers), weights="fp16")
    reader = RunReader(tmp_path / "run")
    assert reader.load_layer(0, "large").values.tolist() == [1e6] * 4
    assert reader.load_layer(0, "small").values.tolist() == [float(np.float16(0.1))] * 4


def test_steps_ascend_and_are_not_overwritten(run: Path):
    writer = RunWriter(run, resume=True)
    before = {path: path.read_bytes() for path in (run / "masks").iterdir()}
    with pytest.raises(RunDirectoryError, match="step 10 is already recorded; it was not overwritten"):
        writer.write_snapshot(snapshot_of(10, fixed=~EYE))
    with pytest.raises(RunDirectoryError, match="step 20 is already recorded and 15 comes before it; steps ascend"):
        writer.write_snapshot(snapshot_of(15, fixed=~EYE))
    assert before == {path: path.read_bytes() for path in (run / "masks").iterdir()}


# Metrics


def test_metrics_are_appended_and_read(run: Path):
    writer = RunWriter(run, resume=True)
    writer.append_metrics({"step": np.int64(30), "loss": np.float32("nan"), "deep": {"a": [math.inf, 1.5]}, "s": "π"})
    rows = list(RunReader(run).metrics())
    assert [row["step"] for row in rows] == [0, 10, 20, 30]
    assert rows[-1] == {"step": 30, "loss": None, "deep": {"a": [None, 1.5]}, "s": "π"}


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_line_that_a_crash_cut_short_is_left_out_and_spoils_no_other(run: Path, cut):
    file = run / "metrics.jsonl"
    whole = list(RunReader(run).metrics())
    file.write_bytes(file.read_bytes()[:-cut])
    kept = list(RunReader(run).metrics())
    assert kept == (whole if cut == 1 else whole[:-1])  # without its line break alone, a line is whole
    RunWriter(run, resume=True).append_metrics({"step": 21})
    assert list(RunReader(run).metrics()) == [*kept, {"step": 21}]


def test_metrics_that_are_no_json_are_refused_before_anything_is_written(run: Path):
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(TypeError, match="expected numbers and texts, found object"):
        RunWriter(run, resume=True).append_metrics({"step": 1, "model": object()})
    assert (run / "metrics.jsonl").read_bytes() == before


def test_a_run_without_metrics_has_no_rows(tmp_path: Path):
    RunWriter(tmp_path / "run")
    assert list(RunReader(tmp_path / "run").metrics()) == []


# Going on


def test_a_resumed_run_refers_to_masks_that_are_whole(run: Path):
    writer = RunWriter(run, resume=True)
    assert writer.newest == 20
    writer.write_snapshot(snapshot_of(30, fixed=EYE))
    assert RunReader(run).entries(30)[0]["ref"] == 0


def test_a_resumed_run_does_not_lean_on_a_damaged_file(run: Path):
    path = RunReader(run).path(0)
    path.write_bytes(path.read_bytes()[:-7])
    writer = RunWriter(run, resume=True)
    writer.write_snapshot(snapshot_of(30, fixed=EYE))
    assert RunReader(run).entries(30)[0]["ref"] is None
    assert np.array_equal(RunReader(run).load_layer(30, "fixed").mask, EYE)


def test_a_run_whose_newest_snapshot_is_damaged_can_go_on(run: Path):
    path = RunReader(run).path(20)
    path.write_bytes(b"")
    RunWriter(run, resume=True).write_snapshot(snapshot_of(30, fixed=EYE))
    assert np.array_equal(RunReader(run).load_layer(30, "fixed").mask, EYE)


def test_temporaries_of_a_killed_writer_are_ignored_and_cleared(run: Path):
    left_over = run / "masks" / ".step_000000030.safetensors.123.tmp"
    left_over.write_bytes(b"half")
    assert RunReader(run).steps == [0, 10, 20]
    RunWriter(run, resume=True)
    assert not left_over.exists()


def test_rewind_keeps_the_rest_aside(run: Path):
    writer = RunWriter(run, resume=True)
    moved = {path.name: path.read_bytes() for path in (run / "masks").iterdir() if path.name > snapshot_name(5)}
    writer.rewind(5)
    assert RunReader(run).steps == [0]
    assert [row["step"] for row in RunReader(run).metrics()] == [0]
    (aside,) = (run / "masks" / "abandoned").iterdir()
    rows = [json.loads(line)["step"] for line in (aside / "metrics.jsonl").read_text().splitlines()]
    assert rows == [10, 20]
    assert {path.name: path.read_bytes() for path in aside.glob("step_*")} == moved
    writer.write_snapshot(snapshot_of(10, fixed=EYE, moving=EYE))
    entries = {entry["name"]: entry["ref"] for entry in RunReader(run).entries(10)}
    assert entries == {"fixed": 0, "moving": None}


def test_rewinding_to_the_end_moves_nothing(run: Path):
    RunWriter(run, resume=True).rewind(20)
    assert not (run / "masks" / "abandoned").exists()
    assert RunReader(run).steps == [0, 10, 20]


def test_rewinding_twice_keeps_both_tails(run: Path):
    writer = RunWriter(run, resume=True)
    writer.rewind(10)
    writer.write_snapshot(snapshot_of(20, fixed=~EYE))
    writer.rewind(10)
    assert len(list((run / "masks" / "abandoned").iterdir())) == 2
    assert len(list((run / "masks" / "abandoned").rglob("step_000000020.safetensors"))) == 2


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_rewind_that_is_interrupted_leaves_readable_snapshots(run: Path, monkeypatch, stop_after):
    rename = Path.rename
    calls = []

    def failing(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) > stop_after:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(RunDirectoryError, match="what was recorded after step -1 could not be put aside"):
        RunWriter(run, resume=True).rewind(-1)
    monkeypatch.undo()
    reader = RunReader(run)
    assert reader.steps == [0, 10, 20][: 3 - stop_after]
    for step in reader.steps:
        reader.load_snapshot(step)


# What is no run, or another one


def test_another_run_or_a_foreign_directory_is_left_alone(run: Path, tmp_path: Path):
    with pytest.raises(RunDirectoryError, match=r"holds another run.*nothing was overwritten.*resume=True"):
        RunWriter(run)
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter1.tex").write_text("x")
    for resume in (False, True):
        with pytest.raises(RunDirectoryError, match=r"is not a run directory \(it holds 'chapter1.tex'\)"):
            RunWriter(foreign, resume=resume)
    with pytest.raises(RunDirectoryError, match="is not a directory; nothing was overwritten"):
        RunWriter(foreign / "chapter1.tex")
    assert [path.name for path in foreign.iterdir()] == ["chapter1.tex"]


def test_what_is_no_run_is_named_with_the_way_to_make_one(tmp_path: Path):
    with pytest.raises(RunDirectoryError, match=r"not a run directory \(no sift.json\); record one with MaskRecorder"):
        RunReader(tmp_path)
    with pytest.raises(RunDirectoryError, match="expected a run directory or a directory of runs, found nothing"):
        find_runs(tmp_path / "none")
    with pytest.raises(RunDirectoryError, match=r"no sift.json in it or below it"):
        find_runs(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunDirectoryError, match="found a file"):
        find_runs(tmp_path / "file")


def test_runs_are_found_below_a_directory(tmp_path: Path):
    for name in ("b", "a", "deep/er/c", ".hidden"):
        RunWriter(tmp_path / name)
    assert find_runs(tmp_path) == [tmp_path / "a", tmp_path / "b", tmp_path / "deep/er/c"]
    assert find_runs(tmp_path / "a") == [tmp_path / "a"]
    assert is_run(tmp_path / "a")
    assert not is_run(tmp_path)


def test_a_header_without_end_is_refused_before_it_is_read(run: Path):
    with (run / "sift.json").open("ab") as file:
        file.truncate(1 << 29)  # a hole: it takes no space
    with pytest.raises(DamagedStoreError, match=r"sift\.json: is larger than 64 MiB"):
        RunReader(run)


def test_a_name_that_the_file_system_cannot_hold_is_an_error_that_says_so(tmp_path: Path):
    with pytest.raises(RunDirectoryError, match=r"\(File name too long\).*Choose a shorter name"):
        RunWriter(tmp_path / ("x" * 300))


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"format": "sift-mask/9"}'])
def test_a_damaged_header_of_the_run_is_named(run: Path, content):
    (run / "sift.json").write_bytes(content)
    with pytest.raises(DamagedStoreError, match=r"sift\.json: (cannot be read as JSON|expected)"):
        RunReader(run)


def test_a_snapshot_of_another_run_or_step_is_refused(run: Path, tmp_path: Path):
    other = RunWriter(tmp_path / "other").write_snapshot(snapshot_of(30, fixed=EYE))
    shutil.copy(other, run / "masks")
    with pytest.raises(DamagedStoreError, match=r"step_000000030.safetensors: belongs to another run"):
        RunReader(run).load_snapshot(30)
    shutil.copy(RunReader(run).path(10), run / "masks" / snapshot_name(40))
    with pytest.raises(DamagedStoreError, match=r"step_000000040.safetensors: its header is that of step 10"):
        RunReader(run).load_snapshot(40)


def test_a_layer_that_is_not_there_is_named(run: Path):
    with pytest.raises(DamagedStoreError, match="holds no layer 'nobody'"):
        RunReader(run).load_layer(0, "nobody")


# Names


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_hostile_name_is_text_never_a_path(tmp_path: Path, name):
    run_dir = tmp_path / "here" / "run"
    writer = RunWriter(run_dir)
    layer = LayerMask.from_dense(name, EYE, EYE * 1.5, source=name)
    writer.write_snapshot(Snapshot(0, {name: layer}))
    assert same_layer(RunReader(run_dir).load_layer(0, name), layer)
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert files == ["here/run/masks/step_000000000.safetensors", "here/run/sift.json"]


# Damage


def read_all(run_dir: Path) -> None:
    reader = RunReader(run_dir)
    for step in reader.steps:
        reader.load_snapshot(step)


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 100, 0.5, 0.9, -1])
def test_a_truncated_snapshot_is_named_and_the_others_are_read(run: Path, keep):
    path = RunReader(run).path(20)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(DamagedStoreError, match=r"step_000000020\.safetensors: truncated or not a snapshot"):
        RunReader(run).load_snapshot(20)
    RunReader(run).load_snapshot(0)
    RunReader(run).load_snapshot(10)


def test_a_missing_file_that_a_later_one_needs_is_named(run: Path):
    RunReader(run).path(0).unlink()
    with pytest.raises(DamagedStoreError, match=r"step_000000000\.safetensors: is missing; restore it"):
        RunReader(run).load_layer(20, "fixed")
    assert RunReader(run).load_layer(20, "moving").edges == 8


def damage_found(run_dir: Path, step: int) -> str | None:
    """Load a snapshot: what the error says, or None if there is none."""
    try:
        RunReader(run_dir).load_snapshot(step)
    except DamagedStoreError as error:
        return str(error)
    return None


def test_no_altered_byte_goes_unnoticed(run: Path):
    path = RunReader(run).path(0)
    data = path.read_bytes()
    before = RunReader(run).load_snapshot(0)
    harmless = 0
    for position in range(len(data)):
        altered = bytes([data[position] ^ (1 << position % 8)])
        path.write_bytes(data[:position] + altered + data[position + 1 :])
        found = damage_found(run, 0)
        if found is None:  # a bit without meaning, in the name of the header's own hash or in a zstd frame
            harmless += 1
            after = RunReader(run).load_snapshot(0)
            assert (before.epoch, before.wall_time) == (after.epoch, after.wall_time)
            assert all(same_layer(one, other) for one, other in zip(before, after, strict=True)), position
        else:
            assert str(path) in found
    assert harmless < 20


@pytest.mark.parametrize("region", ["header", "mask", "weight"])
def test_an_altered_byte_in_each_region_is_named(run: Path, region):
    path = RunReader(run).path(0)
    data = bytearray(path.read_bytes())
    start = int.from_bytes(data[:8], "little") + 8
    table = json.loads(data[8:start])
    if region == "header":
        position = data.index(b"groups") + 10
    else:
        position = start + table[f"{region}/moving"]["data_offsets"][1] - 2
    data[position] ^= 0x10
    path.write_bytes(bytes(data))
    with pytest.raises(DamagedStoreError, match=r"step_000000000\.safetensors: "):
        RunReader(run).load_snapshot(0)


def rewrite(path: Path, change) -> None:
    """Alter a snapshot as someone who knows the format could: header entry and tensors of layer ``moving``."""
    with safe_open(path, framework="np") as file:
        header = json.loads(file.metadata()["sift"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    change(next(entry for entry in header["layers"] if entry["name"] == "moving"), tensors, header)
    save_file(tensors, path, metadata={"sift": json.dumps(header)})


ENTRY_LIES = {
    "huge shape": lambda e, t, h: e.update(shape=[10**6, 10**6]),
    "many axes": lambda e, t, h: e.update(shape=[1] * 1000),
    "negative shape": lambda e, t, h: e.update(shape=[-16, -8]),
    "no shape": lambda e, t, h: e.pop("shape"),
    "text shape": lambda e, t, h: e.update(shape="16x8"),
    "bool shape": lambda e, t, h: e.update(shape=[True, 8]),
    "fractional shape": lambda e, t, h: e.update(shape=[16.0, 8]),
    "one axis": lambda e, t, h: e.update(shape=[128]),
    "negative groups": lambda e, t, h: e.update(groups=-1),
    "no groups": lambda e, t, h: e.update(groups=0),
    "groups that do not divide": lambda e, t, h: e.update(groups=5),
    "unknown layout": lambda e, t, h: e.update(layout="hwio"),
    "unknown codec": lambda e, t, h: e.update(codec="lzma"),
    "wrong count": lambda e, t, h: e.update(nnz=9),
    "wrong hash": lambda e, t, h: e.update(xxh3="0" * 32),
    "no hash": lambda e, t, h: e.update(xxh3=None),
    "reference to itself": lambda e, t, h: e.update(ref=10),
    "reference forward": lambda e, t, h: e.update(ref=20),
    "reference below zero": lambda e, t, h: e.update(ref=-1),
    "reference to a path": lambda e, t, h: e.update(ref="../../x"),
    "smaller shape": lambda e, t, h: e.update(shape=[8, 8]),
    "larger shape": lambda e, t, h: e.update(shape=[16, 9]),
    "name twice": lambda e, t, h: h["layers"].append(dict(e)),
    "entry is no object": lambda e, t, h: h["layers"].append("moving"),
    "layers is no list": lambda e, t, h: h.update(layers={}),
    "another format": lambda e, t, h: h.update(format="sift-mask/2"),
    "epoch is text": lambda e, t, h: h.update(epoch="soon"),
    "no mask": lambda e, t, h: t.pop("mask/moving"),
    "no weight": lambda e, t, h: t.pop("weight/moving"),
    "mask of another type": lambda e, t, h: t.update({"mask/moving": np.zeros(4, np.float32)}),
    "mask of two axes": lambda e, t, h: t.update({"mask/moving": np.zeros((4, 4), np.uint8)}),
    "mask is no frame": lambda e, t, h: t.update({"mask/moving": np.zeros(4, np.uint8)}),
    "empty mask": lambda e, t, h: t.update({"mask/moving": np.zeros(0, np.uint8)}),
}


@pytest.mark.parametrize("lie", ENTRY_LIES)
def test_a_header_that_lies_is_refused(run: Path, lie):
    path = RunReader(run).path(10)
    rewrite(path, ENTRY_LIES[lie])
    with pytest.raises(DamagedStoreError, match=r"step_000000010\.safetensors: "):
        RunReader(run).load_snapshot(10)


def peak_memory(run_dir: Path) -> tuple[str, int]:
    """Read a run in a process of its own: the error it ended with, and its peak memory in MiB."""
    program = (
        "import sys\n"
        "from sift_graph.store import RunReader\n"
        "from sift_graph.errors import DamagedStoreError\n"
        "reader = RunReader(sys.argv[1])\n"
        "try:\n"
        "    reader.load_snapshot(10)\n"
        "except DamagedStoreError as error:\n"
        "    print(error)\n"
        "status = open('/proc/self/status').read()\n"  # not ru_maxrss, which starts at the parent's
        "print(int(status.split('VmHWM:')[1].split()[0]) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, run_dir], capture_output=True, text=True, check=True)
    message, peak = done.stdout.strip().splitlines()
    return message, int(peak)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to measure memory")
def test_a_zstd_bomb_is_refused_before_it_unfolds(run: Path):
    bomb = zstandard.ZstdCompressor(level=19, write_content_size=True).compress(bytes(1 << 30))
    path = RunReader(run).path(10)
    rewrite(path, lambda e, t, h: t.update({"mask/moving": np.frombuffer(bomb, np.uint8)}))
    message, peak = peak_memory(run)
    assert "the mask of layer 'moving' claims 1073741824 bytes where its shape needs 16" in message
    assert peak < 500


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to measure memory")
def test_a_zstd_bomb_that_hides_its_size_is_refused(run: Path):
    bomb = zstandard.ZstdCompressor(level=19, write_content_size=False).compress(bytes(1 << 30))
    path = RunReader(run).path(10)
    rewrite(path, lambda e, t, h: t.update({"mask/moving": np.frombuffer(bomb, np.uint8)}))
    message, peak = peak_memory(run)
    assert "claims -1 bytes where its shape needs 16" in message
    assert peak < 500


def test_a_frame_that_unfolds_to_more_than_it_claims_is_refused(run: Path):
    frame = bytearray(zstandard.ZstdCompressor(write_content_size=True).compress(bytes(200)))
    assert frame[5] == 200
    frame[5] = 16  # the size it claims
    path = RunReader(run).path(10)
    rewrite(path, lambda e, t, h: t.update({"mask/moving": np.frombuffer(bytes(frame), np.uint8)}))
    with pytest.raises(DamagedStoreError, match=r"the mask of layer 'moving' cannot be decompressed"):
        RunReader(run).load_snapshot(10)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A run of one snapshot, and the bytes of its file."""
    path = RunWriter(tmp_path_factory.mktemp("garbage") / "run").write_snapshot(snapshot_of(0, fc=EYE, head=~EYE))
    return path, path.read_bytes()


@given(cuts=st.tuples(st.floats(0, 1), st.floats(0, 1)), middle=st.binary(max_size=40))
@settings(deadline=None, max_examples=100)
def test_garbage_is_a_named_error_or_what_was_written(sample: tuple[Path, bytes], cuts, middle):
    path, good = sample
    start, stop = sorted(int(cut * len(good)) for cut in cuts)
    path.write_bytes(good[:start] + middle + good[stop:])
    found = damage_found(path.parent.parent, 0)
    assert found is None or str(path) in found
    if found is None:
        layers = RunReader(path.parent.parent).load_snapshot(0).layers
        assert [layer.edges for layer in layers.values()] == [4, 12]


# Killed, full, read-only, gone


def test_a_kill_at_any_time_leaves_whole_snapshots_and_the_run_goes_on():
    command = [sys.executable, "-m", "analysis.stress.kill", "--times", "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("20 kills in ")
    recorded = re.search(r"(\d+) snapshots recorded, all whole", done.stdout)
    assert int(recorded[1]) >= 10
    assert done.stdout.endswith("flushed and gone: 0\n")


@pytest.mark.parametrize("after", [0, 1, 1000])
def test_a_full_disk_says_what_was_lost_and_leaves_nothing_half_written(run: Path, monkeypatch, after):
    real_fsync = os.fsync

    def full(handle: int) -> None:
        os.ftruncate(handle, min(after, os.fstat(handle).st_size))
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = RunWriter(run, resume=True)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    monkeypatch.setattr(disk_module.os, "fsync", full)
    with pytest.raises(
        RunDirectoryError,
        match=r"step_000000030\.safetensors: the snapshot of step 30 is lost, and nothing of it is left "
        r"\(No space left on device\); what was recorded before is untouched\. Free some space",
    ):
        writer.write_snapshot(snapshot_of(30, fixed=~EYE))
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    monkeypatch.setattr(disk_module.os, "fsync", real_fsync)
    writer.write_snapshot(snapshot_of(30, fixed=~EYE))  # there is room again
    assert RunReader(run).entries(30)[0]["ref"] is None
    read_all(run)


def test_a_file_size_limit_of_the_system_is_survived(tmp_path: Path):
    program = (
        "import resource, signal, sys\n"
        "import numpy as np\n"
        "from sift_graph.errors import RunDirectoryError\n"
        "from sift_graph.masks import LayerMask, Snapshot\n"
        "from sift_graph.store import RunReader, RunWriter\n"
        "writer = RunWriter(sys.argv[1])\n"
        "mask = np.random.default_rng(0).random((600, 600)) < 0.5\n"
        "writer.write_snapshot(Snapshot(0, {'fc': LayerMask.from_dense('fc', mask)}))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    writer.write_snapshot(Snapshot(1, {'fc': LayerMask.from_dense('fc', ~mask)}))\n"
        "except RunDirectoryError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "run"], capture_output=True, text=True, check=True)
    assert "the snapshot of step 1 is lost, and nothing of it is left (File too large)" in done.stdout
    assert [path.name for path in (tmp_path / "run" / "masks").iterdir()] == [snapshot_name(0)]
    read_all(tmp_path / "run")


def test_files_are_synced_before_they_are_named_and_the_name_after(run: Path, monkeypatch):
    events: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        events.append("sync directory" if os.path.isdir(f"/proc/self/fd/{handle}") else "sync file")
        real_fsync(handle)

    def replace(self: Path, target: Path) -> Path:
        events.append("rename")
        return real_replace(self, target)

    writer = RunWriter(run, resume=True)
    monkeypatch.setattr(disk_module.os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    writer.write_snapshot(snapshot_of(30, fixed=EYE))
    assert events == ["sync file", "rename", "sync directory"]


def test_a_directory_that_was_removed_is_an_error_that_says_so(run: Path):
    writer = RunWriter(run, resume=True)
    shutil.rmtree(run)
    with pytest.raises(RunDirectoryError, match=r"the snapshot of step 30 is lost.*\(No such file.*was removed"):
        writer.write_snapshot(snapshot_of(30, fixed=EYE))
    with pytest.raises(RunDirectoryError, match=r"metrics.jsonl: a line of metrics is lost \(No such file"):
        writer.append_metrics({"step": 30})
    assert not run.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory_is_refused_at_once(tmp_path: Path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(RunDirectoryError, match=r"could not be made \(Permission denied\).*can be written to"):
            RunWriter(tmp_path / "run")
    finally:
        tmp_path.chmod(0o700)


def test_a_directory_that_cannot_be_written_to_is_refused_at_once(tmp_path: Path, monkeypatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RunDirectoryError, match=r"could not be made \(Read-only file system\).*can be written to"):
        RunWriter(tmp_path / "run")
