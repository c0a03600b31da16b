"""Where the first masks of a layer lie, drawn at random: functions of a shape, a count and a generator."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sift_graph.errors import MaskError

__all__ = ["PLACEMENTS"]

Placement = Callable[[tuple[int, ...], int, np.random.Generator], np.ndarray]


def exactly(shape: tuple[int, ...], count: int, generator: np.random.Generator) -> np.ndarray:
    """Place exactly `count` ones, uniformly over all positions."""
    size = math.prod(shape)
    chosen = np.zeros(size, dtype=np.bool_)
    chosen[generator.permutation(size)[:count]] = True
    return chosen.reshape(shape)


def bernoulli(shape: tuple[int, ...], count: int, generator: np.random.Generator) -> np.ndarray:
    """Place each one with probability ``count / size``: `count` ones on average, and at least one."""
    size = math.prod(shape)
    chosen: np.ndarray = generator.random(size) < count / size
    if not chosen.any():
        chosen[generator.integers(size)] = True
    return chosen.reshape(shape)


def constant_fan_in(shape: tuple[int, ...], count: int, generator: np.random.Generator) -> np.ndarray:
    """Place as many ones for each output, ``count // outputs``."""
    outputs, fan_in = shape[0], math.prod(shape[1:])
    degree = count // outputs
    if not degree:
        raise MaskError(
            f"a constant fan-in needs 1 or more weights for each of {outputs} outputs, found {count} weights in all; "
            "lower the sparsity"
        )
    order = generator.permuted(np.tile(np.arange(fan_in), (outputs, 1)), axis=1)
    chosen = np.zeros((outputs, fan_in), dtype=np.bool_)
    np.put_along_axis(chosen, order[:, :degree], True, axis=1)
    return chosen.reshape(shape)


PLACEMENTS: dict[str, Placement] = {
    "exact": exactly,
    "bernoulli": bernoulli,
    "constant_fan_in": constant_fan_in,
}
