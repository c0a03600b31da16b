"""The recorder beside Accelerate: a tracker for what is logged; masks come by the optimizer's hook.

A tracker of Accelerate never sees the model, so two lines do what one callback does elsewhere::

    recorder = MaskRecorder("runs/a").attach(accelerator.unwrap_model(model), optimizer)
    accelerator.register_for_checkpointing(recorder)
"""

from __future__ import annotations

from typing import Any

from sift_graph.errors import UsageError
from sift_graph.record import MaskRecorder
from sift_graph.sinks import numbers

try:
    from accelerate.tracking import GeneralTracker, on_main_process
except ImportError as error:
    raise UsageError(f'this tracker needs {error.name}; pip install "sift-graph[accelerate]"') from error

__all__ = ["MaskTracker"]


class MaskTracker(GeneralTracker):  # type: ignore[misc]
    """Write what ``accelerator.log`` is given to the recorder's ``metrics.jsonl``.

    Parameters
    ----------
    recorder : MaskRecorder
        Closed by ``accelerator.end_training()``.
    """

    name = "sift_graph"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self, recorder: MaskRecorder) -> None:
        super().__init__()
        self.recorder = recorder

    @property
    def tracker(self) -> MaskRecorder:
        """The recorder."""
        return self.recorder

    @on_main_process  # type: ignore[untyped-decorator]
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Keep nothing: what a run is stands in the recorder's ``about``."""

    @on_main_process  # type: ignore[untyped-decorator]
    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Log the numbers among these."""
        found = numbers(values)
        if found:
            self.recorder.log(found if step is None else {"step": step, **found})

    @on_main_process  # type: ignore[untyped-decorator]
    def finish(self) -> None:
        """End the recording."""
        self.recorder.close()
