"""The errors that sift_graph raises, and the exit code that the command gives each.

::

    SiftGraphError                 1   anything below; a traceback always means a bug
    ├── UsageError                 2   a name, option or config key that does not exist or does not fit
    ├── MaskError                  2   a mask or weight that is not one
    ├── NullModelError             2   a random reference that does not exist for a mask
    ├── SpectrumError              1   an eigen-solver that could not do its work
    ├── TrainingError              1   a run that cannot go on (a loss that is not finite, say)
    └── RunDirectoryError          3   not a run directory, an empty one, or one that holds another run
        └── DamagedStoreError      6   a file of a run directory that is truncated or altered

A message says where, what was found, what was expected and how to mend it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "DamagedStoreError",
    "MaskError",
    "MaskWarning",
    "NullModelError",
    "RunDirectoryError",
    "SiftGraphError",
    "SpectrumError",
    "TrainingError",
    "UsageError",
    "did_you_mean",
]


class SiftGraphError(Exception):
    """Base of every error that sift_graph raises on purpose."""

    exit_code = 1


class UsageError(SiftGraphError, ValueError):
    """A name, option or config value that does not exist or does not fit."""

    exit_code = 2


class MaskError(SiftGraphError, ValueError):
    """A mask or weight that cannot be read as one layer's mask or weight."""

    exit_code = 2


class MaskWarning(UserWarning):
    """Something about the masks of a model that the user should know, and that stops nothing."""


class NullModelError(SiftGraphError, ValueError):
    """A null model that does not exist for a mask; `word` says why in a table's note."""

    exit_code = 2

    def __init__(self, message: str, word: str = "") -> None:
        super().__init__(message)
        self.word = word


class SpectrumError(SiftGraphError):
    """An eigen-solver could not do its work."""


class TrainingError(SiftGraphError):
    """A training run cannot go on."""


class RunDirectoryError(SiftGraphError):
    """A directory is not a run directory, is empty, or holds another run."""

    exit_code = 3


class DamagedStoreError(RunDirectoryError):
    """A file of a run directory is truncated or altered."""

    exit_code = 6


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest the nearest known names, as the end of an error message.

    Parameters
    ----------
    name : str
        What the user wrote.
    known : iterable of str
        What exists.

    Returns
    -------
    str
        ``"; did you mean 'x'? known: a, b, x"``, or without the question where nothing is near.

    Examples
    --------
    >>> did_you_mean("rgl", ["set", "rigl"])
    "; did you mean 'rigl'? known: rigl, set"
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    question = f"; did you mean {near[0]!r}?" if near else ";"
    return f"{question} known: {', '.join(known)}"
