"""How masks are laid out over the layers, and how they move during training.

A *distribution* gives each layer its number of weights, a *layout* places the first masks, a :class:`MaskSet` holds the
masks and applies them, a *method* of :data:`METHODS` moves them by a :class:`Schedule`.
"""

from __future__ import annotations

from sift_graph.sparsify.at_init import balanced_sample
from sift_graph.sparsify.constructions import CONSTRUCTIONS, construct
from sift_graph.sparsify.distributions import DISTRIBUTIONS, densities, layer_counts
from sift_graph.sparsify.gradual import Gradual
from sift_graph.sparsify.lay_out import LAYOUTS, lay_out
from sift_graph.sparsify.mask_set import MaskSet, layer_name
from sift_graph.sparsify.methods import METHODS, Method, MethodSource
from sift_graph.sparsify.options import MethodOptions
from sift_graph.sparsify.rewire import Rewire
from sift_graph.sparsify.schedule import Schedule
from sift_graph.sparsify.selection import largest, largest_overall
from sift_graph.sparsify.static import Static

__all__ = [
    "CONSTRUCTIONS",
    "DISTRIBUTIONS",
    "LAYOUTS",
    "METHODS",
    "Gradual",
    "MaskSet",
    "Method",
    "MethodOptions",
    "MethodSource",
    "Rewire",
    "Schedule",
    "Static",
    "balanced_sample",
    "construct",
    "densities",
    "largest",
    "largest_overall",
    "lay_out",
    "layer_counts",
    "layer_name",
]
