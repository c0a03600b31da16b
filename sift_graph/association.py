"""Correlation of two samples with something held fixed, with its test and its bootstrap interval."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from scipy import stats

__all__ = ["Association", "settled"]


def settled(values: np.ndarray | None) -> np.ndarray | None:
    """Round to 40 bits: a mean over the same layers in another order differs in the last bit, and must not rank so."""
    if values is None or not len(values) or not np.abs(values).max() > 0:
        return values
    quantum = np.exp2(np.floor(np.log2(np.abs(values).max())) - 40)
    return np.asarray(np.round(values / quantum) * quantum)


@dataclass(frozen=True, eq=False)
class Association:
    """Paired values of two variables, and what is held fixed between them.

    Parameters
    ----------
    x, y : ndarray of float
        Paired values, all finite, one per independent unit (a run).
    codes : ndarray of int, optional
        Categories to hold fixed, numbered from 0 without holes.
    control : ndarray of float, optional
        A covariate to hold fixed.
    rank : bool
        Spearman (correlation of ranks, and of their residuals) rather than Pearson.
    """

    x: np.ndarray
    y: np.ndarray
    codes: np.ndarray | None = None
    control: np.ndarray | None = None
    rank: bool = False

    def __post_init__(self) -> None:
        for name in ("x", "y", "control"):
            object.__setattr__(self, name, settled(getattr(self, name)))

    def _data(self) -> tuple[np.ndarray, ...]:
        """List the arrays that are resampled together."""
        return tuple(part for part in (self.x, self.y, self.codes, self.control) if part is not None)

    def _statistic(self, *data: np.ndarray, axis: int = -1) -> np.ndarray:
        """Correlate along the last axis; NaN where nothing is left to correlate."""
        del axis  # always the last: scipy passes it by name
        x, y, *rest = data
        codes = rest.pop(0) if self.codes is not None else None
        control = rest.pop(0) if self.control is not None else None
        if self.rank:
            x, y = stats.rankdata(x, axis=-1), stats.rankdata(y, axis=-1)
            control = None if control is None else stats.rankdata(control, axis=-1)
        left, right = _centred(x, codes), _centred(y, codes)
        if control is not None:
            fixed = _centred(control, codes)
            left, right = _without(left, fixed, control), _without(right, fixed, control)
        square = _dot(left, left) * _dot(right, right)
        # What is left of a variable that the controls determine is rounding noise; its correlation would be noise too.
        none_left = (_dot(left, left) <= 1e-20 * _dot(x, x)) | (_dot(right, right) <= 1e-20 * _dot(y, y))
        with np.errstate(divide="ignore", invalid="ignore"):
            value = _dot(left, right) / np.sqrt(square)
        return np.where(none_left, np.nan, np.clip(value, -1.0, 1.0))

    def estimate(self) -> float:
        """Correlate the sample itself."""
        return float(self._statistic(*self._data()))

    def p_value(self, estimate: float) -> float:
        """Two-sided p value of the t test, with a degree of freedom less for each thing held fixed."""
        held = (0 if self.codes is None else int(self.codes.max())) + (self.control is not None)
        freedom = len(self.x) - 2 - held
        if abs(estimate) >= 1.0:
            return 0.0
        t = abs(estimate) * math.sqrt(freedom / (1.0 - estimate**2))
        return float(2.0 * stats.t.sf(t, freedom))

    def interval(self, confidence: float, n_boot: int, seed: int) -> tuple[float, float, str]:
        """Bootstrap interval over runs, and a word if it is not BCa."""
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # degenerate resamples are looked at below
            result = stats.bootstrap(
                self._data(),
                self._statistic,
                n_resamples=n_boot,
                batch=max(1, 2_000_000 // len(self.x)),
                vectorized=True,
                paired=True,
                axis=-1,
                confidence_level=confidence,
                method="BCa",
                random_state=np.random.default_rng(seed),  # the same resamples for every metric with the same runs
            )
        lo, hi = float(result.confidence_interval.low), float(result.confidence_interval.high)
        if math.isfinite(lo) and math.isfinite(hi):
            return lo, hi, ""
        drawn = np.asarray(result.bootstrap_distribution)
        drawn = drawn[np.isfinite(drawn)]
        if len(drawn) < n_boot // 2:
            return math.nan, math.nan, "no_interval"
        tail = (1.0 - confidence) / 2.0
        lo, hi = (float(value) for value in np.quantile(drawn, [tail, 1.0 - tail]))
        return lo, hi, "percentile_interval"


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Inner products along the last axis."""
    return np.asarray(np.einsum("...i,...i->...", a, b))


def _centred(values: np.ndarray, codes: np.ndarray | None) -> np.ndarray:
    """Values less their mean, or less the mean of their category."""
    if codes is None:
        return np.asarray(values - values.mean(axis=-1, keepdims=True))
    out = np.array(values, dtype=float)
    for code in range(int(codes.max()) + 1):
        member = codes == code
        total = (values * member).sum(axis=-1, keepdims=True)
        out -= member * (total / np.maximum(member.sum(axis=-1, keepdims=True), 1))
    return out


def _without(values: np.ndarray, fixed: np.ndarray, raw: np.ndarray) -> np.ndarray:
    """Residuals of a regression on one centred covariate; the values themselves where that is constant."""
    size = _dot(fixed, fixed)
    constant = size <= 1e-20 * _dot(raw, raw)
    slope = np.where(constant, 0.0, _dot(values, fixed) / np.where(constant, 1.0, size))
    return np.asarray(values - slope[..., None] * fixed)
