"""Where masks live in a model: one small adapter for each way that sparse-training libraries keep them.

An adapter gets the model's weights and yields those that it knows a mask of. :data:`SOURCES` holds them in the order
in which they are asked: the first one that knows a weight's mask decides, and a warning tells if a later one disagrees.
What the user names comes before all of them; ``weight != 0`` comes last and only on request, because it misses every
weight that has just been grown. Other packages add adapters through the entry point group ``sift_graph.sources``.

No adapter keeps a tensor. Libraries rebind, swap or overwrite their masks, and sharding replaces parameters, so
masks and weights are looked up, detached and packed anew at each call.
"""

from __future__ import annotations

from sift_graph.sources.find import Masked, find_masked, find_masks
from sift_graph.sources.plugins import FAILED, GROUP, load_plugins
from sift_graph.sources.registry import FROM_ZEROS, SOURCES
from sift_graph.sources.weights import Source, Weight, find_weights, layer_table

__all__ = [
    "FAILED",
    "FROM_ZEROS",
    "GROUP",
    "SOURCES",
    "Masked",
    "Source",
    "Weight",
    "find_masked",
    "find_masks",
    "find_weights",
    "layer_table",
    "load_plugins",
]

load_plugins()  # last: a plugin imports the names above from here
