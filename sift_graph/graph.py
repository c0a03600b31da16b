"""One layer's mask as a bipartite graph: inputs left, outputs right.

A left vertex is one input channel at one kernel position, a right vertex one output channel (the ``kernel``
encoding). A grouped convolution is block-diagonal: the outputs of a group see the inputs of that group only, so its
blocks share no left vertex. The mask decides what is an edge, never ``weight != 0``: a freshly grown weight is an edge
that happens to be 0.0.

The biadjacency is kept as packed bits, one row per right vertex, 64 left vertices of its block a word, rows padded to
512 bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from sift_graph.errors import MaskError, UsageError
from sift_graph.masks import LayerMask

if TYPE_CHECKING:
    import networkx
    from scipy.sparse import csr_array

__all__ = ["BipartiteGraph"]

WORDS = 8  # 512 bits: a row starts on a cache line and has no ragged end
SMALL = 1 << 15  # bytes of packed mask up to which numpy is done before compiled code is loaded


@dataclass(frozen=True, eq=False)
class BipartiteGraph:
    """A layer's mask as a bipartite graph, with its weights if it has any.

    Attributes
    ----------
    layer : str
        Name of the layer.
    bits : ndarray of uint64, shape (n_right, words)
        Row r holds the neighbours of right vertex r among the left vertices of its block, least significant bit
        first; bits beyond `block_left` are 0.
    block_left : int
        Left vertices of one block; all of them where ``groups == 1``.
    groups : int
        Diagonal blocks, of ``n_right / groups`` by `block_left` each.
    values : ndarray of float64, shape (edges,), or None
        The weight of each edge, row after row of `bits`.

    Examples
    --------
    >>> fano = np.array([[(j - i) % 7 in (0, 1, 3) for i in range(7)] for j in range(7)])
    >>> graph = BipartiteGraph.from_mask(LayerMask.from_dense("fano", fano))
    >>> graph.n_left, graph.n_right, graph.edges, graph.mean_left_degree
    (7, 7, 21, 3.0)
    """

    layer: str
    bits: np.ndarray
    block_left: int
    groups: int = 1
    values: np.ndarray | None = None

    @classmethod
    def from_mask(cls, mask: LayerMask) -> BipartiteGraph:
        """Read the graph of a layer's mask.

        Parameters
        ----------
        mask : LayerMask

        Returns
        -------
        BipartiteGraph
            With ``n_left = in * prod(kernel)`` and ``n_right = out``.

        Raises
        ------
        MaskError
            If the weight's shape cannot be read in its layout.
        """
        if mask.layout == "oi":
            return cls._from_rows(
                mask.layer, mask.bits, mask.shape[0], mask.size // mask.shape[0], mask.groups, mask.values
            )
        dense = np.moveaxis(mask.mask, -1, 0)  # (out, *kernel, in)
        values = None
        if mask.weight is not None:
            values = np.ascontiguousarray(np.moveaxis(mask.weight, -1, 0))[np.ascontiguousarray(dense)]
        bits = np.packbits(np.ascontiguousarray(dense), axis=None, bitorder="little")
        return cls._from_rows(mask.layer, bits, mask.shape[-1], mask.size // mask.shape[-1], mask.groups, values)

    @classmethod
    def from_nonzero(cls, layer: str, weight: np.ndarray) -> BipartiteGraph:
        """Read the graph of a pruned weight, where no mask is known: whatever is not 0.0 is an edge.

        With a mask, use :meth:`from_mask`: a freshly grown weight is an edge that happens to be 0.0.

        Parameters
        ----------
        layer : str
        weight : ndarray of float32, shape (out, in, *kernel)
            A C-contiguous one is packed in one pass, without a copy.

        Returns
        -------
        BipartiteGraph
            Without values.

        Raises
        ------
        MaskError
            If the weight has fewer than two axes or is empty.
        """
        if weight.ndim < 2 or weight.size == 0:
            raise MaskError(
                f"layer {layer!r}: expected a weight of two or more axes, found shape {weight.shape}; biases and norms "
                "have no graph"
            )
        matrix = np.ascontiguousarray(weight).reshape(len(weight), -1)
        if matrix.nbytes <= 32 * SMALL or matrix.dtype != np.float32:
            bits = np.packbits(matrix != 0, axis=None, bitorder="little")
            return cls._from_rows(layer, bits, *matrix.shape, 1, None)
        from sift_graph.bits import pack_nonzero

        return cls(layer, pack_nonzero(matrix), matrix.shape[1])

    @classmethod
    def _from_rows(
        cls,
        layer: str,
        packed: np.ndarray,
        n_right: int,
        block_left: int,
        groups: int,
        values: np.ndarray | None,
    ) -> BipartiteGraph:
        if n_right % groups:
            raise MaskError(f"layer {layer!r}: {groups} groups do not divide its {n_right} outputs")
        width = (block_left + 7) // 8
        words = -(-block_left // (64 * WORDS)) * WORDS
        rows = np.zeros((n_right, words * 8), dtype=np.uint8)
        if block_left % 8 == 0:  # rows of whole bytes: the stored bits are the rows already
            rows[:, :width] = packed.reshape(n_right, width)
        elif packed.size > SMALL:
            from sift_graph.bits import pack_rows

            padded = np.concatenate([packed, np.zeros(16, dtype=np.uint8)])
            rows = pack_rows(padded, n_right, block_left).view(np.uint8)
        else:
            dense = np.unpackbits(packed, count=n_right * block_left, bitorder="little").reshape(n_right, block_left)
            rows[:, :width] = np.packbits(dense, axis=1, bitorder="little")
        doubles = None if values is None else np.asarray(values, dtype=np.float64)
        return cls(layer, rows.view(np.uint64), block_left, groups, doubles)

    @property
    def n_left(self) -> int:
        """Left vertices, isolated ones included."""
        return self.block_left * self.groups

    @property
    def n_right(self) -> int:
        """Right vertices, isolated ones included."""
        return int(self.bits.shape[0])

    @cached_property
    def right_degree(self) -> np.ndarray:
        """Edges at each right vertex, int64, shape (n_right,)."""
        if self.bits.nbytes <= SMALL:
            return np.asarray(np.bitwise_count(self.bits).sum(axis=1, dtype=np.int64))
        from sift_graph.bits import count_rows

        return count_rows(self.bits)

    @cached_property
    def left_degree(self) -> np.ndarray:
        """Edges at each left vertex, int64, shape (n_left,), block after block."""
        per_group = self.n_right // self.groups
        if self.bits.nbytes <= SMALL:
            dense = self.dense_rows(0, self.n_right).reshape(self.groups, per_group, self.block_left)
            counts: np.ndarray = dense.sum(axis=1, dtype=np.int64).reshape(-1)
            return counts
        from sift_graph.bits import count_columns

        blocks = (self.bits[group * per_group : (group + 1) * per_group] for group in range(self.groups))
        return np.concatenate([count_columns(block, self.block_left) for block in blocks])

    @cached_property
    def edges(self) -> int:
        """Edges, which is the number of kept weights."""
        return int(self.right_degree.sum())

    @property
    def density(self) -> float:
        """Edges over the entries of the weight (a grouped layer's blocks only)."""
        return self.edges / (self.block_left * self.n_right)

    @property
    def n_left_isolated(self) -> int:
        """Left vertices without an edge."""
        return int(np.count_nonzero(self.left_degree == 0))

    @property
    def n_right_isolated(self) -> int:
        """Right vertices without an edge."""
        return int(np.count_nonzero(self.right_degree == 0))

    @property
    def mean_left_degree(self) -> float:
        """Mean degree over left vertices that have an edge; NaN if none has."""
        active = self.n_left - self.n_left_isolated
        return self.edges / active if active else math.nan

    @property
    def mean_right_degree(self) -> float:
        """Mean degree over right vertices that have an edge; NaN if none has."""
        active = self.n_right - self.n_right_isolated
        return self.edges / active if active else math.nan

    def dense_rows(self, start: int, stop: int) -> np.ndarray:
        """Unpack right vertices `start` to `stop` over their block's left vertices, uint8."""
        packed = self.bits[start:stop].view(np.uint8)
        return np.unpackbits(packed, axis=1, count=self.block_left, bitorder="little")

    def block(self, group: int) -> BipartiteGraph:
        """One diagonal block as a graph of its own."""
        if self.groups == 1:
            return self
        per_group = self.n_right // self.groups
        rows = slice(group * per_group, (group + 1) * per_group)
        values = None
        if self.values is not None:
            ends = np.concatenate([[0], np.cumsum(self.right_degree)])
            values = self.values[ends[rows.start] : ends[rows.stop]]
        return BipartiteGraph(self.layer, self.bits[rows], self.block_left, 1, values)

    def with_values(self, values: np.ndarray | None) -> BipartiteGraph:
        """Return the same graph with other edge weights, row after row, or with none."""
        if values is not None and values.shape != (self.edges,):
            raise MaskError(f"layer {self.layer!r}: expected {self.edges} edge weights, found shape {values.shape}")
        return BipartiteGraph(self.layer, self.bits, self.block_left, self.groups, values)

    def edge_list(self) -> tuple[np.ndarray, np.ndarray]:
        """Right and left vertex of each edge, int64, row after row: the order of `values`."""
        right, left = [], []
        step = max(1, (1 << 24) // max(self.block_left, 1))
        per_group = self.n_right // self.groups
        for start in range(0, self.n_right, step):
            rows, columns = np.nonzero(self.dense_rows(start, min(start + step, self.n_right)))
            rows += start
            right.append(rows)
            left.append(columns + (rows // per_group) * self.block_left)
        return np.concatenate(right), np.concatenate(left)

    def transpose(self) -> BipartiteGraph:
        """Return the graph with its sides exchanged.

        Returns
        -------
        BipartiteGraph
            Left vertices are the right ones of this graph.
        """
        per_group = self.n_right // self.groups
        if self.bits.nbytes > SMALL:
            return self._transpose_packed()
        blocks, values = [], []
        for group in range(self.groups):
            block = self.block(group)
            dense = block.dense_rows(0, per_group)
            blocks.append(np.ascontiguousarray(dense.T))
            if block.values is not None:
                full = np.zeros(dense.shape, dtype=np.float64)
                full[dense.astype(bool)] = block.values
                values.append(full.T[blocks[-1].astype(bool)])
        rows = np.packbits(np.concatenate(blocks), axis=None, bitorder="little")
        joined = np.concatenate(values) if values else None
        return BipartiteGraph._from_rows(self.layer, rows, self.n_left, per_group, self.groups, joined)

    def _transpose_packed(self) -> BipartiteGraph:
        from sift_graph.bits import list_bits, order_by_column, transpose_bits

        blocks, values = [], []
        for group in range(self.groups):
            block = self.block(group)
            blocks.append(transpose_bits(block.bits, self.block_left))
            if block.values is not None:
                place = np.concatenate([[0], np.cumsum(block.right_degree)[:-1]])
                index, turned = np.empty(block.edges + 8, dtype=np.int32), np.empty(block.edges)
                list_bits(blocks[-1], index)
                order_by_column(index[: block.edges], place, block.values, turned)
                values.append(turned)
        joined = np.concatenate(values) if values else None
        per_group = self.n_right // self.groups
        bits = blocks[0] if self.groups == 1 else np.concatenate(blocks)
        return BipartiteGraph(self.layer, bits, per_group, self.groups, joined)

    def to_csr(self, *, weighted: bool = False) -> csr_array:
        """Export the biadjacency, left by right.

        Parameters
        ----------
        weighted : bool
            Put the edge weights instead of ones.

        Returns
        -------
        scipy.sparse.csr_array of float64, shape (n_left, n_right)
            An edge of weight 0.0 keeps its place.

        Raises
        ------
        MaskError
            If weights are asked for and there are none.
        """
        from scipy.sparse import coo_array

        if weighted and self.values is None:
            raise MaskError(f"layer {self.layer!r} has no weights; record them with weights='fp32'")
        right, left = self.edge_list()
        data = self.values if weighted and self.values is not None else np.ones(self.edges)
        return coo_array((data, (left, right)), shape=(self.n_left, self.n_right)).tocsr()

    def to_networkx(self, *, max_edges: int = 200_000) -> networkx.Graph[Any]:
        """Export to networkx, with the bipartite side as node attribute ``bipartite`` (0 left, 1 right).

        Parameters
        ----------
        max_edges : int
            Refuse larger graphs: networkx needs about a kilobyte an edge.

        Returns
        -------
        networkx.Graph
            Nodes ``("left", i)`` and ``("right", j)``, isolated ones included; edges carry ``weight`` where known.

        Raises
        ------
        UsageError
            If the graph has more edges than `max_edges`.
        """
        import networkx

        if self.edges > max_edges:
            raise UsageError(
                f"layer {self.layer!r} has {self.edges} edges, more than max_edges={max_edges}; raise max_edges "
                "if you have the memory, or use to_csr()"
            )
        graph: networkx.Graph[Any] = networkx.Graph(layer=self.layer)
        graph.add_nodes_from((("left", i) for i in range(self.n_left)), bipartite=0)
        graph.add_nodes_from((("right", j) for j in range(self.n_right)), bipartite=1)
        right, left = self.edge_list()
        pairs = ((("left", int(i)), ("right", int(j))) for i, j in zip(left, right, strict=True))
        if self.values is None:
            graph.add_edges_from(pairs)
        else:
            graph.add_weighted_edges_from((u, v, float(w)) for (u, v), w in zip(pairs, self.values, strict=True))
        return graph

    @cached_property
    def components(self) -> tuple[int, np.ndarray, np.ndarray]:
        """Number of connected components among vertices with an edge, and the label of each left and right vertex.

        Isolated vertices get the label -1.
        """
        labels = self._labels()
        active = np.concatenate([self.left_degree, self.right_degree]) > 0
        _, compact = np.unique(labels[active], return_inverse=True)
        full = np.full(labels.size, -1, dtype=np.int64)
        full[active] = compact
        count = int(compact.max()) + 1 if compact.size else 0
        return count, full[: self.n_left], full[self.n_left :]

    def _labels(self) -> np.ndarray:
        """Give a number to each left, then each right vertex, equal within a component."""
        n = self.n_left + self.n_right
        if self.bits.nbytes <= SMALL:
            from scipy.sparse import csr_array
            from scipy.sparse.csgraph import connected_components

            right, left = self.edge_list()
            adjacency = csr_array((np.ones(self.edges, dtype=np.int8), (left, right + self.n_left)), shape=(n, n))
            labels: np.ndarray = connected_components(adjacency, directed=False)[1]
            return labels
        from sift_graph.components import join_components

        found = np.empty(n, dtype=np.int64)
        per_group = self.n_right // self.groups
        for group in range(self.groups):
            columns = slice(group * self.block_left, (group + 1) * self.block_left)
            rows = slice(self.n_left + group * per_group, self.n_left + (group + 1) * per_group)
            joined = join_components(self.bits[group * per_group : (group + 1) * per_group], self.block_left)
            alone = n + group  # all in one component: any number no other block uses
            found[columns] = alone if joined is None else joined[: self.block_left] + columns.start
            found[rows] = alone if joined is None else joined[self.block_left :] + columns.start
        return found
