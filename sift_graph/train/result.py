"""What a run directory of the trainer says about itself: its configuration, and its result once it is finished."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sift_graph.errors import DamagedStoreError, RunDirectoryError
from sift_graph.store import RunReader, is_run, write_atomically
from sift_graph.train.checkpoint import CHECKPOINT, load_checkpoint
from sift_graph.train.config import Config
from sift_graph.train.config_file import to_toml

__all__ = ["CONFIG", "DONE", "RunResult", "check_same_run", "finished", "flat", "mark_finished", "own_checkpoint"]

CONFIG = "config.toml"
DONE = "done.json"
KEYS = {"config", "step", "row", "model", "optimizer", "masks"}


@dataclass(frozen=True)
class RunResult:
    """What a finished run came to.

    Attributes
    ----------
    run_dir : Path
    steps : int
        Optimizer updates.
    val_accuracy, val_loss : float
        After the last epoch.
    ratio : float
        MACs over those of the dense model, at the end: 1 is iso-FLOP.
    effective_sparsity : float
        Fraction of zeros in the masked layers, at the end.
    seconds : float
        Wall time of the training; that of the last part only, where it was resumed.
    """

    run_dir: Path
    steps: int
    val_accuracy: float
    val_loss: float
    ratio: float
    effective_sparsity: float
    seconds: float

    def summary(self) -> dict[str, Any]:
        """Give the fields as JSON has them."""
        return {**asdict(self), "run_dir": str(self.run_dir)}

    def headline(self) -> str:
        """Say in a line what the run came to."""
        return (
            f"{self.run_dir}: {self.steps} steps in {self.seconds:.1f} s, validation accuracy {self.val_accuracy:.4f}; "
            f"{self.ratio:.4f} of the dense model's MACs at sparsity {self.effective_sparsity:.5f}"
        )


def mark_finished(result: RunResult) -> None:
    """Write the result beside the run; this is the last file that a run writes."""
    content = {name: value for name, value in result.summary().items() if name != "run_dir"}
    write_atomically(result.run_dir / DONE, (json.dumps(content) + "\n").encode())


def finished(run_dir: Path) -> RunResult | None:
    """Read the result of a run that is finished; None of one that is not."""
    try:
        return RunResult(run_dir=run_dir, **json.loads((run_dir / DONE).read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise RunDirectoryError(
            f"{run_dir / DONE}: cannot be read ({error}); remove it to go on with the run"
        ) from error


def check_same_run(config: Config, run_dir: Path) -> None:
    """Refuse to resume a run of another configuration.

    Parameters
    ----------
    config : Config
    run_dir : Path

    Raises
    ------
    RunDirectoryError
        Naming the first key in which they differ.
    """
    path = run_dir / CONFIG
    if not path.exists():
        if is_run(run_dir) and RunReader(run_dir).steps:
            raise RunDirectoryError(
                f"{run_dir}: holds a run that this trainer did not make (no {CONFIG}); nothing was changed. "
                "Choose another directory"
            )
        return
    if odd := difference(path.read_text(encoding="utf-8"), config):
        raise RunDirectoryError(
            f"{run_dir}: holds a run of another configuration: {odd}; nothing was changed. Choose another directory, "
            "or ask for the same configuration"
        )


def own_checkpoint(config: Config, run_dir: Path) -> dict[str, Any] | None:
    """Read the checkpoint of a run that is to go on.

    Parameters
    ----------
    config : Config
    run_dir : Path

    Returns
    -------
    dict or None
        None if there is none yet.

    Raises
    ------
    DamagedStoreError
        If the file is no checkpoint of this trainer.
    RunDirectoryError
        If it is one of another configuration.
    """
    path = run_dir / CHECKPOINT
    state = load_checkpoint(path)
    if state is None:
        return None
    if not isinstance(state, dict) or not state.keys() >= KEYS:
        raise DamagedStoreError(
            f"{path}: is not a checkpoint of this trainer (expected {', '.join(sorted(KEYS))} in it); remove it to "
            "begin the run again"
        )
    if odd := difference(state["config"], config):
        raise RunDirectoryError(
            f"{path}: is a checkpoint of another configuration: {odd}; nothing was changed. Put the run's own there, "
            "or remove it to begin the run again"
        )
    return state


def difference(toml: str, config: Config) -> str:
    """Say the first key in which a written configuration is another one.

    A key that was not there yet when it was written has its default.

    Parameters
    ----------
    toml : str
    config : Config

    Returns
    -------
    str
        Empty where they are the same.
    """
    try:
        written = tomllib.loads(toml)
    except tomllib.TOMLDecodeError as error:
        return f"what is there is not TOML ({error})"
    there = dict(flat(tomllib.loads(to_toml(Config())))) | dict(flat(written))
    here = dict(flat(tomllib.loads(to_toml(config))))
    for key in [*here, *there]:
        if there.get(key) != here.get(key):
            found, wanted = (f"{key} = {json.dumps(side[key])}" if key in side else "" for side in (there, here))
            return f"{found!r} there, {wanted!r} asked for"
    return ""


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested mappings."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
