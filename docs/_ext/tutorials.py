"""Pages of the notebooks: executed where SIFT_GRAPH_RUN_NOTEBOOKS is set (`make docs` does), once for each version."""

import hashlib
import os
from pathlib import Path

import jupytext
import nbformat

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def make_pages(app):
    """Write docs/notebooks/<name>.ipynb; one that ran is kept until its source changes."""
    folder = Path(app.srcdir) / "notebooks"
    folder.mkdir(exist_ok=True)
    run = bool(os.environ.get("SIFT_GRAPH_RUN_NOTEBOOKS"))
    for source in sorted(NOTEBOOKS.glob("[0-9]*.py")):
        path = folder / f"{source.stem}.ipynb"
        version = f"{hashlib.sha256(source.read_bytes()).hexdigest()}{' executed' * run}"
        if path.exists() and version in nbformat.read(path, as_version=4).metadata.get("source_version", ""):
            continue
        notebook = jupytext.read(source)
        if run:
            from nbclient import NotebookClient

            NotebookClient(
                notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOKS)}}
            ).execute()
        notebook.metadata["source_version"] = version
        jupytext.write(notebook, path)


def setup(app):
    """Make the pages before sources are looked for."""
    app.connect("config-inited", lambda app, config: make_pages(app))
    return {"parallel_read_safe": True, "version": "1"}
