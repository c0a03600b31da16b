"""Share work out over processes: on this machine, or on a running Dask cluster."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

from sift_graph.errors import UsageError

__all__ = ["one_thread", "unordered"]

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep the pools of BLAS and OpenMP at one thread.

    To look for their libraries takes a millisecond, longer than a small layer does; it is done again only when modules
    were imported since.
    """
    with _pools(len(sys.modules)).limit(limits=1):
        yield


@lru_cache(maxsize=1)
def _pools(modules: int) -> ThreadpoolController:
    return ThreadpoolController()


def unordered(
    function: Callable[[Item], Result], items: Iterable[Item], *, jobs: int = 1, scheduler: str | None = None
) -> Iterator[Result]:
    """Apply a function to items in other processes, each with one thread; results come as they are ready.

    Parameters
    ----------
    function : callable
        Importable by name, as joblib needs it.
    items : iterable
    jobs : int
        Processes on this machine.
    scheduler : str, optional
        Address of a running Dask cluster that does the work instead. An item whose worker dies goes to another one.

    Yields
    ------
    object
        What the function returns.

    Raises
    ------
    UsageError
        If no scheduler answers at the address, or dask is not installed.
    """
    from joblib import Parallel, delayed, parallel_config

    with ExitStack() as stack:
        if scheduler is None:
            # A worker that has just imported a large library looks to joblib as if it leaked memory; joblib replaces
            # it, loses nothing, and warns.
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message="A worker stopped while some jobs", category=UserWarning)
            stack.enter_context(parallel_config(backend="loky", n_jobs=jobs, inner_max_num_threads=1))
        else:
            stack.enter_context(dask_client(scheduler))
            stack.enter_context(parallel_config(backend="dask"))
        yield from Parallel(return_as="generator_unordered")(delayed(function)(item) for item in items)


def dask_client(address: str) -> Any:
    """Connect to a Dask scheduler.

    Parameters
    ----------
    address : str
        For instance ``"tcp://10.0.0.1:8786"``.

    Returns
    -------
    dask.distributed.Client

    Raises
    ------
    UsageError
        If nothing answers there, or dask is not installed.
    """
    try:
        from dask.distributed import Client
    except ModuleNotFoundError as error:
        raise UsageError(f"a scheduler needs {error.name}; pip install 'sift-graph[dask]'") from error
    try:
        return Client(address, timeout="10s")  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no Dask scheduler answers at {address!r} ({error}); start one with `dask scheduler`"
        ) from error
