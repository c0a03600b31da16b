"""The recorder as a callback of Keras 3, with the torch backend."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sift_graph.errors import UsageError
from sift_graph.integrations.following import numbers
from sift_graph.masks import LayerMask
from sift_graph.record import MaskRecorder

os.environ.setdefault("KERAS_BACKEND", "torch")
try:
    import keras
except ImportError as error:
    raise UsageError(f'this callback needs {error.name}; pip install "sift-graph[keras]"') from error

__all__ = ["MaskRecorderCallback", "masks_of"]

Masks = Callable[[Any], Mapping[str, Any]]


class MaskRecorderCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Record masks while ``model.fit`` runs.

    Keras has optimizers of its own, without hooks, and weights the other way round: inputs first. Kernels are turned
    here, so that layers read as those of any other run.

    Parameters
    ----------
    run_dir : path
    masks : callable, optional
        Of the model, gives masks by layer, in Keras' own layout: an array, or a pair with the weights. By default
        where each kernel is not 0, and labelled so.
    **options
        Of :class:`sift_graph.MaskRecorder`.
    """

    def __init__(self, run_dir: str | os.PathLike[str], *, masks: Masks | None = None, **options: Any) -> None:
        super().__init__()
        self.run_dir, self.masks, self.options = run_dir, masks, options
        self.recorder: MaskRecorder | None = None

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Begin, at the step where the optimizer is."""
        step = int(self.model.optimizer.iterations)
        self.recorder = MaskRecorder(self.run_dir, **({"resume": step > 0} | self.options))
        if step:
            self.recorder.rewind(step)
        self._look(step)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Note the epoch."""
        if self.recorder is not None:
            self.recorder.epoch = float(epoch)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Look at the masks, if the optimizer made a step."""
        self._look(int(self.model.optimizer.iterations))

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Log what the epoch gave."""
        found = numbers(logs or {})
        if self.recorder is not None and found:
            self.recorder.log({"step": int(self.model.optimizer.iterations), "epoch": epoch + 1, **found})

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Record where it stands, and end."""
        if self.recorder is not None:
            try:
                self._look(int(self.model.optimizer.iterations), last=True)
            finally:
                recorder, self.recorder = self.recorder, None
                recorder.close()

    def _look(self, step: int, *, last: bool = False) -> None:
        if self.recorder is None or (not last and step % (self.recorder.every or 1)):
            return
        layers = {}
        for name, given in (self.masks or masks_of)(self.model).items():
            mask, weight = given if isinstance(given, tuple) else (given, None)
            layers[name] = turned(name, mask, weight)
        self.recorder.snapshot(
            step, layers, epoch=self.recorder.epoch, if_due=not last and self.recorder.newest is not None
        )


def masks_of(model: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Derive masks from the zeros of each layer's kernel.

    Parameters
    ----------
    model : keras.Model

    Returns
    -------
    dict of str to (ndarray, ndarray)
        Mask and kernel of each layer that has one of two axes or more, in Keras' layout.
    """
    kernels = {layer.path: np.asarray(keras.ops.convert_to_numpy(layer.kernel))
               for layer in model._flatten_layers() if getattr(layer, "kernel", None) is not None}  # fmt: skip
    return {name: (kernel != 0, kernel) for name, kernel in kernels.items() if kernel.ndim >= 2}


def turned(name: str, mask: Any, weight: Any) -> LayerMask:
    """Turn a kernel from ``(*kernel, in, out)`` to ``(out, in, *kernel)``."""

    def turn(values: Any) -> np.ndarray:
        array = np.asarray(values)
        return np.ascontiguousarray(np.moveaxis(array, (-1, -2), (0, 1)))

    source = "keras" if weight is None or not np.array_equal(mask, np.asarray(weight) != 0) else "weight!=0"
    return LayerMask.from_dense(name, turn(mask), None if weight is None else turn(weight), source=source)
