"""From a model and the counts of its layers to a :class:`MaskSet`, by any way there is to lay the first masks out."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from sift_graph.errors import UsageError, did_you_mean
from sift_graph.sparsify.at_init import INITIALISERS, Evidence, Loss, choose, synflow_masks
from sift_graph.sparsify.constructions import CONSTRUCTIONS, construct
from sift_graph.sparsify.mask_set import MaskSet
from sift_graph.sparsify.options import MethodOptions
from sift_graph.sparsify.placement import PLACEMENTS

__all__ = ["LAYOUTS", "lay_out"]

logger = logging.getLogger(__name__)

LAYOUTS = (*PLACEMENTS, *CONSTRUCTIONS, "dense", *INITIALISERS, "synflow")


def lay_out(
    model: nn.Module,
    counts: Mapping[str, int],
    *,
    layout: str = "exact",
    seed: int = 0,
    scope: str = "layer",
    costs: Mapping[str, float] | None = None,
    batches: Callable[[], Sequence[Evidence]] | None = None,
    loss: Loss = nn.functional.cross_entropy,
    options: MethodOptions | None = None,
) -> MaskSet:
    """Lay the first masks on a model's weights.

    Parameters
    ----------
    model : nn.Module
        Its weights are masked at once.
    counts : mapping of str to int
        Weights to keep, by parameter name.
    layout : str
        One of :data:`LAYOUTS`: a placement at random, a construction of known structure, ``dense`` for masks of ones,
        or a score of pruning at initialisation.
    seed : int
        Of masks placed at random.
    scope : {"layer", "global"}
        Of scores: ``layer`` keeps each parameter's count, ``global`` what they cost together.
    costs : mapping of str to float, optional
        MACs of one weight of each parameter; 1 if not given.
    batches : callable, optional
        Gives the (inputs, targets) to score on; magnitude and random ones need none, SynFlow the shape of its inputs.
    loss : callable
        ``loss(outputs, targets)``, for SNIP and GraSP.
    options : MethodOptions, optional

    Returns
    -------
    MaskSet
        With ``scope="global"`` its counts are those found.

    Raises
    ------
    UsageError
        If there is no such layout, or it needs data and there is none.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 3, bias=False))
    >>> masks = lay_out(model, {"0.weight": 8, "1.weight": 6}, layout="magnitude", scope="global")
    >>> sum(masks.edges().values())
    14
    """
    options = options or MethodOptions()
    if layout not in LAYOUTS:
        raise UsageError(f"unknown layout of masks {layout!r}{did_you_mean(layout, LAYOUTS)}")
    named = dict(model.named_parameters())
    parameters = {name: named[name] for name in counts}
    if layout in PLACEMENTS:
        return MaskSet(parameters, counts, seed=seed, placement=layout, costs=costs)
    if layout in CONSTRUCTIONS:
        made = {
            name: torch.from_numpy(
                construct(
                    layout,
                    tuple(weight.shape),
                    counts[name],
                    _generator(seed, name),
                    strength=options.strength,
                    communities=options.communities,
                    binding=options.binding,
                )
            ).to(weight.device)
            for name, weight in parameters.items()
        }
        return MaskSet(
            parameters, {name: int(mask.sum()) for name, mask in made.items()}, seed=seed, masks=made, costs=costs
        )
    if layout == "dense":
        ones = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in parameters.items()}
        return MaskSet(parameters, counts, seed=seed, masks=ones, costs=costs)
    if batches is None and layout != "magnitude":
        raise UsageError(f"the layout {layout!r} needs data: pass batches")
    data = batches() if batches is not None else []
    if layout == "synflow":
        masks = synflow_masks(
            model,
            list(counts),
            data[0][0],
            lambda scores, exponent: choose(scores, counts, scope=scope, costs=costs, exponent=exponent),
            rounds=options.synflow_rounds,
        )
    else:
        masks = choose(INITIALISERS[layout](model, list(counts), data, loss), counts, scope=scope, costs=costs)
    found = {name: int(mask.sum()) for name, mask in masks.items()}
    if empty := [name for name, count in found.items() if not count]:
        logger.warning("%s leaves no weight in %s: these layers have collapsed", layout, ", ".join(empty))
    if options.shuffle:
        masks = {name: shuffled(mask, _generator(seed, name)) for name, mask in masks.items()}
    return MaskSet(parameters, found, seed=seed, masks=masks, costs=costs)


def _generator(seed: int, name: str) -> np.random.Generator:
    """Make the generator of one parameter."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def shuffled(mask: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """Place as many ones at random."""
    flat = generator.permutation(mask.cpu().numpy().ravel())
    return torch.from_numpy(flat).view(mask.shape).to(mask.device)
