"""One layer while it is measured: its graph, and the spectra that several metrics share, each computed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sift_graph import spectrum
from sift_graph.bounds import biregular_bound
from sift_graph.graph import BipartiteGraph
from sift_graph.metrics.metric import Undefined
from sift_graph.spectrum import RegularSubgraph, Spectrum

__all__ = ["Layer", "Undefined"]


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer's graph with what is derived from it on demand.

    Attributes
    ----------
    graph : BipartiteGraph
    """

    graph: BipartiteGraph

    def require_edges(self) -> None:
        """Leave with the word ``empty`` if no edge is kept."""
        if self.graph.edges == 0:
            raise Undefined("empty")

    def require_weights(self) -> BipartiteGraph:
        """Return the graph if it has finite weights that are not all zero; else leave with the word that says why."""
        self.require_edges()
        if self.graph.values is None:
            raise Undefined("no_weights")
        if not np.isfinite(self.graph.values).all():
            raise Undefined("weights_not_finite")
        if not self.graph.values.any():
            raise Undefined("weights_all_zero")
        return self.graph

    @cached_property
    def bound(self) -> float:
        """Biregular bound at the layer's mean degrees."""
        return biregular_bound(self.graph.mean_left_degree, self.graph.mean_right_degree)

    @cached_property
    def binary(self) -> Spectrum:
        """Two leading singular values of the mask, with the sign of ``bound - sigma_2`` certified."""
        self.require_edges()
        return spectrum.leading(self.graph, bound=self.bound)

    @cached_property
    def normalised(self) -> Spectrum:
        """Two leading singular values of the degree-normalised mask."""
        self.require_edges()
        return spectrum.leading(self.graph, kind="normalised")

    @cached_property
    def weighted(self) -> Spectrum:
        """Two leading singular values of the absolute weights on the mask."""
        return spectrum.leading(self.require_weights(), kind="weighted")

    @cached_property
    def subgraphs(self) -> list[RegularSubgraph]:
        """Accepted left-regular subgraphs, measured with weights where there are good ones."""
        self.require_edges()
        values = self.graph.values
        weighted = values is not None and bool(np.isfinite(values).all())
        return spectrum.left_regular_subgraphs(self.graph, weighted=weighted)
