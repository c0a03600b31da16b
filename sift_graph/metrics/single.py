"""The one call for one mask."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sift_graph.graph import BipartiteGraph
from sift_graph.masks import LayerMask, Layout
from sift_graph.metrics.base import measure_layer, select

__all__ = ["measure"]


def measure(
    mask: Any,
    weight: Any = None,
    *,
    groups: int = 1,
    metrics: str | Iterable[str] | None = None,
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
    groups : int
        Groups of a grouped convolution.
    metrics : str or iterable of str, optional
        Names from :data:`sift_graph.METRICS`; all of them by default.
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
    names = select(metrics)
    if not isinstance(mask, LayerMask):
        mask = LayerMask.from_dense(layer, mask, weight, groups=groups, layout=layout)
    elif weight is not None:
        mask = LayerMask.from_dense(
            mask.layer, mask.mask, weight, groups=mask.groups, layout=mask.layout, source=mask.source
        )
    return measure_layer(BipartiteGraph.from_mask(mask), names)
