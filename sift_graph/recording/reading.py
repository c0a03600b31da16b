"""Read what a user hands over: masks by hand, and the optimizer that is to be followed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sift_graph.errors import UsageError
from sift_graph.masks import LayerMask, layer_name, match_layers
from sift_graph.ranks import local_part

__all__ = ["check_choice", "find_hook", "read_masks"]


class _NoHook:
    """Stands for the hook of an optimizer that has none."""

    def remove(self) -> None:
        """Have nothing to remove."""


def find_hook(optimizer: Any, when: str) -> Callable[[Any], Any]:
    """Find the function that registers a hook of an optimizer's steps.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer or None
        Or a wrapper that looks like one but has no hooks of its own (Accelerate's). None for one without hooks.
    when : {"post_step", "pre_step"}

    Returns
    -------
    callable

    Raises
    ------
    UsageError
        If it has none.
    """
    if optimizer is None:
        return lambda follow: _NoHook()
    innermost = optimizer
    while not hasattr(innermost, "_optimizer_step_post_hooks") and hasattr(innermost, "optimizer"):
        innermost = innermost.optimizer
    name = "register_step_post_hook" if when == "post_step" else "register_step_pre_hook"
    hook: Callable[[Any], Any] | None = getattr(innermost, name, None)
    if hook is None:
        raise UsageError(
            f"expected a torch.optim.Optimizer, found {type(optimizer).__name__}, which has no {name}; "
            "call recorder.snapshot(step, masks) in the training loop instead"
        )
    return hook


def read_masks(step: int, masks: Mapping[str, Any], layers: str | Sequence[str] | None) -> dict[str, LayerMask]:
    """Pack masks that were handed over.

    Parameters
    ----------
    step : int
        For the error.
    masks : mapping
        From layer or parameter names to masks, ``(mask, weight)`` pairs or :class:`LayerMask`.
    layers : str or sequence of str, optional
        Globs of the layers that are wanted.

    Returns
    -------
    dict of str to LayerMask

    Raises
    ------
    UsageError
        If it is not a mapping, two masks belong to the same layer, or no layer matches.
    """
    if not isinstance(masks, Mapping):
        raise UsageError(
            f"masks: expected a mapping of layer names to masks, found {type(masks).__name__}; for a model, pass "
            "sift_graph.sources.find_masks(model)"
        )
    given = {mask.layer if isinstance(mask, LayerMask) else layer_name(n): mask for n, mask in masks.items()}
    if len(given) < len(masks):
        raise UsageError(f"step {step}: two of the masks belong to the same layer; known: {', '.join(given)}")
    return {name: _as_layer_mask(name, given[name]) for name in match_layers(list(given), layers)}


def _as_layer_mask(name: str, mask: Any) -> LayerMask:
    if isinstance(mask, LayerMask):
        return mask
    mask, weight = mask if isinstance(mask, tuple) and len(mask) == 2 else (mask, None)
    mask, weight, part = local_part(name, mask, weight)
    return LayerMask.from_dense(name, mask, weight, part=part)


def check_choice(option: str, value: object, known: Sequence[str]) -> None:
    """Refuse a value that is not one of those known."""
    if value not in known:
        raise UsageError(f"{option}: expected one of {', '.join(map(repr, known))}, found {value!r}")
