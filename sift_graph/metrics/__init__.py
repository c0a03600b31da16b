"""What is computed from a layer's graph: a registry, :data:`METRICS`, by column name.

A metric is one column. Adding one is one function in the file of its family, one entry in that file's table; the
common tests run over it without being told.
"""

from sift_graph.metrics.base import CORE, METRICS, Layer, Metric, Undefined, measure_layer, select
from sift_graph.metrics.dynamics import DYNAMICS, History
from sift_graph.metrics.single import measure

__all__ = [
    "CORE",
    "DYNAMICS",
    "METRICS",
    "History",
    "Layer",
    "Metric",
    "Undefined",
    "measure",
    "measure_layer",
    "select",
]
