"""A measured value against those of random masks: z, p and quantile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Score", "score"]

ACCURACY = 1e-6  # relative, of singular values: a spread below it is the solver's
TIE = 1e-9


@dataclass(frozen=True)
class Score:
    """Where a value lies among those of a null model.

    Attributes
    ----------
    observed : float
        The mask's own value.
    mean, std : float
        Of the samples; `std` with n - 1.
    z : float
        ``(observed - mean) / std``; NaN where the samples do not differ.
    p : float
        Two-sided, ``2 min(1 + #(x <= observed), 1 + #(x >= observed)) / (n + 1)``, at most 1: never below
        ``2 / (n + 1)``.
    quantile : float
        Share of samples below the observed value, ties counted half.
    n : int
        Samples in which the metric is defined.
    note : str
        ``undefined`` where the mask, or all but one sample, has no value; ``no_spread`` where the samples are equal.
    """

    observed: float
    mean: float = math.nan
    std: float = math.nan
    z: float = math.nan
    p: float = math.nan
    quantile: float = math.nan
    n: int = 0
    note: str = ""


def score(observed: float, values: Sequence[float]) -> Score:
    """Compare a value with those of random masks.

    Parameters
    ----------
    observed : float
        NaN where the metric is undefined.
    values : sequence of float
        One a sample, NaN where undefined: these are left out.

    Returns
    -------
    Score

    Examples
    --------
    >>> found = score(5.0, [1.0, 2.0, 3.0])
    >>> found.z, found.p, found.quantile
    (3.0, 0.5, 1.0)
    """
    drawn = np.asarray(values, dtype=np.float64)
    drawn = drawn[np.isfinite(drawn)]
    n = int(drawn.size)
    if n == 0:
        return Score(observed, note="undefined")
    mean = float(drawn.mean())
    std = float(drawn.std(ddof=1)) if n > 1 else math.nan
    if n == 1 or not math.isfinite(observed):
        return Score(observed, mean, std, n=n, note="undefined")
    scale = max(abs(observed), float(np.abs(drawn).max()))
    tied = int((np.abs(drawn - observed) <= TIE * scale).sum())
    below = int((drawn < observed - TIE * scale).sum())
    above = n - tied - below
    p = min(1.0, 2 * (1 + tied + min(below, above)) / (n + 1))
    quantile = (below + tied / 2) / n
    if std <= ACCURACY * scale:
        return Score(observed, mean, std, math.nan, p, quantile, n, "no_spread")
    return Score(observed, mean, std, (observed - mean) / std, p, quantile, n)
