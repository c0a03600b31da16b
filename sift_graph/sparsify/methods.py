"""The registry of methods: how masks move, each an object with ``step(t)`` to be called after ``optimizer.step()``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from sift_graph.errors import UsageError
from sift_graph.sparsify.fan_in import srigl
from sift_graph.sparsify.gradual import gradual
from sift_graph.sparsify.gse import gse_grabo, gse_graest, gse_uniform
from sift_graph.sparsify.mask_set import MaskSet
from sift_graph.sparsify.options import MethodOptions
from sift_graph.sparsify.rewire import rigl, rigl_original, set_
from sift_graph.sparsify.schedule import Schedule
from sift_graph.sparsify.spartan import spartan
from sift_graph.sparsify.static import static
from sift_graph.sparsify.transposable import pattern_counts, top_kast, transposable

__all__ = ["METHODS", "MakeMethod", "Method", "MethodSource"]


class Method(Protocol):
    """What moves the masks of a :class:`MaskSet`."""

    def step(self, t: int) -> bool:
        """Go on to optimizer update `t`, just made, counted from 1; say whether the masks were moved."""


class MakeMethod(Protocol):
    """What makes a method for a run."""

    def __call__(
        self,
        masks: MaskSet,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        *,
        model: nn.Module,
        options: MethodOptions,
    ) -> Method:
        """Make it, and register whatever hooks it needs."""


@dataclass(frozen=True)
class MethodSource:
    """One method, before it is made.

    Attributes
    ----------
    make : callable
        ``make(masks, optimizer, schedule, model=model, options=options) -> Method``.
    init : str
        Its initial masks: ``random`` (as a configuration's ``masks.init`` says), ``dense``, or a score of pruning at
        initialisation.
    moves : bool
        Whether masks move after step 0.
    scopes : tuple of str
        Of ``layer`` and ``global``, those that it can rank in; its own first.
    keeps_counts : bool
        Whether each layer keeps the count that its distribution gave it, at all times.
    keeps_dense_weights : bool
        Whether it trains dense weights behind the masked ones, so that buffers and gradients are dense.
    every_step : bool
        Whether masks move at every step, not only at those of the schedule.
    counts : callable or None
        ``counts(shapes, options)``: how many weights each layer keeps, where that is the method's own and no
        distribution's.
    """

    make: MakeMethod
    init: str = "random"
    moves: bool = True
    scopes: tuple[str, ...] = ("layer",)
    keeps_counts: bool = True
    keeps_dense_weights: bool = False
    every_step: bool = False
    counts: Callable[[Mapping[str, tuple[int, ...]], MethodOptions], dict[str, int]] | None = None

    def scope(self, options: MethodOptions) -> str:
        """Settle the scope: the method's own one unless another is asked for that it has."""
        if options.scope == "own":
            return self.scopes[0]
        if options.scope not in self.scopes:
            raise UsageError(
                f"options.scope: this method ranks weights by {' or '.join(self.scopes)}, not by {options.scope!r}; "
                "leave options.scope out"
            )
        return options.scope


EITHER = ("layer", "global")
AT_INIT = ("global", "layer")

METHODS: dict[str, MethodSource] = {
    "static": MethodSource(static, moves=False),
    "set": MethodSource(set_),
    "rigl": MethodSource(rigl),
    "rigl_original": MethodSource(rigl_original),
    "gmp": MethodSource(gradual, init="dense", scopes=EITHER, keeps_counts=False),
    "gse_uniform": MethodSource(gse_uniform, scopes=EITHER),
    "gse_grabo": MethodSource(gse_grabo, scopes=EITHER),
    "gse_graest": MethodSource(gse_graest, scopes=EITHER),
    "spartan": MethodSource(
        spartan,
        init="dense",
        scopes=("global", "layer"),
        keeps_counts=False,
        keeps_dense_weights=True,
        every_step=True,
    ),
    "nm": MethodSource(transposable, init="dense", keeps_dense_weights=True, counts=pattern_counts),
    "top_kast": MethodSource(top_kast, init="dense", keeps_dense_weights=True),
    "srigl": MethodSource(srigl, init="constant_fan_in", keeps_counts=False),
    "magnitude": MethodSource(static, init="magnitude", moves=False, scopes=AT_INIT),
    "snip": MethodSource(static, init="snip", moves=False, scopes=AT_INIT),
    "grasp": MethodSource(static, init="grasp", moves=False, scopes=AT_INIT),
    "synflow": MethodSource(static, init="synflow", moves=False, scopes=AT_INIT),
}
