"""What a stranger may hand over, whole and altered: the files, how each is read, and ways to alter it."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from safetensors.numpy import load, save

from sift_graph.doctor import examine
from sift_graph.importers import read_masks
from sift_graph.masks import LayerMask, Part, Snapshot
from sift_graph.mending import repair
from sift_graph.network_means import training_history
from sift_graph.network_work import load_network
from sift_graph.store import RunReader, RunWriter, ShardWriter
from sift_graph.store.packing import pack_run, unpack_run
from sift_graph.table import analyze_runs

__all__ = ["TARGETS", "Target", "alter_bytes", "alter_header", "alter_json", "make_run"]

WORDS: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 10**400, -(10**12), 0.5, -0.0, 1e308, float("nan"), float("inf"),
    "", "../../../etc/passwd", "<script>alert(1)</script>", "\ud800", "\x00\x1b[31m", "x" * 5000, "fc", "mask/fc",
    [], {}, [[]], [1, 2], [10**6, 10**6], [-1, 4], [0, 4], [4.0, 4], [True, 4], ["4", "4"], [1] * 64,
    [[0, 10**12, 1]], [[0, 1, 10**12]], [[-5, 3, 1]], {"a": {"b": []}},
]  # fmt: skip


def deep(levels: int = 3000) -> str:
    """JSON nested so deep that a parser which recurses falls over."""
    return "[" * levels + "]" * levels


def make_run(path: Path) -> Path:
    """Record a small run: two layers, three steps, weights, metrics, a graph, and the rows of an analysis."""
    rng = np.random.default_rng(0)
    plain = {"groups": 1, "geometry": None}
    graph = {
        "origin": "traced",
        "inputs": [{"first": 0, "size": 6}],
        "layers": [
            {"layer": "fc1", "shape": [8, 6], "first": 6, "size": 8, "reads": [[0, 6, 1]], **plain},
            {"layer": "fc2", "shape": [5, 8], "first": 14, "size": 5, "reads": [[6, 8, 1]], **plain},
        ],
        "sums": [],
        "outputs": [[14, 5, 1]],
        "gates": [],
        "unplaced": {},
    }
    writer = RunWriter(path, about={"family": "sparse_wide", "sparsity": 0.5, "seed": 0}, run_id="stress")
    writer.write_graph(graph)
    moving = rng.random((8, 6)) < 0.5
    for step in (0, 10, 20):
        layers = {
            "fc1": LayerMask.from_dense("fc1", np.roll(moving, step), rng.standard_normal((8, 6)).astype("f")),
            "fc2": LayerMask.from_dense("fc2", np.eye(5, 8, dtype=bool)),
        }
        writer.write_snapshot(Snapshot(step, layers, epoch=step / 10, wall_time=0.0))
        writer.append_metrics({"step": step, "epoch": step / 10, "loss": 1.0, "val_accuracy": 0.5})
    analyze_runs(path, metrics=["core", "effective_sparsity"])
    return path


def read_run(path: Path) -> None:
    """Do what the commands do with a run: load everything, measure, and keep."""
    reader = RunReader(path.parent.parent if path.parent.name == "masks" else path.parent)
    training_history(reader)
    for step in reader.steps:
        load_network(reader, step)


def analyze(path: Path) -> None:
    """Measure a run, whichever of its files was altered."""
    run_dir = next(parent for parent in path.parents if (parent / "sift.json").exists())
    analysis = analyze_runs(run_dir, metrics=["core", "effective_sparsity"])
    for failure in analysis.failures:
        if "unexpected" in failure.message:  # a worker caught what it should have foreseen
            raise RuntimeError(failure.message)


def make_shards(folder: Path) -> Path:
    """Record a small run as two processes do."""
    first = RunWriter(folder / "run", run_id="stress")
    rng = np.random.default_rng(0)
    for rank in range(2):
        writer = ShardWriter(folder / "run", "stress", rank, 2, None, first if rank == 0 else None)
        for step in (0, 10):
            part = Part((3 * rank, 0), (6, 5))
            weight = rng.standard_normal((3, 5)).astype("f")
            layers = {"fc": LayerMask.from_dense("fc", weight > 0, weight, part=part)}
            if rank == 0:
                layers["head"] = LayerMask.from_dense("head", np.eye(4, 6, dtype=bool))
            writer.write_snapshot(Snapshot(step, layers))
    return folder / "run" / "masks" / "step_000000010.rank00001.safetensors"


def make_packed(folder: Path) -> Path:
    """Record a run whose masks change a little, and pack it."""
    writer = RunWriter(folder / "run", run_id="stress")
    mask = np.random.default_rng(0).random((60, 70)) < 0.5
    for step in range(4):
        mask[step, : 5 + step] ^= True
        writer.write_snapshot(Snapshot(step, {"fc": LayerMask.from_dense("fc", mask)}))
    pack_run(folder / "run")
    return folder / "run" / "masks" / "step_000000002.safetensors"


def read_kept_run(path: Path) -> None:
    """Read a run in every way that keeping it does, and mend it."""
    read_run(path)
    run_dir = path.parent.parent
    examine(run_dir)
    repair(run_dir)
    pack_run(run_dir)
    unpack_run(run_dir)


def make_nulls(folder: Path) -> Path:
    """Record a small run, and compare it with random masks."""
    run = make_run(folder / "run")
    analyze_runs(run, null="er", n_null=3, null_metrics=["sigma_2"])
    return run / "analysis" / "nulls.jsonl"


def import_file(path: Path) -> None:
    """Read the masks of a file, derived ones too."""
    read_masks(path, from_zeros=True)


def make_npz(path: Path) -> Path:
    """Save masks as numpy does."""
    rng = np.random.default_rng(0)
    arrays = {"mask/fc": np.eye(9) == 1, "weight/fc": rng.standard_normal((9, 9)), "groups/fc": np.array(3)}
    np.savez_compressed(path, **arrays)
    return path


def make_safetensors(path: Path) -> Path:
    """Save masks as safetensors."""
    rng = np.random.default_rng(0)
    arrays = {"fc.weight": rng.standard_normal((9, 9)).astype("f"), "fc.weight_mask": np.eye(9, dtype=np.uint8)}
    path.write_bytes(save(arrays))
    return path


def make_checkpoint(path: Path, *, zipped: bool = True) -> Path:
    """Save masks as torch does, in the format of today or of before 1.6."""
    import torch

    state = {"fc.weight": torch.arange(81.0).reshape(9, 9), "fc.weight_mask": torch.eye(9).bool()}
    torch.save({"epoch": 3, "state_dict": state}, path, _use_new_zipfile_serialization=zipped)
    return path


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes
    ----------
    make : callable
        Writes a whole one into a directory and gives its path.
    read : callable
        Reads it; raises SiftGraphError where it is damaged.
    alter : tuple of callables
        Each takes bytes and a random generator, and gives altered bytes.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], None]
    alter: tuple[Callable[[bytes, random.Random], bytes], ...]


def alter_bytes(data: bytes, chance: random.Random) -> bytes:
    """Flip bits, cut, repeat, insert, or overwrite a number."""
    body = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 4, 16])):
        at = chance.randrange(len(body) + 1)
        kind = chance.randrange(6)
        if kind == 0 and at < len(body):
            body[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del body[at:]
        elif kind == 2:
            del body[at : at + chance.randrange(1, 64)]
        elif kind == 3:
            body[at:at] = chance.randbytes(chance.randrange(1, 32))
        elif kind == 4:
            body[at : at + 64] = body[at : at + 64] * chance.randrange(1, 5)
        else:
            number = chance.choice([0, 1, 0x7F, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1])
            size = chance.choice([1, 2, 4, 8])
            body[at : at + size] = (number % 256**size).to_bytes(size, "little")
    return bytes(body)


def _places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
        found.append((value, key))
        if isinstance(item, dict | list):
            _places(item, found)
    return found


def alter_json(data: bytes, chance: random.Random) -> bytes:
    """Put something else in the place of some values of a JSON document, name a key twice, or nest it deep."""
    try:
        content = json.loads(data)
        places = _places(content, [])
    except (ValueError, AttributeError, TypeError):
        return alter_bytes(data, chance)
    for _ in range(chance.choice([1, 1, 2, 3])):
        where, key = chance.choice(places)
        kind = chance.randrange(4)
        if kind == 0 and isinstance(where, dict):
            where.pop(key, None)
        elif kind == 1 and isinstance(where, list):
            where.append(chance.choice(WORDS))
        elif isinstance(where, dict) or key < len(where):
            where[key] = chance.choice(WORDS)
    text = json.dumps(content)
    kind = chance.randrange(12)
    if kind == 0:
        text = text.replace("{", '{"name": 1, "name": 2, ', 1)
    elif kind == 1:
        text = text.replace("[", deep() + ", [", 1)
    elif kind == 2:
        text = text.replace("1", "1" * chance.choice([30, 5000]), 1)
    return text.encode()


def alter_header(data: bytes, chance: random.Random) -> bytes:
    """Alter a snapshot as someone who knows the format can: its header, under a hash that is right."""
    size = int.from_bytes(data[:8], "little") + 8
    sift = json.loads(data[8:size])["__metadata__"]["sift"]
    text = alter_json(sift.encode(), chance).decode()
    tensors = load(data)
    if tensors and chance.randrange(4) == 0:
        name = chance.choice(list(tensors))
        shapes: list[Any] = [np.zeros(0, np.uint8), np.zeros((3, 3), np.float16), np.full(7, np.nan, np.float32)]
        tensors[name] = chance.choice([*shapes, np.frombuffer(chance.randbytes(40), np.uint8)])
    return bytes(save(tensors, metadata={"sift": text, "xxh3": xxhash.xxh3_128_hexdigest(text.encode())}))


def alter_lines(data: bytes, chance: random.Random) -> bytes:
    """Alter a line of a file of JSON objects."""
    lines = data.splitlines()
    at = chance.randrange(len(lines))
    lines[at] = alter_json(lines[at], chance)
    return b"\n".join(lines) + b"\n"


def alter_members(data: bytes, chance: random.Random) -> bytes:
    """Alter what is in a zip archive, under checksums that are right."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(out, "w") as altered:
        names = archive.namelist()
        chosen = chance.choice(names)
        for name in names:
            content = archive.read(name)
            kind = chance.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
            content = alter_bytes(content, chance) if name == chosen else content
            altered.writestr(name, content, zipfile.ZIP_STORED if name != chosen else kind)
    return out.getvalue()


def _file_of(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (found,) = make_run(folder / "run").glob(name)
        return found

    return make


TARGETS: dict[str, Target] = {
    "sift.json": Target(_file_of("sift.json"), analyze, (alter_bytes, alter_json, alter_json)),
    "snapshot": Target(_file_of("masks/*10.safetensors"), read_run, (alter_bytes, alter_header, alter_header)),
    "shard": Target(make_shards, read_run, (alter_bytes, alter_header, alter_header)),
    "packed": Target(make_packed, read_run, (alter_bytes, alter_header, alter_header)),
    "kept": Target(make_packed, read_kept_run, (alter_bytes, alter_header)),
    "nulls.jsonl": Target(make_nulls, analyze, (alter_bytes, alter_lines, alter_lines)),
    "metrics.jsonl": Target(_file_of("metrics.jsonl"), analyze, (alter_bytes, alter_lines)),
    "rows.jsonl": Target(_file_of("analysis/*/rows.jsonl"), analyze, (alter_bytes, alter_lines, alter_lines)),
    "network.jsonl": Target(_file_of("analysis/*/network.jsonl"), analyze, (alter_bytes, alter_lines)),
    "npz": Target(lambda folder: make_npz(folder / "a.npz"), import_file, (alter_bytes, alter_members)),
    "safetensors": Target(lambda folder: make_safetensors(folder / "a.safetensors"), import_file, (alter_bytes,)),
    "pt": Target(lambda folder: make_checkpoint(folder / "a.pt"), import_file, (alter_bytes, alter_members)),
    "old pt": Target(
        lambda folder: make_checkpoint(folder / "a.pt", zipped=False), import_file, (alter_bytes, alter_bytes)
    ),
}
