"""The data sets: everything in memory, as tensors, split and blurred by a seed. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from sift_graph.errors import UsageError, did_you_mean
from sift_graph.train.config import DataConfig

__all__ = ["DATASETS", "Dataset", "DatasetSource", "load_data"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels.

    Attributes
    ----------
    train_images, validation_images : Tensor of float32, shape (n, channels, height, width)
    train_labels, validation_labels : Tensor of int64, shape (n,)
    """

    train_images: torch.Tensor
    train_labels: torch.Tensor
    validation_images: torch.Tensor
    validation_labels: torch.Tensor


@dataclass(frozen=True)
class DatasetSource:
    """One data set, before it is loaded.

    Attributes
    ----------
    shape : tuple of int
        Of one image: channels, height, width.
    classes : int
    load : callable
        ``load(config, seed) -> Dataset``.
    """

    shape: tuple[int, int, int]
    classes: int
    load: Callable[[DataConfig, int], Dataset]


def load_digits(config: DataConfig, seed: int) -> Dataset:
    """Load scikit-learn's bundled digits: 1797 grey images of 8 by 8, of mean 0 and standard deviation 1.

    A seeded permutation gives the first `train_samples` (1000 if 0) to training and the others to validation. Noise is
    drawn once, from the same seed, and added to both.

    Parameters
    ----------
    config : DataConfig
    seed : int

    Returns
    -------
    Dataset

    Raises
    ------
    UsageError
        If `train_samples` leaves nothing to validate on.
    """
    from sklearn.datasets import load_digits as bundled_digits

    digits = bundled_digits()
    images = digits.images[:, None]
    images = (images - images.mean()) / images.std()
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(images))
    images = images + config.noise * generator.standard_normal(images.shape)
    count = config.train_samples or 1000
    if count >= len(images):
        raise UsageError(
            f"data.train_samples: digits has {len(images)} images, {count} for training leave none for validation"
        )
    x = torch.from_numpy(images[order].astype(np.float32))
    y = torch.from_numpy(digits.target[order].astype(np.int64))
    return Dataset(x[:count], y[:count], x[count:], y[count:])


DATASETS: dict[str, DatasetSource] = {
    "digits": DatasetSource((1, 8, 8), 10, load_digits),
}


def load_data(config: DataConfig, run_seed: int) -> Dataset:
    """Load the data set that a configuration names.

    Parameters
    ----------
    config : DataConfig
    run_seed : int
        Used where the configuration's own seed is -1.

    Returns
    -------
    Dataset

    Raises
    ------
    UsageError
        If there is no such data set, or its options do not fit.
    """
    if config.name not in DATASETS:
        raise UsageError(f"unknown data set {config.name!r}{did_you_mean(config.name, DATASETS)}")
    return DATASETS[config.name].load(config, run_seed if config.seed == -1 else config.seed)
