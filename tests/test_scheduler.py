"""The same work on a running Dask cluster, with a worker killed on the way."""

import logging
import os
import signal

import pandas as pd
import pytest

from sift_graph import table
from sift_graph.errors import UsageError
from sift_graph.parallel import unordered
from tests.runs import write_run

pytest.importorskip("distributed", reason="dask is an extra")


@pytest.fixture
def cluster():
    from dask.distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL, protocol="tcp"
    ) as running:
        yield running


@pytest.mark.filterwarnings("default")  # the cluster's own, when a worker dies
def test_a_worker_may_die_and_no_row_is_lost_or_doubled(tmp_path, cluster):
    path = write_run(tmp_path / "a", steps=tuple(range(0, 300, 10)))
    alone = table.analyze_runs(path, force=True)
    victims = [worker.pid for worker in cluster.workers.values()]
    killed = []

    def kill_one(done, total):
        if done == total // 4:
            os.kill(victims[0], signal.SIGKILL)
            killed.append(done)

    together = table.analyze_runs(path, scheduler=cluster.scheduler_address, force=True, progress=kill_one)
    assert killed
    assert not together.failures
    pd.testing.assert_frame_equal(alone.layers, together.layers)
    kept = next(path.glob("analysis/*/rows.jsonl")).read_text().splitlines()
    assert len(kept) == len(alone.layers)


def test_no_scheduler_is_said(tmp_path, monkeypatch):
    def refuse(address, timeout):
        raise OSError("timed out")

    monkeypatch.setattr("dask.distributed.Client", refuse)
    with pytest.raises(UsageError, match=r"no Dask scheduler answers at 'tcp://127.0.0.1:1' \(timed out\)"):
        list(unordered(str, [], scheduler="tcp://127.0.0.1:1"))
