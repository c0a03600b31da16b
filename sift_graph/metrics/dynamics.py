"""How a layer's mask moves: distances to the previous and the first snapshot, and what has ever or always been active.

Functions of a :class:`Change`; what is held of the past, and how little, is :class:`sift_graph.metrics.History`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sift_graph.graph import BipartiteGraph
from sift_graph.masks import LayerMask
from sift_graph.metrics.matching import matched_distance
from sift_graph.metrics.metric import Laws, Metric, Undefined

if TYPE_CHECKING:
    from sift_graph.metrics.history import History

__all__ = ["CORE_DYNAMICS", "DYNAMICS", "Change", "hamming", "iou"]

SPECTRUM_SIDE = 2048  # a smaller side up to this is decomposed within seconds
MOST_FLIPS = np.iinfo(np.uint16).max


def count(bits: np.ndarray) -> int:
    """Count the set bits of a packed mask."""
    return int(np.bitwise_count(bits).sum(dtype=np.int64))


def hamming(a: np.ndarray, b: np.ndarray) -> int:
    """Count the entries in which two packed masks differ."""
    return count(a ^ b)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Compute intersection over union of two packed masks; 1.0 if both are empty."""
    union = count(a | b)
    return count(a & b) / union if union else 1.0


def unpack(bits: np.ndarray, size: int) -> np.ndarray:
    """Unpack a mask to bools, flat."""
    return np.unpackbits(bits, count=size, bitorder="little").view(np.bool_)


def pack(flat: np.ndarray) -> np.ndarray:
    """Pack flat bools."""
    return np.packbits(flat, bitorder="little")


@dataclass(frozen=True, eq=False)
class Change:
    """A layer's mask now, and what its past left behind: what the functions of dynamics metrics are given.

    Attributes
    ----------
    mask : LayerMask
        The snapshot that has just come in.
    history : History
        As it was before.
    """

    mask: LayerMask
    history: History

    @property
    def bits(self) -> np.ndarray:
        """The mask, packed."""
        return self.mask.bits

    @property
    def previous(self) -> np.ndarray:
        """The last snapshot's mask; at the first there is none."""
        if self.history.previous is None:
            raise Undefined("first_snapshot")
        return self.history.previous.bits

    @property
    def first(self) -> np.ndarray:
        """The first snapshot's mask: this one, at the first."""
        return self.bits if self.history.first is None else self.history.first

    @property
    def ever(self) -> np.ndarray:
        """Entries active in any snapshot so far, this one included."""
        return self.bits if self.history.ever is None else self.history.ever | self.bits

    @property
    def always(self) -> np.ndarray:
        """Entries active in every snapshot so far, this one included."""
        return self.bits if self.history.always is None else self.history.always & self.bits


def itop_rate(change: Change) -> float:
    """Share of entries that were ever active."""
    return count(change.ever) / change.mask.size


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over the smaller of two masks."""
    smaller = min(count(a), count(b))
    if not smaller:
        raise Undefined("empty")
    return count(a & b) / smaller


def dice_distance(change: Change) -> float:
    """Differing entries over the edges of both."""
    edges = count(change.bits) + count(change.previous)
    if not edges:
        raise Undefined("empty")
    return hamming(change.bits, change.previous) / edges


def survival(change: Change) -> float:
    """Share of the first snapshot's edges that are there now."""
    edges = count(change.first)
    if not edges:
        raise Undefined("empty")
    return count(change.first & change.bits) / edges


def half_life(change: Change) -> int:
    """Snapshots until half of the first one's edges were gone."""
    if change.history.half_life is not None:
        return change.history.half_life
    if survival(change) > 0.5:
        raise Undefined("not_halved")
    return change.history.seen


def dropped_share(change: Change) -> float:
    """Return dropped edges over those that there were."""
    edges = count(change.previous)
    if not edges:
        raise Undefined("empty")
    return count(change.previous & ~change.bits) / edges


def grown(change: Change) -> np.ndarray:
    """Edges that the previous snapshot had not."""
    return np.asarray(change.bits & ~change.previous)


def grown_share(change: Change) -> float:
    """Grown edges over those that there are."""
    edges = count(change.bits)
    if not edges:
        raise Undefined("empty")
    return count(grown(change)) / edges


def revival_rate(change: Change) -> float:
    """Share of the grown edges that had been active before."""
    new = grown(change)
    if not (total := count(new)):
        raise Undefined("nothing_grown")
    before = change.history.ever
    return count(new & before) / total if before is not None else math.nan


def flips(change: Change) -> int:
    """Entries that changed, summed over all updates so far."""
    return change.history.flips + (hamming(change.bits, change.previous) if change.history.previous else 0)


def flip_counts(change: Change) -> np.ndarray:
    """Return changes of each entry so far."""
    counts = change.history.flip_counts
    if counts is None:
        return np.zeros(change.mask.size, dtype=np.uint16)
    if change.history.previous is None:
        return counts
    changed = unpack(change.bits ^ change.previous, change.mask.size)
    return np.asarray(np.minimum(counts.astype(np.uint32) + changed, MOST_FLIPS).astype(np.uint16))


def mean_age(change: Change) -> float:
    """Mean over edges of the updates since they were last grown."""
    ages = ages_of(change)
    if not ages.size:
        raise Undefined("empty")
    return float(ages.mean())


def ages_of(change: Change) -> np.ndarray:
    """Return updates since each edge was last grown, in the order of the set bits."""
    history = change.history
    if history.previous is None or history.ages is None:
        return np.zeros(change.mask.edges, dtype=np.uint16)
    dense = np.zeros(change.mask.size, dtype=np.uint16)
    dense[unpack(history.previous.bits, change.mask.size)] = np.minimum(history.ages, MOST_FLIPS - 1) + 1
    return np.asarray(dense[unpack(change.bits, change.mask.size)])


def exploration(change: Change) -> float:
    """Share of entries that growth at random, of as many edges each time, would have made active so far."""
    return 1 - unexplored(change)


def unexplored(change: Change) -> float:
    """Share of entries that random growth would have left inactive."""
    history = change.history
    if history.previous is None:
        return 1 - change.mask.density
    eligible = change.mask.size - change.mask.edges
    new = count(grown(change))
    return history.unexplored * (1 - new / (eligible + new) if new else 1.0)


def signs(mask: LayerMask) -> tuple[np.ndarray, np.ndarray]:
    """Where weights are above 0, and below: packed."""
    if mask.values is None:
        raise Undefined("no_weights")
    support = unpack(mask.bits, mask.size)
    found = []
    for holds in (mask.values > 0, mask.values < 0):
        flat = np.zeros(mask.size, dtype=bool)
        flat[support] = holds
        found.append(pack(flat))
    return found[0], found[1]


def sign_agreement(change: Change, then: LayerMask | None, *, of_all: bool = False) -> Any:
    """Entries in both masks whose weights have one sign, over the entries in both (or over all entries)."""
    if then is None:
        raise Undefined("first_snapshot")
    (up, down), (up_then, down_then) = signs(change.mask), signs(then)
    shared = change.mask.size if of_all else count(change.bits & then.bits)
    if not shared:
        raise Undefined("no_shared_edge")
    return (count(up & up_then) + count(down & down_then)) / shared


def nnstd(change: Change, then: np.ndarray) -> float:
    """Distance of the outputs' incoming edges after the outputs are matched."""
    now = BipartiteGraph.from_mask(change.mask)
    before = LayerMask(change.mask.layer, change.mask.shape, then, groups=change.mask.groups, layout=change.mask.layout)
    return matched_distance(now, BipartiteGraph.from_mask(before))


def spectrum_of(mask: LayerMask) -> np.ndarray:
    """All singular values of a mask."""
    from sift_graph.spectrum import singular_values

    graph = BipartiteGraph.from_mask(mask)
    if min(graph.block_left, graph.n_right // graph.groups) > SPECTRUM_SIDE:
        raise Undefined("too_large")
    return singular_values(graph)


def spectral_velocity(change: Change, order: int) -> float:
    """Distance of the singular values from those of the previous snapshot, the j-th from the j-th."""
    if np.array_equal(change.bits, change.previous):
        return 0.0
    mask = change.mask
    before = LayerMask(mask.layer, mask.shape, change.previous, groups=mask.groups, layout=mask.layout)
    moved = np.abs(spectrum_of(mask) - spectrum_of(before))
    return float(moved.mean() if order == 1 else np.linalg.norm(moved))


def row(name: str, compute: Callable[[Change], Any], formula: str, values: str, **more: Any) -> Metric:
    """Make a column of this family."""
    usual: dict[str, Any] = {
        "group": "dynamics",
        "scope": "dynamics",
        "cost": "history",
        "undefined": "at the first snapshot",
    }
    return Metric(name, compute, formula, values, **usual | more)


def at_first(word: str) -> str:
    """Say when a value is undefined."""
    return f"at the first snapshot, or {word}"


UNCHANGED = Laws(padded=False)

NO_SIGNS = at_first("no weights recorded, or no shared edge")
ITOP = "Liu et al., ICML 2021"
STATIC = "static masks; independent random masks"
NEURIPS = "Hoang et al., NeurIPS 2023, code"

_ALL = (
    row(
        "hamming_previous",
        lambda c: hamming(c.bits, c.previous) / c.mask.size,
        "share of entries that differ from the previous snapshot",
        "[0, 1]",
        core=True,
        laws=UNCHANGED,
        predicts="how much one update moves; scales with density",
        oracle="independent masks: 2 p (1 - p)",
    ),
    row(
        "iou_previous",
        lambda c: iou(c.bits, c.previous),
        "edges in both over edges in either, previous snapshot; 1 if both empty",
        "[0, 1]",
        core=True,
        predicts="how much one update moves, without scale",
        oracle="independent masks: p / (2 - p); dropping a share f: (1 - f) / (1 + f) when as many grow",
    ),
    row(
        "hamming_first",
        lambda c: hamming(c.bits, c.first) / c.mask.size,
        "share of entries that differ from the first snapshot",
        "[0, 1]",
        undefined="never",
        core=True,
        laws=UNCHANGED,
        predicts="how far the mask has come",
        oracle=STATIC,
    ),
    row(
        "iou_first",
        lambda c: iou(c.bits, c.first),
        "edges in both over edges in either, first snapshot; 1 if both empty",
        "[0, 1]",
        undefined="never",
        core=True,
        predicts="how far the mask has come, without scale",
        oracle=STATIC,
    ),
    row(
        "itop_rate",
        itop_rate,
        "share of entries active in any snapshot so far (in-time over-parameterisation)",
        "[density, 1]",
        undefined="never",
        source=ITOP,
        core=True,
        laws=UNCHANGED,
        predicts="how much of the dense layer was ever tried; a lower bound where updates were not recorded",
        oracle="independent masks: 1 - (1 - p)^k",
    ),
    row(
        "hamming_count",
        lambda c: hamming(c.bits, c.previous),
        "entries that differ from the previous snapshot",
        "integer >= 0",
        predicts="flips of this update",
        oracle=STATIC,
    ),
    row(
        "dice_distance_previous",
        dice_distance,
        "entries that differ / (E_t + E_s)",
        "[0, 1]",
        undefined=at_first("both empty"),
        predicts="1 - Dice coefficient",
        oracle=STATIC,
    ),
    row(
        "overlap_previous",
        lambda c: overlap(c.bits, c.previous),
        "edges in both / min(E_t, E_s), previous snapshot",
        "[0, 1]",
        undefined=at_first("one empty"),
        predicts="1 where one mask contains the other",
        oracle=STATIC,
    ),
    row(
        "overlap_first",
        lambda c: overlap(c.bits, c.first),
        "edges in both / min(E_t, E_s), first snapshot",
        "[0, 1]",
        undefined="one empty",
        predicts="1 where one mask contains the other",
        oracle=STATIC,
    ),
    row(
        "survival",
        survival,
        "edges of the first snapshot that are there now / E_0",
        "[0, 1]",
        undefined="first mask empty",
        predicts="how much of the initial mask is left",
        oracle="dropping a share f: 1 - f",
    ),
    row(
        "half_life",
        half_life,
        "snapshots until survival was at most 1/2",
        "integer >= 1",
        undefined="not halved so far",
        predicts="pace of the search, in snapshots",
        oracle="a mask that drops a quarter at each step",
    ),
    row(
        "dropped_share",
        dropped_share,
        "edges dropped / E of the previous snapshot",
        "[0, 1]",
        undefined=at_first("previous mask empty"),
        predicts="drop fraction as it really was, net of what was regrown at once",
        oracle="constructed updates",
    ),
    row(
        "grown_share",
        grown_share,
        "edges grown / E",
        "[0, 1]",
        undefined=at_first("mask empty"),
        predicts="share of newborn edges: weighted metrics of a snapshot with many say little",
        oracle="constructed updates",
    ),
    row(
        "flips",
        flips,
        "sum over updates of entries that changed",
        "integer >= 0",
        undefined="never",
        predicts="total movement",
        oracle="constructed updates",
    ),
    row(
        "mean_flips",
        lambda c: float(flip_counts(c).mean()),
        "mean over entries of their changes so far",
        "[0, inf)",
        undefined="never",
        cost="entries",
        laws=UNCHANGED,
        predicts="flips / N",
        oracle="flips / entries",
    ),
    row(
        "max_flips",
        lambda c: int(flip_counts(c).max()),
        "largest number of changes of one entry",
        "integer, 0 to 65535",
        undefined="never",
        cost="entries",
        predicts="entries that oscillate",
        oracle="constructed updates",
    ),
    row(
        "flipped_share",
        lambda c: float(np.count_nonzero(flip_counts(c)) / c.mask.size),
        "share of entries that ever changed",
        "[0, 1]",
        undefined="never",
        cost="entries",
        laws=UNCHANGED,
        predicts="how widely the search went",
        oracle="itop_rate - r_doc",
    ),
    row(
        "revival_rate",
        revival_rate,
        "grown edges that were active before / grown edges",
        "[0, 1]",
        undefined=at_first("nothing grown"),
        predicts="whether growth returns to where it was",
        oracle="constructed updates",
    ),
    row(
        "mean_age",
        mean_age,
        "mean over edges of the snapshots since they were last grown",
        "[0, inf)",
        undefined="mask empty",
        cost="entries",
        predicts="how settled the mask is",
        oracle="static masks: the number of updates",
    ),
    row(
        "r_doc",
        lambda c: count(c.always) / c.mask.size,
        "degree of constraint: share of entries active in every snapshot so far",
        "[0, density]",
        undefined="never",
        source="Thangarasa et al., ICML 2024, code",
        laws=UNCHANGED,
        predicts="the part of the mask that never moved",
        oracle="at most density, at most itop_rate, equal exactly for static masks",
    ),
    row(
        "exploration_reference",
        exploration,
        "itop_rate if each update's growth were uniform over the inactive entries",
        "[density, 1]",
        undefined="never",
        source="this project",
        laws=UNCHANGED,
        predicts="itop_rate below it: growth prefers where it has been",
        oracle="simulated SET",
    ),
    row(
        "sign_agreement_previous",
        lambda c: sign_agreement(c, c.history.previous),
        "shared edges whose weights have one sign / shared edges, previous snapshot",
        "[0, 1]",
        undefined=NO_SIGNS,
        needs="weight",
        cost="entries",
        predicts="how settled the weights are",
        oracle="constructed weights",
    ),
    row(
        "sign_iou_previous",
        lambda c: sign_agreement(c, c.history.previous, of_all=True),
        "shared edges whose weights have one sign / entries, previous snapshot",
        "[0, density]",
        undefined=NO_SIGNS,
        needs="weight",
        source=NEURIPS + " (divides by the entries)",
        cost="entries",
        laws=UNCHANGED,
        predicts="density more than agreement",
        oracle="constructed weights",
    ),
    row(
        "nnstd_previous",
        lambda c: nnstd(c, c.previous),
        "mean Jaccard distance of incoming edges after greedy matching of outputs, previous snapshot",
        "[0, 1]",
        source="Liu et al., ECML PKDD 2020; one layer, inputs not matched (its code: sift_graph.metrics.nnstd)",
        cost="matching",
        predicts="distance of topologies up to the numbering of the outputs",
        oracle="0 for permuted rows; brute force",
    ),
    row(
        "nnstd_first",
        lambda c: nnstd(c, c.first),
        "the same, first snapshot",
        "[0, 1]",
        undefined="never",
        source="Liu et al., ECML PKDD 2020; one layer, inputs not matched (its code: sift_graph.metrics.nnstd)",
        cost="matching",
        predicts="distance of topologies up to the numbering of the outputs",
        oracle="0 for permuted rows; brute force",
    ),
    row(
        "spectral_velocity",
        lambda c: spectral_velocity(c, 1),
        "mean over i of |sigma_i - sigma_i of the previous snapshot| (W1)",
        "[0, inf)",
        undefined=at_first("smaller side above 2048 (too_large)"),
        source="this project",
        cost="spectrum",
        predicts="how far the spectrum moves in one update",
        laws=UNCHANGED,
        oracle="dense SVD",
    ),
    row(
        "spectral_velocity_l2",
        lambda c: spectral_velocity(c, 2),
        "norm of sigma - sigma of the previous snapshot",
        "[0, inf)",
        undefined=at_first("smaller side above 2048 (too_large)"),
        source="this project",
        cost="spectrum",
        predicts="how far the spectrum moves in one update",
        oracle="dense SVD",
    ),
)

DYNAMICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
"""Every column of mask dynamics, by name; each has ``scope="dynamics"`` and is given a :class:`Change`."""

CORE_DYNAMICS = tuple(metric.name for metric in _ALL if metric.core)
"""Those that are always there."""
