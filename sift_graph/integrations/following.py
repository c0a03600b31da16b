"""What every callback shares: a recorder that is made when training begins, and ended when it ends."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from sift_graph.errors import SiftGraphError
from sift_graph.ranks import find_place
from sift_graph.record import MaskRecorder, RecorderWarning
from sift_graph.sinks import numbers

__all__ = ["Follower", "Following", "Guard", "takes_part"]


class Guard:
    """Let no error of the recorder stop the training: warn, once."""

    def __init__(self) -> None:
        self.warned = False

    def __call__(self, act: Callable[[], object]) -> None:
        """Do something that may fail."""
        try:
            act()
        except SiftGraphError as error:
            if not self.warned:
                self.warned = True
                warnings.warn(f"training goes on, but {error}", RecorderWarning, stacklevel=3)


class Following:
    """A recorder of one training, made late: nothing is written before training begins, or by other ranks.

    Parameters
    ----------
    run_dir : path
    part : str, optional
        Record this submodule only, and name layers from there: ``"model"`` for a Lightning module that wraps one.
    masks : optional
        As :meth:`sift_graph.MaskRecorder.attach`.
    **options
        Of :class:`sift_graph.MaskRecorder`.
    """

    def __init__(
        self, run_dir: str | os.PathLike[str], *, part: str | None = None, masks: Any = None, **options: Any
    ) -> None:
        self.run_dir, self.part, self.masks, self.options = run_dir, part, masks, options
        self.recorder: MaskRecorder | None = None
        self.step = 0  # when it last ended, or was loaded
        self.run_id: str | None = None  # likewise
        self.guard = Guard()

    def begin(self, model: Any, optimizer: Any, step: int) -> MaskRecorder:
        """Follow the optimizer from this step on.

        Parameters
        ----------
        model : torch.nn.Module
        optimizer : torch.optim.Optimizer
            Or a wrapper of one.
        step : int
            Optimizer steps done before; above 0 the run is gone on with, and what it recorded later is put aside.

        Returns
        -------
        MaskRecorder
        """
        self.finish()
        options = {"resume": step > 0} | self.options
        self.recorder = MaskRecorder(self.run_dir, **options)
        try:
            if self.run_id is not None:
                self.recorder.load_state_dict({"step": step, "run_id": self.run_id})
            target = model if self.part is None else model.get_submodule(self.part)
            self.recorder.attach(target, optimizer, masks=self.masks, step=step)
        except BaseException:
            self.recorder.close()
            self.recorder = None
            raise
        return self.recorder

    def finish(self) -> None:
        """Record where it stands, and close; may be called again."""
        recorder, self.recorder = self.recorder, None
        if recorder is not None:
            self.step, self.run_id = recorder.step, recorder.run_id
            recorder.close()

    def break_off(self, error: BaseException) -> None:
        """Close after an error, without recording a state that may be half a step."""
        recorder, self.recorder = self.recorder, None
        if recorder is not None:
            self.step, self.run_id = recorder.step, recorder.run_id
            recorder.__exit__(type(error), error, None)

    def at_epoch(self, epoch: float | None) -> None:
        """Say how many passes over the data there were."""
        if self.recorder is not None:
            self.recorder.epoch = epoch

    def end_epoch(self, epoch: float | None) -> None:
        """Look at the masks, whatever their cadence: an epoch is over, and so many passes over the data are done."""
        if self.recorder is not None:
            self.recorder.end_epoch(epoch)

    def log(self, row: Mapping[str, Any]) -> None:
        """Write the numbers among these to ``metrics.jsonl``."""
        recorder, found = self.recorder, numbers(row)
        if recorder is not None and found:
            epoch = {} if recorder.epoch is None else {"epoch": recorder.epoch}
            self.guard(lambda: recorder.log({"step": recorder.step, **epoch, **found}))

    def state_dict(self) -> dict[str, Any]:
        """Optimizer steps seen and the run's id, for a checkpoint."""
        recorder = self.recorder
        if recorder is None:
            return {"step": self.step, "run_id": self.run_id}
        return recorder.state_dict()


class Follower:
    """The part of a callback that has nothing to do with its trainer: how it is made, and its state.

    Parameters
    ----------
    run_dir, part, masks, **options
        As :class:`Following`.
    """

    def __init__(
        self, run_dir: str | os.PathLike[str], *, part: str | None = None, masks: Any = None, **options: Any
    ) -> None:
        super().__init__()
        self.following = Following(run_dir, part=part, masks=masks, **options)

    def state_dict(self) -> dict[str, Any]:
        """Optimizer steps seen, and the run's id."""
        return self.following.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take the step of a checkpoint, for trainers that do not know theirs, and the run that it belongs to."""
        self.following.step, self.following.run_id = int(state_dict["step"]), state_dict.get("run_id")


def takes_part(*, is_first: bool) -> bool:
    """Whether a process needs a recorder: the first, and all that train with it, for each may hold a part."""
    return is_first or find_place().world > 1
