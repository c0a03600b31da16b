"""Sparse Wide for a model of the user's own: every layer wider, consistently across additions and concatenations."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sift_graph.errors import UsageError
from sift_graph.ift.channels import Axis, Following
from sift_graph.ift.families import checked_family
from sift_graph.ift.flops import evaluating
from sift_graph.ift.formulas import widened
from sift_graph.ift.options import Options
from sift_graph.ift.planning import plan_model
from sift_graph.ift.recipe import check_replaceable, replaced
from sift_graph.ift.tracing import follow_channels
from sift_graph.ift.transforming import Transformed

__all__ = ["widen"]


def widen(
    model: nn.Module, example_input: torch.Tensor, sparsity: float, *, options: Options | None = None, **choices: Any
) -> Transformed:
    r"""Make a Sparse Wide model of equal FLOPs.

    The model is traced, and its channels are followed from its input to its output: what is added becomes equally wide,
    what is concatenated stays in a row, what the input and the output fix stays. Every other group of channels is
    widened by :math:`1 / \sqrt{1 - s}`. No mask is drawn yet: the plan has their densities.

    Parameters
    ----------
    model : nn.Module
        Left as it is. Made of ``Conv2d``, ``Linear``, ``Embedding``, norms, pointwise functions, poolings, additions,
        products, concatenations, and reshapes that do not cut channels. Attention, whose heads do, is not among them.
    example_input : Tensor, first axis the batch
    sparsity : float
        Nominal, in [0, 1).
    options : Options, optional
        As for ``sparse_wide``; or each by its name, as `choices`.
    **choices
        Attributes of :class:`~sift_graph.ift.Options`, by name.

    Returns
    -------
    Transformed

    Raises
    ------
    UsageError
        If the model cannot be traced, something in it cannot be followed, or the budget cannot be reached; it names
        the module.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    >>> wide = widen(net, torch.zeros(1, 8), 0.75)
    >>> [tuple(p.shape) for p in wide.model.parameters() if p.ndim == 2]
    [(128, 8), (128, 128), (4, 128)]
    >>> round(wide.plan.ratio, 6)
    1.0
    """
    family = checked_family("sparse_wide", sparsity)
    if unknown := sorted(set(choices) - set(Options.__dataclass_fields__)):
        raise UsageError(f"unknown option {unknown[0]!r} of widen; known: {', '.join(Options.__dataclass_fields__)}")
    chosen = replace(options or Options(), **choices).resolved("sparse_wide")
    found = follow_channels(model, example_input)
    sizes = widened_sizes(found, sparsity, chosen)
    wide = rebuilt(copy.deepcopy(model), found, sizes)
    try:
        with evaluating(wide), torch.no_grad():
            wide(example_input)
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
        raise UsageError(
            f"{type(model).__name__}: does not run when widened ({str(error).strip().splitlines()[0]}); a size must be "
            "written into its forward: take it from the tensors there"
        ) from error
    what, made = plan_model(model, wide, example_input, family=family, sparsity=sparsity, options=chosen)
    return Transformed(made, what)


def widened_sizes(found: Following, sparsity: float, options: Options) -> dict[int, int]:
    """Say how large each group of channels becomes."""
    groups = found.groups
    sizes: dict[int, int] = {}
    for group, parent in enumerate(groups.parents):
        size = groups.sizes[group]
        if group == parent and not groups.fixed[group]:
            multiple = math.lcm(options.multiple, groups.multiples[group])
            size = widened(size, sparsity, rounding=options.rounding, multiple=multiple)
        if group == parent:
            sizes[group] = size
    if all(groups.fixed[group] for group in sizes):
        raise UsageError("the model has no channels between its input and its output; there is nothing to widen")
    return sizes


def rebuilt(model: nn.Module, found: Following, sizes: dict[int, int]) -> nn.Module:
    """Put wider modules and parameters in the place of those that grow."""

    def length(axis: Axis) -> int | None:
        return None if axis is None else sum(sizes[found.groups.root(c.group)] * c.repeat for c in axis)

    new: dict[nn.Module, nn.Module] = {}
    for name, (taken, given) in found.modules.items():
        module = model.get_submodule(name)
        wider = resized(module, length(taken), length(given))
        if wider is not None:
            new[module] = wider
    check_replaceable(model, [n for n, m in model.named_modules() if m in new and isinstance(m, nn.Conv2d | nn.Linear)])
    for name, axes in found.parameters.items():
        owner, _, last = name.rpartition(".")
        parameter = getattr(model.get_submodule(owner), last)
        shape = tuple(length(axis) or size for axis, size in zip(axes, parameter.shape, strict=True))
        if shape != tuple(parameter.shape):
            setattr(
                model.get_submodule(owner), last, nn.Parameter(drawn(parameter, shape, 1.0), parameter.requires_grad)
            )
    return replaced(model, new)


def resized(module: nn.Module, taken: int | None, given: int | None) -> nn.Module | None:
    """Make a module of other sizes, its weights drawn anew with the old gain; None where they are the same."""
    if isinstance(module, nn.Conv2d):
        inputs, outputs = taken or module.in_channels, given or module.out_channels
        if (inputs, outputs) == (module.in_channels, module.out_channels):
            return None
        is_depthwise = module.groups == module.in_channels > 1
        made: nn.Module = nn.Conv2d(
            inputs,
            outputs,
            module.kernel_size,  # type: ignore[arg-type]
            module.stride,  # type: ignore[arg-type]
            module.padding,  # type: ignore[arg-type]
            module.dilation,  # type: ignore[arg-type]
            inputs if is_depthwise else module.groups,
            module.bias is not None,
            module.padding_mode,
        )
    elif isinstance(module, nn.Linear):
        inputs, outputs = taken or module.in_features, given or module.out_features
        if (inputs, outputs) == (module.in_features, module.out_features):
            return None
        made = nn.Linear(inputs, outputs, module.bias is not None)
    elif isinstance(module, nn.Embedding):
        if given in (None, module.embedding_dim):
            return None
        made = nn.Embedding(module.num_embeddings, given or 0, module.padding_idx)
    else:
        made = copy.deepcopy(module)
        if taken is None or not resize_norm(made, taken):
            return None
    for (name, old), fresh in zip(module.named_parameters(), list(made.parameters()), strict=True):
        scale = 1.0 if isinstance(module, nn.Embedding) or old.ndim < 2 else (old[0].numel() / fresh[0].numel()) ** 0.5
        setattr(made, name, nn.Parameter(drawn(old, tuple(fresh.shape), scale), old.requires_grad))
    return made.to(next(iter(module.parameters()), torch.empty(0)).device).train(module.training)


def resize_norm(norm: nn.Module, channels: int) -> bool:
    """Give a norm another number of channels, its statistics those of a new one; say whether it changed."""
    if isinstance(norm, nn.LayerNorm):
        if norm.normalized_shape == (channels,):
            return False
        norm.normalized_shape = (channels,)
    elif isinstance(norm, nn.GroupNorm):
        if norm.num_channels == channels:
            return False
        norm.num_channels = channels
    else:
        assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
        if norm.num_features == channels:
            return False
        norm.num_features = channels
        for name in ("running_mean", "running_var"):
            old = getattr(norm, name)
            if old is not None:
                setattr(norm, name, old.new_empty(channels))
        norm.reset_running_stats()
    for name, parameter in norm.named_parameters():
        setattr(norm, name, nn.Parameter(parameter.new_empty(channels)))
    return True


@torch.no_grad()
def drawn(old: torch.Tensor, shape: tuple[int, ...], scale: float) -> torch.Tensor:
    """Draw a tensor like another: constant if that one is, else normal, of its mean and its deviation scaled."""
    new = old.new_empty(shape)
    if old.is_meta or not old.numel():
        return new
    first = old.flatten()[0]
    if bool((old == first).all()):
        return new.fill_(first)
    return new.normal_(float(old.float().mean()), float(old.float().std(correction=0)) * scale)
