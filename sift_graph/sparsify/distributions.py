"""How many weights each layer keeps, given the density of them all.

A distribution gives each layer a relative density; the common factor is solved for, and layers that would exceed
density 1 are kept dense and the rest solved again. One that ranks all weights of all layers at once needs more than
shapes: that is a method's ``scope="global"``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from sift_graph.errors import UsageError, did_you_mean

__all__ = ["DISTRIBUTIONS", "densities", "layer_counts"]

Shapes = Mapping[str, tuple[int, ...]]

UNIFORM_PLUS_LAST = 0.2  # least density of the last layer


def uniform(shape: tuple[int, ...]) -> float:
    """Give every layer the same density."""
    return 1.0


def erdos_renyi(shape: tuple[int, ...]) -> float:
    """Weigh by ``(out + in) / (out * in)``, kernels left out."""
    return sum(shape[:2]) / math.prod(shape[:2])


def erdos_renyi_kernel(shape: tuple[int, ...]) -> float:
    """Weigh by ``sum(shape) / prod(shape)``: thin layers are denser."""
    return sum(shape) / math.prod(shape)


def equal_counts(shape: tuple[int, ...]) -> float:
    """Weigh by ``1 / prod(shape)``: every layer keeps as many weights, as far as it has them."""
    return 1 / math.prod(shape)


DISTRIBUTIONS: dict[str, Callable[[tuple[int, ...]], float]] = {
    "uniform": uniform,
    "er": erdos_renyi,
    "erk": erdos_renyi_kernel,
    "balanced": equal_counts,
    "uniform_plus": uniform,  # the first and the last layer apart
    "constant_fan_in": uniform,  # then rounded to as many weights for each output
}


def fixed_densities(shapes: Shapes, density: float, distribution: str) -> dict[str, float]:
    """Give the layers whose density a distribution prescribes."""
    if distribution != "uniform_plus" or len(shapes) < 3:
        return {}
    first, *_, last = shapes
    return {first: 1.0} | ({last: UNIFORM_PLUS_LAST} if density < UNIFORM_PLUS_LAST else {})


def densities(
    shapes: Shapes, density: float, *, distribution: str = "uniform", costs: Mapping[str, float] | None = None
) -> dict[str, float]:
    r"""Solve for each layer's density.

    :math:`d_l = \min(1, \epsilon p_l)` with :math:`\sum_l c_l N_l d_l = d \sum_l c_l N_l`, where :math:`p_l` is the
    distribution's relative density and :math:`c_l` the cost of a weight. While some :math:`\epsilon p_l` exceeds 1,
    the layers of the largest :math:`p_l` are made dense and :math:`\epsilon` is solved again from the rest.

    ``uniform_plus`` keeps the first of three or more layers dense and the last one at 0.2 or more, and solves for the
    others. ``balanced`` gives each layer the same number of weights.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Shape of each layer's weight.
    density : float
        In (0, 1]: of all layers together, weighed by cost.
    distribution : str
        A key of :data:`DISTRIBUTIONS`.
    costs : mapping of str to float, optional
        MACs of one weight of each layer, its output positions, where `density` is a fraction of MACs. Left out, it is
        a fraction of weights.

    Returns
    -------
    dict of str to float
        Each in (0, 1].

    Raises
    ------
    UsageError
        If the distribution is unknown, the density outside (0, 1], or too low for the layers that ``uniform_plus``
        keeps dense.

    References
    ----------
    .. [1] U. Evci et al., "Rigging the Lottery: Making All Tickets Winners", ICML 2020, section 3 (ERK).
    .. [2] D. C. Mocanu et al., Nature Communications 9 (2018) (Erdos-Renyi).
    .. [3] T. Gale, E. Elsen, S. Hooker, "The State of Sparsity in Deep Neural Networks" (2019) (uniform+).
    .. [4] A. Golubeva, B. Neyshabur, G. Gur-Ari, "Are wider nets better given the same number of parameters?",
       ICLR 2021 (equal counts).

    Examples
    --------
    >>> densities({"a": (10, 10), "b": (100, 100)}, 0.2, distribution="erk")
    {'a': 1.0, 'b': 0.192}
    """
    if distribution not in DISTRIBUTIONS:
        raise UsageError(f"unknown distribution {distribution!r}{did_you_mean(distribution, DISTRIBUTIONS)}")
    if not 0 < density <= 1:
        raise UsageError(f"expected a density above 0 and at most 1, found {density}")
    relative = {name: DISTRIBUTIONS[distribution](shape) for name, shape in shapes.items()}
    cost = {name: math.prod(shape) * (1.0 if costs is None else costs[name]) for name, shape in shapes.items()}
    target = density * sum(cost.values())
    fixed = fixed_densities(shapes, density, distribution)
    while True:
        sparse = [name for name in shapes if name not in fixed]
        if not sparse:
            break
        left = target - sum(fixed[name] * cost[name] for name in fixed)
        factor = left / sum(relative[name] * cost[name] for name in sparse)
        if factor <= 0:
            raise UsageError(
                f"distribution {distribution!r}: the layers that it keeps dense use up a density of {density:.3g}; "
                "lower the sparsity or choose another distribution"
            )
        highest = max(relative[name] for name in sparse)
        if factor * highest <= 1:
            break
        fixed.update({name: 1.0 for name in sparse if relative[name] == highest})
    return {name: fixed[name] if name in fixed else factor * relative[name] for name in shapes}


def layer_counts(
    shapes: Shapes, density: float, *, distribution: str = "uniform", costs: Mapping[str, float] | None = None
) -> dict[str, int]:
    """Count the weights that each layer keeps.

    Real counts are cut to integers and what is then missing from their rounded total goes to the largest remainders,
    so that the counts add up exactly and each is within 1 of its real value. ``constant_fan_in`` rounds each layer to
    the nearest whole number of weights for each output instead, so that its total is only near.

    Parameters
    ----------
    shapes, density, distribution, costs
        As for :func:`densities`.

    Returns
    -------
    dict of str to int
        Each at least 1 and at most the layer's size.

    Raises
    ------
    UsageError
        If the density is so low that a layer would keep no weight, or as :func:`densities`.

    Examples
    --------
    >>> layer_counts({"a": (3, 3), "b": (3, 3), "c": (3, 3)}, 0.5)
    {'a': 5, 'b': 5, 'c': 4}
    """
    layers = densities(shapes, density, distribution=distribution, costs=costs)
    exact = {name: layers[name] * math.prod(shape) for name, shape in shapes.items()}
    if distribution == "constant_fan_in":
        return {
            name: shape[0] * min(max(1, math.floor(exact[name] / shape[0] + 0.5)), math.prod(shape[1:]))
            for name, shape in shapes.items()
        }
    counts = {name: math.floor(value) for name, value in exact.items()}
    missing = round(sum(exact.values())) - sum(counts.values())
    for name in sorted(exact, key=lambda name: counts[name] - exact[name])[:missing]:
        counts[name] += 1
    for name, count in counts.items():
        if not count:
            raise UsageError(
                f"layer {name!r}: a density of {layers[name]:.3g} keeps none of its {math.prod(shapes[name])} weights; "
                "lower the sparsity or widen the model"
            )
    return counts
