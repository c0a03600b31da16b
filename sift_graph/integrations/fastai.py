"""The recorder as a callback of fastai."""

from __future__ import annotations

from sift_graph.errors import UsageError
from sift_graph.integrations.following import Follower

try:
    from fastai.callback.core import Callback
except ImportError as error:
    raise UsageError(f'this callback needs {error.name}; pip install "sift-graph[fastai]"') from error

__all__ = ["MaskRecorderCallback"]


class MaskRecorderCallback(Follower, Callback):  # type: ignore[misc]
    """Record masks while a fastai ``Learner`` fits.

    fastai has optimizers of its own, without hooks: the masks are looked at after each of their steps.

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

    order = 80  # after callbacks that sparsify

    def before_fit(self) -> None:
        """Begin; a second ``fit`` of the same learner goes on with the run, and a search or a prediction is none."""
        if hasattr(self.learn, "lr_finder") or hasattr(self.learn, "gather_preds"):
            return
        self.following.begin(self.learn.model, None, self.following.step)

    def before_batch(self) -> None:
        """Note the epoch."""
        self.following.at_epoch(float(self.learn.pct_train * self.learn.n_epoch) if self.learn.training else None)

    def after_step(self) -> None:
        """Look at the masks after a step of the optimizer."""
        if self.following.recorder is not None:
            self.following.recorder.after_step()

    def after_epoch(self) -> None:
        """Look at the masks, and log what the epoch gave."""
        self.following.end_epoch(float(self.learn.epoch + 1))
        recorder = getattr(self.learn, "recorder", None)
        if recorder is not None and recorder.log:
            self.following.log(dict(zip(recorder.metric_names, recorder.log, strict=False)))

    def after_cancel_fit(self) -> None:
        """End."""
        self.following.finish()

    def after_fit(self) -> None:
        """Record where it stands."""
        self.following.finish()
