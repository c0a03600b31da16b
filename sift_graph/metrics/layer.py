"""One layer while it is measured: its graph, and what several metrics share, each computed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np

from sift_graph import spectrum
from sift_graph.bounds import biregular_bound
from sift_graph.graph import BipartiteGraph
from sift_graph.metrics.metric import Undefined
from sift_graph.spectrum import RegularSubgraph, Spectrum

__all__ = ["Layer", "Undefined"]

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer's graph with what is derived from it on demand.

    Attributes
    ----------
    graph : BipartiteGraph
    gradient : BipartiteGraph or None
        The same graph with the gradient of each weight as its value, where that is known.
    """

    graph: BipartiteGraph
    gradient: BipartiteGraph | None = None
    _found: dict[Callable[[Layer], Any], Any] = field(default_factory=dict, repr=False)

    def once(self, compute: Callable[[Layer], T]) -> T:
        """Call a function of this layer, or return what it returned before; an exception is raised again likewise.

        Parameters
        ----------
        compute : callable
            A function defined in a module; it is the key.

        Returns
        -------
        object
            What `compute` returns.

        Raises
        ------
        Undefined
            Or whatever else `compute` raised.
        """
        if compute not in self._found:
            try:
                self._found[compute] = (compute(self), None)
            except Exception as error:
                self._found[compute] = (None, error)
        value, failure = self._found[compute]
        if failure is not None:
            raise failure
        return cast("T", value)

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

    def require_gradient(self) -> BipartiteGraph:
        """Return the graph with finite gradients that are not all zero; else leave with the word that says why."""
        self.require_edges()
        if self.gradient is None or self.gradient.values is None:
            raise Undefined("no_gradient")
        if not np.isfinite(self.gradient.values).all():
            raise Undefined("gradient_not_finite")
        if not self.gradient.values.any():
            raise Undefined("gradient_all_zero")
        return self.gradient

    @cached_property
    def n_left_active(self) -> int:
        """Left vertices that have an edge."""
        return self.graph.n_left - self.graph.n_left_isolated

    @cached_property
    def n_right_active(self) -> int:
        """Right vertices that have an edge."""
        return self.graph.n_right - self.graph.n_right_isolated

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
    def weighted_normalised(self) -> Spectrum:
        """Two leading singular values of the absolute weights, divided by the roots of their row and column sums."""
        return spectrum.leading(self.require_weights(), kind="weighted_normalised")

    @cached_property
    def subgraphs(self) -> list[RegularSubgraph]:
        """Accepted left-regular subgraphs, measured with weights where there are good ones."""
        return self._subgraphs("left")

    @cached_property
    def subgraphs_right(self) -> list[RegularSubgraph]:
        """The same by the degrees of the right vertices."""
        return self._subgraphs("right")

    def _subgraphs(self, side: Any) -> list[RegularSubgraph]:
        self.require_edges()
        values = self.graph.values
        weighted = values is not None and bool(np.isfinite(values).all())
        return spectrum.left_regular_subgraphs(self.graph, side=side, weighted=weighted)
