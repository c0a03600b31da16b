"""Augmentation of a batch of images, as tensor operations; every draw comes from the generator that is passed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

__all__ = ["AUGMENTATIONS", "NONE", "Augmentation", "crop", "cutout", "flip"]

AUGMENTATIONS = ("crop", "flip", "cutout")


@dataclass(frozen=True)
class Augmentation:
    """What is done to the images of a training batch.

    Attributes
    ----------
    kinds : tuple of str
        Any of ``crop``, ``flip``, ``cutout``. Cropping and flipping come before images are normalised, so that what
        is padded is black; cutting out comes after, so that what is cut out is the mean.
    crop_padding : int
        Pixels added on each side before a crop of the first size is taken.
    cutout_size : int
        Side of the square that is cut out.
    """

    kinds: tuple[str, ...] = ()
    crop_padding: int = 4
    cutout_size: int = 8

    def move(self, images: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """Crop and flip, if they are asked for."""
        if "crop" in self.kinds:
            images = crop(images, generator, padding=self.crop_padding)
        if "flip" in self.kinds:
            images = flip(images, generator)
        return images

    def cut(self, images: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """Cut out, if it is asked for."""
        return cutout(images, generator, size=self.cutout_size) if "cutout" in self.kinds else images


NONE = Augmentation()


def crop(images: torch.Tensor, generator: np.random.Generator, *, padding: int) -> torch.Tensor:
    """Pad images with zeros and take a window of their own size from each, anywhere.

    Parameters
    ----------
    images : Tensor, shape (n, channels, height, width)
    generator : Generator
    padding : int
        Pixels on each side.

    Returns
    -------
    Tensor
        In the shape and type of `images`.
    """
    count, _, height, width = images.shape
    padded = functional.pad(images, (padding,) * 4)
    tops, lefts = torch.from_numpy(generator.integers(0, 2 * padding + 1, (2, count))).to(images.device)
    rows = tops[:, None] + torch.arange(height, device=images.device)
    columns = lefts[:, None] + torch.arange(width, device=images.device)
    chosen = torch.arange(count, device=images.device)[:, None, None]
    # Indices around a slice put the channels last. A convolution keeps such a layout, warns of it under
    # DistributedDataParallel, and on processors without AVX-512 oneDNN then writes beyond its memory (torch 2.13,
    # kernel 1, stride 2). One channel counts as contiguous with any stride, so contiguous() would not do.
    cropped = padded[chosen, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return cropped.clone(memory_format=torch.contiguous_format)


def flip(images: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """Mirror each image, left to right, with probability one half.

    Parameters
    ----------
    images : Tensor, shape (n, channels, height, width)
    generator : Generator

    Returns
    -------
    Tensor
    """
    mirrored = torch.from_numpy(generator.random(len(images)) < 0.5).to(images.device)
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


def cutout(images: torch.Tensor, generator: np.random.Generator, *, size: int) -> torch.Tensor:
    """Set a square of each image to 0; its centre is anywhere, so it may stick out.

    Parameters
    ----------
    images : Tensor, shape (n, channels, height, width)
    generator : Generator
    size : int
        Side of the square.

    Returns
    -------
    Tensor

    References
    ----------
    .. [1] T. DeVries, G. W. Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017.
    """
    count, _, height, width = images.shape
    inside = []
    for side in (height, width):
        first = torch.from_numpy(generator.integers(0, side, count) - size // 2).to(images.device)[:, None]
        position = torch.arange(side, device=images.device)
        inside.append((position >= first) & (position < first + size))
    rows, columns = inside
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)
