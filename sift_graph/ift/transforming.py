"""Families for a model of the user's own: layers replaced in any ``nn.Module``."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from sift_graph.errors import UsageError
from sift_graph.ift.families import checked_family
from sift_graph.ift.options import Options
from sift_graph.ift.planning import Plan, plan_model

__all__ = ["Transformed", "transform"]


@dataclass(frozen=True, eq=False)
class Transformed:
    """A model of a family.

    Attributes
    ----------
    model : nn.Module
    plan : Plan
        Its layers, which of them carry masks and at what density, and what it costs: ``plan.densities``,
        ``plan.ratio``.
    """

    model: nn.Module
    plan: Plan


def transform(
    model: nn.Module,
    family: str,
    sparsity: float,
    *,
    example_input: torch.Tensor,
    layers: str | Sequence[str] = "*",
    nonlinearity: str = "",
    options: Options | None = None,
    **choices: Any,
) -> Transformed:
    """Make a model of equal FLOPs: put a sparse family's modules in the place of layers.

    No mask is drawn yet: give the densities of the plan to :class:`~sift_graph.sparsify.MaskSet`, or to a sparsifier of
    another library. The masks of all layers together make the model cost what the dense one does.

    Parameters
    ----------
    model : nn.Module
        Left as it is; a copy is transformed.
    family : str
        ``sparse_parallel``, ``sparse_factorized``, ``sparse_doped``, ``low_rank_linear`` or ``low_rank_nonlinear``; or
        ``dense``, which changes nothing. For Sparse Wide see :func:`~sift_graph.ift.widen`.
    sparsity : float
        Nominal, in [0, 1).
    example_input : Tensor, first axis the batch
        The model is run on it: only layers that run are transformed, and the first and the last of them are not.
    layers : str or sequence of str
        Globs of the names of layers to transform; one that begins with ``!`` takes names away.
    nonlinearity : str
        A key of :data:`~sift_graph.ift.NONLINEARITIES`, where the family places it; left empty, batch norm and ReLU.
    options : Options, optional
        All other choices; or each by its name, as `choices`.
    **choices
        Attributes of :class:`~sift_graph.ift.Options`, by name.

    Returns
    -------
    Transformed

    Raises
    ------
    UsageError
        If the family is unknown or changes the model as a whole, the sparsity is outside [0, 1), a layer cannot be
        replaced, or the budget cannot be reached.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    >>> made = transform(net, "sparse_parallel", 0.75, example_input=torch.zeros(1, 8))
    >>> made.plan.densities
    {'2.branches.0': 0.25, '2.branches.1': 0.25, '2.branches.2': 0.25, '2.branches.3': 0.25}
    >>> made.plan.ratio
    1.0
    """
    found = checked_family(family, sparsity)
    if found.is_wide and (sparsity != 0 or not found.kind):
        raise UsageError(
            f"the family {family!r} at sparsity {sparsity} changes the width of a whole model, not single layers; use "
            "sift_graph.ift.widen(model, example_input, sparsity)"
        )
    known = {name for name in Options.__dataclass_fields__ if name not in ("layers", "nonlinearity")}
    if unknown := sorted(set(choices) - known):
        raise UsageError(f"unknown option {unknown[0]!r} of transform; known: {', '.join(sorted(known))}")
    globs = (layers,) if isinstance(layers, str) else tuple(layers)
    chosen = replace(options or Options(), **choices)
    chosen = replace(chosen, layers=chosen.layers or globs, nonlinearity=nonlinearity or chosen.nonlinearity)
    what, made = plan_model(
        model,
        copy.deepcopy(model),
        example_input,
        family=found,
        sparsity=sparsity,
        options=chosen.resolved(family),
    )
    return Transformed(made, what)
