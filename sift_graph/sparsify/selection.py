"""Choosing the largest: within one tensor, or over the tensors of all layers at a common cost."""

from __future__ import annotations

from collections.abc import Mapping

import torch

__all__ = ["largest", "largest_overall"]


def largest(values: torch.Tensor, count: int) -> torch.Tensor:
    """Mark the `count` largest entries; of equal ones, those of lower index.

    Parameters
    ----------
    values : Tensor of float
        Without NaN.
    count : int
        At most the number of entries.

    Returns
    -------
    Tensor of bool
        In the shape of `values`, with exactly `count` ones.

    Examples
    --------
    >>> largest(torch.tensor([1.0, 3.0, 2.0, 3.0, 3.0]), 2)
    tensor([False,  True, False,  True, False])
    """
    flat = values.flatten()
    if count == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    threshold = flat.kthvalue(flat.numel() - count + 1).values
    chosen = flat > threshold
    ties = (flat == threshold).nonzero().flatten()
    chosen[ties[: count - int(chosen.sum())]] = True
    return chosen.view(values.shape)


def largest_overall(
    values: Mapping[str, torch.Tensor], budget: float, *, costs: Mapping[str, float] | None = None
) -> dict[str, torch.Tensor]:
    """Mark the largest entries of several tensors taken together, until the budget is spent.

    A layer may lose all of its entries: that is how layers collapse under a threshold common to all.

    Parameters
    ----------
    values : mapping of str to Tensor of float
        Without NaN.
    budget : float
        What the entries marked may cost together.
    costs : mapping of str to float, optional
        Of one entry of each tensor; 1 if not given, and the budget is a number of entries.

    Returns
    -------
    dict of str to Tensor of bool
        Of equal entries, those of the earlier tensor and the lower index are marked. The first entry that the budget
        does not cover ends it.

    Examples
    --------
    >>> chosen = largest_overall({"a": torch.tensor([1.0, 5.0]), "b": torch.tensor([4.0, 3.0])}, 2)
    >>> {name: mask.tolist() for name, mask in chosen.items()}
    {'a': [False, True], 'b': [True, False]}
    """
    flat = torch.cat([value.flatten() for value in values.values()])
    chosen = torch.zeros(flat.numel(), dtype=torch.bool, device=flat.device)
    if costs is None or len(set(costs.values())) == 1:
        price = 1.0 if costs is None else next(iter(costs.values()))
        # A hair more: budgets are sums of products, and 0.1 * 30 must buy 3.
        chosen = largest(flat, min(int(budget / price * (1 + 1e-12)), flat.numel()))
    else:
        price_of_each = torch.cat(
            [torch.full((value.numel(),), costs[name], dtype=torch.float64) for name, value in values.items()]
        ).to(flat.device)
        order = flat.argsort(descending=True, stable=True)
        spent = price_of_each[order].cumsum(0)
        chosen[order[spent <= budget * (1 + 1e-12)]] = True
    parts = torch.split(chosen, [value.numel() for value in values.values()])
    return {name: part.view(values[name].shape).clone() for name, part in zip(values, parts, strict=True)}
