"""The work of whole-network metrics: all masks of a step at once, computed once and kept beside the rows of layers.

Each finished step is appended to ``analysis/<hash of settings>/network.jsonl`` of its run. The graph is the one that
the run recorded; without one it is guessed from the layers.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sift_graph.errors import SiftGraphError
from sift_graph.metrics import NETWORK_METRICS, Metric, evaluate
from sift_graph.metrics.cross_layer import cross_layer_pairs
from sift_graph.metrics.network import Network
from sift_graph.network_graph import NetworkGraph, infer_graph
from sift_graph.parallel import one_thread, unordered
from sift_graph.store import RunReader, read_rows

__all__ = ["NetworkRow", "load_network", "measure_networks"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """Work for one process: the network of a run at one step."""

    run_dir: Path
    step: int
    names: tuple[str, ...]
    key: str
    added: tuple[Metric, ...] = ()


@dataclass(frozen=True)
class NetworkRow:
    """What was found for a network at one step.

    Attributes
    ----------
    step : int
    values : dict
        A value for each metric, and ``network_note``; empty if it failed.
    pairs : list of dict
        As :func:`sift_graph.metrics.cross_layer.cross_layer_pairs`.
    message : str
        Why it failed.
    """

    step: int
    values: Mapping[str, Any]
    pairs: Sequence[Mapping[str, Any]] = ()
    message: str = ""


def load_network(reader: RunReader, step: int, *, weights: bool = True) -> Network:
    """Load all masks of a step onto the graph of their run.

    Parameters
    ----------
    reader : RunReader
    step : int
    weights : bool

    Returns
    -------
    Network
    """
    entries = reader.entries(step)
    recorded = reader.header.get("graph")
    if isinstance(recorded, Mapping):
        graph = NetworkGraph.from_record(recorded, where=str(reader.run_dir / "sift.json"))
    else:
        graph = infer_graph(entries)
    return Network(graph, reader.load_snapshot(step, weights=weights).layers)


def measure_step(unit: Step) -> tuple[Step, NetworkRow]:
    """Measure one step; a failure is returned, not raised."""
    try:
        for metric in unit.added:
            NETWORK_METRICS.setdefault(metric.name, metric)
        metrics = [NETWORK_METRICS[name] for name in unit.names]
        with one_thread():
            network = load_network(RunReader(unit.run_dir), unit.step, weights=any(m.needs != "mask" for m in metrics))
            values = evaluate(network, metrics)
            values["network_note"] = values.pop("note")
            paired = any(name.startswith("mean_") for name in unit.names)
            return unit, NetworkRow(unit.step, values, cross_layer_pairs(network) if paired else ())
    except SiftGraphError as error:
        return unit, NetworkRow(unit.step, {}, message=str(error))
    except Exception as error:  # a bug in one step must not lose the others
        logger.exception("%s, step %s", unit.run_dir, unit.step)
        return unit, NetworkRow(unit.step, {}, message=f"unexpected {type(error).__name__}: {error}")


def measure_networks(
    reader: RunReader,
    steps: Sequence[int],
    names: Sequence[str],
    directory: Path,
    *,
    jobs: int = 1,
    scheduler: str | None = None,
    force: bool = False,
) -> list[NetworkRow]:
    """Measure the network of a run at some steps.

    Parameters
    ----------
    reader : RunReader
    steps : sequence of int
    names : sequence of str
        Of :data:`sift_graph.metrics.NETWORK_METRICS`.
    directory : Path
        Where finished steps are kept.
    jobs : int
    scheduler : str, optional
    force : bool
        Compute again what was kept.

    Returns
    -------
    list of NetworkRow
        By step.
    """
    kept = {} if force else read_kept(directory / "network.jsonl", names)
    found: dict[int, NetworkRow] = {}
    units = []
    added = tuple(NETWORK_METRICS[n] for n in names if NETWORK_METRICS[n].origin != "sift_graph")
    for step in steps:
        try:
            key = step_key(reader, step)
        except SiftGraphError as error:
            found[step] = NetworkRow(step, {}, message=str(error))
            continue
        if step in kept and kept[step][0] == key:
            found[step] = kept[step][1]
        else:
            units.append(Step(reader.run_dir, step, tuple(names), key, added))
    alone = len(units) < 2 or (jobs == 1 and scheduler is None)
    done = map(measure_step, units) if alone else unordered(measure_step, units, jobs=jobs, scheduler=scheduler)
    for unit, row in done:
        found[unit.step] = row
        if not row.message:
            keep(directory / "network.jsonl", unit.key, row)
    return [found[step] for step in sorted(found)]


def step_key(reader: RunReader, step: int) -> str:
    """Name what the network of a step depends on."""
    hashes = [(e["name"], e["xxh3"], e.get("weight_xxh3"), e["shape"], e["groups"]) for e in reader.entries(step)]
    text = json.dumps([hashes, reader.header.get("graph")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def read_kept(path: Path, names: Sequence[str]) -> dict[int, tuple[str, NetworkRow]]:
    """Read finished steps; a line that a crash cut short, or of other metrics, is passed over."""
    found: dict[int, tuple[str, NetworkRow]] = {}
    for _, row in read_rows(path):
        try:
            if row is None:
                continue
            values = {name: missing(name) if row["values"][name] is None else row["values"][name] for name in names}
            if not all(isinstance(value, type(missing(name)) | int | float) for name, value in values.items()):
                continue
            values["network_note"] = str(row["values"]["network_note"])
            pairs = [{k: math.nan if v is None else v for k, v in pair.items()} for pair in row["pairs"]]
            found[int(row["step"])] = (str(row["key"]), NetworkRow(int(row["step"]), values, pairs))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            continue  # of an older layout, or not ours: computed again
    return found


def missing(name: str) -> Any:
    """Give what stands for an undefined value of a metric."""
    return NETWORK_METRICS[name].missing


def keep(path: Path, key: str, row: NetworkRow) -> None:
    """Append a finished step; where nothing can be written it is computed again next time."""

    def clean(values: Mapping[str, Any]) -> dict[str, Any]:
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}

    line = {"step": row.step, "key": key, "values": clean(row.values), "pairs": [clean(pair) for pair in row.pairs]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
    except OSError as error:
        logger.debug("%s: cannot be written (%s)", path, error)
