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

from sift_graph.correlate import target_column
from sift_graph.errors import UsageError
from sift_graph.metrics import METRICS, NETWORK_METRICS
from sift_graph.strata import CONTROL, last_steps

__all__ = ["COLUMNS", "held_out", "sentence"]

COLUMNS = ("left_out", "group", "model", "n_features", "n_train", "n", "tau", "p", "note")
MIN_RUNS, MIN_TEST = 10, 4
ALPHAS = np.logspace(-2, 4, 13)


def held_out(
    network: pd.DataFrame,
    *,
    target: str = "val_accuracy",
    left_out: str = "family",
    metrics: Sequence[str] | None = None,
    include_dense: bool = False,
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

    Returns
    -------
    DataFrame
        A row for each group and model (``density``, ``density and sparsity``, ``metrics``), and one of all groups
        together (group ``all``: the mean of their taus, weighted by pairs of runs). ``tau`` is NaN where it does not
        exist, with a word in ``note``: ``one_group``, ``too_few_runs``, ``constant``, ``no_features``.

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
    rows = [
        _row(runs, left_out, group, model, features, len(groups))
        for group in groups
        for model, features in models.items()
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    together = [_together(table, left_out, model) for model in models]
    return pd.concat([table, pd.DataFrame(together, columns=list(COLUMNS))], ignore_index=True)


def sentence(table: pd.DataFrame) -> str:
    """Say what a table of :func:`held_out` allows to conclude.

    Parameters
    ----------
    table : DataFrame

    Returns
    -------
    str
    """
    left_out = str(table["left_out"].iloc[0]) if len(table) else "group"
    whole = table[table["group"] == "all"].set_index("model")["tau"]
    if "metrics" not in whole or not math.isfinite(whole["metrics"]):
        word = table.loc[table["model"] == "metrics", "note"].iloc[0] if len(table) else "no_features"
        return f"Nothing can be said about a {left_out} that was not seen ({word})."
    density = max((v for k, v in whole.items() if k != "metrics" and math.isfinite(v)), default=math.nan)
    found = f"Of a {left_out} left out, all metrics order the runs with a mean Kendall tau of {whole['metrics']:+.2f}"
    if not math.isfinite(density):
        return f"{found}; density is the same in all of these runs and orders nothing."
    if max(whole["metrics"], density) < 0.1:
        verdict = "neither orders them"
    else:
        verdict = f"{'more than' if whole['metrics'] > max(density, 0) + 0.05 else 'no more than'} density tells"
    return f"{found}, density and sparsity with {density:+.2f}: {verdict}."


def _numeric(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column)


def _row(
    runs: pd.DataFrame, left_out: str, group: str, model: str, features: list[str], n_groups: int
) -> dict[str, Any]:
    """Fit on the others, and rank this group."""
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
    return row


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


def _together(table: pd.DataFrame, left_out: str, model: str) -> dict[str, Any]:
    """Average over groups, weighted by their pairs of runs."""
    rows = table[(table["model"] == model) & table["tau"].notna()]
    pairs = rows["n"] * (rows["n"] - 1) / 2
    tau = float((rows["tau"] * pairs).sum() / pairs.sum()) if len(rows) else math.nan
    every = table[table["model"] == model]
    note = "" if len(rows) else str(every["note"].iloc[0]) if len(every) else "no_values"
    most = int(every["n_features"].max()) if len(every) else 0
    return {"left_out": left_out, "group": "all", "model": model, "n_features": most, "n_train": int(every["n"].sum()),
            "n": int(rows["n"].sum()), "tau": tau, "p": math.nan, "note": note}  # fmt: skip
