"""Several processes that train one model: which one this is, what it holds of a layer, and whether all hold the same.

Under data parallelism every process has the whole model, and the first one records it. Where parameters are shared out
(``fully_shard``, tensor parallelism: :class:`torch.distributed.tensor.DTensor`), each process records its own part.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import xxhash

from sift_graph.errors import MaskError, RunDirectoryError, UsageError
from sift_graph.masks import LayerMask, Part
from sift_graph.store import RunReader, RunWriter, ShardWriter, SilentWriter, newest_whole

__all__ = [
    "ALONE",
    "Place",
    "check_equal",
    "find_place",
    "is_sharded",
    "join",
    "local_part",
    "turned_part",
    "unwrapped",
]

PATIENCE = timedelta(minutes=5)


@dataclass(frozen=True)
class Place:
    """Where a process stands among those that train with it.

    Attributes
    ----------
    rank : int
    world : int
        How many there are.
    """

    rank: int
    world: int


ALONE = Place(0, 1)


def find_place() -> Place:
    """Find the place of this process: of ``torch.distributed``, or else of the launcher's environment.

    Returns
    -------
    Place
        Rank 0 of 1 where neither says otherwise. The environment counts if it has all that ``init_process_group``
        needs: ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT``.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return Place(distributed.get_rank(), distributed.get_world_size())
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    rank, world, *others = (os.environ.get(name, "") for name in names)
    if all(others) and rank.isdecimal() and world.isdecimal() and int(rank) < int(world):
        return Place(int(rank), int(world))
    return ALONE


def unwrapped(model: Any) -> Any:
    """Go through ``DistributedDataParallel``, whose forward pass waits for the other processes, to the model."""
    while type(model).__name__ == "DistributedDataParallel":
        model = model.module
    return model


def is_sharded(model: Any = None, masks: Any = None) -> bool:
    """Whether some parameter of a model, or some mask of a mapping, is shared out over processes."""
    tensors = list(model.parameters()) if model is not None else []
    if isinstance(masks, Mapping):
        tensors += [part for mask in masks.values() for part in (mask if isinstance(mask, tuple) else (mask,))]
    return any(_is_distributed(tensor) and _shards(tensor) for tensor in tensors)


def _is_distributed(tensor: Any) -> bool:
    kind = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)  # torch 2.4 has it elsewhere
    return kind is not None and isinstance(tensor, kind)


def _shards(tensor: Any) -> list[int]:
    """Axes of the mesh along which a tensor is cut."""
    return [axis for axis, one in enumerate(tensor.placements) if not (one.is_replicate() or one.is_partial())]


def local_part(layer: str, mask: Any, weight: Any) -> tuple[Any, Any, Part | None]:
    """Bring a mask and its weight to what this process holds of them, without talking to another.

    Parameters
    ----------
    layer : str
        For the error.
    mask, weight : array, tensor, DTensor or None
        Either may be shared out. The other is then shared out in the same way, or whole, or the part of this process.

    Returns
    -------
    mask, weight : array or tensor
        Of the shape of the part.
    part : Part or None
        None where every process holds the whole layer.

    Raises
    ------
    MaskError
        If they are shared out differently, or are sums that are not added up yet.
    """
    placed = [one for one in (weight, mask) if _is_distributed(one)]
    if any(not _is_block(tensor) for tensor in placed):
        raise MaskError(
            f"layer {layer!r}: this process's rows do not lie side by side in the weight ({placed[0].placements}); "
            "redistribute it to Shard or Replicate first"
        )
    if any(one.is_partial() for tensor in placed for one in tensor.placements):
        raise MaskError(f"layer {layer!r}: is a sum whose parts are not added up (Partial); redistribute it first")
    cut = next((one for one in placed if _shards(one) and one.device_mesh.size() > 1), None)
    if cut is None:
        return (*(one.detach().to_local() if _is_distributed(one) else one for one in (mask, weight)), None)
    shape, part = _find_part(cut)
    block = tuple(slice(o, o + n) for o, n in zip(part.offset, shape, strict=True))
    found: list[Any] = []
    for one in (mask, weight):
        if one is None:
            found.append(None)
            continue
        if _is_distributed(one) and _shards(one):
            if _find_part(one) != (shape, part):
                raise MaskError(
                    f"layer {layer!r}: the mask and the weight are shared out differently ({mask.placements} and "
                    f"{weight.placements}); redistribute the mask as the weight is"
                )
            found.append(one.detach().to_local())
            continue
        local = one.detach().to_local() if _is_distributed(one) else one
        if tuple(local.shape) == part.whole:
            local = local[block]
        if tuple(local.shape) != shape:
            raise MaskError(
                f"layer {layer!r}: the mask or weight has shape {tuple(local.shape)}, expected {part.whole}, that of "
                f"the whole weight, or {shape}, that of this process's part"
            )
        found.append(local)
    return found[0], found[1], part


def turned_part(layer: str, part: Part | None, groups: int) -> Part | None:
    """Turn a block of a transposed convolution's ``(in, out, *kernel)`` to ``(out, in, *kernel)``, as its mask is."""
    if part is None:
        return None
    if groups != 1:
        raise MaskError(
            f"layer {layer!r}: a transposed convolution in {groups} groups that is shared out cannot be recorded; "
            "leave it whole, or leave it out with layers=..."
        )
    (a, b, *rest), (c, d, *others) = part.offset, part.whole
    return Part((b, a, *rest), (d, c, *others), part.copy)


def _is_block(tensor: Any) -> bool:
    """Whether what a process holds is one block: a strided shard is, if the later axes of the mesh cut the rest."""
    cuts = [(tensor.placements[axis], tensor.device_mesh.size(axis)) for axis in _shards(tensor)]
    for number, (one, _) in enumerate(cuts):
        later = math.prod(size for other, size in cuts[number + 1 :] if other.dim == one.dim)
        if getattr(one, "split_factor", later) != later:
            return False
    return True


def _find_part(tensor: Any) -> tuple[tuple[int, ...], Part]:
    """Shape of this process's block of a DTensor, and where it lies."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    whole, mesh = tuple(tensor.shape), tensor.device_mesh
    place = mesh.get_coordinate()
    if place is None:  # the mesh is of other processes
        return (0,) * len(whole), Part((0,) * len(whole), whole, 1)
    shape, offset = compute_local_shape_and_global_offset(whole, mesh, tensor.placements)
    copy = 0
    for axis, placement in enumerate(tensor.placements):
        if placement.is_replicate():
            copy = copy * mesh.size(axis) + place[axis]
    return tuple(map(int, shape)), Part(tuple(map(int, offset)), whole, copy)


def join(
    place: Place, run_dir: Path, writer: RunWriter | None, *, sharded: bool, resume: bool
) -> RunWriter | ShardWriter | SilentWriter:
    """Agree on the run with the other processes, once; each calls this when its recorder is attached.

    Parameters
    ----------
    place : Place
    run_dir : Path
    writer : RunWriter or None
        That of the first process.
    sharded : bool
        Whether each process is to write its own part.
    resume : bool
        Whether the recorders go on with a run.

    Returns
    -------
    RunWriter, ShardWriter or SilentWriter
        What this process is to write with.

    Raises
    ------
    UsageError
        If there is no process group yet.
    RunDirectoryError
        If the first process says nothing.
    """
    from torch import distributed

    if not distributed.is_initialized():
        raise UsageError("call torch.distributed.init_process_group() before attaching the recorder")
    facts: dict[str, Any] = {}
    if writer is not None:
        newest = newest_whole(RunReader(run_dir)) if resume else writer.newest
        facts = {"run_id": writer.run_id, "newest": newest}
    facts = _announce(place, f"sift_graph {run_dir.name}", facts)  # machines may mount it elsewhere
    if sharded:
        return ShardWriter(run_dir, facts["run_id"], place.rank, place.world, facts["newest"], writer)
    return writer if writer is not None else SilentWriter(run_dir, facts["run_id"], facts["newest"])


def _announce(place: Place, topic: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Give what the first process says to all, through the store that the process group was made with."""
    from torch.distributed import distributed_c10d

    store = distributed_c10d._get_default_store()
    try:
        key = f"{topic} {store.add(f'{topic} heard by {place.rank}', 1)}"
        if place.rank == 0:
            store.set(key, json.dumps(facts))
        else:
            store.wait([key], PATIENCE)
        heard: dict[str, Any] = json.loads(store.get(key))
    except RuntimeError as error:
        raise RunDirectoryError(
            f"rank {place.rank} heard nothing of the recording from rank 0 ({str(error)[:80]}); make a MaskRecorder "
            "with the same run directory in every process, and attach it there"
        ) from error
    return heard


def check_equal(place: Place, layers: Mapping[str, LayerMask], step: int) -> None:
    """Compare the masks of all processes; a collective: all must call it.

    Parameters
    ----------
    place : Place
    layers : mapping of str to LayerMask
        What this process holds; of a layer that is shared out, equal parts are compared.
    step : int
        For the error.

    Raises
    ------
    MaskError
        In every process, naming the layers that differ and the ranks.
    """
    mine = {name if m.part is None else f"{name} at {list(m.part.offset)}": m.digest for name, m in layers.items()}
    short = xxhash.xxh3_128_hexdigest(json.dumps(mine).encode())
    if len(set(_gather(place, short))) == 1:
        return
    everyone = _gather(place, mine)
    parted = any(mask.part is not None for mask in layers.values())
    found = []
    for name in dict.fromkeys(name for one in everyone for name in one):
        holders: dict[str | None, list[int]] = {}
        for rank, one in enumerate(everyone):
            if name in one or not parted:
                holders.setdefault(one.get(name), []).append(rank)
        if len(holders) > 1:
            found.append(f"layer {name!r} (ranks {' against '.join(_ranks(ranks) for ranks in holders.values())})")
    if found:
        others = f" and {len(found) - 5} other layers" if len(found) > 5 else ""
        raise MaskError(
            f"the masks at step {step} differ between processes: {', '.join(found[:5])}{others}. Move masks by what "
            "all processes share: the same seeds, averaged gradients, equal weights"
        )


def _ranks(ranks: list[int]) -> str:
    return ", ".join(map(str, ranks[:8])) + (", ..." if len(ranks) > 8 else "")


def _gather(place: Place, value: Any) -> list[Any]:
    from torch import distributed

    gathered: list[Any] = [None] * place.world
    distributed.all_gather_object(gathered, value)
    return gathered
