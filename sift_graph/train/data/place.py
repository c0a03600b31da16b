"""Where data lies on disk, and which part of it is used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sift_graph.errors import UsageError
from sift_graph.train.config import DataConfig

__all__ = ["DEFAULT_PATH", "chosen_samples", "data_path"]

DEFAULT_PATH = "data"


def data_path(config: DataConfig) -> Path:
    """Give the folder or file that a configuration names; ``data`` in the working directory if it names none."""
    return Path(config.path or DEFAULT_PATH).expanduser()


def chosen_samples(available: int, wanted: int, seed: int, key: str) -> torch.Tensor:
    """Choose some examples, in the order in which they lie.

    Parameters
    ----------
    available : int
    wanted : int
        0 for all.
    seed : int
    key : str
        Of the configuration, for the message.

    Returns
    -------
    Tensor of int64
        Indices, ascending.

    Raises
    ------
    UsageError
        If there are not so many.
    """
    if wanted > available:
        raise UsageError(f"{key}: expected at most {available}, which is all there is, found {wanted}")
    if not wanted or wanted == available:
        return torch.arange(available)
    return torch.from_numpy(np.sort(np.random.default_rng(seed).permutation(available)[:wanted]))
