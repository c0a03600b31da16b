"""The weights of a layer as the spectrum sees them: absolute and finite."""

from __future__ import annotations

import numpy as np

from sift_graph.errors import MaskError, SpectrumError
from sift_graph.graph import BipartiteGraph

__all__ = ["checked_weights"]

SMALL = 1 << 14  # weights; up to here numpy is done before compiled code is loaded


def checked_weights(graph: BipartiteGraph) -> np.ndarray:
    """Absolute weights of a layer, or an error if it has none or one is not finite.

    Returns
    -------
    ndarray of float32 or float64, shape (edges,)
        In float32 where that holds them all exactly, as it does what was recorded.

    Raises
    ------
    MaskError
        If the layer has no weights.
    SpectrumError
        If one is not finite.
    """
    if graph.values is None:
        raise MaskError(f"layer {graph.layer!r} has no weights; record them with weights='fp32'")
    values = graph.values
    single = np.empty(values.size, dtype=np.float32)
    if values.size <= SMALL:
        with np.errstate(over="ignore"):
            np.abs(values, out=single, casting="same_kind")
        finite, exact = bool(np.isfinite(values).all()), np.array_equal(single, np.abs(values))
    else:
        from sift_graph.bits import narrow_absolute

        finite, exact = narrow_absolute(values, single)
    if not finite:
        count = int(np.count_nonzero(~np.isfinite(values)))
        raise SpectrumError(
            f"layer {graph.layer!r}: {count} of {values.size} weights are not finite; its weighted spectrum does not "
            "exist: measure a step before training diverged, or the mask alone"
        )
    weights: np.ndarray = single if exact else np.abs(values)
    return weights
