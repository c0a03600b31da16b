"""A model's channels, followed through its traced graph, module by module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from sift_graph.errors import UsageError
from sift_graph.ift.channels import Axes, Axis, Channels, Following, Groups, UntraceableError, is_grouped
from sift_graph.ift.flops import evaluating
from sift_graph.ift.operations import RULES, Known, Shape, keep_channels, name_of, reshape, shape_of

__all__ = ["follow_channels"]

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
SIZES = {"size", "getattr", "dim", "len"}


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
    known: Known = {}
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


def follow(node: fx.Node, known: Known, model: nn.Module, found: Following) -> Axes | None:
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


def follow_parameter(name: str, model: nn.Module, shape: Shape, found: Following) -> Axes:
    """Follow a parameter that stands for itself: a position embedding, a scale. Buffers keep their shape."""
    owner, _, last = name.rpartition(".")
    if not isinstance(getattr(model.get_submodule(owner), last), nn.Parameter):
        return (None,) * len(shape)
    if name not in found.parameters:
        found.parameters[name] = tuple(found.groups.new(size) if size > 1 else None for size in shape)
    return found.parameters[name]


def follow_module(node: fx.Node, module: nn.Module, known: Known, shape: Shape, found: Following) -> Axes:
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
