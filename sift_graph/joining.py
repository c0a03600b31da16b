"""Frames for correlation from elsewhere: a table of any tool, and z-scores against random masks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from sift_graph.errors import UsageError, did_you_mean

__all__ = ["NULL_SUFFIX", "read_table", "with_null_scores"]

NULL_SUFFIX = "_null_z"
SUFFIXES = (".csv", ".tsv", ".parquet")


def read_table(path: Path, columns: Mapping[str, str] | None = None) -> pd.DataFrame:
    r"""Read a table of runs that another tool wrote.

    Parameters
    ----------
    path : Path
        ``.csv``, ``.tsv`` or ``.parquet``, one row per run, or per (run, step).
    columns : mapping of str to str, optional
        What a column is called there, by its name here: ``run``, ``step``, ``family``, ``method``, ``sparsity``,
        ``seed``, ``mean_density``, a metric, the target.

    Returns
    -------
    DataFrame
        With ``run`` and ``step``: rows are numbered where the table has no runs, and step is 0 where it has no steps.
        Words such as "inf" and "n/a" in a column of numbers are read as what they mean.

    Raises
    ------
    UsageError
        If the file cannot be read, or a mapped column is not in it.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (path := Path(folder) / "a.csv").write_text("acc,gap\n0.5,1\n0.6,inf\n")
    ...     read_table(path, {"val_accuracy": "acc"}).to_dict("list")
    {'val_accuracy': [0.5, 0.6], 'gap': [1.0, inf], 'run': ['row 1', 'row 2'], 'step': [0, 0]}
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: expected a table ({', '.join(SUFFIXES)}) or a directory of runs")
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            frame = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",")
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as a table ({error})") from error
    there = [str(name) for name in frame.columns]
    for ours, theirs in (columns or {}).items():
        if theirs not in there:
            raise UsageError(f"{path}: has no column {theirs!r} (for {ours!r}){did_you_mean(theirs, there)}")
        if ours in there and ours != theirs:
            frame = frame.drop(columns=ours)
    frame = frame.rename(columns={theirs: ours for ours, theirs in (columns or {}).items()})
    words = {"run", "family", "method", "layer", "note"}
    for name in [n for n in frame.columns if n not in words and not pd.api.types.is_numeric_dtype(frame[n])]:
        numbers = pd.to_numeric(frame[name], errors="coerce")
        if numbers.notna().sum() >= frame[name].notna().sum() / 2 > 0:
            frame[name] = numbers
    if "run" not in frame:
        frame["run"] = [f"row {i}" for i in range(1, len(frame) + 1)]
    if "step" not in frame:
        frame["step"] = 0
    return frame


def with_null_scores(network: pd.DataFrame, nulls: pd.DataFrame) -> pd.DataFrame:
    """Put the mean z-score over layers of each compared metric beside the metrics, ``<metric>_null_z``.

    Parameters
    ----------
    network : DataFrame
        One row per (run, step).
    nulls : DataFrame
        Comparisons with random masks: ``run, step, metric, z``, a row a layer.

    Returns
    -------
    DataFrame
        A copy; NaN at steps that were not compared. Beside each column stands the share of layers that have a z.

    Raises
    ------
    UsageError
        If a column is missing, or the comparisons are of several null models.
    """
    for name in ("run", "step", "metric", "z", "null"):
        if name not in nulls:
            raise UsageError(f"nulls frame: column {name!r} is missing; pass what `run.nulls()` gives")
    kinds = sorted(map(str, nulls["null"].unique()))
    if len(kinds) > 1:
        raise UsageError(f"nulls frame: comparisons with {', '.join(kinds)} together; pass those of one null model")
    z = nulls.assign(z=nulls["z"].replace([np.inf, -np.inf], np.nan)).groupby(["run", "step", "metric"])["z"]
    found = z.mean().unstack("metric").add_suffix(NULL_SUFFIX)
    share = z.apply(lambda v: v.notna().mean()).unstack("metric").add_suffix(f"{NULL_SUFFIX}_coverage")
    return network.merge(found.join(share).reset_index(), on=["run", "step"], how="left")
