"""When to look at the masks, and when to store the weights."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sift_graph.errors import UsageError

__all__ = ["Cadence", "Schedule"]

Schedule = Callable[[int], bool] | Iterable[int]


@dataclass(frozen=True)
class Cadence:
    """At which steps something is due; build one with :meth:`make`, which checks it.

    Attributes
    ----------
    every : int or None
        Look every so many steps.
    schedule : callable, frozenset of int, or None
        Look at these steps. With neither, look at each step.
    weights_every : int or None
        Store the weights every so many steps, and only then; with each snapshot if None.
    """

    every: int | None = None
    schedule: Callable[[int], bool] | frozenset[int] | None = None
    weights_every: int | None = None

    @classmethod
    def make(cls, every: int | None, schedule: Schedule | None, weights_every: int | None) -> Cadence:
        """Check what the user asked for.

        Parameters
        ----------
        every, weights_every : int, optional
        schedule : callable or iterable of int, optional

        Returns
        -------
        Cadence

        Raises
        ------
        UsageError
            If a number is below 1, or the schedule is neither a function nor steps.

        Examples
        --------
        >>> cadence = Cadence.make(None, [0, 10, 30], None)
        >>> [step for step in range(50) if cadence.is_due(step)]
        [0, 10, 30]
        """
        for name, value in (("every", every), ("weights_every", weights_every)):
            if value is not None and value < 1:
                raise UsageError(
                    f"{name}: expected 1 or more optimizer steps, found {value}; leave it out for each step"
                )
        if schedule is None or callable(schedule):
            return cls(every, schedule, weights_every)
        try:
            steps = frozenset(operator.index(step) for step in schedule)
        except TypeError as error:
            raise UsageError(
                f"schedule: expected a function from a step to a bool, or whole steps, found {str(schedule)[:80]!r}"
            ) from error
        if not steps or min(steps) < 0:
            raise UsageError(f"schedule: expected steps of 0 or more, found {sorted(steps)[:5]}")
        return cls(every, steps, weights_every)

    def is_due(self, step: int) -> bool:
        """Whether the masks are to be looked at after this many steps."""
        if self.needs_weights(step):
            return True
        if self.every is None and self.schedule is None:
            return True
        if self.every is not None and step % self.every == 0:
            return True
        if callable(self.schedule):
            return bool(self.schedule(step))
        return self.schedule is not None and step in self.schedule

    def needs_weights(self, step: int) -> bool:
        """Whether the weights have a cadence of their own and are due: then it is recorded, changed or not."""
        return self.weights_every is not None and step % self.weights_every == 0

    def takes_weights(self, step: int) -> bool:
        """Whether a snapshot of this step stores the weights."""
        return self.weights_every is None or step % self.weights_every == 0

    def described(self) -> dict[str, Any]:
        """Describe it for ``sift.json``."""
        schedule = "callable" if callable(self.schedule) else sorted(self.schedule) if self.schedule else None
        return {"every": self.every, "schedule": schedule, "weights_every": self.weights_every}
