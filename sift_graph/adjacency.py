"""A bipartite graph as lists of neighbours, for what walks along its edges: both sides, in one numbering.

Left vertices are 0, 1, ..., right vertices follow them. The lists are made from the packed bits in one pass over the
rows and one over the edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numba
import numpy as np

from sift_graph.bits import list_bits
from sift_graph.graph import BipartiteGraph

__all__ = ["Adjacency"]

SPARE = 8  # entries that list_bits writes past the last edge


@numba.njit(cache=True)
def _by_column(starts: np.ndarray, rows: np.ndarray, columns: np.ndarray, index: np.ndarray, edge: np.ndarray) -> None:
    """Sort edges by column, rows ascending within each; `edge` gets the place of each in the order of the rows."""
    place = starts.copy()
    for e in range(columns.size):
        at = place[columns[e]]
        index[at] = rows[e]
        edge[at] = e
        place[columns[e]] = at + 1


@dataclass(frozen=True, eq=False)
class Adjacency:
    """Lists of neighbours of each vertex.

    Attributes
    ----------
    n_left, n_right : int
    left, right : ndarray of int32, shape (edges,)
        The ends of each edge, row after row of the packed bits: the order of the graph's values. Right vertices are
        counted from 0 here.
    """

    n_left: int
    n_right: int
    left: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, graph: BipartiteGraph) -> Adjacency:
        """List the edges of a graph.

        Parameters
        ----------
        graph : BipartiteGraph

        Returns
        -------
        Adjacency
        """
        room = np.empty(graph.edges + SPARE, dtype=np.int32)
        list_bits(graph.bits, room)
        left = room[: graph.edges]
        right = np.repeat(np.arange(graph.n_right, dtype=np.int32), graph.right_degree)
        if graph.groups > 1:
            left += right // (graph.n_right // graph.groups) * graph.block_left
        return cls(graph.n_left, graph.n_right, left, right)

    @property
    def edges(self) -> int:
        """Edges."""
        return int(self.left.size)

    @cached_property
    def left_degree(self) -> np.ndarray:
        """Edges at each left vertex, int64."""
        return np.bincount(self.left, minlength=self.n_left)

    @cached_property
    def right_degree(self) -> np.ndarray:
        """Edges at each right vertex, int64."""
        return np.bincount(self.right, minlength=self.n_right)

    @cached_property
    def row_starts(self) -> np.ndarray:
        """Where the edges of each right vertex begin, and the end of the last."""
        return np.concatenate([[0], np.cumsum(self.right_degree)])

    @cached_property
    def columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Edges by left vertex: where each list begins, its right vertices, and the place of each edge in row order."""
        starts = np.concatenate([[0], np.cumsum(self.left_degree)])
        index, edge = np.empty(self.edges, dtype=np.int32), np.empty(self.edges, dtype=np.int32)
        _by_column(starts, self.right, self.left, index, edge)
        return starts, index, edge

    @cached_property
    def lists(self) -> tuple[np.ndarray, np.ndarray]:
        """Neighbours in one numbering: where the list of each vertex begins, and the lists, left vertices first."""
        starts, index, _ = self.columns
        return np.concatenate([starts, self.edges + self.row_starts[1:]]), np.concatenate(
            [index + np.int32(self.n_left), self.left]
        )

    def keep(self, edges: np.ndarray) -> Adjacency:
        """Return the graph with only some of its edges, all vertices kept.

        Parameters
        ----------
        edges : ndarray of bool, shape (edges,)

        Returns
        -------
        Adjacency
        """
        return Adjacency(self.n_left, self.n_right, self.left[edges], self.right[edges])

    @cached_property
    def components(self) -> tuple[int, np.ndarray]:
        """Number of connected components that have an edge, and the component of each edge."""
        if self.edges == 0:
            return 0, np.empty(0, dtype=np.int64)
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        n = self.n_left + self.n_right
        ones = np.ones(self.edges, dtype=np.int8)
        matrix = coo_array((ones, (self.left, self.right + np.int32(self.n_left))), shape=(n, n)).tocsr()
        label = connected_components(matrix, directed=False)[1]
        found, compact = np.unique(label[self.left], return_inverse=True)
        return len(found), compact
