r"""Pruning at initialisation: scores of the weights of a model that has not been trained, and masks by them.

Each score is worked out on a copy of the model, which is thrown away: weights, running statistics and gradients of the
model itself stay as they are. In the copy, the weight of a norm that is zero throughout is set to one: where a residual
block starts as its shortcut, none of its weights would have a score otherwise.

References
----------
.. [1] N. Lee, T. Ajanthan, P. Torr, "SNIP: Single-shot network pruning based on connection sensitivity", ICLR 2019.
.. [2] C. Wang, G. Zhang, R. Grosse, "Picking winning tickets before training by preserving gradient flow", ICLR 2020.
.. [3] H. Tanaka, D. Kunin, D. Yamins, S. Ganguli, "Pruning neural networks without any data by iteratively conserving
   synaptic flow", NeurIPS 2020.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from sift_graph.errors import TrainingError
from sift_graph.sparsify.selection import largest, largest_overall

__all__ = [
    "INITIALISERS",
    "Evidence",
    "balanced_sample",
    "choose",
    "grasp_scores",
    "magnitude_scores",
    "snip_scores",
    "synflow_masks",
    "synflow_scores",
]

Masks = dict[str, torch.Tensor]
Evidence = tuple[torch.Tensor, torch.Tensor]
"""Inputs and targets of one batch."""

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Choose = Callable[[Mapping[str, torch.Tensor], float], Masks]
"""``choose(scores, exponent)``: masks whose densities are the wanted ones to the power `exponent`."""

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


class Straightened(TorchFunctionMode):
    """Leaves out, while it is on, what would undo the flow from weights to outputs: norms over features, and softmax.

    Attention becomes the product of queries, keys and values. The activations that are left out are the identity or
    nearly so for positive inputs.
    """

    LEFT_OUT = (
        functional.layer_norm,
        functional.group_norm,
        functional.gelu,
        functional.silu,
        functional.relu6,
        functional.hardtanh,
        functional.softmax,
        torch.softmax,
        torch.Tensor.softmax,
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of PyTorch, or what takes its place."""
        if func in self.LEFT_OUT:
            return args[0]
        if func is functional.scaled_dot_product_attention:
            queries, keys, values = args[:3]
            return queries @ keys.transpose(-2, -1) @ values
        return func(*args, **(kwargs or {}))


def scoring_copy(model: nn.Module) -> nn.Module:
    """Copy a model for scoring."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for module in other.modules():
            if isinstance(module, NORMS) and module.weight is not None and not module.weight.any():
                module.weight.fill_(1)
    return other


def weights_of(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Parameter]:
    """Look parameters up by name, in the order of the names."""
    parameters = dict(model.named_parameters())
    return {name: parameters[name] for name in names}


def magnitude_scores(model: nn.Module, names: Sequence[str], batches: Sequence[Evidence], loss: Loss) -> Masks:
    """Score by the magnitude of the initial weight.

    Parameters
    ----------
    model : nn.Module
    names : sequence of str
        The parameters to score.
    batches : sequence of (inputs, targets)
        Not used.
    loss : callable
        Not used.

    Returns
    -------
    dict of str to Tensor
    """
    return {name: weight.detach().abs() for name, weight in weights_of(model, names).items()}


def snip_scores(model: nn.Module, names: Sequence[str], batches: Sequence[Evidence], loss: Loss) -> Masks:
    r"""Score by connection sensitivity, :math:`|g \odot \theta|`, the gradient with respect to a mask of ones.

    Parameters
    ----------
    model : nn.Module
    names : sequence of str
        The parameters to score.
    batches : sequence of (inputs, targets)
    loss : callable
        ``loss(outputs, targets)``, a mean over the batch.

    Returns
    -------
    dict of str to Tensor
        They add up to 1.
    """
    other = scoring_copy(model).train()
    weights = weights_of(other, names)
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for x, y in batches:
        gradients = torch.autograd.grad(loss(other(x), y), list(weights.values()))
        for name, gradient in zip(weights, gradients, strict=True):
            total[name] += gradient
    scores = {name: (weight.detach() * total[name]).abs() for name, weight in weights.items()}
    whole = sum(score.sum() for score in scores.values())
    return {name: score / whole for name, score in scores.items()}


def grasp_scores(
    model: nn.Module, names: Sequence[str], batches: Sequence[Evidence], loss: Loss, *, temperature: float = 200.0
) -> Masks:
    r"""Score by what a weight adds to the gradient's norm, :math:`\theta \odot H g`; the largest are kept.

    The sum of :math:`\theta_i (H g)_i` over removed weights is, to first order, half of what their removal takes from
    :math:`g^\top g`. Linear layers keep their initial weights in the scoring copy; released code draws them anew.

    Parameters
    ----------
    model : nn.Module
    names : sequence of str
        The parameters to score.
    batches : sequence of (inputs, targets)
    loss : callable
        ``loss(outputs, targets)``, a mean over the batch.
    temperature : float
        Outputs are divided by it.

    Returns
    -------
    dict of str to Tensor
        Of either sign.
    """
    other = scoring_copy(model).train()
    weights = weights_of(other, names)
    listed = list(weights.values())
    halves = [half for x, y in batches for half in zip(x.chunk(2), y.chunk(2), strict=True) if len(half[0])]
    first = [torch.zeros_like(weight) for weight in listed]
    for x, y in halves:
        for sum_, gradient in zip(first, torch.autograd.grad(loss(other(x) / temperature, y), listed), strict=True):
            sum_ += gradient
    second = [torch.zeros_like(weight) for weight in listed]
    for x, y in halves:
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            gradients = torch.autograd.grad(loss(other(x) / temperature, y), listed, create_graph=True)
        product = torch.stack([(a * b).sum() for a, b in zip(first, gradients, strict=True)]).sum()
        parts = torch.autograd.grad(product, listed, materialize_grads=True)
        for sum_, part in zip(second, parts, strict=True):
            sum_ += part
    return {name: weight.detach() * part for (name, weight), part in zip(weights.items(), second, strict=True)}


def synflow_scores(
    model: nn.Module, names: Sequence[str], example: torch.Tensor, masks: Mapping[str, torch.Tensor]
) -> Masks:
    r"""Score by synaptic flow, :math:`|\partial R / \partial \theta \odot \theta|`, with no data.

    :math:`R` is the sum of the outputs for an input of ones, in float64, with all parameters and buffers made positive,
    in evaluation mode. What would undo the flow is left out: layer and group norms, GELU, SiLU, caps such as that of
    ReLU6, and softmax; attention is the product of its three parts.

    Parameters
    ----------
    model : nn.Module
    names : sequence of str
        The parameters to score.
    example : Tensor
        Only its shape and type are used.
    masks : mapping of str to Tensor of bool
        What was kept so far; the rest has score 0.

    Returns
    -------
    dict of str to Tensor of float64
        Without biases, those of each layer add up to :math:`R`.
    """
    other = scoring_copy(model).eval().double()
    weights = weights_of(other, names)
    with torch.no_grad():
        for tensor in (*other.parameters(), *other.buffers()):
            if tensor.is_floating_point():
                tensor.abs_()
        for name, weight in weights.items():
            weight.mul_(masks[name])
    ones = torch.ones_like(example[:1])
    with Straightened():
        flow = other(ones.double() if ones.is_floating_point() else ones).sum()
    gradients = torch.autograd.grad(flow, list(weights.values()))
    return {n: (weight.detach() * g).abs() for (n, weight), g in zip(weights.items(), gradients, strict=True)}


def synflow_masks(
    model: nn.Module, names: Sequence[str], example: torch.Tensor, choose: Choose, *, rounds: int
) -> Masks:
    """Score and prune in many rounds, the density falling as a geometric series.

    Parameters
    ----------
    model : nn.Module
    names : sequence of str
        The parameters to prune.
    example : Tensor
        Only its shape and type are used.
    choose : callable
        ``choose(scores, exponent)`` gives masks at the wanted densities to the power `exponent`, from 1/rounds to 1.
    rounds : int

    Returns
    -------
    dict of str to Tensor of bool

    Raises
    ------
    TrainingError
        If the flow overflows.
    """
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights_of(model, names).items()}
    for k in range(1, rounds + 1):
        scores = synflow_scores(model, names, example, masks)
        if k == 1 and not all(torch.isfinite(score).all() for score in scores.values()):
            raise TrainingError("synflow: the flow overflows float64; the model is too deep for its initial weights")
        masks = choose({name: score.masked_fill(~masks[name], -1) for name, score in scores.items()}, k / rounds)
    return masks


def choose(
    scores: Mapping[str, torch.Tensor],
    counts: Mapping[str, int],
    *,
    scope: str,
    costs: Mapping[str, float] | None = None,
    exponent: float = 1.0,
) -> Masks:
    """Keep the weights of highest score.

    Parameters
    ----------
    scores : mapping of str to Tensor
        By parameter.
    counts : mapping of str to int
        Weights of each parameter to keep.
    scope : {"layer", "global"}
        ``layer`` keeps each parameter's count; ``global`` ranks all together and keeps their cost.
    costs : mapping of str to float, optional
        Of one weight of each parameter; 1 if not given.
    exponent : float
        In (0, 1]: the densities aimed at are those of the counts to this power.

    Returns
    -------
    dict of str to Tensor of bool
    """
    sizes = {name: score.numel() for name, score in scores.items()}
    if scope == "layer":
        wanted = {n: round(sizes[n] * (counts[n] / sizes[n]) ** exponent) if exponent < 1 else counts[n] for n in sizes}
        return {name: largest(score, wanted[name]) for name, score in scores.items()}
    price = dict.fromkeys(sizes, 1.0) if costs is None else costs
    whole = sum(sizes[name] * price[name] for name in sizes)
    density = sum(counts[name] * price[name] for name in sizes) / whole
    return largest_overall(scores, whole * density**exponent, costs=price)


def balanced_sample(labels: torch.Tensor, per_class: int, generator: np.random.Generator) -> torch.Tensor:
    """Draw the same number of samples of each class, or all of a class that has fewer.

    Parameters
    ----------
    labels : Tensor of int, shape (n,)
    per_class : int
    generator : numpy.random.Generator

    Returns
    -------
    Tensor of int
        Indices, in random order of the classes.
    """
    values = labels.cpu().numpy()
    order = generator.permutation(len(values))
    chosen = [order[values[order] == label][:per_class] for label in np.unique(values)]
    return torch.from_numpy(generator.permutation(np.concatenate(chosen)))


INITIALISERS: dict[str, Callable[[nn.Module, Sequence[str], Sequence[Evidence], Loss], Masks]] = {
    "magnitude": magnitude_scores,
    "snip": snip_scores,
    "grasp": grasp_scores,
}
"""Those that score once; SynFlow scores many times (:func:`synflow_masks`)."""
