"""Groups of channels: which axes of a model's tensors must be equally long.

Each axis that a weight makes is a group. A residual addition makes two groups one; a concatenation puts groups in a
row; what meets the model's input or output keeps its length. What is left may be widened, consistently.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Axes", "Axis", "Channels", "Following", "Groups", "UntraceableError", "is_grouped"]


@dataclass(frozen=True)
class Channels:
    """A run of an axis: each channel of a group, so many times in a row."""

    group: int
    repeat: int = 1


Axis = tuple[Channels, ...] | None  # None: an axis that no weight makes, and that keeps its length
Axes = tuple[Axis, ...]


@dataclass
class Groups:
    """Groups of channels; two may turn out to be one.

    Attributes
    ----------
    sizes : list of int
    multiples : list of int
        What the size must be a multiple of.
    fixed : list of bool
        Whether the size must stay.
    parents : list of int
        A group that this one is; itself if none.
    """

    sizes: list[int] = field(default_factory=list)
    multiples: list[int] = field(default_factory=list)
    fixed: list[bool] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)

    def new(self, size: int, multiple: int = 1) -> tuple[Channels, ...]:
        """Make a group; give an axis of it."""
        self.sizes.append(size)
        self.multiples.append(multiple)
        self.fixed.append(False)
        self.parents.append(len(self.parents))
        return (Channels(self.parents[-1]),)

    def root(self, group: int) -> int:
        """Give the group that a group is."""
        while self.parents[group] != group:
            group = self.parents[group]
        return group

    def length(self, axis: Sequence[Channels]) -> int:
        """Length of an axis."""
        return sum(self.sizes[self.root(part.group)] * part.repeat for part in axis)

    def fix(self, axis: Axis) -> None:
        """Keep the length of an axis as it is."""
        for part in axis or ():
            self.fixed[self.root(part.group)] = True

    def need(self, axis: Axis, multiple: int) -> None:
        """Ask that the groups of an axis be multiples."""
        for part in axis or ():
            root = self.root(part.group)
            self.multiples[root] = math.lcm(self.multiples[root], multiple)

    def unite(self, one: Axis, other: Axis) -> Axis:
        """Make two axes equally long for good; one that no weight makes keeps the other as it is."""
        if one is None or other is None:
            self.fix(one)
            self.fix(other)
            return None
        shape = [(self.sizes[self.root(part.group)], part.repeat) for part in one]
        if shape != [(self.sizes[self.root(part.group)], part.repeat) for part in other]:
            raise UntraceableError("puts together channels that are concatenated differently")
        for a, b in zip(one, other, strict=True):
            first, second = self.root(a.group), self.root(b.group)
            self.parents[second] = first
            self.multiples[first] = math.lcm(self.multiples[first], self.multiples[second])
            self.fixed[first] |= self.fixed[second]
        return one


class UntraceableError(Exception):
    """Why an operation cannot be followed; turned into a message that names the module."""


@dataclass
class Following:
    """A model's graph as it is followed.

    Attributes
    ----------
    groups : Groups
    modules : dict of str to tuple
        Axes that the weight of a module takes and gives, by its name.
    parameters : dict of str to Axes
        Of parameters that stand for themselves.
    """

    groups: Groups = field(default_factory=Groups)
    modules: dict[str, tuple[Axis, Axis]] = field(default_factory=dict)
    parameters: dict[str, Axes] = field(default_factory=dict)


def is_grouped(axes: Axes | None) -> bool:
    """Whether any axis is made by a weight."""
    return axes is not None and any(axis is not None for axis in axes)
