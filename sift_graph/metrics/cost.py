"""What metrics cost: each rests on a shared computation, which is paid once however many metrics use it.

The seconds are those of one core at 4 GHz, within a factor of about two, for sorting work and for deciding what to ask
for. n is the smaller side, m the larger one, E the edges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sift_graph.metrics.metric import Metric

__all__ = ["COSTS", "Cost", "estimate_cost"]


@dataclass(frozen=True)
class Cost:
    """How a computation grows, in words and in seconds."""

    order: str
    seconds: Callable[[int, int, int], float]


COSTS: dict[str, Cost] = {
    "counts": Cost("O(1) after degrees", lambda n, m, e: 1e-5),
    "edges": Cost("O(E)", lambda n, m, e: 2e-5 + 1.2e-8 * e),
    "top2": Cost("Gram n^2 m / 128 words + 45 steps", lambda n, m, e: 3e-4 + 4e-13 * n * n * m + 4e-9 * n * n),
    "normalised": Cost("45 steps of 2E", lambda n, m, e: 3e-4 + 2.5e-8 * e),
    "weighted": Cost("45 steps of 2E", lambda n, m, e: 3e-4 + 5e-8 * e),
    "weighted_normalised": Cost("45 steps of 2E", lambda n, m, e: 3e-4 + 6e-8 * e),
    "signed": Cost("100 steps of 2E", lambda n, m, e: 1e-3 + 1.5e-7 * e),
    "vectors": Cost("45 steps of 2E, a sort", lambda n, m, e: 1e-3 + 1e-7 * e),
    "subgraphs": Cost("top two values of each degree", lambda n, m, e: 1e-3 + 1.4e-7 * e),
    "subgraphs_right": Cost("top two values of each degree", lambda n, m, e: 1e-3 + 1.4e-7 * e),
    "gradient": Cost("45 steps of 2E", lambda n, m, e: 3e-4 + 5e-8 * e),
    "gradient_subgraphs": Cost("top two values of each degree", lambda n, m, e: 1e-3 + 1.4e-7 * e),
    "gram": Cost("Gram n^2 m / 128 words", lambda n, m, e: 1e-4 + 2e-13 * n * n * m + 5e-8 * e),
    "walks": Cost("O(E)", lambda n, m, e: 1e-4 + 4e-8 * e),
    "rank": Cost("O(n^3)", lambda n, m, e: 1e-4 + 5e-11 * n**3),
    "samples": Cost("64 samples of O(E)", lambda n, m, e: 5e-3 + 1e-7 * e),
    "laplacian": Cost("8 times 45 steps of 2E", lambda n, m, e: 2e-2 + 5e-7 * e),
    "weighted_laplacian": Cost("10 times 45 steps of 2E", lambda n, m, e: 2e-2 + 6e-7 * e),
    "backtracking": Cost("8 times 45 steps of 2E", lambda n, m, e: 2e-2 + 5e-7 * e),
    "moduli": Cost("O((n + m)^3), up to 400 vertices", lambda n, m, e: 0.2 if n + m <= 400 else 1e-4 + 5e-8 * e),
    "cover": Cost("100 passes over E", lambda n, m, e: 2e-2 + 5e-7 * e),
    "weighted_cover": Cost("150 passes over E", lambda n, m, e: 2e-2 + 8e-7 * e),
    "compat": Cost("all of top2, weighted, subgraphs, twice", lambda n, m, e: 5e-3 + 6e-7 * e),
    "history": Cost("O(entries / 64)", lambda n, m, e: 1e-5 + 2e-11 * n * m),
    "entries": Cost("O(entries)", lambda n, m, e: 1e-5 + 2e-9 * n * m),
    "matching": Cost("O(n_R^2 n_L / 64)", lambda n, m, e: 1e-4 + 2e-13 * n * n * m + 2e-7 * n * n),
    "spectrum": Cost("O(n^3), twice", lambda n, m, e: 1e-3 + 3e-10 * n**3),
}
"""Shared computations by name."""


def estimate_cost(metrics: Iterable[Metric], n_left: int, n_right: int, edges: int) -> float:
    """Estimate the time of some metrics of one layer on one core.

    Parameters
    ----------
    metrics : iterable of Metric
    n_left, n_right, edges : int

    Returns
    -------
    float
        Seconds.
    """
    n, m = sorted((n_left, n_right))
    return sum(COSTS[name].seconds(n, m, edges) for name in {m.cost for m in metrics if m.cost in COSTS})
