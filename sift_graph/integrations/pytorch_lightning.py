"""The recorder as a callback of Lightning, under the import name ``pytorch_lightning``."""

from __future__ import annotations

import os
from typing import Any

from sift_graph.errors import UsageError
from sift_graph.integrations.following import Following

try:
    from pytorch_lightning import Callback, LightningModule, Trainer
except ImportError as error:
    raise UsageError(f'this callback needs {error.name}; pip install "sift-graph[lightning]"') from error

__all__ = ["MaskRecorderCallback"]


class MaskRecorderCallback(Callback):
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
        super().__init__()
        self.optimizer = optimizer
        self.following = Following(run_dir, part=part, masks=masks, **options)

    @property
    def state_key(self) -> str:
        """A key of its own for each run directory, so that several instances can live in one checkpoint."""
        return f"{type(self).__qualname__}({self.following.run_dir})"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, at the step where the trainer is."""
        if trainer.is_global_zero:
            steps = trainer.global_step // max(len(trainer.optimizers), 1)
            self.following.begin(pl_module, trainer.optimizers[self.optimizer], steps)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the epoch."""
        self.following.at_epoch(float(trainer.current_epoch))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what was validated."""
        if not trainer.sanity_checking:
            self.following.log(trainer.callback_metrics)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what the epoch gave."""
        self.following.log(trainer.callback_metrics)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Lose nothing to an error, or to Ctrl-C."""
        self.following.finish()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record where it stands."""
        self.following.finish()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """End, and let the model go: the trainer gives each callback the module's own logging functions."""
        self.following.finish()
        self.__dict__.pop("log", None)
        self.__dict__.pop("log_dict", None)

    def state_dict(self) -> dict[str, Any]:
        """Optimizer steps seen."""
        return self.following.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to restore: the trainer knows its step, and the directory its run."""
        self.following.step = int(state_dict.get("step", 0))
