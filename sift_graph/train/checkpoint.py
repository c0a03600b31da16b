"""The state of an unfinished run, as one file that is whole or not there."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sift_graph.errors import DamagedStoreError
from sift_graph.store import write_atomically

__all__ = ["CHECKPOINT", "load_checkpoint", "save_checkpoint"]

CHECKPOINT = "checkpoint.pt"


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state of tensors, numbers, strings and containers of them.

    Parameters
    ----------
    path : Path
        Replaced at once, when the new file is whole.
    state : mapping
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read a state back, with ``weights_only=True``: a file cannot make Python run anything.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict or None
        None if there is no such file.

    Raises
    ------
    DamagedStoreError
        If the file is truncated or holds more than plain data.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DamagedStoreError(
            f"{path}: is not a checkpoint, or a damaged one ({first}); remove it to begin the run again"
        ) from error
    return state
