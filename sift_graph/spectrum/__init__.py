"""Singular values of a layer's biadjacency, with bounds that say how far each can be off.

The only home of eigen-solvers: nothing outside this package knows how a singular value is computed.
"""

from __future__ import annotations

from sift_graph.spectrum.choose import estimate_seconds
from sift_graph.spectrum.density import (
    Density,
    density_of_states,
    kesten_mckay_density,
    marchenko_pastur_density,
)
from sift_graph.spectrum.result import RegularSubgraph, Spectrum
from sift_graph.spectrum.solve import Kind, leading, singular_values
from sift_graph.spectrum.subgraphs import left_regular_subgraphs

__all__ = [
    "Density",
    "Kind",
    "RegularSubgraph",
    "Spectrum",
    "density_of_states",
    "estimate_seconds",
    "kesten_mckay_density",
    "leading",
    "left_regular_subgraphs",
    "marchenko_pastur_density",
    "singular_values",
]
