"""The registries of metrics, and the one function that measures a layer with them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from sift_graph.errors import UsageError, did_you_mean
from sift_graph.graph import BipartiteGraph
from sift_graph.metrics.iterative import ITERATIVE
from sift_graph.metrics.layer import Layer
from sift_graph.metrics.metric import Metric, evaluate
from sift_graph.metrics.ramanujan import RAMANUJAN
from sift_graph.metrics.structure import STRUCTURE
from sift_graph.metrics.weighted import WEIGHTED

__all__ = ["CORE", "METRICS", "NETWORK_METRICS", "measure_layer", "select"]

METRICS: dict[str, Metric] = {m.name: m for m in (*STRUCTURE, *RAMANUJAN, *ITERATIVE, *WEIGHTED)}
"""Every metric of one layer at one step, by column name, in column order."""

CORE: tuple[str, ...] = tuple(METRICS)
"""Names that are computed when nothing is asked for."""

NETWORK_METRICS: dict[str, Metric] = {}
"""Every metric of a whole network at one step, by column name; each has ``scope="network"``."""


def select(names: str | Iterable[str] | None) -> list[str]:
    """Resolve what a user asked for to metric names, in column order.

    Parameters
    ----------
    names : str or iterable of str or None
        None, ``"core"``, ``"all"``, or names; a string may hold several with commas between.

    Returns
    -------
    list of str
        The structural columns (sizes, edges, density) always come first.

    Raises
    ------
    UsageError
        For a name that does not exist, with the nearest one.

    Examples
    --------
    >>> select("ramanujan_gap")[-1]
    'ramanujan_gap'
    """
    if names is None or names in ("core", "all"):
        return list(CORE)
    asked = [n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)
    for name in asked:
        if name not in METRICS:
            raise UsageError(f"no metric {name!r}{did_you_mean(name, METRICS)}")
    wanted = {m.name for m in STRUCTURE} | set(asked)
    return [name for name in METRICS if name in wanted]


def measure_layer(
    graph: BipartiteGraph, names: Iterable[str], *, needs: Literal["mask", "weight"] | None = None
) -> dict[str, Any]:
    """Measure one layer.

    Parameters
    ----------
    graph : BipartiteGraph
    names : iterable of str
        Metric names, from :func:`select`.
    needs : {"mask", "weight"}, optional
        Only the metrics that need no more than the mask, or only those that need the weights.

    Returns
    -------
    dict
        A value for each name, NaN where undefined, and ``note``: the words that say why, with commas between.
    """
    chosen = (METRICS[name] for name in names)
    return evaluate(Layer(graph), [m for m in chosen if needs is None or (m.needs == "mask") == (needs == "mask")])
