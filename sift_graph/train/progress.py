"""Telling how far a run or a study is: a bar on a terminal, or a function of the caller's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Progress", "Report", "reporting"]

Report = Callable[[int, int], None]
Progress = bool | Report


@contextmanager
def reporting(progress: Progress, what: str) -> Iterator[Report]:
    """Make the function that is called with what is done and what there is in all.

    Parameters
    ----------
    progress : bool or callable
        A callable is used as it is. True draws a bar on stderr if that is a terminal.
    what : str
        Stands before the bar.

    Yields
    ------
    callable
        ``report(done, total)``.
    """
    if callable(progress):
        yield progress
    elif progress and sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        yield lambda done, total: None
