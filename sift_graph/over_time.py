"""Within a run, over its steps: does a metric move with the target? Correlated by run, resampled by run.

Values are centred within each run (ranks are taken within it), so nothing that differs *between* runs enters, density
least of all. Steps of one run are not independent: whole runs are resampled, and the p value is that of a regression
whose errors are clustered by run [1]_. Both a metric and accuracy change with time in any training, so a value here may
be no more than that both have a trend.

References
----------
.. [1] A. C. Cameron, D. L. Miller, "A practitioner's guide to cluster-robust inference", J. Human Resources 50 (2015).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

__all__ = ["WITHIN_RUNS", "Trajectories"]

WITHIN_RUNS = "within runs"
MIN_STEPS, MIN_CLUSTERS = 3, 4


@dataclass(frozen=True, eq=False)
class Trajectories:
    """Products of the centred values of two variables, summed within each run.

    Attributes
    ----------
    sums : ndarray of float64, shape (runs, 3)
        Of x y, x x and y y.
    n : int
        Steps of all runs together.
    """

    sums: np.ndarray
    n: int

    @classmethod
    def of(cls, frame: pd.DataFrame, metric: str, target: str, *, rank: bool) -> Trajectories:
        """Read them from a frame.

        Parameters
        ----------
        frame : DataFrame
            One row per (run, step).
        metric, target : str
            Columns; steps without either are left out, and runs of fewer than three steps.
        rank : bool
            Ranks within each run instead of values.

        Returns
        -------
        Trajectories
        """
        values = frame[["run", metric, target]].replace([np.inf, -np.inf], np.nan).dropna()
        sums, n = [], 0
        for _, run in values.groupby("run", sort=False):
            if len(run) < MIN_STEPS:
                continue
            x, y = run[metric].to_numpy(dtype=float), run[target].to_numpy(dtype=float)
            if rank:
                x, y = stats.rankdata(x), stats.rankdata(y)
                x, y = x / len(x), y / len(y)  # a long run counts by its steps, not by the size of its ranks
            x, y = x - x.mean(), y - y.mean()
            sums.append((x @ y, x @ x, y @ y))
            n += len(run)
        return cls(np.array(sums).reshape(-1, 3), n)

    @property
    def problem(self) -> str:
        """Why there is nothing to correlate; empty if there is."""
        if len(self.sums) < MIN_CLUSTERS:
            return "too_few_runs"
        if not self.sums[:, 1].sum() > 1e-20:
            return "constant"
        return "" if self.sums[:, 2].sum() > 1e-20 else "constant_target"

    def estimate(self) -> float:
        """Correlation of the centred values of all runs."""
        return float(self._statistic(np.ones((1, len(self.sums))))[0])

    def p_value(self) -> float:
        """Two-sided p value of the slope, with errors clustered by run."""
        together, square = self.sums[:, 0].sum(), self.sums[:, 1].sum()
        slope, runs = together / square, len(self.sums)
        score = self.sums[:, 0] - slope * self.sums[:, 1]
        spread = math.sqrt((score**2).sum() * runs / (runs - 1)) / square
        return 0.0 if spread == 0 else float(2 * stats.t.sf(abs(slope) / spread, runs - 1))

    def interval(self, confidence: float, n_boot: int, seed: int) -> tuple[float, float]:
        """Percentile interval over resampled runs."""
        runs = len(self.sums)
        weights = np.random.default_rng(seed).multinomial(runs, np.full(runs, 1 / runs), size=n_boot)
        drawn = self._statistic(weights.astype(float))
        lo, hi = np.nanquantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
        return float(lo), float(hi)

    def _statistic(self, weights: np.ndarray) -> np.ndarray:
        both, xx, yy = (weights @ self.sums).T
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(both / np.sqrt(xx * yy))
