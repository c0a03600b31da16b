r"""Shapes: a procedural data set in the form of CIFAR-100, generated from a seed.

Each image of 32 by 32 in three colours shows one object. Its class is a pair of ten outlines and ten textures, so an
outline or a texture alone says no more than one class in ten. Position, size, a slight rotation, colours, the phase of
the texture and the light are drawn anew for each image; behind the object lie stripes in a random direction and two
discs of one colour, in front of it a third; noise is added last. An image depends on the seed, its part (training or
validation) and its index alone: asking for fewer images gives the first of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sift_graph.train.config import DataConfig
from sift_graph.train.data.augment import Augmentation
from sift_graph.train.data.examples import Dataset, ImageTensors

__all__ = ["OUTLINES", "SHAPES_SIZE", "TEXTURES", "draw_shapes", "load_shapes"]

SHAPES_SIZE = 32
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
CHUNK = 1000  # images of one generator; part of what a seed means
GRAIN = 0.03  # standard deviation of the noise that is always there, where a pixel goes from 0 to 1

Plane = NDArray[Any]  # float32, shape (n, height, width)


def polygon(sides: int) -> Callable[[Plane, Plane], Plane]:
    """Make the level function of a regular polygon in the unit circle."""
    wedge = 2 * np.pi / sides

    def level(radius: Plane, angle: Plane) -> Plane:
        values: Plane = np.cos(wedge / 2) - radius * np.cos(np.mod(angle, wedge) - wedge / 2)
        return values

    return level


def cross(radius: Plane, angle: Plane) -> Plane:
    """Level function of two bars."""
    u, v = np.abs(radius * np.cos(angle)), np.abs(radius * np.sin(angle))
    values: Plane = np.maximum(np.minimum(0.3 - u, 0.95 - v), np.minimum(0.95 - u, 0.3 - v))
    return values


def crescent(radius: Plane, angle: Plane) -> Plane:
    """Level function of a disc without a second disc beside its centre."""
    u, v = radius * np.cos(angle), radius * np.sin(angle)
    values: Plane = np.minimum(1 - radius, np.hypot(u - 0.45, v) - 0.75)
    return values


# An outline gives a level in object coordinates, positive inside; the unit circle holds it.
OUTLINES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "disc": lambda radius, angle: 0.85 - radius,
    "triangle": polygon(3),
    "square": polygon(4),
    "pentagon": polygon(5),
    "star": lambda radius, angle: 0.66 + 0.3 * np.cos(5 * angle) - radius,
    "trefoil": lambda radius, angle: 0.62 + 0.34 * np.cos(3 * angle) - radius,
    "ring": lambda radius, angle: 0.25 - np.abs(radius - 0.7),
    "cross": cross,
    "crescent": crescent,
    "half": lambda radius, angle: np.minimum(0.95 - radius, radius * np.cos(angle) + 0.15),
}

# A texture gives the share of the second colour, from 0 to 1, in object coordinates moved by a phase.
TEXTURES: dict[str, Callable[[Plane, Plane, Plane], Plane]] = {
    "plain": lambda u, v, phase: np.zeros_like(u),
    "wide stripes": lambda u, v, phase: step(np.sin(5 * u + phase)),
    "narrow stripes": lambda u, v, phase: step(np.sin(11 * u + phase)),
    "checks": lambda u, v, phase: step(np.sin(6 * u + phase) * np.sin(6 * v + phase)),
    "dots": lambda u, v, phase: step(np.cos(8 * u + phase) + np.cos(8 * v + phase) - 0.8),
    "rings": lambda u, v, phase: step(np.sin(9 * np.hypot(u, v) + phase)),
    "sectors": lambda u, v, phase: step(np.sin(4 * np.arctan2(v, u) + phase)),
    "glow": lambda u, v, phase: np.clip(1.1 * np.hypot(u, v), 0, 1),
    "ramp": lambda u, v, phase: np.clip(0.5 + 0.55 * u, 0, 1),
    "zigzag": lambda u, v, phase: step(np.sin(9 * (u + 0.25 * np.arcsin(np.sin(6 * v))) + phase)),
}


def step(values: Plane) -> Plane:
    """Rise from 0 to 1 around 0, as steeply as pixels of this size show without aliasing."""
    return np.clip(0.5 + 2 * values, 0, 1)


def draw_shapes(seed: int, part: int, count: int, *, classes: int = 100, noise: float = 0.0) -> ImageTensors:
    """Draw the first images of one part of the data set.

    Parameters
    ----------
    seed : int
    part : int
        0 for training, 1 for validation.
    count : int
    classes : int
        From 2 to 100: the first so many pairs, textures changing fastest.
    noise : float
        Standard deviation added to that of the grain, in units of the images' own.

    Returns
    -------
    ImageTensors
        Of uint8, without augmentation. Each thousand holds all classes equally often.
    """
    chunks = [
        draw_chunk(np.random.default_rng([seed, part, first // CHUNK]), classes, noise)
        for first in range(0, count, CHUNK)
    ]
    images = np.concatenate([images for images, _ in chunks])[:count]
    labels = np.concatenate([labels for _, labels in chunks])[:count]
    return ImageTensors(torch.from_numpy(images), torch.from_numpy(labels), MEAN, STD)


def draw_chunk(generator: np.random.Generator, classes: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw a thousand images and their labels."""
    labels = generator.permutation(np.arange(CHUNK) % classes)
    axis = (np.arange(SHAPES_SIZE, dtype=np.float32) + 0.5) * (2 / SHAPES_SIZE) - 1
    y, x = (plane[None] for plane in np.meshgrid(axis, axis, indexing="ij"))

    def uniform(low: float, high: float, *shape: int) -> np.ndarray:
        return generator.uniform(low, high, (CHUNK, *(shape or (1, 1)))).astype(np.float32)

    # The ground: a colour, a slope of light, stripes.
    ground, first = uniform(0.15, 0.85, 3, 1, 1), uniform(0, 1, 3, 1, 1)
    # Colours of the object differ from the ground and from each other by a third of the range in some channel.
    first = apart(first, ground)
    second = apart(uniform(0, 1, 3, 1, 1), first)
    turn, phase, pitch = uniform(0, 2 * np.pi), uniform(0, 2 * np.pi), uniform(2, 12)
    waves = np.sin(pitch * (x * np.cos(turn) + y * np.sin(turn)) + phase)
    image = ground + (uniform(0, 0.1) * waves)[:, None] + (uniform(-0.15, 0.15) * x + uniform(-0.15, 0.15) * y)[:, None]
    for _ in range(2):
        image = with_disc(image, x, y, uniform)
    # The object.
    size, turn = uniform(0.6, 0.95), uniform(-0.5, 0.5)
    dx, dy = (x - uniform(-0.25, 0.25)) / size, (y - uniform(-0.25, 0.25)) / size
    u, v = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    phase = uniform(0, 2 * np.pi)
    level, share = np.empty_like(u), np.empty_like(u)
    for i, outline in enumerate(OUTLINES.values()):
        chosen = labels // len(TEXTURES) == i
        level[chosen] = outline(radius[chosen], angle[chosen])
    for i, texture in enumerate(TEXTURES.values()):
        chosen = labels % len(TEXTURES) == i
        share[chosen] = texture(u[chosen], v[chosen], phase[chosen])
    inside = np.clip(0.5 + level * size * (SHAPES_SIZE / 2), 0, 1)[:, None]
    image += inside * (first + share[:, None] * (second - first) - image)
    image = with_disc(image, x, y, uniform)
    grain = np.hypot(GRAIN, noise * STD[0])
    image += generator.standard_normal(image.shape, dtype=np.float32) * np.float32(grain)
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8), labels


def apart(colours: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Move colours away from others where they are near in all channels."""
    near = (np.abs(colours - others) < 1 / 3).all(axis=1, keepdims=True)
    return np.where(near, np.where(others > 0.5, others - 0.45, others + 0.45), colours)


def with_disc(image: np.ndarray, x: Plane, y: Plane, uniform: Callable[..., np.ndarray]) -> np.ndarray:
    """Lay a disc of one colour somewhere over each image."""
    distance = np.hypot(x - uniform(-1, 1), y - uniform(-1, 1))
    inside = np.clip(0.5 + (uniform(0.1, 0.2) - distance) * (SHAPES_SIZE / 2), 0, 1)[:, None]
    covered: np.ndarray = image + inside * (uniform(0, 1, 3, 1, 1) - image)
    return covered


def load_shapes(config: DataConfig, seed: int) -> Dataset:
    """Draw the data set: 20 000 images to train on and 5 000 to validate on, unless fewer are asked for.

    Parameters
    ----------
    config : DataConfig
    seed : int

    Returns
    -------
    Dataset
    """
    classes = config.classes or len(OUTLINES) * len(TEXTURES)
    train = draw_shapes(seed, 0, config.train_samples or 20_000, classes=classes, noise=config.noise)
    validation = draw_shapes(seed, 1, config.validation_samples or 5_000, classes=classes, noise=config.noise)
    augmentation = Augmentation(config.augment, config.crop_padding, config.cutout_size)
    return Dataset(ImageTensors(train.images, train.labels, MEAN, STD, augmentation), validation)
