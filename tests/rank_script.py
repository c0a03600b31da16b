"""What each of two processes does for ``test_ranks``: all in one go, because a process costs seconds to start."""

from __future__ import annotations

import json
import sys
import warnings
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard
from torch.nn.utils import prune

import sift_graph.ranks
from sift_graph.errors import SiftGraphError
from sift_graph.integrations.lightning_hooks import LightningHooks
from sift_graph.record import MaskRecorder, RecorderWarning

FOLDER, RANK = Path(sys.argv[1]), int(sys.argv[2])
told: dict[str, object] = {}


def refused(name: str, act) -> None:
    """Note the message of an error that must come."""
    try:
        act()
    except SiftGraphError as error:
        told[name] = f"{type(error).__name__}: {error}"


def pruned() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 4))
    prune.random_unstructured(model[0], "weight", 0.5)
    model = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)  # else masks are, too
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randn(4, 8)).square().mean().backward()
    optimizer.step()


# One writes, the others do nothing
early = MaskRecorder(FOLDER / "early")  # before the process group: the environment tells the rank
distributed.init_process_group("gloo", f"file://{FOLDER}/store", rank=RANK, world_size=2, timeout=timedelta(seconds=60))
model, optimizer = pruned()
early.attach(model, optimizer)
with MaskRecorder(FOLDER / "ddp", on_change=False, example_input=torch.zeros(2, 8)).attach(
    model, optimizer
) as recorder:
    for _ in range(2):
        step(model, optimizer)
        recorder.log({"loss": 1.0})
    told["ddp"] = {"enabled": recorder.enabled, "attached": recorder.attached, "early": early.attached}
early.close()
with MaskRecorder(FOLDER / f"each{RANK}", ranks="each").attach(model, optimizer):
    pass

# Masks are compared
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    with MaskRecorder(FOLDER / "checked", check_ranks=2, on_change=False).attach(model, optimizer) as recorder:
        for number in range(1, 7):
            if number == 3 and RANK == 1:
                model.module[0].weight_mask.copy_(model.module[0].weight_mask.roll(1, 0))
            step(model, optimizer)
    told["checked"] = [str(one.message) for one in caught if one.category is RecorderWarning]
refused("differ at attach", lambda: MaskRecorder(FOLDER / "refused", check_ranks=True).attach(model, optimizer))
hand = {"fc": np.eye(4) if RANK else np.ones((4, 4))}
refused("differ by hand", lambda: MaskRecorder(FOLDER / "by hand", check_ranks=True).snapshot(0, hand))


# Each writes its own part
def sharded(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Uneven shards (5 rows), an empty one (1 row), and a layer that stays whole."""
    torch.manual_seed(seed)
    parts = [nn.Linear(8, 5), nn.Linear(5, 1), nn.ConvTranspose2d(3, 2, 3)]
    model = nn.ModuleList([*parts, nn.Linear(3, 3)])
    with torch.no_grad():
        for weight in model.parameters():
            weight *= torch.rand_like(weight) < 0.5
    mesh = init_device_mesh("cpu", (2,))
    for part in model[:3]:
        fully_shard(part, mesh=mesh)
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def whole(model: nn.Module, into: str) -> None:
    """Save the weights as they are, put together by torch itself."""
    found = {
        name.removesuffix(".weight"): (one.full_tensor() if hasattr(one, "full_tensor") else one).detach().numpy()
        for name, one in model.named_parameters()
        if one.ndim > 1
    }
    found["2"] = found["2"].transpose(1, 0, 2, 3)
    if RANK == 0:
        np.savez(FOLDER / f"{into}.npz", **found)


turns = iter(range(100))


def move(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """A step that changes the mask of one layer, on the second process alone."""
    column = next(turns) % 8
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    if RANK == 1:
        local = model[0].weight.detach().to_local()
        local[0, column] = float(local[0, column] == 0)
    optimizer.step()


model, optimizer = sharded()
refused("no every", lambda: MaskRecorder(FOLDER / "a", source="weight!=0").attach(model, optimizer))
refused("drop", lambda: MaskRecorder(FOLDER / "b", every=1, policy="drop", source="weight!=0").attach(model, optimizer))
refused(
    "measure", lambda: MaskRecorder(FOLDER / "c", every=1, measure=True, source="weight!=0").attach(model, optimizer)
)
options = {"source": "weight!=0", "every": 2, "weights": "fp32", "about": {"family": "sharded"}}
with MaskRecorder(FOLDER / "fsdp", check_ranks=2, **options).attach(model, optimizer) as recorder:
    whole(model, "fsdp0")
    for number in range(1, 7):
        move(model, optimizer)
        if number % 2 == 0:
            whole(model, f"fsdp{number}")
    told["fsdp"] = {"enabled": recorder.enabled, "newest": recorder.newest}
if RANK == 1:
    (FOLDER / "fsdp" / "masks" / "step_000000006.rank00001.safetensors").unlink()  # as if killed before it
distributed.barrier()
with MaskRecorder(FOLDER / "fsdp", resume=True, **options).attach(model, optimizer) as recorder:
    told["resumed"] = recorder.step  # the newest that all have
    recorder.load_state_dict({"step": 2})
    for _ in range(2):
        move(model, optimizer)
    whole(model, "again4")

# Masks that are whole beside weights that are not; and tensors cut along another axis, by hand
model, optimizer = sharded(1)
masks = {"0": torch.rand(5, 8, generator=torch.Generator().manual_seed(0)) < 0.5, "3": torch.eye(3)}
with MaskRecorder(FOLDER / "given", every=1).attach(model, optimizer, masks=lambda: masks):
    pass
trainer = SimpleNamespace(is_global_zero=RANK == 0, global_step=0, optimizers=[optimizer])
callback = LightningHooks(FOLDER / "lightning", source="weight!=0", every=1)
callback.on_train_start(trainer, model)
callback.on_train_end(trainer, model)
mesh = init_device_mesh("cpu", (2,))
weight = torch.arange(35.0).reshape(5, 7)
cut = {
    "columns": distribute_tensor(weight % 3 == 0, mesh, [Shard(1)]),
    "pair": (distribute_tensor(weight % 2 == 0, mesh, [Shard(0)]), distribute_tensor(weight, mesh, [Shard(0)])),
    "mixed": (distribute_tensor(weight % 2 == 0, mesh, [Replicate()]), distribute_tensor(weight, mesh, [Shard(1)])),
    "hybrid": distribute_tensor(weight % 4 == 0, init_device_mesh("cpu", (2, 1)), [Replicate(), Shard(0)]),
    "copies": distribute_tensor(weight % 5 == 0, mesh, [Replicate()]),
}
with MaskRecorder(FOLDER / "hand", weights="fp32") as recorder:
    recorder.snapshot(3, cut)
    recorder.snapshot(4, cut)
    wrong = {"w": (cut["columns"], cut["pair"][1])}
    refused("two ways", lambda: recorder.snapshot(5, wrong))
    refused("shape", lambda: recorder.snapshot(5, {"w": (torch.ones(3, 3), cut["pair"][1])}))
    summed = torch.distributed.tensor.DTensor.from_local(weight, mesh, [Partial()])
    apart = torch.distributed.tensor.DTensor.from_local(weight, mesh, [_StridedShard(0, split_factor=2)])
    refused("strided", lambda: recorder.snapshot(5, {"w": apart}))
    refused("partial", lambda: recorder.snapshot(5, {"w": summed}))
distributed.barrier()
sift_graph.ranks.PATIENCE = timedelta(seconds=0.5)
if RANK == 1:
    refused("alone", lambda: MaskRecorder(FOLDER / "alone", every=1, source="weight!=0").attach(model, optimizer))
distributed.barrier()
(FOLDER / f"told{RANK}.json").write_text(json.dumps(told))
distributed.destroy_process_group()
