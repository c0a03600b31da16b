"""What is recorded of a model at a step: which layers, with or without weights, or nothing because nothing changed."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sift_graph.errors import RunDirectoryError, UsageError
from sift_graph.masks import Snapshot
from sift_graph.recording.cadence import Cadence
from sift_graph.recording.pipeline import Pipeline
from sift_graph.recording.reading import check_choice, read_masks

if TYPE_CHECKING:
    from sift_graph.sources import Masked

__all__ = ["Looking", "Subject", "record_graph"]


class Subject:
    """A model that is followed, held weakly, with its optimizer and where its masks are.

    Parameters
    ----------
    model : torch.nn.Module
    optimizer : torch.optim.Optimizer or None
    masks : optional
        As for :func:`sift_graph.sources.find_masks`.
    """

    def __init__(self, model: Any, optimizer: Any, masks: Any) -> None:
        self._model = weakref.ref(model)
        self._optimizer = None if optimizer is None else weakref.ref(optimizer)
        self._masks = masks

    @property
    def model(self) -> Any:
        """The model, or None once it is gone."""
        return self._model()

    @property
    def optimizer(self) -> Any:
        """The optimizer, or None."""
        return None if self._optimizer is None else self._optimizer()

    def find(self, looking: Looking) -> dict[str, Masked]:
        """Find and pack its masks; their weights are not read yet."""
        from sift_graph.sources import FROM_ZEROS, find_masked

        return find_masked(
            self.model,
            self.optimizer,
            masks=self._masks,
            layers=looking.layers,
            source=looking.source,
            from_zeros=looking.source == FROM_ZEROS,
        )


def record_graph(pipeline: Pipeline, model: Any, example_input: Any) -> None:
    """Hand on how the layers of a model hang together, or warn that it cannot be seen."""
    from sift_graph.model_graph import trace_graph

    try:
        pipeline.write_graph(trace_graph(model, example_input).record())
    except UsageError as error:
        pipeline.warn("graph", f"the network graph is not recorded: {error}")


@dataclass(frozen=True)
class Looking:
    """The options of a recorder that say what is recorded; build one with :meth:`make`, which checks them."""

    source: str
    layers: str | Sequence[str] | None
    cadence: Cadence
    on_change: bool
    weights: str
    when: str

    @classmethod
    def make(
        cls, *, layers: str | Sequence[str] | None, cadence: Cadence, source: str, on_change: bool, **choices: str
    ) -> Looking:
        """Check the options.

        Parameters
        ----------
        layers, cadence, source, on_change
            As the attributes.
        **choices
            ``weights`` and ``when``.

        Returns
        -------
        Looking

        Raises
        ------
        UsageError
            If one is not known, or two do not go together.
        """
        check_choice("weights", choices["weights"], ("none", "fp16", "fp32"))
        check_choice("when", choices["when"], ("post_step", "pre_step"))
        if choices["weights"] == "none" and cadence.weights_every is not None:
            raise UsageError(
                f"weights_every: {cadence.weights_every} steps, but weights='none' stores none; leave one out"
            )
        globs = layers if layers is None or isinstance(layers, str) else list(layers)
        return cls(source, globs, cadence, on_change, choices["weights"], choices["when"])

    @property
    def looks_at_each_step(self) -> bool:
        """Whether no cadence is asked for."""
        return self.cadence.every is None and self.cadence.schedule is None

    def described(self) -> dict[str, Any]:
        """Describe it for ``sift.json``."""
        plain = {name: getattr(self, name) for name in ("source", "layers", "on_change", "weights", "when")}
        return plain | self.cadence.described()

    def look(
        self,
        pipeline: Pipeline,
        subject: Subject,
        step: int,
        epoch: float | None,
        *,
        due: bool = False,
        always: bool = False,
    ) -> None:
        """Take a snapshot of a model.

        Parameters
        ----------
        pipeline : Pipeline
        subject : Subject
        step : int
        epoch : float or None
        due : bool
            Although the cadence does not ask for it.
        always : bool
            And although no mask has changed.
        """
        due = self.cadence.is_due(step) or due or always
        pipeline.remember()
        if subject.model is None or not due or step == pipeline.newest:
            return
        wait = always  # the first and the last state are not dropped
        weights = self.weights != "none" and (always or self.cadence.takes_weights(step))
        always = always or not self.on_change or self.cadence.needs_weights(step)
        found = subject.find(self)
        if not always and not pipeline.changed({name: one.mask for name, one in found.items()}):
            return
        layers = {name: one.complete() if weights else one.mask for name, one in found.items()}
        pipeline.snapshot(Snapshot(step, layers, epoch), wait=wait)

    def take(
        self, pipeline: Pipeline, step: int, masks: Mapping[str, Any], epoch: float | None, *, due: bool | None
    ) -> bool:
        """Record what is handed over: in any case if `due` is None, else if it is due and has changed.

        Parameters
        ----------
        pipeline : Pipeline
        step : int
        masks : mapping
        epoch : float or None
        due : bool or None

        Returns
        -------
        bool
            Whether it was handed on.

        Raises
        ------
        RunDirectoryError
            If the step is recorded already with other masks, or is earlier than the newest one.
        """
        pipeline.begin()
        layers = read_masks(step, masks, self.layers)
        changed = pipeline.changed(layers)
        if step == pipeline.newest and not changed:
            return False
        if due is not None:
            if not due or not (changed or not self.on_change or self.cadence.needs_weights(step)):
                return False
            if not self.cadence.takes_weights(step):
                layers = {name: layer.without_values() for name, layer in layers.items()}
        if pipeline.newest is not None and step <= pipeline.newest:
            raise RunDirectoryError(
                f"{pipeline.writer.run_dir}: step {pipeline.newest} is recorded already, so step {step} cannot follow "
                "with these masks; number the snapshots by optimizer steps, or go back with recorder.rewind(step)"
            )
        return pipeline.snapshot(Snapshot(step, layers, epoch))
