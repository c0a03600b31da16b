"""Examples to train on: how many there are, and a batch of them by index."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np
import torch

from sift_graph.train.data.augment import NONE, Augmentation
from sift_graph.train.data.bpe import BPE

__all__ = ["Dataset", "Examples", "ImageTensors", "TokenWindows"]

Batch = tuple[torch.Tensor, torch.Tensor]


class Examples(Protocol):
    """A set of examples, wherever they are kept."""

    @property
    def is_lazy(self) -> bool:
        """Whether a batch is read from disk when it is asked for, so that reading ahead is worth a thread."""

    def __len__(self) -> int:
        """Count the examples."""

    def to(self, device: torch.device) -> Self:
        """Give the same examples with their batches on a device."""

    def batch(self, indices: torch.Tensor, generator: np.random.Generator | None = None) -> Batch:
        """Give inputs and labels of some examples; with a generator, augmented by it."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """What a run trains on and what it validates on.

    Attributes
    ----------
    train, validation : Examples
    tokenizer : BPE or None
        Of texts that are read as byte pairs.
    """

    train: Examples
    validation: Examples
    tokenizer: BPE | None = None


@dataclass(frozen=True, eq=False)
class ImageTensors:
    """Images in memory.

    Attributes
    ----------
    images : Tensor of uint8 or float32, shape (n, channels, height, width)
    labels : Tensor of int64, shape (n,)
    mean, std : tuple of float
        Of each channel, where 1 is the brightest uint8; used for uint8 images only.
    augmentation : Augmentation
        Of the batches that are given with a generator.
    """

    images: torch.Tensor
    labels: torch.Tensor
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)
    augmentation: Augmentation = NONE
    is_lazy: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Self:
        """Move images and labels to a device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def batch(self, indices: torch.Tensor, generator: np.random.Generator | None = None) -> Batch:
        """Give normalised images and their labels.

        Parameters
        ----------
        indices : Tensor of int64
        generator : Generator, optional
            Left out, the images are as they are.

        Returns
        -------
        images : Tensor of float32
        labels : Tensor of int64
        """
        indices = indices.to(self.labels.device)
        images = self.images[indices]
        if generator is not None:
            images = self.augmentation.move(images, generator)
        if images.dtype == torch.uint8:
            images = normalised(images, self.mean, self.std)
        if generator is not None:
            images = self.augmentation.cut(images, generator)
        return images, self.labels[indices]


@dataclass(frozen=True, eq=False)
class TokenWindows:
    """Stretches of a text; the labels are the tokens that follow.

    Attributes
    ----------
    tokens : Tensor of integers, shape (m,)
    starts : Tensor of int64, shape (n,)
        Where each stretch begins.
    length : int
        Tokens of a stretch.
    """

    tokens: torch.Tensor
    starts: torch.Tensor
    length: int
    is_lazy: bool = False

    def __len__(self) -> int:
        return len(self.starts)

    def to(self, device: torch.device) -> Self:
        """Move the tokens to a device."""
        return replace(self, tokens=self.tokens.to(device), starts=self.starts.to(device))

    def batch(self, indices: torch.Tensor, generator: np.random.Generator | None = None) -> Batch:
        """Give the stretches and, for each of their tokens, the next one; a text is not augmented."""
        starts = self.starts[indices.to(self.starts.device)]
        windows = self.tokens[starts[:, None] + torch.arange(self.length + 1, device=starts.device)].long()
        return windows[:, :-1], windows[:, 1:]


def normalised(images: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """Turn uint8 images into float32 ones of about mean 0 and standard deviation 1."""
    centre = torch.tensor(mean, device=images.device).view(-1, 1, 1)
    spread = torch.tensor(std, device=images.device).view(-1, 1, 1)
    return (images.float() / 255 - centre) / spread
