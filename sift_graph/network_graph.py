"""How the layers of a network hang together: which outputs of which layers each layer reads.

The vertices are channels, numbered through the network: those of the input, then the outputs of each layer in the order
of computing, and a channel of its own for each sum of a skip connection. A graph comes from a traced model
(:mod:`sift_graph.model_graph`, written to ``sift.json`` by the recorder), or is guessed from the order and the shapes
of the recorded layers. A layer that has no place in it is listed, with the reason.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sift_graph.encodings.targets import FUSED, ROLES
from sift_graph.errors import DamagedStoreError

__all__ = ["CONSTANT", "NetworkGraph", "Space", "from_runs", "infer_graph", "to_runs"]

MAX_CHANNELS = 1 << 26
"""Channels of a network, and channels read by its layers in all; a file that claims more is refused, not allocated."""

CONSTANT = -1
"""Stands for an input that no channel makes, such as a position embedding."""

Runs = list[list[int]]


@dataclass(frozen=True, eq=False)
class Space:
    """The channels that one layer, one sum or the input makes.

    Attributes
    ----------
    kind : {"input", "layer", "sum"}
    first : int
        Number of its first channel.
    size : int
        How many.
    sources : tuple of ndarray of int64
        Of a layer: what it reads, a channel for each of its inputs (groups one after the other). Of a sum: for each
        addend, a channel for each of its own.
    layer : str
        Name of the layer.
    shape : tuple of int
        Of its weight, ``(out, in / groups, *kernel)``.
    groups : int
    geometry : mapping or None
        As :class:`sift_graph.encodings.Geometry` records it.
    """

    kind: str
    first: int
    size: int
    sources: tuple[np.ndarray, ...] = ()
    layer: str = ""
    shape: tuple[int, ...] = ()
    groups: int = 1
    geometry: Mapping[str, Any] | None = None

    @property
    def channels(self) -> np.ndarray:
        """Their numbers."""
        return np.arange(self.first, self.first + self.size)


@dataclass(frozen=True, eq=False)
class NetworkGraph:
    """Channels and layers of a network, in the order of computing.

    Attributes
    ----------
    spaces : tuple of Space
        Each after those that it reads.
    outputs : ndarray of int64
        Channels that leave the network.
    gates : ndarray of int64
        Channels that go on where no path can be followed: into a product, as queries and keys do, or into an operation
        that is not known. They count as leaving the network; no path is counted through them.
    unplaced : dict of str to str
        Layers without a place, and why.
    origin : {"traced", "inferred"}
    """

    spaces: tuple[Space, ...]
    outputs: np.ndarray
    gates: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    unplaced: Mapping[str, str] = field(default_factory=dict)
    origin: str = "traced"

    @property
    def size(self) -> int:
        """Channels in all."""
        return self.spaces[-1].first + self.spaces[-1].size if self.spaces else 0

    @property
    def layers(self) -> list[str]:
        """Names of the layers that have a place, each once."""
        return list(dict.fromkeys(space.layer for space in self.spaces if space.kind == "layer"))

    def record(self) -> dict[str, Any]:
        """Write the graph as it stands in ``sift.json``."""
        layers, sums, inputs = [], [], []
        for space in self.spaces:
            about: dict[str, Any] = {"first": space.first, "size": space.size}
            if space.kind == "input":
                inputs.append(about)
            elif space.kind == "sum":
                sums.append(about | {"of": [to_runs(source) for source in space.sources]})
            else:
                about = {"layer": space.layer, "shape": list(space.shape), "groups": space.groups} | about
                geometry = None if space.geometry is None else dict(space.geometry)
                layers.append(about | {"reads": to_runs(space.sources[0]), "geometry": geometry})
        return {
            "origin": self.origin,
            "inputs": inputs,
            "layers": layers,
            "sums": sums,
            "outputs": to_runs(self.outputs),
            "gates": to_runs(self.gates),
            "unplaced": dict(self.unplaced),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any], *, where: str = "sift.json") -> NetworkGraph:
        """Read what :meth:`record` wrote.

        Parameters
        ----------
        record : mapping
        where : str
            For the error.

        Returns
        -------
        NetworkGraph

        Raises
        ------
        DamagedStoreError
            If it is not one.
        """
        try:
            check_size(record)
            spaces = [Space("input", int(s["first"]), int(s["size"])) for s in record["inputs"]]
            spaces += [
                Space("sum", int(s["first"]), int(s["size"]), tuple(map(from_runs, s["of"]))) for s in record["sums"]
            ]
            spaces += [
                Space(
                    "layer",
                    int(s["first"]),
                    int(s["size"]),
                    (from_runs(s["reads"]),),
                    str(s["layer"]),
                    tuple(int(n) for n in s["shape"]),
                    int(s["groups"]),
                    s["geometry"],
                )
                for s in record["layers"]
            ]
            spaces.sort(key=lambda space: space.first)
            graph = cls(
                tuple(spaces),
                from_runs(record["outputs"]),
                from_runs(record["gates"]),
                {str(name): str(why) for name, why in record["unplaced"].items()},
                str(record["origin"]),
            )
            graph.check()
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DamagedStoreError(
                f"{where}: its graph cannot be read ({type(error).__name__}: {error}); restore the file from a copy, "
                "or remove the key 'graph' to have the graph guessed from the layers"
            ) from error
        return graph

    def check(self) -> None:
        """Raise ValueError if a channel is read before it is made, or sizes do not fit each other."""
        made = 0
        for space in self.spaces:
            if space.first != made or space.size < 1:
                raise ValueError(f"channels {made} to {space.first} are made by nothing")
            for source in space.sources:
                if len(source) and (source.max() >= made or source.min() < CONSTANT):
                    raise ValueError(f"{space.layer or 'a sum'} reads a channel that is not made yet")
            wanted = space.size if space.kind == "sum" else math.prod(space.shape[1:2]) * space.groups
            if space.kind != "input" and any(len(source) != wanted for source in space.sources):
                raise ValueError(f"{space.layer or 'a sum'} reads other than {wanted} channels")
            if space.kind == "layer" and (space.shape[0] != space.size or len(space.shape) < 2):
                raise ValueError(f"{space.layer} makes other than {space.size} channels")
            made += space.size
        for ids in (self.outputs, self.gates):
            if len(ids) and (ids.max() >= made or ids.min() < CONSTANT):
                raise ValueError("a channel leaves that is not made")


def to_runs(channels: np.ndarray) -> Runs:
    """Write channels as runs ``[first, count, repeat]``: so many in ascending order, each so many times.

    Parameters
    ----------
    channels : ndarray of int

    Returns
    -------
    list of list of int

    Examples
    --------
    >>> to_runs(np.array([3, 3, 4, 4, 5, 5, 0, 1, 2]))
    [[3, 3, 2], [0, 3, 1]]
    """
    if not len(channels):
        return []
    starts = np.flatnonzero(np.diff(channels, prepend=channels[0] - 1))
    values, lengths = channels[starts], np.diff(starts, append=len(channels))
    follows = (np.diff(values) == 1) & (np.diff(lengths) == 0) & (values[:-1] != CONSTANT)
    ends = np.concatenate([np.flatnonzero(~follows), [len(values) - 1]])
    begins = np.concatenate([[0], ends[:-1] + 1])
    return [[int(values[a]), int(b - a + 1), int(lengths[a])] for a, b in zip(begins, ends, strict=True)]


def check_size(record: Mapping[str, Any]) -> None:
    """Raise ValueError if a recorded graph claims more channels than any network has, before any is allocated."""
    spaces = [*record["inputs"], *record["sums"], *record["layers"]]
    runs = [run for s in record["layers"] for run in s["reads"]]
    runs += [run for s in record["sums"] for addend in s["of"] for run in addend]
    runs += [*record["outputs"], *record["gates"]]
    sizes = [int(s["size"]) for s in spaces]
    counts = [int(n) * int(r) for a, n, r in runs if min(int(n), int(r), int(a) + 1) >= 0]
    if len(counts) < len(runs) or min(sizes, default=1) < 1:
        raise ValueError("a run of channels or a size is negative")
    if max(sum(sizes), sum(counts)) > MAX_CHANNELS:
        raise ValueError(f"it claims {max(sum(sizes), sum(counts))} channels, expected at most {MAX_CHANNELS}")


def from_runs(runs: Iterable[Sequence[int]]) -> np.ndarray:
    """Read what :func:`to_runs` wrote."""
    parts = [np.repeat(np.arange(int(a), int(a) + int(n)), int(r)) for a, n, r in runs]
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, dtype=np.int64)


BRANCH = re.compile(r"(?P<whole>.+?)(?:\.branches|_list)\.\d+")


def infer_graph(entries: Sequence[Mapping[str, Any]]) -> NetworkGraph:
    """Guess the graph from the order, the shapes and the names of the recorded layers.

    Each layer reads what the layer before it made, if the numbers of channels allow it. Else it reads the latest
    channels of the number that it needs: a shortcut; if it makes as many as the layer before, the two are added.
    Branches of Sparse Parallel (``NAME.branches.0``) read the same and are added, and so are the sparse layer and the
    pair of Sparse Doped (``NAME.sparse``, ``NAME.u``, ``NAME.v``); ``query``, ``key`` and ``value`` read the same, and
    only the value goes on. Shortcuts without a weight leave no trace in the shapes: trace the model for those.

    Parameters
    ----------
    entries : sequence of mapping
        ``name``, ``shape`` (in PyTorch's order, or with ``layout`` ``io``) and ``groups``, in network order.

    Returns
    -------
    NetworkGraph
        With ``origin="inferred"``; layers that nothing before fits are in ``unplaced``.

    Examples
    --------
    >>> shapes = {"stem": [8, 3, 3, 3], "a": [16, 8, 3, 3], "b": [16, 16, 3, 3], "short": [16, 8, 1, 1], "fc": [10, 16]}
    >>> graph = infer_graph([{"name": n, "shape": s, "groups": 1} for n, s in shapes.items()])
    >>> [space.layer or space.kind for space in graph.spaces]
    ['input', 'stem', 'a', 'b', 'short', 'sum', 'fc']
    """
    guess = Guess()
    for entry in entries:
        guess.place(entry)
    spaces = guess.spaces
    outputs = np.zeros(0, dtype=np.int64) if guess.current is None else guess.current
    gates = np.concatenate([np.zeros(0, dtype=np.int64), *guess.gates])
    return NetworkGraph(tuple(spaces), outputs, gates, guess.unplaced, "inferred")


@dataclass
class Guess:
    """A graph as it is guessed, layer after layer.

    Attributes
    ----------
    current : ndarray of int64 or None
        Channels that the next layer is expected to read.
    shared : dict of str to ndarray
        What the layers of one block read, by the name of the block.
    aside : dict of str to ndarray
        What the sparse layer of Sparse Doped made, by the name of the whole.
    pairs : set of str
        Wholes that have a ``u``: their ``v`` follows it, and is no value of attention.
    """

    spaces: list[Space] = field(default_factory=list)
    unplaced: dict[str, str] = field(default_factory=dict)
    gates: list[np.ndarray] = field(default_factory=list)
    current: np.ndarray | None = None
    shared: dict[str, np.ndarray] = field(default_factory=dict)
    aside: dict[str, np.ndarray] = field(default_factory=dict)
    pairs: set[str] = field(default_factory=set)

    def place(self, entry: Mapping[str, Any]) -> None:
        """Give a layer its place, if there is one."""
        name, groups = str(entry["name"]), int(entry["groups"])
        shape = tuple(int(n) for n in entry["shape"])
        if entry.get("layout") == "io":
            shape = (shape[-1], shape[-2], *shape[:-2])
        needed = shape[1] * groups
        if max(needed, shape[0]) > MAX_CHANNELS:
            self.unplaced[name] = f"has more than {MAX_CHANNELS} inputs or outputs"
            return
        if self.current is None:
            self.spaces.append(Space("input", 0, needed))
            self.current = self.spaces[0].channels
        whole, role = block_of(name)
        if role == "u":
            self.pairs.add(whole)
        elif role == "v" and whole in self.pairs:
            role = "after_u"
        before = self.current
        expected = self.shared.get(whole, before) if role in {"branch", "q", "k", "v", "u"} else before
        read = fitted(expected, needed, linear=len(shape) == 2)
        shortcut = read is None
        if read is None:
            known = (s.channels for s in reversed(self.spaces))
            read = next((channels for channels in known if len(channels) == needed), None)
        if read is None:
            self.unplaced[name] = f"reads {needed} channels, and no layer before it makes as many"
            return
        joins = role == "branch" and whole in self.shared
        if role:
            self.shared.setdefault(whole, expected)
        made = self.make("layer", shape[0], (read,), layer=name, shape=shape, groups=groups).channels
        self.current = made
        if role in {"q", "k"}:
            self.gates.append(made)
            self.current = before
        elif role == "fused" and len(made) % 3 == 0:  # a fused projection: query and key go no further
            self.gates.append(made[: 2 * len(made) // 3])
            self.current = made[2 * len(made) // 3 :]
        elif role == "sparse":
            self.aside[whole] = made
        elif role == "after_u" and whole in self.aside:
            self.add(self.aside.pop(whole), made)
        elif (joins or (shortcut and not role)) and len(made) == len(before) and before[0] > 0:
            self.add(before, made)

    def make(self, kind: str, size: int, sources: tuple[np.ndarray, ...], **about: Any) -> Space:
        """Make new channels."""
        space = Space(kind, self.spaces[-1].first + self.spaces[-1].size, size, sources, **about)
        self.spaces.append(space)
        return space

    def add(self, one: np.ndarray, other: np.ndarray) -> None:
        """Add two runs of channels, and go on with the sum."""
        if len(one) == len(other):
            self.current = self.make("sum", len(one), (one, other)).channels


def block_of(name: str) -> tuple[str, str]:
    """Name the block of a layer that does not simply follow the one before it, and its part there; else two blanks."""
    match = BRANCH.fullmatch(name)
    if match is not None:
        return match["whole"], "branch"
    whole, _, called = name.rpartition(".")
    if called in FUSED:
        return whole, "fused"
    if called in {"sparse", "u", "v"}:
        return whole, called
    return (whole, ROLES[called]) if called in ROLES else ("", "")


def fitted(channels: np.ndarray, needed: int, *, linear: bool) -> np.ndarray | None:
    """Read channels by a layer that needs so many: all of them, or flattened with their positions; else None."""
    if len(channels) == needed or (linear and needed % len(channels) == 0):
        return np.repeat(channels, needed // len(channels))
    return None
