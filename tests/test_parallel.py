"""One thread a worker."""

import numpy as np
import scipy.linalg  # noqa: F401  a second pool beside numpy's
from threadpoolctl import threadpool_info, threadpool_limits

from sift_graph.parallel import _pools, one_thread


def threads():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_pools_are_held_at_one_thread_and_let_go():
    np.ones((2, 2)) @ np.ones((2, 2))
    with threadpool_limits(2):
        before = threads()
        with one_thread():
            assert set(threads()) == {1}
        assert threads() == before


def test_libraries_are_looked_for_once():
    with one_thread():
        pass
    found = _pools.cache_info().misses
    for _ in range(3):
        with one_thread():
            pass
    assert _pools.cache_info().misses == found
