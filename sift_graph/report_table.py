"""The table of a report: the last snapshot layer by layer, or its means where that is too long to read."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from sift_graph.report_cards import last_snapshot, number, signed

__all__ = ["MAX_ROWS", "Cell", "Table", "clean", "layer_table"]

MAX_ROWS = 200


@dataclass(frozen=True)
class Cell:
    """One cell: what is shown, what it is sorted by, and how it looks."""

    text: str
    key: str = ""
    kind: str = "number"  # number, name, verdict or note


@dataclass(frozen=True)
class Table:
    """Headings with their explanations, rows, and a sentence on what the rows are."""

    columns: tuple[tuple[str, str, str], ...]  # heading, explanation, kind
    rows: tuple[tuple[Cell, ...], ...]
    caption: str


_NUMBERS = (
    ("density", "density", "edges / (left × right)", 3, False),
    ("sigma_1", "σ₁", "largest singular value of the mask", 2, False),
    ("sigma_2", "σ₂", "second singular value, multiplicity counted", 2, False),
    ("bound", "bound", "biregular bound B on σ₂", 2, False),
    ("ramanujan_gap", "gap", "B − σ₂", 2, True),
    ("ramanujan_gap_norm", "norm. gap", "(B − σ₂) / B", 3, True),
    ("excess_gap", "excess", "normalised gap less that of a random mask", 3, True),
    ("imdb_norm", "IMDB", "normalised iterative mean difference of bound", 3, True),
    ("edge_coverage", "coverage", "share of edges in the subgraphs of IMDB", 2, False),
    ("weighted_spectral_gap", "weighted gap", "σ₁ − σ₂ of the absolute weights", 3, False),
    ("iou_first", "IoU first", "overlap with the first mask", 2, False),
    ("itop_rate", "ITOP", "share of weights ever active", 2, False),
)


def clean(text: object) -> str:
    """Replace what a page cannot show: control characters and line breaks."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def layer_table(layers: pd.DataFrame) -> Table:
    """Tabulate the last snapshot of each run.

    Parameters
    ----------
    layers : DataFrame
        One row per (run, step, layer).

    Returns
    -------
    Table
        A row per run and layer; above `MAX_ROWS`, means over runs per layer; above it again, means over layers too.
    """
    last = last_snapshot(layers)
    several = last["run"].nunique() > 1
    if len(last) <= MAX_ROWS:
        names = ["run"] if several else []
        caption = "Last snapshot of each run, a row per layer." if several else "Last snapshot, a row per layer."
        return _table(last, [*names, "layer"], caption)
    keys = [key for key in ("family", "sparsity", "method") if key in last and last[key].notna().any()]
    by_layer = _means(last, [*keys, "layer"])
    if len(by_layer) <= MAX_ROWS:
        caption = f"Means over runs of the last snapshot, a row per layer; {len(last)} rows were averaged."
        return _table(by_layer, [*keys, "layer"], caption)
    by_group = _means(last, keys or ["layer"])
    caption = f"Means over runs and layers of the last snapshot; {len(last)} rows were averaged."
    if len(by_group) > MAX_ROWS:
        caption += f" The first {MAX_ROWS} of {len(by_group)} groups."
    return _table(by_group.iloc[:MAX_ROWS], keys or ["layer"], caption + " Every row is in layers.csv.")


def _means(last: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Average the numbers of each group, and the verdicts as a share."""
    numbers = [name for name, *_ in _NUMBERS if name in last]
    frame = last.assign(layer=last["layer"].astype(str))
    grouped = frame.groupby(keys, sort=False, dropna=False)
    means = grouped[numbers].mean()
    means["rows"] = grouped.size()
    if "is_ramanujan" in frame:
        verdicts = frame.assign(_yes=frame["is_ramanujan"] == "yes")
        means["within"] = verdicts.groupby(keys, sort=False, dropna=False)["_yes"].mean()
    return means.reset_index()


def _table(frame: pd.DataFrame, keys: list[str], caption: str) -> Table:
    """Lay out the rows of a frame."""
    columns = [(key, "", "name") for key in keys]
    if "n_left" in frame:
        columns.append(("left × right", "inputs × kernel positions, by outputs", "number"))
    if "rows" in frame:
        columns.append(("rows", "layers and runs averaged", "number"))
    shown = [entry for entry in _NUMBERS if entry[0] in frame and frame[entry[0]].notna().any()]
    columns += [(heading, words, "number") for _, heading, words, _, _ in shown]
    if "within" in frame:
        columns.append(("within", "share of layers proven within the bound", "number"))
    if "is_ramanujan" in frame:
        columns.append(("within", "proven within the bound: yes, no or undecided", "verdict"))
    noted = "note" in frame and frame["note"].fillna("").astype(str).str.len().gt(0).any()
    if noted:
        columns.append(("note", "why a value is missing", "note"))
    rows = []
    for record in frame.to_dict("records"):
        cells = [_name(record[key]) for key in keys]
        if "n_left" in frame:
            cells.append(
                Cell(f"{record['n_left']:.0f} × {record['n_right']:.0f}", str(record["n_left"] * record["n_right"]))
            )
        if "rows" in frame:
            cells.append(Cell(str(record["rows"]), str(record["rows"])))
        for name, _, _, digits, with_sign in shown:
            value = record[name]
            finite = value is not None and math.isfinite(value)
            cells.append(Cell((signed if with_sign else number)(value, digits), repr(float(value)) if finite else ""))
        if "within" in frame:
            cells.append(Cell(number(record["within"], 2), str(record["within"])))
        if "is_ramanujan" in frame:
            verdict = record["is_ramanujan"] if isinstance(record["is_ramanujan"], str) else "–"
            cells.append(Cell(verdict, verdict, "verdict"))
        if noted:
            note = record["note"] if isinstance(record["note"], str) else ""
            cells.append(Cell(clean(note), note, "note"))
        rows.append(tuple(cells))
    return Table(tuple(columns), tuple(rows), caption)


def _name(value: object) -> Cell:
    """Lay out a name that a row belongs to."""
    if isinstance(value, float):
        return Cell(f"{value:g}" if math.isfinite(value) else "–", str(value), "name")
    return Cell(clean(value) if value is not None else "–", str(value), "name")
