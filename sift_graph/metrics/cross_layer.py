"""Pairs of layers of which the second reads the first: how evenly channels are handed on.

f_c is the fan-in of channel c in the first layer, o_(c, j) the fan-out of its kernel position j in the second. Where a
layer reads a sum, it is paired with each layer that was added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from sift_graph.encodings.layer import oriented
from sift_graph.metrics.metric import Metric, Undefined
from sift_graph.metrics.network import LAWS, Network
from sift_graph.network_graph import Space

__all__ = ["CROSS_LAYER", "cross_layer_pairs"]

MEASURES = ("copeland", "compatibility", "channel_overlap")


def cross_layer_pairs(network: Network) -> list[dict[str, Any]]:
    """Measure each pair of recorded layers of which the second reads the first.

    Parameters
    ----------
    network : Network

    Returns
    -------
    list of dict
        ``layer``, ``reader``; ``copeland``, ``compatibility`` and ``channel_overlap``, NaN where undefined.

    References
    ----------
    .. [1] D. Hoang et al., ICLR 2023, code: ``scores.py``; there an undefined value is 0.
    """
    rows = []
    for reader in network.measured:
        for layer, made, read in sources(network, reader):
            rows.append({"layer": layer.layer, "reader": reader.layer, **measure(network, layer, reader, made, read)})
    return rows


def sources(network: Network, reader: Space) -> Iterator[tuple[Space, np.ndarray, np.ndarray]]:
    """List the recorded layers that a layer reads, with the outputs and the inputs that meet, one for one."""
    for layer in network.measured:
        made, read = [], []
        for channels, inputs in traced(network, reader.sources[0], np.arange(len(reader.sources[0]))):
            inside = (channels >= layer.first) & (channels < layer.first + layer.size)
            made.append(channels[inside] - layer.first)
            read.append(inputs[inside])
        if sum(map(len, made)):
            yield layer, np.concatenate(made), np.concatenate(read)


def traced(network: Network, channels: np.ndarray, inputs: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Follow channels through sums, back to what made them."""
    waiting = [(channels, inputs)]
    sums = [space for space in network.graph.spaces if space.kind == "sum"]
    while waiting:
        channels, inputs = waiting.pop()
        rest = np.ones(len(channels), dtype=bool)
        for space in sums:
            inside = (channels >= space.first) & (channels < space.first + space.size)
            if inside.any():
                waiting += [(source[channels[inside] - space.first], inputs[inside]) for source in space.sources]
                rest &= ~inside
        if rest.any():
            yield channels[rest], inputs[rest]


def measure(network: Network, layer: Space, reader: Space, made: np.ndarray, read: np.ndarray) -> dict[str, float]:
    """Three measures of one pair; `made` are outputs of the layer, `read` the inputs of the reader at them."""
    before, after = network.masks[layer.layer], network.masks[reader.layer]
    first, second = oriented(before)[0], oriented(after)[0]
    fan_in = first.sum(axis=(1, 2))
    left = np.count_nonzero(first.reshape(before.groups, -1, *first.shape[1:]).any(axis=1))
    blocks = second.reshape(after.groups, -1, *second.shape[1:])
    fan_out = blocks.sum(axis=1).reshape(-1, second.shape[2])[read]  # (pairs, kernel positions)
    right = np.count_nonzero(second.any(axis=(1, 2)))
    alive = fan_in[made] > 0
    found = dict.fromkeys(MEASURES, math.nan)
    if alive.any() and right:
        ratios = (fan_out[alive] / right) / (fan_in[made][alive] / left)[:, None]
        channels = np.unique(made[alive])
        handed = np.unique(made[alive & (fan_out > 0).any(axis=1)])
        found["copeland"] = float(ratios.mean())
        found["compatibility"] = len(handed) / len(channels)
    inner = blocks.shape[2]
    sets = blocks[read // inner, :, read % inner]  # (pairs, outputs of the group, kernel positions)
    sizes = sets.sum(axis=1)
    for_all = sizes.min(axis=1) > 0
    if for_all.any():
        common = sets[for_all].all(axis=2).sum(axis=1)
        found["channel_overlap"] = float((common / sizes[for_all].min(axis=1)).mean())
    return found


def mean_of(name: str) -> Callable[[Network], float]:
    """Mean of a measure over the pairs where it is defined."""

    def compute(network: Network) -> float:
        found = [row[name] for row in cached_pairs(network) if not math.isnan(row[name])]
        if not found:
            raise Undefined("no_pair")
        return math.fsum(found) / len(found)

    return compute


def cached_pairs(network: Network) -> list[dict[str, Any]]:
    """Pairs of a network, measured once."""
    held = network.__dict__.setdefault("_pairs", None)
    if held is None:
        held = network.__dict__["_pairs"] = cross_layer_pairs(network)
    return list(held)


def cross(name: str, formula: str, values: str, predicts: str) -> Metric:
    """Describe the mean of a measure."""
    return Metric(
        f"mean_{name}",
        mean_of(name),
        f"mean over pairs (layer, reader) of: {formula}",
        values,
        "no pair where it is defined",
        "Hoang et al., ICLR 2023, code",
        group="network",
        scope="network",
        laws=LAWS,
        predicts=predicts,
        oracle="dense layers: 1",
    )


CROSS_LAYER = (
    cross("copeland", "mean of (o_cj / n_R+(2)) / (f_c / n_L+(1))", "[0, inf)", "1 balanced, below 1 a bottleneck"),
    cross("compatibility", "share of channels with f_c > 0 that have some o_cj > 0", "[0, 1]", "channels not lost"),
    cross(
        "channel_overlap",
        "outputs common to all kernel positions of a channel / fewest of one position",
        "[0, 1]",
        "close to density for random masks",
    ),
)
