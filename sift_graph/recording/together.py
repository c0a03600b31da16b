"""The processes that record one run, as one of them sees them: who writes, what, and whether all hold the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sift_graph.errors import MaskError, UsageError
from sift_graph.masks import LayerMask
from sift_graph.ranks import ALONE, check_equal, find_place, is_sharded, join
from sift_graph.recording.looking import Looking
from sift_graph.recording.pipeline import Pipeline, Writer

__all__ = ["Together"]


class Together:
    """Take part with the other processes of a training, if there are any.

    Parameters
    ----------
    check_ranks : bool or int
        Compare masks whenever they are looked at, or every so many steps.
    together : bool
        False for a process that records a run of its own.
    drops, measures : bool
        Whether snapshots may be dropped, and are to be measured: neither goes with parts.

    Raises
    ------
    UsageError
        If `check_ranks` is negative.
    """

    def __init__(self, check_ranks: bool | int, *, together: bool, drops: bool, measures: bool) -> None:
        if check_ranks < 0:
            raise UsageError(f"check_ranks: expected True, or every how many steps, found {check_ranks}")
        self.check_ranks, self._together = check_ranks, together
        self._drops, self._measures = drops, measures
        self.place = find_place() if together else ALONE
        self._has_joined = self.place.world == 1

    def join(
        self, run_dir: Path, pipeline: Pipeline | None, looking: Looking, model: Any, masks: Any, *, resume: bool
    ) -> Writer | None:
        """Agree with the others, once, where each records a part or masks are compared.

        Parameters
        ----------
        run_dir : Path
        pipeline : Pipeline or None
            Of the first process.
        looking : Looking
        model, masks
            What is recorded; a model of None for masks that are handed over.
        resume : bool

        Returns
        -------
        RunWriter, ShardWriter, SilentWriter or None
            What to write with from now on; None if nothing changes.

        Raises
        ------
        UsageError
            If the recorder was made too early, or an option does not go with parts.
        """
        now = find_place() if self._together else ALONE
        if now.world > 1 and now != self.place:
            raise UsageError(
                f"the recorder was made before this process knew to be rank {now.rank} of {now.world}; make it after "
                "init_process_group(), or with ranks='each' if each process records a run of its own"
            )
        sharded = not self._has_joined and is_sharded(model, masks)
        if self._has_joined or not (sharded or self.check_ranks):
            return None
        if sharded and model is not None and looking.looks_at_each_step and looking.on_change:
            raise UsageError(
                "every: the parameters are shared out over processes, none of which knows whether a mask changed on "
                "another; say every how many steps to record (every=100), or on_change=False for each step"
            )
        if sharded and self._drops:
            raise UsageError("policy: a snapshot that one process drops is lost for all; use policy='block'")
        if sharded and self._measures:
            raise UsageError(
                "measure: a snapshot in parts is whole only when all processes have written it; leave measure out, and "
                "run `sift-graph analyze` beside the training"
            )
        first = None if pipeline is None else pipeline.first_writer
        writer = join(self.place, run_dir, first, sharded=sharded, resume=resume)
        self._has_joined = True
        return writer

    def compares_at(self, step: int, every: int | None) -> bool:
        """Whether masks are to be compared after so many steps."""
        if not self.check_ranks or self.place.world == 1:
            return False
        return step % ((every or 1) if self.check_ranks is True else int(self.check_ranks)) == 0

    def compare(self, layers: Mapping[str, LayerMask], step: int) -> None:
        """Raise MaskError where processes differ; all must call it."""
        if self.check_ranks and self.place.world > 1:
            check_equal(self.place, layers, step)

    def warn_of_difference(self, pipeline: Pipeline, layers: Mapping[str, LayerMask], step: int) -> None:
        """Warn where processes differ, once of each difference."""
        try:
            self.compare(layers, step)
        except MaskError as error:
            pipeline.warn(f"differ {str(error).partition(': ')[2]}", f"training goes on, but {error}")
