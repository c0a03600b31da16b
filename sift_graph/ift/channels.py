"""Which axes of a model's tensors must be equally long: followed through the traced graph, operation by operation.

Each axis that a weight makes is a group of channels. A residual addition makes two groups one; a concatenation puts
groups in a row; what meets the model's input or output keeps its length. What is left may be widened, consistently.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from sift_graph.errors import UsageError
from sift_graph.ift.flops import evaluating

__all__ = ["Axis", "Channels", "Following", "Groups", "follow_channels"]

WEIGHTS = (nn.Conv2d, nn.Linear, nn.Embedding)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
POINTWISE_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh,
    nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Identity, nn.Dropout, nn.Dropout2d,
)  # fmt: skip
SPATIAL_MODULES = (
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample, nn.ZeroPad2d,
    nn.ReflectionPad2d,
)  # fmt: skip
POINTWISE = {
    "relu", "relu_", "relu6", "leaky_relu", "elu", "gelu", "silu", "mish", "hardswish", "hardsigmoid", "hardtanh",
    "sigmoid", "tanh", "softplus", "dropout", "dropout2d", "contiguous", "clone", "float", "half", "bfloat16", "to",
    "clamp", "neg", "abs", "exp", "sqrt", "rsqrt", "pow", "softmax", "log_softmax", "detach", "expand",
}  # fmt: skip
SPATIAL = {"max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "interpolate"}
BINARY = {"add", "add_", "iadd", "sub", "sub_", "mul", "mul_", "imul", "div", "truediv", "maximum", "minimum"}
SIZES = {"size", "getattr", "dim", "len"}


@dataclass(frozen=True)
class Channels:
    """A run of an axis: each channel of a group, so many times in a row."""

    group: int
    repeat: int = 1


Axis = tuple[Channels, ...] | None  # None: an axis that no weight makes, and that keeps its length
Axes = tuple[Axis, ...]


@dataclass
class Groups:
    """Groups of channels; two may turn out to be one.

    Attributes
    ----------
    sizes : list of int
    multiples : list of int
        What the size must be a multiple of.
    fixed : list of bool
        Whether the size must stay.
    parents : list of int
        A group that this one is; itself if none.
    """

    sizes: list[int] = field(default_factory=list)
    multiples: list[int] = field(default_factory=list)
    fixed: list[bool] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)

    def new(self, size: int, multiple: int = 1) -> tuple[Channels, ...]:
        """Make a group; give an axis of it."""
        self.sizes.append(size)
        self.multiples.append(multiple)
        self.fixed.append(False)
        self.parents.append(len(self.parents))
        return (Channels(self.parents[-1]),)

    def root(self, group: int) -> int:
        """Give the group that a group is."""
        while self.parents[group] != group:
            group = self.parents[group]
        return group

    def length(self, axis: Sequence[Channels]) -> int:
        """Length of an axis."""
        return sum(self.sizes[self.root(part.group)] * part.repeat for part in axis)

    def fix(self, axis: Axis) -> None:
        """Keep the length of an axis as it is."""
        for part in axis or ():
            self.fixed[self.root(part.group)] = True

    def need(self, axis: Axis, multiple: int) -> None:
        """Ask that the groups of an axis be multiples."""
        for part in axis or ():
            root = self.root(part.group)
            self.multiples[root] = math.lcm(self.multiples[root], multiple)

    def unite(self, one: Axis, other: Axis) -> Axis:
        """Make two axes equally long for good; one that no weight makes keeps the other as it is."""
        if one is None or other is None:
            self.fix(one)
            self.fix(other)
            return None
        shape = [(self.sizes[self.root(part.group)], part.repeat) for part in one]
        if shape != [(self.sizes[self.root(part.group)], part.repeat) for part in other]:
            raise UntraceableError("puts together channels that are concatenated differently")
        for a, b in zip(one, other, strict=True):
            first, second = self.root(a.group), self.root(b.group)
            self.parents[second] = first
            self.multiples[first] = math.lcm(self.multiples[first], self.multiples[second])
            self.fixed[first] |= self.fixed[second]
        return one


class UntraceableError(Exception):
    """Why an operation cannot be followed; turned into a message that names the module."""


@dataclass
class Following:
    """A model's graph as it is followed.

    Attributes
    ----------
    groups : Groups
    modules : dict of str to tuple
        Axes that the weight of a module takes and gives, by its name.
    parameters : dict of str to Axes
        Of parameters that stand for themselves.
    """

    groups: Groups = field(default_factory=Groups)
    modules: dict[str, tuple[Axis, Axis]] = field(default_factory=dict)
    parameters: dict[str, Axes] = field(default_factory=dict)


def follow_channels(model: nn.Module, example_input: torch.Tensor) -> Following:
    """Follow the channels of a model from its input to its output.

    Parameters
    ----------
    model : nn.Module
    example_input : Tensor

    Returns
    -------
    Following

    Raises
    ------
    UsageError
        If the model cannot be traced, or an operation cannot be followed; it names the module.
    """
    tracer = NamingTracer()
    try:
        with evaluating(model), torch.no_grad():
            model(example_input)
    except Exception as error:  # before the tracer meets it, which would print it as its own
        raise UsageError(
            f"{type(model).__name__}: does not run on the example input of shape {tuple(example_input.shape)} "
            f"({str(error).strip().splitlines()[0]})"
        ) from error
    try:
        with evaluating(model), torch.no_grad():
            graph = tracer.trace(model)
            ShapeProp(fx.GraphModule(tracer.root, graph)).propagate(example_input)
    except Exception as error:  # whatever a model may do that a tracer cannot follow
        reason = str(error).strip().splitlines()[0].split(". ")[0]
        raise UsageError(
            f"module {tracer.failed!r} ({type(model.get_submodule(tracer.failed)).__name__}): cannot be traced by "
            f"torch.fx ({reason}); give the model a width argument and widen it there"
        ) from error
    found = Following()
    known: dict[fx.Node, Axes | None] = {}
    for node in graph.nodes:
        try:
            known[node] = follow(node, known, model, found)
        except UntraceableError as error:
            raise UsageError(
                f"{place(node, model)} {error}; widen cannot say how that grows: give the model a width argument and "
                "widen it there"
            ) from error
    return found


class NamingTracer(fx.Tracer):
    """A tracer that knows in which module it failed.

    Attributes
    ----------
    failed : str
        The innermost one; empty for the model itself.
    """

    failed = ""

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace a module."""
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or self.path_of_module(m)
            raise


def place(node: fx.Node, model: nn.Module) -> str:
    """Name the module in which an operation stands, and the operation."""
    if node.op == "call_module":
        return f"module {str(node.target)!r} ({type(model.get_submodule(str(node.target))).__name__})"
    stack = list(node.meta.get("nn_module_stack") or {"": None})
    return f"module {stack[-1]!r}: the operation {name_of(node)!r}"


def name_of(node: fx.Node) -> str:
    """Name of a function or a method."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """Shape of what an operation gives, if it is a tensor."""
    meta: Any = node.meta.get("tensor_meta")
    return tuple(meta.shape) if hasattr(meta, "shape") else None


def follow(node: fx.Node, known: dict[fx.Node, Axes | None], model: nn.Module, found: Following) -> Axes | None:
    """Follow one operation; give the axes of its result, or None if that is no tensor."""
    groups, shape = found.groups, shape_of(node)
    inputs = [known[n] for n in node.all_input_nodes]
    if node.op == "output":
        for axes in inputs:
            for axis in axes or ():
                groups.fix(axis)
        return None
    name = name_of(node)
    if shape is None:
        if node.op in ("placeholder", "get_attr") or name in SIZES or not any(map(is_grouped, inputs)):
            return None
        raise UntraceableError("gives something other than a tensor of channels that would be widened")
    if node.op == "get_attr":
        return follow_parameter(name, model, shape, found)
    if node.op == "call_module":
        return follow_module(node, model.get_submodule(name), known, shape, found)
    if not any(map(is_grouped, inputs)):
        return (None,) * len(shape)
    if name not in RULES:
        raise UntraceableError("takes channels that would be widened")
    return RULES[name](node, known, shape, groups)


def is_grouped(axes: Axes | None) -> bool:
    """Whether any axis is made by a weight."""
    return axes is not None and any(axis is not None for axis in axes)


def follow_parameter(name: str, model: nn.Module, shape: Shape, found: Following) -> Axes:
    """Follow a parameter that stands for itself: a position embedding, a scale. Buffers keep their shape."""
    owner, _, last = name.rpartition(".")
    if not isinstance(getattr(model.get_submodule(owner), last), nn.Parameter):
        return (None,) * len(shape)
    if name not in found.parameters:
        found.parameters[name] = tuple(found.groups.new(size) if size > 1 else None for size in shape)
    return found.parameters[name]


def follow_module(
    node: fx.Node, module: nn.Module, known: dict[fx.Node, Axes | None], shape: Shape, found: Following
) -> Axes:
    """Follow a module of ``torch.nn``."""
    groups, name, source = found.groups, str(node.target), node.all_input_nodes[0]
    axes = known[source] or (None,) * len(shape_of(source) or shape)
    if isinstance(module, POINTWISE_MODULES):
        return axes
    if isinstance(module, SPATIAL_MODULES):
        return keep_channels(node, known, shape, groups)
    if isinstance(module, nn.Flatten):
        return reshape(node, known, shape, groups)
    if type(module) in WEIGHTS:
        where = 1 if isinstance(module, nn.Conv2d) else -1
        entering = None if isinstance(module, nn.Embedding) else axes[where]
        if name in found.modules:
            groups.unite(found.modules[name][0], entering)
        else:
            found.modules[name] = (entering, made_channels(module, entering, groups))
        given = found.modules[name][1]
        if isinstance(module, nn.Embedding):
            return (*axes, given)
        return (*axes[:1], given, *axes[2:]) if where == 1 else (*axes[:-1], given)
    if type(module) in NORMS:
        where = 1
        if isinstance(module, nn.LayerNorm):
            where = -1
            if len(module.normalized_shape) > 1 and is_grouped(axes):
                raise UntraceableError("normalises over several axes")
        elif isinstance(module, nn.GroupNorm):
            groups.need(axes[where], module.num_groups)
        if name in found.modules:
            groups.unite(found.modules[name][0], axes[where])
        found.modules[name] = (axes[where], axes[where])
        return axes
    if is_grouped(axes):
        raise UntraceableError("takes channels that would be widened")
    return (None,) * len(shape)


def made_channels(module: nn.Module, entering: Axis, groups: Groups) -> Axis:
    """Say what channels a convolution, a linear layer or an embedding gives."""
    if isinstance(module, nn.Linear):
        return groups.new(module.out_features)
    if isinstance(module, nn.Embedding):
        return groups.new(module.embedding_dim)
    assert isinstance(module, nn.Conv2d)
    if module.groups == 1:
        return groups.new(module.out_channels)
    if module.groups == module.in_channels:  # depthwise: as many groups as channels come in
        times = module.out_channels // module.in_channels
        return None if entering is None else tuple(Channels(part.group, part.repeat * times) for part in entering)
    groups.need(entering, module.groups)
    return groups.new(module.out_channels, module.groups)


def keep(node: fx.Node, known: dict[fx.Node, Axes | None], shape: Shape, groups: Groups) -> Axes:
    """Follow what gives the shape that it takes."""
    axes = known[node.all_input_nodes[0]] or (None,) * len(shape)
    if len(axes) != len(shape):
        raise UntraceableError("changes the number of axes")
    return axes


def keep_channels(node: fx.Node, known: dict[fx.Node, Axes | None], shape: Shape, groups: Groups) -> Axes:
    """Follow what may change the last two axes."""
    axes = keep(node, known, shape, groups)
    for axis in axes[-2:]:
        groups.fix(axis)
    return axes


def broadcast(node: fx.Node, known: dict[fx.Node, Axes | None], shape: Shape, groups: Groups) -> Axes:
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


def concatenate(node: fx.Node, known: dict[fx.Node, Axes | None], shape: Shape, groups: Groups) -> Axes:
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


def reshape(node: fx.Node, known: dict[fx.Node, Axes | None], shape: Shape, groups: Groups) -> Axes:
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


def permute(node: fx.Node, known: dict[fx.Node, Axes | None], shape: Shape, groups: Groups) -> Axes:
    """Follow a change of the order of axes."""
    axes = keep(node, known, shape, groups)
    order = node.args[1:] if not isinstance(node.args[1], list | tuple) else node.args[1]
    places = [int(i) % len(shape) for i in order if isinstance(i, int)]
    if name_of(node) != "permute":
        places = [{places[0]: places[1], places[1]: places[0]}.get(i, i) for i in range(len(shape))]
    return tuple(axes[i] for i in places)


def reduce(node: fx.Node, known: dict[fx.Node, Axes | None], shape: Shape, groups: Groups) -> Axes:
    """Follow a mean, a sum or a maximum over some axes."""
    axes = known[node.all_input_nodes[0]] or ()
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    gone = {int(i) % len(axes) for i in (dims if isinstance(dims, list | tuple) else [dims]) if isinstance(i, int)}
    if not gone:
        return (None,) * len(shape)
    if len(shape) == len(axes):
        return tuple(None if i in gone else axis for i, axis in enumerate(axes))
    return tuple(axis for i, axis in enumerate(axes) if i not in gone)


def select(node: fx.Node, known: dict[fx.Node, Axes | None], shape: Shape, groups: Groups) -> Axes:
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


Shape = tuple[int, ...]
Rule = Callable[[fx.Node, dict[fx.Node, "Axes | None"], Shape, Groups], Axes]
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
