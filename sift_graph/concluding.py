"""What a table of correlations allows to conclude, in a sentence a metric, without a claim of cause."""

from __future__ import annotations

import math

import pandas as pd

from sift_graph.errors import UsageError
from sift_graph.strata import CONTROL, PARTIAL, POOLED, WITHIN, WITHIN_CELL

__all__ = ["GAIN", "MIN_RUNS", "conclude", "conclusions", "excludes_zero", "predicted_sentence"]

GAIN = "gain"
"""The model of the rows that hold what the metrics order better than density and sparsity do."""

MIN_RUNS = 4  # with both values, for a correlation


def excludes_zero(row: pd.Series) -> bool:
    """Whether the interval exists and lies on one side of zero."""
    return bool(row["lo"] > 0 or row["hi"] < 0)


def conclude(rows: pd.DataFrame) -> str:
    """Say in plain words what the rows of one metric allow to conclude, and what they do not.

    Parameters
    ----------
    rows : DataFrame
        The rows of one metric and one target in a table of `correlate`; Spearman is read where it is there.

    Returns
    -------
    str
        One or two sentences, without a claim of cause.

    Raises
    ------
    UsageError
        If the rows are not those of exactly one metric.
    """
    if rows["metric"].nunique() != 1:
        raise UsageError(
            f"conclude: expected the rows of one metric, got {rows['metric'].nunique()}; pass "
            "`table[table['metric'] == name]`, or call `conclusions(table)`"
        )
    if "spearman" in set(rows["statistic"]):
        rows = rows[rows["statistic"] == "spearman"]
    metric, target = str(rows["metric"].iloc[0]), str(rows["target"].iloc[0])
    shown = {str(view): group.iloc[0] for view, group in rows.groupby("view", sort=False)}
    pooled, within, partial = (shown.get(name) for name in (POOLED, WITHIN, PARTIAL))
    if pooled is None or not math.isfinite(pooled["estimate"]):
        return f"{metric}: nothing can be concluded about {target}, because {_why_not(pooled)}."
    seen = f"{metric}: over all runs {_strength(pooled)} {target} {_numbers(pooled)}"
    if metric == CONTROL:
        return (
            f"{seen}. This is the confounder: a metric says something of its own only where it holds at fixed sparsity "
            "and given density."
        )
    held = [
        (name, view)
        for name, view in (("at fixed sparsity", within), ("given mean density", partial))
        if view is not None
    ]
    usable = [(name, view) for name, view in held if math.isfinite(view["estimate"])]
    if not usable:
        reason = _why_not(held[0][1]) if held else "the frame has neither sparsity nor mean density"
        return (
            f"{seen}; no value with sparsity or density held fixed exists, because {reason}. "
            "Density alone may explain it."
        )
    details = ", ".join(
        f"{view['estimate']:+.2f} [{view['lo']:+.2f}, {view['hi']:+.2f}] {name}" for name, view in usable
    )
    if "simpson" in str(pooled["note"]):
        verdict = "The sign reverses when sparsity is held fixed, so the pooled value must not be read as a link."
    else:
        verdict = _verdict(pooled, [view for _, view in usable], complete=len(usable) == len(held))
    cell = shown.get(WITHIN_CELL)
    if cell is not None and math.isfinite(cell["lo"]) and any(excludes_zero(view) for _, view in usable):
        numbers = f"{cell['estimate']:+.2f} [{cell['lo']:+.2f}, {cell['hi']:+.2f}]"
        if excludes_zero(cell):
            verdict += f" Between seeds of one family, method and sparsity it is {numbers}."
        else:
            verdict += (
                f" Between seeds of one family, method and sparsity it is not seen ({numbers}): these may make both."
            )
    return f"{seen}; {details}. {verdict}"


def conclusions(table: pd.DataFrame) -> dict[str, str]:
    """Conclude on every metric of a table.

    Parameters
    ----------
    table : DataFrame
        As `correlate` returns it.

    Returns
    -------
    dict of str to str
        The sentence of `conclude` for each metric, in the table's order.
    """
    return {str(metric): conclude(rows) for metric, rows in table.groupby("metric", sort=False)}


def _verdict(pooled: pd.Series, held: list[pd.Series], *, complete: bool) -> str:
    """Weigh the pooled value against the controlled ones."""
    clear = [excludes_zero(view) for view in held]
    same = all(view["estimate"] * pooled["estimate"] > 0 for view in held)
    if all(clear) and excludes_zero(pooled) and same and complete:
        if any(view["p_adjusted"] > 0.05 for view in held):
            return "It holds with density controlled, but not after correction for the number of metrics tested."
        return "It holds with density controlled: an association in these runs, not a cause."
    if not any(clear):
        if excludes_zero(pooled):
            return "With density controlled no association is established: the pooled value may be density alone."
        return "No association is established, which does not show that there is none."
    if all(clear) and complete and len({view["estimate"] > 0 for view in held}) == 1:
        return "An association appears with density controlled that pooling hides or reverses; not a cause."
    return "The controls do not agree, so a link beyond density is not established."


def _strength(row: pd.Series) -> str:
    """Put the pooled association in words."""
    if not excludes_zero(row):
        return "there is no clear association with"
    return f"higher values go with {'higher' if row['estimate'] > 0 else 'lower'}"


def _numbers(row: pd.Series) -> str:
    """Write estimate, interval and n."""
    name = "rho" if row["statistic"] == "spearman" else "r"
    return f"({name} = {row['estimate']:+.2f} [{row['lo']:+.2f}, {row['hi']:+.2f}], n = {row['n']})"


def _why_not(row: pd.Series | None) -> str:
    """Put the reason of a missing estimate in words."""
    if row is None:
        return "it has no pooled row"
    reasons = {
        "too_few_runs": f"only {row['n']} runs have both values and at least {MIN_RUNS} are needed",
        "constant": "it has the same value in every run",
        "constant_target": f"{row['target']} is the same in every run",
        "no_values": "it is undefined in every run",
        "target_missing": f"no run has a value of {row['target']}",
        "determined_by_control": "it is fully determined by what is held fixed",
        "control_missing": "mean density is undefined in every run",
    }
    word = str(row["note"]).split("; ")[0]
    return reasons.get(word, "it is undefined")


def predicted_sentence(table: pd.DataFrame) -> str:
    """Say what a table of :func:`sift_graph.prediction.held_out` allows to conclude.

    Parameters
    ----------
    table : DataFrame

    Returns
    -------
    str
    """
    left_out = str(table["left_out"].iloc[0]) if len(table) else "group"
    whole = table[(table["group"] == "all") & (table["model"] != GAIN)].set_index("model")["tau"]
    if "metrics" not in whole or not math.isfinite(whole["metrics"]):
        word = table.loc[table["model"] == "metrics", "note"].iloc[0] if len(table) else "no_features"
        return f"Nothing can be said about a {left_out} that was not seen ({word})."
    density = max((v for k, v in whole.items() if k != "metrics" and math.isfinite(v)), default=math.nan)
    found = f"Of a {left_out} left out, all metrics order the runs with a mean Kendall tau of {whole['metrics']:+.2f}"
    if not math.isfinite(density):
        return f"{found}; density is the same in all of these runs and orders nothing."
    gain = table[(table["group"] == "all") & (table["model"] == GAIN)].iloc[0]
    if max(whole["metrics"], density) < 0.1:
        verdict = "neither orders them"
    else:
        own = table[(table["group"] == "all") & (table["model"] == "metrics")].iloc[0]
        more = gain["lo"] > 0 and own["lo"] > 0  # not where density alone orders the wrong way round
        verdict = f"{'more' if more else 'less' if gain['hi'] < 0 else 'no more'} than density tells"
    between = (
        f" (difference {gain['tau']:+.2f} [{gain['lo']:+.2f}, {gain['hi']:+.2f}])" if gain["lo"] == gain["lo"] else ""
    )
    return f"{found}, density and sparsity with {density:+.2f}{between}: {verdict}."
