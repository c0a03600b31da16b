"""The recorder as a handler of Ignite."""

from __future__ import annotations

import os
from typing import Any

from sift_graph.errors import UsageError
from sift_graph.integrations.following import Follower

try:
    from ignite.engine import Engine, Events
except ImportError as error:
    raise UsageError(f'this handler needs {error.name}; pip install "sift-graph[ignite]"') from error

__all__ = ["MaskHandler"]


class MaskHandler(Follower):
    """Record masks while an Ignite engine trains.

    Parameters
    ----------
    run_dir : path
    model : torch.nn.Module
    optimizer : torch.optim.Optimizer
    part : str, optional
        Record this submodule only, and name layers from there.
    masks : optional
        Where the masks are, if they are not found (:meth:`sift_graph.MaskRecorder.attach`).
    **options
        Of :class:`sift_graph.MaskRecorder`.

    Notes
    -----
    Hand it to Ignite's ``Checkpoint`` as ``to_save``: it knows how many optimizer steps there were, which the engine,
    counting batches, does not.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        model: Any,
        optimizer: Any,
        *,
        part: str | None = None,
        masks: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(run_dir, part=part, masks=masks, **options)
        self.model, self.optimizer = model, optimizer

    def attach(self, engine: Engine) -> MaskHandler:
        """Add its handlers to the engine that trains.

        Parameters
        ----------
        engine : ignite.engine.Engine

        Returns
        -------
        MaskHandler
            Itself.
        """
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.EPOCH_STARTED, self._epoch)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_end)
        for end in (Events.COMPLETED, Events.TERMINATE, Events.INTERRUPT):
            engine.add_event_handler(end, self._end)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._failed)
        return self

    def _begin(self, engine: Engine) -> None:
        self.following.begin(self.model, self.optimizer, self.following.step)

    def _epoch(self, engine: Engine) -> None:
        self.following.at_epoch(float(engine.state.epoch - 1))

    def _epoch_end(self, engine: Engine) -> None:
        self.following.end_epoch(float(engine.state.epoch))
        self.following.log(engine.state.metrics)

    def _end(self, engine: Engine) -> None:
        self.following.finish()

    def _failed(self, engine: Engine, error: BaseException) -> None:
        self.following.break_off(error)
        if len(engine._event_handlers[Events.EXCEPTION_RAISED]) == 1:
            raise error  # an engine with a handler for errors does not raise them: ours alone must not swallow any
