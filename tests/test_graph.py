"""A mask as a graph: degrees, blocks, layouts, exports."""

import math

import networkx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networkx.algorithms import bipartite

from sift_graph.errors import MaskError, UsageError
from sift_graph.graph import SMALL, BipartiteGraph
from sift_graph.masks import LayerMask


def graph_of(mask, weight=None, **options):
    return BipartiteGraph.from_mask(LayerMask.from_dense("layer", mask, weight, **options))


@st.composite
def masks(draw):
    shape = draw(st.sampled_from([(1, 1), (3, 5), (8, 8), (4, 3, 2), (6, 5, 3, 3), (2, 64, 3, 3), (5, 130)]))
    seed, density = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([0.0, 0.05, 0.5, 1.0]))
    return np.random.default_rng(seed).random(shape) < density


@given(masks())
def test_degrees_and_exports_are_those_of_the_matrix(mask):
    weight = np.random.default_rng(0).standard_normal(mask.shape)
    graph = graph_of(mask, weight)
    matrix = mask.reshape(len(mask), -1)
    assert (graph.n_left, graph.n_right, graph.edges) == (matrix.shape[1], matrix.shape[0], matrix.sum())
    assert np.array_equal(graph.right_degree, matrix.sum(1))
    assert np.array_equal(graph.left_degree, matrix.sum(0))
    assert np.array_equal(graph.to_csr().toarray(), matrix.T)
    flat = (weight * mask).reshape(len(mask), -1)
    assert np.array_equal(graph.to_csr(weighted=True).toarray(), flat.T)
    turned = graph.transpose()
    assert np.array_equal(turned.to_csr().toarray(), matrix)
    assert np.array_equal(turned.to_csr(weighted=True).toarray(), flat)
    assert graph.density == pytest.approx(mask.mean())


@given(masks())
def test_networkx_agrees_on_degrees_and_components(mask):
    graph = graph_of(mask)
    theirs = graph.to_networkx()
    assert theirs.number_of_nodes() == graph.n_left + graph.n_right
    assert [d for _, d in theirs.degree(("left", i) for i in range(graph.n_left))] == graph.left_degree.tolist()
    assert [d for _, d in theirs.degree(("right", i) for i in range(graph.n_right))] == graph.right_degree.tolist()
    assert bipartite.is_bipartite(theirs)
    count, left, right = graph.components
    assert count == sum(len(c) > 1 for c in networkx.connected_components(theirs))
    assert (left == -1).sum() == graph.n_left_isolated
    assert (right == -1).sum() == graph.n_right_isolated


@pytest.mark.parametrize("shape", [(3, 5), (700, 77), (300, 41, 3, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_not_zero_is_an_edge_where_no_mask_is_known(shape, dtype):
    rng = np.random.default_rng(1)
    weight = (rng.standard_normal(shape) * (rng.random(shape) < 0.2)).astype(dtype)
    weight[0].flat[0] = np.nan
    graph = BipartiteGraph.from_nonzero("layer", weight)
    expected = graph_of(weight != 0)
    assert np.array_equal(graph.bits, expected.bits)
    assert (graph.n_left, graph.n_right, graph.values) == (expected.n_left, expected.n_right, None)
    with pytest.raises(MaskError, match=r"two or more axes.*biases and norms have no graph"):
        BipartiteGraph.from_nonzero("layer", weight.reshape(-1))


@pytest.mark.parametrize("groups", [1, 4])
def test_large_layers_take_the_packed_way_and_agree(groups):
    rng = np.random.default_rng(groups)
    mask = rng.random((400, 1001)) < 0.002
    weight = rng.standard_normal(mask.shape)
    graph = graph_of(mask, weight, groups=groups)
    assert graph.bits.nbytes > SMALL
    right, left = graph.edge_list()
    assert np.array_equal(graph.left_degree, np.bincount(left, minlength=graph.n_left))
    turned = graph.transpose()
    assert np.array_equal(turned.bits, pack_of(turned))
    assert np.array_equal(turned.to_csr(weighted=True).toarray(), graph.to_csr(weighted=True).toarray().T)
    count, left_label, right_label = graph.components
    theirs = list(networkx.connected_components(graph.to_networkx()))
    assert count == sum(len(part) > 1 for part in theirs)
    assert np.array_equal(left_label[left], right_label[right])
    assert len(set(left_label[left])) == count


def pack_of(graph):
    dense = graph.dense_rows(0, graph.n_right)
    return graph_of(dense.astype(bool), groups=graph.groups).bits


def test_a_grouped_convolution_is_block_diagonal():
    rng = np.random.default_rng(3)
    mask = rng.random((6, 2, 3, 3)) < 0.5
    weight = rng.standard_normal(mask.shape)
    graph = graph_of(mask, weight, groups=3)
    expected = np.zeros((54, 6))
    for group in range(3):
        rows = slice(2 * group, 2 * group + 2)
        expected[18 * group : 18 * group + 18, rows] = (weight * mask)[rows].reshape(2, -1).T
    assert (graph.n_left, graph.n_right) == (54, 6)
    assert np.array_equal(graph.to_csr(weighted=True).toarray(), expected)
    assert np.array_equal(graph.left_degree, (expected != 0).sum(1))
    assert np.array_equal(graph.transpose().to_csr(weighted=True).toarray(), expected.T)
    assert np.array_equal(graph.block(1).to_csr(weighted=True).toarray(), expected[18:36, 2:4])
    assert graph.density == pytest.approx(mask.mean())


def test_a_depthwise_layer_is_one_star_a_channel():
    graph = graph_of(np.ones((5, 1, 3, 3), dtype=bool), groups=5)
    assert graph.components[0] == 5
    assert set(graph.left_degree) == {1}
    assert set(graph.right_degree) == {9}


@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_the_two_layouts_are_one_graph_up_to_the_order_of_inputs(kernel):
    rng = np.random.default_rng(4)
    io = rng.random((*kernel, 5, 7)) < 0.4
    weight = rng.standard_normal(io.shape)
    oi = np.moveaxis(io, (-1, -2), (0, 1))
    there = graph_of(io, weight, layout="io")
    here = graph_of(oi, np.moveaxis(weight, (-1, -2), (0, 1)))
    assert np.array_equal(there.right_degree, here.right_degree)
    assert sorted(there.left_degree) == sorted(here.left_degree)
    columns = [there.to_csr(weighted=True).toarray(), here.to_csr(weighted=True).toarray()]
    assert np.array_equal(*(c[np.lexsort(c.T)] for c in columns))


def test_a_newborn_weight_of_zero_is_an_edge():
    mask = np.array([[1, 1], [0, 1]], dtype=bool)
    graph = graph_of(mask, np.array([[0.0, 2.0], [5.0, 1.0]]))
    assert graph.edges == 3
    assert graph.values.tolist() == [0.0, 2.0, 1.0]


def test_means_leave_isolated_vertices_out():
    mask = np.zeros((4, 6), dtype=bool)
    mask[:2, :3] = True
    graph = graph_of(mask)
    assert (graph.n_left_isolated, graph.n_right_isolated) == (3, 2)
    assert (graph.mean_left_degree, graph.mean_right_degree) == (2, 3)
    empty = graph_of(np.zeros((4, 6), dtype=bool))
    assert math.isnan(empty.mean_left_degree)
    assert math.isnan(empty.mean_right_degree)
    assert empty.components[0] == 0


def test_a_graph_too_large_for_networkx_says_what_to_do():
    with pytest.raises(UsageError, match=r"has 4 edges, more than max_edges=3.*to_csr"):
        graph_of(np.ones((2, 2), dtype=bool)).to_networkx(max_edges=3)


def test_missing_weights_are_named():
    with pytest.raises(MaskError, match=r"'layer' has no weights; record them"):
        graph_of(np.ones((2, 2), dtype=bool)).to_csr(weighted=True)
    with pytest.raises(MaskError, match="expected 4 edge weights"):
        graph_of(np.ones((2, 2), dtype=bool)).with_values(np.ones(3))
