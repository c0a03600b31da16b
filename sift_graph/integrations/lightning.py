"""The recorder as a callback of Lightning, under the import name ``lightning.pytorch``."""

from __future__ import annotations

from sift_graph.errors import UsageError
from sift_graph.integrations.lightning_hooks import LightningHooks

try:
    from lightning.pytorch import Callback
except ImportError as error:
    raise UsageError(f'this callback needs {error.name}; pip install "sift-graph[lightning]"') from error

__all__ = ["MaskRecorderCallback"]


class MaskRecorderCallback(LightningHooks, Callback):
    """Record masks while a Lightning ``Trainer`` fits; options as :class:`.lightning_hooks.LightningHooks`."""
