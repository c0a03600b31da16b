"""The bundled trainer: sparse models on small data, recorded as they train.

:func:`load_config` reads what to do, :func:`describe` says what it would cost, :func:`run` does it, :func:`sweep` does
many. All need PyTorch; it is imported when one of them is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sift_graph.errors import UsageError

if TYPE_CHECKING:
    from sift_graph.train.build import describe as describe
    from sift_graph.train.config import Config as Config
    from sift_graph.train.config_file import load_config as load_config
    from sift_graph.train.config_file import presets as presets
    from sift_graph.train.config_file import to_toml as to_toml
    from sift_graph.train.data import DATASETS as DATASETS
    from sift_graph.train.loop import run as run
    from sift_graph.train.models import MODELS as MODELS
    from sift_graph.train.result import RunResult as RunResult
    from sift_graph.train.study import SweepResult as SweepResult
    from sift_graph.train.study import load_study as load_study
    from sift_graph.train.study import sweep as sweep

_HOME = {
    "DATASETS": "data",
    "MODELS": "models",
    "Config": "config",
    "RunResult": "result",
    "SweepResult": "study",
    "describe": "build",
    "load_config": "config_file",
    "load_study": "study",
    "presets": "config_file",
    "run": "loop",
    "sweep": "study",
    "to_toml": "config_file",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used; say what to install where PyTorch is missing."""
    if name not in _HOME:
        raise AttributeError(f"module 'sift_graph.train' has no attribute {name!r}")
    try:
        value = getattr(import_module(f"sift_graph.train.{_HOME[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("torch", "sklearn"):
            raise
        raise UsageError(f"the trainer needs {error.name}; pip install 'sift-graph[torch]'") from error
    globals()[name] = value
    return value
