"""What the catalogue costs, in ratios of times measured in one run.

``python -m analysis.benchmarks.metrics`` runs everything, ``--only all`` and the like a part.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict

import numpy as np

from analysis.benchmarks import workloads as wl
from analysis.benchmarks.report import Table, machine, milliseconds, peak_megabytes
from sift_graph.graph import BipartiteGraph
from sift_graph.masks import LayerMask
from sift_graph.metrics import METRICS, NETWORK_METRICS, estimate_cost, measure_layer, select
from sift_graph.metrics.network import Network
from sift_graph.parallel import one_thread


def snapshot(sparsity: float) -> list[BipartiteGraph]:
    """The 20 sparse layers of Sparse Wide ResNet-18 with random masks and Gaussian weights."""
    graphs = []
    for i, shape in enumerate(wl.resnet18_layers(sparsity)):
        mask = wl.uniform_mask(*shape, 1 - sparsity, seed=i)
        graphs.append(wl.graph_of(mask, wl.weights_on(mask, seed=i)))
    return graphs


def measured(layers: list[BipartiteGraph], names: list[str]) -> float:
    """Processor seconds for these metrics of all layers on one thread, nothing known beforehand."""
    with one_thread():  # of every pool that is loaded by now
        begin = time.process_time()
        for graph in layers:
            measure_layer(wl.fresh(graph), names)
        return time.process_time() - begin


def network(sparsity: float) -> Network:
    """The graph of that ResNet, traced, with random masks and its first weights."""
    import torch

    torch.set_num_threads(1)  # it was not there yet when the other pools were limited
    from sift_graph.model_graph import trace_graph
    from sift_graph.train import load_config
    from sift_graph.train.build import blueprint, build_model

    config = load_config(
        family="sparse_wide", sparsity=sparsity, sets=["model.name=resnet18", "data.name=cifar100", "ift.compensate=no"]
    )
    model = build_model(config)
    modules, masks = dict(model.named_modules()), {}
    for i, layer in enumerate(blueprint(config).counts):
        weight = modules[layer].weight.detach().numpy()
        mask = np.random.default_rng(i).random(weight.shape) < 1 - sparsity
        masks[layer] = LayerMask.from_dense(layer, mask, weight * mask)
    return Network(trace_graph(model, torch.zeros(1, 3, 32, 32)), masks)


def measured_network(found: Network, names: list[str]) -> float:
    """Processor seconds for these metrics of a whole network, nothing known beforehand."""
    fresh = Network(found.graph, found.masks)
    with one_thread():
        begin = time.process_time()
        for name in names:
            NETWORK_METRICS[name].compute(fresh)
        return time.process_time() - begin


def whole_catalogue(table: Table, quick: bool) -> None:
    """Every metric of one snapshot, those of layers and those of the network, against the core metrics."""
    layers = snapshot(0.5 if quick else 0.9)
    core, everything = ([n for n in select(which) if n in METRICS] for which in ("core", "all"))
    of_network = [name for name in select("all") if name in NETWORK_METRICS]
    measured([layers[-1]], everything)  # loads what is compiled
    before = peak_megabytes()
    first = measured(layers, core)
    all_of_them = measured(layers, everything)
    second = measured(layers, core)
    whole = network(0.5 if quick else 0.9)
    measured_network(network(0.5), of_network)
    together = measured_network(whole, of_network)
    ratio = (all_of_them + together) / ((first + second) / 2)
    limit = 12
    table.add(
        "M1",
        f"{len(everything)} metrics of 20 layers and {len(of_network)} of the network, s = {0.5 if quick else 0.9}",
        f"{all_of_them:.1f} s + {together:.1f} s: x{ratio:.1f}",
        f"core: {milliseconds((first + second) / 2)}",
        f"<= x{limit}",
        ratio <= limit,
    )
    table.add("", "  more memory at the peak", f"{peak_megabytes() - before:.0f} MB")
    sizes = [(g.n_left, g.n_right, g.edges) for g in layers]
    estimate = sum(estimate_cost([METRICS[n] for n in everything], *size) for size in sizes)
    table.add("", "  as `describe` estimates it", f"{estimate:.2f} s")


def each_computation(table: Table, quick: bool) -> None:
    """What each shared computation of the catalogue takes on the largest layer."""
    shape = wl.MID if quick else wl.LARGE
    mask = wl.uniform_mask(*shape, 0.1, seed=1)
    graph = wl.graph_of(mask, wl.weights_on(mask, seed=1))
    by_cost: dict[str, list[str]] = defaultdict(list)
    for name in select("all"):
        if name in METRICS:
            by_cost[METRICS[name].cost].append(name)
    for cost, names in by_cost.items():
        seconds = measured([graph], names)
        expected = estimate_cost([METRICS[n] for n in names], graph.n_left, graph.n_right, graph.edges)
        table.add(
            "",
            f"{cost}: {len(names)} metrics, {shape[1]}x{shape[0]}",
            milliseconds(seconds),
            f"estimate: {milliseconds(expected)}",
        )


SECTIONS = {"all": whole_catalogue, "each": each_computation}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller layers")
    parser.add_argument("--markdown", action="store_true", help="print one Markdown table at the end")
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"sections, from {', '.join(SECTIONS)}")
    options = parser.parse_args()
    table = Table(options.markdown)
    if not options.markdown:
        print(machine())
    for name in options.only.split(","):
        SECTIONS[name](table, options.quick)
    table.close(f"python -m analysis.benchmarks.metrics {' '.join(sys.argv[1:])}".strip())


if __name__ == "__main__":
    main()
