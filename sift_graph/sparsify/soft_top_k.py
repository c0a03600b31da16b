r"""A soft choice of the largest values within a budget, and its gradient: entropy-regularised optimal transport.

For values :math:`v`, costs :math:`c` and a budget :math:`\kappa` the soft mask is

.. math:: m_i = \sigma(\beta v_i / c_i + \mu), \qquad \sum_i c_i m_i = \kappa,

which is the fixed point of the Sinkhorn iteration of the source; here the one unknown :math:`\mu` is solved for by
Newton steps kept within a bracket, to the last digits instead of to 1 %. For :math:`\beta \to \infty` the mask is that
of the largest :math:`v / c`.

References
----------
.. [1] K. S. Tai, T. Tian, S.-N. Lim, "Spartan: Differentiable Sparsity via Regularized Transportation", NeurIPS 2022.
"""

from __future__ import annotations

from typing import Any

import torch

from sift_graph.errors import UsageError

__all__ = ["soft_top_k", "soft_top_k_gradient", "solve_soft_top_k"]

NEWTON_STEPS = 100
TOLERANCE = 1e-10


def solve_soft_top_k(values: torch.Tensor, costs: torch.Tensor, budget: float, sharpness: float) -> torch.Tensor:
    """Work out the soft mask, in float64, without a gradient.

    Parameters
    ----------
    values, costs : Tensor, of one shape
        Costs above 0.
    budget : float
        Above 0; at or above the sum of the costs, everything is chosen whole.
    sharpness : float
        Above 0.

    Returns
    -------
    Tensor of float64
        In [0, 1].

    Raises
    ------
    UsageError
        If the budget or the sharpness is not above 0.
    """
    if not (budget > 0 and sharpness > 0):
        raise UsageError(f"soft top-k: expected a budget and a sharpness above 0, found {budget} and {sharpness}")
    costs = costs.detach().double()
    z = sharpness * values.detach().double() / costs
    total = float(costs.sum())
    if budget >= total * (1 - 1e-12):
        return torch.ones_like(z)
    # If every z were the least or the largest of them, mu would be these: the solution lies between.
    level = torch.logit(torch.tensor(budget / total, dtype=torch.float64)).item()
    low, high = level - float(z.max()), level - float(z.min())
    mu = min(max(level - float(z.mean()), low), high)
    mask = torch.sigmoid(z + mu)
    for _ in range(NEWTON_STEPS):
        excess = float((costs * mask).sum()) - budget
        if abs(excess) <= TOLERANCE * budget:
            break
        low, high = (low, mu) if excess > 0 else (mu, high)
        slope = float((costs * mask * (1 - mask)).sum())
        step = mu - excess / slope if slope > 0 else low
        mu = step if low < step < high else (low + high) / 2
        mask = torch.sigmoid(z + mu)
    return mask


def soft_top_k_gradient(
    gradient: torch.Tensor, mask: torch.Tensor, costs: torch.Tensor, budget: float, sharpness: float
) -> torch.Tensor:
    r"""Pass a gradient back from the soft mask to the values, by the implicit function theorem.

    :math:`\beta m (1 - m) \left(g / c - \sum g m (1 - m) / (\kappa - \sum c m^2)\right)`

    Parameters
    ----------
    gradient : Tensor
        Of a loss with respect to the mask, :math:`g`.
    mask, costs : Tensor
        Of the same shape.
    budget, sharpness : float

    Returns
    -------
    Tensor
    """
    spread = mask * (1 - mask)
    left = budget - (costs * mask**2).sum()
    shared = (gradient * spread).sum() / left if left > 0 else torch.zeros_like(left)  # all chosen whole: no slack
    return sharpness * spread * (gradient / costs - shared)


class SoftTopK(torch.autograd.Function):
    """The soft mask as a differentiable function of the values."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, costs: torch.Tensor, budget: float, sharpness: float) -> torch.Tensor:
        """Solve for the mask."""
        mask = solve_soft_top_k(values, costs, budget, sharpness).to(values.dtype)
        ctx.save_for_backward(mask, costs)
        ctx.budget, ctx.sharpness = budget, sharpness
        return mask

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        """Pass the gradient on to the values."""
        mask, costs = ctx.saved_tensors
        return soft_top_k_gradient(gradient, mask, costs, ctx.budget, ctx.sharpness), None, None, None


def soft_top_k(values: torch.Tensor, costs: torch.Tensor, budget: float, *, sharpness: float) -> torch.Tensor:
    """Choose softly within a budget, differentiably in the values.

    Parameters
    ----------
    values, costs : Tensor, of one shape
        Costs above 0.
    budget : float
        What the chosen may cost.
    sharpness : float
        The larger, the nearer to a hard choice.

    Returns
    -------
    Tensor
        In [0, 1]; times the costs it adds up to the budget.

    Examples
    --------
    >>> soft_top_k(torch.tensor([3.0, 1.0, 2.0]), torch.ones(3), 1.0, sharpness=2.0).round(decimals=3)
    tensor([0.7090, 0.0430, 0.2480])
    """
    mask: torch.Tensor = SoftTopK.apply(values, costs, budget, sharpness)  # type: ignore[no-untyped-call]
    return mask
