"""The recorder as a callback of transformers' ``Trainer``."""

from __future__ import annotations

import os
from typing import Any

from sift_graph.errors import UsageError
from sift_graph.integrations.following import Follower, takes_part

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_callback import ExportableState
except ImportError as error:
    raise UsageError(f'this callback needs {error.name}; pip install "sift-graph[hf]"') from error

__all__ = ["MaskRecorderCallback"]


class MaskRecorderCallback(Follower, TrainerCallback, ExportableState):
    """Record masks while a transformers ``Trainer`` trains.

    Parameters
    ----------
    run_dir : path
    part : str, optional
        Record this submodule only, and name layers from there.
    masks : optional
        Where the masks are, if they are not found (:meth:`sift_graph.MaskRecorder.attach`).
    **options
        Of :class:`sift_graph.MaskRecorder`.

    Notes
    -----
    ``Trainer`` has no hook for errors: after one, what was handed on is written when the callback is collected or the
    interpreter ends, without a last snapshot. ``restore_callback_states_from_checkpoint`` is not needed to go on, and
    makes this callback again from what JSON can hold: without `masks`, and without options that are objects.
    """

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        """Begin, at the step where the trainer is."""
        if takes_part(is_first=state.is_world_process_zero):
            self.following.begin(kw["model"], kw["optimizer"], state.global_step)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        """Note the epoch: the snapshot is taken inside of the optimizer's step."""
        self.following.at_epoch(state.epoch)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        """Look at the masks."""
        self.following.end_epoch(state.epoch)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        """Log what the trainer logs."""
        self.following.log(kw.get("logs") or {})

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        """Record where it stands, and end."""
        self.following.finish()

    def state(self) -> dict[str, Any]:
        """How to make this callback again, for ``restore_callback_states_from_checkpoint``."""
        plain = {k: v for k, v in self.following.options.items() if isinstance(v, str | int | float | None)}
        made = {"run_dir": os.fspath(self.following.run_dir), "part": self.following.part, **plain}
        return {"args": made, "attributes": {}}
