"""What a configuration must satisfy before anything is built or written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from sift_graph.errors import UsageError, did_you_mean
from sift_graph.ift import FAMILIES
from sift_graph.sparsify import DISTRIBUTIONS, LAYOUTS, METHODS
from sift_graph.train.config import Config, ModelConfig
from sift_graph.train.data import DATASETS, check_data
from sift_graph.train.models import MODELS
from sift_graph.train.optimizer import LR_SCHEDULES, OPTIMIZERS
from sift_graph.train.precision import PRECISIONS
from sift_graph.train.start import START_MASKS

__all__ = ["check_device", "checked"]


def checked(config: Config, *, where: str = "") -> Config:
    """Refuse a configuration that names what does not exist, or whose values do not fit.

    Parameters
    ----------
    config : Config
    where : str
        Begins the error messages.

    Returns
    -------
    Config
        The same, with what was left to the model filled in.

    Raises
    ------
    UsageError
        With the key, what was found and what was expected.
    """
    for key, value, known in (
        ("family", config.family, FAMILIES),
        ("method", config.method, METHODS),
        ("model.name", config.model.name, MODELS),
        ("data.name", config.data.name, DATASETS),
        ("masks.distribution", config.masks.distribution, DISTRIBUTIONS),
        ("masks.init", config.masks.init, ("own", *LAYOUTS)),
        ("optimizer.name", config.optimizer.name, OPTIMIZERS),
        ("optimizer.schedule", config.optimizer.schedule, LR_SCHEDULES),
        ("start.masks", config.start.masks, START_MASKS),
        ("training.precision", config.training.precision, PRECISIONS),
        ("record.weights", config.record.weights, ("none", "fp16", "fp32")),
    ):
        check_name(key, value, known, where)
    masks, optimizer, training = config.masks, config.optimizer, config.training
    bounds: tuple[tuple[str, bool, object, str], ...] = (
        (
            "sparsity",
            0 <= config.sparsity < 1,
            config.sparsity,
            "at least 0 and below 1, a fraction of zeros",
        ),
        ("seed", config.seed >= 0, config.seed, "0 or more"),
        ("masks.every", masks.every >= 1, masks.every, "1 or more"),
        ("masks.begin", masks.begin >= 0, masks.begin, "0 or more"),
        ("masks.stop", 0 < masks.stop <= 1, masks.stop, "above 0 and at most 1, a fraction of the training"),
        ("masks.drop_fraction", 0 <= masks.drop_fraction <= 1, masks.drop_fraction, "in [0, 1]"),
        ("optimizer.lr", optimizer.lr > 0, optimizer.lr, "above 0"),
        ("optimizer.momentum", 0 <= optimizer.momentum < 1, optimizer.momentum, "in [0, 1)"),
        ("optimizer.weight_decay", optimizer.weight_decay >= 0, optimizer.weight_decay, "0 or more"),
        (
            "optimizer.betas",
            len(optimizer.betas) == 2 and all(0 <= beta < 1 for beta in optimizer.betas),
            optimizer.betas,
            "two numbers in [0, 1)",
        ),
        ("optimizer.eps", optimizer.eps > 0, optimizer.eps, "above 0"),
        ("optimizer.clip", optimizer.clip >= 0, optimizer.clip, "0 or more"),
        ("optimizer.final", 0 <= optimizer.final <= 1, optimizer.final, "in [0, 1], a fraction of optimizer.lr"),
        (
            "optimizer.milestones",
            all(0 < milestone <= 1 for milestone in optimizer.milestones),
            optimizer.milestones,
            "fractions of the training, above 0 and at most 1",
        ),
        (
            "optimizer.warmup_epochs",
            optimizer.warmup_epochs <= training.epochs,
            optimizer.warmup_epochs,
            f"at most training.epochs, {training.epochs}",
        ),
        ("optimizer.gamma", optimizer.gamma > 0, optimizer.gamma, "above 0"),
        ("optimizer.warmup_epochs", optimizer.warmup_epochs >= 0, optimizer.warmup_epochs, "0 or more"),
        ("training.epochs", training.epochs >= 1, training.epochs, "1 or more"),
        ("training.batch_size", training.batch_size >= 2, training.batch_size, "2 or more, for batch norm"),
        (
            "training.accumulate",
            1 <= training.accumulate <= training.batch_size // 2,
            training.accumulate,
            "1 or more, with 2 or more examples a part",
        ),
        (
            "training.label_smoothing",
            0 <= training.label_smoothing < 1,
            training.label_smoothing,
            "in [0, 1)",
        ),
        ("training.threads", training.threads >= 1, training.threads, "1 or more"),
        ("checkpoint.seconds", config.checkpoint.seconds >= 0, config.checkpoint.seconds, "0 or more"),
    )
    for key, good, found, expected in bounds:
        if not good:
            raise UsageError(f"{where}{key}: expected {expected}, found {found}")
    method = METHODS[config.method]
    method.scope(config.options)
    if method.init != "random" and config.masks.init not in ("own", method.init):
        raise UsageError(
            f"{where}masks.init: method {config.method!r} begins with masks of its own, found {config.masks.init!r}; "
            "leave masks.init out"
        )
    if config.start.checkpoint and config.start.masks == "keep" and method.init != "random":
        raise UsageError(
            f"{where}start.masks: method {config.method!r} begins with masks of its own, found 'keep'; choose another "
            "method, or start.masks='draw'"
        )
    check_data(config.data, where=where)
    n, m = config.options.pattern
    if config.method == "nm" and FAMILIES[config.family].is_masked and abs(1 - n / m - config.sparsity) > 1e-9:
        raise UsageError(
            f"{where}options.pattern: {n}:{m} keeps {n} of {m}, a sparsity of {1 - n / m:g}, found {config.sparsity}; "
            f"ask for --sparsity {1 - n / m:g} or for another pattern"
        )
    check_device_name(training.device, where)
    if optimizer.name == "sgd" and optimizer.nesterov and optimizer.momentum == 0:
        raise UsageError(f"{where}optimizer.nesterov: needs momentum above 0; set optimizer.nesterov=false")
    try:
        config.ift.resolved(config.family)
    except UsageError as error:
        raise UsageError(f"{where}ift: {error}") from error
    if not FAMILIES[config.family].takes_sparsity and config.sparsity:
        raise UsageError(
            f"{where}sparsity: the family {config.family!r} has sparsity 0, found {config.sparsity}; "
            "choose a sparse family (--family sparse_wide) or leave the sparsity out"
        )
    return replace(config, model=checked_model(config, where))


def checked_model(config: Config, where: str) -> ModelConfig:
    """Refuse model options that do not fit the model or the data; fill in the model's own."""
    model, own, data = config.model, MODELS[config.model.name], DATASETS[config.data.name]
    if own.reads != data.kind:
        names = [name for name, source in DATASETS.items() if source.kind == own.reads]
        raise UsageError(
            f"{where}model.name: {model.name!r} reads {own.reads}, the data set {config.data.name!r} gives "
            f"{data.kind}; choose one of the data sets {', '.join(names)}"
        )
    bounds: tuple[tuple[str, bool, object, str], ...] = (
        ("width", model.width >= 0, model.width, "1 or more, or 0 for the model's own"),
        ("depths", all(n >= 1 for n in model.depths), model.depths, "1 or more in each stage"),
        (
            "depths",
            not own.most_depths or len(model.depths) <= own.most_depths,
            model.depths,
            f"at most {own.most_depths} stages for {model.name!r}",
        ),
        (
            "heads",
            model.heads == 0 or (own.heads > 0 and model.heads > 0),
            model.heads,
            "1 or more, or 0 for the model's own" if own.heads else f"0, for {model.name!r} has no attention",
        ),
        (
            "dropout",
            model.dropout == 0 or (own.has_dropout and 0 <= model.dropout < 1),
            model.dropout,
            "in [0, 1)" if own.has_dropout else f"0, for {model.name!r} has no dropout",
        ),
    )
    for key, good, found, expected in bounds:
        if not good:
            raise UsageError(f"{where}model.{key}: expected {expected}, found {found}")
    return replace(
        model,
        width=model.width or own.width,
        depths=model.depths or own.depths,
        heads=model.heads or own.heads,
    )


def check_device_name(device: str, where: str) -> None:
    """Refuse what is no device, on any machine."""
    try:
        if torch.device(device).type == "meta":
            raise RuntimeError("it holds no numbers")
    except RuntimeError as error:
        raise UsageError(no_device(device, error, where)) from error


def check_device(device: str, *, where: str = "") -> None:
    """Refuse a device that this machine does not have: before a run, not before a description of one.

    Parameters
    ----------
    device : str
    where : str
        Begins the error message.

    Raises
    ------
    UsageError
        If nothing can be computed there.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a PyTorch built without CUDA
        raise UsageError(no_device(device, error, where)) from error


def no_device(device: str, error: Exception, where: str) -> str:
    """Say what is wrong with a device."""
    first = str(error).splitlines()[0]
    return f"{where}training.device: cannot use {device!r} ({first}); expected cpu or cuda: --set training.device=cpu"


def check_name(key: str, value: str, known: Iterable[str], where: str) -> None:
    """Refuse a name that is in no table, and suggest one."""
    known = list(known)
    if value not in known:
        raise UsageError(f"{where}{key}: unknown {key.removesuffix('.name')} {value!r}{did_you_mean(value, known)}")
