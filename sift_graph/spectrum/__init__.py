"""Singular values of a layer's biadjacency, with bounds that say how far each can be off.

The only home of eigen-solvers: nothing outside this package knows how a singular value is computed.
"""

from __future__ import annotations

from sift_graph.spectrum.choose import estimate_seconds
from sift_graph.spectrum.result import RegularSubgraph, Spectrum
from sift_graph.spectrum.solve import Kind, leading, singular_values
from sift_graph.spectrum.subgraphs import left_regular_subgraphs

__all__ = [
    "Kind",
    "RegularSubgraph",
    "Spectrum",
    "estimate_seconds",
    "leading",
    "left_regular_subgraphs",
    "singular_values",
]
