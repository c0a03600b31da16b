"""Telling how far a run or a study is: a bar on a terminal, or a function of the caller's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["Progress", "reporting"]

Report = Callable[[Mapping[str, Any]], None]
Progress = bool | Report


def say_nothing(row: Mapping[str, Any]) -> None:
    """Take a row and leave it."""


@contextmanager
def reporting(progress: Progress, total: int, name: str, *, unit: str = "step") -> Iterator[Report]:
    """Make the function that is called with each row.

    Parameters
    ----------
    progress : bool or callable
        A callable is used as it is. True draws a bar on stderr if that is a terminal.
    total : int
        Value of ``row[unit]`` at the end.
    name : str
        Stands before the bar.
    unit : str

    Yields
    ------
    callable
        Takes a mapping.
    """
    if callable(progress):
        yield progress
        return
    if not progress or not sys.stderr.isatty():
        yield say_nothing
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task(name, total=total, note="")

        def report(row: Mapping[str, Any]) -> None:
            accuracy = row.get("val_accuracy")
            note = "" if accuracy is None else f"accuracy {accuracy:.3f}"
            bar.update(task, completed=float(row[unit]), note=note)

        yield report
