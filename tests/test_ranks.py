"""Several processes: one records for all or each its part, what they hold is compared, and the parts are made whole."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

import sift_graph
from sift_graph.errors import DamagedStoreError, MaskError, RunDirectoryError, UsageError
from sift_graph.masks import LayerMask, Part, Snapshot
from sift_graph.ranks import ALONE, Place, find_place
from sift_graph.record import MaskRecorder
from sift_graph.store import RunReader, RunWriter, ShardWriter
from sift_graph.table import analyze_runs

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, object]]]:
    """What two processes of gloo recorded, and what each told."""
    folder = tmp_path_factory.mktemp("two")
    script = Path(__file__).with_name("rank_script.py")
    started = []
    for rank in range(2):
        place = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
        environment = os.environ | place | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
        words = [sys.executable, str(script), str(folder), str(rank)]
        started.append(subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment))
    errors = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(errors)
    return folder, [json.loads((folder / f"told{rank}.json").read_text()) for rank in range(2)]


# One writes


def test_under_data_parallelism_the_first_process_records_and_the_others_do_nothing(two):
    folder, told = two
    assert told[0]["ddp"] == {"enabled": True, "attached": True, "early": True}
    assert told[1]["ddp"] == {"enabled": False, "attached": False, "early": False}
    reader = RunReader(folder / "ddp")
    assert reader.steps == [0, 1, 2]
    assert [row["step"] for row in reader.metrics()] == [1, 2]  # one line a step: one writer
    assert "2" in [layer["layer"] for layer in reader.header["graph"]["layers"]]  # traced by one, without a word
    assert RunReader(folder / "early").steps == [0, 2]


def test_each_may_record_a_run_of_its_own(two):
    folder, _ = two
    assert [RunReader(folder / f"each{rank}").steps for rank in range(2)] == [[0], [0]]


def test_masks_that_differ_are_named_with_the_ranks_on_every_process(two):
    folder, told = two
    for one in told:
        (message,) = one["checked"]  # once, not at each step
        assert (
            "training goes on, but the masks at step 4 differ between processes: layer '0' (ranks 0 against 1)"
            in message
        )
        assert one["differ at attach"].startswith("MaskError: the masks at step 0 differ between processes: layer '0'")
        assert "layer 'fc' (ranks 0 against 1)" in one["differ by hand"]
    assert RunReader(folder / "checked").steps == list(range(7))


# Each writes its part


@pytest.mark.parametrize("step", [0, 2, 4])
def test_the_parts_of_two_processes_make_the_weights_that_torch_puts_together(two, step):
    folder, _ = two
    with np.load(folder / (f"fsdp{step}.npz" if step < 4 else "again4.npz")) as expected:
        found = RunReader(folder / "fsdp").load_snapshot(step).layers
        assert sorted(found) == sorted(expected) == ["0", "1", "2", "3"]
        for name, weight in expected.items():
            assert found[name].shape == weight.shape
            assert np.array_equal(found[name].mask, weight != 0)
            assert np.array_equal(found[name].weight, weight)
            assert found[name].part is None


def test_each_process_wrote_only_what_it_holds(two):
    folder, told = two
    held = []
    for rank in range(2):
        with safe_open(folder / f"fsdp/masks/step_000000000.rank{rank:05d}.safetensors", framework="np") as file:
            header = json.loads(file.metadata()["sift"])
        assert (header["rank"], header["ranks"]) == (rank, 2)
        held.append({entry["name"]: entry.get("part") for entry in header["layers"]})
    assert held[0] == {
        "0": {"offset": [0, 0], "shape": [3, 8]},
        "1": {"offset": [0, 0], "shape": [1, 5]},
        "2": {"offset": [0, 0, 0, 0], "shape": [2, 2, 3, 3]},
        "3": None,  # it is whole on both: the first writes it
    }
    assert held[1] == {
        "0": {"offset": [3, 0], "shape": [2, 8]},
        "1": {"offset": [1, 0], "shape": [0, 5]},  # nothing, and it says so
        "2": {"offset": [0, 2, 0, 0], "shape": [2, 1, 3, 3]},  # the transposed convolution's inputs, turned as its mask
    }
    assert [one["fsdp"] for one in told] == [{"enabled": True, "newest": 6}] * 2


def test_a_run_in_shards_is_analyzed_as_one_in_whole_files(two, tmp_path: Path):
    folder, _ = two
    reader = RunReader(folder / "fsdp")
    writer = RunWriter(tmp_path / "fsdp", about=reader.about)
    for step in reader.steps:
        writer.write_snapshot(reader.load_snapshot(step), weights="fp32")
    shutil.copytree(folder / "fsdp", tmp_path / "shards" / "fsdp")
    whole, parts = (analyze_runs(path) for path in (tmp_path / "fsdp", tmp_path / "shards" / "fsdp"))
    assert len(parts.layers) == 12
    assert not parts.failures
    assert parts.layers.equals(whole.layers)
    run = sift_graph.open(tmp_path / "shards" / "fsdp")
    assert run.layers == ["0", "1", "2", "3"]
    assert run.mask("0").shape == (5, 8)
    assert parts.layers["family"].unique().tolist() == ["sharded"]


def test_a_resumed_recording_begins_where_all_have_recorded_and_keeps_the_rest_aside(two):
    folder, told = two
    assert [one["resumed"] for one in told] == [4, 4]  # the second had lost step 6
    assert RunReader(folder / "fsdp").steps == [0, 2, 4]
    aside = sorted(path.name for path in (folder / "fsdp/masks/abandoned").rglob("*.safetensors"))
    assert aside == [
        "step_000000004.rank00000.safetensors",
        "step_000000004.rank00001.safetensors",
        "step_000000006.rank00000.safetensors",
    ]


def test_a_mask_that_did_not_change_on_this_process_is_referred_to(two):
    folder, _ = two
    entries = {entry["name"]: dict(entry["shards"]) for entry in RunReader(folder / "fsdp").entries(2)}
    assert entries["0"][0]["ref"] == 0
    assert entries["0"][1]["ref"] is None
    assert [entries[name][0]["ref"] for name in ("1", "2", "3")] == [0, 0, 0]


def test_masks_that_are_whole_are_cut_as_their_weights_are(two):
    folder, _ = two
    expected = (torch.rand(5, 8, generator=torch.Generator().manual_seed(0)) < 0.5).numpy()
    found = RunReader(folder / "given").load_snapshot(0).layers
    assert np.array_equal(found["0"].mask, expected)
    assert found["0"].values is not None
    assert len(found["0"].values) == expected.sum()
    assert np.array_equal(found["3"].mask, np.eye(3, dtype=bool))
    assert RunReader(folder / "given").steps == [0]


def test_a_callback_begins_on_every_process(two):
    folder, _ = two
    assert sorted(RunReader(folder / "lightning").load_snapshot(0).layers) == ["0", "1", "2", "3"]


def test_tensors_that_are_cut_are_recorded_by_hand(two):
    folder, _ = two
    weight = np.arange(35.0, dtype=np.float32).reshape(5, 7)
    for step in (3, 4):
        found = RunReader(folder / "hand").load_snapshot(step).layers
        for name, number in {"columns": 3, "pair": 2, "mixed": 2, "hybrid": 4, "copies": 5}.items():
            assert np.array_equal(found[name].mask, weight % number == 0)
        for name in ("pair", "mixed"):
            assert np.array_equal(found[name].weight, np.where(weight % 2 == 0, weight, 0))


def test_what_cannot_be_recorded_in_parts_is_refused_with_the_way_out(two):
    _, told = two
    for one in told:
        assert "UsageError: every: the parameters are shared out over processes" in one["no every"]
        assert "UsageError: policy: a snapshot that one process drops is lost for all" in one["drop"]
        assert "layer 'w': the mask and the weight are shared out differently" in one["two ways"]
        assert "layer 'w': the mask or weight has shape (3, 3), expected (5, 7), that of the whole" in one["shape"]
        assert "layer 'w': this process's rows do not lie side by side in the weight" in one["strided"]
        assert "layer 'w': is a sum whose parts are not added up (Partial)" in one["partial"]
    assert "rank 1 heard nothing of the recording from rank 0" in told[1]["alone"]


# The files, without processes


def cut(layer: LayerMask, offset: tuple[int, ...], shape: tuple[int, ...], copy: int = 0) -> LayerMask:
    """One process's block of a layer."""
    block = tuple(slice(o, o + n) for o, n in zip(offset, shape, strict=True))
    weight = None if layer.weight is None else layer.weight[block]
    return LayerMask.from_dense(
        layer.layer, layer.mask[block], weight, groups=layer.groups, part=Part(offset, layer.shape, copy)
    )


def write_shards(path: Path, parts: list[dict[str, LayerMask]], steps=(0,), **options) -> list[ShardWriter]:
    """Write a run as so many processes would."""
    first = RunWriter(path, run_id="run", about={"family": "dense"})
    writers = [ShardWriter(path, "run", rank, len(parts), None, None if rank else first) for rank in range(len(parts))]
    for step in steps:
        for writer, layers in zip(writers, parts, strict=True):
            writer.write_snapshot(Snapshot(step, layers), **options)
    return writers


def rows_of(layer: LayerMask, *sizes: int) -> list[dict[str, LayerMask]]:
    starts = np.cumsum([0, *sizes[:-1]])
    return [{layer.layer: cut(layer, (int(o), 0), (n, layer.shape[1]))} for o, n in zip(starts, sizes, strict=True)]


FC = LayerMask.from_dense("fc", RNG.random((6, 5)) < 0.5, RNG.standard_normal((6, 5)).astype(np.float32))


@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_any_grid_of_parts_makes_the_whole(data: st.DataObject):
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=2, max_size=4)))
    mask = RNG.random(shape) < 0.5
    layer = LayerMask.from_dense("w", mask, RNG.standard_normal(shape).astype(np.float32))
    blocks: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((), ())]
    for size in shape:
        ends = sorted({0, size, *data.draw(st.lists(st.integers(1, size), max_size=2))})
        pieces = [(a, b - a) for a, b in pairwise(ends)]
        blocks = [((*o, a), (*s, n)) for o, s in blocks for a, n in pieces]
    blocks = data.draw(st.permutations([*blocks, (shape, (0,) * len(shape))]))  # and one that holds nothing
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder) / "run", [{"w": cut(layer, *block)} for block in blocks], weights="fp32")
        found = RunReader(Path(folder) / "run").load_layer(0, "w")
    assert found.digest == layer.digest
    assert np.array_equal(found.values, layer.values)
    assert found.shape == shape


@pytest.mark.parametrize("sizes", [(1, 1, 1, 5), (3, 0, 5), (8,), (2, 2, 2, 2)])
@pytest.mark.parametrize("columns", [1, 3, 8, 21])
def test_rows_that_do_not_fill_whole_bytes_are_joined(tmp_path: Path, sizes, columns):
    weight = RNG.standard_normal((8, columns)).astype(np.float32)
    layer = LayerMask.from_dense("w", weight > 0, weight)
    write_shards(tmp_path / "run", rows_of(layer, *sizes), weights="fp32")
    found = RunReader(tmp_path / "run").load_layer(0, "w")
    assert np.array_equal(found.mask, layer.mask)
    assert np.array_equal(found.values, layer.values)


def test_copies_of_a_part_are_written_once(tmp_path: Path):
    rows = [cut(FC, (o, 0), (3, 5), copy) for copy in (0, 1) for o in (0, 3)]
    write_shards(tmp_path / "run", [{"fc": row} for row in rows])
    assert [rank for rank, _ in RunReader(tmp_path / "run").entries(0)[0]["shards"]] == [0, 1]
    assert RunReader(tmp_path / "run").load_layer(0, "fc").digest == FC.digest


@pytest.mark.parametrize(("gone", "named"), [([1], "1"), ([0], "0"), ([0, 2], "0, 2")])
def test_a_missing_shard_is_named_by_its_rank(tmp_path: Path, gone, named):
    write_shards(tmp_path / "run", rows_of(FC, 2, 2, 2), steps=(0, 10))
    for rank in gone:
        (tmp_path / "run" / "masks" / f"step_000000010.rank{rank:05d}.safetensors").unlink()
    reader = RunReader(tmp_path / "run")
    message = rf"rank{gone[0]:05d}\.safetensors: is missing: of the 3 shards of step 10 there is none of rank {named}\."
    with pytest.raises(DamagedStoreError, match=message):
        reader.load_snapshot(10)
    assert reader.load_layer(0, "fc").digest == FC.digest
    analysis = analyze_runs(tmp_path / "run")
    assert [(failure.step, "none of rank" in failure.message) for failure in analysis.failures] == [(10, True)]
    assert analysis.layers["step"].tolist() == [0]


def other(name: str, rows: list[dict[str, LayerMask]]) -> list[dict[str, LayerMask]]:
    """Shards that do not belong together."""
    mask = np.ones((3, 5), dtype=bool)
    if name == "a gap":
        rows[1] = {"fc": cut(FC, (4, 0), (2, 5))}
    elif name == "an overlap":
        rows[1] = {"fc": cut(FC, (2, 0), (4, 5))}
    elif name == "a hole in the grid":
        rows = [{"fc": cut(FC, o, (3, n))} for o, n in (((0, 0), 2), ((0, 2), 3), ((3, 0), 2))]
    elif name == "twice and different":
        rows.append({"fc": LayerMask.from_dense("fc", mask, part=Part((3, 0), (6, 5)))})
    elif name == "another shape":
        rows[1] = {"fc": LayerMask.from_dense("fc", mask, part=Part((3, 0), (6, 6)))}
    elif name == "a part and the whole":
        rows[0] = {"fc": FC}
    return rows


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a gap", r"do not make its shape \(6, 5\): on axis 0 they are 0 to 3, 4 to 6"),
        ("an overlap", r"do not make its shape \(6, 5\): on axis 0 they are 0 to 3, 2 to 6"),
        ("a hole in the grid", r"is in 3 parts where its shape \(6, 5\) needs 4"),
        ("twice and different", "is there twice and differs: on rank 1 and on rank 2"),
        ("another shape", r"has shape \[6, 6\] on rank 1 and \[6, 5\] on rank 0"),
        ("a part and the whole", r"do not make its shape \(6, 5\)"),
    ],
)
def test_parts_that_make_no_whole_are_refused(tmp_path: Path, name, reason):
    write_shards(tmp_path / "run", other(name, rows_of(FC, 3, 3)))
    with pytest.raises(DamagedStoreError, match=rf"rank00000\.safetensors: .*{reason}"):
        RunReader(tmp_path / "run").load_snapshot(0)


def test_shards_that_were_renamed_or_are_of_another_job_are_refused(tmp_path: Path):
    write_shards(tmp_path / "run", rows_of(FC, 3, 3))
    write_shards(tmp_path / "three", rows_of(FC, 2, 2, 2))
    masks = tmp_path / "run" / "masks"
    kept = (masks / "step_000000000.rank00001.safetensors").read_bytes()
    shutil.copy(masks / "step_000000000.rank00000.safetensors", masks / "step_000000000.rank00001.safetensors")
    with pytest.raises(DamagedStoreError, match=r"rank00001\.safetensors: its header is that of rank 0; .* renamed"):
        RunReader(tmp_path / "run").entries(0)
    shutil.copy(tmp_path / "three/masks/step_000000000.rank00001.safetensors", masks)
    with pytest.raises(DamagedStoreError, match="is one of 3 shards, and that of rank 0 one of 2"):
        RunReader(tmp_path / "run").entries(0)
    (masks / "step_000000000.rank00001.safetensors").write_bytes(kept[:-3])
    with pytest.raises(DamagedStoreError, match=r"rank00001\.safetensors: truncated or not a snapshot"):
        RunReader(tmp_path / "run").entries(0)
    (masks / "step_000000000.rank00001.safetensors").write_bytes(kept)
    RunWriter(tmp_path / "whole", run_id="run").write_snapshot(Snapshot(0, {"fc": FC}))
    shutil.copy(tmp_path / "whole/masks/step_000000000.safetensors", masks)
    with pytest.raises(DamagedStoreError, match="step 0 is there in one file, too"):
        RunReader(tmp_path / "run").entries(0)


def test_a_job_of_another_size_goes_on(tmp_path: Path):
    write_shards(tmp_path / "run", rows_of(FC, 2, 2, 2), steps=(0, 10, 20))
    first = RunWriter(tmp_path / "run", resume=True)
    assert first.newest == 20
    writers = [ShardWriter(tmp_path / "run", "run", rank, 2, 10, None if rank else first) for rank in range(2)]
    for writer, layers in zip(writers, rows_of(FC, 3, 3), strict=True):
        writer.write_snapshot(Snapshot(20, layers))
    reader = RunReader(tmp_path / "run")
    assert [reader.snapshot_header(step)["ranks"] for step in reader.steps] == [3, 3, 2]
    assert {reader.load_layer(step, "fc").digest for step in reader.steps} == {FC.digest}


def test_one_process_goes_on_with_a_run_in_shards(tmp_path: Path):
    write_shards(tmp_path / "run", rows_of(FC, 3, 3), steps=(0, 10))
    with MaskRecorder(tmp_path / "run", resume=True) as recorder:
        recorder.rewind(0)
        recorder.snapshot(5, {"fc": FC})
    reader = RunReader(tmp_path / "run")
    assert reader.steps == [0, 5]
    assert len(list((tmp_path / "run/masks/abandoned").rglob("step_000000010.rank*"))) == 2
    assert reader.load_layer(5, "fc").digest == reader.load_layer(0, "fc").digest == FC.digest


def test_steps_of_shards_ascend_and_are_not_overwritten(tmp_path: Path):
    (writer,) = write_shards(tmp_path / "run", [{"fc": FC}], steps=(0, 10))
    for step in (5, 10):
        with pytest.raises(
            RunDirectoryError, match="step 10 is already recorded; steps ascend, and none is overwritten"
        ):
            writer.write_snapshot(Snapshot(step, {"fc": FC}))


def test_a_damaged_mask_is_not_referred_to(tmp_path: Path):
    write_shards(tmp_path / "run", rows_of(FC, 3, 3))
    path = tmp_path / "run/masks/step_000000000.rank00001.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    writer = ShardWriter(tmp_path / "run", "run", 1, 2, 0)
    assert writer.digests == {}
    writer.write_snapshot(Snapshot(10, rows_of(FC, 3, 3)[1]))
    ShardWriter(tmp_path / "run", "run", 0, 2, 0).write_snapshot(Snapshot(10, rows_of(FC, 3, 3)[0]))
    assert RunReader(tmp_path / "run").load_layer(10, "fc").digest == FC.digest
    assert [entry["ref"] for _, entry in RunReader(tmp_path / "run").entries(10)[0]["shards"]] == [0, None]


def test_a_part_is_no_snapshot_of_its_own(tmp_path: Path):
    writer = RunWriter(tmp_path / "run")
    with pytest.raises(MaskError, match=r"layer 'fc' is a part that one of several processes holds.*in all"):
        writer.write_snapshot(Snapshot(0, rows_of(FC, 3, 3)[0]))
    for offset, shape in (((4, 0), (3, 5)), ((-1, 0), (3, 5)), ((0,), (3, 5))):
        with pytest.raises(MaskError, match=r"layer 'fc': a block of shape \(3, 5\) at .* does not lie within"):
            LayerMask.from_dense("fc", np.ones(shape, dtype=bool), part=Part(offset, (6, 5)))


# Who is who


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, ALONE),
        ({"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, Place(1, 4)),
        ({"RANK": "1", "WORLD_SIZE": "4"}, ALONE),  # a batch system's, of processes that may not train together
        ({"RANK": "4", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, ALONE),
        ({"RANK": "x", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, ALONE),
    ],
)
def test_the_place_of_a_process_comes_from_its_launcher(monkeypatch: pytest.MonkeyPatch, environment, place):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert find_place() == place


def test_a_recorder_made_before_the_process_group_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    recorder, own = (MaskRecorder(tmp_path / ranks, ranks=ranks) for ranks in ("together", "each"))
    monkeypatch.setattr("sift_graph.record.find_place", lambda: Place(1, 2))
    with pytest.raises(
        UsageError, match=r"made before this process knew to be rank 1 of 2; make it after init_process"
    ):
        recorder.snapshot(0, {"fc": FC})
    assert own.snapshot(0, {"fc": FC})
    for one in (recorder, own):
        one.close()


def test_a_rank_that_is_not_the_first_makes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with MaskRecorder(tmp_path / "run") as recorder:
        assert not recorder.snapshot(0, {"fc": FC})
        recorder.log({"step": 0})
        recorder.flush()
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match=r"call torch.distributed.init_process_group\(\) before attaching"):
        MaskRecorder(tmp_path / "run", check_ranks=True).snapshot(0, {"fc": FC})
    with pytest.raises(UsageError, match="check_ranks: expected True, or every how many steps, found -1"):
        MaskRecorder(tmp_path / "run", check_ranks=-1)
