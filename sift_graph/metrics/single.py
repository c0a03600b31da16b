"""The one call for one mask."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sift_graph.encodings import SINGLE, Geometry, Request, Target, encode
from sift_graph.errors import UsageError, did_you_mean
from sift_graph.graph import BipartiteGraph
from sift_graph.masks import LayerMask, Layout
from sift_graph.metrics.base import METRICS, measure_layer, select
from sift_graph.metrics.compat import COMPAT
from sift_graph.metrics.dynamics import DYNAMICS
from sift_graph.metrics.encoded import measure_encoded

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
    encoding: str = "kernel",
    input_size: Sequence[int] | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | None = None,
    dilation: int | Sequence[int] = 1,
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
    encoding : str
        How the mask becomes a graph: ``kernel``, ``channel``, ``channel_count``, ``unrolled`` or
        ``unrolled_circular``; see :mod:`sift_graph.encodings`, which has those of several layers too.
    input_size : sequence of int, optional
        Of the layer's input, without channels; the unrolled encodings need it.
    stride, padding, dilation : int or sequence of int
        As the layer has them, for the unrolled encodings; without a padding, the one that keeps the size at stride 1.

    Returns
    -------
    dict
        A value a metric, in column order: int, float in units of the mask's singular values, or str. NaN (None for
        ``is_ramanujan``) where undefined, with a word in ``note``: ``empty``, ``bound_zero``, ``no_subgraph``,
        ``no_weights``, ``weights_not_finite``, ``weights_all_zero``, ``not_converged``, ``encoding`` (no answer in this
        encoding). ``note`` is ``""`` otherwise.

    Raises
    ------
    MaskError
        If the mask is not 0/1, has one axis, or differs in shape from the weight.
    UsageError
        If a metric or an encoding does not exist, or the encoding does not fit.

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
    if encoding != "kernel":
        laid_out = None
        if input_size is not None and encoding.startswith("unrolled"):
            spatial = mask.shape[2:] if mask.layout == "oi" else mask.shape[:-2]
            laid_out = Geometry.plain(input_size, spatial, stride=stride, padding=padding, dilation=dilation)
        return measure_in(mask, encoding, laid_out, names)
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


def measure_in(mask: LayerMask, encoding: str, geometry: Geometry | None, names: list[str]) -> dict[str, Any]:
    """Measure a mask in another encoding than ``kernel``."""
    request = Request(encoding, geometries={} if geometry is None else {mask.layer: geometry})
    if encoding not in SINGLE:
        raise UsageError(
            f"layer {mask.layer!r}: the encoding {encoding!r} makes other graphs than one of one mask; make them with "
            "sift_graph.encodings, and measure each"
        )
    return measure_encoded(encode(Target(mask.layer, (mask.layer,), request), [mask]), names)


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
