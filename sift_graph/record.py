"""Record the masks of a training run, from inside any training loop, without touching it.

The training thread looks the masks up, packs and hashes them, and copies the weights that they keep. A background
thread compresses and writes, behind a bounded queue. The recorder draws no random number, changes no tensor and holds
the model by a weak reference.

Set ``SIFT_GRAPH_DISABLED=1`` in the environment to turn every recorder into one that does nothing.
"""

from __future__ import annotations

import logging
import os
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from sift_graph.background import BackgroundWriter
from sift_graph.errors import MaskError, RunDirectoryError, SiftGraphError, UsageError
from sift_graph.masks import LayerMask, Snapshot, layer_name, match_layers
from sift_graph.ranks import ALONE, check_equal, find_place, is_sharded, join, local_part, unwrapped
from sift_graph.store import RunWriter, ShardWriter, SilentWriter, WeightPolicy

if TYPE_CHECKING:
    import torch

__all__ = ["MaskRecorder", "RecorderWarning"]

logger = logging.getLogger(__name__)

DISABLED = "SIFT_GRAPH_DISABLED"


class RecorderWarning(UserWarning):
    """Something about a recording that the user should know while training goes on."""


class MaskRecorder:
    """Record the masks of one training run into one run directory.

    Parameters
    ----------
    run_dir : path
        Made if need be.
    source : str
        Where to look for masks: ``"auto"``, or a name in :data:`sift_graph.sources.SOURCES`, such as ``"weight!=0"``.
    layers : str, optional
        Globs of layer names to record, separated by commas; all if not given.
    every : int, optional
        Look at the masks every so many optimizer steps; at each step if not given, which hashes every mask at every
        step.
    on_change : bool
        Of the steps looked at, record only those at which a mask differs from the last one recorded (by hash, never
        by a library's flag). With False, all of them: so the weights of a static mask get a history too.
    weights : {"none", "fp16", "fp32"}
        How the weights under the masks are stored with each snapshot. In fp16 they take three times the space of the
        masks at a tenth of the weights kept.
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
    check_ranks : bool or int
        Under data parallelism, compare the masks of all processes whenever they are looked at, or every so many steps:
        what differs is an error at :meth:`attach` and a warning later. The processes exchange hashes, so all must
        train on in step.
    ranks : {"together", "each"}
        With ``"together"`` the processes of ``torch.distributed`` record one run: the first one does, and the others do
        nothing; or each its own part, where parameters are shared out (``fully_shard``). With ``"each"`` this process
        records a run of its own.
    policy : {"block", "drop"}
        What to do when the queue is full: let training wait, or drop the snapshot, count it in :attr:`dropped` and
        warn.

    Attributes
    ----------
    dropped : int
        Snapshots dropped because the queue was full.
    step : int
        Optimizer steps done so far, while attached.
    epoch : float or None
        Set it in your loop to have it recorded with the snapshots taken while attached.

    Raises
    ------
    RunDirectoryError
        If `run_dir` holds another run and `resume` is false, or something else than a run, or cannot be written to.
    UsageError
        If an option is not one of those above.

    Notes
    -----
    An error of the background thread, a full disk for instance, does not stop training: a hook warns, and the next
    call by hand (:meth:`snapshot`, :meth:`log`, :meth:`flush`) and :meth:`close` raise it. What was recorded before
    stays whole, and later snapshots are tried again.

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
        layers: str | None = None,
        every: int | None = None,
        on_change: bool = True,
        weights: WeightPolicy = "fp16",
        when: Literal["post_step", "pre_step"] = "post_step",
        resume: bool = False,
        about: Mapping[str, Any] | None = None,
        layer_table: Sequence[Mapping[str, Any]] | None = None,
        example_input: Any = None,
        queue_size: int = 2,
        policy: Literal["block", "drop"] = "block",
        check_ranks: bool | int = False,
        ranks: Literal["together", "each"] = "together",
    ) -> None:
        _check_choice("weights", weights, ("none", "fp16", "fp32"))
        _check_choice("when", when, ("post_step", "pre_step"))
        _check_choice("policy", policy, ("block", "drop"))
        _check_choice("ranks", ranks, ("together", "each"))
        if check_ranks < 0:
            raise UsageError(f"check_ranks: expected True, or every how many steps, found {check_ranks}")
        if every is not None and every < 1:
            raise UsageError(f"every: expected 1 or more optimizer steps, found {every}; leave it out for each step")
        if queue_size < 1:
            raise UsageError(f"queue_size: expected 1 or more snapshots, found {queue_size}")
        self.run_dir = Path(run_dir).absolute()  # some training scripts change the working directory
        self.source = source
        self.layers = layers
        self.every = every
        self.on_change = on_change
        self.weights: WeightPolicy = weights
        self.when = when
        self.policy = policy
        self.example_input = example_input
        self.dropped = 0
        self.step = 0
        self.epoch: float | None = None
        self._resume = resume
        self._digests: dict[str, str] = {}  # of the last snapshot, on disk or handed on
        self._newest: int | None = None  # step of the last snapshot, on disk or handed on
        self._masks: Any = None
        self._model: weakref.ref[Any] | None = None
        self._optimizer: weakref.ref[Any] | None = None
        self._handle: Any = None
        self._warned = False
        self._differing: set[str] = set()
        self.check_ranks = check_ranks
        self._queue_size = queue_size
        self._together = ranks == "together"
        self._place = find_place() if self._together else ALONE
        self._has_joined = self._place.world == 1
        self._writer: RunWriter | ShardWriter | SilentWriter | None = None
        self._background: BackgroundWriter | None = None
        if os.environ.get(DISABLED, "0") not in ("", "0"):
            logger.info("%s is set: nothing is recorded in %s", DISABLED, self.run_dir)
            self._has_joined = True
            return
        if self._place.rank > 0:
            logger.info("rank %d of %d: rank 0 records in %s", self._place.rank, self._place.world, self.run_dir)
            return
        settings = {"source": source, "layers": layers, "every": every, "on_change": on_change, "when": when}
        self._writer = RunWriter(
            self.run_dir,
            about=about or {},
            layers=layer_table or (),
            resume=resume,
            recorder={**settings, "weights": weights, "policy": policy},
        )
        self._newest, self._digests = self._writer.newest, self._writer.digests
        self._background = BackgroundWriter(queue_size)

    @property
    def enabled(self) -> bool:
        """Whether anything is recorded; false if ``SIFT_GRAPH_DISABLED`` was set, or if another process does."""
        return self._background is not None

    @property
    def newest(self) -> int | None:
        """Step of the newest snapshot, on disk or handed on; None before the first."""
        return self._newest

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
            If the model has no masks, or one is not 0/1, or, with `check_ranks`, if processes differ in one.
        RunDirectoryError
            If a later step is recorded already and the recorder was not made with ``resume=True``.
        """
        self._join(model, masks)
        if self._background is None or self._writer is None:
            return self
        if self.attached:
            if self._get_model() is model and self._get_optimizer() is optimizer:
                return self
            raise UsageError("the recorder is attached to another model or optimizer; call detach() first")
        hook = "register_step_post_hook" if self.when == "post_step" else "register_step_pre_hook"
        hooked = _innermost(optimizer)
        if optimizer is not None and not hasattr(hooked, hook):
            raise UsageError(
                f"expected a torch.optim.Optimizer, found {type(optimizer).__name__}, which has no {hook}; "
                "call recorder.snapshot(step, masks) in the training loop instead"
            )
        from sift_graph.sources import layer_table

        self._background.surface()
        self._model, self._masks = weakref.ref(model), masks
        self._optimizer = None if optimizer is None else weakref.ref(optimizer)
        self.step = step if step is not None else (self._newest or 0)
        try:
            if self._newest is not None and self.step < self._newest:
                if not self._resume:
                    raise RunDirectoryError(
                        f"{self.run_dir}: step {self._newest} is recorded already, so a recording cannot begin at step "
                        f"{self.step}; pass step=..., or make the recorder with resume=True to put the rest aside"
                    )
                self.rewind(self.step)
            if self._newest is None and not self._writer.layers:
                writer, table = self._writer, layer_table(model)
                self._background.put(lambda: writer.write_layers(table), "the layer table")
            if self._newest is None and self.example_input is not None:
                self._record_graph(model)
            self._look(first=True)
            self._handle = _NoHook() if optimizer is None else getattr(hooked, hook)(self._hook)
        except BaseException:
            self.detach()
            raise
        return self

    def _join(self, model: Any, masks: Any) -> None:
        """Take part in what the other processes do, if there are any: record a part, or compare."""
        now = find_place() if self._together else ALONE
        if now.world > 1 and now != self._place:
            raise UsageError(
                f"the recorder was made before this process knew to be rank {now.rank} of {now.world}; make it after "
                "init_process_group(), or with ranks='each' if each process records a run of its own"
            )
        sharded = not self._has_joined and is_sharded(model, masks)
        if self._has_joined or not (sharded or self.check_ranks):
            return
        if sharded and model is not None and self.every is None and self.on_change:
            raise UsageError(
                "every: the parameters are shared out over processes, none of which knows whether a mask changed on "
                "another; say every how many steps to record (every=100), or on_change=False for each step"
            )
        if sharded and self.policy == "drop":
            raise UsageError("policy: a snapshot that one process drops is lost for all; use policy='block'")
        writer = self._writer if isinstance(self._writer, RunWriter) else None
        self._writer = join(self._place, self.run_dir, writer, sharded=sharded, resume=self._resume)
        self._has_joined = True
        self.on_change = self.on_change and not sharded
        self._newest, self._digests = self._writer.newest, self._writer.digests
        if self._background is None:
            self._background = BackgroundWriter(self._queue_size)

    def _record_graph(self, model: Any) -> None:
        """Write how the layers of the model hang together, or warn that it cannot be seen."""
        assert self._background is not None
        assert self._writer is not None
        from sift_graph.model_graph import trace_graph

        try:
            record, writer = trace_graph(unwrapped(model), self.example_input).record(), self._writer
        except UsageError as error:
            warnings.warn(f"the network graph is not recorded: {error}", RecorderWarning, stacklevel=3)
            return
        self._background.put(lambda: writer.write_graph(record), "the network graph")

    def detach(self) -> None:
        """Stop following the optimizer, let go of everything, and record where it stands; may be called again.

        The last step is recorded even if `every` would leave it out, so that the final masks and weights are there.
        """
        following, self._handle = self._handle, None
        try:
            if following is not None:
                following.remove()
                if self._get_model() is not None and self.step != self._newest:
                    self._watch(last=True)
        finally:
            self._model = self._optimizer = self._masks = None

    def _get_model(self) -> Any:
        return None if self._model is None else self._model()

    def _get_optimizer(self) -> Any:
        return None if self._optimizer is None else self._optimizer()

    def after_step(self) -> None:
        """Say that a step was made, for an optimizer without hooks, attached as None."""
        if self.attached:
            self.step += 1
            self._watch()

    def _hook(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Follow one optimizer step."""
        if self.when == "pre_step":
            self._watch()
            self.step += 1
        else:
            self.step += 1
            self._watch()

    def _watch(self, *, last: bool = False) -> None:
        """Look, but let no error of ours stop the training: warn, once."""
        assert self._background is not None
        acts: tuple[Callable[[], None], ...] = (self._background.surface, partial(self._look, last=last))
        for act in acts:
            try:
                act()
            except SiftGraphError as error:
                if not self._warned:
                    self._warned = True
                    warnings.warn(f"training goes on, but {error}", RecorderWarning, stacklevel=3)

    def _look(self, *, first: bool = False, last: bool = False) -> None:
        """Take a snapshot of the model if one is due."""
        model = self._get_model()
        if model is None:
            return
        if self.check_ranks and not last and self._place.world > 1:
            self._compare(model, first=first)
        due = first or last or self.every is None or self.step % self.every == 0
        if not due or self.step == self._newest:
            return
        if self.on_change and not (first or last) and not self._changed(self._find(model, weights=False)):
            return
        found = self._find(model, weights=self.weights != "none")
        self._hand_on(Snapshot(self.step, found, self.epoch))

    def _compare(self, model: Any, *, first: bool) -> None:
        """Compare the masks with those of the other processes, if that is due."""
        every = (self.every or 1) if self.check_ranks is True else int(self.check_ranks)
        if not first and self.step % every:
            return
        try:
            check_equal(self._place, self._find(model, weights=False), self.step)
        except MaskError as error:
            if first:
                raise
            what = str(error).partition(": ")[2]
            if what not in self._differing:
                self._differing.add(what)
                warnings.warn(f"training goes on, but {error}", RecorderWarning, stacklevel=4)

    def _find(self, model: Any, *, weights: bool) -> dict[str, LayerMask]:
        from sift_graph.sources import FROM_ZEROS, find_masks

        return find_masks(
            model,
            self._get_optimizer(),
            masks=self._masks,
            layers=self.layers,
            source=self.source,
            from_zeros=self.source == FROM_ZEROS,
            weights=weights,
        )

    def _changed(self, layers: Mapping[str, LayerMask]) -> bool:
        assert self._background is not None
        assert self._writer is not None
        if self._background.lost:  # a snapshot never reached the disk: forget what it held
            self._background.wait()
            self._digests, self._newest = {}, self._writer.newest
        return any(self._digests.get(name) != layer.digest for name, layer in layers.items())

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
            Obey `every` and `on_change`, as hooks do. By default what is handed over is recorded.

        Returns
        -------
        bool
            Whether a snapshot was handed on: false if the recorder is disabled, if the queue was full and the policy
            is ``"drop"``, if it is not due, or if this step is recorded already, with the same masks.

        Raises
        ------
        MaskError
            If a mask is not one, or, with `check_ranks`, if processes differ in one.
        UsageError
            If `masks` is not a mapping, two masks belong to the same layer, or no layer matches `layers`.
        RunDirectoryError
            If the step is recorded already with other masks, or is earlier than the newest one; or if an earlier
            snapshot could not be written.
        """
        if isinstance(masks, Mapping):
            self._join(None, masks)
        if self._background is None:
            return False
        self._background.surface()
        if not isinstance(masks, Mapping):
            raise UsageError(
                f"masks: expected a mapping of layer names to masks, found {type(masks).__name__}; for a model, pass "
                "sift_graph.sources.find_masks(model)"
            )
        given = {mask.layer if isinstance(mask, LayerMask) else layer_name(n): mask for n, mask in masks.items()}
        if len(given) < len(masks):
            raise UsageError(f"step {step}: two of the masks belong to the same layer; known: {', '.join(given)}")
        layers = {name: _as_layer_mask(name, given[name]) for name in match_layers(list(given), self.layers)}
        snapshot = Snapshot(step, layers, epoch)
        if self.check_ranks and self._place.world > 1:
            check_equal(self._place, layers, step)
        changed = self._changed(layers)
        if snapshot.step == self._newest and not changed:
            return False
        if if_due and ((self.every and step % self.every) or (self.on_change and not changed)):
            return False
        if self._newest is not None and snapshot.step <= self._newest:
            raise RunDirectoryError(
                f"{self.run_dir}: step {self._newest} is recorded already, so step {snapshot.step} cannot follow with "
                "these masks; number the snapshots by optimizer steps, or go back with recorder.rewind(step)"
            )
        return self._hand_on(snapshot)

    def _hand_on(self, snapshot: Snapshot) -> bool:
        assert self._background is not None
        assert self._writer is not None
        if self._newest is None:
            _warn_if_all_ones(snapshot)
        writer, weights = self._writer, self.weights
        put = self._background.put(
            lambda: writer.write_snapshot(snapshot, weights=weights),
            f"the snapshot of step {snapshot.step}",
            wait=self.policy == "block",
        )
        if not put:
            self.dropped += 1
            if self.dropped == 1:
                warnings.warn(
                    f"the disk is slower than the training: the snapshot of step {snapshot.step} was dropped, and so "
                    "will be others (recorder.dropped counts them); record less often, without weights, or with "
                    "policy='block'",
                    RecorderWarning,
                    stacklevel=3,
                )
            return False
        self._digests = {name: layer.digest for name, layer in snapshot.layers.items()}
        self._newest = snapshot.step
        return True

    def log(self, row: Mapping[str, Any]) -> None:
        """Append a row to ``metrics.jsonl``.

        Parameters
        ----------
        row : mapping
            For instance ``{"step": 100, "epoch": 1.0, "loss": 0.3, "val_accuracy": 0.9}``; numbers, texts, tensors of
            one element. What is not finite becomes null. The step of :meth:`attach` is put in if there is none.
        """
        if self._background is None or self._writer is None:
            return
        self._background.surface()
        numbered = {"step": self.step, **row} if self.attached else dict(row)
        writer, line = self._writer, RunWriter.encode_metrics(numbered)  # now: a tensor may change before it is written
        self._background.put(lambda: writer.append_line(line), f"the metrics of step {numbered.get('step')}")

    def rewind(self, step: int) -> None:
        """Put aside what was recorded after `step`, for a job that goes on from there; nothing is deleted.

        Parameters
        ----------
        step : int
            The last step that stays.
        """
        if self._background is None or self._writer is None:
            return
        self.flush()
        self._writer.rewind(step)  # the background thread has nothing to do, so this one may use the writer
        self._newest, self._digests = self._writer.newest, self._writer.digests

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer steps seen, for a checkpoint."""
        return {"step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the step of a checkpoint; what was recorded after it is put aside.

        Parameters
        ----------
        state : mapping
            As :meth:`state_dict` gave it.
        """
        self.step = int(state["step"])
        if self._newest is not None and self.step < self._newest:
            self.rewind(self.step)

    def flush(self) -> None:
        """Wait until all that was handed on is on disk, and raise what went wrong since the last call."""
        if self._background is not None:
            self._background.wait()
            self._background.surface()

    def close(self) -> None:
        """Detach, wait until all is on disk, and raise what went wrong, if anything ever did; may be called again."""
        try:
            self.detach()
        finally:
            if self._background is not None:
                self._background.close()

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


class _NoHook:
    """Stands for the hook of an optimizer that has none."""

    def remove(self) -> None:
        """Have nothing to remove."""


def _innermost(optimizer: Any) -> Any:
    """Go through wrappers that look like optimizers but have no hooks of their own (Accelerate's) to the real one."""
    while not hasattr(optimizer, "_optimizer_step_post_hooks") and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def _check_choice(option: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise UsageError(f"{option}: expected one of {', '.join(map(repr, known))}, found {value!r}")


def _as_layer_mask(name: str, mask: Any) -> LayerMask:
    if isinstance(mask, LayerMask):
        return mask
    mask, weight = mask if isinstance(mask, tuple) and len(mask) == 2 else (mask, None)
    mask, weight, part = local_part(name, mask, weight)
    return LayerMask.from_dense(name, mask, weight, part=part)


def _warn_if_all_ones(snapshot: Snapshot) -> None:
    """Say so when nothing is sparse at the first snapshot; a layer that calls itself dense is meant to be."""
    sparse = [layer for layer in snapshot if layer.source != "dense" and layer.size]
    if sparse and all(layer.edges == layer.size for layer in sparse):
        warnings.warn(
            f"at step {snapshot.step} every entry of all {len(sparse)} masks is 1: nothing is pruned yet. If sparsity "
            "comes later all is well; if not, check that the pruning is applied to this model",
            RecorderWarning,
            stacklevel=4,
        )
