"""Send scalars to the tracker that a training uses already: TensorBoard, wandb, mlflow, or any function.

A sink is a function ``(step, scalars)``. One is made here of what the user has in hand; nothing is imported but what
the user imported. Masks never go through a tracker: scalars do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sift_graph.background import BackgroundWriter
from sift_graph.errors import SiftGraphError, UsageError

__all__ = ["Sink", "Teller", "make_sink", "mlflow_sink", "numbers", "tensorboard_sink", "wandb_sink"]

Sink = Callable[[int, Mapping[str, float]], object]

WAITING = 1000  # rows that may wait for a slow tracker


def tensorboard_sink(writer: Any) -> Sink:
    """Send to a ``SummaryWriter`` of ``torch.utils.tensorboard`` or ``tensorboardX``.

    Parameters
    ----------
    writer : SummaryWriter
        Stays open: whoever made it closes it.

    Returns
    -------
    callable
    """

    def send(step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            writer.add_scalar(name, value, global_step=step)

    return send


def wandb_sink(run: Any, *, prefix: str = "sift_graph/", commit: bool = True) -> Sink:
    """Send to a run of wandb, over an axis of its own, ``sift_graph/step``.

    wandb drops what is logged for an earlier step than its last, and measurements come late by nature: so no step is
    given, and the axis is defined instead.

    Parameters
    ----------
    run : wandb.Run
        What ``wandb.init()`` returned.
    prefix : str
        Of every name.
    commit : bool
        Say False if your loop calls ``run.log(..., step=...)`` itself: what is sent then joins its next row, where with
        True wandb's own count of steps runs ahead of yours and rows of yours are dropped.

    Returns
    -------
    callable
    """
    axis = f"{prefix}step"
    run.define_metric(axis)
    run.define_metric(f"{prefix}*", step_metric=axis)

    def send(step: int, scalars: Mapping[str, float]) -> None:
        run.log({axis: step, **{f"{prefix}{name}": value for name, value in scalars.items()}}, commit=commit)

    return send


def mlflow_sink(mlflow: Any, run_id: str | None = None) -> Sink:
    """Send to a run of mlflow.

    Parameters
    ----------
    mlflow : module
    run_id : str, optional
        The active run if not given; taken now, because mlflow knows an active run only in the thread that began it.

    Returns
    -------
    callable

    Raises
    ------
    UsageError
        If no run is active.
    """
    if run_id is None:
        active = mlflow.active_run()
        if active is None:
            raise UsageError("log_to: mlflow has no active run; begin one with mlflow.start_run(), then the recorder")
        run_id = active.info.run_id

    def send(step: int, scalars: Mapping[str, float]) -> None:
        mlflow.log_metrics({_mlflow_name(name): value for name, value in scalars.items()}, step=step, run_id=run_id)

    return send


def _mlflow_name(name: str) -> str:
    """Keep the characters that mlflow takes in a name."""
    return "".join(c if c.isalnum() or c in "_-. /" else "_" for c in name)


def make_sink(target: Any) -> Sink:
    """Make a sink of what the user has in hand.

    Parameters
    ----------
    target : SummaryWriter, wandb.Run, the module mlflow, or callable
        A callable is called as ``target(step, scalars)``.

    Returns
    -------
    callable

    Raises
    ------
    UsageError
        If it is none of these.

    Examples
    --------
    >>> make_sink(print)(10, {"loss": 0.5})
    10 {'loss': 0.5}
    """
    if hasattr(target, "add_scalar"):
        return tensorboard_sink(target)
    if hasattr(target, "define_metric") and hasattr(target, "log"):
        return wandb_sink(target)
    if hasattr(target, "log_metrics") and hasattr(target, "active_run"):
        return mlflow_sink(target)
    if callable(target):
        sink: Sink = target
        return sink
    raise UsageError(
        f"log_to: expected a SummaryWriter, a wandb run, the module mlflow or a function of step and scalars, found "
        f"{type(target).__name__}; wrap its own call: log_to=lambda step, scalars: ..."
    )


class Teller:
    """Send scalars to sinks from a thread of its own, so that no tracker holds up training or writing.

    Parameters
    ----------
    targets : object or sequence of objects
        As :func:`make_sink`.

    Attributes
    ----------
    dropped : int
        Rows dropped because the trackers were too slow.
    """

    def __init__(self, targets: Any) -> None:
        given = targets if isinstance(targets, Sequence) and not isinstance(targets, str) else [targets]
        self._sinks = [make_sink(target) for target in given]
        self._jobs = BackgroundWriter(WAITING)
        self.dropped = 0

    def tell(self, row: Mapping[str, Any]) -> None:
        """Send the numbers of a row that has a step; never waits.

        Parameters
        ----------
        row : mapping
        """
        step = row.get("step")
        found = {name: value for name, value in numbers(row).items() if math.isfinite(value)}
        if step is None or not found:
            return
        at, sinks = int(step), self._sinks

        def send() -> None:
            for sink in sinks:
                sink(at, found)

        if not self._jobs.put(send, f"what was to be sent of step {at}", wait=False):
            self.dropped += 1

    def problem(self) -> str:
        """Say what went wrong since this was last asked, for a warning; empty if nothing did."""
        try:
            self._jobs.surface()
        except SiftGraphError as error:
            return f"training and recording go on, but a tracker failed: {error}"
        return f"the trackers are slower than the training: {self.dropped} rows were not sent" if self.dropped else ""

    def close(self) -> None:
        """Send what waits."""
        self._jobs.finish()


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Keep what is one number, tensors of one element included; the step and the epoch are axes.

    Parameters
    ----------
    row : mapping

    Returns
    -------
    dict of str to float

    Examples
    --------
    >>> numbers({"step": 3, "loss": 0.5, "name": "a", "ok": True})
    {'loss': 0.5}
    """
    found = {}
    for name, value in row.items():
        if name in ("step", "epoch") or isinstance(value, bool | str | bytes) or value is None:
            continue
        try:
            found[str(name)] = float(value)
        except (TypeError, ValueError, RuntimeError):
            continue
    return found
