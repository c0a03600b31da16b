"""Can topology predict accuracy where nobody has looked yet? A family or a method is left out, and ranked.

A ridge regression on all metrics learns from the other groups and orders the runs of the one left out; Kendall's tau
says how well. Beside it stand the same model on mean density alone, and on density and sparsity: a catalogue of metrics
that does not beat them has learnt density. scikit-learn does the arithmetic (``pip install "sift-graph[stats]"``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from sift_graph.concluding import GAIN
from sift_graph.concluding import predicted_sentence as sentence
from sift_graph.correlate import target_column
from sift_graph.errors import UsageError
from sift_graph.metrics import METRICS, NETWORK_METRICS
from sift_graph.strata import CONTROL, last_steps

__all__ = ["COLUMNS", "GAIN", "held_out", "sentence"]

COLUMNS = ("left_out", "group", "model", "n_features", "n_train", "n", "tau", "lo", "hi", "p", "note")
MIN_RUNS, MIN_TEST = 10, 4
ALPHAS = np.logspace(-2, 4, 13)


def held_out(
    network: pd.DataFrame,
    *,
    target: str = "val_accuracy",
    left_out: str = "family",
    metrics: Sequence[str] | None = None,
    include_dense: bool = False,
    confidence: float = 0.95,
    n_boot: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Predict the runs of each family, or method, from all others.

    Parameters
    ----------
    network : DataFrame
        One row per (run, step); the last step of each run is used.
    target : str
        As :func:`sift_graph.correlate.correlate`.
    left_out : str
        The column of groups: ``family``, ``method``, or another.
    metrics : sequence of str, optional
        Columns to predict from; by default every metric of the catalogue that is there.
    include_dense : bool
        Keep dense runs.
    confidence : float
        Coverage of the intervals.
    n_boot : int
        Resamples of the runs of each group that was left out; the models are not fitted again.
    seed : int
        Seeds the resampling.

    Returns
    -------
    DataFrame
        A row for each group and model (``density``, ``density and sparsity``, ``metrics``), and one of all groups
        together (group ``all``: the mean of their taus, weighted by pairs of runs). The model ``gain`` is the tau of
        the metrics less that of density and sparsity, which is 0 where those order nothing. ``tau`` is NaN where it
        does not exist, with a word in ``note``: ``one_group``, ``too_few_runs``, ``constant``, ``no_features``.
        ``lo`` and ``hi`` are percentiles of the bootstrap over runs: they speak of other runs of these groups, not of
        other groups.

    Raises
    ------
    UsageError
        If a column does not exist, or scikit-learn is not installed.
    """
    column = target_column(network, target)
    for name in filter(None, (left_out, column or f"final_{target}")):
        if name not in network:
            raise UsageError(f"network frame: column {name!r} is missing; expected one row per (run, step) with it")
    assert column is not None
    known = (*METRICS, *NETWORK_METRICS)
    names = list(metrics) if metrics is not None else [n for n in known if n in network and _numeric(network[n])]
    if missing := [name for name in names if name not in network]:
        raise UsageError(f"network frame: metric {missing[0]!r} is missing")
    runs, _ = last_steps(network, column, names, include_dense=include_dense)
    runs = runs[runs["_target"].notna() & runs[left_out].notna()]
    groups = sorted(map(str, runs[left_out].unique()))
    density = [name for name in (CONTROL,) if name in runs]
    models = {
        "density": density,
        "density and sparsity": [*density, *(["sparsity"] if "sparsity" in runs else [])],
        "metrics": names,
    }
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    drawn: dict[str, list[np.ndarray]] = {}
    for group in groups:
        found = {model: _row(runs, left_out, group, model, features, len(groups)) for model, features in models.items()}
        here = runs.loc[runs[left_out].astype(str) == group, "_target"].to_numpy(dtype=float)
        taus = _resampled({model: predicted for model, (_, predicted) in found.items()}, here, n_boot, rng)
        of_group = [row for row, _ in found.values()]
        of_group.append(_gain(of_group))
        for row in of_group:
            row |= _interval(taus[row["model"]], confidence)
            drawn.setdefault(row["model"], []).append(taus[row["model"]])
        rows += of_group
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    together = [_together(table, left_out, model, drawn.get(model, []), confidence) for model in (*models, GAIN)]
    return pd.concat([table, pd.DataFrame(together, columns=list(COLUMNS))], ignore_index=True)


def _numeric(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column)


def _row(
    runs: pd.DataFrame, left_out: str, group: str, model: str, features: list[str], n_groups: int
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Fit on the others, and rank this group; with what was predicted, where that orders anything."""
    here = runs[left_out].astype(str) == group
    train, test = runs[~here], runs[here]
    row: dict[str, Any] = {"left_out": left_out, "group": group, "model": model, "n_features": len(features)}
    row |= {"n_train": len(train), "n": len(test), "tau": math.nan, "p": math.nan, "note": ""}
    usable = [name for name in features if train[name].notna().any() and train[name].nunique() > 1]
    if n_groups < 2:
        row["note"] = "one_group"
    elif len(train) < MIN_RUNS or len(test) < MIN_TEST:
        row["note"] = "too_few_runs"
    elif not usable:
        row["note"] = "no_features"
    else:
        predicted = _fit(train[usable], train["_target"], test[usable])
        if np.ptp(predicted) <= 1e-12 or test["_target"].nunique() < 2:
            row["note"] = "constant"
        else:
            found = stats.kendalltau(predicted, test["_target"])
            row |= {"tau": float(found.statistic), "p": float(found.pvalue), "n_features": len(usable)}
            return row, predicted
    return row, None


def _gain(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Say what the metrics add, from the rows of the models."""
    by_model = {row["model"]: row for row in rows}
    metrics, rival = by_model["metrics"], by_model["density and sparsity"]["tau"]
    tau = metrics["tau"] - (rival if math.isfinite(rival) else 0.0)
    return metrics | {"model": GAIN, "tau": tau, "p": math.nan}


def _resampled(
    predicted: dict[str, np.ndarray | None], target: np.ndarray, n_boot: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Kendall's tau-b of each model, and the gain, over resamples of the runs, the same ones for all."""
    n = target.size
    counts = rng.multinomial(n, np.full(n, 1 / n), size=n_boot).astype(float)
    taus = {model: _weighted_taus(one, target, counts) for model, one in predicted.items()}
    rival = taus["density and sparsity"]
    taus[GAIN] = taus["metrics"] - (0.0 if predicted["density and sparsity"] is None else rival)
    return taus


def _weighted_taus(predicted: np.ndarray | None, target: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Tau-b of each resample: the order of each pair of runs counts as often as both were drawn."""
    if predicted is None:
        return np.full(len(counts), math.nan)
    one, other = (np.sign(np.subtract.outer(values, values)) for values in (predicted, target))
    total, first, second = (((counts @ part) * counts).sum(axis=1) for part in (one * other, one**2, other**2))
    scale = np.sqrt(first * second)
    taus: np.ndarray = np.divide(total, scale, out=np.full(len(counts), math.nan), where=scale > 0)
    return taus


def _interval(taus: np.ndarray, confidence: float) -> dict[str, float]:
    """Percentiles of the resampled taus; none where there is no tau."""
    known = taus[np.isfinite(taus)]
    if not known.size:
        return {"lo": math.nan, "hi": math.nan}
    lo, hi = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return {"lo": float(lo), "hi": float(hi)}


def _fit(train: pd.DataFrame, target: pd.Series, test: pd.DataFrame) -> np.ndarray:
    """Regress on standardised values, the penalty by leave-one-out."""
    try:
        from sklearn.impute import SimpleImputer
        from sklearn.linear_model import RidgeCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise UsageError(f'prediction needs {error.name}; pip install "sift-graph[stats]"') from error
    model = make_pipeline(SimpleImputer(strategy="median"), StandardScaler(), RidgeCV(ALPHAS))
    model.fit(_squashed(train), target.to_numpy(dtype=float))
    return np.asarray(model.predict(_squashed(test)))


def _squashed(frame: pd.DataFrame) -> np.ndarray:
    """Values on a logarithmic scale of their size: counts and paths span decades."""
    values = frame.to_numpy(dtype=float)
    return np.asarray(np.sign(values) * np.log1p(np.abs(values)))


def _together(
    table: pd.DataFrame, left_out: str, model: str, drawn: list[np.ndarray], confidence: float
) -> dict[str, Any]:
    """Average over groups, weighted by their pairs of runs."""
    rows = table[(table["model"] == model) & table["tau"].notna()]
    pairs = rows["n"] * (rows["n"] - 1) / 2
    tau = float((rows["tau"] * pairs).sum() / pairs.sum()) if len(rows) else math.nan
    every = table[table["model"] == model]
    note = "" if len(rows) else str(every["note"].iloc[0]) if len(every) else "no_values"
    most = int(every["n_features"].max()) if len(every) else 0
    taus = np.zeros(len(drawn[0])) if len(rows) else np.empty(0)
    for place, weight in zip(np.flatnonzero(every["tau"].notna()), pairs / pairs.sum(), strict=True):
        taus = taus + weight * drawn[place]
    return {
        "left_out": left_out,
        "group": "all",
        "model": model,
        "n_features": most,
        "n_train": int(every["n"].sum()),
        "n": int(rows["n"].sum()),
        "tau": tau,
        **_interval(taus, confidence),
        "p": math.nan,
        "note": note,
    }
