"""Batches: which examples each has, and reading them ahead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch

__all__ = ["batches", "batches_per_epoch", "read_ahead"]

T = TypeVar("T")


def batches_per_epoch(samples: int, batch_size: int, *, least: int = 2) -> int:
    """Count the batches of an epoch.

    Parameters
    ----------
    samples, batch_size : int
    least : int
        A last batch of fewer examples is left out: batch norm cannot train on one, in any process.

    Returns
    -------
    int
    """
    return samples // batch_size + (samples % batch_size >= least)


def batches(samples: int, batch_size: int, *, seed: int, epoch: int, least: int = 2) -> Iterator[torch.Tensor]:
    """Draw the indices of each batch of an epoch.

    Parameters
    ----------
    samples, batch_size : int
    seed, epoch : int
        They alone decide the order.
    least : int
        A last batch of fewer examples is left out.

    Yields
    ------
    Tensor of int64
    """
    order = np.random.default_rng([seed, epoch]).permutation(samples)
    for batch in torch.split(torch.from_numpy(order), batch_size):
        if len(batch) >= least:
            yield batch


def read_ahead(items: Iterable[T]) -> Iterator[T]:
    """Make each item in a thread while the one before is in use; the order is kept.

    Parameters
    ----------
    items : iterable

    Yields
    ------
    object
    """
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, iterator, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, iterator, end)
            yield item  # type: ignore[misc]
