"""Random references: masks that share some of a mask's counts, and how far the mask is from them.

Three models, :data:`NULLS`, each keeping more of the mask: ``er`` its number of edges, ``degree`` every vertex's
degree, ``nm`` its N:M pattern. :func:`compare` draws masks of a model, measures them, and says how many standard
deviations the mask is away. The closed forms of a large random mask stand in :mod:`sift_graph.bounds`.
"""

from sift_graph.nulls.comparing import (
    METRICS_COMPARED,
    Request,
    Samples,
    compare,
    draw_samples,
    judge,
    select_compared,
)
from sift_graph.nulls.models import NULLS, ROUNDS, NullModel, erdos_renyi, find_null, rewire, same_pattern
from sift_graph.nulls.patterns import Pattern, read_pattern
from sift_graph.nulls.scoring import Score, score

__all__ = [
    "METRICS_COMPARED",
    "NULLS",
    "ROUNDS",
    "NullModel",
    "Pattern",
    "Request",
    "Samples",
    "Score",
    "compare",
    "draw_samples",
    "erdos_renyi",
    "find_null",
    "judge",
    "read_pattern",
    "rewire",
    "same_pattern",
    "score",
    "select_compared",
]
