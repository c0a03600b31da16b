"""What is computed from a layer's graph, from its change, and from a whole network: registries by column name.

A metric is one column, described by a :class:`Metric`: a function, with what a reader has to know to use its value.
Adding one is one function in the file of its family and one entry in that file's table; the common tests run over it
without being told. Three registries, by what the function is given:

:data:`METRICS`
    ``scope="layer"``: a :class:`Layer`, one layer at one step.
:data:`DYNAMICS`
    ``scope="dynamics"``: a :class:`Change`, a layer's mask against its own history.
:data:`NETWORK_METRICS`
    ``scope="network"``: all layers of one step together. Its tables stand in ``metrics/network*.py`` and are joined in
    ``metrics/base.py``; :func:`evaluate` runs them on whatever object those functions take, with the same notes.

Another package adds metrics through the entry point group ``sift_graph.metrics``, a notebook through :func:`register`.
"""

from sift_graph.metrics.base import CORE, METRICS, NETWORK_METRICS, find_metric, measure_layer, register, select
from sift_graph.metrics.compat import COMPAT
from sift_graph.metrics.cost import COSTS, estimate_cost
from sift_graph.metrics.dynamics import CORE_DYNAMICS, DYNAMICS, Change
from sift_graph.metrics.encoded import measure_encoded
from sift_graph.metrics.history import History
from sift_graph.metrics.layer import Layer
from sift_graph.metrics.matching import nnstd
from sift_graph.metrics.metric import GROUPS, Flagged, Laws, Metric, Undefined, evaluate, is_missing
from sift_graph.metrics.plugins import load_plugins
from sift_graph.metrics.single import measure

__all__ = [
    "COMPAT",
    "CORE",
    "CORE_DYNAMICS",
    "COSTS",
    "DYNAMICS",
    "GROUPS",
    "METRICS",
    "NETWORK_METRICS",
    "Change",
    "Flagged",
    "History",
    "Laws",
    "Layer",
    "Metric",
    "Undefined",
    "estimate_cost",
    "evaluate",
    "find_metric",
    "is_missing",
    "measure",
    "measure_encoded",
    "measure_layer",
    "nnstd",
    "register",
    "select",
]

load_plugins()  # last: a plugin imports the names above from here
