"""How many runs would be needed to see a correlation."""

from __future__ import annotations

import math

from scipy import stats

from sift_graph.errors import UsageError

__all__ = ["runs_needed", "smallest_seen"]


def runs_needed(rho: float, *, power: float = 0.8, alpha: float = 0.05, tests: int = 1, held: int = 0) -> int:
    r"""Count the independent runs needed to see a rank correlation of this size.

    The two-sided test of Spearman's :math:`\rho` by Fisher's transformation, whose variance is
    :math:`(1 + \rho^2 / 2) / (n - 3)` [1]_.

    Parameters
    ----------
    rho : float
        The correlation, in (-1, 1) and not 0.
    power : float
        Probability of seeing it, in (0, 1).
    alpha : float
        Level of the test, in (0, 1).
    tests : int
        Metrics tested together; the level is divided by it (Bonferroni), so the answer is on the safe side.
    held : int
        Covariates and categories held fixed, each of which costs a run.

    Returns
    -------
    int

    Raises
    ------
    UsageError
        If a number is out of its range.

    References
    ----------
    .. [1] D. G. Bonett, T. A. Wright, "Sample size requirements for estimating Pearson, Kendall and Spearman
       correlations", Psychometrika 65 (2000).

    Examples
    --------
    >>> runs_needed(0.3)
    89
    """
    for name, value, good, expected in (
        ("rho", rho, 0 < abs(rho) < 1, "between -1 and 1 and not 0"),
        ("power", power, 0 < power < 1, "between 0 and 1"),
        ("alpha", alpha, 0 < alpha < 1, "between 0 and 1"),
        ("tests", tests, tests >= 1, "1 or more"),
    ):
        if not good:
            raise UsageError(f"{name}: expected a number {expected}, found {value}")
    z = stats.norm.isf(alpha / tests / 2) + stats.norm.ppf(power)
    return math.ceil(3 + held + (1 + rho**2 / 2) * (z / math.atanh(abs(rho))) ** 2)


def smallest_seen(runs: int, *, power: float = 0.8, alpha: float = 0.05, tests: int = 1, held: int = 0) -> float:
    """Find the smallest rank correlation that so many runs would show.

    Parameters
    ----------
    runs : int
    power, alpha, tests, held
        As :func:`runs_needed`.

    Returns
    -------
    float
        NaN where no correlation below 1 would be seen.

    Examples
    --------
    >>> round(smallest_seen(89), 2)
    0.3
    """
    low, high = 1e-6, 1 - 1e-9
    if runs < runs_needed(high, power=power, alpha=alpha, tests=tests, held=held):
        return math.nan
    for _ in range(60):
        middle = (low + high) / 2
        enough = runs_needed(middle, power=power, alpha=alpha, tests=tests, held=held) <= runs
        low, high = (low, middle) if enough else (middle, high)
    return high
