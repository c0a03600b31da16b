"""Which layers an encoding takes, by their names and shapes: the rows of a table before any mask is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sift_graph.encodings.composite import attention_pair, factorized, parallel
from sift_graph.encodings.geometry import Geometry
from sift_graph.encodings.layer import (
    Encoded,
    channel,
    channel_count,
    check_layout,
    head_columns,
    head_rows,
    kernel,
    split_qkv,
    unrolled,
)
from sift_graph.errors import UsageError, did_you_mean
from sift_graph.masks import LayerMask

__all__ = ["ENCODINGS", "FUSED", "OUTPUTS", "ROLES", "SINGLE", "Request", "Target", "encode", "find_targets"]

ENCODINGS: dict[str, str] = {
    "kernel": "input channels and kernel positions against outputs",
    "channel": "channels; an edge where any kernel position is kept",
    "channel_count": "channels; as many edges as kernel positions are kept",
    "unrolled": "pixels, with stride, padding and dilation",
    "unrolled_circular": "pixels on a torus",
    "qkv": "query, key and value of a fused projection",
    "heads": "the rows of each attention head",
    "parallel_or": "the branches of Sparse Parallel together, an edge where any has one",
    "parallel_sum": "the branches of Sparse Parallel together, an edge for each",
    "factorized": "paths through the rank of Sparse Factorized",
    "factorized_support": "the same, an edge where there is a path",
    "attention": "paths through each attention head, query to key and value to output",
}
"""Encodings by name, and what each is."""

SINGLE = ("kernel", "channel", "channel_count", "unrolled", "unrolled_circular")
"""Encodings that make one graph of one mask."""

FUSED = {"in_proj_weight", "in_proj", "qkv", "qkv_proj", "c_attn", "Wqkv", "to_qkv"}
ROLES = {
    **dict.fromkeys(("q", "query", "q_proj", "q_lin", "to_q"), "q"),
    **dict.fromkeys(("k", "key", "k_proj", "k_lin", "to_k"), "k"),
    **dict.fromkeys(("v", "value", "v_proj", "v_lin", "to_v"), "v"),
}
OUTPUTS = {"output", "out_proj", "o_proj", "proj", "c_proj", "to_out", "out_lin", "o"}
BRANCH = re.compile(r"(?P<whole>.+?)(?:\.branches|_list)\.(?P<index>\d+)")
FACTOR = re.compile(r"(?P<whole>.+)\.(?P<factor>[uv])")


@dataclass(frozen=True)
class Request:
    """Which encoding is asked for, with what it needs to know.

    Attributes
    ----------
    name : str
        A key of :data:`ENCODINGS`.
    heads : int or None
        Attention heads of each projection.
    geometries : mapping of str to Geometry
        By layer.
    """

    name: str = "kernel"
    heads: int | None = None
    geometries: Mapping[str, Geometry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in ENCODINGS:
            raise UsageError(f"no encoding {self.name!r}{did_you_mean(self.name, ENCODINGS)}")
        if self.name in ("heads", "attention") and self.heads is None:
            raise UsageError(f"the encoding {self.name!r} needs the number of attention heads: --heads 8, heads=8")
        if self.heads is not None and self.heads < 1:
            raise UsageError(f"expected 1 or more attention heads, found {self.heads}")


@dataclass(frozen=True)
class Target:
    """One row to be: a graph, and the layers whose masks it is made of.

    Attributes
    ----------
    layer : str
        Name of the row.
    members : tuple of str
    request : Request
    part : str
        Which of the graphs of these members.
    """

    layer: str
    members: tuple[str, ...]
    request: Request
    part: str = ""


def find_targets(
    entries: Sequence[Mapping[str, Any]], request: Request
) -> tuple[list[Target], list[tuple[str, UsageError]]]:
    """Find what an encoding makes of the layers of a network.

    Parameters
    ----------
    entries : sequence of mapping
        ``name``, ``shape``, ``layout`` and ``groups`` of each layer, in network order.
    request : Request

    Returns
    -------
    targets : list of Target
        In network order.
    unfit : list of tuple
        Layers that the encoding does not fit, and why.
    """
    finder = FINDERS.get(request.name, single)
    return finder({str(entry["name"]): entry for entry in entries}, request)


Found = tuple[list[Target], list[tuple[str, UsageError]]]
Entries = Mapping[str, Mapping[str, Any]]


def single(entries: Entries, request: Request) -> Found:
    """One graph a layer; the unrolled ones only where the sizes are known."""
    targets, unfit = [], []
    for name, entry in entries.items():
        try:
            if request.name.startswith("unrolled"):
                spatial = entry["shape"][2:] if entry["layout"] == "oi" else entry["shape"][:-2]
                check_layout(name, spatial, request.geometries.get(name), circular=request.name == "unrolled_circular")
            targets.append(Target(name, (name,), request))
        except UsageError as error:
            unfit.append((name, error))
    return targets, unfit


def last(name: str) -> tuple[str, str]:
    """Split a layer's name into where it stands and what it is called."""
    where, _, called = name.rpartition(".")
    return where, called


def missing(name: str, request: Request, what: str) -> tuple[str, UsageError]:
    """Say that an encoding does not fit a layer."""
    return name, UsageError(
        f"layer {name!r}: the encoding {request.name!r} does not fit it: {what}; choose layers with --layers, or "
        "another encoding"
    )


def outputs_of(entry: Mapping[str, Any]) -> int:
    """Count the outputs of a layer entry."""
    return int(entry["shape"][0] if entry["layout"] == "oi" else entry["shape"][-1])


def projections(entries: Entries, request: Request) -> Found:
    """Query, key and value of fused projections; and heads, of all projections."""
    targets, unfit = [], []
    heads = request.heads if request.name == "heads" else None
    for name, entry in entries.items():
        called = last(name)[1]
        if called in FUSED:
            parts, size = ["q", "k", "v"], outputs_of(entry) // 3
            if outputs_of(entry) % 3:
                unfit.append(missing(name, request, f"its {outputs_of(entry)} outputs are not three of one size"))
                continue
        elif called in ROLES and heads is not None:
            parts, size = [""], outputs_of(entry)
        else:
            what = "it is no attention projection" if heads else "it is no fused attention projection"
            names = [*ROLES, *sorted(FUSED)] if heads else sorted(FUSED)
            unfit.append(missing(name, request, what + f" (those are called {', '.join(names)})"))
            continue
        if heads is not None:
            if size % heads:
                unfit.append(missing(name, request, f"{heads} heads do not divide {size} outputs"))
                continue
            parts = [f"{part}.{h}" if part else str(h) for part in parts for h in range(heads)]
        targets += [Target(f"{name}[{part}]", (name,), request, part) for part in parts]
    return targets, unfit


def branches(entries: Entries, request: Request) -> Found:
    """Branches of Sparse Parallel, by the name of the whole."""
    found: dict[str, list[str]] = {}
    unfit = []
    for name in entries:
        match = BRANCH.fullmatch(name)
        if match is None:
            unfit.append(
                missing(name, request, "it is no branch of Sparse Parallel (those are called NAME.branches.0)")
            )
        else:
            found.setdefault(match["whole"], []).append(name)
    return [Target(whole, tuple(members), request) for whole, members in found.items()], unfit


def factors(entries: Entries, request: Request) -> Found:
    """Both layers of Sparse Factorized, by the name of the whole."""
    found: dict[str, dict[str, str]] = {}
    unfit = []
    for name in entries:
        match = FACTOR.fullmatch(name)
        if match is not None:
            found.setdefault(match["whole"], {})[match["factor"]] = name
        else:
            unfit.append(missing(name, request, "it is no factor of Sparse Factorized (those are NAME.u and NAME.v)"))
    targets = []
    for whole, pair in found.items():
        if len(pair) == 2 and f"{whole}.sparse" not in entries:
            targets.append(Target(whole, (pair["u"], pair["v"]), request))
        else:
            lone = "they belong to Sparse Doped, whose sum is complete" if len(pair) == 2 else "its partner has no mask"
            unfit += [missing(name, request, lone) for name in pair.values()]
    return targets, unfit


def attention(entries: Entries, request: Request) -> Found:
    """Pairs of each head: query and key, value and output."""
    where: dict[str, dict[str, str]] = {}
    unfit = []
    for name in entries:
        place, called = last(name)
        role = ROLES.get(called) or ("fused" if called in FUSED else "o" if called in OUTPUTS else "")
        if role:
            where.setdefault(place, {})[role] = name
        else:
            unfit.append(missing(name, request, "it belongs to no attention"))
    targets = []
    for place, roles in where.items():
        q, k, v = (roles.get(role, roles.get("fused")) for role in "qkv")
        used = set()
        for h in range(request.heads or 1):
            if q and k:
                targets.append(Target(f"{place}[qk.{h}]", (q, k), request, f"qk.{h}"))
                used |= {q, k}
            if v and "o" in roles:
                targets.append(Target(f"{place}[vo.{h}]", (v, roles["o"]), request, f"vo.{h}"))
                used |= {v, roles["o"]}
        unfit += [missing(name, request, "its partner has no mask") for name in roles.values() if name not in used]
    return targets, unfit


FINDERS: dict[str, Callable[[Entries, Request], Found]] = {
    "qkv": projections,
    "heads": projections,
    "parallel_or": branches,
    "parallel_sum": branches,
    "factorized": factors,
    "factorized_support": factors,
    "attention": attention,
}


def encode(target: Target, masks: Iterable[LayerMask]) -> Encoded:
    """Make the graph of a row from the masks of its members.

    Parameters
    ----------
    target : Target
    masks : iterable of LayerMask
        Of ``target.members``, in their order.

    Returns
    -------
    Encoded

    Raises
    ------
    UsageError
        If the encoding does not fit the masks.
    """
    first, *others = masks
    name, part = target.request.name, target.part
    if name in ("qkv", "heads"):
        role, _, head = part.rpartition(".") if name == "heads" else (part, "", "")
        rows = split_qkv(first)[role] if role else first
        if head:
            rows = head_rows(rows, target.request.heads or 1)[head]
        return Encoded(replace(rows, layer=target.layer))
    if name.startswith("parallel"):
        return parallel([first, *others], layer=target.layer, sum_edges=name == "parallel_sum")
    if name.startswith("factorized"):
        return factorized(first, others[0], layer=target.layer, count=name == "factorized")
    if name == "attention":
        return encode_pair(target, first, others[0])
    if name.startswith("unrolled"):
        return unrolled(first, target.request.geometries.get(first.layer), circular=name == "unrolled_circular")
    return {"kernel": kernel, "channel": channel, "channel_count": channel_count}[name](first)


def encode_pair(target: Target, first: LayerMask, second: LayerMask) -> Encoded:
    """Cut one head out of two projections, and count its paths."""
    kind, _, head = target.part.partition(".")
    heads, reads = target.request.heads or 1, kind == "qk"
    fused = last(first.layer)[1] in FUSED
    one = split_qkv(first)[kind[0]] if fused else first
    one = head_rows(one, heads)[head]
    if reads:
        two = head_rows(split_qkv(second)["k"] if fused else second, heads)[head]
    else:
        two = head_columns(second, heads)[head]
    return attention_pair(one, two, layer=target.layer, reads=reads)
