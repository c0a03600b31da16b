"""The regular subgraphs behind IMDB and IMSG: all vertices of one degree on one side, with their edges."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from sift_graph.errors import UsageError
from sift_graph.graph import BipartiteGraph
from sift_graph.spectrum.dense import dense_values
from sift_graph.spectrum.result import RegularSubgraph
from sift_graph.spectrum.solve import checked_weights

__all__ = ["left_regular_subgraphs"]


def left_regular_subgraphs(
    graph: BipartiteGraph,
    *,
    side: Literal["left", "right"] = "left",
    weighted: bool = False,
    min_count: int = 3,
    min_degree: int = 3,
    min_other_degree: float = 3.0,
    tol: float = 1e-6,
) -> list[RegularSubgraph]:
    """Split a layer by the degree of one side's vertices and measure each part.

    A part consists of all vertices of exactly degree d on `side`, over all blocks of a grouped layer, and of their
    neighbours. The parts share no edge.

    Parameters
    ----------
    graph : BipartiteGraph
    side : {"left", "right"}
        Whose degrees count: ``left`` are the inputs, as in the literature.
    weighted : bool
        Also compute the singular values of the absolute weights.
    min_count, min_degree, min_other_degree
        A part enters if it has at least `min_count` vertices on `side`, of degree at least `min_degree`, and if its
        vertices on the other side have a mean degree of at least `min_other_degree`.
    tol : float
        Relative accuracy of the singular values.

    Returns
    -------
    list of RegularSubgraph
        By ascending degree; empty if no part passes.

    Raises
    ------
    MaskError
        If weights are asked for and there are none.
    SpectrumError
        If a weight is not finite.
    UsageError
        If `side` is neither left nor right.
    """
    if side not in {"left", "right"}:
        raise UsageError(f"expected side 'left' or 'right', found {side!r}")
    if not 0 < tol < 1:
        raise UsageError(f"expected a relative tolerance tol between 0 and 1, found {tol}")
    if weighted:
        checked_weights(graph)
    degree = graph.left_degree if side == "left" else graph.right_degree
    blocks = []
    for group in range(graph.groups):
        block = graph.block(group)
        dense = block.dense_rows(0, block.n_right).astype(np.float64)
        values = dense.copy()
        if weighted:
            values[dense.astype(bool)] = checked_weights(block)
        blocks.append((dense, values) if side == "right" else (dense.T, values.T))
    per_block = degree.reshape(graph.groups, -1)
    found = []
    for d in np.unique(degree):
        chosen = [(dense[at == d], values[at == d]) for (dense, values), at in zip(blocks, per_block, strict=True)]
        count = int(np.count_nonzero(degree == d))
        others = sum(int(np.count_nonzero(dense.any(axis=0))) for dense, _ in chosen)
        if count < min_count or d < min_degree or d * count < min_other_degree * others:
            continue
        solved = [dense_values(dense) for dense, _ in chosen]
        sigma, lo, hi = (_top_two([part[i] for part in solved]) for i in range(3))
        heavy = _top_two([dense_values(part)[0] for _, part in chosen]) if weighted else (math.nan, math.nan)
        n_left, n_right = (count, others) if side == "left" else (others, count)
        found.append(
            RegularSubgraph(
                int(d), n_left, n_right, int(d) * count, sigma[0], sigma[1], lo[1], hi[1], heavy[0], heavy[1]
            )
        )
    return found


def _top_two(parts: list[np.ndarray]) -> tuple[float, float]:
    """Two largest values over all blocks, zeros where there are not two."""
    together = -np.sort(-np.concatenate([*parts, np.zeros(2)]))
    return float(together[0]), float(together[1])
