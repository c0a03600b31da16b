"""What a run begins with, where that is a checkpoint of another run: fine-tuning, sparse or densified."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import nn

from sift_graph.errors import UsageError
from sift_graph.sparsify import MaskSet, layer_name
from sift_graph.train.checkpoint import CHECKPOINT, load_checkpoint
from sift_graph.train.config import Config, StartConfig
from sift_graph.train.data.bpe import BPE

__all__ = ["START_MASKS", "Start", "load_start"]

START_MASKS = ("keep", "dense", "draw")


@dataclass(frozen=True, eq=False)
class Start:
    """A checkpoint to begin with.

    Attributes
    ----------
    path : Path
    weights : dict of str to Tensor
        Parameters and buffers of its model.
    masks : dict of str to Tensor of bool
        By parameter name; empty for a run without masks.
    byte_pairs : Tensor of int64, shape (merges, 2), or None
        What its tokens mean, where they are byte pairs.
    """

    path: Path
    weights: dict[str, torch.Tensor]
    masks: dict[str, torch.Tensor]
    byte_pairs: torch.Tensor | None = None

    def tokenizer_for(self, config: Config) -> BPE | None:
        """Give the tokenizer that the weights were trained with, where a run reads byte pairs.

        Parameters
        ----------
        config : Config

        Returns
        -------
        BPE or None
            None for other data, and where the embedding begins anew (``start.fresh``) with tokens of its own.

        Raises
        ------
        UsageError
            If the checkpoint does not say what its tokens mean.
        """
        if config.data.tokenizer != "bpe":
            return None
        if self.byte_pairs is not None:
            return BPE(tuple((int(a), int(b)) for a, b in self.byte_pairs.reshape(-1, 2).tolist()))
        if config.start.fresh:
            return None
        raise UsageError(
            f"start.checkpoint: {self.path} was not trained on byte pairs, or before they were kept with it, so its "
            "tokens mean something else than those learnt here; read bytes (data.tokenizer='bytes'), train it again, "
            "or name the embedding and the head in start.fresh"
        )

    def counts(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
        """Count the weights that each layer's mask keeps.

        Parameters
        ----------
        shapes : dict of str to tuple of int
            Of the weights of the layers that carry masks, by layer name.

        Returns
        -------
        dict of str to int

        Raises
        ------
        UsageError
            If the checkpoint has no masks, or masks of other layers.
        """
        found = {layer_name(name): mask for name, mask in self.masks.items()}
        if not found:
            raise UsageError(
                f"start.masks: {self.path} has no masks to keep; say start.masks='draw' to lay new ones on its weights"
            )
        for name in sorted(shapes.keys() | found.keys()):
            here, there = shapes.get(name), tuple(found[name].shape) if name in found else None
            if here != there:
                raise UsageError(
                    f"start.masks: layer {name!r} has a mask of shape {there} in {self.path}, {here} here (None for no "
                    "mask); ask for the family, sparsity, width and ift options that it was trained with, or say "
                    "start.masks='draw'"
                )
        return {name: int(found[name].sum()) for name in shapes}

    def mask_set(
        self, model: nn.Module, layers: Iterable[str], *, seed: int, costs: Mapping[str, float] | None = None
    ) -> MaskSet:
        """Lay the checkpoint's masks on a model's weights.

        Parameters
        ----------
        model : nn.Module
        layers : iterable of str
            Those that carry masks; :meth:`counts` has found them in the checkpoint.
        seed : int
            Of growth at random.
        costs : mapping of str to float, optional
            MACs of one weight of each parameter.

        Returns
        -------
        MaskSet
            At step 0: what was kept before does not count as kept at any time.
        """
        named = dict(model.named_parameters())
        parameters = {f"{name}.weight": named[f"{name}.weight"] for name in layers}
        masks = {name: self.masks[name].to(parameter.device) for name, parameter in parameters.items()}
        counts = {name: int(mask.sum()) for name, mask in masks.items()}
        return MaskSet(parameters, counts, seed=seed, masks=masks, costs=costs)

    def fill(self, model: nn.Module, fresh: tuple[str, ...] = ()) -> None:
        """Put the weights into a model.

        Parameters
        ----------
        model : nn.Module
        fresh : tuple of str
            Globs of parameters and buffers that keep what they have.

        Raises
        ------
        UsageError
            If the model has other parameters, or of other shapes; nothing is changed then.
        """
        here = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        there = {name: tuple(value.shape) for name, value in self.weights.items()}
        chosen = {name for name in here.keys() | there.keys() if not any(fnmatchcase(name, glob) for glob in fresh)}
        odd = sorted(name for name in chosen if here.get(name) != there.get(name))
        if odd:
            name = odd[0]
            raise UsageError(
                f"start.checkpoint: {self.path} is of another model: {name!r} is {there.get(name)} there, "
                f"{here.get(name)} here, and {len(odd) - 1} more differ; ask for the same model, family, sparsity and "
                "width, or name what is to begin anew: start.fresh=['head.*']"
            )
        model.load_state_dict({name: self.weights[name] for name in chosen}, strict=False)


def load_start(config: StartConfig) -> Start | None:
    """Read the checkpoint that a run begins with.

    Parameters
    ----------
    config : StartConfig

    Returns
    -------
    Start or None
        None if none is named.

    Raises
    ------
    UsageError
        If there is none at that place, or it is a checkpoint of something else.
    """
    if not config.checkpoint:
        return None
    path = Path(config.checkpoint).expanduser()
    path = path / CHECKPOINT if path.is_dir() else path
    state = load_checkpoint(path)
    if state is None:
        raise UsageError(f"start.checkpoint: no checkpoint at {path}; name a run directory of this trainer")
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict) or "masks" not in state:
        raise UsageError(f"start.checkpoint: {path} is not a checkpoint of this trainer (it has no model and masks)")
    masks = state["masks"]["masks"] if state["masks"] is not None else {}
    return Start(path, state["model"], masks, state.get("byte_pairs"))
