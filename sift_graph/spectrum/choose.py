"""Which path a layer takes, and what it will cost."""

from __future__ import annotations

__all__ = ["estimate_seconds"]


def estimate_seconds(n_left: int, n_right: int, edges: int) -> float:
    """Estimate the time of one layer's core metrics (sigma_1, sigma_2, IMDB) on one core.

    Parameters
    ----------
    n_left, n_right : int
        Vertices on each side.
    edges : int
        Edges between them.

    Returns
    -------
    float
        Seconds: a guide for sorting work by cost, within a factor of about two.

    Examples
    --------
    >>> estimate_seconds(14571, 1619, 2_358_000) > estimate_seconds(1818, 202, 36_700) > 0
    True
    """
    small, large = sorted((n_left, n_right))
    return 1e-3 + 1e-12 * small * small * large + 4e-9 * edges
