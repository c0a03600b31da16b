"""How channels go through functions and methods: a rule for each name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import fx

from sift_graph.ift.channels import Axes, Axis, Channels, Groups, UntraceableError

__all__ = ["RULES", "Known", "Shape", "keep_channels", "name_of", "reshape", "shape_of"]

Shape = tuple[int, ...]
Known = dict[fx.Node, "Axes | None"]
POINTWISE = {
    "relu", "relu_", "relu6", "leaky_relu", "elu", "gelu", "silu", "mish", "hardswish", "hardsigmoid", "hardtanh",
    "sigmoid", "tanh", "softplus", "dropout", "dropout2d", "contiguous", "clone", "float", "half", "bfloat16", "to",
    "clamp", "neg", "abs", "exp", "sqrt", "rsqrt", "pow", "softmax", "log_softmax", "detach", "expand",
}  # fmt: skip
SPATIAL = {"max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "interpolate"}
BINARY = {"add", "add_", "iadd", "sub", "sub_", "mul", "mul_", "imul", "div", "truediv", "maximum", "minimum"}


def name_of(node: fx.Node) -> str:
    """Name of a function or a method."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """Shape of what an operation gives, if it is a tensor."""
    meta: Any = node.meta.get("tensor_meta")
    return tuple(meta.shape) if hasattr(meta, "shape") else None


def keep(node: fx.Node, known: Known, shape: Shape, groups: Groups) -> Axes:
    """Follow what gives the shape that it takes."""
    axes = known[node.all_input_nodes[0]] or (None,) * len(shape)
    if len(axes) != len(shape):
        raise UntraceableError("changes the number of axes")
    return axes


def keep_channels(node: fx.Node, known: Known, shape: Shape, groups: Groups) -> Axes:
    """Follow what may change the last two axes."""
    axes = keep(node, known, shape, groups)
    for axis in axes[-2:]:
        groups.fix(axis)
    return axes


def broadcast(node: fx.Node, known: Known, shape: Shape, groups: Groups) -> Axes:
    """Follow what puts two tensors together, value by value."""
    result: list[Axis] = [None] * len(shape)
    lengths = [1] * len(shape)
    for source in node.all_input_nodes:
        axes, sizes = known[source], shape_of(source)
        if axes is None or sizes is None:
            continue
        for back in range(1, len(sizes) + 1):
            if sizes[-back] == 1:
                groups.fix(axes[-back])
            elif lengths[-back] == 1:
                result[-back], lengths[-back] = axes[-back], sizes[-back]
            else:
                result[-back] = groups.unite(result[-back], axes[-back])
    return tuple(result)


def concatenate(node: fx.Node, known: Known, shape: Shape, groups: Groups) -> Axes:
    """Follow a concatenation."""
    sources = node.args[0] if node.args else node.kwargs["tensors"]
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    if not isinstance(sources, list | tuple) or not isinstance(dim, int):
        raise UntraceableError("concatenates what is not listed")
    dim %= len(shape)
    all_axes = [known[source] or (None,) * len(shape) for source in sources if isinstance(source, fx.Node)]
    result = list(all_axes[0])
    for axes in all_axes[1:]:
        for i, axis in enumerate(axes):
            if i != dim:
                result[i] = groups.unite(result[i], axis)
    along = [axes[dim] for axes in all_axes]
    if any(along):
        # A part that no weight makes, such as the input itself, is a group that keeps its size.
        parts: list[Channels] = []
        for source, axis in zip(sources, along, strict=True):
            size = (shape_of(source) or shape)[dim] if isinstance(source, fx.Node) else 0
            fresh = groups.new(size) if axis is None else axis
            if axis is None:
                groups.fix(fresh)
            parts += fresh
        result[dim] = tuple(parts)
    return tuple(result)


def reshape(node: fx.Node, known: Known, shape: Shape, groups: Groups) -> Axes:
    """Follow what puts neighbouring axes into one, or adds and removes axes of length 1."""
    axes, sizes = known[node.all_input_nodes[0]], shape_of(node.all_input_nodes[0])
    if axes is None or sizes is None or sizes == shape:
        return axes or (None,) * len(shape)
    result: list[Axis] = []
    i = j = 0
    while i < len(sizes) or j < len(shape):  # the shortest runs of axes, old and new, that hold equally much
        taken, given = sizes[i : i + 1], shape[j : j + 1]
        while math.prod(taken) != math.prod(given):
            if math.prod(taken) < math.prod(given):
                taken = sizes[i : i + len(taken) + 1]
            else:
                given = shape[j : j + len(given) + 1]
        result += merged(axes[i : i + len(taken)], taken, given, groups)
        i, j = i + len(taken), j + len(given)
    return tuple(result)


def merged(axes: Axes, taken: Shape, given: Shape, groups: Groups) -> list[Axis]:
    """Put a run of axes into one of them, all others of length 1."""
    grouped = [i for i, axis in enumerate(axes) if axis is not None and taken[i] > 1]
    for axis, size in zip(axes, taken, strict=True):
        if size == 1:
            groups.fix(axis)
    if not grouped:
        return [None] * len(given)
    long = [j for j, size in enumerate(given) if size > 1]
    if len(grouped) > 1 or len(long) > 1:
        raise UntraceableError(f"changes the shape {taken} of channels to {given}")
    at = grouped[0]
    before, after = math.prod(taken[:at]), math.prod(taken[at + 1 :])
    axis = tuple(Channels(part.group, part.repeat * after) for part in axes[at] or ()) * before
    return [axis if j == long[0] else None for j in range(len(given))]


def permute(node: fx.Node, known: Known, shape: Shape, groups: Groups) -> Axes:
    """Follow a change of the order of axes."""
    axes = keep(node, known, shape, groups)
    order = node.args[1:] if not isinstance(node.args[1], list | tuple) else node.args[1]
    places = [int(i) % len(shape) for i in order if isinstance(i, int)]
    if name_of(node) != "permute":
        places = [{places[0]: places[1], places[1]: places[0]}.get(i, i) for i in range(len(shape))]
    return tuple(axes[i] for i in places)


def reduce(node: fx.Node, known: Known, shape: Shape, groups: Groups) -> Axes:
    """Follow a mean, a sum or a maximum over some axes."""
    axes = known[node.all_input_nodes[0]] or ()
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    gone = {int(i) % len(axes) for i in (dims if isinstance(dims, list | tuple) else [dims]) if isinstance(i, int)}
    if not gone:
        return (None,) * len(shape)
    if len(shape) == len(axes):
        return tuple(None if i in gone else axis for i, axis in enumerate(axes))
    return tuple(axis for i, axis in enumerate(axes) if i not in gone)


def select(node: fx.Node, known: Known, shape: Shape, groups: Groups) -> Axes:
    """Follow an index of numbers and slices, of which none may cut channels."""
    axes = known[node.all_input_nodes[0]] or ()
    index = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    result: list[Axis] = []
    for i, axis in enumerate(axes):
        part = index[i] if i < len(index) else slice(None)
        if part is Ellipsis or part is None or isinstance(part, fx.Node) or (axis and part != slice(None)):
            raise UntraceableError("cuts channels that would be widened")
        if isinstance(part, slice):
            result.append(axis)
    return tuple(result)


Rule = Callable[[fx.Node, Known, Shape, Groups], Axes]
RULES: dict[str, Rule] = {
    **dict.fromkeys(POINTWISE, keep),
    **dict.fromkeys(SPATIAL, keep_channels),
    **dict.fromkeys(BINARY, broadcast),
    **dict.fromkeys(("cat", "concat"), concatenate),
    **dict.fromkeys(("flatten", "view", "reshape", "unsqueeze", "squeeze"), reshape),
    **dict.fromkeys(("permute", "transpose"), permute),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), reduce),
    "getitem": select,
}
