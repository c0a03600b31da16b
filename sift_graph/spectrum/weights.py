"""The weights of a layer as the spectrum sees them: absolute and finite."""

from __future__ import annotations

import numpy as np

from sift_graph.errors import MaskError, SpectrumError
from sift_graph.graph import BipartiteGraph

__all__ = ["checked_weights"]


def checked_weights(graph: BipartiteGraph) -> np.ndarray:
    """Absolute weights of a layer, or an error if it has none or one is not finite."""
    if graph.values is None:
        raise MaskError(f"layer {graph.layer!r} has no weights; record them with weights='fp32'")
    weights: np.ndarray = np.abs(graph.values)
    if not np.isfinite(weights).all():
        count = int(np.count_nonzero(~np.isfinite(weights)))
        raise SpectrumError(
            f"layer {graph.layer!r}: {count} of {weights.size} weights are not finite; its weighted spectrum does not "
            "exist: measure a step before training diverged, or the mask alone"
        )
    return weights
