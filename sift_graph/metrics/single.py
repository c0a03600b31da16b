"""The one call for one mask."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sift_graph.errors import UsageError, did_you_mean
from sift_graph.graph import BipartiteGraph
from sift_graph.masks import LayerMask, Layout
from sift_graph.metrics.base import METRICS, measure_layer, select
from sift_graph.metrics.compat import COMPAT
from sift_graph.metrics.dynamics import DYNAMICS

__all__ = ["measure"]


def measure(
    mask: Any,
    weight: Any = None,
    *,
    gradient: Any = None,
    groups: int = 1,
    metrics: str | Iterable[str] | None = None,
    compat: str | None = None,
    layout: Layout = "oi",
    layer: str = "mask",
) -> dict[str, Any]:
    """Measure one mask: degrees, singular values, Ramanujan gap, iterative and weighted metrics.

    Parameters
    ----------
    mask : LayerMask, or array or tensor of bool or of zeros and ones
        In the weight's shape: ``(out, in)`` or ``(out, in / groups, *kernel)``. Topology comes from the mask alone.
    weight : array or tensor of float, optional
        In the same shape. Without it the weighted metrics are NaN, and ``note`` says ``no_weights``.
    gradient : array or tensor of float, optional
        The loss's gradient by the weight, in the same shape: adds the metrics that need it.
    groups : int
        Groups of a grouped convolution.
    metrics : str or iterable of str, optional
        Names from :data:`sift_graph.METRICS`, groups of them, ``"core"`` (the default) or ``"all"``.
    compat : str, optional
        A published code, of :data:`sift_graph.metrics.COMPAT`: return what it computes instead, its faults included,
        with its own names.
    layout : {"oi", "io"}
        ``io`` for ``(*kernel, in, out)``.
    layer : str
        A name for error messages.

    Returns
    -------
    dict
        A value a metric, in column order: int, float in units of the mask's singular values, or str. NaN (None for
        ``is_ramanujan``) where undefined, with a word in ``note``: ``empty``, ``bound_zero``, ``no_subgraph``,
        ``no_weights``, ``weights_not_finite``, ``weights_all_zero``, ``not_converged``. ``note`` is ``""`` otherwise.

    Raises
    ------
    MaskError
        If the mask is not 0/1, has one axis, or differs in shape from the weight.
    UsageError
        If a metric does not exist.

    Examples
    --------
    >>> import numpy as np
    >>> fano = np.array([[(j - i) % 7 in (0, 1, 3) for i in range(7)] for j in range(7)])
    >>> values = measure(fano)
    >>> round(values["sigma_2"], 6), values["is_ramanujan"]
    (1.414214, 'yes')
    """
    names = select(metrics) if compat is None else columns_of(compat, metrics)
    check_scope(names, metrics)
    if not isinstance(mask, LayerMask):
        mask = LayerMask.from_dense(layer, mask, weight, groups=groups, layout=layout)
    elif weight is not None:
        mask = LayerMask.from_dense(
            mask.layer, mask.mask, weight, groups=mask.groups, layout=mask.layout, source=mask.source
        )
    graph = BipartiteGraph.from_mask(mask)
    of_gradient = None
    if gradient is not None:
        of_gradient = BipartiteGraph.from_mask(
            LayerMask.from_dense(mask.layer, mask.mask, gradient, groups=mask.groups, layout=mask.layout)
        )
        if metrics is None or metrics == "all":
            names += [name for name, metric in METRICS.items() if metric.needs == "gradient"]
    values = measure_layer(graph, names, gradient=of_gradient)
    return values if compat is None else {name.removeprefix(f"{compat}_"): value for name, value in values.items()}


def columns_of(compat: str, metrics: Any) -> list[str]:
    """Columns of a published code."""
    if metrics is not None:
        raise UsageError(f"compat={compat!r} names its own metrics; leave metrics= out, or ask for its columns by name")
    if compat not in COMPAT:
        raise UsageError(f"no published code {compat!r}{did_you_mean(compat, COMPAT)}")
    return list(COMPAT[compat])


def check_scope(names: list[str], metrics: Any) -> None:
    """Refuse a metric that one mask has not, if it was asked for by its own name."""
    asked = {n.strip() for n in metrics.split(",")} if isinstance(metrics, str) else set(metrics or ())
    for name in names:
        if name not in METRICS and name in asked:
            whose = "a layer's history" if name in DYNAMICS else "a whole network"
            raise UsageError(f"metric {name!r} is of {whose}, not of one mask; analyze a recorded run for it")
