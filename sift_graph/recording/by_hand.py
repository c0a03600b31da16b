"""The part of a recorder that follows nothing: it is handed masks, and knows what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sift_graph.recording.looking import Looking
from sift_graph.recording.pipeline import Pipeline

__all__ = ["ByHand"]


class ByHand:
    """Record what is handed over; :class:`sift_graph.MaskRecorder` follows an optimizer besides.

    Parameters
    ----------
    looking : Looking
        What is recorded.
    pipeline : Pipeline or None
        Where it goes; None records nothing.
    """

    def __init__(self, looking: Looking, pipeline: Pipeline | None) -> None:
        self._looking, self._pipeline = looking, pipeline

    @property
    def enabled(self) -> bool:
        """Whether anything is recorded; false if ``SIFT_GRAPH_DISABLED`` was set."""
        return self._pipeline is not None

    @property
    def newest(self) -> int | None:
        """Step of the newest snapshot, on disk or handed on; None before the first."""
        return None if self._pipeline is None else self._pipeline.newest

    @property
    def run_id(self) -> str | None:
        """Of the run in the directory; None if nothing is recorded."""
        return None if self._pipeline is None else self._pipeline.writer.run_id

    @property
    def dropped(self) -> int:
        """Snapshots dropped because the queue was full."""
        return 0 if self._pipeline is None else self._pipeline.dropped

    @property
    def unmeasured(self) -> int:
        """Snapshots that `measure` passed over because others still waited."""
        measurer = None if self._pipeline is None else self._pipeline.measurer
        return 0 if measurer is None else measurer.skipped

    def is_due(self, step: int) -> bool:
        """Whether the masks are to be looked at after this many steps, by `every`, `schedule` and `weights_every`."""
        return self._looking.cadence.is_due(step)

    def snapshot(
        self, step: int, masks: Mapping[str, Any], *, epoch: float | None = None, if_due: bool = False
    ) -> bool:
        """Record masks by hand, for a loop that has no optimizer hooks.

        Parameters
        ----------
        step : int
            Optimizer steps done so far; larger than that of the snapshot before.
        masks : mapping
            From layer or parameter names to :class:`LayerMask`, to bool or 0/1 arrays or tensors, or to
            ``(mask, weight)`` pairs.
        epoch : float, optional
            Passes over the data so far.
        if_due : bool
            Obey `every`, `schedule`, `weights_every` and `on_change`, as hooks do. By default what is handed over is
            recorded.

        Returns
        -------
        bool
            Whether a snapshot was handed on: false if the recorder is disabled, if the queue was full and the policy
            is ``"drop"``, if it is not due, or if this step is recorded already, with the same masks.

        Raises
        ------
        MaskError
            If a mask is not one.
        UsageError
            If `masks` is not a mapping, two masks belong to the same layer, or no layer matches `layers`.
        RunDirectoryError
            If the step is recorded already with other masks, or is earlier than the newest one.
        """
        if self._pipeline is None:
            return False
        due = self.is_due(step) if if_due else None
        return self._looking.take(self._pipeline, step, masks, epoch, due=due)

    def rewind(self, step: int) -> None:
        """Put aside what was recorded after `step`, for a job that goes on from there; nothing is deleted.

        Parameters
        ----------
        step : int
            The last step that stays.
        """
        if self._pipeline is not None:
            self._pipeline.rewind(step)

    def flush(self) -> None:
        """Wait until all that was handed on is on disk, and raise what went wrong since the last call."""
        if self._pipeline is not None:
            self._pipeline.flush()
