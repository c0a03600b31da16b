"""Record the masks of sparse training, measure them as graphs, link their topology to accuracy.

Public names are loaded when first used: importing this package imports neither torch, scipy, pandas nor matplotlib.

Examples
--------
>>> import numpy as np, sift_graph
>>> values = sift_graph.measure(np.eye(4, dtype=bool) | np.eye(4, k=1, dtype=bool))
>>> values["edges"], round(values["sigma_1"], 4)
(7, 1.8794)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sift_graph._version import __version__

if TYPE_CHECKING:
    from sift_graph.errors import SiftGraphError as SiftGraphError
    from sift_graph.graph import BipartiteGraph as BipartiteGraph
    from sift_graph.masks import LayerMask as LayerMask
    from sift_graph.masks import Snapshot as Snapshot
    from sift_graph.metrics import METRICS as METRICS
    from sift_graph.metrics import measure as measure
    from sift_graph.record import MaskRecorder as MaskRecorder
    from sift_graph.run import Run as Run
    from sift_graph.run import analyze as analyze
    from sift_graph.run import network as network
    from sift_graph.run import open as open
    from sift_graph.spectrum import Spectrum as Spectrum

_HOME = {
    "SiftGraphError": "errors",
    "LayerMask": "masks",
    "Snapshot": "masks",
    "BipartiteGraph": "graph",
    "Spectrum": "spectrum",
    "METRICS": "metrics",
    "measure": "metrics",
    "Run": "run",
    "open": "run",
    "analyze": "run",
    "network": "run",
    "MaskRecorder": "record",
}
_MODULES = (
    "bounds",
    "correlate",
    "doctor",
    "encodings",
    "errors",
    "graph",
    "ift",
    "masks",
    "metrics",
    "nulls",
    "network_graph",
    "plots",
    "report",
    "sinks",
    "sparsify",
    "spectrum",
    "store",
)

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    """Load a public name or module when it is first used."""
    if name in _HOME:
        value = getattr(import_module(f"sift_graph.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return import_module(f"sift_graph.{name}")
    raise AttributeError(f"module 'sift_graph' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Public names, loaded or not."""
    return sorted([*__all__, *_MODULES])
