"""Each notebook runs from top to bottom, in a process of its own with a clock of ours; one of them in a real kernel."""

import multiprocessing
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.notebook import PRELOADED, execute

pytestmark = pytest.mark.skipif(find_spec("jupytext") is None, reason="jupytext is in the extra 'notebooks'")

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("[0-9]*.py"))
KERNEL = """
import sys, jupytext
from nbclient import NotebookClient
notebook = jupytext.read(sys.argv[1])
NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": sys.argv[3]}}).execute()
images = sum("image/png" in o.get("data", {}) for c in notebook.cells for o in c.get("outputs", []))
streams = [o for c in notebook.cells for o in c.get("outputs", []) if o["output_type"] == "stream"]
jupytext.write(notebook, sys.argv[2] + "/executed.ipynb")
print(images)
for stream in streams:
    print(stream["name"], stream["text"])
"""


@pytest.fixture(scope="module")
def processes():
    """Where processes come from: forked from one that has imported what the notebooks need, and run nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SIFT_GRAPH_STUDY", raising=False)
        patch.setenv("OMP_NUM_THREADS", "1")  # and no thread that a fork would lose
        patch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        yield context


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(notebook, tmp_path, processes):
    process = processes.Process(target=execute, args=(notebook, tmp_path))
    process.start()
    process.join(timeout=180)
    process.kill()
    process.join()
    said, complaints = ((tmp_path / name).read_text() for name in ("stdout", "stderr"))
    assert process.exitcode == 0, said[-3000:] + complaints[-3000:]
    assert list(tmp_path.glob("*.png"))
    assert "Warning" not in said
    assert not complaints


def test_a_notebook_runs_in_a_kernel(tmp_path):
    notebook = NOTEBOOKS[5]
    environment = {k: v for k, v in os.environ.items() if k != "SIFT_GRAPH_STUDY"}
    environment |= {"OMP_NUM_THREADS": "1", "JUPYTER_PLATFORM_DIRS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KERNEL, str(notebook), str(tmp_path), str(notebook.parent)],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    images, _, complaints = done.stdout.partition("\n")
    assert int(images) >= 1
    assert "Warning" not in complaints, complaints
    assert "stderr" not in complaints, complaints


def test_notebooks_use_public_names_only():
    for notebook in NOTEBOOKS:
        for line in notebook.read_text().splitlines():
            assert not line.lstrip("# ").startswith(("from sift_graph._", "import sift_graph._")), (notebook, line)
