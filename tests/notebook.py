"""Run a notebook as its kernel would, in a process that may be forked from one with the libraries imported."""

from __future__ import annotations

import os
import sys
from base64 import b64decode
from pathlib import Path

PRELOADED = ["IPython.core.interactiveshell", "jupytext", "seaborn", "sift_graph.run", "sift_graph.plots", "torch"]
PRELOADED += ["tests.notebook"]


def execute(notebook: Path, out: Path) -> None:
    """Run the code cells from top to bottom, in the notebook's folder; stop at the first that fails.

    Parameters
    ----------
    notebook : Path
        In jupytext's percent format.
    out : Path
        A folder for what the cells print, ``stdout`` and ``stderr`` (of libraries and child processes, too), and for
        their figures, ``0.png`` and on.

    Raises
    ------
    SystemExit
        With 1, if a cell fails. Its traceback is the end of ``stdout``.
    """
    for stream, name in ((sys.stdout, "stdout"), (sys.stderr, "stderr")):
        stream.flush()
        with (out / name).open("wb") as file:
            os.dup2(file.fileno(), 1 if name == "stdout" else 2)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", buffering=1) for number in (1, 2))
    os.chdir(notebook.parent)

    import jupytext
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    shell = InteractiveShell.instance()
    figures = 0
    for cell in jupytext.read(notebook).cells:
        if cell.cell_type != "code":
            continue
        with capture_output(stdout=False, stderr=False) as shown:
            result = shell.run_cell(cell.source)
        if not result.success:
            sys.exit(1)
        for output in shown.outputs:
            if "image/png" in output.data:
                (out / f"{figures}.png").write_bytes(b64decode(output.data["image/png"]))
                figures += 1
