"""The network graph: traced, guessed, written; and what is measured on it, against networkx and by hand."""

import json
import math

import networkx
import numpy as np
import pytest
from scipy.sparse import csr_array

from sift_graph import table
from sift_graph.errors import DamagedStoreError
from sift_graph.masks import LayerMask, Snapshot
from sift_graph.metrics import NETWORK_METRICS, evaluate
from sift_graph.metrics.connectivity import effective_paths_log10, path_matrix, synflow_scores
from sift_graph.metrics.cross_layer import cross_layer_pairs
from sift_graph.metrics.multipartite import Multipartite, multipartite
from sift_graph.metrics.network import Network
from sift_graph.metrics.topometrics import motifs_of_four
from sift_graph.network_graph import NetworkGraph, Space, from_runs, infer_graph, to_runs
from sift_graph.network_work import load_network
from sift_graph.store import RunReader, RunWriter
from sift_graph.walks import count_triangles, count_within_two, has_odd_cycle

RESIDUAL = {"stem": (6, 3, 3, 3), "a": (8, 6, 3, 3), "b": (8, 8, 3, 3), "short": (8, 6, 1, 1), "fc": (5, 8)}


def chain(masks, weights=None):
    """A network of linear layers one after the other."""
    layers = {
        f"l{i}": LayerMask.from_dense(f"l{i}", mask, None if weights is None else weights[i])
        for i, mask in enumerate(masks)
    }
    return Network(infer_graph(entries_of({n: m.shape for n, m in layers.items()})), layers)


def entries_of(shapes, groups=()):
    return [{"name": n, "shape": list(s), "groups": dict(groups).get(n, 1)} for n, s in shapes.items()]


def random_network(shapes=RESIDUAL, density=0.25, seed=0, groups=()):
    rng = np.random.default_rng(seed)
    layers = {
        name: LayerMask.from_dense(
            name, rng.random(shape) < density, rng.standard_normal(shape), groups=dict(groups).get(name, 1)
        )
        for name, shape in shapes.items()
    }
    return Network(infer_graph(entries_of(shapes, groups)), layers)


def measure(network, *names):
    values = evaluate(network, [NETWORK_METRICS[name] for name in names or NETWORK_METRICS])
    return values if len(names) != 1 else values[names[0]]


def as_networkx(network):
    """The channels of a network as a directed graph with parallel edges, edge by edge."""
    graph = networkx.MultiDiGraph()
    graph.add_nodes_from(range(network.graph.size))
    for space in network.graph.spaces:
        if space.kind == "sum":
            for source in space.sources:
                graph.add_edges_from((int(c), space.first + i, {"layer": ""}) for i, c in enumerate(source))
        elif space.kind == "layer":
            mask = network.masks[space.layer].mask.reshape(space.shape[0], space.shape[1], -1)
            inner, per = space.shape[1], space.size // space.groups
            for o, c, _ in np.argwhere(mask):
                source = int(space.sources[0][(o // per) * inner + c])
                graph.add_edge(source, space.first + int(o), layer=space.layer)
    return graph


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("density", [0.05, 0.3])
def test_dead_neurons_are_those_that_networkx_does_not_reach(seed, density):
    network = random_network(density=density, seed=seed)
    graph = as_networkx(network)
    inputs, outputs = network.graph.spaces[0].channels.tolist(), network.graph.outputs.tolist()
    reached = set(inputs).union(*(networkx.descendants(graph, i) for i in inputs))
    used = set(outputs).union(*(networkx.ancestors(graph, o) for o in outputs))
    neurons = set(network.neurons().tolist())
    values = measure(network)
    assert values["dead_neurons"] == len(neurons - (reached & used))
    assert values["effective_nodes"] == len((neurons | set(inputs)) & reached & used)
    edges = [(u, v) for u, v, layer in graph.edges(data="layer") if layer]
    kept = sum(u in reached and v in used for u, v in edges)
    assert values["effective_edges"] == kept
    assert values["removable_in"] == sum(u not in reached for u, _ in edges)
    assert values["removable_out"] == sum(v not in used for _, v in edges)
    entries = sum(m.size for m in network.masks.values())
    assert values["effective_sparsity"] == pytest.approx(1 - kept / entries)
    if kept:
        assert values["effective_compression"] == pytest.approx(entries / kept)


def test_removing_dead_ends_until_none_is_left_leaves_the_living():
    network = random_network(density=0.06, seed=3)
    graph = as_networkx(network)
    inputs, outputs = set(network.graph.spaces[0].channels.tolist()), set(network.graph.outputs.tolist())
    while True:
        dead = [v for v in graph if (graph.in_degree(v) == 0 and v not in inputs) or (graph.out_degree(v) == 0 and v not in outputs)]  # fmt: skip  # noqa: E501
        if not dead:
            break
        graph.remove_nodes_from(dead)
    assert 0 < len(graph) < network.graph.size
    assert set(np.flatnonzero(network.alive).tolist()) == set(graph)


@pytest.mark.parametrize("seed", range(3))
def test_paths_are_counted_one_by_one(seed):
    network = random_network(
        {"a": (4, 3, 2, 2), "b": (5, 4, 1, 1), "c": (5, 3, 1, 1), "d": (2, 5)}, seed=seed, density=0.4
    )
    graph = as_networkx(network)
    inputs, outputs = network.graph.spaces[0].channels, network.graph.outputs
    order = list(networkx.topological_sort(graph))
    counts = np.zeros((len(outputs), len(inputs)))
    for i, start in enumerate(inputs):
        paths = dict.fromkeys(graph, 0)
        paths[int(start)] = 1
        for u in order:
            for _, v in graph.out_edges(u):
                paths[v] += paths[u]
        counts[:, i] = [paths[int(o)] for o in outputs]
    assert path_matrix(network) == pytest.approx(counts)
    values = measure(network)
    assert values["effective_paths_log10"] == pytest.approx(math.log10(counts.sum()))
    assert values["reachability"] == pytest.approx((counts > 0).mean())
    assert values["path_uniformity"] == pytest.approx(counts.std() / counts.mean())


def radix_net(radices):
    """Masks of the RadiX-Net of these radices."""
    size, step, masks = math.prod(radices), 1, []
    for radix in radices:
        mask = np.zeros((size, size), dtype=bool)
        for j in range(radix):
            mask[(np.arange(size) + j * step) % size, np.arange(size)] = True
        masks.append(mask)
        step *= radix
    return masks


def test_a_radix_net_has_one_path_for_each_pair_and_no_gap():
    masks = radix_net((2, 3, 4))
    values = measure(chain(masks))
    assert values["path_uniformity"] == 0
    assert values["reachability"] == 1
    assert values["effective_paths_log10"] == pytest.approx(math.log10(24 * 24))
    sigma = [np.linalg.svd(m.astype(float), compute_uv=False)[1] for m in masks]
    assert sigma == pytest.approx([1.9829, 3, 4], abs=1e-4)


def test_a_dense_network_is_all_alive():
    shapes = [(7, 5), (6, 7), (4, 6)]
    weights = [np.full(s, 0.5) for s in shapes]
    values = measure(chain([np.ones(s, dtype=bool) for s in shapes], weights))
    assert values["effective_paths_log10"] == pytest.approx(math.log10(5 * 7 * 6 * 4))
    assert values["synflow_log10"] == pytest.approx(math.log10(5 * 7 * 6 * 4 * 0.5**3))
    assert (values["dead_neurons"], values["effective_nodes"], values["removable_share"]) == (0, 22, 0)
    assert [values[f"mean_{n}"] for n in ("copeland", "compatibility", "channel_overlap")] == pytest.approx([1, 1, 1])


def test_paths_of_a_deep_network_do_not_overflow():
    masks = [np.ones((100, 100), dtype=bool)] * 200
    assert effective_paths_log10(chain(masks)) == pytest.approx(2 * 201)
    y, power = chain(masks).backward(lambda space: np.ones((1, 100, 100)))
    assert math.log10(y[0]) + power == pytest.approx(400)


def test_synflow_scores_are_conserved():
    rng = np.random.default_rng(0)
    shapes = [(8, 5), (6, 8), (4, 6)]
    network = chain([rng.random(s) < 0.5 for s in shapes], [rng.standard_normal(s) for s in shapes])
    assert list(synflow_scores(network).values()) == pytest.approx([1, 1, 1])
    product = np.eye(5)
    for mask in network.masks.values():
        product = np.abs(mask.weight) @ product
    assert 10 ** measure(network, "synflow_log10") == pytest.approx(product.sum())
    residual = synflow_scores(random_network(density=0.6))
    assert residual["stem"] == pytest.approx(1)
    assert residual["fc"] == pytest.approx(1)
    assert residual["b"] + residual["short"] == pytest.approx(1)
    assert residual["a"] == pytest.approx(residual["b"])


def test_what_no_path_leaves_is_undefined_with_a_word():
    values = measure(chain([np.eye(3, 4, dtype=bool), np.zeros((2, 3), dtype=bool)]))
    assert math.isnan(values["effective_paths_log10"])
    assert math.isnan(values["effective_compression"])
    assert values["effective_sparsity"] == 1
    assert values["dead_neurons"] == 5
    assert {"no_path", "no_weights"} <= set(values["note"].split(","))
    nothing = Network(infer_graph([]), {})
    assert "no_graph" in measure(nothing)["note"].split(",")


@pytest.mark.parametrize("seed", range(3))
def test_topometrics_are_those_of_networkx(seed):
    network = random_network(seed=seed, density=0.08)
    values = measure(network)
    directed = networkx.DiGraph(as_networkx(network))
    graph = directed.to_undirected()
    inputs, outputs = set(network.graph.spaces[0].channels.tolist()), set(network.graph.outputs.tolist())
    into, out = dict(directed.in_degree()), dict(directed.out_degree())
    sinks = [v for v in directed if out[v] == 0 and into[v] and v not in outputs]
    sources = [v for v in directed if into[v] == 0 and out[v] and v not in inputs]
    assert values["network_nodes"] == len(graph)
    assert values["network_edges"] == graph.number_of_edges()
    assert values["network_sinks"] == len(sinks)
    assert values["network_sources"] == len(sources)
    assert values["network_disconnected"] == sum(into[v] + out[v] == 0 for v in directed)
    assert values["network_removable_in"] == sum(out[v] for v in sources)
    assert values["network_removable_out"] == sum(into[v] for v in sinks)
    hops = [len(networkx.single_source_shortest_path_length(directed, v, 2)) for v in directed]
    assert values["network_hop_2"] == pytest.approx(np.mean(hops))
    assert values["network_hop_1"] == pytest.approx(1 + directed.number_of_edges() / len(directed))
    assert values["network_core"] == pytest.approx(np.mean(list(networkx.core_number(graph).values())))
    assert values["network_cut_edges"] == len(list(networkx.bridges(graph)))
    assert values["network_cut_nodes"] == len(list(networkx.articulation_points(graph)))
    assert values["network_components"] == networkx.number_connected_components(graph)
    assert values["mge_mean_components"] == 1 / values["network_components"]
    largest = max(map(len, networkx.connected_components(graph)))
    assert values["network_largest_component"] == largest / len(graph)
    assert values["network_is_bipartite"] == ("yes" if networkx.is_bipartite(graph) else "no")
    triples = sum(math.comb(d, 3) for _, d in graph.degree)
    paths = sum((graph.degree[u] - 1) * (graph.degree[v] - 1) for u, v in graph.edges)
    paths -= sum(networkx.triangles(graph).values())
    assert values["network_trees_4"] == triples + paths
    assert values["network_motifs_4"] == connected_quadruples(graph)


def connected_quadruples(graph):
    """Sets of four vertices that hang together: each is an edge with two more vertices."""
    near = {v: set(graph[v]) for v in graph}
    found = set()
    for u, v in graph.edges:
        for w in (near[u] | near[v]) - {u, v}:
            found |= {frozenset((u, v, w, x)) for x in (near[u] | near[v] | near[w]) - {u, v, w}}
    return len(found)


@pytest.mark.parametrize(("vertices", "density"), [(12, 0.3), (14, 0.9), (70, 0.15), (8, 1.0)])
def test_motifs_are_counted_once_however_dense_they_are(vertices, density):
    up = np.triu(np.random.default_rng(vertices).random((vertices, vertices)) < density, 1).astype(float)
    graph = Multipartite(csr_array(up), np.zeros(0, int), np.zeros(0, int), weighted=False, first=0, last=0)
    assert motifs_of_four(graph) == connected_quadruples(networkx.from_numpy_array(up + up.T))


def test_the_spectra_of_the_whole_network():
    network = random_network(density=0.3)
    values = measure(network)
    matrix = np.zeros((network.graph.size, network.graph.size))
    for space in network.graph.spaces:
        if space.kind == "sum":
            for source in space.sources:
                matrix[source, space.channels] = 1
        elif space.kind == "layer":
            weight = network.masks[space.layer].weight.reshape(*space.shape[:2], -1)
            matrix[np.ix_(space.sources[0], space.channels)] = np.sqrt((weight**2).sum(2)).T
    both = matrix + matrix.T
    eigenvalues = np.linalg.eigvalsh(both)[::-1]
    assert values["network_spectral_gap"] == pytest.approx(eigenvalues[0] - eigenvalues[1])
    assert values["network_strength"] == pytest.approx(both.sum() / len(both))
    degree = np.diag(both.sum(0))
    assert values["network_spectral_radius"] == pytest.approx(np.linalg.eigvalsh(degree - both)[-1])
    half = both.astype(np.float16).astype(float)
    absolute = np.sort(np.abs(np.linalg.eigvalsh(half)))[::-1]
    assert values["mge_network_gap"] == pytest.approx(absolute[0] - absolute[2])
    assert values["mge_network_radius"] == pytest.approx(np.linalg.eigvalsh(np.diag(half.sum(0)) - half)[-1])


def test_eigenvalues_of_large_matrices_count_repeated_ones():
    from scipy.sparse import block_diag, csr_array

    from sift_graph.spectrum.largest import largest_eigenvalues

    rng = np.random.default_rng(0)
    half = csr_array(np.triu(rng.random((150, 150)) * (rng.random((150, 150)) < 0.1)))
    one = half + half.T
    twice = csr_array(block_diag([one, one]))
    exact = np.linalg.eigvalsh(one.toarray())[::-1]
    assert largest_eigenvalues(twice, 3) == pytest.approx([exact[0], exact[0], exact[1]], rel=1e-7)
    assert largest_eigenvalues(-twice, 1) == pytest.approx([-exact[-1]], rel=1e-7)


def test_faults_of_the_published_code_bear_its_name():
    masks = [np.ones((4, 3), dtype=bool), np.ones((2, 4), dtype=bool)]
    masks[0][3] = False  # neuron 3 has no input
    masks[1][:, 0] = False  # neuron 0 has no output
    values = measure(chain(masks))
    assert (values["network_sources"], values["network_sinks"]) == (1, 1)
    assert (values["network_removable_in"], values["network_removable_out"]) == (2, 3)
    assert (values["mge_sources"], values["mge_sinks"]) == (1, 1)
    assert values["mge_removable_out"] == 3
    masks[0][0], masks[1][:, 0] = False, True  # the first hidden neuron is now a source: passed over
    values = measure(chain(masks))
    assert values["network_removable_in"] == 4
    assert values["mge_removable_in"] == 2


def test_cross_layer_measures_by_hand():
    rng = np.random.default_rng(1)
    network = random_network({"a": (5, 4, 1, 1), "b": (6, 5, 1, 3)}, density=0.6)
    first, second = network.masks["a"].mask.reshape(5, 4), network.masks["b"].mask.reshape(6, 5, 3)
    first[2] = rng.random(4) < 2
    fan_in, fan_out = first.sum(1), second.sum(0)
    left, right = first.any(0).sum(), second.any((1, 2)).sum()
    ratios = [
        fan_out[c, j] / right / (fan_in[c] / left)
        for c in range(5)
        if network.masks["a"].mask[c].any()
        for j in range(3)
    ]
    (row,) = cross_layer_pairs(
        Network(network.graph, {**network.masks, "a": LayerMask.from_dense("a", first[:, :, None, None])})
    )
    assert (row["layer"], row["reader"]) == ("a", "b")
    assert row["copeland"] == pytest.approx(np.mean(ratios))
    assert row["compatibility"] == np.mean([fan_out[c].any() for c in range(5) if fan_in[c]])
    overlaps = [second[:, c].all(1).sum() / second[:, c].sum(0).min() for c in range(5) if second[:, c].sum(0).min()]
    assert row["channel_overlap"] == pytest.approx(np.mean(overlaps))


def test_a_reader_of_a_sum_is_paired_with_both_addends():
    pairs = {(row["layer"], row["reader"]) for row in cross_layer_pairs(random_network())}
    assert pairs == {("stem", "a"), ("a", "b"), ("stem", "short"), ("b", "fc"), ("short", "fc")}


def test_guessing_from_shapes():
    graph = infer_graph(entries_of({**RESIDUAL, "odd": (3, 11)}))
    assert graph.origin == "inferred"
    assert graph.layers == list(RESIDUAL)
    assert "reads 11 channels" in graph.unplaced["odd"]
    flat = infer_graph(entries_of({"conv": (4, 1, 3, 3), "fc": (2, 36)}))
    assert flat.spaces[-1].sources[0].tolist() == np.repeat(np.arange(1, 5), 9).tolist()
    branches = infer_graph(entries_of({"x.branches.0": (4, 3), "x.branches.1": (4, 3), "fc": (2, 4)}))
    assert [s.kind for s in branches.spaces] == ["input", "layer", "layer", "sum", "layer"]
    attention = infer_graph(
        entries_of({"stem": (4, 3), **{f"a.{n}": (4, 4) for n in ("query", "key", "value", "output")}})
    )
    by_name = {s.layer: s for s in attention.spaces}
    assert [by_name[f"a.{n}"].sources[0].tolist() for n in ("query", "key", "value")] == [[3, 4, 5, 6]] * 3
    assert by_name["a.output"].sources[0].tolist() == by_name["a.value"].channels.tolist()
    assert set(by_name["a.key"].channels) <= set(attention.gates)
    fused = infer_graph(entries_of({"a.in_proj_weight": (12, 4), "a.out_proj": (4, 4)}))
    assert fused.spaces[-1].sources[0].tolist() == fused.spaces[1].channels[8:].tolist()
    doped = infer_graph(entries_of({"d.sparse": (4, 4), "d.u": (2, 4), "d.v": (4, 2), "fc": (3, 4)}))
    assert [s.layer or s.kind for s in doped.spaces] == ["input", "d.sparse", "d.u", "d.v", "sum", "fc"]
    assert doped.spaces[2].sources[0].tolist() == [0, 1, 2, 3]
    square = infer_graph(entries_of({"f.u": (4, 4), "f.v": (4, 4)}))
    assert square.spaces[-1].sources[0].tolist() == square.spaces[1].channels.tolist()
    depthwise = infer_graph(entries_of({"dw": (4, 1, 3, 3), "pw": (6, 4, 1, 1)}, {"dw": 4}))
    assert depthwise.layers == ["dw", "pw"]
    assert not depthwise.unplaced


def test_grouped_layers_read_their_own_group():
    network = random_network({"g": (6, 2, 1, 1), "fc": (3, 6)}, groups={"g": 3}, density=1.1)
    assert measure(network, "effective_paths_log10") == pytest.approx(math.log10(6 * 2 * 3))
    one = path_matrix(network)
    assert one.tolist() == [[2.0] * 6] * 3


@pytest.mark.parametrize("runs", [[], [[3, 4, 1]], [[5, 3, 9], [0, 2, 1]], [[-1, 1, 4], [7, 2, 2]]])
def test_runs_of_channels(runs):
    channels = from_runs(runs)
    assert to_runs(channels) == runs
    shuffled = np.random.default_rng(0).permutation(np.arange(50))
    assert np.array_equal(from_runs(to_runs(shuffled)), shuffled)


def test_a_graph_survives_the_file_and_damage_is_named():
    graph = random_network().graph
    record = json.loads(json.dumps(graph.record()))
    assert NetworkGraph.from_record(record).record() == record
    for harm in ({"layers": 3}, {"outputs": [[9999, 1, 1]]}, {"inputs": []}, {"sums": [{"first": 0}]}):
        with pytest.raises(DamagedStoreError, match=r"here: its graph cannot be read .*remove the key 'graph'"):
            NetworkGraph.from_record({**record, **harm}, where="here")
    short = json.loads(json.dumps(record))
    short["layers"][1]["reads"][0][1] -= 1
    with pytest.raises(DamagedStoreError, match="reads other than 6 channels"):
        NetworkGraph.from_record(short)


def test_network_columns_of_a_table(tmp_path):
    writer = RunWriter(tmp_path / "run")
    networks = [random_network(seed=s) for s in (0, 1)]
    for step, network in enumerate(networks):
        writer.write_snapshot(Snapshot(step, dict(network.masks)), weights="fp32")
    found = table.analyze_runs(
        tmp_path / "run", metrics="dead_neurons,effective_paths_log10,mean_copeland,network_cut_edges"
    )
    frame = found.network
    for step, network in enumerate(networks):
        assert frame["dead_neurons"][step] == measure(network, "dead_neurons")
        assert frame["effective_paths_log10"][step] == pytest.approx(measure(network, "effective_paths_log10"))
        assert frame["mean_copeland"][step] == pytest.approx(measure(network, "mean_copeland"))
    assert len(found.pairs) == 10
    paths = table.write_tables(found, tmp_path / "out")
    assert paths[-1].name == "pairs.csv"
    again = table.analyze_runs(
        tmp_path / "run", metrics="dead_neurons,effective_paths_log10,mean_copeland,network_cut_edges"
    )
    assert again.network["effective_paths_log10"].tolist() == frame["effective_paths_log10"].tolist()
    core = table.analyze_runs(tmp_path / "run")
    assert not set(NETWORK_METRICS) & set(core.network)
    assert load_network(RunReader(tmp_path / "run"), 1).graph.origin == "inferred"


def test_a_recorded_graph_that_is_damaged_fails_the_step_and_no_layer(tmp_path):
    writer = RunWriter(tmp_path / "run")
    writer.write_snapshot(Snapshot(0, dict(random_network().masks)))
    writer.write_graph({"layers": "nonsense"})
    found = table.analyze_runs(tmp_path / "run", metrics="dead_neurons")
    assert len(found.layers) == len(RESIDUAL)
    assert math.isnan(found.network["dead_neurons"][0])
    (failure,) = found.failures
    assert "its graph cannot be read" in str(failure)


def test_a_layer_out_of_place_is_counted_and_an_unrecorded_one_is_dense():
    network = random_network()
    without = Network(network.graph, {n: m for n, m in network.masks.items() if n != "b"})
    more = {**network.masks, "new": LayerMask.from_dense("new", np.ones((2, 2), dtype=bool))}
    assert measure(Network(network.graph, more), "n_unplaced") == 1
    assert Network(network.graph, more).unplaced == {"new": "is not in the graph"}
    assert measure(without, "effective_paths_log10") > measure(network, "effective_paths_log10")
    assert without.counts(next(s for s in without.layers if s.layer == "b")).max() == 9


def test_walks_on_small_graphs():
    cycle = networkx.cycle_graph(7)
    wheel = networkx.wheel_graph(7)
    for graph, triangles, odd in ((cycle, 0, True), (networkx.cycle_graph(8), 0, False), (wheel, 6, True)):
        matrix = networkx.to_scipy_sparse_array(graph, format="csr")
        lists = matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64)
        onward = networkx.to_scipy_sparse_array(networkx.DiGraph(sorted(graph.edges)), range(len(graph)), format="csr")
        assert count_triangles(onward.indptr.astype(np.int64), onward.indices.astype(np.int64)) == triangles
        assert has_odd_cycle(*lists) == odd
        within = sum(len(networkx.single_source_shortest_path_length(graph, v, 2)) for v in graph)
        assert count_within_two(*lists) == within


def test_a_constant_is_no_channel():
    spaces = (
        Space("input", 0, 2),
        Space("layer", 2, 2, (np.array([0, 1, -1]),), "a", (2, 3)),
    )
    mask = LayerMask.from_dense("a", np.array([[1, 0, 0], [0, 0, 1]], dtype=bool))
    network = Network(NetworkGraph(spaces, np.array([2, 3])), {"a": mask})
    assert measure(network, "effective_paths_log10") == 0
    assert measure(network, "dead_neurons") == 1
    assert multipartite(network).edges == 1
