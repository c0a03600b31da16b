"""Record the masks of a training run, from inside any training loop, without touching it.

The training thread looks the masks up, packs and hashes them, and copies the weights that they keep. A background
thread compresses and writes, behind a bounded queue (:mod:`sift_graph.recording`). The recorder draws no random number,
changes no tensor and holds the model by a weak reference.

Set ``SIFT_GRAPH_DISABLED=1`` in the environment to turn every recorder into one that does nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from sift_graph.errors import RunDirectoryError, SiftGraphError, UsageError
from sift_graph.masks import LayerMask
from sift_graph.ranks import unwrapped
from sift_graph.recording.by_hand import ByHand
from sift_graph.recording.cadence import Cadence, Schedule
from sift_graph.recording.looking import Looking, Subject, record_graph
from sift_graph.recording.measuring import Measurer
from sift_graph.recording.pipeline import Pipeline, RecorderWarning
from sift_graph.recording.reading import check_choice, find_hook, read_masks
from sift_graph.recording.together import Together
from sift_graph.sinks import Teller
from sift_graph.store import ShardWriter, WeightPolicy

if TYPE_CHECKING:
    import torch

__all__ = ["MaskRecorder", "RecorderWarning"]

logger = logging.getLogger(__name__)

DISABLED = "SIFT_GRAPH_DISABLED"


class MaskRecorder(ByHand):
    """Record the masks of one training run into one run directory.

    Parameters
    ----------
    run_dir : path
        Made if need be. One live process records into it: a second one gets an error.
    source : str
        Where to look for masks: ``"auto"``, or a name in :data:`sift_graph.sources.SOURCES`, such as ``"weight!=0"``.
    layers : str or sequence of str, optional
        Globs of layer names to record, in one text separated by commas or one by one; all if not given.
    every : int, optional
        Look at the masks every so many optimizer steps. Without `every` and `schedule` at each step, which hashes
        every mask at every step.
    schedule : callable or iterable of int, optional
        Look at these steps, or at those for which a function of the step is true; beside those of `every`.
    on_change : bool
        Of the steps looked at, record only those at which a mask differs from the last one recorded (by hash, never
        by a library's flag). With False, all of them: so the weights of a static mask get a history too.
    weights : {"none", "fp16", "fp32"}
        How the weights under the masks are stored with a snapshot. In fp16 they take three times the space of the
        masks at a tenth of the weights kept.
    weights_every : int, optional
        Store weights at a cadence of their own: every so many steps, masks changed or not, and else only with the
        first snapshot and with the one of :meth:`detach`, if its step is not recorded yet. With each snapshot if not
        given.
    when : {"post_step", "pre_step"}
        Look right after an optimizer step, or right before the next one. A library that moves its masks after
        ``optimizer.step()`` needs ``"pre_step"``. Either way a snapshot bears the number of finished steps.
    resume : bool
        Go on with the run in `run_dir`, if there is one.
    about : mapping, optional
        What the run is: ``family``, ``method``, ``sparsity``, ``seed`` and the like; copied into the tables.
    layer_table : sequence of mapping, optional
        Name and shape of each layer of the model; taken from the model at :meth:`attach` if not given.
    example_input : tensor or tuple of tensors, optional
        What the model takes. Given one, the model is run on it once at :meth:`attach`, and how its layers hang together
        is recorded: for the metrics of the whole network, and for unrolled graphs.
    queue_size : int
        Snapshots that may wait to be written.
    policy : {"block", "drop"}
        What to do when the queue is full: let training wait, or drop the snapshot, count it in :attr:`dropped` and
        warn. The first and the last state, and rows of metrics, are never dropped.
    check_ranks : bool or int
        Under data parallelism, compare the masks of all processes whenever they are looked at, or every so many steps:
        what differs is an error at :meth:`attach` and a warning later. The processes exchange hashes, so all must
        train on in step.
    ranks : {"together", "each"}
        With ``"together"`` the processes of ``torch.distributed`` record one run: the first one does, and the others do
        nothing; or each its own part, where parameters are shared out (``fully_shard``). With ``"each"`` this process
        records a run of its own.
    measure : bool, str or iterable of str
        Measure each snapshot once it is on disk, in another process of one thread and low priority: True or
        ``"core"``, or metrics as :func:`sift_graph.metrics.select` takes them. Rows ``{"step": ..., "measured":
        {layer: {metric: value}}}`` go to ``metrics.jsonl``. Where that lags, snapshots are passed over and counted.
    log_to : object or sequence of objects, optional
        Send the scalars of :meth:`log` and of `measure` on, from a thread of their own: a TensorBoard
        ``SummaryWriter``, a wandb run, the module ``mlflow`` with an active run, or a function of step and scalars.

    Attributes
    ----------
    step : int
        Optimizer steps done so far, while attached.
    epoch : float or None
        Set it in your loop to have it recorded with the snapshots taken while attached.

    Raises
    ------
    RunDirectoryError
        If `run_dir` holds another run and `resume` is false, or something else than a run, or is being written to by
        another recorder, or cannot be written to.
    UsageError
        If an option is not one of those above.

    Notes
    -----
    An error of the background thread, a full disk for instance, does not stop training: the next hook,
    :meth:`snapshot` or :meth:`log` warns of it, once, and :meth:`flush` and :meth:`close` raise it. What was recorded
    before stays whole, and later snapshots are tried again.

    While a recorder made on the main thread is open, and where Python's default is in place, SIGTERM first writes what
    was handed on.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> directory = tempfile.TemporaryDirectory()
    >>> with MaskRecorder(directory.name + "/run") as recorder:
    ...     recorder.snapshot(0, {"fc": np.eye(4, dtype=bool)})
    ...     recorder.log({"step": 0, "loss": 0.5})
    True
    >>> directory.cleanup()
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        *,
        source: str = "auto",
        layers: str | Sequence[str] | None = None,
        every: int | None = None,
        schedule: Schedule | None = None,
        on_change: bool = True,
        weights: WeightPolicy = "fp16",
        weights_every: int | None = None,
        when: Literal["post_step", "pre_step"] = "post_step",
        resume: bool = False,
        about: Mapping[str, Any] | None = None,
        layer_table: Sequence[Mapping[str, Any]] | None = None,
        example_input: Any = None,
        queue_size: int = 2,
        policy: Literal["block", "drop"] = "block",
        measure: bool | str | Iterable[str] = False,
        log_to: Any = None,
        check_ranks: bool | int = False,
        ranks: Literal["together", "each"] = "together",
    ) -> None:
        cadence = Cadence.make(every, schedule, weights_every)
        choices = {"weights": weights, "when": when}
        looking = Looking.make(source=source, layers=layers, cadence=cadence, on_change=on_change, **choices)
        check_choice("policy", policy, ("block", "drop"))
        check_choice("ranks", ranks, ("together", "each"))
        if queue_size < 1:
            raise UsageError(f"queue_size: expected 1 or more snapshots, found {queue_size}")
        self.run_dir = Path(run_dir).absolute()  # some training scripts change the working directory
        self.source = source
        self.layers = looking.layers
        self.every = every
        self.on_change = on_change
        self.weights: WeightPolicy = weights
        self.when = when
        self.policy = policy
        self.example_input = example_input
        self.step = 0
        self.epoch: float | None = None
        self._resume = resume
        self._subject: Subject | None = None
        self._handle: Any = None
        self._queue_size = queue_size
        self._together = Together(
            check_ranks, together=ranks == "together", drops=policy == "drop", measures=bool(measure)
        )
        self._is_disabled = os.environ.get(DISABLED, "0") not in ("", "0")
        if self._is_disabled:
            logger.info("%s is set: nothing is recorded in %s", DISABLED, self.run_dir)
            super().__init__(looking, None)
            return
        place = self._together.place
        if place.rank > 0:
            logger.info("rank %d of %d: rank 0 records in %s", place.rank, place.world, self.run_dir)
            super().__init__(looking, None)
            return
        pipeline = Pipeline(
            self.run_dir,
            weights=weights,
            queue_size=queue_size,
            policy=policy,
            measurer=Measurer(measure) if measure else None,
            teller=None if log_to is None else Teller(log_to),
            about=about or {},
            layers=layer_table or (),
            resume=resume,
            recorder={**looking.described(), "policy": policy},
        )
        super().__init__(looking, pipeline)

    @property
    def attached(self) -> bool:
        """Whether the recorder follows an optimizer."""
        return self._handle is not None

    def attach(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | None,
        *,
        masks: Any = None,
        step: int | None = None,
    ) -> Self:
        """Follow an optimizer: record now, and from then on after its steps.

        Parameters
        ----------
        model : torch.nn.Module
        optimizer : torch.optim.Optimizer or None
            None for one without hooks: call :meth:`after_step` then.
        masks : optional
            Where the masks are, if you know; as for :func:`sift_graph.sources.find_masks`.
        step : int, optional
            Optimizer steps done so far. If not given, 0, or on resume the newest recorded step. On resume at an
            earlier step than that, later snapshots are kept under ``masks/abandoned/``.

        Returns
        -------
        MaskRecorder
            Itself, to be used in a ``with`` statement: leaving it detaches and closes.

        Raises
        ------
        UsageError
            If it is attached to another model or optimizer, or the optimizer has no step hooks.
        MaskError
            If the model has no masks, or one is not 0/1.
        RunDirectoryError
            If a later step is recorded already and the recorder was not made with ``resume=True``.
        """
        self._join(model, masks)
        if self._pipeline is None:
            return self
        if self.attached:
            assert self._subject is not None
            if self._subject.model is model and self._subject.optimizer is optimizer:
                return self
            raise UsageError("the recorder is attached to another model or optimizer; call detach() first")
        hook = find_hook(optimizer, self.when)
        from sift_graph.sources import layer_table

        pipeline = self._pipeline
        pipeline.begin()
        self._subject = subject = Subject(model, optimizer, masks)
        self.step = step if step is not None else (pipeline.newest or 0)
        try:
            if self._resume:  # in any case: rows of metrics reach further than snapshots
                self.rewind(self.step)
            elif pipeline.newest is not None and self.step < pipeline.newest:
                raise RunDirectoryError(
                    f"{self.run_dir}: step {pipeline.newest} is recorded already, so a recording cannot begin at "
                    f"step {self.step}; pass step=..., or make the recorder with resume=True to put the rest aside"
                )
            if pipeline.newest is None and not pipeline.writer.layers:
                pipeline.write_layers(layer_table(model))
            if pipeline.newest is None and self.example_input is not None:
                record_graph(pipeline, unwrapped(model), self.example_input)
            if self._together.check_ranks:
                self._together.compare(self._packed(subject), self.step)
            self._looking.look(pipeline, subject, self.step, self.epoch, always=True)
            self._handle = hook(self._hook)
        except BaseException:
            self.detach()
            raise
        return self

    def _join(self, model: Any, masks: Any) -> None:
        """Take part in what the other processes do, if there are any: record a part, or compare."""
        if self._is_disabled:
            return
        writer = self._together.join(self.run_dir, self._pipeline, self._looking, model, masks, resume=self._resume)
        if isinstance(writer, ShardWriter):  # a mask may have changed on another process alone
            self._looking = replace(self._looking, on_change=False)
        if writer is not None and self._pipeline is not None:
            self._pipeline.adopt(writer)
        elif writer is not None:
            options: dict[str, Any] = {"queue_size": self._queue_size, "policy": self.policy}
            self._pipeline = Pipeline(self.run_dir, weights=self.weights, writer=writer, **options)

    def _packed(self, subject: Subject) -> dict[str, LayerMask]:
        return {name: one.mask for name, one in subject.find(self._looking).items()}

    def snapshot(
        self, step: int, masks: Mapping[str, Any], *, epoch: float | None = None, if_due: bool = False
    ) -> bool:
        """Record masks by hand; as :meth:`ByHand.snapshot`, with the other processes if there are any.

        Parameters
        ----------
        step, masks, epoch, if_due
            As there.

        Returns
        -------
        bool
            As there.
        """
        self._join(None, masks)
        if self._together.check_ranks:
            self._together.compare(read_masks(step, masks, self.layers), step)
        return super().snapshot(step, masks, epoch=epoch, if_due=if_due)

    def detach(self) -> None:
        """Stop following the optimizer, let go of everything, and record where it stands; may be called again.

        The last step is recorded even if `every` would leave it out, so that the final masks and weights are there.
        """
        following, self._handle = self._handle, None
        try:
            if following is not None:
                following.remove()
                assert self._pipeline is not None
                self._pipeline.background.wait()  # until it is known whether this step is on disk
                self._watch(always=True)
        finally:
            self._subject = None

    def after_step(self) -> None:
        """Say that a step was made, for an optimizer without hooks, attached as None."""
        if self.attached:
            self.step += 1
            self._watch()

    def end_epoch(
        self, epoch: float | None = None, *, step: int | None = None, masks: Mapping[str, Any] | None = None
    ) -> bool:
        """Look at the masks at the end of an epoch, whether `every` and `schedule` ask for it or not.

        Parameters
        ----------
        epoch : float, optional
            Passes over the data so far; recorded with this snapshot and those that follow.
        step, masks : optional
            As for :meth:`snapshot`, for a recorder that is not attached.

        Returns
        -------
        bool
            Whether a snapshot was handed on: false if this step is recorded already, or if `on_change` holds and no
            mask has changed.

        Raises
        ------
        UsageError
            If the recorder is neither attached nor given step and masks.
        """
        if epoch is not None:
            self.epoch = float(epoch)
        if self._pipeline is None:
            return False
        if step is not None and masks is not None:
            self._join(None, masks)
            return self._looking.take(self._pipeline, step, masks, self.epoch, due=True)
        if not self.attached:
            raise UsageError("end_epoch: the recorder is not attached; attach it, or pass step=... and masks=...")
        before = self.newest
        self._watch(due=True)
        return self.newest != before

    def _hook(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Follow one optimizer step."""
        if self.when == "pre_step":
            self._watch()
            self.step += 1
        else:
            self.step += 1
            self._watch()

    def _watch(self, *, due: bool = False, always: bool = False) -> None:
        """Look, but let no error of ours stop the training: warn, once."""
        pipeline, subject = self._pipeline, self._subject
        assert pipeline is not None
        assert subject is not None
        pipeline.begin()
        try:
            if not always and self._together.compares_at(self.step, self.every) and subject.model is not None:
                self._together.warn_of_difference(pipeline, self._packed(subject), self.step)
            self._looking.look(pipeline, subject, self.step, self.epoch, due=due, always=always)
        except SiftGraphError as error:
            pipeline.warn("lost", f"training goes on, but {error}")

    def log(self, row: Mapping[str, Any]) -> None:
        """Append a row to ``metrics.jsonl``.

        Parameters
        ----------
        row : mapping
            For instance ``{"step": 100, "epoch": 1.0, "loss": 0.3, "val_accuracy": 0.9}``; numbers, texts, tensors of
            one element. What is not finite becomes null. The step of :meth:`attach` is put in if there is none.

        Raises
        ------
        RunDirectoryError
            If the recorder was closed, and another one writes to the directory now.
        """
        if self._pipeline is not None:
            self._pipeline.begin()
            self._pipeline.log({"step": self.step, **row} if self.attached else dict(row))

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer steps seen and the run's id, for a checkpoint."""
        return {"step": self.step, "run_id": self.run_id}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the step of a checkpoint; what was recorded after it is put aside.

        Parameters
        ----------
        state : mapping
            As :meth:`state_dict` gave it. One of another run is a warning where nothing is recorded yet.

        Raises
        ------
        RunDirectoryError
            If it belongs to another run, and this one holds snapshots.
        """
        self.step = int(state["step"])
        if self._pipeline is not None:
            self._pipeline.go_on_from(self.step, state.get("run_id"))

    def close(self) -> None:
        """Detach, wait until all is on disk, and raise what went wrong, if anything ever did; may be called again."""
        try:
            self.detach()
        finally:
            if self._pipeline is not None:
                self._pipeline.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        if self._handle is not None:  # training broke off: do not record a state that may be half a step
            self._handle.remove()
            self._handle = None
        try:
            self.close()
        except SiftGraphError as lost:
            logger.error("while training broke off: %s", lost)  # the error on its way says more than this one
