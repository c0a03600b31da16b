"""Size of packed masks: ``python -m analysis.benchmarks.packing [--quick] [--markdown]``.

The masks of Sparse Wide ResNet-18 at s = 0.9 move by a share of their edges; what a change takes is held against the
entropy of the new mask given the old one and how many edges are dropped and grown: no code that takes every set of as
many for equally likely is shorter. Then a whole run is packed, and one mask and all of them are read again.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import zstandard

from analysis.benchmarks import workloads as wl
from analysis.benchmarks.report import Table, median_seconds, milliseconds
from sift_graph.masks import LayerMask, Snapshot
from sift_graph.store import RunReader, RunWriter
from sift_graph.store.deltas import encode_change, forget
from sift_graph.store.packing import pack_run

MOVED = (0.005, 0.05, 0.1, 0.2, 0.3)
GOAL = 1.05


def moved(mask: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Drop a share of the edges, and grow as many elsewhere."""
    flat = mask.reshape(-1).copy()
    on, off = np.flatnonzero(flat), np.flatnonzero(~flat)
    count = round(share * on.size)
    flat[rng.choice(on, count, replace=False)] = False
    flat[rng.choice(off, count, replace=False)] = True
    return flat.reshape(mask.shape)


def entropy_bytes(old: np.ndarray, new: np.ndarray) -> float:
    """Entropy of a mask given another one: which of its edges are dropped, which of its zeros are grown."""
    total = 0.0
    for among, changed in ((old, old & ~new), (~old, new & ~old)):
        n, k = int(among.sum()), int(changed.sum())
        if 0 < k < n:
            p = k / n
            total -= n * (p * math.log2(p) + (1 - p) * math.log2(1 - p)) / 8
    return total


def pack(mask: np.ndarray) -> np.ndarray:
    return np.packbits(mask.reshape(-1), bitorder="little")


def sizes(table: Table, quick: bool) -> None:
    """What the changes of one snapshot take."""
    shapes = [wl.MID, wl.SMALL] if quick else wl.resnet18_layers(0.9)
    rng = np.random.default_rng(0)
    masks = [wl.uniform_mask(*shape, 0.1, seed=i) for i, shape in enumerate(shapes)]
    entries = sum(mask.size for mask in masks)
    zstd = zstandard.ZstdCompressor(level=1)
    whole = sum(len(zstd.compress(pack(mask).tobytes())) for mask in masks)
    dense = 4 * entries
    table.add(
        "", f"{len(masks)} masks, {entries:,} entries, whole", f"{whole / 1e6:.2f} MB", f"float32 {dense / 1e6:.0f} MB"
    )
    for share in MOVED:
        size = limit = xor = 0.0
        for mask in masks:
            new = moved(mask, share, rng)
            frames = encode_change(pack(mask), pack(new))
            assert frames is not None
            size += sum(frame.size for frame in frames.values())
            limit += entropy_bytes(mask, new)
            xor += len(zstd.compress((pack(mask) ^ pack(new)).tobytes()))
        against = f"entropy {limit / 1e6:.3f} MB, XOR+zstd {xor / 1e6:.2f} MB"
        goal = ("P12", f"<= {GOAL}x entropy", size / limit <= GOAL) if share >= 0.05 else ("", "", None)
        what = f"change, {share:.1%} of the edges moved"
        table.add(
            goal[0],
            what,
            f"{size / 1e6:.3f} MB: {size / limit:.3f}x; 1/{dense / size:.0f} of float32",
            against,
            *goal[1:],
        )


def speed(table: Table, quick: bool) -> None:
    """What it takes to code the change of the largest layer, and to read it."""
    shape = wl.MID if quick else wl.LARGE
    rng = np.random.default_rng(0)
    mask = wl.uniform_mask(*shape, 0.1)
    for share in (0.05, 0.3):
        new = moved(mask, share, rng)
        old_bits, new_bits = pack(mask), pack(new)
        seconds = median_seconds(lambda a=old_bits, b=new_bits: encode_change(a, b))
        table.add("", f"to code a change, {shape[1]}x{shape[0]}, {share:.0%} moved", milliseconds(seconds))


def whole_run(table: Table, quick: bool) -> None:
    """Pack a run, and read it."""
    shapes = {
        f"layer{i}": shape for i, shape in enumerate([wl.MID, wl.SMALL] if quick else [wl.LARGE, wl.MID, wl.SMALL])
    }
    rng = np.random.default_rng(0)
    count = 6 if quick else 20
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "run"
        writer = RunWriter(path)
        masks = {name: wl.uniform_mask(*shape, 0.1) for name, shape in shapes.items()}
        for step in range(count):
            writer.write_snapshot(Snapshot(step, {n: LayerMask.from_dense(n, m) for n, m in masks.items()}))
            masks = {name: moved(mask, 0.1, rng) for name, mask in masks.items()}
        del masks
        before = read_times(path)
        begin = time.perf_counter()
        result = pack_run(path)
        seconds = time.perf_counter() - begin
        after = read_times(path)
    small, large = result.bytes_after / 1e6, result.bytes_before / 1e6
    entries = sum(a * b for a, b in shapes.values())
    what = f"a run of {count} snapshots, {entries:,} entries, 10 % moved"
    table.add("", what, f"{small:.1f} MB, packed in {seconds:.1f} s", f"before {large:.1f} MB")
    for name, a, b in zip(
        ("the farthest mask of the largest layer", "all masks, step by step"), after, before, strict=True
    ):
        table.add("", f"to read {name}", milliseconds(a), f"before {milliseconds(b)}")


def read_times(path: Path) -> tuple[float, float]:
    """Seconds to read one mask that is as many changes away as any, and all."""
    reader = RunReader(path)
    farthest = min(15, reader.steps[-1])

    def one() -> None:
        forget()
        reader.load_layer(farthest, "layer0")

    def everything() -> None:
        forget()
        for step in reader.steps:
            reader.load_snapshot(step)

    return median_seconds(one), median_seconds(everything, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small layers, a few seconds")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    table = Table(options.markdown)
    for section in (sizes, speed, whole_run):
        section(table, options.quick)
    table.close("python -m analysis.benchmarks.packing " + " ".join(sys.argv[1:]))


if __name__ == "__main__":
    main()
