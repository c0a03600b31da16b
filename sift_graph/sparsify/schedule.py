"""When masks move, and how much of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sift_graph.errors import UsageError

__all__ = ["Schedule"]


@dataclass(frozen=True)
class Schedule:
    r"""Update at the steps `t` with ``begin < t < end`` and ``t % every == 0``; the fraction falls as a cosine.

    :math:`f(t) = f_1 + \frac{f_0 - f_1}{2} (1 + \cos(\pi \frac{t - begin}{end - begin}))`. Steps count
    optimizer updates from 1; both inequalities are strict, so that there is no update at `end`.

    Attributes
    ----------
    begin, end : int
        In optimizer updates.
    every : int
        Distance of two updates.
    drop_fraction : float
        The first fraction :math:`f_0` of a layer's weights that is dropped and regrown, in [0, 1].
    drop_floor : float
        The last one, :math:`f_1`, at most the first.

    References
    ----------
    .. [1] U. Evci et al., ICML 2020, section 3 (cosine annealing of the fraction).
    .. [2] S. Liu et al., "Do We Actually Need Dense Over-Parameterization? In-Time Over-Parameterization in Sparse
       Training", ICML 2021 (a floor under it).

    Examples
    --------
    >>> schedule = Schedule(begin=0, end=100, every=20)
    >>> schedule.updates
    [20, 40, 60, 80]
    >>> round(schedule.fraction(50), 3)
    0.15
    """

    begin: int
    end: int
    every: int = 100
    drop_fraction: float = 0.3
    drop_floor: float = 0.0

    def __post_init__(self) -> None:
        if self.begin < 0 or self.end <= self.begin:
            raise UsageError(
                f"the mask schedule ends at step {self.end}, before or where it begins ({self.begin}); "
                "train longer, or set masks.begin lower or masks.stop higher"
            )
        if self.every < 1:
            raise UsageError(f"expected 1 or more steps between two mask updates, found {self.every}")
        if not 0 <= self.drop_fraction <= 1:
            raise UsageError(f"expected a drop fraction in [0, 1], found {self.drop_fraction}")
        if not 0 <= self.drop_floor <= self.drop_fraction:
            raise UsageError(
                f"expected a drop floor between 0 and the drop fraction of {self.drop_fraction}, found "
                f"{self.drop_floor}"
            )

    @property
    def updates(self) -> list[int]:
        """The steps of all updates."""
        first = (self.begin // self.every + 1) * self.every
        return list(range(first, self.end, self.every))

    def is_update(self, step: int) -> bool:
        """Whether masks move after optimizer update `step`."""
        return self.begin < step < self.end and step % self.every == 0

    def fraction(self, step: int) -> float:
        """Fraction of a layer's weights to drop at `step`."""
        progress = (step - self.begin) / (self.end - self.begin)
        return self.drop_floor + (self.drop_fraction - self.drop_floor) * (0.5 + 0.5 * math.cos(math.pi * progress))
