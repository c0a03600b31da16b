"""Masks and layer lists that the benchmarks measure: synthetic, with the shapes of real networks."""

from __future__ import annotations

import numpy as np

from sift_graph.graph import BipartiteGraph

# (inputs times kernel positions, outputs): the largest layer of Sparse Wide ResNet-18 at 90 %, and smaller ones
LARGE, MID, SMALL = (14571, 1619), (7290, 810), (1818, 202)
WIDTHS = {0.90: (202, 405, 810, 1619), 0.75: (128, 256, 512, 1024), 0.50: (91, 181, 362, 724)}


def resnet18_layers(sparsity: float) -> list[tuple[int, int]]:
    """The 20 sparse layers of Sparse Wide ResNet-18 for CIFAR-100, as (inputs times kernel positions, outputs)."""
    a, b, c, d = WIDTHS[sparsity]
    layers = [(9 * a, a)] * 4
    for x, y in ((a, b), (b, c), (c, d)):
        layers += [(9 * x, y), (9 * y, y), (9 * y, y), (9 * y, y), (x, y)]
    return [*layers, (d, 100)]


def gpt3_small_layers() -> list[tuple[int, int]]:
    """The 72 linear layers of GPT-3 Small made wide for 75 % sparsity (twice as wide)."""
    d, f = 1536, 6144
    return [(d, d), (d, d), (d, d), (d, d), (d, f), (f, d)] * 12


def uniform_mask(n_left: int, n_right: int, density: float, seed: int = 0) -> np.ndarray:
    """Exactly ``round(density * n_left * n_right)`` entries at random, outputs by inputs."""
    rng = np.random.default_rng(seed)
    count = round(density * n_left * n_right)
    draw = rng.random((n_right, n_left), dtype=np.float32)
    return draw < np.partition(draw, count, axis=None)[count]


def skewed_mask(n_left: int, n_right: int, density: float, seed: int = 0, spread: float = 0.5) -> np.ndarray:
    """Magnitude pruning of Gaussian weights whose scales differ by input channel and by output: broad degrees."""
    rng = np.random.default_rng(seed)
    count = round(density * n_left * n_right)
    kernel = 9 if n_left % 9 == 0 else 1
    of_input = np.repeat(np.exp(spread * rng.standard_normal(n_left // kernel)), kernel).astype(np.float32)
    of_output = np.exp(0.5 * spread * rng.standard_normal(n_right)).astype(np.float32)
    size = np.abs(rng.standard_normal((n_right, n_left), dtype=np.float32)) * of_input * of_output[:, None]
    return size >= np.partition(size, size.size - count, axis=None)[size.size - count]


MASKS = {"uniform": uniform_mask, "skewed": skewed_mask}


def weights_on(mask: np.ndarray, seed: int = 0) -> np.ndarray:
    """Float32 weights in the layer's shape, zero off the mask and never zero on it."""
    rng = np.random.default_rng(seed)
    return np.where(mask, rng.standard_normal(mask.shape, dtype=np.float32), np.float32(0))


def graph_of(mask: np.ndarray, weight: np.ndarray | None = None) -> BipartiteGraph:
    """The layer as the library sees it, nothing computed yet."""
    graph = BipartiteGraph.from_nonzero("layer", mask.astype(np.float32))
    return graph if weight is None else graph.with_values(weight[mask].astype(np.float64))


def fresh(graph: BipartiteGraph) -> BipartiteGraph:
    """The same bits and values, without degrees that an earlier call has cached."""
    return BipartiteGraph(graph.layer, graph.bits, graph.block_left, graph.groups, graph.values)
