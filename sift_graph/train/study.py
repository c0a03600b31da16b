"""Studies: a grid of configurations and seeds, trained in several processes, resumable.

A study is a TOML file::

    seeds = [0, 1]                    # or a number of seeds: 2
    preset = "shapes"                 # what [config] changes; may be left out
    [grid]                            # lists; every combination is a run
    family = ["dense", "sparse_wide"]
    sparsity = [0.5, 0.9]
    method = ["static", "rigl"]
    [config]                          # what all runs have in common
    data.name = "digits"

The dense family has neither sparsity nor masks: it is trained once for each seed and each combination of the rest.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sift_graph.errors import RunDirectoryError, SiftGraphError, UsageError, did_you_mean
from sift_graph.ift.families import FAMILIES
from sift_graph.parallel import unordered
from sift_graph.train.check import check_device
from sift_graph.train.config import Config
from sift_graph.train.config_file import from_mapping, put, read_preset, read_toml
from sift_graph.train.loop import run
from sift_graph.train.progress import Progress, reporting
from sift_graph.train.result import RunResult, check_same_run, finished, flat

__all__ = ["FailedRun", "SweepResult", "load_study", "sweep"]

logger = logging.getLogger(__name__)

RESULTS = "results.jsonl"
KEYS = ("seeds", "preset", "grid", "config")


@dataclass(frozen=True)
class FailedRun:
    """A run that did not finish.

    Attributes
    ----------
    run_dir : Path
    error : str
        One line for an error of sift_graph, a traceback for any other.
    """

    run_dir: Path
    error: str

    def __str__(self) -> str:
        return f"{self.run_dir.name}: {self.error}"


@dataclass(frozen=True)
class SweepResult:
    """What became of a study.

    Attributes
    ----------
    finished : list of RunResult
        Trained now.
    skipped : list of RunResult
        Found finished.
    failed : list of FailedRun
    """

    finished: list[RunResult]
    skipped: list[RunResult]
    failed: list[FailedRun]


def load_study(path: str | os.PathLike[str]) -> dict[str, Config]:
    """Read a study.

    Parameters
    ----------
    path : path
        A TOML file with ``seeds``, ``preset``, ``[grid]`` and ``[config]``, each of which may be left out.

    Returns
    -------
    dict of str to Config
        By the name of the run, which is the name of its directory: ``dense-seed0``,
        ``sparse_wide-s0.9-rigl-seed0``; other keys of the grid follow as ``-key=value``.

    Raises
    ------
    UsageError
        If the file is not a study, or any of its configurations does not fit.
    """
    study = read_toml(path)
    where = f"{path}: "
    for key in study:
        if key not in KEYS:
            raise UsageError(f"{where}unknown key {key!r}{did_you_mean(key, KEYS)}")
    seeds = study.get("seeds", [0])
    seeds = list(range(seeds)) if type(seeds) is int else seeds
    if not isinstance(seeds, list) or not seeds or any(type(seed) is not int for seed in seeds):
        raise UsageError(f"{where}seeds: expected a list of numbers or how many, found {study['seeds']!r}")
    grid = dict(flat(study.get("grid", {})))
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise UsageError(f"{where}grid.{key}: expected a list of values, found {values!r}")
    base = dict(flat(read_preset(study["preset"]))) if "preset" in study else {}
    base |= flat(study.get("config", {}))
    if "seed" in grid or "seed" in base:
        raise UsageError(f"{where}seed: name the seeds of a study once, as seeds = [0, 1]")
    configs: dict[str, Config] = {}
    for values in itertools.product(*grid.values()):
        chosen = dict(zip(grid, values, strict=True))
        for seed in seeds:
            name, config = one_run(base, chosen, seed, where)
            configs.setdefault(name, config)
    return configs


def one_run(base: Mapping[str, Any], chosen: Mapping[str, Any], seed: int, where: str) -> tuple[str, Config]:
    """Name and configuration of one combination; a family without masks drops what only masks are concerned by."""
    merged = {**base, **chosen, "seed": seed}
    family = FAMILIES.get(merged.get("family", "dense"))
    if family is None or family.is_masked:
        config = configured(merged, where)
        parts = [config.family, f"s{config.sparsity:g}", config.method]
    else:
        masked = next(name for name in FAMILIES if FAMILIES[name].is_masked)
        configured({**merged, "family": masked}, where)  # so that a slip in what is dropped is found
        chosen = {name: value for name, value in chosen.items() if not name.startswith("masks.")}
        merged = {**base, **chosen, "seed": seed}
        config = configured({key: merged[key] for key in merged if key not in ("sparsity", "method")}, where)
        parts = [config.family]
    parts += [f"{name}={value}" for name, value in chosen.items() if name not in ("family", "sparsity", "method")]
    return "-".join([*parts, f"seed{seed}"]).replace("/", "_").replace(" ", ""), config


def configured(merged: Mapping[str, Any], where: str) -> Config:
    """Make a configuration of dotted names."""
    values: dict[str, Any] = {}
    for name, value in merged.items():
        put(values, name, value, where)
    return from_mapping(values, where=where)


def sweep(
    study_toml: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    jobs: int = 1,
    progress: Progress = False,
) -> SweepResult:
    """Train every run of a study that is not finished yet.

    Parameters
    ----------
    study_toml : path
        See :func:`load_study`.
    out : path
        Gets a directory a run and ``results.jsonl``, a line for each run that finished or failed.
    jobs : int
        Processes; -1 for one a core. The results do not depend on it.
    progress : bool or callable
        True for a bar on stderr where that is a terminal; a callable is called as ``progress(runs, all_runs)`` after
        each run.

    Returns
    -------
    SweepResult
        A run that fails is listed with its error, and does not stop the others.

    Raises
    ------
    UsageError
        If the study does not fit; nothing is trained then.
    RunDirectoryError
        If `out` is a file.
    """
    configs = load_study(study_toml)
    for device in {config.training.device for config in configs.values()}:
        check_device(device, where=f"{study_toml}: ")
    root = Path(out)
    if root.exists() and not root.is_dir():
        raise RunDirectoryError(f"{root}: is a file; name a directory for the runs of the study")
    root.mkdir(parents=True, exist_ok=True)
    outcome: dict[str, tuple[str, RunResult | FailedRun]] = {}
    todo = []
    for name, config in configs.items():
        try:
            check_same_run(config, root / name)
            earlier = finished(root / name)
        except SiftGraphError as error:
            failed = FailedRun(root / name, str(error))
            append_result(root / RESULTS, name, failed)
            outcome[name] = ("failed", failed)
            continue
        if earlier is None:
            todo.append((name, config))
        else:
            outcome[name] = ("skipped", earlier)
    jobs = min(jobs, max(len(todo), 1)) if jobs > 0 else jobs
    with reporting(progress, root.name) as report:
        report(len(outcome), len(configs))
        for name, status, what in shared_out([(name, config, root / name) for name, config in todo], jobs=jobs):
            outcome[name] = (status, what)
            append_result(root / RESULTS, name, what)
            report(len(outcome), len(configs))
    ordered = [outcome[name] for name in configs]
    return SweepResult(
        finished=[what for status, what in ordered if status == "finished" and isinstance(what, RunResult)],
        skipped=[what for status, what in ordered if status == "skipped" and isinstance(what, RunResult)],
        failed=[what for _, what in ordered if isinstance(what, FailedRun)],
    )


def append_result(path: Path, name: str, what: RunResult | FailedRun) -> None:
    """Append a line on a run that has just ended."""
    row: dict[str, Any] = {"run": name, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    if isinstance(what, RunResult):
        row |= {"status": "finished", **what.summary()}
        del row["run_dir"]
    else:
        row |= {"status": "failed", "error": what.error}
        logger.warning("%s failed: %s", name, what.error)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


Work = tuple[str, Config, Path]
Outcome = tuple[str, str, RunResult | FailedRun]


def shared_out(work: Sequence[Work], *, jobs: int) -> Iterator[Outcome]:
    """Train runs here, or in several processes; outcomes come as they are ready."""
    return map(attempt, work) if jobs == 1 else unordered(attempt, work, jobs=jobs)


def attempt(work: Work) -> Outcome:
    """Train one run, in whatever process; an error becomes a result."""
    name, config, run_dir = work
    try:
        return name, "finished", run(config, run_dir, resume=True)
    except SiftGraphError as error:
        return name, "failed", FailedRun(run_dir, str(error))
    except Exception:
        return name, "failed", FailedRun(run_dir, traceback.format_exc())
