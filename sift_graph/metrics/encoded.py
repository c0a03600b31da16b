"""A layer in another encoding while it is measured: repeated edges, or edges over positions.

It answers what :class:`sift_graph.metrics.Layer` answers, as far as the encoding has an answer. What it does not have,
such as the regular subgraphs of a graph with repeated edges, leaves the word ``encoding`` in the row's note.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from sift_graph import spectrum
from sift_graph.bounds import biregular_bound
from sift_graph.encodings import Encoded
from sift_graph.encodings.layer import oriented
from sift_graph.graph import BipartiteGraph
from sift_graph.metrics.base import METRICS, measure_layer
from sift_graph.metrics.metric import Undefined, evaluate
from sift_graph.spectrum import Spectrum
from sift_graph.spectrum.unrolled import Unrolled, unrolled_leading

__all__ = ["EncodedLayer", "measure_encoded"]

WORD = "encoding"


@dataclass(frozen=True, eq=False)
class Vertices:
    """Sizes, degrees and edges of an encoded layer, in the words of :class:`sift_graph.graph.BipartiteGraph`."""

    layer: str
    left_degree: np.ndarray
    right_degree: np.ndarray
    edges: int
    density: float

    @property
    def n_left(self) -> int:
        """Left vertices, isolated ones included."""
        return int(self.left_degree.size)

    @property
    def n_right(self) -> int:
        """Right vertices, isolated ones included."""
        return int(self.right_degree.size)

    @property
    def n_left_isolated(self) -> int:
        """Left vertices without an edge."""
        return int(np.count_nonzero(self.left_degree == 0))

    @property
    def n_right_isolated(self) -> int:
        """Right vertices without an edge."""
        return int(np.count_nonzero(self.right_degree == 0))

    @property
    def mean_left_degree(self) -> float:
        """Mean degree over left vertices that have an edge; NaN if none has."""
        active = self.n_left - self.n_left_isolated
        return self.edges / active if active else math.nan

    @property
    def mean_right_degree(self) -> float:
        """Mean degree over right vertices that have an edge; NaN if none has."""
        active = self.n_right - self.n_right_isolated
        return self.edges / active if active else math.nan

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise Undefined(WORD)


@dataclass(frozen=True, eq=False)
class EncodedLayer:
    """A layer with repeated edges or over positions.

    Attributes
    ----------
    encoded : Encoded
        With counts, or with a geometry.
    """

    encoded: Encoded

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise Undefined(WORD)

    @cached_property
    def counted(self) -> BipartiteGraph:
        """The vertices that are joined, each pair with its number of edges."""
        assert self.encoded.counts is not None
        return BipartiteGraph.from_mask(replace(self.encoded.mask, values=self.encoded.counts.astype(np.float64)))

    @cached_property
    def operator(self) -> Unrolled | None:
        """The mask over its positions, if it is unrolled."""
        return self._unroll(oriented(self.encoded.mask)[0])

    def _unroll(self, dense: np.ndarray) -> Unrolled | None:
        mask, geometry = self.encoded.mask, self.encoded.geometry
        if geometry is None:
            return None
        return Unrolled.from_dense(dense, mask.groups, mask.shape[2:], geometry, circular=self.encoded.circular)

    @cached_property
    def graph(self) -> Vertices:
        """Sizes and degrees, edges as often as they are repeated."""
        if self.operator is not None:
            left, right = (np.rint(side).astype(np.int64) for side in self.operator.degrees())
            mask, groups = self.encoded.mask, self.encoded.mask.groups
            density = self.encoded.mask.density
            if not self.encoded.circular:  # of the uses that padding leaves to a dense layer
                full = self._unroll(np.ones((1, 1, math.prod(mask.shape[2:])))[[0] * groups])
                assert full is not None
                cells = mask.shape[0] * mask.shape[1] / groups
                density = int(left.sum()) / (cells * float(full.degrees()[0].sum()))
            return Vertices(mask.layer, left, right, int(left.sum()), density)
        graph = self.counted
        assert graph.values is not None
        right_of, left_of = graph.edge_list()
        left = np.bincount(left_of, weights=graph.values, minlength=graph.n_left).astype(np.int64)
        right = np.bincount(right_of, weights=graph.values, minlength=graph.n_right).astype(np.int64)
        edges = int(graph.values.sum())
        density = edges / (graph.block_left * graph.n_right * self.encoded.capacity)
        return Vertices(graph.layer, left, right, edges, density)

    def require_edges(self) -> None:
        """As :meth:`sift_graph.metrics.Layer.require_edges`."""
        if self.graph.edges == 0:
            raise Undefined("empty")

    def require_weights(self) -> BipartiteGraph:
        """Return the graph of the encoding's weights; as :meth:`sift_graph.metrics.Layer.require_weights`."""
        self.require_edges()
        values = self.encoded.mask.values
        if values is None:
            raise Undefined("no_weights")
        if not np.isfinite(values).all():
            raise Undefined("weights_not_finite")
        if not values.any():
            raise Undefined("weights_all_zero")
        return BipartiteGraph.from_mask(self.encoded.mask)

    @cached_property
    def bound(self) -> float:
        """Biregular bound at the mean degrees, edges as often as they are repeated."""
        return biregular_bound(self.graph.mean_left_degree, self.graph.mean_right_degree)

    @cached_property
    def binary(self) -> Spectrum:
        """Two leading singular values, edges as often as they are repeated."""
        self.require_edges()
        if self.operator is not None:
            return unrolled_leading(self.operator)
        return spectrum.leading(self.counted, kind="weighted", bound=self.bound)

    @cached_property
    def normalised(self) -> Spectrum:
        """The same, divided by the roots of the degrees."""
        self.require_edges()
        if self.operator is not None:
            return unrolled_leading(self.operator, normalised=True)
        return spectrum.leading(self.counted, kind="weighted_normalised")

    @cached_property
    def weighted(self) -> Spectrum:
        """Two leading singular values of the encoding's absolute weights."""
        graph = self.require_weights()
        if self.operator is None:
            return spectrum.leading(graph, kind="weighted")
        weight = oriented(self.encoded.mask)[1]
        assert weight is not None
        unrolled = self._unroll(weight)
        assert unrolled is not None
        return unrolled_leading(unrolled)


def measure_encoded(
    encoded: Encoded, names: Iterable[str], *, needs: Literal["mask", "weight"] | None = None
) -> dict[str, Any]:
    """Measure a layer in any encoding; as :func:`sift_graph.metrics.measure_layer`.

    Parameters
    ----------
    encoded : Encoded
    names : iterable of str
    needs : {"mask", "weight"}, optional

    Returns
    -------
    dict
        Values and ``note``; ``encoding`` in it says that a metric has no answer there.
    """
    if encoded.counts is None and encoded.geometry is None:
        return measure_layer(BipartiteGraph.from_mask(encoded.mask), names, needs=needs)
    chosen = (METRICS[name] for name in names if name in METRICS)
    wanted = [m for m in chosen if needs is None or (m.needs == "mask") == (needs == "mask")]
    return evaluate(EncodedLayer(encoded), wanted)
