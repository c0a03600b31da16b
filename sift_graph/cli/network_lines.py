"""The whole network at its last step, as the terminal shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sift_graph.cli.output import Column, number, print_table, sparkline

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["print_network"]


def print_network(frame: pd.DataFrame) -> None:
    """Print what was asked of one run's network: a row for each metric, with its trend over training.

    Parameters
    ----------
    frame : DataFrame
        The network frame; nothing is printed if it has no metric of the network.
    """
    from sift_graph.metrics import NETWORK_METRICS

    names = [name for name in NETWORK_METRICS if name in frame]
    if not names or frame.empty:
        return
    frame = frame.sort_values("step")
    last = frame.iloc[-1]
    words = last.get("network_note")
    title = f"whole network   step {int(last['step'])}" + (f"; {words}" if isinstance(words, str) and words else "")
    columns = [Column("metric", "left"), Column("value"), Column("trend", "left", rank=1)]
    rows = []
    for name in names:
        value = last[name]
        numeric = NETWORK_METRICS[name].missing is not None
        whole = numeric and value == value and float(value).is_integer()
        trend = sparkline(frame[name].astype(float).tolist()) if numeric else ""
        rows.append([name, number(int(value) if whole else value), trend])
    print_table(columns, rows, title=title)
