"""A whole network at one step: its graph with the masks on it, and sums over the paths through it.

A layer of the graph without a recorded mask is dense. Channels that the graph gives no origin (outputs of layers that
could not be placed) count as inputs, and channels that leave through a gate as outputs, except in counts of paths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sift_graph.encodings.layer import oriented
from sift_graph.masks import LayerMask
from sift_graph.metrics.metric import Laws, Undefined
from sift_graph.network_graph import NetworkGraph, Space

__all__ = ["LAWS", "Network", "Values"]

SCALE = 1e150  # a step of scaling: no count of paths overflows
Values = Callable[[Space], np.ndarray]
LAWS = Laws(relabelled=False, padded=False, transposed=None, degree=None)


@dataclass(frozen=True, eq=False)
class Network:
    """A network's graph with the masks of one step.

    Attributes
    ----------
    graph : NetworkGraph
    masks : mapping of str to LayerMask
        By layer.

    Examples
    --------
    >>> from sift_graph.network_graph import infer_graph
    >>> masks = {name: LayerMask.from_dense(name, np.ones((4, 3), dtype=bool)) for name in ("a",)}
    >>> network = Network(infer_graph([{"name": "a", "shape": (4, 3), "groups": 1}]), masks)
    >>> paths, log10 = network.forward(network.counts)
    >>> float(paths[network.graph.outputs].sum()), log10
    (12.0, 0.0)
    """

    graph: NetworkGraph
    masks: Mapping[str, LayerMask]

    @cached_property
    def layers(self) -> list[Space]:
        """Layers in the order of computing; a layer that runs twice stands there twice."""
        return [space for space in self.graph.spaces if space.kind == "layer"]

    @cached_property
    def unplaced(self) -> dict[str, str]:
        """Recorded layers without a place in the graph, and why."""
        placed = {space.layer for space in self.layers}
        found = {name: "is not in the graph" for name in self.masks if name not in placed}
        return found | {name: why for name, why in self.graph.unplaced.items() if name not in placed}

    @cached_property
    def _counts(self) -> dict[str, np.ndarray]:
        found = {}
        for space in self.layers:
            if space.layer in found:
                continue
            kernel = math.prod(space.shape[2:])
            if space.layer in self.masks:
                counts = oriented(self.masks[space.layer])[0].sum(axis=2, dtype=np.int32)
            else:
                counts = np.full(space.shape[:2], kernel, dtype=np.int32)
            found[space.layer] = counts.reshape(space.groups, -1, counts.shape[1])
        return found

    def counts(self, space: Space) -> np.ndarray:
        """Kept kernel positions between channels, int32, shape (groups, outputs, inputs) of each group."""
        return self._counts[space.layer]

    def magnitudes(self, space: Space) -> np.ndarray:
        """Sum absolute weights between channels, as :meth:`counts`; a layer without a mask has ones."""
        if space.layer not in self.masks:
            return self.counts(space)
        weight = oriented(self.masks[space.layer])[1]
        if weight is None:
            raise Undefined("no_weights")
        total: np.ndarray = np.abs(weight.astype(np.float64)).sum(axis=2)
        if not np.isfinite(total).all():
            raise Undefined("weights_not_finite")
        grouped: np.ndarray = total.reshape(space.groups, -1, total.shape[1])
        return grouped

    def present(self, space: Space) -> np.ndarray:
        """Whether two channels are joined, as :meth:`counts`."""
        joined: np.ndarray = self.counts(space) > 0
        return joined

    def forward(self, values: Values, *, columns: int = 0) -> tuple[np.ndarray, float]:
        """Sum over paths from the inputs to each channel.

        Parameters
        ----------
        values : callable
            Matrix of a layer, ``(groups, outputs, inputs)``, not negative.
        columns : int
            0 for the sum over all inputs; else one column for each, so many there are.

        Returns
        -------
        x : ndarray of float64, shape (channels,) or (channels, columns)
        log10 : float
            The sums are ``x * 10 ** log10``.
        """
        width = max(columns, 1)
        x, power, given = np.zeros((self.graph.size, width)), 0.0, 0
        for space in self.graph.spaces:
            part = slice(space.first, space.first + space.size)
            if space.kind == "input":
                unit = 10.0**-power if power < 300 else 0.0
                if columns:
                    x[space.channels, given + np.arange(space.size)] = unit
                    given += space.size
                else:
                    x[part] = unit
            elif space.kind == "sum":
                x[part] = sum(take(x, source) for source in space.sources)
            else:
                matrix = values(space)
                read = take(x, space.sources[0]).reshape(len(matrix), -1, width)
                x[part] = np.matmul(matrix.astype(np.float64), read).reshape(space.size, width)
            if x[part].max(initial=0.0) > SCALE:
                x /= SCALE
                power += math.log10(SCALE)
        return (x if columns else x[:, 0]), power

    def backward(self, values: Values, *, gates: bool = False) -> tuple[np.ndarray, float]:
        """Sum over paths from each channel to the outputs, and to the gates if asked for; as :meth:`forward`."""
        y, power = np.zeros(self.graph.size), 0.0
        y[self.graph.outputs] = 1.0
        if gates:
            y[self.graph.gates] = 1.0
        for space in reversed(self.graph.spaces):
            part = y[space.first : space.first + space.size]
            if space.kind == "sum":
                for source in space.sources:
                    give(y, source, part)
            elif space.kind == "layer":
                matrix = values(space).astype(np.float64)
                back = np.matmul(part.reshape(len(matrix), 1, -1), matrix).reshape(-1)
                give(y, space.sources[0], back)
            if y.max(initial=0.0) > SCALE:
                y /= SCALE
                power += math.log10(SCALE)
        return y, power

    @cached_property
    def reached(self) -> np.ndarray:
        """Channels that a path from an input reaches, bool."""
        x = np.zeros(self.graph.size, dtype=bool)
        for space in self.graph.spaces:
            part = slice(space.first, space.first + space.size)
            if space.kind == "input":
                x[part] = True
            elif space.kind == "sum":
                x[part] = np.any([take(x, source) for source in space.sources], axis=0)
            else:
                joined = self.present(space)
                read = take(x, space.sources[0]).reshape(len(joined), 1, -1)
                x[part] = (joined & read).any(axis=2).reshape(-1)
        return x

    @cached_property
    def used(self) -> np.ndarray:
        """Channels from which a path leads to an output or a gate, bool."""
        y = np.zeros(self.graph.size, dtype=bool)
        y[self.graph.outputs] = True
        y[self.graph.gates] = True
        for space in reversed(self.graph.spaces):
            part = y[space.first : space.first + space.size]
            if space.kind == "sum":
                for source in space.sources:
                    y[source[part & (source >= 0)]] = True
            elif space.kind == "layer":
                joined = self.present(space)
                back = (joined & part.reshape(len(joined), -1, 1)).any(axis=1).reshape(-1)
                source = space.sources[0]
                y[source[back & (source >= 0)]] = True
        return y

    @cached_property
    def alive(self) -> np.ndarray:
        """Channels on a path from input to output: what is left when dead ends are removed until none is left, bool."""
        found: np.ndarray = self.reached & self.used
        return found

    def kept(self, space: Space, into: np.ndarray, out_of: np.ndarray) -> int:
        """Weights of a layer whose input channel is in `out_of` and whose output channel is in `into`."""
        counts = self.counts(space)
        source = space.sources[0]
        before = np.where(source >= 0, out_of[source], True).reshape(len(counts), -1)
        after = into[space.first : space.first + space.size].reshape(len(counts), -1)
        return int(np.einsum("go,goi,gi->", after.astype(np.int64), counts, before.astype(np.int64)))

    @property
    def measured(self) -> list[Space]:
        """Layers that have a recorded mask."""
        return [space for space in self.layers if space.layer in self.masks]

    def edges(self) -> int:
        """Kept weights of the placed layers that have a mask."""
        return sum(int(self.counts(space).sum()) for space in self.measured)

    def require_layers(self) -> None:
        """Leave with a word if no recorded layer has a place."""
        if not self.measured:
            raise Undefined("no_graph")

    def neurons(self) -> np.ndarray:
        """Channels that layers make."""
        self.require_layers()
        return np.concatenate([space.channels for space in self.layers])


def take(x: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Values of channels; 0 (or no) for what no channel makes."""
    found: np.ndarray = x[source]
    if len(source) and source.min() < 0:
        found[source < 0] = 0
    return found


def give(y: np.ndarray, source: np.ndarray, values: np.ndarray) -> None:
    """Add values to channels, which may be named more than once."""
    kept = source >= 0
    np.add.at(y, source[kept], values[kept])
