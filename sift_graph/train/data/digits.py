"""The digits that scikit-learn carries: 1797 grey images of 8 by 8."""

from __future__ import annotations

import numpy as np
import torch

from sift_graph.errors import UsageError
from sift_graph.train.config import DataConfig
from sift_graph.train.data.augment import Augmentation
from sift_graph.train.data.examples import Dataset, ImageTensors

__all__ = ["load_digits"]


def load_digits(config: DataConfig, seed: int) -> Dataset:
    """Load scikit-learn's bundled digits, of mean 0 and standard deviation 1.

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
    augmentation = Augmentation(config.augment, config.crop_padding, config.cutout_size)
    return Dataset(ImageTensors(x[:count], y[:count], augmentation=augmentation), ImageTensors(x[count:], y[count:]))
