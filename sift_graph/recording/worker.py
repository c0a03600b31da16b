"""Measure snapshots on request: ``python -m sift_graph.recording.worker [METRIC ...]``, started by the recorder.

Reads a line ``{"run_dir": ..., "step": ...}`` each from standard input, and answers each with one on standard output:
``{"layers": {layer: {metric: value}}}`` or ``{"error": message}``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

__all__ = ["main"]


def main(names: list[str]) -> None:
    """Answer until the input ends.

    Parameters
    ----------
    names : list of str
        Metrics; the core if empty.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training, which closes our input in its own time
    if hasattr(os, "nice"):
        os.nice(10)
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a plugin prints must not look like an answer
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer: dict[str, Any] = {"layers": measured(Path(request["run_dir"]), request["step"], names)}
        except Exception as error:  # told to the recorder, which warns: one snapshot must not cost the others
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def measured(run_dir: Path, step: int, names: list[str]) -> dict[str, dict[str, Any]]:
    """Measure one snapshot.

    Parameters
    ----------
    run_dir : Path
    step : int
    names : list of str
        As :func:`main`.

    Returns
    -------
    dict of str to dict
        By layer, in network order: a value for each metric, None where it is not defined, and ``note`` where it says
        something.
    """
    from sift_graph.graph import BipartiteGraph
    from sift_graph.metrics import CORE, measure_layer
    from sift_graph.store import RunReader
    from sift_graph.store.writer import finite, plain

    snapshot = RunReader(run_dir).load_snapshot(step)
    found = {}
    for mask in snapshot:
        values = measure_layer(BipartiteGraph.from_mask(mask), names or CORE)
        if not values["note"]:
            del values["note"]
        found[mask.layer] = json.loads(json.dumps(finite(values), default=plain))
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
