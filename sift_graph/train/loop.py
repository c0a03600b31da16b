"""The training loop: one pass from a configuration to a run directory.

A run is reproduced bit for bit by its configuration on one machine: initial weights come from the seed, masks from the
seed and their names, the batches, the augmentation and the dropout of an epoch from the seed and the epoch, random
growth from the seed, the name and the step. A checkpoint is written at the end of an epoch, after everything up to its
step has been recorded, so that a run that goes on from there writes what the uninterrupted one would have written.

Several processes, as ``torchrun`` starts them, share each batch out and average their gradients, so that they hold
equal weights and masks at all times; the first of them writes.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from sift_graph.errors import TrainingError, UsageError
from sift_graph.masks import LayerMask, Snapshot
from sift_graph.model_graph import trace_graph
from sift_graph.sparsify import METHODS, MaskSet, balanced_sample, layer_name
from sift_graph.store import RunWriter, WeightPolicy, write_atomically
from sift_graph.train.batches import batches, batches_per_epoch, read_ahead
from sift_graph.train.build import Blueprint, blueprint, build_model, make_masks, mask_schedule
from sift_graph.train.check import check_device, checked
from sift_graph.train.checkpoint import CHECKPOINT, save_checkpoint
from sift_graph.train.config import Config
from sift_graph.train.config_file import to_toml
from sift_graph.train.data import DATASETS, Dataset, load_data
from sift_graph.train.optimizer import clip_gradients, learning_rate, make_optimizer
from sift_graph.train.precision import Precision
from sift_graph.train.progress import Progress, Report, reporting
from sift_graph.train.ranks import Ranks, isolated, ranked
from sift_graph.train.result import CONFIG, RunResult, check_same_run, finished, mark_finished, own_checkpoint
from sift_graph.train.start import load_start

__all__ = ["run"]

logger = logging.getLogger(__name__)


def run(config: Config, out: str | os.PathLike[str], *, resume: bool = False, progress: Progress = False) -> RunResult:
    """Train one model and record its masks.

    Parameters
    ----------
    config : Config
    out : path
        The run directory, made if need be. It gets the masks at step 0, at each step of the mask schedule and at the
        end, ``metrics.jsonl`` with a row an epoch, ``config.toml``, ``checkpoint.pt``, and last ``done.json``.
    resume : bool
        Go on with the run that is there, from its last checkpoint; what it had recorded after that is put aside.
        A run that is finished is left as it is. Where there is no run yet, begin one.
    progress : bool or callable
        True for a bar on stderr where that is a terminal; a callable is called as ``progress(step, steps)`` after
        each epoch.

    Returns
    -------
    RunResult

    Raises
    ------
    UsageError
        If the configuration cannot be built; nothing is written then.
    RunDirectoryError
        If the directory holds another run, or with `resume`, a run or a checkpoint of another configuration; nothing
        is written then.
    TrainingError
        If the loss, a gradient or a weight is no longer finite. What was recorded until then stays, all of it finite.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from sift_graph.train import load_config
    >>> config = load_config(model="mlp", sets=["training.epochs=1", "masks.every=5"])
    >>> with TemporaryDirectory() as directory:
    ...     result = run(config, f"{directory}/run")
    >>> result.steps, result.ratio
    (20, 1.0)
    """
    config = checked(config)
    check_device(config.training.device)
    run_dir = Path(out)
    found = blueprint(config)
    if resume:
        check_same_run(config, run_dir)
        if (earlier := finished(run_dir)) is not None:
            return earlier
    with (
        ranked(config.training.device) as ranks,
        isolated(config, ranks),
        closing(Trainer(config, found, ranks)) as trainer,  # everything wrong with a configuration is found in here
    ):
        found = trainer.found
        about = {name: getattr(config, name) for name in ("family", "sparsity", "seed")} | {
            "method": config.method if found.is_masked else "densified" if found.is_densified else config.family,
            "model": config.model.name,
            "data": config.data.name,
        }
        state = own_checkpoint(config, run_dir) if resume else None
        ranks.wait()  # until all have looked at what is there
        writer = None
        if ranks.is_first:
            writer = RunWriter(run_dir, about, found.layer_table(), resume, exclusive=True)
            trainer.writer = writer
            write_atomically(run_dir / CONFIG, to_toml(config).encode())
            if state is None:  # a run that a study begins is asked to resume too
                record_graph(trainer, writer)
            logger.info("%s: %s MACs, %.4f of the dense model's", run_dir, f"{found.macs:,}", found.ratio)
        began = time.perf_counter()
        if resume:
            trainer.resume(run_dir, writer, state)
        with reporting(progress if ranks.is_first else False, run_dir.name) as report:
            row = trainer.train(run_dir, writer, report)
    found = replace(found, counts=trainer.edges())
    result = RunResult(
        run_dir=run_dir,
        steps=trainer.steps,
        val_accuracy=row["val_accuracy"],
        val_loss=row["val_loss"],
        ratio=found.ratio,
        effective_sparsity=found.effective_sparsity,
        seconds=time.perf_counter() - began,
    )
    if ranks.is_first:
        mark_finished(result)
    return result


def record_graph(trainer: Trainer, writer: RunWriter) -> None:
    """Write how the layers of the model hang together; a model that cannot be followed is none the worse for it."""
    inputs, _ = trainer.data.train.batch(torch.zeros(1, dtype=torch.long))
    try:
        writer.write_graph(trace_graph(trainer.model, inputs.to(trainer.ranks.device)).record())
    except UsageError as error:
        logger.warning("the network graph is not recorded: %s", error)


class Trainer:
    """Model, data, optimizer, masks and method of one run, and the step that they are at."""

    def __init__(self, config: Config, found: Blueprint, ranks: Ranks) -> None:
        self.config = config
        self.ranks = ranks
        start = load_start(config.start)
        tokenizer = None if start is None else start.tokenizer_for(config)
        self.data: Dataset = load_data(config.data, config.seed, tokenizer=tokenizer)
        self.model: nn.Module = build_model(config).to(ranks.device)
        if start is not None:
            start.fill(self.model, config.start.fresh)
        self.optimizer = make_optimizer(self.model, config.optimizer)
        samples = len(self.data.train)
        self.least = 2 * ranks.world  # batch norm cannot train on one image
        if config.training.batch_size < self.least * config.training.accumulate:
            raise UsageError(
                f"training.batch_size: {config.training.batch_size} leaves less than 2 examples for each part of each "
                f"of {ranks.world} processes; raise it or lower training.accumulate"
            )
        self.steps_per_epoch = batches_per_epoch(samples, config.training.batch_size, least=self.least)
        if not self.steps_per_epoch:
            raise UsageError(f"data.train_samples: expected {self.least} or more images to train on, found {samples}")
        self.steps = config.training.epochs * self.steps_per_epoch
        self.schedule = mask_schedule(config, self.steps)
        if start is not None and found.is_masked and config.start.masks == "keep":
            costs = {f"{name}.weight": float(cost.positions) for name, cost in found.plan.transformed.items()}
            self.masks: MaskSet | None = start.mask_set(
                self.model, found.counts, seed=config.seed, costs=costs if config.masks.compensate else None
            )
        else:
            self.masks = make_masks(config, self.model, found, evidence=self.evidence, loss=mean_loss)
        self.method = None
        self.found = found
        if self.masks is not None:
            self.found = replace(found, counts={layer_name(name): n for name, n in self.masks.counts.items()})
            self.method = METHODS[config.method].make(
                self.masks, self.optimizer, self.schedule, model=self.model, options=config.options
            )
        clip_gradients(self.optimizer, config.optimizer.clip)
        self.precision = Precision(config.training.precision, ranks.device)
        self.parallel = ranks.wrapped(self.model)
        self.layers = {cost.name: cost.groups for cost in found.plan.transformed.values()}
        self.step = self.recorded = 0
        self.writer: RunWriter | None = None
        self.row: dict[str, Any] = {}

    def evidence(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Training samples and labels on which masks are laid out, where the method asks for them."""
        examples, wanted = self.data.train, self.config.options.samples_per_class
        generator = np.random.default_rng([self.config.seed, 0, 0])  # not that of any epoch
        labels = getattr(examples, "labels", None)
        if labels is None:  # a text has no classes to balance
            chosen = torch.from_numpy(generator.permutation(len(examples))[: 10 * wanted])
        else:
            chosen = balanced_sample(torch.as_tensor(labels), wanted, generator)
        samples, targets = examples.batch(chosen)
        return samples.to(self.ranks.device), targets.to(self.ranks.device)

    def edges(self) -> dict[str, int]:
        """Weights that each recorded layer keeps now, by layer name."""
        if self.masks is None:
            return self.found.counts
        return {layer_name(name): count for name, count in self.masks.edges().items()}

    def close(self) -> None:
        """Let go of the run directory, and of what belongs to all processes: PyTorch hangs where it outlives them."""
        self.parallel = self.model
        if self.writer is not None:
            self.writer.release()

    def train(self, run_dir: Path, writer: RunWriter | None, report: Report) -> dict[str, Any]:
        """Train from the present step to the end; give the last row of metrics."""
        if self.step == 0:
            self.snapshot(writer)
        saved = time.monotonic()
        for epoch in range(self.step // self.steps_per_epoch, self.config.training.epochs):
            self.model.train()
            seeds = np.random.SeedSequence([self.config.seed, epoch, 1 + self.ranks.rank])  # 0 orders the batches
            torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))  # for dropout
            losses = []
            for inputs, labels, count in self.epoch_batches(epoch, np.random.default_rng(seeds)):
                losses.append(self.update(inputs, labels, count, run_dir))
                if self.schedule.is_update(self.step) or self.step == self.steps:
                    self.snapshot(writer)
            self.row = {
                "step": self.step,
                "epoch": epoch + 1,
                "loss": float(np.mean(losses)),
                **self.validate(),
            }
            self.row["lr"] = self.optimizer.param_groups[0]["lr"]
            if self.masks is not None:
                self.row["itop_rate"] = self.masks.itop_rate()
            if writer is not None:
                writer.append_metrics(self.row)
                if self.step == self.steps or time.monotonic() - saved >= self.config.checkpoint.seconds:
                    save_checkpoint(run_dir / CHECKPOINT, self.state_dict())
                    saved = time.monotonic()
            report(self.step, self.steps)
        return self.row

    def epoch_batches(
        self, epoch: int, generator: np.random.Generator
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
        """Give this process's inputs and labels of each batch of an epoch, and how many all processes have."""
        data, size = self.data.train.to(self.ranks.device), self.config.training.batch_size
        indices = batches(len(data), size, seed=self.config.seed, epoch=epoch, least=self.least)
        loaded = ((*data.batch(self.ranks.share(batch), generator), len(batch)) for batch in indices)
        return read_ahead(loaded) if data.is_lazy else loaded

    def update(self, inputs: torch.Tensor, labels: torch.Tensor, count: int, run_dir: Path) -> float:
        """Make one optimizer update, then let the method move the masks; give the loss, over all processes."""
        rate = learning_rate(self.config.optimizer, self.step, steps=self.steps, steps_per_epoch=self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        t = self.step + 1
        try:
            value = self.backward(inputs, labels, count)
            while not self.precision.step(self.optimizer):
                value = self.backward(inputs, labels, count)
            # Masks must not move by weights that are no numbers, nor those be recorded.
            if self.schedule.is_update(t) or t == self.steps:
                self.check_weights()
            self.step = t
            if self.method is not None:
                self.method.step(t)
        except TrainingError as error:
            raise TrainingError(
                f"{run_dir}: stopped at step {t} of {self.steps}: {error}. All snapshots up to that of step "
                f"{self.recorded} are kept"
            ) from error
        return value

    def backward(self, inputs: torch.Tensor, labels: torch.Tensor, count: int) -> float:
        """Work out the gradients of a batch; give its loss, over all processes."""
        config = self.config.training
        self.optimizer.zero_grad(set_to_none=True)
        value = 0.0
        parts = list(zip(inputs.chunk(config.accumulate), labels.chunk(config.accumulate), strict=True))
        for i, (x, y) in enumerate(parts):
            share = len(x) / count
            with self.averaging(last=i == len(parts) - 1):
                with self.precision.autocast():
                    logits, y = flattened(self.parallel(x), y)
                    loss = functional.cross_entropy(logits, y, label_smoothing=config.label_smoothing)
                value += loss.item() * share
                # Processes are averaged, parts are added up: both weighed by their examples, whole batches not at all.
                loss = loss if share == 1 else loss * (share * self.ranks.world)
                self.precision.scaled(loss).backward()  # type: ignore[no-untyped-call]
        [value] = self.ranks.total([value])
        if not math.isfinite(value):
            raise TrainingError(f"the loss is {value}; lower optimizer.lr or set optimizer.warmup_epochs")
        return value

    def check_weights(self) -> None:
        """Refuse to go on with weights that are not finite."""
        named = dict(self.model.named_parameters())
        are_finite = torch.stack([torch.isfinite(weight).all() for weight in named.values()])
        if not are_finite.all():
            name = list(named)[int((~are_finite).nonzero()[0])]
            raise TrainingError(f"{name!r} is not finite; lower optimizer.lr or set optimizer.warmup_epochs")

    def averaging(self, *, last: bool) -> AbstractContextManager[Any]:
        """Give the context of a backward pass: processes average gradients at the last part of a batch only."""
        if isinstance(self.parallel, nn.parallel.DistributedDataParallel) and not last:
            return self.parallel.no_sync()
        return nullcontext()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss and accuracy on the validation examples; of a text, the perplexity too."""
        self.ranks.spread_buffers(self.model)
        self.model.eval()
        data = self.data.validation.to(self.ranks.device)
        is_text = DATASETS[self.config.data.name].kind == "tokens"
        size = 512  # of small images; of anything else, what fits while training
        if is_text or data.is_lazy:
            size = max(1, self.config.training.batch_size // (self.config.training.accumulate * self.ranks.world))
        loss, right, count = 0.0, 0, 0
        for indices in torch.split(self.ranks.share(torch.arange(len(data))), size):
            inputs, labels = data.batch(indices)
            with self.precision.autocast():
                logits, labels = flattened(self.model(inputs), labels)
                loss += functional.cross_entropy(logits, labels, reduction="sum").item()
            right += int((logits.argmax(1) == labels).sum())
            count += labels.numel()
        loss, hits, total = self.ranks.total([loss, right, count])
        metrics = {"val_loss": loss / total, "val_accuracy": hits / total}
        return metrics | ({"val_perplexity": math.exp(min(loss / total, 700.0))} if is_text else {})

    def snapshot(self, writer: RunWriter | None) -> None:
        """Record the masks and weights of this step; those of the dense family are all ones."""
        masks: Mapping[str, torch.Tensor] = self.masks.masks() if self.masks is not None else {}
        layers = {}
        for name, groups in self.layers.items():
            weight = cast(torch.Tensor, self.model.get_submodule(name).weight)
            mask = masks.get(name)
            source = "dense" if mask is None else "mask_set"
            if mask is None:
                mask = torch.ones_like(weight, dtype=torch.bool)
            layers[name] = LayerMask.from_dense(name, mask, weight, groups=groups, source=source)
        digests = [layers[name].digest for name in layers] if self.ranks.world > 1 else []
        self.ranks.check_equal(digests, f"the masks at step {self.step}")
        self.recorded = self.step
        policy = cast(WeightPolicy, self.config.record.weights)
        if writer is None:
            return
        writer.write_snapshot(Snapshot(self.step, layers, self.step / self.steps_per_epoch), weights=policy)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs, in plain tensors and numbers."""
        return {
            "config": to_toml(self.config),
            "step": self.step,
            "row": self.row,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "masks": None if self.masks is None else self.masks.state_dict(),
            "precision": self.precision.state_dict(),
            "byte_pairs": None if self.data.tokenizer is None else torch.tensor(self.data.tokenizer.merges),
        }

    def resume(self, run_dir: Path, writer: RunWriter | None, state: Mapping[str, Any] | None) -> None:
        """Go on from a checkpoint, or from step 0 where there is none; put later recordings aside."""
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.masks is not None:
                self.masks.load_state_dict(state["masks"])
            self.precision.load_state_dict(state.get("precision", {}))
            self.step, self.row = state["step"], state["row"]
            self.recorded = max([step for step in self.schedule.updates if step <= self.step], default=0)
        self.ranks.wait()  # until all have read what the first may write anew
        if writer is not None:
            writer.rewind(self.step if state is not None else -1)
            logger.info("%s: resumed at step %d of %d", run_dir, self.step, self.steps)


def mean_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy that weights are scored by before training, a mean over all labels of a batch."""
    return functional.cross_entropy(*flattened(logits, labels))


def flattened(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Put the positions of a text beside each other, as if each were an example."""
    return logits.flatten(0, -2), labels.flatten()
