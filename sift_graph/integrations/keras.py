"""The recorder as a callback of Keras 3, with the torch backend."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sift_graph.errors import UsageError
from sift_graph.integrations.following import Guard
from sift_graph.masks import LayerMask
from sift_graph.record import MaskRecorder, RecorderWarning
from sift_graph.sinks import numbers

os.environ.setdefault("KERAS_BACKEND", "torch")
try:
    import keras
except ImportError as error:
    raise UsageError(f'this callback needs {error.name}; pip install "sift-graph[keras]"') from error

__all__ = ["MaskRecorderCallback", "masks_of"]

layers = keras.layers
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
KNOWN = (*DEPTHWISE, *TRANSPOSED, layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D)
Masks = Callable[[Any], Mapping[str, Any]]


class MaskRecorderCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Record masks while ``model.fit`` runs.

    Keras has optimizers of its own, without hooks, and weights the other way round: inputs first. Kernels are turned
    here, so that layers read as those of any other run. With ``BackupAndRestore``, list this callback after it.

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
        self.guard = Guard()

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Begin, at the step where the optimizer is."""
        step = int(self.model.optimizer.iterations)
        if self.recorder is not None:  # of a fit that broke off
            self.recorder.close()
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
        self.guard(lambda: self._look(int(self.model.optimizer.iterations)))

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Look at the masks, and log what the epoch gave."""
        if self.recorder is not None:
            self.recorder.epoch = float(epoch + 1)
        self.guard(lambda: self._look(int(self.model.optimizer.iterations), end=True))
        recorder, found = self.recorder, numbers(logs or {})
        if recorder is not None and found:
            row = {"step": int(self.model.optimizer.iterations), "epoch": epoch + 1, **found}
            self.guard(lambda: recorder.log(row))

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Record where it stands, and end."""
        if self.recorder is not None:
            try:
                self._look(int(self.model.optimizer.iterations), last=True)
            finally:
                recorder, self.recorder = self.recorder, None
                recorder.close()

    def _look(self, step: int, *, last: bool = False, end: bool = False) -> None:
        if self.recorder is None or not (last or end or self.recorder.is_due(step)) or step == self.recorder.newest:
            return
        found, known = {}, {layer.path: layer for layer in self.model._flatten_layers()}
        for name, given in (self.masks or masks_of)(self.model).items():
            mask, weight = given if isinstance(given, tuple) else (given, None)
            found[name] = turned(name, mask, weight, known.get(name))
        first = self.recorder.newest is None
        if end and not first:
            self.recorder.end_epoch(step=step, masks=found)
            return
        self.recorder.snapshot(step, found, epoch=self.recorder.epoch, if_due=not last and not first)


def masks_of(model: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Derive masks from the zeros of each layer's kernel.

    Parameters
    ----------
    model : keras.Model

    Returns
    -------
    dict of str to (ndarray, ndarray)
        Mask and kernel of each dense or convolutional layer, in Keras' layout. A warning names other layers that have
        a kernel: what its axes are is not known.
    """
    found, odd = {}, []
    for layer in model._flatten_layers():
        kernel = getattr(layer, "kernel", None)
        if kernel is None or len(kernel.shape) < 2:
            continue
        if isinstance(layer, KNOWN):
            values = np.asarray(keras.ops.convert_to_numpy(kernel))
            found[layer.path] = (values != 0, values)
        else:
            odd.append(f"{layer.path} ({type(layer).__name__})")
    if odd:
        warnings.warn(
            f"kernels of {', '.join(odd)} are not recorded: what their axes are is not known; give their masks with "
            "masks=, turned to (*kernel, in, out)",
            RecorderWarning,
            stacklevel=3,
        )
    return found


def turned(name: str, mask: Any, weight: Any, layer: Any = None) -> LayerMask:
    """Turn a kernel to ``(out, in, *kernel)``.

    Parameters
    ----------
    name : str
    mask, weight : array
        In the layout of the layer: ``(*kernel, in, out)``, ``(*kernel, out, in)`` of a transposed convolution,
        ``(*kernel, in, multiplier)`` of a depthwise one.
    layer : keras.layers.Layer, optional
        Its kind and its groups; without it the first of these layouts.

    Returns
    -------
    LayerMask
    """
    depthwise = isinstance(layer, DEPTHWISE)
    groups = layer.kernel.shape[-2] if depthwise else getattr(layer, "groups", 1)
    first = -2 if depthwise or isinstance(layer, TRANSPOSED) else -1

    def turn(values: Any) -> np.ndarray:
        array = np.moveaxis(np.asarray(values), (first, -3 - first), (0, 1))
        if depthwise:  # (in, multiplier, *kernel): each input has its own outputs
            array = array.reshape(-1, 1, *array.shape[2:])
        return np.ascontiguousarray(array)

    source = "keras" if weight is None or not np.array_equal(mask, np.asarray(weight) != 0) else "weight!=0"
    shown = None if weight is None else turn(weight)
    return LayerMask.from_dense(name, turn(mask), shown, groups=groups, source=source)
