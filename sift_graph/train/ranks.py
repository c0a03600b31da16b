"""The processes of one run, as ``torchrun`` starts them: one model, each batch shared out, gradients averaged."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import xxhash
from torch import distributed, nn

from sift_graph.errors import TrainingError
from sift_graph.train.config import Config

__all__ = ["Ranks", "isolated", "ranked"]


@dataclass(frozen=True)
class Ranks:
    """Where a process stands among those of its run.

    Attributes
    ----------
    rank : int
        Of this process; only the first, 0, writes.
    world : int
        Processes of the run.
    device : torch.device
    """

    rank: int
    world: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run."""
        return self.rank == 0

    def share(self, indices: torch.Tensor) -> torch.Tensor:
        """Give this process's part of a batch."""
        return indices[self.rank :: self.world]

    def wait(self) -> None:
        """Wait until all processes have come here."""
        if self.world > 1:
            distributed.barrier()

    def wrapped(self, model: nn.Module) -> nn.Module:
        """Give the module to call for training: its backward pass averages gradients over the processes."""
        if self.world == 1:
            return model
        on_gpu = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=on_gpu)

    def total(self, values: Sequence[float]) -> list[float]:
        """Add numbers up over the processes; the same result everywhere."""
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(tensor)
        added: list[float] = tensor.tolist()
        return added

    def spread_buffers(self, model: nn.Module) -> None:
        """Give all processes the first one's buffers: each has its own running means of a batch norm."""
        if self.world > 1:
            for buffer in model.buffers():
                distributed.broadcast(buffer, 0)

    def check_equal(self, digests: Sequence[str], what: str) -> None:
        """Refuse to go on if processes differ in what must be the same.

        Parameters
        ----------
        digests : sequence of str
        what : str
            Begins the message.

        Raises
        ------
        TrainingError
            In every process, naming one that differs from the first.
        """
        if self.world == 1:
            return
        mine = torch.tensor(
            list(xxhash.xxh3_128_digest("".join(digests).encode())), dtype=torch.uint8, device=self.device
        )
        all_of_them = [torch.empty_like(mine) for _ in range(self.world)]
        distributed.all_gather(all_of_them, mine)
        for rank, theirs in enumerate(all_of_them):
            if not torch.equal(theirs, all_of_them[0]):
                raise TrainingError(
                    f"{what}: process {rank} differs from process 0. A method must move masks by what all processes "
                    "share: averaged gradients, weights, seeds"
                )


@contextmanager
def ranked(device: str) -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` started, if it did; leave them at the end.

    Parameters
    ----------
    device : str
        ``cuda`` becomes one device for each process of a machine.

    Yields
    ------
    Ranks
    """
    wanted = torch.device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks(0, 1, wanted)
        return
    if wanted.type == "cuda" and wanted.index is None:
        wanted = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(wanted)
    joined = not distributed.is_initialized()
    if joined:
        distributed.init_process_group("nccl" if wanted.type == "cuda" else "gloo")
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size(), wanted)
        distributed.barrier()  # until all have heard the last word of each other
    finally:
        if joined:
            gc.collect()  # a wrapped model is a cycle, and must go before the group
            distributed.destroy_process_group()


@contextmanager
def isolated(config: Config, ranks: Ranks) -> Iterator[None]:
    """Seed PyTorch and set its threads for a run; put both back as they were."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[ranks.device] if ranks.device.type == "cuda" else []):
        torch.set_num_threads(config.training.threads)
        torch.manual_seed(config.seed)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
