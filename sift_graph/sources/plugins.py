"""Adapters of other packages: entry points of the group ``sift_graph.sources``.

An entry point names a :data:`sift_graph.sources.Source`, a function of weights and optimizer; its own name becomes the
source's. What cannot be loaded, or fails at work, is left out, logged and listed in :data:`FAILED`: one broken package
must not keep the others from finding masks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from sift_graph.sources.registry import SOURCES
from sift_graph.sources.weights import Source, Weight

__all__ = ["FAILED", "GROUP", "load_plugins"]

logger = logging.getLogger(__name__)

GROUP = "sift_graph.sources"
FAILED: dict[str, str] = {}
"""Entry points that could not be loaded or failed at work, and why."""


def load_plugins(found: Iterable[EntryPoint] | None = None) -> list[str]:
    """Put the sources of installed packages before those of ours.

    Parameters
    ----------
    found : iterable of EntryPoint, optional
        Those of the installed packages by default.

    Returns
    -------
    list of str
        Names of the sources that were added.
    """
    added: dict[str, Source] = {}
    for point in entry_points(group=GROUP) if found is None else found:
        try:
            source = point.load()
            _check(point.name, source, (*SOURCES, *added))
            added[point.name] = _guarded(point.name, source)
        except Exception as error:
            _leave_out(point.name, error)
    before = dict(SOURCES)
    SOURCES.clear()
    SOURCES.update({**added, **before})
    return list(added)


def _check(name: str, source: Any, known: Sequence[str]) -> None:
    if not callable(source):
        raise TypeError(f"expected a function of weights and optimizer, found {type(source).__name__}")
    if name in known:
        raise ValueError(f"there is a source {name!r} already; rename the entry point")


def _guarded(name: str, source: Source) -> Source:
    """Make a source that fails one that finds nothing."""

    def guarded(weights: Sequence[Weight], optimizer: Any) -> list[tuple[Weight, Any]]:
        try:
            known = [(weight, mask) for weight, mask in source(weights, optimizer)]
            for weight, _ in known:
                if not isinstance(weight, Weight):
                    raise TypeError(f"expected (weight, mask) pairs, found a pair with {type(weight).__name__}")
        except Exception as error:
            _leave_out(name, error)
            return []
        return known

    return guarded


def _leave_out(name: str, error: Exception) -> None:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    if FAILED.get(name) != reason:  # a recorder asks at every step: say it once
        logger.warning("masks of entry point %r are left out: %s", name, reason)
    FAILED[name] = reason
