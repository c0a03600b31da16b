"""What the head of a report says: facts about the runs, and verdicts in plain words with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sift_graph.correlate import conclude
from sift_graph.plot_frames import MIN_FOR_INTERVAL, half_width, levels, methods_in_order, sparse_runs
from sift_graph.plots import label
from sift_graph.report_nulls import null_findings

__all__ = ["Card", "cards", "facts", "last_snapshot", "number", "signed"]


@dataclass(frozen=True)
class Card:
    """One verdict: a number, what it is of, a line per part, and a sentence."""

    name: str
    heading: str
    value: str
    unit: str
    text: str
    lines: tuple[tuple[str, str], ...] = ()
    bar: tuple[tuple[str, float], ...] = ()  # shares that sum to 1, by verdict


def number(value: Any, digits: int = 3) -> str:
    """Write a number with a real minus sign; a dash where there is none."""
    if value is None or not math.isfinite(float(value)):
        return "–"
    return f"{float(value):z.{digits}f}".replace("-", "−")


def signed(value: Any, digits: int = 3) -> str:
    """Write a number with its sign, which zero has none of."""
    if value is None or not math.isfinite(float(value)):
        return "–"
    text = f"{float(value):+z.{digits}f}".replace("-", "−")
    return text if text.strip("+0.") else text[1:]


def percent(share: float) -> str:
    """Write a share as whole percent, never rounding something to nothing or to everything."""
    if 0 < share < 0.005:
        return "< 1 %"
    if 0.995 <= share < 1:
        return "> 99 %"
    return f"{100 * share:.0f} %"


def last_snapshot(frame: pd.DataFrame) -> pd.DataFrame:
    """Take the rows of each run's last step."""
    if not len(frame):
        return frame
    return frame[frame["step"] == frame.groupby("run")["step"].transform("max")]


def facts(layers: pd.DataFrame, network: pd.DataFrame, target: str) -> list[tuple[str, str]]:
    """Count what was analysed.

    Parameters
    ----------
    layers, network : DataFrame
        As `sift_graph.table` makes them.
    target : str
        The training metric.

    Returns
    -------
    list of (str, str)
        Name and value.
    """
    runs, names = layers["run"].nunique(), layers["layer"].nunique()
    snapshots = len(layers[["run", "step"]].drop_duplicates())
    found = [
        ("runs", f"{runs}"),
        ("layers", f"{names}"),
        ("snapshots", f"{snapshots}"),
    ]
    found += [("families", _join(layers, "family")), ("methods", _join(sparse_runs(layers), "method"))]
    sparsities = levels(sparse_runs(layers), "sparsity")
    if sparsities:
        found.append(("sparsities", _shorten(f"{value:g}" for value in sparsities)))
    if "ramanujan_gap_norm" in layers:
        found.append(("gap defined", f"{percent(layers['ramanujan_gap_norm'].notna().mean())} of {len(layers)} rows"))
    sparse = sparse_runs(layers)
    if "imdb_norm" in layers:
        found.append(("IMDB defined", f"{percent(sparse['imdb_norm'].notna().mean())} of rows"))
    failed = int(network["n_failed"].sum()) if "n_failed" in network else 0
    if failed:
        found.append(("failed", f"{failed} layers, see warnings"))
    column = next((name for name in (f"final_{target}", target) if name in network), None)
    known = network.loc[network[column].notna(), "run"].nunique() if column else 0
    found.append((label(target), f"{known} of {runs} runs" if known else "not recorded"))
    return [(name, value) for name, value in found if value]


def _join(frame: pd.DataFrame, column: str) -> str:
    """List the values of a column."""
    found = levels(frame, column)
    return _shorten(methods_in_order(found) if column == "method" else found)


def _shorten(values: Iterable[Any], most: int = 6) -> str:
    """List some values, and say how many more there are."""
    words = [str(value) for value in values]
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def cards(
    layers: pd.DataFrame,
    network: pd.DataFrame,
    correlations: pd.DataFrame | None,
    target: str,
    nulls: pd.DataFrame | None = None,
) -> list[Card]:
    """Draw the verdicts that these frames allow.

    Parameters
    ----------
    layers, network : DataFrame
        As `sift_graph.table` makes them.
    correlations : DataFrame, optional
        As `sift_graph.correlate.correlate` returns it.
    target : str
        The training metric.
    nulls : DataFrame, optional
        Comparisons with random masks; the formula for a large random mask stands in where there are none.

    Returns
    -------
    list of Card
        The bound, the comparison with a random mask, the link to accuracy, and how far the masks moved.
    """
    rows = sparse_runs(layers)
    last = last_snapshot(rows)
    has_accuracy = any(name in network and network[name].notna().any() for name in (f"final_{target}", target))
    found = [
        _bound(last),
        (None if nulls is None else _compared(nulls, layers)) or _excess(rows, last),
        _link(correlations, target, network["run"].nunique(), has_accuracy),
        _movement(last),
    ]
    return [card for card in found if card is not None]


def _bound(last: pd.DataFrame) -> Card | None:
    """Count the layers within the Ramanujan bound."""
    if "is_ramanujan" not in last or not len(last):
        return None
    verdict = last["is_ramanujan"].astype(object).where(last["is_ramanujan"].notna(), "undefined")
    shares = {name: float((verdict == name).mean()) for name in ("yes", "undecided", "no", "undefined")}
    words = {"yes": "within", "undecided": "undecided", "no": "beyond", "undefined": "undefined"}
    rest = ", ".join(f"{percent(share)} {words[name]}" for name, share in shares.items() if name != "yes" and share)
    return Card(
        "bound",
        "Within the Ramanujan bound",
        percent(shares["yes"]),
        f"of {len(last)} layers" + (f" in {_runs(last)}" if last["run"].nunique() > 1 else ""),
        f"{rest[0].upper() + rest[1:] if rest else 'All of them'}. A layer counts as within or beyond only where the "
        "error bound of its σ₂ proves it; otherwise it is undecided.",
        bar=tuple((name, share) for name, share in shares.items() if share),
    )


def _excess(rows: pd.DataFrame, last: pd.DataFrame) -> Card | None:
    """Compare the normalised gap with that of a random mask, and with the run's own first mask."""
    if "excess_gap" not in last or not last["excess_gap"].notna().any():
        return None
    per_run = last.groupby("run")["excess_gap"].mean().dropna()
    mean, half = float(per_run.mean()), half_width(per_run.to_numpy(), 0.95)
    if len(per_run) < MIN_FOR_INTERVAL:
        words = (
            f"{'Above' if mean > 0 else 'Below'} the random reference; too few runs ({per_run.size}) for an interval."
        )
    elif abs(mean) <= half:
        words = "On average not distinguishable from the random reference."
    elif mean > 0:
        words = "On average the masks expand better than the random reference of their density."
    else:
        words = "On average the masks expand worse than the random reference: uneven degrees, or small layers."
    first = rows[rows["step"] == rows.groupby("run")["step"].transform("min")].groupby("run")["excess_gap"].mean()
    changes = (per_run - first).dropna()
    lines, moved = [], []
    for method in methods_in_order(levels(last, "method")):
        runs = last.loc[last["method"] == method, "run"].unique()
        values, change = per_run[per_run.index.isin(runs)], changes[changes.index.isin(runs)]
        if len(values):
            lines.append((str(method), _interval(values.to_numpy())))
        if len(change) and change.abs().max() > 1e-12:
            moved.append((f"{method}, change since the first mask", _interval(change.to_numpy())))
    gap = last["ramanujan_gap_norm"].mean() if "ramanujan_gap_norm" in last else math.nan
    random = last["random_gap_norm"].mean() if "random_gap_norm" in last else math.nan
    return Card(
        "excess",
        "Against a random mask",
        signed(mean),
        f"{_bracket(mean, half)} mean excess gap",
        f"{words} Normalised gap {number(gap)}, reference {number(random)}.",
        lines=(*(lines if len(lines) > 1 else ()), *moved),
    )


def _compared(nulls: pd.DataFrame, layers: pd.DataFrame) -> Card | None:
    """Count the layers whose gap random masks do not reach, or do not fall to."""
    found = null_findings(nulls, layers)
    if not found:
        return None
    main = found[0]
    return Card(
        "nulls",
        "Against random masks",
        percent((main.above + main.below) / main.layers),
        f"of {main.layers} layers differ from random masks of the {main.words}",
        f"{main.sentence} Each gap is compared with those of {main.samples} random masks; differing means p < 0.05, "
        "which chance alone gives one layer in twenty.",
        lines=tuple((one.words, f"mean z {signed(one.mean_z, 2)}") for one in found),
    )


def _link(table: pd.DataFrame | None, target: str, n_runs: int, has_accuracy: bool) -> Card:
    """Put the strongest pooled correlation beside the same with density held fixed."""
    name, heading = "link", f"Topology and {label(target)}"
    nothing = Card(name, heading, "–", "", "")
    if not has_accuracy:
        return Card(
            name,
            heading,
            "–",
            "not recorded",
            f"No run has a value of {label(target)}, so nothing is said about accuracy. Record it in metrics.jsonl "
            "beside the masks.",
        )
    if n_runs < 2:
        return Card(name, heading, "–", "one run", "One run has no correlation. Analyze a directory of several runs.")
    usable = (
        pd.DataFrame()
        if table is None
        else table[(table["statistic"] == "spearman") & (table["metric"] != "mean_density") & table["estimate"].notna()]
    )
    pooled = usable[usable["view"] == "pooled"] if len(usable) else usable
    if table is None or not len(pooled):
        words = "" if table is None else conclude(table[table["metric"] == table["metric"].iloc[0]]).partition(": ")[2]
        return Card(
            name, heading, nothing.value, "no correlation", words[:1].upper() + words[1:] or "None was computed."
        )
    best = pooled.iloc[int(pooled["estimate"].abs().to_numpy().argmax())]
    rows = table[table["metric"] == best["metric"]]
    lines = []
    for view, words in (("within sparsity", "at fixed sparsity"), ("partial given mean_density", "given mean density")):
        row = usable[(usable["view"] == view) & (usable["metric"] == best["metric"])]
        lines.append((words, _estimate(row.iloc[0]) if len(row) else "undefined"))
    density = table[
        (table["metric"] == "mean_density") & (table["view"] == "pooled") & (table["statistic"] == "spearman")
    ]
    if len(density) and math.isfinite(density["estimate"].iloc[0]):
        lines.append(("mean density itself, pooled", _estimate(density.iloc[0])))
    verdict = conclude(rows).rpartition(". ")[2]
    return Card(
        name,
        heading,
        f"ρ = {signed(best['estimate'], 2)}",
        f"[{signed(best['lo'], 2)}, {signed(best['hi'], 2)}] pooled, {label(str(best['metric']), short=True)}",
        f"{verdict} The strongest of {len(pooled)} metrics, so expect it to flatter; {int(best['n'])} runs.",
        lines=tuple(lines),
    )


def _movement(last: pd.DataFrame) -> Card | None:
    """Say how far the masks moved from the first."""
    if "itop_rate" not in last or not last["itop_rate"].notna().any():
        return None
    lines = []
    for method in methods_in_order(levels(last, "method")):
        rows = last[last["method"] == method]
        kept = rows["iou_first"].mean() if "iou_first" in rows else math.nan
        lines.append((str(method), f"{number(rows['itop_rate'].mean(), 2)}, IoU with first {number(kept, 2)}"))
    return Card(
        "movement",
        "How far the masks moved",
        number(last["itop_rate"].mean(), 2),
        "mean ITOP rate",
        "The share of weights that were ever active. A mask that never moves keeps it at its density.",
        lines=tuple(lines),
    )


def _runs(frame: pd.DataFrame) -> str:
    """Say how many runs."""
    n = frame["run"].nunique()
    return f"{n} run{'s' if n != 1 else ''}"


def _bracket(mean: float, half: float) -> str:
    """Write an interval."""
    return f"[{signed(mean - half)}, {signed(mean + half)}]" if half > 0 else ""


def _interval(values: np.ndarray) -> str:
    """Write a mean with its interval over runs."""
    mean = float(values.mean())
    return f"{signed(mean)} {_bracket(mean, half_width(values, 0.95))}".strip()


def _estimate(row: pd.Series) -> str:
    """Write a correlation with its interval."""
    return f"{signed(row['estimate'], 2)} [{signed(row['lo'], 2)}, {signed(row['hi'], 2)}]"
