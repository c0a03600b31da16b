"""Masks stored as changes: coded as the format says, read again, and refused where they lie."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import xxhash
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from sift_graph.errors import DamagedStoreError
from sift_graph.masks import LayerMask, Snapshot
from sift_graph.store import RunReader, RunWriter
from sift_graph.store.deltas import _longest, encode_change, forget, read_bits
from sift_graph.store.packing import pack_run
from tests.moving_runs import STEPS, assert_same, read, write_moving_run
from tests.runs import move
from tests.test_store import damage_found, rewrite


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_moving_run(tmp_path / "run")


@st.composite
def pairs(draw):
    """Two masks of one size: from nothing moved to everything, from empty to full."""
    size = draw(st.integers(1, 3000))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    old = rng.random(size) < draw(st.sampled_from([0, 0.002, 0.1, 0.5, 1]))
    new = old ^ (rng.random(size) < draw(st.sampled_from([0, 0.001, 0.05, 0.5, 1])))
    return old, new


def by_hand(candidates: np.ndarray, changed: np.ndarray) -> bytes:
    """The list of gaps, as the format says it."""
    out, before = bytearray(), 0
    for rank in np.flatnonzero(changed[candidates]).tolist():
        out += bytes([255] * ((rank - before) // 255) + [(rank - before) % 255])
        before = rank + 1
    return bytes(out)


@given(pair=pairs())
@settings(deadline=None, max_examples=80)
def test_changes_are_coded_as_the_format_says(pair):
    old, new = pair
    packed = [np.packbits(mask, bitorder="little") for mask in pair]
    frames = encode_change(*packed)
    expected = {"drop": by_hand(np.flatnonzero(old), ~new), "grow": by_hand(np.flatnonzero(~old), new)}
    if max(map(len, expected.values())) > _longest(packed[0].size):
        assert frames is None
    else:
        assert {name: zstandard.decompress(frame.tobytes()) for name, frame in frames.items()} == expected


@given(pair=pairs())
@settings(deadline=None, max_examples=30)
def test_changes_are_read_as_they_were_written(tmp_path_factory, pair):
    path = tmp_path_factory.mktemp("pair") / "run"
    writer = RunWriter(path)
    for step, mask in enumerate(pair):
        layer = LayerMask.from_dense("fc", np.concatenate([mask, np.zeros(9000, bool)])[None])
        writer.write_snapshot(Snapshot(step, {"fc": layer}))
    before = read(path)
    pack_run(path)
    assert_same(read(path), before)


def test_the_size_is_near_the_entropy_of_what_moved():
    rng = np.random.default_rng(0)
    old = rng.random((400, 3600)) < 0.1
    new = move(old, rng, 0.1)
    frames = encode_change(*(np.packbits(mask, bitorder="little") for mask in (old, new)))
    bits = 0.0
    for among, changed in ((old, old & ~new), (~old, new & ~old)):
        p = changed.sum() / among.sum()
        bits -= among.sum() * (p * math.log2(p) + (1 - p) * math.log2(1 - p))
    assert 1 < sum(frame.size for frame in frames.values()) * 8 / bits < 1.05


def test_a_walk_through_the_steps_reads_each_file_once(run, monkeypatch):
    from sift_graph.store import deltas

    pack_run(run)
    forget()
    opened: list[str] = []
    real = deltas.open_snapshot
    monkeypatch.setattr(deltas, "open_snapshot", lambda path: (opened.append(path.name), real(path))[1])
    reader = RunReader(run)
    for step in STEPS:
        bits = read_bits(reader.path, step, "fc", math.ceil(60 * 101 / 8))
        (entry,) = [e for e in reader.entries(step) if e["name"] == "fc"]
        assert xxhash.xxh3_128_hexdigest(bits.data) == entry["xxh3"]
    assert len(opened) == 7  # the first twice: a whole mask is kept only once it was needed for another


def test_no_altered_byte_of_a_packed_snapshot_goes_unnoticed(tmp_path):
    rng = np.random.default_rng(0)
    masks = [rng.random((100, 90)) < 0.05]
    masks.append(move(masks[0], rng, 0.03))
    writer = RunWriter(tmp_path / "run")
    for step, mask in enumerate(masks):
        writer.write_snapshot(Snapshot(step, {"fc": LayerMask.from_dense("fc", mask)}))
    pack_run(tmp_path / "run")
    before = read(tmp_path / "run")
    path = RunReader(tmp_path / "run").path(1)
    data = path.read_bytes()
    assert b"grow/fc" in data
    harmless = 0
    for position in range(0, len(data)):
        altered = bytes([data[position] ^ (1 << position % 8)])
        path.write_bytes(data[:position] + altered + data[position + 1 :])
        found = damage_found(tmp_path / "run", 1)
        if found is None:  # a bit without meaning: in the name of the header's own hash, or in a zstd frame
            harmless += 1
            assert_same(read(tmp_path / "run"), before)
        else:
            assert str(path) in found
    assert harmless < 20


def test_a_damaged_base_is_named_by_those_that_need_it(run):
    pack_run(run)
    forget()
    path = RunReader(run).path(10)
    path.unlink()
    with pytest.raises(DamagedStoreError, match=r"step_000000010\.safetensors: is missing"):
        RunReader(run).load_layer(30, "fc")
    RunReader(run).load_layer(0, "fc")


LIES = {
    "base at itself": lambda e, t: e.update(base=10),
    "base ahead": lambda e, t: e.update(base=20),
    "base is text": lambda e, t: e.update(base="../0"),
    "base without a hash": lambda e, t: e.update(base_xxh3=None),
    "another base": lambda e, t: e.update(base_xxh3="0" * 32),
    "no base": lambda e, t: e.update(base=None, base_xxh3=None),
    "another hash": lambda e, t: e.update(xxh3="0" * 32),
    "another shape": lambda e, t: e.update(shape=[6000, 101]),
    "no drops": lambda e, t: t.pop("drop/moving"),
    "drops and grows exchanged": lambda e, t: t.update(
        {"drop/moving": t["grow/moving"], "grow/moving": t["drop/moving"]}
    ),
    "beyond the mask": lambda e, t: t.update({"grow/moving": frame(bytes([255] * 100 + [0]))}),
    "ends in a gap": lambda e, t: t.update({"grow/moving": frame(b"\xff")}),
    "bomb": lambda e, t: t.update({"grow/moving": frame(bytes(1 << 28))}),
    "no frame": lambda e, t: t.update({"grow/moving": np.zeros(4, np.uint8)}),
    "another type": lambda e, t: t.update({"grow/moving": np.zeros(4, np.float32)}),
    "codec of a whole mask": lambda e, t: e.update(codec="zstd"),
}


def frame(data: bytes) -> np.ndarray:
    return np.frombuffer(zstandard.ZstdCompressor(write_content_size=True).compress(data), np.uint8)


@pytest.mark.parametrize("lie", LIES)
def test_a_change_that_lies_is_refused(tmp_path, lie):
    rng = np.random.default_rng(0)
    writer = RunWriter(tmp_path / "run")
    mask = rng.random((60, 101)) < 0.2
    for step in (0, 10, 20):
        writer.write_snapshot(Snapshot(step, {"moving": LayerMask.from_dense("moving", mask)}))
        mask = move(mask, rng, 0.05)
    pack_run(tmp_path / "run")
    forget()
    path = RunReader(tmp_path / "run").path(10)
    rewrite(path, lambda entry, tensors, header: LIES[lie](entry, tensors))
    with pytest.raises(DamagedStoreError, match=r"step_0000000\d0\.safetensors: "):
        RunReader(tmp_path / "run").load_snapshot(10)
