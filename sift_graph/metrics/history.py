"""What one layer's earlier snapshots leave behind, however many there were.

Streaming: what is held of the past does not grow with the number of snapshots. Four packed masks a layer are enough for
most columns; counting the flips of each entry takes two bytes an entry more, ages two bytes an edge, and only where
they are asked for. A snapshot that was not recorded is not seen: record at each mask update for exact rates, else what
accumulates is a lower bound.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from sift_graph.masks import LayerMask
from sift_graph.metrics.dynamics import (
    CORE_DYNAMICS,
    DYNAMICS,
    Change,
    ages_of,
    count,
    flip_counts,
    flips,
    survival,
    unexplored,
)
from sift_graph.metrics.metric import evaluate

__all__ = ["History"]

COUNTING = frozenset({"mean_flips", "max_flips", "flipped_share"})


@dataclass
class History:
    """What one layer's earlier snapshots leave behind.

    Attributes
    ----------
    names : tuple of str
        Columns of :data:`DYNAMICS` to compute; only what they need is held.

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

    names: Iterable[str] = CORE_DYNAMICS
    seen: int = field(default=0, init=False)
    first: np.ndarray | None = field(default=None, init=False)
    previous: LayerMask | None = field(default=None, init=False)
    ever: np.ndarray | None = field(default=None, init=False)
    always: np.ndarray | None = field(default=None, init=False)
    flips: int = field(default=0, init=False)
    flip_counts: np.ndarray | None = field(default=None, init=False)
    ages: np.ndarray | None = field(default=None, init=False)
    half_life: int | None = field(default=None, init=False)
    unexplored: float = field(default=1.0, init=False)

    def __post_init__(self) -> None:
        self.names = tuple(self.names)

    def update(self, mask: LayerMask) -> dict[str, Any]:
        """Take the next snapshot's mask and return its dynamics columns.

        Parameters
        ----------
        mask : LayerMask
            Of the same shape each time; a change of shape starts afresh. With weights where a column needs them.

        Returns
        -------
        dict
            A value for each name, NaN where undefined.
        """
        return {k: v for k, v in self.noted_update(mask).items() if k != "note"}

    def noted_update(self, mask: LayerMask) -> dict[str, Any]:
        """Do the same, with ``note``: the words that say why something is undefined, beside that it is the first."""
        if self.previous is not None and self.previous.shape != mask.shape:
            vars(self).update(vars(History(self.names)), **{f.name: f.default for f in fields(self) if not f.init})
        change = Change(mask, self)
        values = evaluate(change, [DYNAMICS[name] for name in self.names])
        values["note"] = ",".join(w for w in values["note"].split(",") if w not in ("", "first_snapshot", "not_halved"))
        self._take(change)
        return values

    def _take(self, change: Change) -> None:
        """Make this snapshot the past."""
        names = frozenset(self.names)
        if "mean_age" in names:
            self.ages = ages_of(change)
        if names & COUNTING:
            self.flip_counts = flip_counts(change)
        if self.half_life is None and count(change.first) and survival(change) <= 0.5:
            self.half_life = self.seen
        self.flips, self.unexplored = flips(change), unexplored(change)
        self.ever, self.always, self.first = change.ever, change.always, change.first
        with_weights = any(DYNAMICS[name].needs == "weight" for name in names)
        mask = change.mask
        self.previous = (
            mask
            if with_weights
            else LayerMask(mask.layer, mask.shape, mask.bits, groups=mask.groups, layout=mask.layout)
        )
        self.seen += 1

    def flip_histogram(self) -> np.ndarray:
        """Count the entries by how often they changed.

        Returns
        -------
        ndarray of int64
            Entry k holds the entries that changed k times. Empty unless a column counts flips, such as ``mean_flips``.
        """
        return np.bincount(self.flip_counts) if self.flip_counts is not None else np.zeros(0, dtype=np.int64)
