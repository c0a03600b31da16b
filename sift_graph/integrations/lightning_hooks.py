"""The hooks of Lightning: its two callback classes differ, what they are called with does not."""

from __future__ import annotations

import os
from typing import Any

from sift_graph.integrations.following import Follower, takes_part

__all__ = ["LightningHooks"]


class LightningHooks(Follower):
    """Record masks while a Lightning ``Trainer`` fits.

    Parameters
    ----------
    run_dir : path
    optimizer : int
        Which of the module's optimizers.
    part : str, optional
        Record this submodule only, and name layers from there.
    masks : optional
        Where the masks are, if they are not found (:meth:`sift_graph.MaskRecorder.attach`).
    **options
        Of :class:`sift_graph.MaskRecorder`: ``every``, ``layers``, ``weights``, ...
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        *,
        optimizer: int = 0,
        part: str | None = None,
        masks: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(run_dir, part=part, masks=masks, **options)
        self.optimizer = optimizer

    @property
    def state_key(self) -> str:
        """A key of its own for each run directory, so that several instances can live in one checkpoint."""
        return f"{type(self).__qualname__}({self.following.run_dir})"

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin, at the step where the trainer is."""
        if takes_part(is_first=trainer.is_global_zero):
            steps = trainer.global_step // max(len(trainer.optimizers), 1)
            self.following.begin(pl_module, trainer.optimizers[self.optimizer], steps)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Note the epoch."""
        self.following.at_epoch(float(trainer.current_epoch))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Log what was validated."""
        if not trainer.sanity_checking:
            self.following.log(trainer.callback_metrics)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log what the epoch gave, and look at the masks."""
        self.following.end_epoch(float(trainer.current_epoch + 1))
        self.following.log(trainer.callback_metrics)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Lose nothing to an error, or to Ctrl-C."""
        self.following.break_off(exception)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Record where it stands."""
        self.following.finish()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """End, and let the model go: the trainer gives each callback the module's own logging functions."""
        self.following.finish()
        self.__dict__.pop("log", None)
        self.__dict__.pop("log_dict", None)
