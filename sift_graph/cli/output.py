"""How things look: tables, sparklines, progress, errors. Rich is loaded when the first line is printed."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

__all__ = [
    "Column",
    "JsonOption",
    "complain",
    "console",
    "note",
    "number",
    "percent",
    "print_json",
    "print_table",
    "progress_bar",
    "records",
    "sparkline",
]

JsonOption = Annotated[bool, typer.Option("--json", help="JSON on stdout, and nothing else.", rich_help_panel="Output")]
BLOCKS = "▁▂▃▄▅▆▇█"


def console(*, stderr: bool = False) -> Console:
    """Return a console on stdout or stderr; what is not a terminal gets wide, plain lines."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else 200
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=stderr, emoji=False, markup=False)


def complain(message: str) -> None:
    """Print one error on stderr."""
    console(stderr=True).print(f"sift-graph: {message}")


def note(message: str) -> None:
    """Print something that is not data on stderr."""
    console(stderr=True).print(message)


def number(value: Any, digits: int = 3) -> str:
    """Format a number to so many digits after the point; what is undefined is a dash.

    Parameters
    ----------
    value : object
    digits : int

    Returns
    -------
    str

    Examples
    --------
    >>> number(1234567), number(0.51234), number(float("nan"))
    ('1,234,567', '0.512', '–')
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, str):
        return value
    if float(value).is_integer() and not isinstance(value, float):
        return f"{int(value):,}"
    text = f"{float(value):.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


def percent(value: Any) -> str:
    """Format a share as a whole percentage."""
    return "–" if value is None or math.isnan(value) else f"{value:.0%}"


def sparkline(values: Sequence[float], width: int = 12) -> str:
    """Draw a trend in one line of text, from its lowest to its highest value.

    Parameters
    ----------
    values : sequence of float
        In order of time; NaN draws a blank.
    width : int
        Characters at most; more values are sampled evenly, first and last kept.

    Returns
    -------
    str
        Empty for fewer than two values; flat for a constant.

    Examples
    --------
    >>> sparkline([0, 1, 2, 3])
    '▁▃▆█'
    """
    if len(values) < 2:
        return ""
    if len(values) > width:
        values = [values[round(i * (len(values) - 1) / (width - 1))] for i in range(width)]
    good = [v for v in values if math.isfinite(v)]
    if not good:
        return ""
    low, high = min(good), max(good)
    span = high - low
    if span <= 1e-12 * max(abs(low), abs(high), 1e-300):
        return "".join("▄" if math.isfinite(v) else " " for v in values)
    top = len(BLOCKS) - 1
    return "".join(BLOCKS[round((v - low) / span * top)] if math.isfinite(v) else " " for v in values)


@dataclass(frozen=True)
class Column:
    """A column of a printed table: its heading, its side, and how soon it goes where the terminal is narrow."""

    heading: str
    justify: Literal["left", "right"] = "right"
    rank: int = 0


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, title: str | None = None) -> None:
    """Print rows under headings, never a number cut in half.

    A column without any text is left out. Where the terminal is too narrow for the rest, the columns of the highest
    rank are left out, and a line on stderr names them.

    Parameters
    ----------
    columns : sequence of Column
        Those of rank 0 stay whatever happens.
    rows : sequence of sequences of str
    title : str, optional
    """
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    out = console()
    widths = [max([cell_len(c.heading), *(cell_len(row[i]) for row in rows)]) for i, c in enumerate(columns)]
    shown = [i for i in range(len(columns)) if columns[i].rank == 0 or any(row[i] for row in rows)]
    left_out: list[str] = []
    while sum(widths[i] + 3 for i in shown) - 3 > out.width and any(columns[i].rank for i in shown):
        worst = max(shown, key=lambda i: columns[i].rank)
        left_out.insert(0, columns[worst].heading)
        shown.remove(worst)
    table = Table(
        box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="", pad_edge=False, show_edge=False
    )
    for i in shown:
        table.add_column(columns[i].heading, justify=columns[i].justify, overflow="fold")
    colours = {"yes": "green", "no": "red", "undecided": "yellow"}
    for row in rows:
        table.add_row(*(Text(row[i], style=colours.get(row[i], "")) for i in shown))
    out.print(table)
    if left_out:
        note(f"left out on {out.width} columns: {', '.join(left_out)}")


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Turn a frame into JSON records: numpy scalars to Python's, what is undefined to null."""
    return [{str(k): _plain(v) for k, v in row.items()} for row in frame.to_dict("records")]


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool):
        return value
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def print_json(content: Any) -> None:
    """Print one JSON value on stdout, and nothing else."""
    sys.stdout.write(json.dumps(content, indent=1, allow_nan=False) + "\n")


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show progress on stderr: a bar on a terminal, else a line each 10 %.

    Parameters
    ----------
    what : str
        What is going on.

    Yields
    ------
    callable
        To be called with what is done and what there is in all.
    """
    if sys.stderr.isatty() and not os.environ.get("SIFT_GRAPH_NO_PROGRESS"):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        parts = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*parts, console=console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=None)

            def show(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)

            yield show
        return
    last = 0

    def tell(done: int, total: int) -> None:
        nonlocal last
        tenth = 10 * done // total if total else 10
        if tenth > last and not os.environ.get("SIFT_GRAPH_NO_PROGRESS"):
            last = tenth
            note(f"{what}: {done} of {total}")

    yield tell
