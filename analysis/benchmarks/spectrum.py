"""Speed and proof of the engine: ``python -m analysis.benchmarks.spectrum [--quick] [--markdown] [--only ...]``.

Every line is measured in this run, ours and the baseline on the same masks, in one process with one thread (P5 and P6
start workers of one thread each). ``--quick`` takes smaller layers and fewer repeats: it shows that the script works,
not that the goals are met. Goals P1 to P13 are those of the project's performance notes; a line without one informs.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from scipy.linalg import blas
from threadpoolctl import threadpool_limits

from analysis.benchmarks import peers
from analysis.benchmarks import workloads as wl
from analysis.benchmarks.report import Table, machine, median_seconds, milliseconds, peak_megabytes
from sift_graph.bounds import biregular_bound
from sift_graph.graph import BipartiteGraph
from sift_graph.parallel import one_thread
from sift_graph.spectrum import leading, left_regular_subgraphs


def bound_of(graph: BipartiteGraph) -> float:
    return biregular_bound(graph.mean_left_degree, graph.mean_right_degree)


def imdb(graph: BipartiteGraph, certify: str = "full") -> float:
    """Mean difference of bound over the accepted subgraphs."""
    parts = left_regular_subgraphs(graph, certify=certify)
    gaps = [biregular_bound(p.degree, p.edges / p.n_right) - p.sigma_2 for p in parts]
    return float(np.mean(gaps)) if gaps else math.nan


def one_layer(table: Table, quick: bool) -> None:
    """P1, P2, P3, P9 and the weighted spectrum: the largest layer, float32 weights in."""
    for kind in wl.MASKS:
        _one_layer(table, kind, wl.MID if quick else wl.LARGE, 3 if quick else 5)


def _one_layer(table: Table, kind: str, shape: tuple[int, int], repeats: int) -> None:
    mask = wl.MASKS[kind](*shape, 0.1, seed=1)
    weight = wl.weights_on(mask)
    matrix = sp.csr_array(mask, dtype=np.float32)
    graph = wl.graph_of(mask, weight)
    bound, name = bound_of(graph), f"{shape[1]}x{shape[0]} {kind}"
    goal, over_replica, over_svds = {"uniform": ("P1", 50, 8), "skewed": ("P2", 14, 5)}[kind]

    def packed() -> BipartiteGraph:
        return BipartiteGraph.from_nonzero("layer", weight)

    plain = median_seconds(lambda: leading(packed(), certify="off"), 9)
    signed = median_seconds(lambda: leading(packed(), bound=bound), 9)
    full = median_seconds(lambda: leading(packed(), certify="full"))
    replica = median_seconds(lambda: peers.replica_sigma_2(matrix), repeats)
    single = median_seconds(lambda: peers.svds(matrix, dtype=np.float32), repeats)
    table.ratio(goal, f"sigma_1, sigma_2, {name}", plain, replica, "eigsh k=3, adjacency", over_replica)
    table.ratio(goal, f"sigma_1, sigma_2, {name}", plain, single, "svds float32", over_svds)
    table.ratio("", "  with the sign of the gap proven", signed, replica, "eigsh k=3, adjacency")
    table.ratio("", "  with the sign of the gap proven", signed, single, "svds float32")
    table.ratio("", "  proven to 1e-6 on both sides", full, replica, "eigsh k=3, adjacency")
    cost = max(signed / plain - 1, 0)
    table.add("P9", "  what the proof of the sign adds", f"x{cost:.2f}", "time without it", "<= x1.1", cost <= 1.1)
    method = median_seconds(lambda: peers.imdb_with(mask, peers.replica_sigma_2), repeats)
    dense = median_seconds(lambda: peers.imdb_with(mask, peers.dense_small_sigma_2), repeats)
    without = median_seconds(lambda: imdb(packed(), "off"), 7)
    proven = median_seconds(lambda: imdb(packed()), 7)
    for seconds, what, limits in ((without, "", (60, 20)), (proven, ", each sigma_2 proven to 1e-6", (35, 10))):
        for theirs, label, limit in zip((method, dense), ("eigsh k=3", "dense Gram"), limits, strict=True):
            table.ratio("P3", f"IMDB, {name}{what}", seconds, theirs, f"{label} a subgraph", limit)
    cost = max(proven / without - 1, 0)
    table.add("P9", "  what the proofs add", f"x{cost:.2f}", "time without them", "<= x1.1", cost <= 1.1)
    heavy = sp.csr_array(np.abs(weight), dtype=np.float64)
    weighted = median_seconds(lambda: leading(wl.fresh(graph), kind="weighted"))
    double = median_seconds(lambda: peers.svds(heavy), repeats)
    table.ratio("", f"weighted sigma_1, sigma_2, {name}", weighted, double, "svds float64", 4)
    imsg = median_seconds(lambda: left_regular_subgraphs(wl.fresh(graph), weighted=True))
    table.add("", f"weighted and unweighted subgraphs, {name}", milliseconds(imsg))


def accuracy(table: Table, quick: bool) -> None:
    """What other solvers answer on the same masks, and in what time."""
    for shape in (wl.SMALL,) if quick else (wl.SMALL, wl.LARGE):
        _accuracy(table, shape)


def _accuracy(table: Table, shape: tuple[int, int]) -> None:
    mask = wl.uniform_mask(*shape, 0.1, seed=1)
    weight = wl.weights_on(mask)
    dense = mask.astype(np.float32)
    matrix = sp.csr_array(mask, dtype=np.float64)
    spectrum = leading(wl.graph_of(mask), certify="full", tol=1e-9)
    truth, name = spectrum.sigma_2, f"{shape[1]}x{shape[0]} uniform"
    proven = (spectrum.sigma_2_hi - spectrum.sigma_2_lo) / truth
    table.add("", f"sigma_2 of {name}", f"{truth:.9f}", f"proven to {proven:.0e}")
    solvers = {
        "ours": lambda: leading(BipartiteGraph.from_nonzero("layer", dense), certify="off").sigma_2,
        "eigsh k=3, adjacency": lambda: peers.replica_sigma_2(matrix),
        "svds arpack float64": lambda: peers.svds(matrix),
        "svds arpack float32": lambda: peers.svds(matrix, dtype=np.float32),
        "svds propack": lambda: peers.svds(matrix, "propack"),
        "svds lobpcg": lambda: peers.svds(matrix, "lobpcg"),
        "torch svdvals": lambda: peers.torch_svdvals(dense),
        "torch svd_lowrank": lambda: peers.torch_lowrank(dense),
    }
    if shape == wl.SMALL:
        solvers["networkx and eigvalsh"] = lambda: peers.networkx_sigma_2(mask)
    for label, call in solvers.items():
        table.add("", f"  {label}", *answer(call, truth))
    heavy = leading(wl.graph_of(mask, weight), kind="weighted", certify="full", tol=1e-9).sigma_2
    table.add("", "  WeightWatcher, on |W|", *answer(lambda: peers.weightwatcher_sigma_2(np.abs(weight)), heavy))


def answer(call, truth: float) -> tuple[str, str]:
    """Time and relative error of one solver, or why there is none."""
    begin = time.perf_counter()
    try:
        value = call()
    except ImportError as error:
        return "not installed", str(error.name)
    except Exception as error:  # another tool's failure is a result here, and is named
        return "fails", f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"
    first = time.perf_counter() - begin
    seconds = first if first > 5 else median_seconds(call, 5, warm=False)
    return milliseconds(seconds), f"error {abs(value / truth - 1):.1e}"


def snapshot(sparsity: float, kind: str, seed: int) -> list[BipartiteGraph]:
    make = wl.MASKS[kind]
    shapes = wl.resnet18_layers(sparsity)
    return [wl.graph_of(make(*shape, 1 - sparsity, seed=seed + i)) for i, shape in enumerate(shapes)]


def measure(graph: BipartiteGraph) -> float:
    """What a snapshot costs a layer: sigma_1, sigma_2 with the sign of the gap proven, and IMDB."""
    graph = wl.fresh(graph)
    return leading(graph, bound=bound_of(graph)).sigma_2 + imdb(graph)


def measure_unproven(graph: BipartiteGraph) -> float:
    graph = wl.fresh(graph)
    return leading(graph, certify="off").sigma_2 + imdb(graph, "off")


def whole_networks(table: Table, quick: bool) -> None:
    """P4 and P7: all layers of one snapshot."""
    repeats = 3 if quick else 5
    layers = snapshot(0.5 if quick else 0.9, "uniform", 1)
    largest = max(layers, key=lambda graph: graph.edges)
    dense = largest.dense_rows(0, largest.n_right).astype(np.float32)
    matrix = sp.csr_array(dense)
    gram = median_seconds(lambda: blas.ssyrk(1.0, dense.T, trans=1), repeats)
    replica = median_seconds(lambda: peers.replica_sigma_2(matrix), repeats)
    one, proven = both(layers, repeats)
    table.ratio("P4", "one snapshot, 20 layers, sigma and IMDB", one, gram, "one ssyrk of its largest layer", 1)
    table.ratio("P4", "one snapshot, 20 layers, sigma and IMDB", one, replica, "one eigsh of its largest layer", 5)
    table.add("", "  with every proof", milliseconds(proven))
    for sparsity, limit in ((0.75, 0.15), (0.5, 0.11)):
        one, proven = both(snapshot(sparsity, "uniform", 1), repeats)
        what, also = f"one snapshot at s = {sparsity}", f"with every proof: {milliseconds(proven)}"
        table.add("P7", what, milliseconds(one), also, f"<= {limit} s", one <= limit)
    if not quick:
        kinds = {shape: wl.graph_of(wl.uniform_mask(*shape, 0.25, seed=1)) for shape in set(wl.gpt3_small_layers())}
        one, proven = both([kinds[shape] for shape in wl.gpt3_small_layers()], repeats)
        also = f"with every proof: {milliseconds(proven)}"
        table.add("P7", "GPT-3 Small, 75 %, 72 layers", milliseconds(one), also, "<= 1.4 s", one <= 1.4)


def both(layers: list[BipartiteGraph], repeats: int) -> tuple[float, float]:
    """Seconds for all layers, without and with proofs."""
    return (
        median_seconds(lambda: [measure_unproven(graph) for graph in layers], repeats),
        median_seconds(lambda: [measure(graph) for graph in layers], repeats),
    )


def measure_signs(graph: BipartiteGraph) -> float:
    """The same with the sign of the gap proven, and IMDB as the iteration leaves it."""
    graph = wl.fresh(graph)
    return leading(graph, bound=bound_of(graph)).sigma_2 + imdb(graph, "off")


def _work(task: tuple[str, int], measured: Callable[[BipartiteGraph], float] = measure) -> tuple[float, float]:
    path, block_left = task
    with one_thread():
        value = measured(BipartiteGraph("layer", np.load(path), block_left))
    return value, peak_megabytes()


def _work_signs(task: tuple[str, int]) -> tuple[float, float]:
    return _work(task, measure_signs)


def many_snapshots(table: Table, quick: bool) -> None:
    """P5, P6 and flat memory: snapshots from disk, workers of one thread."""
    sparsity, counts = (0.5, (2, 6)) if quick else (0.9, (5, 50))
    with tempfile.TemporaryDirectory() as folder:
        tasks = []
        for i in range(3):  # three different snapshots, used in turn
            for j, graph in enumerate(snapshot(sparsity, "uniform", 100 * i)):
                path = Path(folder) / f"{i}_{j}.npy"
                np.save(path, graph.bits)
                tasks.append((str(path), graph.block_left))
        per = len(tasks) // 3
        seconds, memory, signs = {}, {}, {}
        for workers in (1, 2):
            for count in counts:
                work = [task for i in range(count) for task in tasks[(i % 3) * per : (i % 3 + 1) * per]]
                work.sort(key=lambda task: -os.path.getsize(task[0]))
                with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                    list(pool.map(_work, tasks[:workers]))  # start and load
                    begin = time.perf_counter()
                    results = list(pool.map(_work, work))
                    seconds[workers, count] = time.perf_counter() - begin
                    memory[workers, count] = max(rss for _, rss in results)
                if count == counts[1]:
                    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                        list(pool.map(_work_signs, tasks[:workers]))
                        begin = time.perf_counter()
                        list(pool.map(_work_signs, work))
                        signs[workers] = time.perf_counter() - begin
    many, few = counts[1], counts[0]
    for workers, limit in ((1, 20), (2, 11)):
        what, taken, proven = (
            f"{many} snapshots of 20 layers, {workers} worker(s)",
            signs[workers],
            seconds[workers, many],
        )
        table.add(
            "P5",
            f"{what}, signs proven",
            f"{taken:.2f} s",
            f"with every proof: {proven:.2f} s",
            f"<= {limit} s",
            taken <= limit,
        )
    gain = seconds[1, many] / seconds[2, many]
    table.add("P6", "speed-up on 2 workers", f"x{gain:.2f}", "", ">= x1.75", gain >= 1.75)
    flat = memory[1, many] / memory[1, few]
    table.add(
        "P8",
        f"peak RSS of a worker, {few} and {many} snapshots",
        f"{memory[1, few]:.0f}, {memory[1, many]:.0f} MB",
        "",
        "within 5 %",
        flat <= 1.05,
    )
    exponent = math.log(seconds[1, many] / seconds[1, few]) / math.log(many / few)
    table.add("P10", "time ~ snapshots^a", f"a = {exponent:.3f}", "", "<= 1.02", exponent <= 1.02)


MEMORY = """
import sys, numpy as np
from threadpoolctl import threadpool_limits
from analysis.benchmarks.report import peak_megabytes as peak
from sift_graph.graph import BipartiteGraph
from sift_graph.parallel import one_thread
from sift_graph.spectrum import leading
bits, left, certify, bound = np.load(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
with threadpool_limits(1):
    small = BipartiteGraph("layer", bits[:300].copy(), left)
    leading(small, certify="full"), leading(small, bound=1e9)
    before = peak()
    leading(BipartiteGraph("layer", bits, left), certify=certify, bound=bound)
print(peak() - before)
"""


def memory(table: Table, quick: bool) -> None:
    """P8: extra memory of one call, measured in a process of its own."""
    shapes = [("large", wl.MID if quick else wl.LARGE, 0.1)]
    if not quick:
        shapes.append(("GPT-3 1.3B wide", (16384, 4096), 0.25))
    for name, shape, density in shapes:
        graph = wl.graph_of(wl.uniform_mask(*shape, density, seed=1))
        csr = 12e-6 * graph.edges
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "bits.npy"
            np.save(path, graph.bits)
            for certify, limit in (("off", 0.6), ("gap", 1.5)):
                command = [
                    sys.executable,
                    "-c",
                    MEMORY,
                    str(path),
                    str(graph.block_left),
                    certify,
                    str(bound_of(graph)),
                ]
                extra = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
                if name == "large":
                    table.add(
                        "P8",
                        f"extra memory, {name}, certify={certify}",
                        f"{extra:.1f} MB: {extra / csr:.2f}x",
                        f"CSR float64: {csr:.1f} MB",
                        f"<= {limit}x",
                        extra <= limit * csr,
                    )
                else:
                    table.add(
                        "", f"extra memory, {name}, certify={certify}", f"{extra:.0f} MB", "", "<= 300 MB", extra <= 300
                    )
        if name != "large":
            off = median_seconds(lambda graph=graph: leading(wl.fresh(graph), certify="off"))
            gap = median_seconds(lambda graph=graph: leading(wl.fresh(graph), bound=bound_of(graph)))
            table.add("", f"sigma_1, sigma_2 of 4096 x 16384 at 25 %, {name}", milliseconds(off), "", "< 1 s", off < 1)
            table.add("", "  with the sign of its gap proven", milliseconds(gap), "", "< 2 s", gap < 2)


def growth(table: Table, quick: bool) -> None:
    """P10: how time grows with the layer and with its density."""
    sides = (202, 405, 810) if quick else (202, 405, 810, 1619)
    times = {"sigma": [], "IMDB": []}
    edges = []
    for n in sides:
        graph = wl.graph_of(wl.uniform_mask(9 * n, n, 0.1, seed=1))
        edges.append(graph.edges)
        times["sigma"].append(median_seconds(lambda graph=graph: leading(wl.fresh(graph), certify="off"), 7))
        times["IMDB"].append(median_seconds(lambda graph=graph: imdb(wl.fresh(graph), "off"), 7))
    for name, limit in (("sigma", 1.3), ("IMDB", 0.8)):
        slope = float(np.polyfit(np.log(edges), np.log(times[name]), 1)[0])
        table.add(
            "P10",
            f"{name} ~ edges^a, n = {sides[0]}..{sides[-1]}",
            f"a = {slope:.2f}",
            "",
            f"<= {limit}",
            slope <= limit,
        )
    spread = {"sigma": [], "IMDB": []}
    for density in (0.05, 0.1, 0.25, 0.5, 0.9):
        graph = wl.graph_of(wl.uniform_mask(*wl.MID, density, seed=1))
        spread["sigma"].append(median_seconds(lambda graph=graph: leading(wl.fresh(graph), certify="off"), 7))
        spread["IMDB"].append(median_seconds(lambda graph=graph: imdb(wl.fresh(graph), "off"), 7))
    for name, seconds in spread.items():
        factor = max(seconds) / min(seconds)
        each = ", ".join(milliseconds(t) for t in seconds)
        table.add("P10", f"{name}, density 0.05 to 0.9", f"x{factor:.2f}: {each}", "", "<= x1.3", factor <= 1.3)


def never_slower(table: Table, quick: bool) -> None:
    """P13: every layer shape of four workloads against svds."""
    shapes = {(shape, 1 - s) for s in (wl.WIDTHS if not quick else (0.5,)) for shape in wl.resnet18_layers(s)}
    shapes |= set() if quick else {(shape, 0.25) for shape in wl.gpt3_small_layers()}
    worst, where = math.inf, ""
    for shape, density in sorted(shapes):
        for kind, make in wl.MASKS.items():
            mask = make(*shape, round(density, 2), seed=1)
            graph, matrix = wl.graph_of(mask), sp.csr_array(mask, dtype=np.float32)
            ours = median_seconds(lambda graph=graph: leading(wl.fresh(graph), certify="off"))
            theirs = median_seconds(lambda matrix=matrix: peers.svds(matrix, dtype=np.float32))
            if theirs / ours < worst:
                worst, where = theirs / ours, f"{shape[1]}x{shape[0]} {kind}, density {density:.2f}"
    table.add(
        "P13", f"slowest of {2 * len(shapes)} layers against svds float32", f"x{worst:.1f}", where, ">= x1", worst >= 1
    )


def proofs(table: Table, quick: bool) -> None:
    """P9: no miss in tens of thousands of subgraphs, against dense float64; and no refusal of a correct value."""
    wanted, count, misses, unproven, broken, seed = (1000 if quick else 20_000), 0, 0, 0, 0, 0
    while count < wanted:
        rng = np.random.default_rng(seed)
        seed += 1
        shape = int(rng.integers(400, 6000)), int(rng.integers(40, 420))
        make = wl.uniform_mask if seed % 3 else wl.skewed_mask
        mask = make(*shape, float(rng.uniform(0.04, 0.3)), seed=seed)
        graph = wl.graph_of(mask)
        plain = {p.degree: p.sigma_2 for p in left_regular_subgraphs(graph, certify="off")}
        for part in left_regular_subgraphs(graph):
            dense = mask[:, graph.left_degree == part.degree].astype(np.float64)
            gram = dense @ dense.T if dense.shape[0] < dense.shape[1] else dense.T @ dense
            eigenvalues = np.linalg.eigvalsh(gram)
            if len(eigenvalues) < 2 or eigenvalues[-2] < 1e-9 * eigenvalues[-1]:
                continue
            truth = math.sqrt(eigenvalues[-2])
            count += 1
            misses += abs(part.sigma_2 / truth - 1) > 1e-6
            unproven += abs(plain[part.degree] / truth - 1) > 1e-6
            broken += not part.sigma_2_lo * (1 - 1e-12) <= truth <= part.sigma_2_hi * (1 + 1e-12)
    table.add(
        "P9",
        f"misses in {count} subgraphs against dense float64",
        f"{misses} (without proof {unproven})",
        "",
        "0",
        misses == 0,
    )
    table.add("P9", "  true values outside their proven bounds", str(broken), "", "0", broken == 0)


COMPILE = """
import time, numpy as np
from sift_graph.graph import BipartiteGraph
from sift_graph.parallel import one_thread
from sift_graph.spectrum import leading, left_regular_subgraphs
times = []
for shape in ((1500, 200), (900, 300), (1100, 150)):
    weight = (np.random.default_rng(0).random(shape[::-1]) < 0.1).astype(np.float32)
    graph = BipartiteGraph.from_nonzero("layer", weight)
    begin = time.perf_counter()
    leading(graph, bound=9.0), left_regular_subgraphs(graph)
    times.append(time.perf_counter() - begin)
print(*times)
"""


def compiling(table: Table, quick: bool) -> None:
    """First call with an empty cache, with a full one, and at another shape."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        runs = []
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=True
            )
            runs.append([float(t) for t in done.stdout.split()])
    table.add("", "first call, nothing compiled yet", milliseconds(runs[0][0]))
    table.add(
        "", "first call of a process, compiled code on disk", milliseconds(runs[1][0]), "", "< 2 s", runs[1][0] < 2
    )
    table.add(
        "",
        "second and third shape in that process",
        ", ".join(milliseconds(t) for t in runs[1][1:]),
        "",
        "no compiling",
        max(runs[1][1:]) < 0.1,
    )


SECTIONS = {
    "layer": one_layer,
    "accuracy": accuracy,
    "network": whole_networks,
    "snapshots": many_snapshots,
    "memory": memory,
    "growth": growth,
    "slowest": never_slower,
    "proofs": proofs,
    "compiling": compiling,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller layers, fewer repeats")
    parser.add_argument("--markdown", action="store_true", help="print one Markdown table at the end")
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"sections, from {', '.join(SECTIONS)}")
    options = parser.parse_args()
    table = Table(options.markdown)
    if not options.markdown:
        print(machine())
    with threadpool_limits(1):
        for name in options.only.split(","):
            SECTIONS[name](table, options.quick)
    table.close(f"python -m analysis.benchmarks.spectrum {' '.join(sys.argv[1:])}".strip())


if __name__ == "__main__":
    main()
