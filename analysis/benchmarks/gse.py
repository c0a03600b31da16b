"""Time and peak memory of one mask update over layer widths: GSE on a sparse layer against RigL on a dense one.

A square layer of width n keeps 10 (n + n) weights, as an Erdos-Renyi layer does, so that its density falls as 1/n. GSE
holds positions and values of the active weights only; RigL forms the dense gradient. Each measurement is a process of
its own; memory is the rise of its peak resident size over that before the update.

    python analysis/benchmarks/gse.py --out analysis/benchmarks/gse.csv
"""

from __future__ import annotations

import argparse
import csv
import math
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from sift_graph.sparsify import MaskSet, MethodOptions, Schedule
from sift_graph.sparsify.exploration import SAMPLINGS, exchange, pair_gradients, propose
from sift_graph.sparsify.rewire import rigl

BATCH = 64
DEGREE = 10
FRACTION = 0.2
REPEATS = 5


def explore(width: int, sampling: str) -> list[float]:
    """Seconds of GSE updates of a sparse layer."""
    generator = np.random.default_rng(0)
    active = np.unique(generator.integers(0, width * width, 2 * DEGREE * width))
    weights = generator.standard_normal(len(active)).astype(np.float32)
    h, delta = torch.randn(BATCH, width), torch.randn(BATCH, width)
    signs = torch.from_numpy(generator.integers(0, 2, BATCH) * 2.0 - 1).float()
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        left, right = (SAMPLINGS[sampling](x, signs).abs().double().numpy()[None] for x in (h, delta))
        candidates = propose(active, left, right, len(active), generator)
        gradients = pair_gradients(h, delta, torch.from_numpy(candidates)).abs().numpy()
        count = min(math.ceil(FRACTION * len(active)), len(candidates))
        exchange(active, np.abs(weights), candidates, gradients, count)
        seconds.append(time.perf_counter() - began)
    return seconds


def rewire(width: int) -> list[float]:
    """Seconds of RigL updates of a dense layer with a mask, its dense gradient included."""
    weight = torch.nn.Parameter(torch.randn(width, width))
    masks = MaskSet({"w": weight}, {"w": min(2 * DEGREE * width, width * width)}, seed=0)
    optimizer = torch.optim.SGD([weight], lr=0.0)
    schedule = Schedule(0, REPEATS + 1, every=1, drop_fraction=FRACTION)
    method = rigl(masks, optimizer, schedule, model=torch.nn.Module(), options=MethodOptions())
    h, delta = torch.randn(BATCH, width), torch.randn(BATCH, width)
    seconds = []
    for t in range(1, REPEATS + 1):
        began = time.perf_counter()
        weight.grad = delta.T @ h
        optimizer.step()
        method.step(t)
        seconds.append(time.perf_counter() - began)
    return seconds


def measured(method: str, width: int) -> dict[str, object]:
    """Run in this process: one row of the table."""
    torch.set_num_threads(1)
    run = rewire if method == "rigl" else lambda n: explore(n, method.removeprefix("gse_"))
    run(32)  # code that is loaded on first use
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = run(width)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "method": method,
        "width": width,
        "active": 2 * DEGREE * width,
        "milliseconds": round(1e3 * min(seconds), 3),  # other work on the machine only adds
        "peak_mib": round((after - before) / 1024, 1),
    }


def main() -> None:
    """Measure all widths, each in a fresh process, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("analysis/benchmarks/gse.csv"))
    parser.add_argument("--widths", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192, 16384, 32768])
    parser.add_argument("--rigl-up-to", type=int, default=8192, help="the largest width of the dense gradient")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "WIDTH"), help="measure one in this process")
    arguments = parser.parse_args()
    if arguments.one:
        row = measured(arguments.one[0], int(arguments.one[1]))
        csv.DictWriter(sys.stdout, row).writerow(row)
        return
    with arguments.out.open("w", newline="") as file:
        file.write("method,width,active,milliseconds,peak_mib\n")
        for method in ("gse_uniform", "gse_grabo", "gse_graest", "rigl"):
            for width in arguments.widths:
                if method == "rigl" and width > arguments.rigl_up_to:
                    continue
                command = [sys.executable, __file__, "--one", method, str(width)]
                line = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                file.write(line.replace("\r\n", "\n"))
                file.flush()
                print(line.strip(), file=sys.stderr)


if __name__ == "__main__":
    main()
