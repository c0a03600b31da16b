"""Sparse iso-FLOP families: what a layer or a model turns into, and what it then costs.

FLOPs are counted in one place, :mod:`sift_graph.ift.flops`; a family is an entry of :data:`FAMILIES`.
"""

from __future__ import annotations

from sift_graph.ift.families import (
    FAMILIES,
    Family,
    LayerPlan,
    Plan,
    isoflop_sparsity,
    plan,
    widen_factor,
    widened,
)
from sift_graph.ift.flops import LayerCost, count_macs

__all__ = [
    "FAMILIES",
    "Family",
    "LayerCost",
    "LayerPlan",
    "Plan",
    "count_macs",
    "isoflop_sparsity",
    "plan",
    "widen_factor",
    "widened",
]
