"""Trees of image files, a folder a class: ImageNet, or the user's own. Read from disk when a batch is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from sift_graph.errors import TrainingError, UsageError
from sift_graph.train.config import DataConfig
from sift_graph.train.data.augment import NONE, Augmentation
from sift_graph.train.data.examples import Batch, Dataset, normalised
from sift_graph.train.data.place import chosen_samples, data_path

__all__ = ["IMAGE_SIZE", "ImageFiles", "class_names", "load_folder", "random_window"]

IMAGE_SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"))
VALIDATION = ("val", "validation", "test")
ENLARGED = 256 / 224  # what is resized to before the middle is taken

Window = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Image files, read, cut and scaled by threads as batches need them.

    Attributes
    ----------
    paths : tuple of Path
    labels : Tensor of int64, shape (n,)
    size : int
        Height and width that a batch has.
    augmentation : Augmentation
        With ``crop``, training images are random windows of 8 to 100 % of the area and a ratio of sides from 3/4 to
        4/3; ``flip`` and ``cutout`` as elsewhere.
    workers : int
        Threads.
    device : torch.device
    """

    paths: tuple[Path, ...]
    labels: torch.Tensor
    size: int
    augmentation: Augmentation = NONE
    workers: int = 4
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    is_lazy: bool = True

    def __len__(self) -> int:
        return len(self.paths)

    def to(self, device: torch.device) -> Self:
        """Send the batches to a device."""
        return replace(self, device=device)

    def batch(self, indices: torch.Tensor, generator: np.random.Generator | None = None) -> Batch:
        """Read some images.

        Parameters
        ----------
        indices : Tensor of int64
        generator : Generator, optional
            Left out, the middle of each image.

        Returns
        -------
        images : Tensor of float32, shape (n, 3, size, size)
        labels : Tensor of int64

        Raises
        ------
        TrainingError
            If a file cannot be read as an image.
        """
        paths = [self.paths[i] for i in indices.tolist()]
        random = generator is not None and "crop" in self.augmentation.kinds
        draws = generator.random((len(paths), 10, 4)) if random and generator is not None else [None] * len(paths)
        with ThreadPoolExecutor(self.workers) as pool:
            arrays = list(pool.map(lambda path, draw: self._read(path, draw), paths, draws))
        images = torch.from_numpy(np.stack(arrays)).to(self.device).permute(0, 3, 1, 2).contiguous()
        if generator is not None:
            spared = tuple(kind for kind in self.augmentation.kinds if kind != "crop")
            images = replace(self.augmentation, kinds=spared).move(images, generator)
        images = normalised(images, MEAN, STD)
        if generator is not None:
            images = self.augmentation.cut(images, generator)
        return images, self.labels[indices].to(self.device)

    def _read(self, path: Path, draws: np.ndarray | None) -> np.ndarray:
        """Read one image: a random window of it, or its middle."""
        try:
            with Image.open(path) as opened:
                image = opened.convert("RGB")
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise TrainingError(f"{path}: cannot be read as an image ({error}); mend or remove the file") from error
        width, height = image.size
        window = middle_window(width, height) if draws is None else random_window(width, height, draws)
        return np.asarray(image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=window))


def middle_window(width: int, height: int) -> Window:
    """Give the middle square: 224 of an image whose shorter side is 256."""
    side = min(width, height) / ENLARGED
    return (width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2


def random_window(width: int, height: int, draws: np.ndarray) -> Window:
    """Choose a window of 8 to 100 % of the area, with a ratio of sides between 3/4 and 4/3.

    Parameters
    ----------
    width, height : int
    draws : ndarray, shape (tries, 4)
        Uniform in [0, 1): area, ratio, left, top of each try.

    Returns
    -------
    tuple of float
        Left, top, right, bottom; the largest middle square where no try fits.
    """
    for area, ratio, left, top in draws:
        pixels = width * height * (0.08 + 0.92 * area)
        aspect = math.exp(math.log(3 / 4) + ratio * 2 * math.log(4 / 3))
        w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < w <= width and 0 < h <= height:
            x, y = int(left * (width - w + 1)), int(top * (height - h + 1))
            return x, y, x + w, y + h
    side = min(width, height)
    return (width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2


def class_names(config: DataConfig) -> list[str]:
    """List the classes of a tree: the folders in its ``train``, in alphabetical order.

    Parameters
    ----------
    config : DataConfig

    Returns
    -------
    list of str

    Raises
    ------
    UsageError
        If there is no such tree.
    """
    train = data_path(config) / "train"
    names = sorted(path.name for path in train.iterdir() if path.is_dir()) if train.is_dir() else []
    if len(names) < 2:
        raise UsageError(
            f"data.path: expected folders of images in {train}, one for each of two or more classes, found "
            f"{len(names) or 'none'}; put train/CLASS/*.jpg and val/CLASS/*.jpg there, or say where they are: "
            "--set data.path=FOLDER"
        )
    return names


def load_folder(config: DataConfig, seed: int) -> Dataset:
    """List the files of a tree: ``train/CLASS/*`` and ``val/CLASS/*`` (or ``validation``, or ``test``).

    Parameters
    ----------
    config : DataConfig
    seed : int
        Of the choice, where `train_samples` is less than all.

    Returns
    -------
    Dataset

    Raises
    ------
    UsageError
        If a part is missing, empty, or has other classes than the training part.
    """
    names = class_names(config)
    if config.classes and config.classes != len(names):
        raise UsageError(f"data.classes: {data_path(config)} has {len(names)} classes, found {config.classes}")
    root = data_path(config)
    validation = next((root / part for part in VALIDATION if (root / part).is_dir()), None)
    if validation is None:
        raise UsageError(f"data.path: {root} has no folder val, validation or test to validate on")
    odd = sorted({path.name for path in validation.iterdir() if path.is_dir()} ^ set(names))
    if odd:
        raise UsageError(f"data.path: {root / 'train'} and {validation} differ in their classes: {', '.join(odd[:4])}")
    size = config.image_size or IMAGE_SIZE
    augmentation = Augmentation(config.augment, config.crop_padding, config.cutout_size)
    paths, labels = listed(root / "train", names)
    chosen = chosen_samples(len(paths), config.train_samples, seed, "data.train_samples")
    train = ImageFiles(tuple(paths[i] for i in chosen.tolist()), labels[chosen], size, augmentation, config.workers)
    paths, labels = listed(validation, names)
    return Dataset(train, ImageFiles(tuple(paths), labels, size, workers=config.workers))


def listed(folder: Path, names: Sequence[str]) -> tuple[list[Path], torch.Tensor]:
    """List the image files of each class, in alphabetical order."""
    paths, labels = [], []
    for label, name in enumerate(names):
        found = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            known = ", ".join(sorted(SUFFIXES))
            raise UsageError(f"data.path: {folder / name} holds no image; expected files that end in {known}")
        paths += found
        labels += [label] * len(found)
    return paths, torch.tensor(labels)
