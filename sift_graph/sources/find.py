"""Ask the adapters for a model's masks, and pack what they find."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from sift_graph.arrays import as_array
from sift_graph.errors import MaskError, MaskWarning, UsageError, did_you_mean
from sift_graph.masks import LayerMask, Layout, layer_name, match_layers
from sift_graph.ranks import local_part, turned_part
from sift_graph.sources.objects import OBJECTS, is_known
from sift_graph.sources.registry import FROM_ZEROS, SOURCES
from sift_graph.sources.weights import Weight, find_weights
from sift_graph.stored import is_sparse

__all__ = ["Masked", "find_masked", "find_masks"]

Found = tuple[Weight, Any, str]
"""A weight, its mask (or mask and values), and the name of where it was found."""


def find_masks(
    model: nn.Module,
    optimizer: Any = None,
    *,
    masks: Any = None,
    layers: str | Sequence[str] | None = None,
    source: str = "auto",
    from_zeros: bool = False,
    weights: bool = True,
) -> dict[str, LayerMask]:
    """Find the masks of a model, wherever its sparse-training library keeps them.

    Parameters
    ----------
    model : torch.nn.Module
    optimizer : optional
        Asked too: some libraries keep masks in its state.
    masks : mapping, object that keeps masks, or callable, optional
        Where the masks are, if you know: a mapping of parameter or layer names (or the parameters or modules
        themselves) to masks, ``(mask, weight)`` pairs or :class:`LayerMask`; an object whose ``masks`` is or returns
        such a mapping (a ``MaskSet``, an ITOP ``Masking``); a sparse optimizer; a RigL scheduler; a sparseml handle;
        or a function without arguments that returns one of these. Nothing else is asked then. A mask of None stands
        for a dense layer and is left out.
    layers : str or sequence of str, optional
        Globs of layer names, in one text separated by commas, or one by one.
    source : str
        ``"auto"``, or the one entry of :data:`SOURCES` to ask.
    from_zeros : bool
        Derive a mask from ``weight != 0`` where no other is found.
    weights : bool
        Take the weights along.

    Returns
    -------
    dict of str to LayerMask
        In network order, keyed by layer name. Parameters of one axis are left out. A tied weight comes once, under
        the name of the first owner that a mask was found at. A transposed convolution is turned to
        ``(out, in / groups, *kernel)``.

    Raises
    ------
    MaskError
        If there is no mask, or one is not 0/1 or differs in shape from its weight.
    UsageError
        If `source` or a name in `masks` does not exist, or no layer matches `layers`.

    Warns
    -----
    MaskWarning
        If two sources, or two owners of a tied weight, have different masks of one weight: the first is taken.
    """
    found = find_masked(model, optimizer, masks=masks, layers=layers, source=source, from_zeros=from_zeros)
    return {name: one.complete() if weights else one.mask for name, one in found.items()}


@dataclass(frozen=True, eq=False)
class Masked:
    """A mask that was found, packed, and where its weights are, not read yet.

    Attributes
    ----------
    mask : LayerMask
        Without weights.
    weight : array or tensor, or None
        In the mask's shape.
    given : LayerMask or None
        What the user handed over.
    """

    mask: LayerMask
    weight: Any = None
    given: LayerMask | None = None

    def complete(self) -> LayerMask:
        """Return the mask with its weights."""
        return self.given or self.mask.with_weight(self.weight)


def find_masked(
    model: nn.Module,
    optimizer: Any = None,
    *,
    masks: Any = None,
    layers: str | Sequence[str] | None = None,
    source: str = "auto",
    from_zeros: bool = False,
) -> dict[str, Masked]:
    """Find the masks of a model, their weights unread; as :func:`find_masks`."""
    if source != "auto" and source not in SOURCES:
        raise UsageError(f"no source {source!r}{did_you_mean(source, SOURCES)}")
    places = find_weights(model, tied=True)
    asked: list[str] = []
    if masks is not None:
        found = _first_of_each(_given(places, masks))
    else:
        asked += [source] if source != "auto" else [name for name in SOURCES if name != FROM_ZEROS]
        asked += [FROM_ZEROS] if from_zeros and source == "auto" else []
        found = _first_of_each(_asked([weight for weight in places if weight.tensor.ndim >= 2], optimizer, asked))
    if not found:
        number = len({id(weight.tensor) for weight in places})
        raise MaskError(
            f"{type(model).__name__}: none of its {number} parameters has a mask (asked: "
            f"{', '.join(asked) or 'masks='}); prune or sparsify it first, say where the masks are "
            "with masks=..., or derive them with from_zeros=True (source='weight!=0' in MaskRecorder)"
        )
    by_layer = {taken[0].layer: taken for taken in found.values()}
    ordered = [weight.layer for weight in places if weight.layer in by_layer]
    ordered = list(dict.fromkeys([*ordered, *by_layer]))  # a source may know weights that are no parameters
    return {name: _masked(*by_layer[name]) for name in match_layers(ordered, layers)}


def _asked(weights: Sequence[Weight], optimizer: Any, names: Iterable[str]) -> Iterator[Found]:
    for name in names:
        for weight, mask in SOURCES[name](weights, optimizer):
            yield weight, mask, name


def _first_of_each(answers: Iterable[Found]) -> dict[int, Found]:
    """Take the first mask of each weight, by the id of its tensor; warn of another one that differs."""
    found: dict[int, Found] = {}
    for weight, mask, source in answers:
        first = found.setdefault(id(weight.tensor), (weight, mask, source))
        if first[1] is not mask and source != FROM_ZEROS and not _same(first[1], mask):
            here, there = f"{first[2]!r} at layer {first[0].layer!r}", f"{source!r} at layer {weight.layer!r}"
            warnings.warn(
                f"two masks of one weight differ: the one found by {here} is taken, and the one by {there} is not; "
                "name the right one with source=... or masks=...",
                MaskWarning,
                stacklevel=3,
            )
    return found


def _same(one: Any, other: Any) -> bool:
    return np.array_equal(_support(one), _support(other))


def _support(mask: Any) -> np.ndarray:
    mask = mask.mask if isinstance(mask, LayerMask) else mask[0] if isinstance(mask, tuple) else mask
    return np.asarray(as_array(mask) != 0)


def _given(here: Sequence[Weight], masks: Any) -> Iterator[Found]:
    """Masks that the user points at, each with its weight and where it came from."""
    label = "mapping"
    if not isinstance(masks, Mapping) and hasattr(masks, "masks"):
        label, masks = "mask_set", masks.masks
    if callable(masks) and not isinstance(masks, Mapping) and not is_known(masks):  # to call a scheduler is to step it
        masks = masks()
        if not isinstance(masks, Mapping):
            yield from _given(here, masks)
            return
    if not isinstance(masks, Mapping):
        yield from _of_object([weight for weight in here if weight.tensor.ndim >= 2], masks)
        return
    by_name = {weight.layer: weight for weight in here}
    by_id = {id(part): weight for weight in reversed(here) for part in (weight.module, weight.tensor)}
    by_id.update({id(weight.module): weight for weight in here if weight.name == "weight"})
    for key, mask in masks.items():
        weight = by_name.get(layer_name(key)) if isinstance(key, str) else by_id.get(id(key))
        if weight is None and isinstance(key, str):
            weight = by_name.get(key)
        if weight is None:
            raise UsageError(f"masks: the model has no layer {str(key)[:80]!r}{did_you_mean(str(key), by_name)}")
        if mask is not None and not (label == "mask_set" and weight.tensor.ndim < 2):
            yield weight, mask, label


def _of_object(here: Sequence[Weight], holder: Any) -> Iterator[Found]:
    """Masks of an object of a kind that is known to keep them."""
    known = [(weight, mask, name) for name, source in OBJECTS.items() for weight, mask in source(here, holder)]
    if not known and not is_known(holder):
        raise UsageError(
            "masks: expected a mapping of layer names to masks, or an object that keeps masks (as `masks`, a sparse "
            f"optimizer, a RigL scheduler, a sparseml handle), found {type(holder).__name__}"
        )
    yield from known


def _masked(weight: Weight, mask: Any, source: str) -> Masked:
    """Pack one mask with its groups and its layout."""
    if isinstance(mask, LayerMask):
        given = mask if mask.layer == weight.layer else replace(mask, layer=weight.layer)
        return Masked(given.without_values(), given=given)
    values: Any = weight.tensor
    if isinstance(mask, tuple):
        mask, values = mask
    mask, values, part = local_part(weight.layer, mask, values)
    if part is None and tuple(mask.shape) != tuple(weight.tensor.shape):
        raise MaskError(
            f"layer {weight.layer!r}: the mask has shape {tuple(mask.shape)} and the weight "
            f"{tuple(weight.tensor.shape)}; pass the mask in the weight's own shape"
        )
    module = weight.module
    groups = 1
    if isinstance(module, nn.modules.conv._ConvNd) and weight.name == "weight":
        groups = module.groups
        if module.transposed:
            part = turned_part(weight.layer, part, groups)
            mask, values = (_untranspose(array, groups) for array in (mask, values))
    # a class made at run time (parametrized, ModelOpt's) keeps the one it was made of among its bases
    inputs_first = hasattr(module, "nf") and any(kind.__name__ == "Conv1D" for kind in type(module).__mro__)
    layout: Layout = "io" if inputs_first else "oi"
    of_zeros = source == FROM_ZEROS and not is_sparse(weight.tensor)  # then what was found is the weight itself
    pack = LayerMask.from_nonzero if of_zeros else LayerMask.from_dense
    return Masked(pack(weight.layer, mask, groups=groups, layout=layout, source=source, part=part), values)


def _untranspose(array: Any, groups: int) -> Any:
    """Turn ``(in, out / groups, *kernel)`` to ``(out, in / groups, *kernel)``."""
    tensor = torch.as_tensor(array).detach()
    split = tensor.reshape(groups, tensor.shape[0] // groups, *tensor.shape[1:])
    return split.transpose(1, 2).reshape(groups * tensor.shape[1], tensor.shape[0] // groups, *tensor.shape[2:])
