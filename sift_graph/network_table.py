"""Values of whole networks, put beside the means over layers: columns of the network frame, and a frame of pairs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from sift_graph.errors import UsageError
from sift_graph.metrics import NETWORK_METRICS
from sift_graph.network_work import NetworkRow, measure_networks
from sift_graph.work import Failure, Plan, select_steps

__all__ = ["measure_all_networks", "pairs_frame", "with_networks"]

Networks = dict[tuple[str, int], NetworkRow]


def measure_all_networks(
    plans: Sequence[Plan], names: Sequence[str], steps: str | Iterable[int] | None, **options: Any
) -> Networks:
    """Measure the network of each run at each asked step; what fails is listed with the run's failures."""
    found: Networks = {}
    if not names:
        return found
    for plan in plans:
        try:
            wanted = select_steps(plan.reader.steps, steps)
        except UsageError:  # said already
            continue
        for row in measure_networks(plan.reader, wanted, names, plan.directory, **options):
            found[plan.name, row.step] = row
            known = any(f.step == row.step and not f.layer for f in plan.failures)
            if row.message and not known:
                plan.failures.append(Failure(plan.name, row.step, "", row.message))
    return found


def with_networks(frame: pd.DataFrame, found: Networks, names: Sequence[str]) -> pd.DataFrame:
    """Put the values of whole networks beside the means over layers, and a note for them."""
    if not names or frame.empty:
        return frame
    rows = [found.get((str(run), int(step))) for run, step in zip(frame["run"], frame["step"], strict=True)]
    for name in (*names, "network_note"):
        absent = "" if name == "network_note" else NETWORK_METRICS[name].missing
        frame[name] = [absent if row is None else row.values.get(name, absent) for row in rows]
    return frame


def pairs_frame(found: Networks) -> pd.DataFrame:
    """Pairs of layers of which the second reads the first, a row for each pair at each step."""
    return pd.DataFrame(
        [{"run": run, "step": step, **pair} for (run, step), row in found.items() for pair in row.pairs]
    )
