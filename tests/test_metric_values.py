"""Values of every metric beyond the core: golden mask, closed forms, second opinions, counterexamples."""

import itertools
import math

import networkx as nx
import numpy as np
import pytest

import sift_graph
from sift_graph import bounds
from sift_graph.adjacency import Adjacency
from sift_graph.errors import UsageError
from sift_graph.graph import BipartiteGraph
from sift_graph.masks import LayerMask
from sift_graph.metrics import COMPAT, METRICS, is_missing, select
from sift_graph.metrics.full_spectrum import anchor_distance, angular_distance, distance
from sift_graph.spectrum.beyond import laplacian_ends, nonbacktracking, nonbacktracking_moduli
from sift_graph.spectrum.cover import cover_radius
from sift_graph.topology import core_numbers
from tests.closed_forms import CLOSED_FORMS, block_diagonal, golden_mask, hypercube, projective_plane


def lists(mask):
    return Adjacency.of(BipartiteGraph.from_mask(LayerMask.from_dense("a", np.asarray(mask))))


def one(mask, name, weight=None, **options):
    return sift_graph.measure(np.asarray(mask), weight, metrics=[name], **options)[name]


@pytest.fixture(scope="module")
def golden():
    mask, weight = golden_mask()
    return sift_graph.measure(mask, weight, metrics="all,compat")


@pytest.mark.parametrize(
    ("name", "value", "tolerance"),
    [
        ("one_degree_bound", 4.1633319990, 1e-9),
        ("spectral_bound_gap", 1.3048376421, 1e-9),
        ("spectral_bound", 4.6981686579, 1e-9),
        ("cover_bound", 5.164182, 5e-7),
        ("cover_gap", 1.77085, 5e-6),
        ("trace_bound", 1.9368, 5e-5),
        ("weak_bound", 0.6554, 5e-5),
        ("nonbacktracking_radius", 5.185743, 5e-7),
        ("nonbacktracking_second", 3.143900, 5e-7),
        ("nonbacktracking_gap", -0.87, 5e-3),
        ("normalised_gap", 0.3149604086, 1e-9),
        ("weighted_normalised_sigma_2", 0.72310435, 5e-9),
        ("weighted_cover_bound", 3.254860, 5e-7),
        ("signed_sigma_1", 3.92152001, 5e-9),
        ("signed_sigma_2", 2.11693581, 5e-9),
        ("butterflies", 254, 0),
        ("bridges", 0, 0),
        ("n_components", 1, 0),
        ("narc_single_count", 0.2058611277, 1e-9),
        ("imds", 1.2899562707, 1e-9),
        ("imds_norm", 0.3747938605, 1e-9),
        ("min_left_degree", 2, 0),
        ("max_left_degree", 11, 0),
        ("min_right_degree", 5, 0),
        ("max_right_degree", 19, 0),
        ("vita_random_factor", -0.1274722056, 1e-9),
        ("vita_sm", 1.3048376421, 1e-9),
        ("vita_sm_ub", 4.6981686579, 1e-9),
        ("vita_rm", 0.9030044752, 1e-9),
        ("vita_rm_norm", 0.2101801587, 1e-9),
        ("vita_irm", 1.0428214755, 1e-9),
        ("vita_irm_norm", 0.3240690614, 1e-9),
        ("vita_ism", 1.2899562707, 1e-9),
        ("vita_ism_norm", 0.3747938605, 1e-9),
        ("vita_stable_irm_norm", 0.3240690614, 1e-9),
        ("mge_degree_bound", 0.2101801587, 1e-9),
        ("mge_imdb", 0.3240690614, 1e-9),
        ("mge_imsg", 0.9612045853, 5e-4),  # the reference is of weights in double precision
        ("fullspectrum_ramanujan", 0.9030044752, 1e-9),
        ("fullspectrum_imdb", 0.5390823858, 1e-9),
        ("fullspectrum_weighted", 1.8045841957, 1e-9),
        ("fullspectrum_imsg", 0.5266870340, 1e-9),
        ("fullspectrum_norm", 2.1540543753, 1e-9),
        ("fullspectrum_mixing", -60.2765159181, 1e-8),
        ("mge_graph_metrics_delta_r_undirected", 0.4344448307, 1e-9),  # these four by numpy alone, from the definitions
        ("fullspectrum_v0_ramanujan", -0.8592015165, 1e-9),
        ("fullspectrum_v0_imdb", -0.3019547546, 1e-9),
        ("fullspectrum_v0_imsg", 1.7956276282, 1e-9),
    ],
)
def test_golden_mask(golden, name, value, tolerance):
    assert golden[name] == pytest.approx(value, abs=tolerance)


def test_the_largest_laplacian_eigenvalue_of_the_normalised_golden_mask_is_two():
    mask, _ = golden_mask()
    degrees = np.concatenate([mask.sum(1), mask.sum(0)])
    adjacency = np.block([[np.zeros((12, 12)), mask], [mask.T, np.zeros((20, 20))]]).astype(float)
    kept = degrees > 0
    scale = 1 / np.sqrt(degrees[kept])
    spectrum = np.linalg.eigvalsh(np.eye(kept.sum()) - scale[:, None] * adjacency[kept][:, kept] * scale)
    assert spectrum[-1] == pytest.approx(2)
    assert one(mask, "normalised_gap") == pytest.approx(spectrum[1])


@pytest.mark.parametrize("name", sorted(CLOSED_FORMS))
def test_closed_forms(name):
    mask, sigma = CLOSED_FORMS[name]
    names = ["spectral_gap", "stable_rank", "rank", "butterflies", "trace_bound", "n_components", "normalised_gap"]
    values = sift_graph.measure(mask, metrics=names)
    sigma = np.array([*sigma, 0.0])
    assert values["spectral_gap"] == pytest.approx(sigma[0] - sigma[1], abs=1e-6 * sigma[0])
    assert values["stable_rank"] == pytest.approx(mask.sum() / sigma[0] ** 2)
    assert values["rank"] == np.count_nonzero(sigma > 1e-9 * sigma[0])
    rows, columns = mask.sum(1).astype(int), mask.sum(0).astype(int)
    wedges = sum(math.comb(int(d), 2) for d in columns)
    assert values["butterflies"] == round(((sigma**4).sum() - (rows**2).sum()) / 2 - wedges) / 2
    if not is_missing(values["trace_bound"]):
        assert values["trace_bound"] <= sigma[1] + 1e-6 * sigma[0]
    assert (values["n_components"] > 1) == (values["normalised_gap"] < 1e-9)


def test_designs_attain_the_trace_bound():
    for q in (2, 3, 5):
        values = sift_graph.measure(projective_plane(q)[0], metrics="ramanujan,local")
        assert values["trace_bound"] == pytest.approx(math.sqrt(q))
        assert values["attained_fraction"] == pytest.approx(1)
        assert values["ramanujan_gap_norm"] == pytest.approx(0.5)
        assert (values["butterflies"], values["girth"], values["butterfly_ratio"]) == (0, 6, 0)


@pytest.mark.parametrize(("m", "n"), [(5, 8), (3, 3), (7, 4)])
def test_complete_bipartite_graphs(m, n):
    values = sift_graph.measure(np.ones((m, n), dtype=bool), metrics="all")
    assert values["narc"] == pytest.approx(1 / math.sqrt(m * n))
    assert values["butterflies"] == math.comb(m, 2) * math.comb(n, 2)
    assert values["butterfly_ratio"] == pytest.approx(m * n / ((m - 1) * (n - 1)))
    assert values["relative_spectral_gap"] == pytest.approx(1)
    assert values["algebraic_connectivity"] == pytest.approx(min(m, n))
    assert values["laplacian_radius"] == pytest.approx(m + n)
    assert values["mean_core"] == min(m, n)
    assert values["flags"].split()[-1] == "dense"
    assert values["two_hop"] == m + n
    found = sift_graph.measure(np.ones((m, n), dtype=bool), compat="vita")
    assert found["random_factor"] == pytest.approx(1 / math.sqrt(m * n) - 1)


def test_hypercubes_and_cycles_meet_the_cheeger_bounds():
    for n in (3, 5):
        values = sift_graph.measure(hypercube(n)[0], metrics="mixing")
        assert values["normalised_gap"] == pytest.approx(2 / n)
        assert values["cheeger_lower"] == pytest.approx(1 / n)  # the conductance of the cube, exactly
        assert values["cheeger_lower"] - 1e-9 <= values["sweep_conductance"] <= values["cheeger_upper"] + 1e-9
    values = sift_graph.measure(CLOSED_FORMS["cycle of 200"][0], metrics="mixing")
    assert values["normalised_gap"] == pytest.approx(1 - math.cos(2 * math.pi / 200))
    assert values["sweep_conductance"] == pytest.approx(2 / 200, rel=0.05)


def random_masks(count, seed=0, densities=(0.15, 0.3, 0.6)):
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        mask = rng.random((rng.integers(2, 11), rng.integers(2, 13))) < rng.choice(densities)
        if mask.any():
            yield mask, rng.random(mask.shape) + 0.01, rng


def dense_laplacian(matrix):
    kept = matrix[matrix.any(1)][:, matrix.any(0)]
    full = np.block([[np.zeros((len(kept),) * 2), -kept], [-kept.T, np.zeros((kept.shape[1],) * 2)]])
    return np.linalg.eigvalsh(full - np.diag(full.sum(1)))


def test_laplacian_ends_are_those_of_the_dense_matrix():
    for mask, weight, _ in random_masks(40):
        for matrix, values in ((mask.astype(float), None), (mask * weight, weight[mask])):
            found, spectrum = laplacian_ends(lists(mask), values), dense_laplacian(matrix)
            assert found.second == pytest.approx(spectrum[1], abs=1e-8)
            assert found.largest == pytest.approx(spectrum[-1], abs=1e-8)


def test_laplacian_ends_of_a_larger_layer():
    rng = np.random.default_rng(2)
    mask = rng.random((110, 300)) < 0.2
    weight = rng.random(mask.shape) + 0.05
    for matrix, values in ((mask.astype(float), None), (mask * weight, weight[mask])):
        found, spectrum = laplacian_ends(lists(mask), values), dense_laplacian(matrix)
        assert found.second == pytest.approx(spectrum[1], rel=1e-8)
        assert found.largest == pytest.approx(spectrum[-1], rel=1e-8)


def hashimoto(mask):
    """Moduli and real eigenvalues of the non-backtracking operator over directed edges."""
    rows, columns = np.nonzero(mask)
    tails = np.concatenate([rows, columns + len(mask)])
    heads = np.concatenate([columns + len(mask), rows])
    follows = (heads[:, None] == tails) & (heads[None, :] != tails[:, None])
    found = np.linalg.eigvals(follows.astype(float))
    return found[np.argsort(-abs(found))]


def test_non_backtracking_eigenvalues_are_those_of_the_operator_over_directed_edges():
    checked = 0
    for mask, _, _ in random_masks(30, densities=(0.3, 0.5)):
        edges = lists(mask)
        core = core_numbers(edges)
        pruned = edges.keep((core[edges.left] >= 2) & (core[edges.n_left + edges.right] >= 2))
        if pruned.edges == 0 or max(pruned.left_degree.max(), pruned.right_degree.max()) == 2:
            continue
        found, expected = nonbacktracking(pruned), hashimoto(mask)
        radius = expected[0].real if expected[0].real > 0 else abs(expected[0])
        assert found.radius == pytest.approx(radius, abs=1e-6)
        real = sorted((z.real for z in expected if abs(z.imag) < 1e-9 and z.real > 0), reverse=True)
        assert found.second == pytest.approx(max(real[1] if len(real) > 1 else 0, math.sqrt(radius)), abs=1e-6)
        moduli = np.repeat(nonbacktracking_moduli(pruned), 2)
        assert moduli[moduli > 1.001][:8] == pytest.approx(abs(expected)[abs(expected) > 1.001][:8], abs=1e-4)
        checked += 1
    assert checked > 10


def test_non_backtracking_eigenvalues_of_biregular_graphs():
    mask = CLOSED_FORMS["net(3,4 classes of 5)"][0]
    values = sift_graph.measure(mask, metrics="ramanujan")
    assert values["nonbacktracking_radius"] == pytest.approx(math.sqrt(2 * 4))
    assert values["nonbacktracking_second"] == pytest.approx(2)  # of a singular value 0: sqrt(d_R - 1)
    assert values["nonbacktracking_gap"] < 0
    assert values["nonbacktracking_real_gap"] == 0
    for name in ("Fano plane", "PG(2,5)", "W(3,3)"):
        assert one(CLOSED_FORMS[name][0], "nonbacktracking_real_gap") == pytest.approx(0, abs=1e-9)
    cube = hypercube(8)[0]  # not Ramanujan: u^4 - (36 - 14) u^2 + 49 = 0
    u = math.sqrt((22 + math.sqrt(22**2 - 4 * 49)) / 2)
    assert one(cube, "nonbacktracking_real_gap") == pytest.approx(math.sqrt(7) - u)


def bisected_cover(mask, weight=None, steps=24):
    """The recursion over directed edges, as it is defined, and a bisection."""
    rows, columns = np.nonzero(mask)
    squares = np.ones(rows.size) if weight is None else weight[rows, columns] ** 2

    def positive(t):
        up, down = np.zeros(rows.size), np.zeros(rows.size)
        for _ in range(3000):
            of_left = np.bincount(columns, squares * down, minlength=mask.shape[1])
            of_right = np.bincount(rows, squares * up, minlength=mask.shape[0])
            left, right = t - (of_left[columns] - squares * down), t - (of_right[rows] - squares * up)
            if min(left.min(), right.min(), (t - of_left).min(), (t - of_right).min()) <= 0:
                return False
            if max(abs(1 / left - up).max(), abs(1 / right - down).max()) < 1e-12:
                break
            up, down = 1 / left, 1 / right
        return True

    low, high = 0.0, 2 * np.linalg.norm(mask * (1.0 if weight is None else weight), 2)
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (low, middle) if positive(middle) else (middle, high)
    return high


def test_the_cover_radius_is_that_of_the_recursion():
    for mask, weight, _ in random_masks(6, seed=4, densities=(0.3, 0.5)):
        edges = lists(mask)
        assert cover_radius(edges) == pytest.approx(bisected_cover(mask), rel=2e-6)
        assert cover_radius(edges, weight[mask]) == pytest.approx(bisected_cover(mask, weight), rel=2e-6)


@pytest.mark.parametrize(
    "name", ["Fano plane", "PG(2,5)", "AG(2,7)", "net(4,11)", "hypercube Q5", "W(3,3)", "crown of 9"]
)
def test_the_cover_radius_of_biregular_graphs(name):
    mask = CLOSED_FORMS[name][0]
    expected = bounds.biregular_bound(mask.sum(0).max(), mask.sum(1).max())
    assert one(mask, "cover_bound") == pytest.approx(expected, rel=1e-7)
    assert one(mask, "weighted_cover_bound", np.full(mask.shape, -2.5)) == pytest.approx(2.5 * expected, rel=1e-7)


@pytest.mark.parametrize(
    "name", ["star K(1,9)", "path of 40", "perfect matching of 12", "cycle of 14", "stars of depthwise layers"]
)
def test_a_graph_with_at_most_one_cycle_is_as_large_as_its_cover(name):
    mask, sigma = CLOSED_FORMS[name]
    assert one(mask, "cover_bound") == pytest.approx(sigma[0])


def test_within_the_bound_implies_within_the_cover():
    found = set()
    for mask, _, _ in random_masks(60, seed=9, densities=(0.5, 0.7)):
        values = sift_graph.measure(
            mask, metrics=["is_ramanujan", "is_ramanujan_cover", "min_left_degree", "min_right_degree"]
        )
        if min(values["min_left_degree"], values["min_right_degree"]) >= 2 and values["is_ramanujan"] == "yes":
            assert values["is_ramanujan_cover"] == "yes"
            found.add(values["is_ramanujan_cover"])
    assert found


def test_local_structure_is_that_of_networkx():
    for mask, _, _ in random_masks(30, seed=2, densities=(0.1, 0.2, 0.5)):
        graph = BipartiteGraph.from_mask(LayerMask.from_dense("a", mask)).to_networkx()
        graph.remove_nodes_from(list(nx.isolates(graph)))
        values = sift_graph.measure(mask, metrics="local,structure")
        assert values["bridges"] == sum(1 for _ in nx.bridges(graph))
        assert values["articulation_points"] == len(set(nx.articulation_points(graph)))
        assert values["mean_core"] == pytest.approx(np.mean(list(nx.core_number(graph).values())))
        girth = nx.girth(graph)
        assert is_missing(values["girth"]) if girth == math.inf else values["girth"] == girth
        components = sorted(map(len, nx.connected_components(graph)))
        assert values["n_components"] == len(components)
        assert values["largest_component_share"] == pytest.approx(components[-1] / len(graph))
        for name, reach in (("one_hop", 1), ("two_hop", 2)):
            sizes = [len(nx.ego_graph(graph, v, radius=reach)) for v in graph]
            assert values[name] == pytest.approx(np.mean(sizes))


def test_motifs_are_counted_one_by_one():
    mask = np.random.default_rng(1).random((5, 6)) < 0.5
    graph = BipartiteGraph.from_mask(LayerMask.from_dense("a", mask)).to_networkx()
    shapes = {(1, 1, 1, 3): 0, (1, 1, 2, 2): 0, (2, 2, 2, 2): 0}
    for chosen in itertools.combinations(graph, 4):
        part = graph.subgraph(chosen)
        if nx.is_connected(part):
            shapes[tuple(sorted(d for _, d in part.degree))] += 1
    values = sift_graph.measure(mask, metrics="local")
    assert (values["four_stars"], values["four_paths"], values["butterflies"]) == tuple(shapes.values())
    assert values["four_motifs"] == sum(shapes.values())


@pytest.mark.parametrize("groups", [1, 4])
def test_neighbourhoods_of_grouped_layers(groups):
    mask = np.random.default_rng(3).random((8, 5, 2, 2)) < 0.4
    graph = BipartiteGraph.from_mask(LayerMask.from_dense("a", mask, groups=groups))
    whole = graph.to_networkx()
    whole.remove_nodes_from(list(nx.isolates(whole)))
    sizes = [len(nx.ego_graph(whole, v, radius=2)) for v in whole]
    assert one(mask, "two_hop", groups=groups) == pytest.approx(np.mean(sizes))
    dense = graph.to_csr().toarray()
    assert one(mask, "rank", groups=groups) == np.linalg.matrix_rank(dense)


def test_the_mixing_lemma_holds():
    for mask, _, _ in random_masks(30, seed=6):
        assert 0 <= one(mask, "mixing_discrepancy") <= 1 + 1e-9


def test_vertex_expansion_of_known_graphs():
    assert one(np.eye(8, dtype=bool), "vertex_expansion") == 1
    assert one(np.ones((3, 8), dtype=bool), "vertex_expansion") == pytest.approx(3 / 4, rel=0.35)


def test_butterflies_of_random_masks_are_what_degrees_give():
    mask = np.random.default_rng(0).random((80, 300)) < 0.15
    assert one(mask, "butterfly_ratio") == pytest.approx(1, abs=0.03)


def test_weighted_closed_forms():
    u, v = np.array([1.0, 2.0, 0.5]), np.array([3.0, 1.0, 1.0, 2.0])
    values = sift_graph.measure(np.ones((3, 4), dtype=bool), np.outer(u, v), metrics="weighted")
    assert values["weighted_relative_gap"] == pytest.approx(1)
    assert values["signed_sigma_1"] == pytest.approx(np.linalg.norm(u) * np.linalg.norm(v))
    assert values["signed_sigma_2"] == pytest.approx(0, abs=1e-7)
    diagonal = sift_graph.measure(np.eye(4, dtype=bool), np.diag([3.0, -5.0, 1.0, 2.0]), metrics="weighted")
    assert (diagonal["weighted_sigma_1"], diagonal["weighted_sigma_2"]) == (pytest.approx(5), pytest.approx(3))
    assert (diagonal["signed_sigma_1"], diagonal["signed_sigma_2"]) == (pytest.approx(5), pytest.approx(3))
    assert diagonal["weighted_normalised_sigma_2"] == pytest.approx(1)
    mask, _ = golden_mask()
    constant = sift_graph.measure(mask, np.full(mask.shape, 0.2), metrics="weighted,ramanujan")
    assert constant["left_effective_degree"] == pytest.approx(80 / 19)
    assert constant["right_effective_degree"] == pytest.approx(80 / 11)
    assert constant["effective_gap"] == pytest.approx(constant["ramanujan_gap"])
    assert constant["mean_strength"] == pytest.approx(0.2 * 160 / 30)


def test_signs_matter_where_they_should():
    rng = np.random.default_rng(8)
    mask, weight = rng.random((30, 50)) < 0.5, rng.standard_normal((30, 50))
    values = sift_graph.measure(mask, weight, metrics="weighted")
    sigma = np.linalg.svd(mask * weight, compute_uv=False)
    assert (values["signed_sigma_1"], values["signed_sigma_2"]) == (pytest.approx(sigma[0]), pytest.approx(sigma[1]))
    assert values["weighted_sigma_1"] > 1.5 * values["signed_sigma_1"]


def test_newborn_edges_keep_the_mask_and_leave_the_published_graphs():
    mask, weight = golden_mask()
    newborn = weight.copy()
    newborn[mask & (np.arange(20) % 5 == 0)] = 0.0
    values = sift_graph.measure(mask, newborn, metrics="all,compat")
    assert values["ramanujan_gap"] == pytest.approx(0.9030044752)
    assert values["fullspectrum_ramanujan"] == pytest.approx(0.9030044752)
    lost = sift_graph.measure(mask & (newborn != 0))["ramanujan_gap"]
    assert values["vita_rm"] == pytest.approx(lost) != values["ramanujan_gap"]
    assert values["weighted_algebraic_connectivity"] >= 0
    small = np.where(np.arange(20) % 5 == 0, 1e-9, weight)
    assert sift_graph.measure(mask, small, compat="mge")["degree_bound"] == pytest.approx(
        sift_graph.measure(mask & (small != 1e-9))["ramanujan_gap_norm"]
    )


def test_the_published_codes_alias_the_groups_of_a_depthwise_layer():
    mask = np.ones((6, 1, 3, 3), dtype=bool)
    assert one(mask, "spectral_gap", groups=6) == pytest.approx(0)
    assert sift_graph.measure(mask, groups=6, compat="vita")["rm_norm"] == pytest.approx(1)  # K(9, 6): a false expander


def test_published_gates_and_faults():
    matching = sift_graph.measure(np.eye(5, dtype=bool), compat="mge")
    assert matching["degree_bound"] == -math.inf
    assert is_missing(sift_graph.measure(np.eye(5, dtype=bool), compat="vita")["rm"])
    assert sift_graph.measure(np.eye(5, dtype=bool), np.eye(5), compat="fullspectrum")["imdb"] == 0  # no subgraph
    sparse = CLOSED_FORMS["net(3,4 classes of 5)"][0]
    values = sift_graph.measure(sparse, compat="vita_stable")
    found = sift_graph.measure(sparse, compat="vita")
    assert values["irm_norm"] == found["irm_norm"]
    hubs = np.zeros((3, 12), dtype=bool)
    hubs[:, :4] = True
    hubs[0, 4:] = True
    vita = sift_graph.measure(hubs, compat="vita")
    assert vita["num_sub_regulars"] == vita["i_mean_ep"]
    mask, weight = golden_mask()
    graph = sift_graph.measure(mask, weight, compat="mge_graph_metrics")
    limit = 2 * math.sqrt(2 * (2 * 80 / 32) - 1)
    assert graph["delta_r_undirected"] == pytest.approx((limit - 3.3933310158) / limit)
    oldest = sift_graph.measure(mask, np.abs(weight), compat="fullspectrum_v0")
    assert oldest["ramanujan"] == pytest.approx(4.2963354909 - 6.5181971845)
    assert sift_graph.measure(mask, -np.abs(weight), compat="fullspectrum_v0")["note"]


def test_the_second_value_is_not_the_first_once_more():
    # a third-party code takes index 1 of the sorted magnitudes, sigma_1 again, and gets a weighted gap of 0 everywhere
    mask, weight = golden_mask()
    values = sift_graph.measure(mask, weight)
    assert values["weighted_spectral_gap"] > 1
    twins = sift_graph.measure(block_diagonal([mask, mask]))
    assert twins["sigma_2"] == pytest.approx(twins["sigma_1"])  # multiplicity counted: not an expander
    assert twins["is_ramanujan"] == "no"


def test_compat_names_are_checked():
    with pytest.raises(UsageError, match="no published code 'vitta'; did you mean 'vita'"):
        sift_graph.measure(np.eye(3, dtype=bool), compat="vitta")
    with pytest.raises(UsageError, match="names its own metrics"):
        sift_graph.measure(np.eye(3, dtype=bool), compat="vita", metrics="core")
    assert set(COMPAT) == {"vita", "vita_stable", "mge", "mge_graph_metrics", "fullspectrum", "fullspectrum_v0"}


def two_class(n_a, n_b, m, b):
    mask = np.zeros((m, n_a + n_b), dtype=bool)
    mask[:, :n_a] = True
    mask[:b, n_a:] = True
    return mask


def test_iterative_closed_forms():
    mask = two_class(4, 5, 7, 3)
    values = sift_graph.measure(mask, np.full(mask.shape, 2.0), metrics="iterative")
    gaps = math.sqrt(6) + math.sqrt(3), math.sqrt(2) + math.sqrt(4)
    assert values["imdb"] == pytest.approx(sum(gaps) / 2)
    assert values["imdb_edges"] == pytest.approx((28 * gaps[0] + 15 * gaps[1]) / 43)
    assert values["imdb_norm_edges"] == pytest.approx(1)
    assert values["imsg_edges"] == pytest.approx(2 * (28 * math.sqrt(28) + 15 * math.sqrt(15)) / 43)
    assert values["iterative_expansion_max"] == pytest.approx(7 / 4)
    assert values["iterative_expansion_mean"] == pytest.approx((7 / 4 + 3 / 5) / 2)
    found = sift_graph.measure(mask, np.full(mask.shape, 2.0), compat="fullspectrum")
    factors = 7 / 10, 5 / 7
    assert found["imdb"] == pytest.approx(sum(c * g for c, g in zip(factors, gaps, strict=True)) / 2)
    regular = sift_graph.measure(projective_plane(3)[0], np.full((13, 13), 1.5), metrics="iterative,ramanujan,weighted")
    assert regular["imdb"] == regular["imdb_both"] == pytest.approx(regular["ramanujan_gap"])
    assert regular["imdb_edges"] == pytest.approx(regular["ramanujan_gap"])
    assert regular["imsg"] == pytest.approx(regular["weighted_spectral_gap"])


def test_random_references_predict_random_weights():
    rng = np.random.default_rng(0)
    scale = math.sqrt(2 / 1152)
    for density, gap in ((0.1, 0.771), (0.5, 5.38)):
        mask = rng.random((128, 1152)) < density
        weight = scale * rng.standard_normal(mask.shape)
        values = sift_graph.measure(mask, weight, metrics="reference,weighted,core")
        assert values["random_weighted_gap"] == pytest.approx(gap, rel=0.05)
        assert values["weighted_excess_gap"] == pytest.approx(0, abs=0.05 * gap)
        assert values["signed_excess"] == pytest.approx(0, abs=0.05)
        assert values["random_sigma_1"] == pytest.approx(values["sigma_1"], rel=0.01)
        assert values["random_sigma_2"] == pytest.approx(values["sigma_2"], rel=0.015)
        assert values["outlier_separation"] > 1
        assert values["excess_gap"] == pytest.approx(0, abs=0.02)
    assert bounds.sparse_wide_gap_norm(0.75) == pytest.approx(0.1340, abs=5e-5)


def test_radix_net_has_perfect_paths_and_no_gap():
    # layers whose product joins each pair of ends by exactly one path, and whose own gap is as bad as can be
    radices = (2, 3, 4)
    n = math.prod(radices)
    shift = np.roll(np.eye(n, dtype=int), 1, axis=1)
    layers, stride = [], 1
    for radix in radices:
        layers.append(sum(np.linalg.matrix_power(shift, j * stride) for j in range(radix)))
        stride *= radix
    assert (np.linalg.multi_dot(layers) == 1).all()
    found = [one(layer.astype(bool), "sigma_2") for layer in layers]
    assert found == pytest.approx([1.9829, 3, 4], abs=5e-5)
    assert [one(layer.astype(bool), "spectral_gap") for layer in layers[1:]] == pytest.approx([0, 0], abs=1e-9)


def test_the_full_spectrum_is_a_norm_of_four_columns():
    mask, weight = golden_mask()
    values = sift_graph.measure(mask, weight, metrics="core,fs_norm")
    four = [values[c] for c in ("ramanujan_gap", "imdb", "weighted_spectral_gap", "imsg")]
    assert values["fs_norm"] == pytest.approx(np.linalg.norm(four))
    assert values["note"] == ""
    partial = sift_graph.measure(np.eye(4, dtype=bool), np.eye(4), metrics=["fs_norm"])
    assert partial["fs_norm"] == pytest.approx(1)
    assert partial["note"] == "fs_partial"
    with_gradient = sift_graph.measure(mask, weight, gradient=weight, metrics="all")
    assert with_gradient["gradient_spectral_gap"] == pytest.approx(values["weighted_spectral_gap"])
    assert with_gradient["gradient_imsg"] == pytest.approx(values["imsg"])
    assert with_gradient["fs_norm_gradient"] == pytest.approx(np.linalg.norm([*four, *four[2:]]))


def test_the_three_distances_differ():
    now, then = np.array([[1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 0.0, 1.0]]), np.zeros((2, 4))
    assert distance(now, then) == pytest.approx([math.sqrt(30), math.sqrt(2)])
    assert np.isnan(distance(np.array([[np.nan, 0, 0, 0]]), then[:1])).all()
    assert anchor_distance(now[:, 2], np.array([0.0, 4.0])) == 5
    assert angular_distance(np.array([1.0, 1.0]), np.array([1.0, 0.0])) == pytest.approx(math.sqrt(0.5))
    assert math.isnan(angular_distance(np.zeros(2), np.ones(2)))


def test_flags_name_what_is_special():
    assert one(np.eye(4, dtype=bool), "flags") == "bound_zero deg_lt_3 disconnected"
    assert one(np.ones((1, 5), dtype=bool), "flags") == "one_sided deg_lt_3 dense"
    assert one(np.zeros((2, 2), dtype=bool), "flags") == "empty"
    assert one(projective_plane(2)[0], "flags") == ""


def test_selecting():
    assert select("core") == select(None)
    everything = select("all")
    assert set(select(None)) <= set(everything)
    assert not [n for n in everything if n in METRICS and METRICS[n].group in COMPAT]
    assert {"vita_irm", "n_left"} <= set(select("vita"))
    assert "survival" in everything
    assert [n for n in select("survival") if n not in METRICS] == ["survival"]
    with pytest.raises(UsageError, match=r"no metric 'coverbound'; did you mean 'cover_bound'.*sift-graph metrics"):
        select("coverbound")
    with pytest.raises(UsageError, match="'survival' is of a layer's history"):
        sift_graph.measure(np.eye(3, dtype=bool), metrics=["survival"])
