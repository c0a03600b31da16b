"""The network graph of a PyTorch model, by running it once on an example input with each channel's number beside it.

Beside each tensor goes another one of its shape that says which channel each entry belongs to. What only moves entries
(reshape, transpose, cat, a slice) is done to the numbers as it is to the values; a norm or an activation keeps them; a
layer, known by its weight, reads those along its inputs, and its outputs are new channels; a sum of two gets channels
of its own. So whatever a model does between its layers is followed exactly, or said not to be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

from sift_graph.encodings import Geometry
from sift_graph.errors import UsageError
from sift_graph.ift.flops import evaluating
from sift_graph.masks import layer_name
from sift_graph.network_graph import CONSTANT, NetworkGraph, Space

__all__ = ["trace_graph"]

CONVOLUTIONS = {f"conv{transposed}{axes}d": bool(transposed) for transposed in ("", "_transpose") for axes in (1, 2, 3)}
KEEP = {
    "relu", "relu6", "leaky_relu", "elu", "gelu", "silu", "mish", "hardswish", "hardsigmoid", "hardtanh",
    "sigmoid", "tanh", "softplus", "dropout", "dropout2d", "contiguous", "clone", "float", "half", "bfloat16", "to",
    "clamp", "neg", "abs", "exp", "sqrt", "rsqrt", "pow", "detach", "layer_norm", "batch_norm", "group_norm", "type_as",
    "instance_norm", "rms_norm", "normalize", "masked_fill", "softmax", "log_softmax", "square", "alpha_dropout",
}  # fmt: skip
MOVE = {
    "flatten", "view", "reshape", "permute", "transpose", "unsqueeze", "squeeze", "getitem", "cat", "concat", "stack",
    "chunk", "split", "unbind", "expand", "repeat", "roll", "movedim", "narrow", "select", "index_select", "t",
    "swapaxes",
    "pixel_shuffle", "pixel_unshuffle", "unflatten", "repeat_interleave", "tensor_split", "expand_as", "view_as",
    "channel_shuffle", "T", "mT", "ravel", "unsafe_chunk", "hstack", "vstack",
}  # fmt: skip
SPATIAL = {"max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "interpolate", "max_pool1d",
           "avg_pool1d", "adaptive_avg_pool1d", "pad"}  # fmt: skip
REDUCE = {"mean", "sum", "amax", "amin"}
ADD = {"add", "iadd", "radd", "sub", "isub", "rsub", "maximum", "minimum", "where"}
MULTIPLY = {"mul", "imul", "rmul", "div", "truediv", "itruediv", "rtruediv"}
PRODUCT = {"matmul", "bmm", "rmatmul"}
LOST = "lost"  # beside a tensor whose channels could not be followed


def trace_graph(model: nn.Module, example_input: Any) -> NetworkGraph:
    """Follow each channel of a model from its input to its output.

    Parameters
    ----------
    model : nn.Module
        Runs once, in evaluation mode and without gradients; it is left as it was.
    example_input : Tensor, or tuple of tensors
        With a batch as first axis.

    Returns
    -------
    NetworkGraph
        Layers that cannot be placed are in its ``unplaced``, with the operation in the way.

    Raises
    ------
    UsageError
        If the model does not run on the example.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4, 2))
    >>> graph = trace_graph(model, torch.zeros(1, 3, 4, 4))
    >>> graph.layers, graph.spaces[-1].sources[0].tolist()[:5]
    (['0', '3'], [3, 3, 3, 3, 4])
    """
    inputs = example_input if isinstance(example_input, tuple) else (example_input,)
    follower = Follower(model)
    with evaluating(model), torch.no_grad():
        for value in inputs:
            follower.start(value)
        try:
            with follower:
                result = model(*inputs)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UsageError(
                f"{type(model).__name__} does not run on the example input ({reason}); give one of the shape that it "
                "is trained on"
            ) from error
    return follower.finish(result)


class Follower(TorchFunctionMode):
    """Keep the numbers of channels beside the tensors of a model while it runs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.spaces: list[Space] = []
        self.marks: dict[int, tuple[torch.Tensor, Any]] = {}  # holds the tensors, so that no number is used again
        self.gates: set[int] = set()
        self.unplaced: dict[str, str] = {}
        self.made = 0
        self.modules_at: dict[int, nn.Module] = {}
        self.layers: dict[int, str] = {}
        for name, module in model.named_modules():
            for own, parameter in module.named_parameters(recurse=False):
                self.layers.setdefault(id(parameter), layer_name(f"{name}.{own}" if name else own))
                self.modules_at.setdefault(id(parameter), module)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation, on the values and on the numbers."""
        kwargs = kwargs or {}
        value = func(*args, **kwargs)
        if any(isinstance(part, torch.Tensor) for part in parts(value)):
            mark = self.follow(operation_name(func), func, args, kwargs, value)
            self.put(value, mark)
        return value

    def put(self, value: Any, mark: Any) -> None:
        """Write numbers beside a tensor, or beside those of a list."""
        if isinstance(value, torch.Tensor):
            self.marks[id(value)] = (value, mark)
        elif isinstance(value, tuple | list):
            for i, part in enumerate(value):
                self.put(part, mark[i] if isinstance(mark, tuple | list) else mark)

    def mark(self, value: Any) -> Any:
        """Give the numbers beside a tensor; None where it comes from no channel."""
        return self.marks.get(id(value), (None, None))[1]

    def found(self, *values: Any) -> list[Any]:
        """Give the numbers beside all tensors in some arguments that come from channels."""
        marks = (self.mark(part) for value in values for part in parts(value) if isinstance(part, torch.Tensor))
        return [mark for mark in marks if mark is not None]

    def finish(self, result: Any) -> NetworkGraph:
        """Put together what was found."""
        left = [torch.unique(mark).numpy() for mark in self.found(result) if isinstance(mark, torch.Tensor)]
        placed = {space.layer for space in self.spaces}
        for module in self.model.modules():
            for own, parameter in module.named_parameters(recurse=False):
                layer = self.layers[id(parameter)]
                if parameter.ndim >= 2 and "weight" in own and layer not in placed and not is_table(module):
                    kind = type(module).__name__
                    self.unplaced.setdefault(layer, f"its {kind} ran in no operation that is followed")
        outputs = np.unique(np.concatenate(left)) if left else np.zeros(0, dtype=np.int64)
        return NetworkGraph(
            tuple(self.spaces),
            outputs[outputs != CONSTANT],
            np.array(sorted(self.gates), dtype=np.int64),
            self.unplaced,
        )

    def new(self, kind: str, size: int, sources: tuple[np.ndarray, ...] = (), **about: Any) -> Space:
        """Make channels."""
        space = Space(kind, self.made, size, sources, **about)
        self.made += size
        self.spaces.append(space)
        return space

    def start(self, value: Any) -> None:
        """Give numbers to the channels of an input; tokens have none."""
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim >= 2:
            axis = 1 if value.ndim > 3 else -1
            self.put(value, self.spread(self.new("input", value.shape[axis]), value, axis))

    def spread(self, space: Space, like: torch.Tensor, axis: int) -> torch.Tensor:
        """Write the numbers of channels along one axis."""
        shape = [1] * like.ndim
        shape[axis] = space.size
        return torch.arange(space.first, space.first + space.size).reshape(shape).expand(like.shape)

    def gate(self, *marks: Any) -> str:
        """Lose sight of channels; they are used, as far as one can tell."""
        for mark in marks:
            if isinstance(mark, torch.Tensor):
                self.gates.update(int(i) for i in torch.unique(mark) if i != CONSTANT)
        return LOST

    def follow(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any) -> Any:
        """Give the numbers that belong to the result of an operation."""
        if name == "linear" or name in CONVOLUTIONS:
            return self.layer(name, args, kwargs, value)
        if name == "embedding":
            return self.spread(self.new("input", value.shape[-1]), value, -1)
        if name == "multi_head_attention_forward":
            return self.attention(args, kwargs, value)
        marks = self.found(args, kwargs)
        if not marks:
            return None
        if name in ADD:
            return self.add(args, value)
        if name in MULTIPLY:
            return self.multiply(args, value)
        if name == "scaled_dot_product_attention":
            query, key, values = (
                args[i] if i < len(args) else kwargs[w] for i, w in enumerate(("query", "key", "value"))
            )
            self.gate(self.mark(query), self.mark(key))
            return self.along_tokens(self.mark(values), value)
        if name in PRODUCT:
            first, second = self.mark(args[0]), self.mark(args[1])
            if isinstance(second, torch.Tensor) and first is LOST:
                return self.along_tokens(second, value)
            return self.gate(first, second)
        if any(mark is LOST for mark in marks):
            return self.gate(*marks)
        if name in MOVE:
            return self.move(func, args, kwargs)
        mark = marks[0]
        if name in KEEP and isinstance(value, torch.Tensor) and mark.shape == value.shape:
            return mark
        if name in SPATIAL and isinstance(value, torch.Tensor):
            return pooled(mark, value)
        if name in REDUCE and isinstance(value, torch.Tensor):
            return self.reduce(args, kwargs, mark, value)
        return self.gate(*marks)

    def along_tokens(self, mark: Any, value: torch.Tensor) -> Any:
        """Follow the values of attention: each token's are a mixture over tokens, channel by channel."""
        if not isinstance(mark, torch.Tensor) or not same_along(mark, -2) or mark.shape[-1] != value.shape[-1]:
            return self.gate(mark)
        return mark[..., :1, :].expand(value.shape)

    def move(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do to the numbers what an operation that only moves entries does to the values."""

        def swap(part: Any) -> Any:
            if not isinstance(part, torch.Tensor):
                return part
            mark = self.mark(part)
            if mark is None and part.is_floating_point():
                return torch.full(part.shape, CONSTANT)
            return part.cpu() if mark is None else mark

        with torch._C.DisableTorchFunction():
            return func(*tree_map(swap, args), **tree_map(swap, kwargs))

    def reduce(self, args: tuple[Any, ...], kwargs: dict[str, Any], mark: torch.Tensor, value: torch.Tensor) -> Any:
        """Follow a mean or a sum over axes along which the channel is the same."""
        dims = args[1] if len(args) > 1 else kwargs.get("dim")
        listed = dims if isinstance(dims, list | tuple) else [dims]
        if not all(isinstance(d, int) and same_along(mark, d) for d in listed):
            return self.gate(mark)
        for d in sorted((d % mark.ndim for d in listed if isinstance(d, int)), reverse=True):
            mark = mark.amax(d, keepdim=value.ndim == len(args[0].shape))
        return mark

    def add(self, args: tuple[Any, ...], value: torch.Tensor) -> Any:
        """Follow a sum: new channels where two different ones meet."""
        marks = self.found(args)
        if any(mark is LOST for mark in marks):
            return self.gate(*marks)
        first, *others = (mark.expand(value.shape) for mark in marks)
        for second in others:
            if torch.equal(first, second):
                continue
            pairs = torch.stack([first.reshape(-1), second.reshape(-1)])
            unique, index = torch.unique(pairs, dim=1, return_inverse=True)
            result = unique.amax(0)
            both = (unique != CONSTANT).all(0) & (unique[0] != unique[1])
            if both.any():
                sources = unique[:, both].numpy()
                space = self.new("sum", sources.shape[1], (sources[0].copy(), sources[1].copy()))
                result[both] = torch.from_numpy(space.channels)
                beside_constants(unique, both, result)
            first = result[index].reshape(value.shape)
        return first

    def multiply(self, args: tuple[Any, ...], value: torch.Tensor) -> Any:
        """Follow a product: the larger factor goes on, the other one only scales it."""
        main: Any = None
        for mark in self.found(args):
            if main is None and isinstance(mark, torch.Tensor) and mark.shape == value.shape:
                main = mark
            else:
                self.gate(mark)
        return LOST if main is None else main

    def read(self, mark: Any, axis: int) -> np.ndarray | None:
        """Channels along an axis, if they are the same everywhere else; None if they are not known."""
        if not isinstance(mark, torch.Tensor):
            return None
        flat = mark.movedim(axis, 0).reshape(mark.shape[axis], -1)
        most = flat.amax(1)
        known = (flat == most[:, None]) | (flat == CONSTANT)
        return most.numpy() if bool(known.all()) else None

    def layer(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], value: torch.Tensor) -> torch.Tensor:
        """Place a layer: what it reads, and the channels that it makes."""
        source, weight = (args[i] if i < len(args) else kwargs[w] for i, w in enumerate(("input", "weight")))
        transposed = CONVOLUTIONS.get(name, False)
        axis = -1 if name == "linear" else value.ndim - weight.ndim + 1
        module = self.modules_at.get(id(weight))
        groups = int(getattr(module, "groups", 1))
        sizes = tuple(weight.shape)
        shape = (sizes[1] * groups, sizes[0] // groups, *sizes[2:]) if transposed else sizes
        layer, mark = self.layers.get(id(weight), ""), self.mark(source)
        read = self.read(mark, axis)
        if read is None or module is None or not layer:
            why = "it comes from no input" if mark is None else "an operation before it mixes channels"
            if layer:
                self.unplaced.setdefault(layer, f"what it reads could not be followed: {why}")
            self.gate(mark)
            return self.spread(self.new("input", value.shape[axis]), value, axis)
        geometry = None if name == "linear" else layout_of(module, source.shape, value.shape)
        about = {"layer": layer, "shape": shape, "groups": groups, "geometry": geometry}
        return self.spread(self.new("layer", shape[0], (read,), **about), value, axis)

    def attention(self, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any) -> Any:
        """Follow torch's own attention: a fused projection, of which the values go on, and an output projection."""
        names = ("query", "key", "value", "embed_dim_to_check", "num_heads", "in_proj_weight")
        given = {w: args[i] if i < len(args) else kwargs.get(w) for i, w in enumerate(names)}
        out = args[11] if len(args) > 11 else kwargs["out_proj_weight"]
        reads = [self.read(self.mark(given[w]), -1) for w in names[:3]]
        first, fused = reads[0], given["in_proj_weight"]
        if fused is None or first is None or any(r is None or not np.array_equal(r, first) for r in reads):
            return self.gate(*self.found(args, kwargs))
        size = out.shape[0]
        made = self.new("layer", 3 * size, (first,), layer=self.layers[id(fused)], shape=tuple(fused.shape))
        self.gates.update(range(made.first, made.first + 2 * size))
        last = self.new("layer", size, (made.channels[2 * size :],), layer=self.layers[id(out)], shape=tuple(out.shape))
        return (self.spread(last, value[0], -1), None)


def beside_constants(pairs: torch.Tensor, both: torch.Tensor, result: torch.Tensor) -> None:
    """Take a channel that meets a constant at some positions for the sum that it is part of at the others.

    So a class token, which no channel makes, gets the channels of the tokens beside it.
    """
    for row in (0, 1):
        partners = pairs[row][both]
        values, counts = torch.unique(partners, return_counts=True)
        alone = (pairs[1 - row] == CONSTANT) & torch.isin(pairs[row], values[counts == 1])
        sums = dict(zip(partners.tolist(), result[both].tolist(), strict=True))
        for i in alone.nonzero().reshape(-1).tolist():
            result[i] = sums[int(pairs[row][i])]


def parts(value: Any) -> Iterator[Any]:
    """Walk what stands in nested lists and the like."""
    yield from tree_flatten(value)[0]


def operation_name(func: Callable[..., Any]) -> str:
    """Name of a function, a method, or a property such as ``T``, without underscores around it."""
    name = getattr(func, "__name__", "")
    if name == "__get__":
        name = getattr(getattr(func, "__self__", None), "__name__", "")
    return name.strip("_")


def is_table(module: nn.Module) -> bool:
    """Whether a module looks things up: its rows are inputs, not a layer."""
    return isinstance(module, nn.Embedding | nn.EmbeddingBag)


def same_along(mark: torch.Tensor, axis: int) -> bool:
    """Whether each entry's channel is the same along an axis."""
    most = mark.amax(axis, keepdim=True)
    return bool(((mark == most) | (mark == CONSTANT)).all())


def pooled(mark: torch.Tensor, value: torch.Tensor) -> Any:
    """Follow what changes the positions of a feature map, and no channel."""
    axes = tuple(range(2, mark.ndim)) if value.ndim > 2 else ()
    if mark.shape[:2] != value.shape[:2] or mark.ndim != value.ndim:
        return LOST
    return mark.amax(axes, keepdim=True).expand(value.shape) if axes else mark


def layout_of(module: Any, entering: torch.Size, leaving: torch.Size) -> Mapping[str, Any]:
    """Say where a convolution stands, for ``sift.json``."""
    axes = len(module.kernel_size)
    padding = module.padding
    if isinstance(padding, str):  # "same" puts the smaller half first
        spread = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        padding = tuple(s // 2 if module.padding == "same" else 0 for s in spread)
    found = Geometry(
        tuple(entering[-axes:]),
        tuple(module.stride),
        tuple(padding),
        tuple(module.dilation),
        tuple(leaving[-axes:]),
        bool(module.transposed),
        str(module.padding_mode),
    )
    return found.record()
