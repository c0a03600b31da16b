"""The whole network as one graph of channels.

A vertex is a channel: an input, an output of a layer, or a sum of a skip connection. An edge leads from a channel to an
output of a layer that reads it by at least one kept weight, whatever the kernel position; its weight is the Euclidean
norm of those. An edge of weight 1 leads from an addend to its sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sift_graph.encodings.layer import oriented
from sift_graph.metrics.metric import Undefined
from sift_graph.metrics.network import Network
from sift_graph.network_graph import Space

__all__ = ["Multipartite", "multipartite"]


@dataclass(frozen=True, eq=False)
class Multipartite:
    """The directed graph of a network's channels.

    Attributes
    ----------
    adjacency : scipy.sparse.csr_array of float64, shape (channels, channels)
        From row to column, the squared weight of each edge; ones where no weights are known.
    inputs, outputs : ndarray of int64
        Channels that enter and leave.
    weighted : bool
    first, last : int
        Inputs, and outputs of the last layer: what the code of TMLR 2024 subtracts.
    """

    adjacency: Any
    inputs: np.ndarray
    outputs: np.ndarray
    weighted: bool
    first: int
    last: int

    @classmethod
    def of(cls, network: Network) -> Multipartite:
        """Build the graph of a network."""
        from scipy.sparse import coo_array

        network.require_layers()
        weighted = all(network.masks[space.layer].values is not None for space in network.measured)
        start, stop, squares = [], [], []
        for space in network.graph.spaces:
            if space.kind == "sum":
                for source in space.sources:
                    kept = source >= 0
                    start.append(source[kept])
                    stop.append(space.channels[kept])
                    squares.append(np.ones(np.count_nonzero(kept)))
            elif space.kind == "layer":
                for column, row, square in edges_of(network, space, weighted):
                    start.append(column)
                    stop.append(row)
                    squares.append(square)
        size = network.graph.size
        pairs = (np.concatenate(start), np.concatenate(stop)) if start else (np.zeros(0, int), np.zeros(0, int))
        data = np.concatenate(squares) if squares else np.zeros(0)
        adjacency = coo_array((data, pairs), shape=(size, size)).tocsr()
        adjacency.sum_duplicates()
        if not weighted:
            adjacency.data[:] = 1.0
        inputs = np.concatenate([s.channels for s in network.graph.spaces if s.kind == "input"])
        outputs = np.unique(np.concatenate([network.graph.outputs, network.graph.gates]))
        return cls(adjacency, inputs, outputs, weighted, len(inputs), network.layers[-1].size)

    @property
    def size(self) -> int:
        """Vertices."""
        return int(self.adjacency.shape[0])

    @property
    def edges(self) -> int:
        """Edges."""
        return int(self.adjacency.nnz)

    @cached_property
    def out_degree(self) -> np.ndarray:
        """Edges that leave each vertex."""
        found: np.ndarray = np.diff(self.adjacency.indptr).astype(np.int64)
        return found

    @cached_property
    def in_degree(self) -> np.ndarray:
        """Edges that enter each vertex."""
        return np.bincount(self.adjacency.indices, minlength=self.size)

    @cached_property
    def both(self) -> Any:
        """The same without directions, each edge twice; squared weights."""
        return (self.adjacency + self.adjacency.T).tocsr()

    @cached_property
    def lists(self) -> tuple[np.ndarray, np.ndarray]:
        """Neighbours without directions: where the list of each vertex begins, and the lists."""
        return self.both.indptr.astype(np.int64), self.both.indices.astype(np.int64)

    @cached_property
    def cuts(self) -> tuple[int, int]:
        """Number of bridges and of articulation points."""
        from sift_graph.topology import cuts

        return cuts(self)

    def hidden(self, excluded: np.ndarray) -> np.ndarray:
        """All vertices but some, bool."""
        kept = np.ones(self.size, dtype=bool)
        kept[excluded] = False
        return kept

    @property
    def sinks(self) -> np.ndarray:
        """Vertices that edges enter and none leaves, outputs excluded, bool."""
        found: np.ndarray = (self.out_degree == 0) & (self.in_degree > 0) & self.hidden(self.outputs)
        return found

    @property
    def sources(self) -> np.ndarray:
        """Vertices that edges leave and none enters, inputs excluded, bool."""
        found: np.ndarray = (self.in_degree == 0) & (self.out_degree > 0) & self.hidden(self.inputs)
        return found

    def require_weights(self) -> None:
        """Leave with a word if the weights are not known."""
        if not self.weighted:
            raise Undefined("no_weights")

    def symmetric(self, *, half: bool = False) -> Any:
        """Weighted adjacency without directions; weights rounded to float16 if asked for."""
        found = self.both.copy()
        found.data = np.sqrt(found.data)
        if half:
            found.data = found.data.astype(np.float16).astype(np.float64)
        return found


def edges_of(network: Network, space: Space, weighted: bool) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Edges of one layer: from which channel, to which, and the squared weight."""
    counts = network.counts(space)
    norms = counts.astype(np.float64)
    if weighted and space.layer in network.masks:
        weight = oriented(network.masks[space.layer])[1]
        assert weight is not None
        norms = np.square(weight.astype(np.float64)).sum(axis=2).reshape(counts.shape)
    group, row, column = np.nonzero(counts)
    source = space.sources[0].reshape(len(counts), -1)[group, column]
    target = space.first + group * counts.shape[1] + row
    kept = source >= 0
    return [(source[kept], target[kept], norms[group, row, column][kept])]


def multipartite(network: Network) -> Multipartite:
    """Build the graph of a network, once."""
    held = network.__dict__.get("_multipartite")
    if held is None:
        held = network.__dict__["_multipartite"] = Multipartite.of(network)
    assert isinstance(held, Multipartite)
    return held
