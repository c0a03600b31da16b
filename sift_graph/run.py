"""The door for notebooks: open a run, look at it, analyze it.

Examples
--------
>>> import tempfile, numpy as np, sift_graph
>>> from sift_graph.store import RunWriter
>>> directory = tempfile.mkdtemp() + "/run"
>>> mask = sift_graph.LayerMask.from_dense("fc", np.tri(6, dtype=bool))
>>> _ = RunWriter(directory).write_snapshot(sift_graph.Snapshot(0, {"fc": mask}))
>>> run = sift_graph.open(directory)
>>> run.steps, run.layers
([0], ['fc'])
>>> int(run.analyze()["edges"].iloc[0])
21
"""

from __future__ import annotations

import html
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sift_graph.masks import LayerMask, match_layers
from sift_graph.store import RunReader

if TYPE_CHECKING:
    import pandas as pd

    from sift_graph.graph import BipartiteGraph
    from sift_graph.table import Analysis, Progress

__all__ = ["Run", "analyze", "network", "open"]


@dataclass(frozen=True)
class Run:
    """One recorded run; nothing is read before it is asked for.

    Attributes
    ----------
    reader : RunReader
    """

    reader: RunReader

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.reader.run_dir

    @property
    def about(self) -> dict[str, Any]:
        """Family, method, sparsity, seed and the like, as far as they were recorded."""
        return self.reader.about

    @property
    def steps(self) -> list[int]:
        """Recorded steps, ascending."""
        return self.reader.steps

    @property
    def layers(self) -> list[str]:
        """Layer names of the last snapshot, in network order."""
        return [entry["name"] for entry in self.reader.entries(self.steps[-1])] if self.steps else []

    def mask(self, layer: str, *, step: int | None = None) -> LayerMask:
        """Load one layer's mask, with its weights if any were recorded.

        Parameters
        ----------
        layer : str
            A name, or a glob that matches exactly one.
        step : int, optional
            A recorded step; the last by default.

        Returns
        -------
        LayerMask

        Raises
        ------
        UsageError
            If no layer, or more than one, is meant.
        """
        from sift_graph.errors import UsageError

        at = self.steps[-1] if step is None else step
        if at not in self.steps:
            raise UsageError(f"{self.path}: step {at} is not recorded; recorded: {self.steps[0]} to {self.steps[-1]}")
        names = match_layers([entry["name"] for entry in self.reader.entries(at)], layer)
        if len(names) > 1:
            raise UsageError(f"{layer!r} matches {len(names)} layers ({', '.join(names[:5])}, ...); name one")
        return self.reader.load_layer(at, names[0])

    def graph(self, layer: str, *, step: int | None = None) -> BipartiteGraph:
        """Load one layer as a bipartite graph; arguments as :meth:`mask`."""
        from sift_graph.graph import BipartiteGraph

        return BipartiteGraph.from_mask(self.mask(layer, step=step))

    def metrics(self) -> pd.DataFrame:
        """Return what was logged during training (``metrics.jsonl``) as a frame, a row a line."""
        import pandas as pd

        return pd.DataFrame(list(self.reader.metrics()))

    def analyze(
        self,
        *,
        layers: str | None = None,
        steps: str | Iterable[int] | None = None,
        metrics: str | Iterable[str] | None = None,
        jobs: int = 1,
        scheduler: str | None = None,
        force: bool = False,
        encoding: str = "kernel",
        heads: int | None = None,
        input_size: str | Iterable[str] | None = None,
        progress: Progress | None = None,
        **null_options: Any,
    ) -> pd.DataFrame:
        """Measure the recorded masks.

        Parameters
        ----------
        layers, steps, metrics, jobs, scheduler, force, encoding, heads, input_size, progress
            As :func:`sift_graph.table.analyze_runs`.
        **null_options
            null, n_null, null_metrics, null_steps, null_seed, null_rounds, null_pattern, as there: the comparison with
            random masks.

        Returns
        -------
        DataFrame
            One row per (step, layer). ``attrs`` holds ``failures`` and ``warnings`` and, where there are comparisons
            with random masks, ``nulls``: their rows, as :meth:`nulls` gives them.
        """
        return as_frame(
            _analyze(
                self.path,
                layers=layers,
                steps=steps,
                metrics=metrics,
                jobs=jobs,
                scheduler=scheduler,
                force=force,
                encoding=encoding,
                heads=heads,
                input_size=input_size,
                progress=progress,
                **null_options,
            )
        )

    def nulls(self, null: str = "degree", *, samples: int = 100, steps: Any = "last", **options: Any) -> pd.DataFrame:
        """Compare the recorded masks with random ones.

        Parameters
        ----------
        null : {"er", "degree", "nm"}
            What the random masks share with the recorded one; see :mod:`sift_graph.nulls`.
        samples : int
            Random masks to draw of each.
        steps : str or iterable of int
            Which snapshots.
        **options
            layers, encoding, metrics (what is compared), seed, pattern, rounds, jobs, scheduler, force, progress.

        Returns
        -------
        DataFrame
            One row per (step, layer, metric): observed value, mean and standard deviation of the random masks, z, p,
            quantile. ``attrs`` holds ``failures`` and ``warnings``.
        """
        from sift_graph.nulls import select_compared

        renamed = {
            f"null_{name}": options.pop(name) for name in ("metrics", "seed", "pattern", "rounds") if name in options
        }
        options |= {"metrics": "edges", "steps": steps, "null": null, "n_null": samples, "null_steps": "all"}
        analysis = _analyze(self.path, **options, **renamed)
        rows = analysis.nulls
        wanted = rows["metric"].isin(select_compared(renamed.get("null_metrics")))
        asked = (rows["null"] == null) & wanted & rows["step"].isin(analysis.layers["step"])
        frame = rows[asked].reset_index(drop=True)
        frame.attrs = as_frame(analysis).attrs
        frame.attrs.pop("nulls", None)
        return frame

    def network(self, **options: Any) -> pd.DataFrame:
        """Measure the recorded masks, and return whole-network values: one row per step; options as :meth:`analyze`."""
        return _analyze(self.path, **options).network

    def _card(self) -> list[tuple[str, str]]:
        about = {k: v for k, v in self.about.items() if v is not None}
        rows = [("run", str(self.path)), *((k, str(v)) for k, v in about.items())]
        if not self.steps:
            return [*rows, ("snapshots", "none yet")]
        entries = self.reader.entries(self.steps[-1])
        kept = sum(e["nnz"] for e in entries)
        import math

        size = sum(math.prod(e["shape"]) for e in entries)
        return [
            *rows,
            ("snapshots", f"{len(self.steps)}, step {self.steps[0]} to {self.steps[-1]}"),
            ("masked layers", f"{len(entries)}"),
            ("edges", f"{kept:,} of {size:,} ({kept / size:.1%} dense)"),
        ]

    def __repr__(self) -> str:
        """One line."""
        return f"Run({str(self.path)!r}, {len(self.steps)} snapshots, {len(self.layers)} layers)"

    def __str__(self) -> str:
        """Show what was recorded, a line a fact."""
        card = self._card()
        width = max(len(k) for k, _ in card)
        return "\n".join(f"{k:<{width}}  {v}" for k, v in card)

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><th style="text-align:left;font-weight:600;padding:2px 12px 2px 0">{html.escape(k)}</th>'
            f'<td style="text-align:left;padding:2px 0">{html.escape(v)}</td></tr>'
            for k, v in self._card()
        )
        return f'<table style="border:none"><tbody>{rows}</tbody></table>'


def open(path: str | os.PathLike[str]) -> Run:
    """Open a run directory.

    Parameters
    ----------
    path : path

    Returns
    -------
    Run

    Raises
    ------
    RunDirectoryError
        If the directory is not a run.
    """
    return Run(RunReader(Path(path)))


def analyze(path: str | os.PathLike[str], **options: Any) -> pd.DataFrame:
    """Measure the masks of a run, or of every run below a directory, in one step.

    Parameters
    ----------
    path : path
    **options
        As :func:`sift_graph.table.analyze_runs`: layers, steps, metrics, jobs, scheduler, force, encoding, heads,
        input_size, progress, null and its companions.

    Returns
    -------
    DataFrame
        As :meth:`Run.analyze`, with the runs one after the other.
    """
    return as_frame(_analyze(path, **options))


def network(path: str | os.PathLike[str], **options: Any) -> pd.DataFrame:
    """Measure a run, or every run below a directory, and return whole-network values.

    Parameters
    ----------
    path : path
    **options
        As :func:`analyze`.

    Returns
    -------
    DataFrame
        One row per (run, step), as :func:`sift_graph.table.network_frame`; what ``sift_graph.correlate`` takes.
    """
    return _analyze(path, **options).network


def _analyze(path: str | os.PathLike[str], **options: Any) -> Analysis:
    from sift_graph.table import analyze_runs

    return analyze_runs(path, **options)


def as_frame(analysis: Analysis) -> pd.DataFrame:
    """Return the layer frame, with the rest of the analysis in its ``attrs``."""
    frame = analysis.layers
    frame.attrs = {
        "failures": [vars(f) for f in analysis.failures],
        "warnings": list(analysis.warnings),
    }
    if len(analysis.nulls):
        frame.attrs["nulls"] = analysis.nulls.to_dict("records")
    return frame
