"""Connectivity across layers: what is on a path from input to output, how many paths there are, how they are spread."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sift_graph.metrics.metric import Metric, Undefined
from sift_graph.metrics.network import LAWS, Network, Values

__all__ = ["CONNECTIVITY", "effective_paths_log10", "path_matrix", "synflow_scores"]


def dead_neurons(network: Network) -> int:
    """Count outputs of layers on no path from input to output."""
    return int(np.count_nonzero(~network.alive[network.neurons()]))


def dead_neuron_share(network: Network) -> float:
    """Share of them."""
    return dead_neurons(network) / len(network.neurons())


def effective_nodes(network: Network) -> int:
    """Count inputs and outputs of layers that are on a path."""
    inputs = [space.channels for space in network.graph.spaces if space.kind == "input"]
    return int(np.count_nonzero(network.alive[np.concatenate([network.neurons(), *inputs])]))


def effective_edges(network: Network) -> int:
    """Count kept weights on a path."""
    network.require_layers()
    return sum(network.kept(space, network.used, network.reached) for space in network.measured)


def entries(network: Network) -> int:
    """Entries of the recorded weights."""
    return sum(network.masks[space.layer].size for space in network.measured)


def effective_sparsity(network: Network) -> float:
    """Share of the entries that are on no path."""
    return 1 - effective_edges(network) / entries(network)


def effective_compression(network: Network) -> float:
    """Entries over kept weights on a path."""
    found = effective_edges(network)
    if not found:
        raise Undefined("no_path")
    return entries(network) / found


def removable_in(network: Network) -> int:
    """Count kept weights that no input reaches."""
    network.require_layers()
    everything = np.ones(network.graph.size, dtype=bool)
    return sum(network.kept(space, everything, ~network.reached) for space in network.measured)


def removable_out(network: Network) -> int:
    """Count kept weights from which no output is reached."""
    network.require_layers()
    everything = np.ones(network.graph.size, dtype=bool)
    return sum(network.kept(space, ~network.used, everything) for space in network.measured)


def removable_share(network: Network) -> float:
    """Share of the kept weights that are on no path."""
    edges = network.edges()
    if not edges:
        raise Undefined("empty")
    return 1 - effective_edges(network) / edges


def log10_sum(network: Network, values: Values) -> float:
    """Decimal logarithm of a sum over all paths from input to output."""
    network.require_layers()
    x, power = network.forward(values)
    total = float(x[network.graph.outputs].sum())
    if total <= 0:
        raise Undefined("no_path")
    return math.log10(total) + power


def effective_paths_log10(network: Network) -> float:
    """Decimal logarithm of the number of paths, kernel positions counted."""
    return log10_sum(network, network.counts)


def path_matrix(network: Network) -> np.ndarray:
    """Paths from each input to each output, up to one factor, shape (outputs, inputs)."""
    network.require_layers()
    inputs = sum(space.size for space in network.graph.spaces if space.kind == "input")
    found: np.ndarray = network.forward(network.counts, columns=inputs)[0][network.graph.outputs]
    return found


def path_uniformity(network: Network) -> float:
    """Coefficient of variation of the number of paths over pairs of an input and an output."""
    paths = path_matrix(network)
    if not paths.size or not paths.any():
        raise Undefined("no_path")
    scaled = paths / paths.max()
    return float(scaled.std() / scaled.mean())


def reachability(network: Network) -> float:
    """Share of pairs of an input and an output that a path joins."""
    paths = path_matrix(network)
    if not paths.size:
        raise Undefined("no_path")
    return float(np.count_nonzero(paths)) / paths.size


def synflow_log10(network: Network) -> float:
    """Decimal logarithm of the sum over paths of the product of absolute weights."""
    return log10_sum(network, network.magnitudes)


def synflow_scores(network: Network) -> dict[str, float]:
    """Sum of the SynFlow scores ``w dR/dw`` of each layer, over R; in a chain each is 1.

    Parameters
    ----------
    network : Network

    Returns
    -------
    dict of str to float
        Where a path can go round a layer its share is below 1.
    """
    x, power = network.forward(network.magnitudes)
    y, back = network.backward(network.magnitudes)
    total = math.log10(max(float(x[network.graph.outputs].sum()), 1e-300)) + power
    found: dict[str, float] = {}
    for space in network.layers:
        part = slice(space.first, space.first + space.size)
        score = float(x[part] @ y[part])
        share = 10 ** (math.log10(score) + power + back - total) if score > 0 else 0.0
        found[space.layer] = found.get(space.layer, 0.0) + share
    return found


def connectivity(name: str, compute: Callable[[Network], object], formula: str, values: str, **about: str) -> Metric:
    """Describe a metric of this file."""
    return Metric(
        name,
        compute,
        formula,
        values,
        about.pop("undefined", "no recorded layer has a place in the network graph"),
        about.pop("source", "standard"),
        "weight" if about.pop("needs", "") else "mask",
        group="network",
        scope="network",
        laws=LAWS,
        **about,  # type: ignore[arg-type]
    )


VYSOGORETS = "Vysogorets & Kempe 2023"
NO_PATH = "no recorded layer has a place, or no path"

CONNECTIVITY = (
    connectivity(
        "n_unplaced",
        lambda network: len(network.unplaced),
        "layers without a place in the network graph",
        "integer >= 0",
        undefined="never",
        predicts="whether the other columns of the network cover it",
        oracle="names of layers put into a graph by hand",
    ),
    connectivity(
        "dead_neurons",
        dead_neurons,
        "outputs of layers on no path from input to output, skip connections included",
        "integer >= 0",
        source=VYSOGORETS,
        predicts="capacity that the masks have cut off; biases are not counted as inputs",
        oracle="networkx reachability; removal of dead ends to a fixed point",
    ),
    connectivity(
        "dead_neuron_share",
        dead_neuron_share,
        "dead_neurons / outputs of layers",
        "[0, 1]",
        predicts="the same, for networks of different size",
        oracle="networkx reachability",
    ),
    connectivity(
        "effective_nodes",
        effective_nodes,
        "inputs and outputs of layers on a path",
        "integer >= 0",
        source="Pham et al. 2023",
        oracle="a dense network: all",
        predicts="width that is in use",
    ),
    connectivity(
        "effective_edges",
        effective_edges,
        "kept weights on a path",
        "integer >= 0",
        source=VYSOGORETS,
        predicts="weights that can matter to an output",
        oracle="networkx reachability",
    ),
    connectivity(
        "effective_sparsity",
        effective_sparsity,
        "1 - effective_edges / entries of the recorded weights",
        "[sparsity, 1]",
        source=VYSOGORETS,
        predicts="how sparse the network really is",
        oracle="networkx reachability",
    ),
    connectivity(
        "effective_compression",
        effective_compression,
        "entries / effective_edges",
        "[1, inf)",
        undefined=NO_PATH,
        source=VYSOGORETS,
        predicts="the compression that is left when dead weights are taken away",
        oracle="networkx reachability",
    ),
    connectivity(
        "removable_in",
        removable_in,
        "kept weights that no input reaches",
        "integer >= 0",
        predicts="weights that only ever see a constant",
        oracle="networkx reachability",
    ),
    connectivity(
        "removable_out",
        removable_out,
        "kept weights that reach no output",
        "integer >= 0",
        predicts="weights that nobody listens to",
        oracle="networkx reachability",
    ),
    connectivity(
        "removable_share",
        removable_share,
        "1 - effective_edges / kept weights",
        "[0, 1]",
        predicts="weights that the method spends for nothing",
        oracle="networkx reachability",
    ),
    connectivity(
        "effective_paths_log10",
        effective_paths_log10,
        "log10 of 1' M_L ... M_1 1, kernel positions counted, over skip connections too",
        "[0, inf)",
        undefined=NO_PATH,
        source="Pham et al. 2023",
        oracle="a dense chain: the product of its widths; all paths listed in small networks",
        predicts="how richly inputs and outputs are joined; grows with depth, width and density",
    ),
    connectivity(
        "path_uniformity",
        path_uniformity,
        "std / mean of the number of paths over (input, output) pairs",
        "[0, inf); 0 if all pairs have as many",
        undefined=NO_PATH,
        source="Kepner & Robinett 2019",
        oracle="RadiX-Net: 0",
        predicts="whether information is spread evenly; a network of poor expanders can have 0",
    ),
    connectivity(
        "reachability",
        reachability,
        "share of (input, output) pairs that a path joins",
        "[0, 1]",
        undefined=NO_PATH,
        source="Prabhu et al. 2018",
        predicts="whether every output can see every input",
        oracle="all paths counted in small networks",
    ),
    connectivity(
        "synflow_log10",
        synflow_log10,
        "log10 of R = 1' prod |W_l M_l| 1",
        "(-inf, inf)",
        undefined=NO_PATH + ", or no finite weights",
        source="Tanaka et al. 2020",
        needs="weight",
        oracle="scores of each layer of a chain sum to R",
        predicts="scale of the weights times the number of paths; comparable between masks of one model",
    ),
)
