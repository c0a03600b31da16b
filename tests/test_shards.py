"""Shards without processes: any parts that make a whole are one, and others are refused by name."""

from __future__ import annotations

import shutil
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sift_graph.errors import DamagedStoreError, MaskError, RunDirectoryError
from sift_graph.masks import LayerMask, Part, Snapshot
from sift_graph.record import MaskRecorder
from sift_graph.store import RunReader, RunWriter, ShardWriter
from sift_graph.table import analyze_runs

RNG = np.random.default_rng(0)


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
