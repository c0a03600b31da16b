"""In how many bits a model computes while it trains: 32, or 16 where PyTorch's autocast has them do."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from sift_graph.errors import TrainingError

__all__ = ["PRECISIONS", "Precision"]

PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """The precision of a run's forward passes, and the scale that keeps small gradients of fp16 from vanishing.

    Weights, gradients and the optimizer's buffers are fp32 throughout.

    Parameters
    ----------
    name : str
        A key of :data:`PRECISIONS`.
    device : torch.device
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.dtype = PRECISIONS[name]
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def autocast(self) -> AbstractContextManager[Any]:
        """Give the context of a forward pass."""
        return nullcontext() if self.dtype is None else torch.autocast(self.device.type, self.dtype)

    def scaled(self, loss: torch.Tensor) -> torch.Tensor:
        """Give what to call ``backward`` on."""
        return self.scaler.scale(loss)

    def step(self, optimizer: torch.optim.Optimizer) -> bool:
        """Have the optimizer make its update with gradients of their own size, if these are finite.

        Whatever hooks the optimizer's step sees them unscaled.

        Parameters
        ----------
        optimizer : Optimizer

        Returns
        -------
        bool
            False where they overflowed: nothing was updated and the scale is lower now. The batch is to be taken again,
            so that no update is left out and masks move when their schedule says so.

        Raises
        ------
        TrainingError
            If they overflow even unscaled.
        """
        before = self.scaler.get_scale()
        self.scaler.step(optimizer)
        self.scaler.update()
        if self.scaler.get_scale() >= before:
            return True
        if before <= 1:
            raise TrainingError(
                "gradients overflow fp16 although they are not scaled up any more; lower optimizer.lr or set "
                "training.precision=bf16"
            )
        return False

    def state_dict(self) -> dict[str, Any]:
        """Give what a resumed run needs; nothing but for fp16."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.scaler.load_state_dict(dict(state))
