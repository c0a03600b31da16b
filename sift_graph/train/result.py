"""What a run directory of the trainer says about itself: its configuration, and its result once it is finished."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sift_graph.errors import RunDirectoryError
from sift_graph.store import RunReader, is_run, write_atomically
from sift_graph.train.config import Config
from sift_graph.train.config_file import to_toml

__all__ = ["CONFIG", "DONE", "RunResult", "check_same_run", "finished", "mark_finished"]

CONFIG = "config.toml"
DONE = "done.json"


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
        Naming the first line in which they differ.
    """
    path = run_dir / CONFIG
    if not path.exists():
        if is_run(run_dir) and RunReader(run_dir).steps:
            raise RunDirectoryError(
                f"{run_dir}: holds a run that this trainer did not make (no {CONFIG}); nothing was changed. "
                "Choose another directory"
            )
        return
    there, here = path.read_text().splitlines(), to_toml(config).splitlines()
    if there != here:
        pairs = [(a, b) for a, b in zip(there, here, strict=False) if a != b] or [("(another set of keys)", "")]
        raise RunDirectoryError(
            f"{run_dir}: holds a run of another configuration: {pairs[0][0]!r} there, {pairs[0][1]!r} asked for; "
            "nothing was changed. Choose another directory, or ask for the same configuration"
        )
