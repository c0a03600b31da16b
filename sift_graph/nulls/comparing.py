"""Metrics of random masks, which depend on the seed and on nobody who draws them, and the comparison with a mask."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from sift_graph import spectrum
from sift_graph.errors import SpectrumError, UsageError
from sift_graph.graph import BipartiteGraph
from sift_graph.masks import LayerMask
from sift_graph.metrics import METRICS, Layer, Undefined, find_metric, measure_layer
from sift_graph.metrics.base import nearest
from sift_graph.nulls.models import ROUNDS, Rewired, find_null
from sift_graph.nulls.scoring import Score, score
from sift_graph.parallel import one_thread
from sift_graph.spectrum import RegularSubgraph, Spectrum

__all__ = ["METRICS_COMPARED", "Request", "Samples", "compare", "draw_samples", "judge", "select_compared"]

METRICS_COMPARED = ("sigma_1", "sigma_2", "ramanujan_gap", "ramanujan_gap_norm")
"""Metrics that are compared when none is named."""

UNMIXED = 0.01  # of the edges: more overlap than this left between a sample and where its chain began


class Unproven(Layer):
    """A layer of a sample: its singular values are not proven, which for one of a hundred would be waste."""

    @cached_property
    def binary(self) -> Spectrum:
        """Two leading singular values."""
        self.require_edges()
        return spectrum.leading(self.graph, certify="off")

    @cached_property
    def subgraphs(self) -> list[RegularSubgraph]:
        """Accepted left-regular subgraphs."""
        self.require_edges()
        return spectrum.left_regular_subgraphs(self.graph, weighted=self.graph.values is not None, certify="off")


@dataclass(frozen=True)
class Request:
    """What is asked of a null model.

    Attributes
    ----------
    null : str
        Name of the model.
    metrics : tuple of str
        What is measured of each sample.
    samples : int
    seed : int
    rounds : int
        Of trades on each side, for ``degree``.
    pattern : tuple of int or None
        N and M, for ``nm``; found in the mask by default.
    """

    null: str = "degree"
    metrics: tuple[str, ...] = METRICS_COMPARED
    samples: int = 100
    seed: int = 0
    rounds: int = ROUNDS
    pattern: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        find_null(self.null)
        if self.samples < 2:
            raise UsageError(f"expected 2 or more samples, found {self.samples}; 100 give p down to 0.02")
        if self.seed < 0:
            raise UsageError(f"expected a seed of 0 or more, found {self.seed}")
        if self.rounds < 1:
            raise UsageError(f"expected 1 or more rounds of trades, found {self.rounds}")

    @property
    def needs_weights(self) -> bool:
        """Whether a metric needs the weights, which then are put on each sample in random order."""
        return any(METRICS[name].needs == "weight" for name in self.metrics)


@dataclass(frozen=True)
class Samples:
    """Values of some samples, and how much they have in common with others.

    Attributes
    ----------
    values : mapping of str to list of float
        By metric, one a sample, NaN where undefined.
    with_start : list of float
        Share of edges that a sample shares with where its chain began; empty for models without a chain.
    with_other : list of float
        Share of edges that it shares with the sample before it.
    """

    values: Mapping[str, list[float]]
    with_start: list[float] = field(default_factory=list)
    with_other: list[float] = field(default_factory=list)


def select_compared(names: str | Iterable[str] | None) -> tuple[str, ...]:
    """Resolve the metrics to compare.

    Parameters
    ----------
    names : str or iterable of str or None
        Names, a string with commas between; the leading singular values and the Ramanujan gap by default.

    Returns
    -------
    tuple of str
        In the order of the registry.

    Raises
    ------
    UsageError
        For a name that does not exist, or is no number.

    Examples
    --------
    >>> select_compared("ramanujan_gap,sigma_1")
    ('sigma_1', 'ramanujan_gap')
    """
    if names is None:
        return METRICS_COMPARED
    asked = [n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)
    for name in asked:
        if name not in METRICS:
            known = find_metric(name)
            if known is not None:
                whose = "a layer's history" if known.scope == "dynamics" else "a whole network"
                raise UsageError(f"metric {name!r} is of {whose}: a random mask of one layer has no such value")
            raise UsageError(f"no metric {name!r}{nearest(name, list(METRICS))}; `sift-graph metrics` lists them")
        if not isinstance(METRICS[name].missing, float):
            raise UsageError(f"metric {name!r} is a verdict, not a number, and has no z-score; compare 'ramanujan_gap'")
        if METRICS[name].needs == "gradient":
            raise UsageError(f"metric {name!r} needs gradients, which random masks have not")
    if not asked:
        raise UsageError("expected at least one metric to compare, found none")
    return tuple(name for name in METRICS if name in set(asked))


def draw_samples(mask: LayerMask, request: Request, *, first: int = 0, count: int | None = None) -> Samples:
    """Draw samples and measure them. Sample i is the same whoever draws it, with whatever others.

    Parameters
    ----------
    mask : LayerMask
    request : Request
    first, count : int
        Which samples; all by default.

    Returns
    -------
    Samples

    Raises
    ------
    NullModelError
        If the model does not exist for this mask.
    """
    source = [request.seed, *np.frombuffer(bytes.fromhex(mask.digest), np.uint32).tolist(), *request.null.encode()]

    def rng(index: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(source, spawn_key=(index,)))

    model = find_null(request.null)
    sampler = model.sampler(mask, rng(0), request.rounds, request.pattern)
    start = sampler.graph if isinstance(sampler, Rewired) else None
    found: dict[str, list[float]] = {name: [] for name in request.metrics}
    with_start, with_other = [], []
    before: BipartiteGraph | None = None
    for index in range(first, first + (request.samples if count is None else count)):
        own = rng(index + 1)
        graph = sampler.draw(own)
        if start is not None:
            with_start.append(overlap(graph, start))
            if before is not None:
                with_other.append(overlap(graph, before))
            before = graph
        if request.needs_weights and mask.values is not None:
            graph = graph.with_values(own.permutation(mask.values).astype(np.float64))
        layer = Unproven(graph)
        for name in request.metrics:
            found[name].append(value_of(layer, name))
    return Samples(found, with_start, with_other)


def overlap(one: BipartiteGraph, other: BipartiteGraph) -> float:
    """Share of the edges that both have."""
    return float(np.bitwise_count(one.bits & other.bits).sum(dtype=np.int64)) / one.edges


def value_of(layer: Layer, name: str) -> float:
    """Measure one metric; NaN where it has no value."""
    try:
        return float(METRICS[name].compute(layer))
    except (Undefined, SpectrumError):
        return math.nan


def judge(observed: Mapping[str, float], parts: Sequence[Samples]) -> dict[str, Score]:
    """Score a mask's values against all samples of its null model.

    Parameters
    ----------
    observed : mapping of str to float
        The mask's own values.
    parts : sequence of Samples
        In any order.

    Returns
    -------
    dict of str to Score
        By metric; ``not_mixed`` in the note where the samples still resemble where their chain began.
    """
    with_start = [x for part in parts for x in part.with_start]
    with_other = [x for part in parts for x in part.with_other]
    unmixed = False
    if with_start and with_other:
        excess = float(np.mean(with_start) - np.mean(with_other))
        error = math.sqrt(np.var(with_start) / len(with_start) + np.var(with_other) / len(with_other))
        unmixed = excess > max(UNMIXED, 4 * error)
    found = {}
    for name in parts[0].values:
        one = score(observed[name], [x for part in parts for x in part.values[name]])
        note = ",".join(filter(None, [one.note, "not_mixed" if unmixed else ""]))
        found[name] = replace(one, note=note)
    return found


def compare(
    mask: LayerMask,
    null: str = "degree",
    *,
    samples: int = 100,
    metrics: str | Iterable[str] | None = None,
    seed: int = 0,
    rounds: int = ROUNDS,
    pattern: tuple[int, int] | None = None,
) -> dict[str, Score]:
    """Compare one mask with random ones that share what a null model keeps.

    Parameters
    ----------
    mask : LayerMask
        With weights, if a weighted metric is asked for: they are permuted over each sample's edges.
    null : {"er", "degree", "nm"}
        Name from :data:`NULLS`.
    samples : int
        Random masks to draw.
    metrics : str or iterable of str, optional
        Names from ``METRICS``; the leading singular values and the Ramanujan gap by default.
    seed : int
        The same seed, mask and model give the same samples.
    rounds : int
        Of trades on each side, for ``degree``.
    pattern : tuple of int, optional
        N and M, for ``nm``; found in the mask by default.

    Returns
    -------
    dict of str to Score
        By metric.

    Raises
    ------
    NullModelError
        If no other mask shares what the model keeps: a full or an empty mask, a mask without an N:M pattern.
    UsageError
        For an unknown model or metric.

    Examples
    --------
    >>> mask = LayerMask.from_dense("fc", np.kron(np.eye(2), np.ones((8, 8))).astype(bool))  # two components
    >>> found = compare(mask, "degree", samples=50)["ramanujan_gap"]
    >>> found.z < -5, round(found.p, 3)
    (True, 0.039)
    """
    request = Request(null, select_compared(metrics), samples, seed, rounds, pattern)
    with one_thread():
        observed = measure_layer(BipartiteGraph.from_mask(mask), request.metrics)
        return judge(observed, [draw_samples(mask, request)])
