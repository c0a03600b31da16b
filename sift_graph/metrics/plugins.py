"""Metrics of other packages: entry points of the group ``sift_graph.metrics``.

An entry point names a :class:`sift_graph.metrics.Metric`, or an iterable of them. What cannot be loaded is left out,
logged and listed in :data:`FAILED`: one broken package must not keep the others from measuring.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points

from sift_graph.metrics.base import register
from sift_graph.metrics.metric import Metric, one_word

__all__ = ["FAILED", "GROUP", "load_plugins"]

logger = logging.getLogger(__name__)

GROUP = "sift_graph.metrics"
FAILED: dict[str, str] = {}
"""Entry points that could not be loaded, and why."""


def load_plugins(found: Iterable[EntryPoint] | None = None) -> list[Metric]:
    """Register the metrics of installed packages.

    Parameters
    ----------
    found : iterable of EntryPoint, optional
        Those of the installed packages by default.

    Returns
    -------
    list of Metric
    """
    added: list[Metric] = []
    for point in entry_points(group=GROUP) if found is None else found:
        try:
            loaded = point.load()
            metrics = [loaded] if isinstance(loaded, Metric) else list(loaded)
            origin = point.dist.name if point.dist is not None else point.value.split(":")[0].split(".")[0]
            added += [register(replace(metric, origin=origin)) for metric in metrics]
        except Exception as error:
            FAILED[point.name] = one_word(error)
            logger.warning("metrics of entry point %r are left out: %s", point.name, FAILED[point.name])
    return added
