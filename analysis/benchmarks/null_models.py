"""Speed of the null models: ``python -m analysis.benchmarks.null_models [--quick] [--markdown]``.

A hundred random masks with the degrees of the largest layer, and the Ramanujan gap of each, shared out over two worker
processes of one thread; how one sample is spent; and how fast the chain of trades forgets where it began.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
from threadpoolctl import threadpool_limits

from analysis.benchmarks import workloads as wl
from analysis.benchmarks.report import Table, machine, median_seconds, milliseconds
from sift_graph.graph import BipartiteGraph
from sift_graph.masks import LayerMask
from sift_graph.nulls import ROUNDS, Request, draw_samples, judge, same_pattern
from sift_graph.nulls.comparing import overlap
from sift_graph.nulls.models import Rewired, Uniform
from sift_graph.nulls.trades import ROUNDS as TURN
from sift_graph.spectrum import leading

CHUNK = 25
WORKERS = 2


def _draw(task: tuple[LayerMask, Request, int, int]):
    mask, request, first, count = task
    with threadpool_limits(1):
        return draw_samples(mask, request, first=first, count=count)


def nulls(table: Table, quick: bool) -> None:
    """100 degree-preserving samples of the largest layer's Ramanujan gap, in under 60 s on 2 cores."""
    shape, samples = (wl.MID, 20) if quick else (wl.LARGE, 100)
    request = Request("degree", ("ramanujan_gap",), samples)
    chunk = min(CHUNK, samples // WORKERS)
    for kind, make in wl.MASKS.items():
        name = f"{shape[1]}x{shape[0]} {kind}"
        mask = LayerMask.from_dense("layer", make(*shape, 0.1, seed=1))
        graph = BipartiteGraph.from_mask(mask)
        with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
            list(pool.map(_draw, [(mask, request, 0, 2)] * WORKERS))  # start and load
            begin = time.perf_counter()
            parts = list(pool.map(_draw, [(mask, request, i, chunk) for i in range(0, samples, chunk)]))
            seconds = time.perf_counter() - begin
        gap = judge({"ramanujan_gap": 0.0}, parts)["ramanujan_gap"]
        what = f"{samples} samples of the gap, same degrees, {name}, {WORKERS} workers"
        table.add("", what, f"{seconds:.1f} s", f"gap {gap.mean:.3f} +- {gap.std:.3f}", "< 60 s", seconds < 60)
        _one_sample(table, graph)
    mask, rng = LayerMask.from_dense("layer", _two_of_four(shape)), np.random.default_rng(0)
    table.add(
        "", "one mask with the same 2:4 pattern", milliseconds(median_seconds(lambda: same_pattern(mask, rng), 3))
    )


def _one_sample(table: Table, graph: BipartiteGraph) -> None:
    """What one sample takes, and how the chain forgets its start."""
    sampler, uniform, rng = Rewired(graph, ROUNDS // TURN), Uniform(graph), np.random.default_rng(0)
    drawn = sampler.draw(rng)
    steps = {
        f"one rewiring, {ROUNDS} rounds a side": lambda: sampler.draw(rng),
        "one mask with the same edges": lambda: uniform.draw(rng),
        "one sigma_2, unproven": lambda: leading(wl.fresh(drawn), certify="off"),
    }
    for what, call in steps.items():
        table.add("", f"  {what}", milliseconds(median_seconds(call, 3)))
    for cycles in (1, 2, 4, 8, 16):
        one = Rewired(graph, cycles).draw(rng)
        shared, sigma = overlap(one, graph), leading(one, certify="off").sigma_2
        table.add("", f"  after {cycles * TURN} rounds a side", f"overlap {shared:.4f}", f"sigma_2 {sigma:.3f}")


def _two_of_four(shape: tuple[int, int]) -> np.ndarray:
    """A random 2:4 mask of about this shape."""
    left, right = shape[0] // 4, shape[1]
    draw = np.random.default_rng(0).random((right, left, 4), dtype=np.float32)
    return (draw.argsort(axis=2).argsort(axis=2) < 2).reshape(right, 4 * left)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller layer, fewer samples")
    parser.add_argument("--markdown", action="store_true", help="print one Markdown table at the end")
    options = parser.parse_args()
    table = Table(options.markdown)
    if not options.markdown:
        print(machine())
    with threadpool_limits(1):
        nulls(table, options.quick)
    table.close(f"python -m analysis.benchmarks.null_models {' '.join(sys.argv[1:])}".strip())


if __name__ == "__main__":
    main()
