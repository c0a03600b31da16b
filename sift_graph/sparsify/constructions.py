"""Masks of known structure at equal density and equal fan-in: the dial of a controlled experiment.

Each construction takes the shape of a weight, the number of weights to keep, a strength and a generator, and gives
every output the same number of inputs, ``count // outputs``. So two masks of one shape and count differ in *where* the
edges lie, and in nothing else that fan-in or density could explain. Strength 0 is a random mask of constant fan-in
wherever a construction has a strength. *Binding* then makes communities of any of them, at all of its degrees.

A left vertex is one input channel at one kernel position, as in :mod:`sift_graph.graph`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sift_graph.errors import MaskError
from sift_graph.sparsify.binding import bind
from sift_graph.sparsify.incidence import incidence
from sift_graph.sparsify.lifts import lift, most_layers

__all__ = ["CONSTRUCTIONS", "construct"]

TRADES = 10  # of each output, on average, before an even mask counts as random
PROPOSALS = 60  # of each output, when overlaps are lowered

Rows = tuple[int, int, int, int]  # outputs, input channels, kernel positions, fan-in


@dataclass(frozen=True)
class Dial:
    """How strong the structure is, and of how many communities."""

    strength: float = 0.0
    communities: int = 2


Construction = Callable[[Rows, Dial, np.random.Generator], np.ndarray]


def construct(
    name: str,
    shape: tuple[int, ...],
    count: int,
    generator: np.random.Generator,
    *,
    strength: float = 0.0,
    communities: int = 2,
    binding: float = 0.0,
) -> np.ndarray:
    """Make one layer's mask.

    Parameters
    ----------
    name : str
        A key of :data:`CONSTRUCTIONS`.
    shape : tuple of int
        Of the weight, ``(out, in, *kernel)``.
    count : int
        Weights to keep; those that do not divide evenly among the outputs are left out.
    generator : numpy.random.Generator
    strength : float
        In [0, 1] for communities, 0 or more for hubs; the others have none and take 0.
    communities : int
        Of outputs, and of channels.
    binding : float
        In [0, 1]: share of the edges between communities, drawn anew in each layer, that are then brought within one by
        trades that keep every degree.

    Returns
    -------
    ndarray of bool, of that shape

    Raises
    ------
    MaskError
        If an output would get no weight, the strength or the number of communities does not fit, or there is no
        incidence structure or lift of that size.

    Examples
    --------
    >>> mask = construct("community", (4, 8), 8, np.random.default_rng(0), strength=1.0)
    >>> mask.sum(axis=1).tolist()
    [2, 2, 2, 2]
    """
    outputs, channels, positions = shape[0], shape[1], math.prod(shape[2:])
    degree = count // outputs
    if not degree:
        raise MaskError(
            f"masks.init={name!r}: expected 1 or more weights for each of {outputs} outputs, found {count} in all; "
            "lower the sparsity"
        )
    most = {"community": 1.0, "aligned_community": 1.0, "hubs": math.inf}.get(name, 0.0)
    if not 0 <= strength <= most:
        where = f"in [0, {most:g}]" if 0 < most < math.inf else "0 or more" if most else "0, as it has none"
        raise MaskError(f"masks.init={name!r}: expected a strength {where}, found {strength:g}; set options.strength")
    if (most == 1 or binding) and not 1 <= communities <= min(outputs, channels):
        raise MaskError(
            f"masks.init={name!r}: expected 1 to {min(outputs, channels)} communities for {outputs} outputs and "
            f"{channels} channels, found {communities}; set options.communities"
        )
    rows = CONSTRUCTIONS[name]((outputs, channels, positions, degree), Dial(strength, communities), generator)
    if binding:
        mine, theirs = (generator.permutation(n) * communities // n for n in (outputs, channels))
        rows = bind(rows, mine, np.repeat(theirs, positions), binding, generator)
    return rows.reshape(shape)


def community(rows: Rows, dial: Dial, generator: np.random.Generator) -> np.ndarray:
    """Join outputs and channels of one community; drawn anew in each layer."""
    outputs, channels, _, _ = rows
    mine = generator.permutation(outputs) * dial.communities // outputs
    theirs = generator.permutation(channels) * dial.communities // channels
    return _communities(rows, mine, theirs, dial, generator)


def aligned_community(rows: Rows, dial: Dial, generator: np.random.Generator) -> np.ndarray:
    """Take communities by the order of channels: what a layer separates stays apart in the next one."""
    outputs, channels, _, _ = rows
    mine = np.arange(outputs) * dial.communities // outputs
    theirs = np.arange(channels) * dial.communities // channels
    return _communities(rows, mine, theirs, dial, generator)


def hubs(rows: Rows, dial: Dial, generator: np.random.Generator) -> np.ndarray:
    """Draw inputs with log-normal preference, the same for all outputs; strength is its standard deviation."""
    outputs, channels, positions, degree = rows
    preference = dial.strength * generator.standard_normal(channels * positions)
    keys = preference + generator.gumbel(size=(outputs, channels * positions))  # the largest: weighted, no repeats
    return _largest(keys, degree)


def even(rows: Rows, dial: Dial, generator: np.random.Generator) -> np.ndarray:
    """Give inputs equal fan-out too, to within one edge; random apart from that."""
    outputs, channels, positions, degree = rows
    chosen = np.zeros((outputs, channels * positions), dtype=np.bool_)
    used = np.zeros(channels * positions)
    for row in chosen:  # to those with the fewest edges so far, ties at random
        row[np.argsort(used + generator.random(used.size), kind="stable")[:degree]] = True
        used += row
    for _ in range(TRADES * outputs if outputs > 1 else 0):
        a, b = generator.choice(outputs, 2, replace=False)
        chosen[a], chosen[b] = _traded(chosen[a], chosen[b], generator)
    return chosen


def low_overlap(rows: Rows, dial: Dial, generator: np.random.Generator) -> np.ndarray:
    """Lower the overlaps of the outputs' inputs from there on: fewer short cycles than at random, a larger gap."""
    # Squared overlaps add up to the fourth powers of the singular values, less a constant: these become more equal.
    chosen = even(rows, dial, generator)
    outputs = len(chosen)
    if outputs == 1:
        return chosen
    dense = chosen.astype(np.float32)
    for _ in range(PROPOSALS * outputs):
        a, b = generator.choice(outputs, 2, replace=False)
        pair = np.stack(_traded(chosen[a], chosen[b], generator))
        others = np.ones(outputs, dtype=np.bool_)
        others[[a, b]] = False  # what the two have in common stays as it is
        before = dense[others] @ dense[[a, b]].T
        after = dense[others] @ pair.T.astype(np.float32)
        if (after**2).sum() <= (before**2).sum():
            chosen[[a, b]] = pair
            dense[[a, b]] = pair
    return chosen


def whole_kernels(rows: Rows, dial: Dial, generator: np.random.Generator) -> np.ndarray:
    """Keep all positions of few channels for each output: structure by channel pairs."""
    outputs, channels, positions, degree = rows
    order = generator.permuted(np.tile(np.arange(channels), (outputs, 1)), axis=1)
    keys = -np.repeat(np.argsort(order, axis=1), positions, axis=1).astype(float)
    return _largest(keys + generator.random(keys.shape), degree)


def spread_kernels(rows: Rows, dial: Dial, generator: np.random.Generator) -> np.ndarray:
    """Keep as few positions of each channel as possible, of as many channels: no pair of channels is left out early."""
    outputs, channels, positions, degree = rows
    within = generator.permuted(np.tile(np.arange(positions), (outputs, channels, 1)), axis=2)
    keys = -np.argsort(within, axis=2).reshape(outputs, -1).astype(float)
    return _largest(keys + generator.random(keys.shape), degree)


def same_positions(rows: Rows, dial: Dial, generator: np.random.Generator) -> np.ndarray:
    """Keep as few kernel positions as possible, the same for all outputs: the others read nothing."""
    outputs, channels, positions, degree = rows
    kept = np.zeros(positions, dtype=np.bool_)
    kept[generator.permutation(positions)[: math.ceil(degree / channels)]] = True
    keys = np.where(np.tile(kept, channels), 1.0, -1.0) + generator.random((outputs, channels * positions))
    return _largest(keys, degree)


def relabelled_lift(rows: Rows, dial: Dial, generator: np.random.Generator) -> np.ndarray:
    """Lift the smallest base of even fan-out that sizes allow, in random order; all degrees are the base's."""
    outputs, channels, positions, degree = rows
    inputs = channels * positions
    layers = most_layers(outputs, inputs, degree)
    if layers == 1:
        raise MaskError(
            f"masks.init='lifts': {outputs} outputs, {inputs} inputs and fan-in {degree} are no lift of a smaller "
            f"graph; expected a common divisor above 1 of outputs and inputs, of at most {inputs // degree}; "
            "change the width or raise the sparsity"
        )
    base = even((outputs // layers, inputs // layers, 1, degree), dial, generator)
    lifted = lift(base, layers, generator)
    return lifted[generator.permutation(outputs)][:, generator.permutation(inputs)]


def relabelled_incidence(rows: Rows, dial: Dial, generator: np.random.Generator) -> np.ndarray:
    """Take lines for outputs and points for inputs, of a projective plane or a net, in random order."""
    outputs, channels, positions, degree = rows
    lines = incidence(outputs, channels * positions, degree)
    if lines is None:
        raise MaskError(
            f"masks.init='incidence': there is none of {outputs} outputs, {channels * positions} inputs and fan-in "
            f"{degree}; for a prime q take q^2 + q + 1 of both and fan-in q + 1, or kq outputs, q^2 inputs and fan-in q"
        )
    return lines[generator.permutation(outputs)][:, generator.permutation(channels * positions)]


CONSTRUCTIONS: dict[str, Construction] = {
    "community": community,
    "aligned_community": aligned_community,
    "hubs": hubs,
    "even": even,
    "low_overlap": low_overlap,
    "lifts": relabelled_lift,
    "incidence": relabelled_incidence,
    "whole_kernels": whole_kernels,
    "spread_kernels": spread_kernels,
    "same_positions": same_positions,
}


def _communities(
    rows: Rows, mine: np.ndarray, theirs: np.ndarray, dial: Dial, generator: np.random.Generator
) -> np.ndarray:
    """Draw each edge within the output's own community with probability `dial.strength`, else from all inputs."""
    outputs, channels, positions, degree = rows
    size = channels * positions
    theirs = np.repeat(theirs, positions)
    own = np.bincount(theirs, minlength=dial.communities)[mine]
    bound = np.minimum(generator.binomial(degree, dial.strength, outputs), own)
    inside = bound + generator.hypergeometric(own - bound, size - own, degree - bound)
    keys = generator.random((outputs, size))
    at_home = mine[:, None] == theirs
    chosen = np.zeros((outputs, size), dtype=np.bool_)
    for there, many in ((at_home, inside), (~at_home, degree - inside)):
        rank = np.argsort(np.argsort(np.where(there, keys, 2.0), axis=1), axis=1)
        chosen |= rank < many[:, None]
    return chosen


def _traded(a: np.ndarray, b: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Share out at random what only one of two rows has; all degrees stay."""
    differs = np.flatnonzero(a != b)
    to_a = generator.permutation(differs)[: int(a[differs].sum())]
    first, second = a & b, a & b
    second[differs] = True
    first[to_a], second[to_a] = True, False
    return first, second


def _largest(keys: np.ndarray, degree: int) -> np.ndarray:
    """Mark the `degree` largest keys of each row."""
    chosen = np.zeros(keys.shape, dtype=np.bool_)
    np.put_along_axis(chosen, np.argpartition(-keys, degree - 1, axis=1)[:, :degree], True, axis=1)
    return chosen
