"""Kendall's tau with something held fixed, and its bootstrap interval: pairs of runs that two variables order alike.

A resample gives each run a weight, how often it was drawn; tau is then a ratio of quadratic forms of the weights with
matrices of signs, so thousands of resamples are three matrix products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats

from sift_graph.association import settled

__all__ = ["Concordance"]


@dataclass(frozen=True, eq=False)
class Concordance:
    """Paired values of two variables, as :class:`sift_graph.association.Association` holds them.

    Parameters
    ----------
    x, y : ndarray of float
        Paired values, all finite, one per independent unit (a run).
    codes : ndarray of int, optional
        Categories: only pairs of runs of one category are compared.
    control : ndarray of float, optional
        A covariate to hold fixed, as Kendall's partial tau does [1]_. It need not vanish where the covariate alone
        drives both variables: read Spearman's for that.

    References
    ----------
    .. [1] M. G. Kendall, "Partial rank correlation", Biometrika 32 (1942).
    """

    x: np.ndarray
    y: np.ndarray
    codes: np.ndarray | None = None
    control: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name in ("x", "y", "control"):
            object.__setattr__(self, name, settled(getattr(self, name)))

    @cached_property
    def _signs(self) -> list[np.ndarray]:
        """Order of each pair by each variable, 0 for pairs that are not compared."""
        compared = 1.0 if self.codes is None else self.codes[:, None] == self.codes
        given = (self.x, self.y) if self.control is None else (self.x, self.y, self.control)
        return [np.sign(v[:, None] - v) * compared for v in given]

    def _statistic(self, weights: np.ndarray) -> np.ndarray:
        """Tau-b for each row of weights; NaN where nothing is left to order."""
        signs = self._signs

        def form(matrix: np.ndarray) -> np.ndarray:
            return np.asarray(np.einsum("ki,ki->k", weights @ matrix, weights))

        with np.errstate(divide="ignore", invalid="ignore"):
            sizes = [np.sqrt(form(np.abs(sign))) for sign in signs]

            def tau(a: int, b: int) -> np.ndarray:
                return np.asarray(form(signs[a] * signs[b]) / (sizes[a] * sizes[b]))

            value = tau(0, 1)
            if self.control is not None:
                left, right = tau(0, 2), tau(1, 2)
                rest = (1 - left**2) * (1 - right**2)
                value = np.where(rest > 1e-12, (value - left * right) / np.sqrt(np.maximum(rest, 1e-300)), np.nan)
        return np.asarray(np.clip(value, -1.0, 1.0))

    def estimate(self) -> float:
        """Correlate the sample itself."""
        return float(self._statistic(np.ones((1, len(self.x))))[0])

    def p_value(self, estimate: float) -> float:
        """Two-sided p value of the normal limit: scipy's, else that of equal strata without ties."""
        if self.codes is None and self.control is None:
            return float(stats.kendalltau(self.x, self.y).pvalue)
        n = len(self.x) if self.codes is None else len(self.x) / (self.codes.max() + 1)
        strata = 1 if self.codes is None else self.codes.max() + 1
        freedom = n - (self.control is not None)
        if freedom < 3:
            return math.nan
        spread = math.sqrt(2 * (2 * freedom + 5) / (9 * freedom * (freedom - 1)) / strata)
        return float(2 * stats.norm.sf(abs(estimate) / spread))

    def interval(self, confidence: float, n_boot: int, seed: int) -> tuple[float, float, str]:
        """Bootstrap interval over runs (BCa), and a word if it is not BCa."""
        n = len(self.x)
        rng = np.random.default_rng(seed)
        drawn = self._statistic(rng.multinomial(n, np.full(n, 1 / n), size=n_boot).astype(float))
        drawn = drawn[np.isfinite(drawn)]
        if len(drawn) < n_boot // 2:
            return math.nan, math.nan, "no_interval"
        tail = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
        left_out = self._statistic(1.0 - np.eye(n))
        centre = left_out.mean() - left_out
        scale = float((centre**2).sum())
        here = self.estimate()
        below = float((drawn < here).mean() + (drawn == here).mean() / 2)
        if math.isfinite(scale) and scale > 0 and 0 < below < 1:
            bias = stats.norm.ppf(below)
            skew = float((centre**3).sum()) / (6 * scale**1.5)
            z = bias + stats.norm.ppf(tail)
            lo, hi = np.quantile(drawn, stats.norm.cdf(bias + z / (1 - skew * z)))
            return float(lo), float(hi), ""
        lo, hi = np.quantile(drawn, tail)
        return float(lo), float(hi), "percentile_interval"
