"""Two processes under DistributedDataParallel: masks stay equal, and growth follows the averaged gradient."""

import os
from datetime import timedelta

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from sift_graph.sparsify import METHODS, MethodOptions, Schedule, largest, lay_out

COUNTS = {"1.weight": 64, "4.weight": 96}
PATTERN = {"1.weight": 96, "4.weight": 192}
SCHEDULE = Schedule(0, 12, every=2, drop_fraction=0.4)
# The others look at data before training only, and every rank is given the same.
DYNAMIC = [name for name, source in METHODS.items() if source.moves]


def network():
    torch.manual_seed(7)
    return nn.Sequential(
        nn.Linear(6, 12),
        nn.Linear(12, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, 24),
        nn.ReLU(),
        nn.Linear(24, 3),
    )


def batch(rank):
    generator = torch.Generator().manual_seed(100 + rank)
    return torch.randn(20, 6, generator=generator), torch.randint(3, (20,), generator=generator)


def train(rank, directory):
    """Train every method on data of this rank's own; save the masks of each step."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{directory}/rendezvous", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    found = {}
    for method in DYNAMIC:
        model, source = network(), METHODS[method]
        masks = lay_out(
            model,
            PATTERN if method == "nm" else COUNTS,
            layout="exact" if source.init == "random" else source.init,
            scope=source.scope(MethodOptions()),
        )
        wrapped = DistributedDataParallel(model)
        optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.05, momentum=0.9)
        made = source.make(masks, optimizer, SCHEDULE, model=model, options=MethodOptions())
        torch.manual_seed(1000 + rank)
        x, y = batch(rank)
        trace = []
        for t in range(1, 13):
            optimizer.zero_grad()
            functional.cross_entropy(wrapped(x), y).backward()
            optimizer.step()
            made.step(t)
            trace.append({name: masks[name].clone() for name in masks})
        found[method] = {"masks": trace, "weights": {n: p.detach().clone() for n, p in model.named_parameters()}}
    torch.save(found, f"{directory}/rank{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    directory = tmp_path_factory.mktemp("ranks")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    multiprocessing.spawn(train, args=(str(directory),), nprocs=2)
    return [torch.load(directory / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("method", DYNAMIC)
def test_all_ranks_hold_equal_masks_and_weights(ranks, method):
    first, second = (rank[method] for rank in ranks)
    moved = False
    for a, b in zip(first["masks"], second["masks"], strict=True):
        assert all(torch.equal(a[name], b[name]) for name in COUNTS)
        moved |= any(not torch.equal(a[name], first["masks"][0][name]) for name in COUNTS)
    assert moved
    assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in first["weights"])


def test_growth_follows_the_gradient_averaged_over_the_ranks(ranks):
    # One process that sees both batches with each rank's own batch norm statistics: the mean of two backward passes.
    model = network()
    masks = lay_out(model, COUNTS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(2):  # up to the first update of the schedule
        optimizer.zero_grad()
        for rank in range(2):
            x, y = batch(rank)
            (functional.cross_entropy(model(x), y) / 2).backward()
        gradient = {name: masks.parameters[name].grad.abs().clone() for name in COUNTS}
        old = {name: masks[name].clone() for name in COUNTS}
        masks.apply_to_gradients()
        optimizer.step()
        masks.apply(optimizer)
    fraction = SCHEDULE.fraction(2)
    for name, count in COUNTS.items():
        magnitude = masks.parameters[name].detach().abs().masked_fill(~old[name], -1)
        kept = largest(magnitude, count - int(fraction * count))
        grown = largest(gradient[name].masked_fill(kept, -1), int(fraction * count))
        assert torch.equal(ranks[0]["rigl"]["masks"][1][name], kept | grown)
