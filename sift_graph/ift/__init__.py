"""Sparse iso-FLOP families: what a layer or a model turns into, and what it then costs.

:func:`transform` puts Sparse Parallel, Factorized or Doped in the place of a model's layers, :func:`widen` makes it
Sparse Wide. FLOPs are counted in one place, :mod:`sift_graph.ift.flops`; a family is an entry of :data:`FAMILIES`.
"""

from __future__ import annotations

from sift_graph.ift.families import FAMILIES, Family
from sift_graph.ift.flops import COUNTERS, Count, LayerCost, count_macs, count_official
from sift_graph.ift.formulas import (
    doped_rank,
    factorized_rank,
    parallel_branches,
    training_flops,
    transformer_training_flops,
    widen_factor,
    widened,
)
from sift_graph.ift.layers import NONLINEARITIES
from sift_graph.ift.options import PRESETS, Options
from sift_graph.ift.planning import LayerPlan, Plan, build, isoflop_sparsity, plan
from sift_graph.ift.transforming import Transformed, transform
from sift_graph.ift.widening import widen

__all__ = [
    "COUNTERS",
    "FAMILIES",
    "NONLINEARITIES",
    "PRESETS",
    "Count",
    "Family",
    "LayerCost",
    "LayerPlan",
    "Options",
    "Plan",
    "Transformed",
    "build",
    "count_macs",
    "count_official",
    "doped_rank",
    "factorized_rank",
    "isoflop_sparsity",
    "parallel_branches",
    "plan",
    "training_flops",
    "transform",
    "transformer_training_flops",
    "widen",
    "widen_factor",
    "widened",
]
