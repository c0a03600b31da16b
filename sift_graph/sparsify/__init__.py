"""How masks are laid out over the layers, and how they move during training.

A *distribution* gives each layer its number of weights, a :class:`MaskSet` holds the masks and applies them, a *method*
of :data:`METHODS` moves them by a :class:`Schedule`. The three are independent choices.
"""

from __future__ import annotations

from sift_graph.sparsify.distributions import DISTRIBUTIONS, densities, layer_counts
from sift_graph.sparsify.mask_set import MaskSet, layer_name
from sift_graph.sparsify.methods import METHODS, Method, Rewire, Static, largest
from sift_graph.sparsify.schedule import Schedule

__all__ = [
    "DISTRIBUTIONS",
    "METHODS",
    "MaskSet",
    "Method",
    "Rewire",
    "Schedule",
    "Static",
    "densities",
    "largest",
    "layer_counts",
    "layer_name",
]
