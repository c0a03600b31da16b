"""Cost of recording: ``python -m analysis.benchmarks.recorder [--quick] [--markdown]``.

The model has the 20 sparse layers of Sparse Wide ResNet-18 at 90 %, 111.8 M weights. Every line is measured in this
run, on one thread: what the training thread pays for a snapshot (to look its masks up, pack, compare and hash them,
and to copy the weights under them) against ``W.clone()`` of all weights, in turns; what the background pays and
writes; and what other ways of saving the same masks take. ``--quick`` takes a tenth of the widths: it shows that the
script works.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from analysis.benchmarks import workloads as wl
from analysis.benchmarks.report import Table, median_seconds, milliseconds
from sift_graph.masks import LayerMask, Snapshot
from sift_graph.record import MaskRecorder
from sift_graph.sources import find_masks
from sift_graph.store import RunWriter
from sift_graph.store.snapshot import encode_snapshot

DENSITY = 0.1


@dataclass(frozen=True, eq=False)
class Workload:
    """A model, and its masks as libraries keep them."""

    model: nn.Module
    masks: dict[str, torch.Tensor]
    floats: dict[str, torch.Tensor]

    @classmethod
    def make(cls, shapes: list[tuple[int, int]]) -> Workload:
        """Weights that are zero off their masks."""
        layers, masks = nn.Sequential(), {}
        for number, (n_left, n_right) in enumerate(shapes):
            layer = nn.Linear(n_left, n_right, bias=False)
            mask = torch.from_numpy(wl.uniform_mask(n_left, n_right, DENSITY, seed=number))
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(wl.weights_on(mask.numpy(), seed=number)))
            layers.append(layer)
            masks[f"{number}.weight"] = mask
        return cls(layers, masks, {name: mask.float() for name, mask in masks.items()})

    @property
    def weights(self) -> list[torch.Tensor]:
        return [parameter.detach() for parameter in self.model.parameters()]

    @property
    def size(self) -> int:
        return sum(weight.numel() for weight in self.weights)


def look(workload: Workload, masks: Any, *, weights: bool = False, from_zeros: bool = False) -> dict[str, LayerMask]:
    """Do what a hook does at a step: find and pack the masks, hash them."""
    found = find_masks(workload.model, masks=masks, from_zeros=from_zeros, weights=weights)
    for layer in found.values():
        layer.digest
    return found


def training_thread(table: Table, workload: Workload, repeats: int) -> None:
    """What a step at which the masks are looked at costs, against a copy of the weights."""

    def clone() -> list[torch.Tensor]:
        return [weight.clone() for weight in workload.weights]

    def add(goal: str, what: str, call: Callable[[], object]) -> None:
        call()
        times = [(median_seconds(f, 1, warm=False) for f in (call, clone)) for _ in range(repeats)]
        ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
        table.ratio(goal, what, ours, theirs, "W.clone()", 8 if goal else None)

    add("P11", "look at bool masks: find, pack, hash", lambda: look(workload, workload.masks))
    add("P11", "look at float32 masks (torch.nn.utils.prune): the same", lambda: look(workload, workload.floats))
    add("P11", "look at weight != 0: the same", lambda: look(workload, None, from_zeros=True))
    add(
        "",
        "snapshot of bool masks with the weights that they keep",
        lambda: look(workload, workload.masks, weights=True),
    )
    add("", "numpy's packbits of bool masks alone", lambda: [np.packbits(m.numpy()) for m in workload.masks.values()])


def log_choices(n: int, k: int) -> float:
    """Bits that name k of n things."""
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)


def background(table: Table, workload: Workload, repeats: int, folder: Path) -> None:
    """What the thread that writes does, and what is on disk then."""
    layers = look(workload, workload.masks, weights=True)
    moved = {f"{name}.weight": torch.from_numpy(layer.mask) for name, layer in layers.items()}
    for mask in moved.values():  # 5 % of the edges somewhere else
        flat, generator = mask.reshape(-1), np.random.default_rng(0)
        count = int(0.05 * DENSITY * flat.numel())
        kept, free = flat.nonzero().reshape(-1).numpy(), (~flat).nonzero().reshape(-1).numpy()
        flat[generator.choice(kept, count, replace=False)] = False
        flat[generator.choice(free, count, replace=False)] = True
    later = look(workload, moved, weights=True)
    writer = RunWriter(folder / "ours")
    writer.write_snapshot(Snapshot(0, layers))
    held, bits = writer._held, sum(layer.bits.nbytes for layer in layers.values())
    moves = sum(int((mask.numpy() & ~layers[name.removesuffix(".weight")].mask).sum()) for name, mask in moved.items())
    edges = sum(layer.edges for layer in layers.values())
    entropy = (log_choices(edges, moves) + log_choices(workload.size - edges, moves)) / 8e6
    alone = len(encode_snapshot(Snapshot(1, later), held, run_id=writer.run_id, weights="none").data) / 1e6
    what = f"size of a snapshot with {moves / edges:.0%} of the edges moved, not packed yet"
    table.add("", what, f"{alone:.1f} MB: x{alone / entropy:.1f}", f"entropy: {entropy:.2f} MB")
    for what, snapshot, policy in (
        ("masks, all of them moved", Snapshot(1, later), "none"),
        ("masks and weights in fp16, all of them moved", Snapshot(1, later), "fp16"),
        ("weights in fp16, no mask moved", Snapshot(1, layers), "fp16"),
    ):
        encoded = encode_snapshot(snapshot, held, run_id=writer.run_id, weights=policy)
        cpu = time.process_time()
        seconds = median_seconds(
            lambda s=snapshot, p=policy: encode_snapshot(s, held, run_id=writer.run_id, weights=p), repeats, warm=False
        )
        cpu = (time.process_time() - cpu) / repeats
        size = f"{len(encoded.data) / 1e6:.1f} MB ({len(encoded.data) / bits:.2f} of the packed bits)"
        table.add("", f"background: {what}", f"{milliseconds(seconds)}, {milliseconds(cpu)} of CPU", size)

    def whole() -> None:
        shutil.rmtree(folder / "whole", ignore_errors=True)
        with MaskRecorder(folder / "whole") as recorder:
            recorder.snapshot(0, {name: (workload.masks[name], w) for name, w in named.items()})

    named = {f"{name}.weight": module.weight for name, module in workload.model.named_modules() if name}
    seconds = median_seconds(whole, repeats)
    table.add("", "whole: a run of one snapshot with fp16 weights, on disk and synced", milliseconds(seconds))


def others(table: Table, workload: Workload, repeats: int, folder: Path) -> None:
    """Other ways to have the same masks on disk; none of them syncs."""
    dense = sum(mask.numel() for mask in workload.masks.values()) / 1e6

    def add(what: str, call: Callable[[Path], object]) -> None:
        path = folder / what.replace(" ", "_").replace("/", "_")

        def fresh() -> None:
            shutil.rmtree(path, ignore_errors=True)
            path.unlink(missing_ok=True)
            call(path)

        seconds = median_seconds(fresh, repeats)
        files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        size = sum(p.stat().st_size for p in files) / 1e6
        table.add("", f"others: {what}", milliseconds(seconds), f"{size:.1f} MB of {dense:.1f} MB of bools")

    def ours(path: Path) -> None:
        RunWriter(path).write_snapshot(Snapshot(0, look(workload, workload.masks)), weights="none")

    add("ours, packed, hashed, synced", ours)
    add("torch.save of the bool masks", lambda path: torch.save(workload.masks, path))
    add("torch.save of the float32 masks", lambda path: torch.save(workload.floats, path))
    from safetensors.torch import save_file

    add("safetensors of the bool masks", lambda path: save_file(workload.masks, path))

    def zipped(path: Path) -> None:
        with path.open("wb") as file:
            np.savez_compressed(file, **{name: np.packbits(mask.numpy()) for name, mask in workload.masks.items()})

    add("numpy savez_compressed of the packed masks", zipped)
    if find_spec("zarr") is None:
        table.add("", "others: zarr of the bool masks", "not installed: skipped")
        return
    import zarr

    def in_zarr(path: Path) -> None:
        group = zarr.open_group(path, mode="w")
        for name, mask in workload.masks.items():
            group.create_array(name, data=mask.numpy())

    add("zarr of the bool masks", in_zarr)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the widths")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    shapes = wl.resnet18_layers(0.90)
    if options.quick:
        shapes = [(max(n_left // 10, 8), max(n_right // 10, 8)) for n_left, n_right in shapes]
    workload = Workload.make(shapes)
    table = Table(options.markdown)
    table.add("", "the model", f"{len(shapes)} layers, {workload.size / 1e6:.1f} M weights")
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as directory:
        training_thread(table, workload, options.repeats)
        background(table, workload, options.repeats, Path(directory))
        others(table, workload, options.repeats, Path(directory))
    table.close("python -m analysis.benchmarks.recorder --markdown")


if __name__ == "__main__":
    main()
