"""The recorder as a callback of Composer (mosaicml)."""

from __future__ import annotations

from sift_graph.errors import UsageError
from sift_graph.integrations.following import Follower, takes_part

try:
    from composer import Callback, Logger, State
except ImportError as error:
    raise UsageError(f'this callback needs {error.name}; pip install "sift-graph[composer]"') from error

__all__ = ["MaskRecorderCallback"]


class MaskRecorderCallback(Follower, Callback):  # type: ignore[misc]
    """Record masks while a Composer ``Trainer`` fits; it changes nothing of the state.

    Parameters
    ----------
    run_dir : path
    part : str, optional
        Record this submodule only, and name layers from there.
    masks : optional
        Where the masks are, if they are not found (:meth:`sift_graph.MaskRecorder.attach`).
    **options
        Of :class:`sift_graph.MaskRecorder`.
    """

    def fit_start(self, state: State, logger: Logger) -> None:
        """Begin, at the batch where the trainer is: Composer makes one optimizer step of each."""
        from composer.utils import dist

        if takes_part(is_first=dist.get_global_rank() == 0):
            self.following.begin(state.model, state.optimizers[0], int(state.timestamp.batch))

    def epoch_start(self, state: State, logger: Logger) -> None:
        """Note the epoch."""
        self.following.at_epoch(float(int(state.timestamp.epoch)))

    def epoch_end(self, state: State, logger: Logger) -> None:
        """Look at the masks: the epochs that are over have been counted."""
        self.following.end_epoch(float(int(state.timestamp.epoch)))

    def eval_end(self, state: State, logger: Logger) -> None:
        """Log what was evaluated."""
        for metrics in state.eval_metrics.values():
            self.following.log({name: metric.compute() for name, metric in metrics.items()})

    def fit_end(self, state: State, logger: Logger) -> None:
        """Record where it stands."""
        self.following.finish()

    def close(self, state: State, logger: Logger) -> None:
        """End, after an error too."""
        self.following.finish()
