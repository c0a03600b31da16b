"""The registries of metrics, what a user's words select from them, and the one function that measures a layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import SequenceMatcher, get_close_matches
from typing import Any, Literal

from sift_graph.errors import UsageError
from sift_graph.graph import BipartiteGraph
from sift_graph.metrics.compat import COMPAT, COMPAT_METRICS
from sift_graph.metrics.connectivity import CONNECTIVITY
from sift_graph.metrics.cross_layer import CROSS_LAYER
from sift_graph.metrics.dynamics import CORE_DYNAMICS, DYNAMICS
from sift_graph.metrics.expander import EXPANDER
from sift_graph.metrics.full_spectrum import FULL_SPECTRUM
from sift_graph.metrics.iterative import ITERATIVE, ITERATIVE_MORE
from sift_graph.metrics.layer import Layer
from sift_graph.metrics.local import LOCAL
from sift_graph.metrics.metric import GROUPS, Metric, evaluate
from sift_graph.metrics.mixing import MIXING
from sift_graph.metrics.ramanujan import RAMANUJAN
from sift_graph.metrics.reference import REFERENCE
from sift_graph.metrics.structure import DEGREES, STRUCTURE
from sift_graph.metrics.topometrics import TOPOMETRICS
from sift_graph.metrics.weighted import GRADIENT, WEIGHTED, WEIGHTED_MORE

__all__ = ["CORE", "METRICS", "NETWORK_METRICS", "find_metric", "measure_layer", "register", "select"]

_CORE = (*STRUCTURE, *RAMANUJAN, *ITERATIVE, *WEIGHTED)
_MORE = (*DEGREES, *EXPANDER, *MIXING, *LOCAL, *WEIGHTED_MORE, *ITERATIVE_MORE, *REFERENCE, *FULL_SPECTRUM, *GRADIENT)

METRICS: dict[str, Metric] = {m.name: m for m in (*_CORE, *_MORE, *COMPAT_METRICS)}
"""Every metric of one layer at one step, by column name, in column order."""

CORE: tuple[str, ...] = tuple(m.name for m in METRICS.values() if m.core)
"""Names that are computed when nothing is asked for."""

NETWORK_METRICS: dict[str, Metric] = {m.name: m for m in (*CONNECTIVITY, *CROSS_LAYER, *TOPOMETRICS)}
"""Every metric of a whole network at one step, by column name; each has ``scope="network"``."""

_REGISTRIES = {"layer": METRICS, "dynamics": DYNAMICS, "network": NETWORK_METRICS}


def register(metric: Metric) -> Metric:
    """Add a metric to the registry of its scope, for this process and for the workers that it starts.

    Parameters
    ----------
    metric : Metric

    Returns
    -------
    Metric
        As it is registered: with ``origin="user"`` unless it names its package.

    Raises
    ------
    UsageError
        If this package has a metric of that name.
    """
    registry = _REGISTRIES[metric.scope]
    known = find_metric(metric.name)
    if known is not None and known.origin == "sift_graph":
        raise UsageError(f"metric {metric.name!r}: sift_graph has a metric of that name; choose another one")
    if metric.origin == "sift_graph":
        metric = replace(metric, origin="user")
    registry[metric.name] = metric
    return metric


def find_metric(name: str) -> Metric | None:
    """Return the metric of a column, whatever its scope; None if there is none."""
    for registry in _REGISTRIES.values():
        if name in registry:
            return registry[name]
    return None


def select(names: str | Iterable[str] | None) -> list[str]:
    """Resolve what a user asked for to metric names, in column order.

    Parameters
    ----------
    names : str or iterable of str or None
        None or ``"core"``; ``"all"``, which leaves out the compat variants and what needs gradients; ``"compat"``; a
        group of :data:`sift_graph.metrics.GROUPS`; or names. A string may hold several with commas between.

    Returns
    -------
    list of str
        Of :data:`METRICS`, then of :data:`sift_graph.metrics.DYNAMICS` beyond its core, then of
        :data:`NETWORK_METRICS`. The structural columns (sizes, edges, density) always come first, and the core of the
        dynamics need not be asked for.

    Raises
    ------
    UsageError
        For a name that does not exist, with the nearest one.

    Examples
    --------
    >>> select("ramanujan_gap")[-1]
    'ramanujan_gap'
    """
    if names is None:
        return list(CORE)
    asked = [n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)
    everything = {name: metric for registry in _REGISTRIES.values() for name, metric in registry.items()}
    wanted = {m.name for m in STRUCTURE}
    for name in asked:
        if name == "core":
            wanted |= set(CORE)
        elif name == "all":
            wanted |= {n for n, m in everything.items() if m.group not in COMPAT and m.needs != "gradient"}
        elif name == "compat":
            wanted |= {m.name for m in COMPAT_METRICS}
        elif name in everything:
            wanted.add(name)
        elif name in GROUPS:
            wanted |= {n for n, m in everything.items() if m.group == name}
        else:
            known = ["core", "all", "compat", *GROUPS, *everything]
            raise UsageError(f"no metric {name!r}{nearest(name, known)}; `sift-graph metrics` lists them")
    return [name for name in everything if name in wanted and name not in CORE_DYNAMICS]


def nearest(name: str, known: Sequence[str]) -> str:
    """Suggest the nearest names, those of the core first among equals; too many are known to list them all."""
    near = get_close_matches(name, known, n=5)
    near = sorted(near, key=lambda one: (-SequenceMatcher(None, name, one).ratio(), one not in CORE))[:3]
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def measure_layer(
    graph: BipartiteGraph,
    names: Iterable[str],
    *,
    needs: Literal["mask", "weight"] | None = None,
    gradient: BipartiteGraph | None = None,
) -> dict[str, Any]:
    """Measure one layer.

    Parameters
    ----------
    graph : BipartiteGraph
    names : iterable of str
        Metric names, from :func:`select`; those of another scope are passed over.
    needs : {"mask", "weight"}, optional
        Only the metrics that need no more than the mask, or only those that need more.
    gradient : BipartiteGraph, optional
        The same graph with gradients as values.

    Returns
    -------
    dict
        A value for each name, NaN where undefined, and ``note``: the words that say why, with commas between.
    """
    chosen = [METRICS[name] for name in names if name in METRICS]
    if needs is not None:
        chosen = [m for m in chosen if (m.needs == "mask") == (needs == "mask")]
    return evaluate(Layer(graph, gradient), chosen)
