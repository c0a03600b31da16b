"""Recorded masks against random ones: which (step, layer) is compared, by whom, what is kept, and the frame.

The samples of one mask are cut into units of :data:`CHUNK`, shared out over worker processes. A finished comparison is
appended to ``analysis/nulls.jsonl`` of its run, under a key of everything that it depends on: a later call finds it
whatever metrics the layers are measured with, and so does another step with the same mask.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sift_graph.encodings import Request as Encoding
from sift_graph.errors import DamagedStoreError, NullModelError, SiftGraphError, UsageError
from sift_graph.graph import BipartiteGraph
from sift_graph.masks import match_layers
from sift_graph.metrics import measure_layer
from sift_graph.nulls import Request, Samples, Score, draw_samples, judge
from sift_graph.parallel import one_thread, unordered
from sift_graph.spectrum import estimate_seconds
from sift_graph.store import RunReader, parse_json, read_rows
from sift_graph.work import INLINE_SECONDS, Failure, load_target, mask_key, row_entries, sides

__all__ = [
    "NULL_COLUMNS",
    "NULL_ENCODINGS",
    "NullPlan",
    "NullUnit",
    "check_null_encoding",
    "kept_rows",
    "null_frame",
    "run_null_units",
]

logger = logging.getLogger(__name__)

NULL_COLUMNS = (
    "run",
    "step",
    "layer",
    "null",
    "metric",
    "observed",
    "mean",
    "std",
    "z",
    "p",
    "quantile",
    "n",
    "note",
)
"""Columns of the frame of comparisons, in order."""

NULL_ENCODINGS = ("kernel", "channel", "qkv", "heads", "parallel_or")
"""Encodings whose edges can be drawn anew: each edge is there or not, by itself."""

CHUNK = 25  # samples a unit: the hub of a chain is found anew for each
REVISION = 1  # of the samples: raise it when the same seed gives others


@dataclass(frozen=True)
class NullUnit:
    """Work for one process: some samples of one mask."""

    run: int
    run_dir: Path
    step: int
    entry: Mapping[str, Any]
    request: Request
    first: int
    count: int
    key: str

    @property
    def cost(self) -> float:
        """Estimated seconds."""
        return 3 * self.count * estimate_seconds(*sides(self.entry), self.entry["nnz"])


@dataclass(frozen=True)
class Drawn:
    """What a worker found: samples and, with the first of them, the mask's own values; or why there are none."""

    samples: Samples | None = None
    observed: Mapping[str, float] | None = None
    word: str = ""  # the null model does not exist
    error: str = ""


def draw_unit(unit: NullUnit) -> tuple[NullUnit, Drawn]:
    """Draw and measure one unit in whatever process this is; a failure is returned, not raised."""
    request = unit.request
    try:
        with one_thread():
            mask = load_target(RunReader(unit.run_dir), unit.step, unit.entry, weights=request.needs_weights).mask
            observed = None
            if unit.first == 0:
                values = measure_layer(BipartiteGraph.from_mask(mask), request.metrics)
                observed = {name: values[name] for name in request.metrics}
            try:
                samples = draw_samples(mask, request, first=unit.first, count=unit.count)
            except NullModelError as error:
                return unit, Drawn(observed=observed, word=error.word)
            return unit, Drawn(samples, observed)
    except SiftGraphError as error:
        return unit, Drawn(error=str(error))
    except Exception as error:  # a bug in one layer must not lose the others
        logger.exception("%s, step %s, layer %r", unit.run_dir, unit.step, unit.entry["name"])
        return unit, Drawn(error=f"unexpected {type(error).__name__}: {error}")


class NullPlan:
    """One run's comparisons: what is kept, what is missing, and the rows as they come in."""

    def __init__(
        self, index: int, reader: RunReader, name: str, request: Request, encoding: Encoding, *, force: bool
    ) -> None:
        self.index, self.reader, self.name = index, reader, name
        self.request, self.encoding = request, encoding
        self.failures: list[Failure] = []
        self.warnings: list[str] = []
        self.computed = 0
        self._path = kept_file(reader)
        self._kept = {} if force else read_kept(self._path)
        self._wanted: list[tuple[int, dict[str, Any], str]] = []
        self._parts: dict[str, list[Drawn]] = {}
        self._missing: dict[str, int] = {}
        self._lost: dict[str, str] = {}

    def units(self, steps: Iterable[int], layers: str | None) -> Iterator[NullUnit]:
        """List what is still to be drawn, each mask once."""
        request = self.request
        for step in steps:
            for entry in row_entries_at(self.reader, step, layers, self.encoding):
                key = self._key(entry)
                self._wanted.append((step, entry, key))
                if key in self._kept or key in self._missing:
                    continue
                firsts = range(0, request.samples, CHUNK)
                self._missing[key], self._parts[key] = len(firsts), []
                for first in firsts:
                    count = min(CHUNK, request.samples - first)
                    yield NullUnit(self.index, self.reader.run_dir, step, entry, request, first, count, key)

    def _key(self, entry: Mapping[str, Any]) -> str:
        """Name everything that a comparison depends on."""
        weight = entry.get("weight_xxh3") if self.request.needs_weights else None
        return json.dumps([REVISION, mask_key(entry), weight, asdict(self.request), *encoding_key(self.encoding)])

    def take(self, unit: NullUnit, drawn: Drawn) -> None:
        """Take what a worker found, and keep a comparison whose last part it is."""
        parts = self._parts[unit.key]
        parts.append(drawn)
        if len(parts) < self._missing[unit.key]:
            return
        errors = [part.error for part in parts if part.error]
        if errors:
            self._lost[unit.key] = errors[0]
            return
        observed = next(part.observed for part in parts if part.observed is not None)
        samples = [part.samples for part in parts if part.samples is not None]
        word = next((part.word for part in parts if part.word), "")
        scores = {name: Score(value, note=word) for name, value in observed.items()}
        if not word:
            scores = judge(observed, samples)
        self._kept[unit.key] = scores
        self.computed += 1
        self._keep(unit.key, scores)

    def _keep(self, key: str, scores: Mapping[str, Score]) -> None:
        plain = {name: {k: _finite(v) for k, v in asdict(one).items()} for name, one in scores.items()}
        line = json.dumps({"key": key, "scores": plain}, allow_nan=False) + "\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a+b") as file:
                if file.tell():
                    file.seek(-1, 2)
                    line = line if file.read(1) == b"\n" else f"\n{line}"  # after a line that a crash cut short
                file.write(line.encode())
        except OSError as error:
            warning = f"{self._path}: cannot be written ({error.strerror}); results are not kept"
            if warning not in self.warnings:
                self.warnings.append(warning)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Give finished rows, by step, then in network order; layers that failed go to the failures."""
        for step, entry, key in self._wanted:
            layer = str(entry["name"])
            if key in self._lost:
                self.failures.append(Failure(self.name, step, layer, f"null model: {self._lost[key]}"))
                continue
            for metric, one in self._kept.get(key, {}).items():
                yield _row(self.name, step, layer, self.request.null, metric, one)


def check_null_encoding(name: str) -> None:
    """Refuse an encoding whose edges cannot be drawn anew.

    Raises
    ------
    UsageError
        For an encoding that is not in :data:`NULL_ENCODINGS`.
    """
    if name in NULL_ENCODINGS:
        return
    why = "lays one mask out over many positions" if name.startswith("unrolled") else "counts paths or repeated edges"
    raise UsageError(
        f"null models are drawn for the encodings {', '.join(NULL_ENCODINGS)}; {name!r} {why}, which a random graph of "
        "the same degrees does not keep: leave out one of the two"
    )


def encoding_key(encoding: Encoding) -> list[Any]:
    """Tell what a comparison's key says of the encoding: nothing for masks as they are."""
    return [] if encoding.name == "kernel" else [[encoding.name, encoding.heads]]


def row_entries_at(reader: RunReader, step: int, layers: str | None, encoding: Encoding) -> Iterator[dict[str, Any]]:
    """Give the entries of an encoding's rows at one step; none of a damaged snapshot: the table of layers names it."""
    try:
        entries = reader.snapshot_header(step)["layers"]
    except DamagedStoreError:
        return
    names = set(match_layers([entry["name"] for entry in entries], layers))
    yield from row_entries([entry for entry in entries if entry["name"] in names], encoding)[0]


def kept_file(reader: RunReader) -> Path:
    """Where the comparisons of a run are kept."""
    return reader.run_dir / "analysis" / "nulls.jsonl"


def read_kept(path: Path) -> dict[str, dict[str, Score]]:
    """Read kept comparisons: by key, the scores by metric; of equal keys the last."""
    kept: dict[str, dict[str, Score]] = {}
    for _, row in read_rows(path):
        try:
            if row is not None:
                _request_of(row["key"])
                kept[row["key"]] = {name: _score(values) for name, values in row["scores"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # of an older layout, or not ours: computed again
    return kept


def kept_rows(
    reader: RunReader,
    name: str,
    layers: str | None = None,
    encoding: Encoding = Encoding(),  # noqa: B008  frozen
) -> list[dict[str, Any]]:
    """Give what earlier calls found for the masks of a run as they are now.

    Parameters
    ----------
    reader : RunReader
    name : str
        The run's name.
    layers : str, optional
        Glob of layer names.
    encoding : Encoding
        How the masks are read.

    Returns
    -------
    list of dict
        Rows of :data:`NULL_COLUMNS`, by step, then in network order; of several comparisons of one metric with one null
        model that of most samples.
    """
    by_mask: dict[tuple[str, str | None], list[tuple[str, dict[str, Score]]]] = {}
    for key, scores in read_kept(kept_file(reader)).items():
        revision, mask, weight, null, other = _request_of(key)
        if revision == REVISION and other == encoding_key(encoding):
            by_mask.setdefault((mask, weight), []).append((null, scores))
    rows = []
    for step in reader.steps if by_mask else ():
        for entry in row_entries_at(reader, step, layers, encoding):
            best: dict[tuple[str, str], Score] = {}
            for weight in dict.fromkeys((None, entry.get("weight_xxh3"))):
                for null, scores in by_mask.get((mask_key(entry), weight), ()):
                    for metric, one in scores.items():
                        if (null, metric) not in best or one.n >= best[null, metric].n:
                            best[null, metric] = one
            rows += [_row(name, step, entry["name"], null, metric, one) for (null, metric), one in best.items()]
    return rows


def _row(run: str, step: int, layer: str, null: str, metric: str, one: Score) -> dict[str, Any]:
    return {"run": run, "step": step, "layer": layer, "null": null, "metric": metric, **asdict(one)}


def _finite(value: Any) -> Any:
    """Write what is undefined as null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _score(values: Mapping[str, Any]) -> Score:
    """Read a score, null as NaN."""
    known: dict[str, Any] = {name: math.nan if value is None else value for name, value in values.items()}
    if not all(isinstance(value, str if name == "note" else int | float) for name, value in known.items()):
        raise ValueError("a score is of numbers and a note")
    return Score(**known)


def _request_of(key: str) -> tuple[int, str, str | None, str, list[Any]]:
    """Revision, mask, weight, null model and encoding of a key; an error where it is none of ours."""
    revision, mask, weight, request, *other = parse_json(key)
    if not (isinstance(mask, str) and isinstance(weight, str | None) and isinstance(request["null"], str)):
        raise ValueError("a key is of texts")
    return revision, mask, weight, request["null"], other


def null_frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows to a frame with :data:`NULL_COLUMNS`: one row per (run, step, layer, null, metric), the first of them."""
    frame = pd.DataFrame(list(rows), columns=list(NULL_COLUMNS))
    return frame.drop_duplicates(list(NULL_COLUMNS[:5]), ignore_index=True)


def run_null_units(
    units: Sequence[NullUnit], *, jobs: int = 1, scheduler: str | None = None
) -> Iterator[tuple[NullUnit, Drawn]]:
    """Draw units, the costly ones first: here, in `jobs` processes of one thread, or on a running Dask cluster.

    Parameters
    ----------
    units : sequence of NullUnit
    jobs, scheduler
        As :func:`sift_graph.work.run_units`.

    Yields
    ------
    NullUnit, Drawn
        As they are ready.
    """
    ordered = sorted(units, key=lambda unit: -unit.cost)
    if scheduler is None and (jobs == 1 or len(ordered) < 2 or sum(u.cost for u in ordered) < INLINE_SECONDS):
        yield from map(draw_unit, ordered)
        return
    yield from unordered(draw_unit, ordered, jobs=jobs, scheduler=scheduler)
