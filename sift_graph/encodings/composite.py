"""Encodings of several layers together: branches of a sum, two layers through a rank, pairs of an attention head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sift_graph.encodings.layer import Encoded, oriented
from sift_graph.errors import UsageError
from sift_graph.masks import LayerMask

__all__ = ["attention_pair", "factorized", "parallel"]

EXACT = 1 << 24  # a count below it is exact in float32


def parallel(branches: Sequence[LayerMask], *, layer: str, sum_edges: bool) -> Encoded:
    """Merge the branches of Sparse Parallel, whose outputs are added.

    Parameters
    ----------
    branches : sequence of LayerMask
        Of one shape.
    layer : str
        Name of the whole.
    sum_edges : bool
        Count an edge once for each branch that has it; else once.

    Returns
    -------
    Encoded
        Its weights are the sums of the branches' absolute weights: norms between branch and sum are not folded in.

    Raises
    ------
    UsageError
        If the branches differ in shape.
    """
    first = branches[0]
    for other in branches[1:]:
        if (other.shape, other.groups, other.layout) != (first.shape, first.groups, first.layout):
            raise UsageError(
                f"layer {layer!r}: its branches {first.layer!r} of shape {first.shape} and {other.layer!r} of shape "
                f"{other.shape} are not alike, so their edges cannot be put together"
            )
    counts: np.ndarray = np.stack([branch.mask for branch in branches]).sum(axis=0, dtype=np.int64)
    total = None
    weights = [branch.weight for branch in branches]
    if all(weight is not None for weight in weights):
        total = np.stack([np.abs(weight.astype(np.float64)) for weight in weights if weight is not None]).sum(axis=0)
    merged = LayerMask.from_dense(
        layer, counts > 0, total, groups=first.groups, layout=first.layout, source=first.source
    )
    if not sum_edges:
        return Encoded(merged)
    return Encoded(merged, counts[counts > 0], len(branches))


def factorized(u: LayerMask, v: LayerMask, *, layer: str, count: bool) -> Encoded:
    """Count the paths through the rank of Sparse Factorized, P = M_V M_U.

    Parameters
    ----------
    u, v : LayerMask
        ``(groups rank, in / groups, *kernel)`` and ``(out, rank)`` or ``(out, rank, 1, 1)``.
    layer : str
        Name of the whole.
    count : bool
        Keep the number of paths; else only whether there is one.

    Returns
    -------
    Encoded
        Over the kernel of `u`; its weights are the sums over paths of products of absolute weights.

    Raises
    ------
    UsageError
        If the outputs of `u` are not the inputs of `v`.
    """
    (down, down_weight), (up, up_weight) = oriented(u), oriented(v)
    groups = u.groups
    if up.shape[2] != 1 or v.groups != groups or up.shape[1] * groups != len(down):
        raise UsageError(
            f"layer {layer!r}: {v.layer!r} of shape {v.shape} in {v.groups} groups does not follow {u.layer!r} of "
            f"shape {u.shape} in {groups}: the outputs of the first must be the inputs of the second"
        )
    shape = (len(up), *u.shape[1:]) if u.layout == "oi" else (len(up), down.shape[1] * down.shape[2])
    below, above = down.reshape(groups, len(down) // groups, -1), up.reshape(groups, len(up) // groups, -1)
    paths = products(above, below).reshape(shape)
    weights = None
    if down_weight is not None and up_weight is not None:
        first, second = np.abs(down_weight.astype(np.float64)), np.abs(up_weight.astype(np.float64))
        weights = np.matmul(second.reshape(above.shape), first.reshape(below.shape)).reshape(shape)
    merged = LayerMask.from_dense(layer, paths > 0, weights, groups=groups, source=u.source)
    return Encoded(merged, paths[paths > 0], above.shape[2]) if count else Encoded(merged)


def products(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Multiply stacks of 0/1 matrices, exactly."""
    kind = np.float32 if above.shape[-1] < EXACT else np.float64
    found: np.ndarray = np.rint(np.matmul(above.astype(kind), below.astype(kind))).astype(np.int64)
    return found


def attention_pair(first: LayerMask, second: LayerMask, *, layer: str, reads: bool) -> Encoded:
    """Count the paths of one attention head through its dimensions.

    Parameters
    ----------
    first, second : LayerMask
        For `reads`: the head's rows of query and of key, whose products are M_K^T M_Q, from query input to key input.
        Otherwise the head's rows of value, and its columns of the output projection: M_O M_V, from input to output.
    layer : str
        Name of the pair.
    reads : bool

    Returns
    -------
    Encoded

    Raises
    ------
    UsageError
        If the two do not share the head's dimensions.
    """
    (a, a_weight), (b, b_weight) = oriented(first), oriented(second)
    one, two = a[..., 0], (b[..., 0].T if reads else b[..., 0])
    if a.shape[2] != 1 or b.shape[2] != 1 or two.shape[1] != len(one):
        raise UsageError(
            f"layer {layer!r}: {first.layer!r} of shape {first.shape} and {second.layer!r} of shape {second.shape} "
            "do not share the dimensions of one head"
        )
    paths = products(two, one)
    weights = None
    if a_weight is not None and b_weight is not None:
        right = np.abs(b_weight[..., 0].astype(np.float64))
        weights = (right.T if reads else right) @ np.abs(a_weight[..., 0].astype(np.float64))
    merged = LayerMask.from_dense(layer, paths > 0, weights, source=first.source)
    return Encoded(merged, paths[paths > 0], len(one))
