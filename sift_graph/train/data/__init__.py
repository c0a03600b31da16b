"""The data sets: a registry by name. Nothing is downloaded; what is missing gets an error that says what to put where.

:func:`data_spec` says what the examples look like without reading them, :func:`load_data` reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Literal

from sift_graph.errors import UsageError, did_you_mean
from sift_graph.train.config import DataConfig
from sift_graph.train.data.augment import AUGMENTATIONS
from sift_graph.train.data.bpe import BPE
from sift_graph.train.data.cifar import CIFAR10, CIFAR100, load_cifar
from sift_graph.train.data.digits import load_digits
from sift_graph.train.data.examples import Dataset, Examples
from sift_graph.train.data.folder import IMAGE_SIZE, class_names, load_folder
from sift_graph.train.data.shapes import OUTLINES, SHAPES_SIZE, TEXTURES, load_shapes
from sift_graph.train.data.text import BPE_VOCABULARY, SEQUENCE_LENGTH, load_stdlib, load_text, load_wikitext103

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "TOKENIZERS",
    "DataSpec",
    "Dataset",
    "DatasetSource",
    "Examples",
    "check_data",
    "data_spec",
    "load_data",
]

TOKENIZERS = ("bytes", "bpe")
Kind = Literal["images", "tokens"]

IMAGES = ("augment", "crop_padding", "cutout_size")
TOKENS = ("validation_samples", "tokenizer", "vocabulary", "sequence_length")


@dataclass(frozen=True)
class DataSpec:
    """What one example looks like.

    Attributes
    ----------
    shape : tuple of int
        Channels, height and width of an image; the length of a stretch of tokens.
    classes : int
        Of the labels: tokens that there are, for a text.
    """

    shape: tuple[int, ...]
    classes: int


@dataclass(frozen=True)
class DatasetSource:
    """One data set, before it is loaded.

    Attributes
    ----------
    kind : {"images", "tokens"}
    spec : callable
        ``spec(config) -> DataSpec``.
    load : callable
        ``load(config, seed) -> Dataset``; of texts, ``load(config, seed, tokenizer)`` too.
    options : tuple of str
        Fields of :class:`DataConfig` that it heeds, beside ``name``, ``seed`` and ``train_samples``.
    """

    kind: Kind
    spec: Callable[[DataConfig], DataSpec]
    load: Callable[..., Dataset]
    options: tuple[str, ...]


def shapes_spec(config: DataConfig) -> DataSpec:
    """Describe the images of shapes."""
    return DataSpec((3, SHAPES_SIZE, SHAPES_SIZE), config.classes or len(OUTLINES) * len(TEXTURES))


def folder_spec(config: DataConfig) -> DataSpec:
    """Describe the images of a tree; its folders are counted unless the number of classes is given."""
    size = config.image_size or IMAGE_SIZE
    return DataSpec((3, size, size), config.classes or len(class_names(config)))


def text_spec(config: DataConfig) -> DataSpec:
    """Describe the stretches of a text."""
    vocabulary = (config.vocabulary or BPE_VOCABULARY) if config.tokenizer == "bpe" else 256
    return DataSpec((config.sequence_length or SEQUENCE_LENGTH,), vocabulary)


DATASETS: dict[str, DatasetSource] = {
    "digits": DatasetSource("images", lambda config: DataSpec((1, 8, 8), 10), load_digits, ("noise", *IMAGES)),
    "shapes": DatasetSource("images", shapes_spec, load_shapes, ("noise", "classes", "validation_samples", *IMAGES)),
    "cifar10": DatasetSource(
        "images", lambda config: DataSpec((3, 32, 32), 10), partial(load_cifar, CIFAR10), ("path", *IMAGES)
    ),
    "cifar100": DatasetSource(
        "images", lambda config: DataSpec((3, 32, 32), 100), partial(load_cifar, CIFAR100), ("path", *IMAGES)
    ),
    "folder": DatasetSource(
        "images", folder_spec, load_folder, ("path", "classes", "image_size", "workers", "augment", "cutout_size")
    ),
    "text": DatasetSource("tokens", text_spec, load_text, ("path", *TOKENS)),
    "stdlib": DatasetSource("tokens", text_spec, load_stdlib, TOKENS),
    "wikitext103": DatasetSource("tokens", text_spec, load_wikitext103, ("path", *TOKENS)),
}


def check_data(config: DataConfig, *, where: str = "") -> None:
    """Refuse data options that do not exist, do not fit, or mean nothing to the data set.

    Parameters
    ----------
    config : DataConfig
        Its name is known.
    where : str
        Begins the error messages.

    Raises
    ------
    UsageError
        With the key, what was found and what was expected.
    """
    known = ("name", "seed", "train_samples", *DATASETS[config.name].options)
    for option in fields(DataConfig):
        if option.name not in known and getattr(config, option.name) != option.default:
            raise UsageError(
                f"{where}data.{option.name}: means nothing to the data set {config.name!r}; it heeds "
                f"{', '.join(known[1:])}"
            )
    for kind in config.augment:
        if kind not in AUGMENTATIONS:
            raise UsageError(f"{where}data.augment: unknown augmentation {kind!r}{did_you_mean(kind, AUGMENTATIONS)}")
    if config.tokenizer not in TOKENIZERS:
        raise UsageError(
            f"{where}data.tokenizer: unknown tokenizer {config.tokenizer!r}{did_you_mean(config.tokenizer, TOKENIZERS)}"
        )
    pairs = len(OUTLINES) * len(TEXTURES)
    bounds: tuple[tuple[str, bool, object, str], ...] = (
        ("train_samples", config.train_samples >= 0, config.train_samples, "0 or more"),
        ("validation_samples", config.validation_samples >= 0, config.validation_samples, "0 or more"),
        ("noise", config.noise >= 0, config.noise, "0 or more"),
        ("seed", config.seed >= -1, config.seed, "0 or more, or -1 for the run's seed"),
        (
            "classes",
            config.classes == 0 or 2 <= config.classes <= (pairs if config.name == "shapes" else 2**31),
            config.classes,
            f"from 2 to {pairs}, or 0 for all" if config.name == "shapes" else "2 or more, or 0 for all",
        ),
        ("image_size", config.image_size >= 0, config.image_size, f"1 or more, or 0 for {IMAGE_SIZE}"),
        ("crop_padding", config.crop_padding >= 0, config.crop_padding, "0 or more pixels"),
        ("cutout_size", config.cutout_size >= 1, config.cutout_size, "1 or more pixels"),
        (
            "sequence_length",
            config.sequence_length >= 0,
            config.sequence_length,
            f"1 or more, or 0 for {SEQUENCE_LENGTH}",
        ),
        ("workers", config.workers >= 1, config.workers, "1 or more threads"),
        (
            "vocabulary",
            config.vocabulary == 0 or (config.tokenizer == "bpe" and config.vocabulary >= 256),
            config.vocabulary,
            f"256 or more with the bpe tokenizer, or 0 for {BPE_VOCABULARY}",
        ),
    )
    for key, good, found, expected in bounds:
        if not good:
            raise UsageError(f"{where}data.{key}: expected {expected}, found {found}")


def data_spec(config: DataConfig) -> DataSpec:
    """Say what the examples of a configuration look like, without reading them.

    Parameters
    ----------
    config : DataConfig

    Returns
    -------
    DataSpec

    Raises
    ------
    UsageError
        If there is no such data set, or a tree whose classes are to be counted is not there.

    Examples
    --------
    >>> data_spec(DataConfig("cifar100"))
    DataSpec(shape=(3, 32, 32), classes=100)
    """
    return known_source(config.name).spec(config)


def load_data(config: DataConfig, run_seed: int, *, tokenizer: BPE | None = None) -> Dataset:
    """Load the data set that a configuration names.

    Parameters
    ----------
    config : DataConfig
    run_seed : int
        Used where the configuration's own seed is -1.
    tokenizer : BPE, optional
        For a text that is read as byte pairs; otherwise they are learnt from it.

    Returns
    -------
    Dataset

    Raises
    ------
    UsageError
        If there is no such data set, it is not on this disk, or its options do not fit.
    """
    load, seed = known_source(config.name).load, run_seed if config.seed == -1 else config.seed
    return load(config, seed) if tokenizer is None else load(config, seed, tokenizer)


def known_source(name: str) -> DatasetSource:
    """Look a data set up by its name."""
    if name not in DATASETS:
        raise UsageError(f"unknown data set {name!r}{did_you_mean(name, DATASETS)}")
    return DATASETS[name]
