r"""Correlate topology with accuracy, always beside the value at fixed sparsity and given density.

A correlation that is pooled over sparsities is mostly a correlation with density: the normalised gap of a random mask
is a function of density alone, and mean layer density ranks methods about as well as any spectral metric. So every
metric is reported in several views, and mean layer density itself stands as a row beside them:

``pooled``
    all runs together
``fixed sparsity``
    the runs of one nominal sparsity, a row for each
``within sparsity``
    all runs, partial given sparsity as a category: what the strata say together
``partial given mean_density``
    all runs, partial given the mean density over layers; with ``and sparsity``, given both
``fixed family``, ``fixed method``
    the runs of one family or method, a row for each, where there are several
``within family, method and sparsity``
    all runs, given what was asked for: what is left between seeds
``within runs``
    over the steps of each run (:mod:`sift_graph.over_time`), clustered by run

Each run enters once, with its last recorded step; only ``within runs`` takes all of its steps. Intervals are
bootstrapped over runs (BCa, and the plain percentile interval where BCa does not exist); p values are two-sided, of a t
test (Spearman, Pearson), of the normal limit (Kendall) or clustered by run, adjusted by Benjamini and Hochberg over all
metrics of the same view, stratum and statistic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from sift_graph.association import Association
from sift_graph.concluding import MIN_RUNS, conclude, conclusions, excludes_zero
from sift_graph.concordance import Concordance
from sift_graph.errors import UsageError, did_you_mean
from sift_graph.joining import NULL_SUFFIX, with_null_scores
from sift_graph.over_time import WITHIN_RUNS, Trajectories
from sift_graph.strata import CONTROL, POOLED, VIEWS, WITHIN, View, last_steps, views

__all__ = [
    "COLUMNS",
    "CONTROL",
    "CORE_METRICS",
    "VIEWS",
    "conclude",
    "conclusions",
    "correlate",
    "target_column",
]

STATISTICS = ("spearman", "kendall", "pearson")
SMALL_SAMPLE = 10

CORE_METRICS = (
    "ramanujan_gap",
    "ramanujan_gap_norm",
    "excess_gap",
    "imdb",
    "imdb_norm",
    "imsg",
    "weighted_spectral_gap",
    "normalised_sigma_2",
    "iou_first",
    "itop_rate",
)
COLUMNS = (
    "metric",
    "target",
    "view",
    "stratum",
    "statistic",
    "n",
    "n_runs",
    "coverage",
    "estimate",
    "lo",
    "hi",
    "p",
    "p_adjusted",
    "note",
)


def correlate(
    network: pd.DataFrame,
    *,
    target: str = "val_accuracy",
    metrics: Sequence[str] | None = None,
    confidence: float = 0.95,
    n_boot: int = 2000,
    seed: int = 0,
    include_dense: bool = False,
    nulls: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Correlate each metric with a target: pooled, at fixed sparsity, and given density.

    Parameters
    ----------
    network : DataFrame
        One row per (run, step), as `sift_graph.table` makes it; the last step of each run is used.
    target : str
        What to correlate with. The column ``final_<target>`` is read (the run's last value), else ``<target>``.
    metrics : sequence of str, optional
        Columns of `network`; by default those of `CORE_METRICS` that are there. ``mean_density`` is always added.
    confidence : float
        Coverage of the intervals, in (0, 1).
    n_boot : int
        Bootstrap resamples of runs.
    seed : int
        Seeds the resampling; the same seed gives the same table.
    include_dense : bool
        Keep runs of the family ``dense``. Their masks are all ones, so their topology says nothing; by default they
        are left out.
    nulls : DataFrame, optional
        Comparisons with random masks, as ``run.nulls()`` gives them: their mean z-scores over layers,
        ``<metric>_null_z``, stand as metrics of their own.

    Returns
    -------
    DataFrame
        One row per metric, view, stratum and statistic, with the columns `COLUMNS`. ``n_runs`` counts the runs of
        the stratum, ``n`` those with both values (in the view ``within runs`` their steps), ``coverage`` is the mean
        share of layers on which the metric is defined.
        ``estimate``, ``lo``, ``hi``, ``p`` and ``p_adjusted`` are NaN where they do not exist, with a word in ``note``:
        ``too_few_runs``, ``constant``, ``constant_target``, ``no_values``, ``target_missing``, ``is_the_control``,
        ``determined_by_control``, ``control_missing``. Other words qualify a number that stands: ``one_sparsity``,
        ``small_sample``, ``infinite_dropped``, ``duplicates_dropped``, ``sparsity_missing``, ``percentile_interval``,
        ``simpson`` (pooled and within-sparsity signs differ, both intervals excluding zero).
        ``attrs`` holds the settings and counts.

    Raises
    ------
    UsageError
        If the target, a metric or a needed column does not exist, a (run, step) occurs twice, or an option is out of
        range.

    References
    ----------
    .. [1] B. Efron, Better bootstrap confidence intervals, J. Amer. Statist. Assoc. 82 (1987).
    .. [2] Y. Benjamini and Y. Hochberg, Controlling the false discovery rate, J. R. Statist. Soc. B 57 (1995).
    .. [3] E. Cunegatti et al., Understanding sparse neural networks from their topology, TMLR (2024).

    Examples
    --------
    >>> frame = pd.DataFrame({"run": list("abcde"), "step": 1, "sparsity": 0.9, "mean_density": [1, 1, 2, 2, 3.0],
    ...                       "imdb": [1, 2, 3, 4, 5.0], "final_val_accuracy": [0.1, 0.2, 0.3, 0.5, 0.4]})
    >>> table = correlate(frame, metrics=["imdb"], n_boot=200)
    >>> float(table.loc[table["view"] == "pooled", "estimate"].iloc[0].round(3))
    0.9
    """
    if not 0 < confidence < 1:
        raise UsageError(f"confidence: expected a share between 0 and 1, such as 0.95, got {confidence!r}")
    if n_boot < 100:
        raise UsageError(f"n_boot: expected at least 100 resamples for an interval, got {n_boot!r}")
    _require(network, ("run", "step"))
    column = target_column(network, target)
    if column is None:
        known = [str(name).removeprefix("final_") for name in network.columns if str(name).startswith("final_")]
        hint = (
            did_you_mean(target, known)
            if known
            else (
                "; the runs hold no training metrics: write metrics.jsonl beside the masks, or add a column "
                f"'final_{target}' to the frame"
            )
        )
        raise UsageError(f"target {target!r}: no column {f'final_{target}'!r} or {target!r} in the network frame{hint}")
    names = _metric_names(network, metrics)
    if nulls is not None and len(nulls):
        network = with_null_scores(network, nulls)
        scores = [c for c in network.columns if str(c).endswith(NULL_SUFFIX)]
        names = [*(n for n in names if n != CONTROL), *scores, *(n for n in names if n == CONTROL)]
    runs, attrs = last_steps(network, column, names, include_dense=include_dense)
    rows: list[dict[str, Any]] = [
        _row(view, metric, target, column, statistic, confidence, n_boot, seed, attrs["note"])
        for metric in names
        for view in views(runs)
        for statistic in STATISTICS
    ]
    if target in network and network["run"].duplicated().any():
        steps = network[network["run"].isin(runs["run"])]
        rows += [
            _over_time(steps, metric, target, statistic, confidence, n_boot, seed)
            for metric in names
            for statistic in ("spearman", "pearson")
        ]
    order = {name: i for i, name in enumerate(names)}
    rows.sort(key=lambda row: order[row["metric"]])
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    _adjust(table)
    _flag_simpson(table)
    table.attrs = {
        "target": target,
        "confidence": confidence,
        "n_boot": n_boot,
        "seed": seed,
        **{key: value for key, value in attrs.items() if key != "note"},
    }
    return table


def target_column(network: pd.DataFrame, target: str) -> str | None:
    """Find the column of a target: ``final_<target>``, else ``<target>``.

    Parameters
    ----------
    network : DataFrame
        One row per (run, step).
    target : str
        Name of a training metric, such as ``val_accuracy``.

    Returns
    -------
    str or None
        The column's name; None if there is neither.
    """
    return next((name for name in (f"final_{target}", target) if name in network.columns), None)


def _require(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuse a frame without the columns that say which row is which."""
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise UsageError(
            f"network frame: column {missing[0]!r} is missing; expected one row per (run, step) with the columns "
            f"{', '.join(columns)}, as `run.network()` gives"
        )


def _metric_names(network: pd.DataFrame, metrics: Sequence[str] | None) -> list[str]:
    """Check the metrics asked for, or choose them; the control comes last."""
    if metrics is None:
        names = [name for name in CORE_METRICS if name in network.columns]
    else:
        names = list(dict.fromkeys(metrics))
        numeric = [str(name) for name in network.select_dtypes(include=["number", "bool"]).columns]
        for name in names:
            if name not in numeric:
                found = "is not numeric" if name in network.columns else "is not in the network frame"
                known = [other for other in numeric if not other.endswith("_coverage")]
                raise UsageError(f"metric {name!r} {found}{did_you_mean(name, known)}")
    if CONTROL in network.columns and CONTROL not in names:
        names.append(CONTROL)
    if not names:
        raise UsageError(
            f"network frame: no metric to correlate; expected one of {', '.join((*CORE_METRICS, CONTROL))}"
        )
    return names


def _row(
    view: View,
    metric: str,
    target: str,
    column: str,
    statistic: str,
    confidence: float,
    n_boot: int,
    seed: int,
    common_note: str,
) -> dict[str, Any]:
    """One row of the table."""
    runs = view.runs
    x, y = runs[metric].to_numpy(dtype=float), runs["_target"].to_numpy(dtype=float)
    both = np.isfinite(x) & np.isfinite(y)
    if view.control is not None:
        both &= np.isfinite(view.control)
    share = runs.get(f"{metric}_coverage")
    defined = np.isfinite(x) if share is None else share.fillna(0).to_numpy(dtype=float)
    coverage = float(defined.mean()) if len(runs) else math.nan
    row: dict[str, Any] = dict.fromkeys(("estimate", "lo", "hi", "p", "p_adjusted"), math.nan)
    row |= {
        "metric": metric,
        "target": target,
        "view": view.name,
        "stratum": view.stratum,
        "statistic": statistic,
        "n": int(both.sum()),
        "n_runs": len(runs),
        "coverage": coverage,
    }
    notes = [common_note, view.note]
    problem = _problem(view, metric, x, y, both)
    if not problem:
        codes = None if view.codes is None else _recode(view.codes[both])
        control = None if view.control is None else view.control[both]
        sample = (
            Concordance(x[both], y[both], codes, control)
            if statistic == "kendall"
            else Association(x[both], y[both], codes, control, rank=statistic == "spearman")
        )
        estimate = sample.estimate()
        if math.isfinite(estimate):
            row["estimate"] = estimate
            row["p"] = sample.p_value(estimate)
            row["lo"], row["hi"], word = sample.interval(confidence, n_boot, seed)
            notes += [word, "small_sample" if both.sum() < SMALL_SAMPLE else ""]
        else:
            problem = "determined_by_control" if view.codes is not None or view.control is not None else "constant"
    row["note"] = "; ".join(filter(None, [problem, *notes]))
    return row


def _over_time(
    steps: pd.DataFrame, metric: str, target: str, statistic: str, confidence: float, n_boot: int, seed: int
) -> dict[str, Any]:
    """One row of the table for the steps within runs."""
    sample = Trajectories.of(steps, metric, target, rank=statistic == "spearman")
    row: dict[str, Any] = dict.fromkeys(COLUMNS, math.nan)
    row |= {"metric": metric, "target": target, "view": WITHIN_RUNS, "stratum": "all", "statistic": statistic}
    row |= {"n": sample.n, "n_runs": len(sample.sums), "note": sample.problem}
    row["coverage"] = float(np.isfinite(steps[metric].astype(float)).mean())
    if not sample.problem:
        row["estimate"], row["p"] = sample.estimate(), sample.p_value()
        row["lo"], row["hi"] = sample.interval(confidence, n_boot, seed)
        row["note"] = "small_sample" if len(sample.sums) < SMALL_SAMPLE else ""
    return row


def _problem(view: View, metric: str, x: np.ndarray, y: np.ndarray, both: np.ndarray) -> str:
    """Say why there is no correlation to compute; empty if there is."""
    if not np.isfinite(y).any() and len(y):
        return "target_missing"
    if not np.isfinite(x).any() and len(x):
        return "no_values"
    if view.control is not None and metric == CONTROL:
        return "is_the_control"
    if view.control is not None and not np.isfinite(view.control).any():
        return "control_missing"
    held = 0 if view.codes is None else len(np.unique(view.codes[both])) - 1
    held += view.control is not None
    if both.sum() < MIN_RUNS or both.sum() - 2 - held < 1:
        return "too_few_runs"
    if np.ptp(y[both]) == 0:
        return "constant_target"
    return "constant" if np.ptp(x[both]) == 0 else ""


def _recode(codes: np.ndarray) -> np.ndarray:
    """Renumber the remaining categories from 0 on."""
    return np.unique(codes, return_inverse=True)[1]


def _adjust(table: pd.DataFrame) -> None:
    """Fill ``p_adjusted``: Benjamini-Hochberg over the metrics of one view, stratum and statistic."""
    for _, rows in table.groupby(["view", "stratum", "statistic"], sort=False):
        p = rows["p"].dropna()
        if len(p):
            table.loc[p.index, "p_adjusted"] = stats.false_discovery_control(p.to_numpy())


def _flag_simpson(table: pd.DataFrame) -> None:
    """Note ``simpson`` where pooled and within-sparsity intervals exclude zero on opposite sides."""
    for _, rows in table.groupby(["metric", "statistic"], sort=False):
        pooled, within = rows[rows["view"] == POOLED], rows[rows["view"] == WITHIN]
        if not (len(pooled) and len(within)):
            continue
        first, second = pooled.iloc[0], within.iloc[0]
        if excludes_zero(first) and excludes_zero(second) and first["estimate"] * second["estimate"] < 0:
            for index in (pooled.index[0], within.index[0]):
                table.loc[index, "note"] = "; ".join(filter(None, [str(table.loc[index, "note"]), "simpson"]))
