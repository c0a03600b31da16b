"""How a layer's mask moves: distances to the previous and the first snapshot, and what has ever been active.

Streaming: three packed masks a layer are held, however many snapshots there are. A snapshot that was not recorded is
not seen: record at each mask update for the exact ITOP rate, else it is a lower bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sift_graph.masks import LayerMask

__all__ = ["DYNAMICS", "History", "hamming", "iou"]

DYNAMICS: dict[str, tuple[str, str]] = {
    "hamming_previous": (
        "share of entries that differ from the previous snapshot",
        "[0, 1]; NaN at the first",
    ),
    "iou_previous": (
        "edges in both over edges in either, previous snapshot",
        "[0, 1]; NaN at the first; 1 if both empty",
    ),
    "hamming_first": ("share of entries that differ from the first snapshot", "[0, 1]"),
    "iou_first": ("edges in both over edges in either, first snapshot", "[0, 1]; 1 if both empty"),
    "itop_rate": (
        "share of entries active in any snapshot so far (in-time over-parameterisation)",
        "[density, 1]",
    ),
}
"""Columns of mask dynamics: what each is, and its range."""


def hamming(a: np.ndarray, b: np.ndarray) -> int:
    """Entries in which two packed masks differ."""
    return int(np.bitwise_count(a ^ b).sum(dtype=np.int64))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two packed masks; 1.0 if both are empty."""
    union = int(np.bitwise_count(a | b).sum(dtype=np.int64))
    return int(np.bitwise_count(a & b).sum(dtype=np.int64)) / union if union else 1.0


@dataclass
class History:
    """What one layer's earlier snapshots leave behind.

    Examples
    --------
    >>> history = History()
    >>> first = history.update(LayerMask.from_dense("fc", np.eye(2, dtype=bool)))
    >>> then = history.update(LayerMask.from_dense("fc", ~np.eye(2, dtype=bool)))
    >>> then["iou_previous"], then["itop_rate"]
    (0.0, 1.0)

    References
    ----------
    .. [1] S. Liu et al., "Do we actually need dense over-parameterization? In-time over-parameterization in sparse
       training", ICML 2021 (the ITOP rate).
    """

    first: np.ndarray | None = None
    previous: np.ndarray | None = None
    ever: np.ndarray | None = None

    def update(self, mask: LayerMask) -> dict[str, float]:
        """Take the next snapshot's mask and return its dynamics columns.

        Parameters
        ----------
        mask : LayerMask
            Of the same shape each time; a change of shape starts afresh.

        Returns
        -------
        dict
            Keys of :data:`DYNAMICS`.
        """
        bits = mask.bits
        if self.first is None or self.previous is None or self.ever is None or self.first.shape != bits.shape:
            self.first = self.previous = bits
            self.ever = bits.copy()
            return {
                "hamming_previous": math.nan,
                "iou_previous": math.nan,
                "hamming_first": 0.0,
                "iou_first": 1.0,
                "itop_rate": mask.density,
            }
        np.bitwise_or(self.ever, bits, out=self.ever)
        values = {
            "hamming_previous": hamming(bits, self.previous) / mask.size,
            "iou_previous": iou(bits, self.previous),
            "hamming_first": hamming(bits, self.first) / mask.size,
            "iou_first": iou(bits, self.first),
            "itop_rate": int(np.bitwise_count(self.ever).sum(dtype=np.int64)) / mask.size,
        }
        self.previous = bits
        return values
