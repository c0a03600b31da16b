"""Encodings: the relations between them, the unrolled ones against built matrices, and what does not fit."""

import itertools
import math

import numpy as np
import pytest

import sift_graph
from sift_graph import table
from sift_graph.encodings import (
    Geometry,
    Request,
    attention_pair,
    channel,
    channel_count,
    encode,
    factorized,
    find_targets,
    head_rows,
    parallel,
    split_qkv,
    unrolled,
)
from sift_graph.errors import UsageError
from sift_graph.graph import BipartiteGraph
from sift_graph.masks import LayerMask, Snapshot
from sift_graph.metrics import measure_encoded
from sift_graph.store import RunWriter
from tests.closed_forms import projective_plane
from tests.runs import write_run


def layer(shape, density=0.4, seed=0, *, groups=1, name="conv", weights=True):
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < density
    return LayerMask.from_dense(name, mask, rng.standard_normal(shape) if weights else None, groups=groups)


def built(mask, geometry, *, circular=False, weighted=False):
    """The unrolled matrix, outputs by inputs, entry by entry: slow, and a second opinion."""
    dense = np.abs(mask.weight) if weighted else mask.mask.astype(float)
    outputs, inner, *kernel = dense.shape
    size, output = geometry.size, geometry.size if circular else geometry.output
    matrix = np.zeros((outputs, *output, inner * mask.groups, *size))
    for o, c, *k in itertools.product(range(outputs), range(inner), *map(range, kernel)):
        source = c + inner * (o // (outputs // mask.groups))
        for at in itertools.product(*map(range, output)):
            pixel = [
                a * s + j * d - p
                for a, s, j, d, p in zip(at, geometry.stride, k, geometry.dilation, geometry.padding, strict=True)
            ]
            if circular:
                pixel = [x % n for x, n in zip(pixel, size, strict=True)]
            if all(0 <= x < n for x, n in zip(pixel, size, strict=True)):
                matrix[(o, *at, source, *pixel)] += dense[(o, c, *k)]
    return matrix.reshape(outputs * math.prod(output), -1)


def top(matrix):
    return np.linalg.svd(matrix, compute_uv=False)[:2]


UNROLLED = {
    "plain": ((5, 4, 3, 3), 1, Geometry.plain((6, 5), (3, 3))),
    "stride 2": ((5, 4, 3, 3), 1, Geometry.plain((7, 6), (3, 3), stride=2, padding=1)),
    "no padding": ((4, 6, 3, 2), 1, Geometry.plain((5, 6), (3, 2), padding=0)),
    "dilated": ((4, 3, 3, 3), 1, Geometry.plain((7, 7), (3, 3), dilation=2)),
    "grouped": ((6, 2, 3, 3), 2, Geometry.plain((4, 5), (3, 3))),
    "depthwise": ((5, 1, 3, 3), 5, Geometry.plain((5, 5), (3, 3))),
    "1 by 1": ((5, 7, 1, 1), 1, Geometry.plain((3, 4), (1, 1))),
    "one axis": ((5, 4, 3), 1, Geometry.plain((9,), (3,), stride=2)),
    "even kernel": ((4, 4, 2, 2), 1, Geometry.plain((5, 4), (2, 2))),
}


ON_TORUS = [(case, True) for case, (_, _, geometry) in UNROLLED.items() if max(geometry.stride) == 1]


@pytest.mark.parametrize(("case", "circular"), [*((case, False) for case in UNROLLED), *ON_TORUS])
def test_the_unrolled_spectrum_is_that_of_the_built_matrix(case, circular):
    shape, groups, geometry = UNROLLED[case]
    mask = layer(shape, groups=groups)
    matrix, weights = (built(mask, geometry, circular=circular, weighted=w) for w in (False, True))
    values = measure_encoded(unrolled(mask, geometry, circular=circular), sift_graph.METRICS)
    left, right = matrix.sum(0), matrix.sum(1)
    assert (values["n_left"], values["n_right"], values["edges"]) == (matrix.shape[1], len(matrix), matrix.sum())
    assert (values["n_left_isolated"], values["n_right_isolated"]) == ((left == 0).sum(), (right == 0).sum())
    assert values["mean_left_degree"] == pytest.approx(matrix.sum() / (left > 0).sum())
    assert [values["sigma_1"], values["sigma_2"]] == pytest.approx(top(matrix), abs=1e-7)
    assert values["sigma_2_lo"] - 1e-12 <= top(matrix)[1] <= values["sigma_2_hi"] + 1e-12
    assert [values["weighted_sigma_1"], values["weighted_sigma_2"]] == pytest.approx(top(weights), abs=1e-7)
    scale = np.sqrt(np.outer(np.maximum(right, 1), np.maximum(left, 1)))
    assert values["normalised_sigma_2"] == pytest.approx(top(matrix / scale)[1], abs=1e-7)
    assert values["is_ramanujan"] in ("yes", "no", "undecided")
    assert math.isnan(values["imdb"])
    assert "encoding" in values["note"].split(",")


def test_on_the_torus_an_unrolled_layer_has_the_first_value_of_its_channel_counts():
    mask = layer((6, 5, 3, 3))
    counts = mask.mask.sum((2, 3))
    geometry = Geometry.plain((7, 8), (3, 3))
    torus = measure_encoded(unrolled(mask, geometry, circular=True), ["sigma_1", "edges"])
    assert torus["sigma_1"] == pytest.approx(np.linalg.svd(counts.astype(float), compute_uv=False)[0], rel=1e-9)
    assert torus["edges"] == mask.edges * 56


def test_the_torus_decides_where_a_verdict_can_be_given():
    # One kernel position: a permutation of pixels for each channel pair; sigma as of the channel graph, 56 times over.
    plane = projective_plane(3)[0]
    mask = LayerMask.from_dense("conv", np.pad(plane[:, :, None, None], ((0, 0), (0, 0), (1, 1), (1, 1))))
    values = measure_encoded(unrolled(mask, Geometry.plain((3, 4), (3, 3)), circular=True), sift_graph.METRICS)
    assert values["sigma_1"] == pytest.approx(4)
    assert values["sigma_2"] == pytest.approx(4)  # repeated, once for each frequency
    assert values["is_ramanujan"] == "no"
    grid = np.ones((1, 1, 3, 3), dtype=bool)
    alone = measure_encoded(unrolled(LayerMask.from_dense("c", grid), Geometry.plain((3, 3), (3, 3)), circular=True),
                            ["sigma_1", "sigma_2", "is_ramanujan"])  # fmt: skip
    assert alone["sigma_1"] == pytest.approx(9)
    assert alone["sigma_2"] == pytest.approx(0, abs=1e-6)
    assert alone["is_ramanujan"] == "yes"


def test_a_transposed_convolution_is_the_other_way_round():
    forward = layer((5, 4, 3, 3), weights=False)
    back = LayerMask.from_dense("up", forward.mask.transpose(1, 0, 2, 3))  # (out, in): as the recorder turns it
    down = Geometry.plain((7, 6), (3, 3), stride=2, padding=1)
    up = Geometry(down.output, down.stride, down.padding, down.dilation, down.size, transposed=True)
    names = ["n_left", "n_right", "edges", "sigma_1", "sigma_2"]
    one, other = measure_encoded(unrolled(forward, down), names), measure_encoded(unrolled(back, up), names)
    assert (other["n_left"], other["n_right"]) == (one["n_right"], one["n_left"])
    assert [other[n] for n in names[2:]] == pytest.approx([one[n] for n in names[2:]], abs=1e-7)


def test_the_kernel_encoding_is_a_sum_of_its_positions():
    mask = layer((6, 5, 3, 3)).mask.astype(int)
    rolled = mask.reshape(6, -1)
    assert np.array_equal(rolled @ rolled.T, sum(mask[..., i, j] @ mask[..., i, j].T for i in range(3) for j in range(3)))  # fmt: skip  # noqa: E501
    graph = BipartiteGraph.from_mask(LayerMask.from_dense("c", mask))
    assert np.array_equal(graph.to_csr().toarray().T, rolled)


def test_full_kernels_scale_the_channel_spectrum_by_the_root_of_their_size():
    plane, _ = projective_plane(2)
    full = np.broadcast_to(plane[:, :, None, None], (7, 7, 3, 2))
    mask = LayerMask.from_dense("conv", full)
    names = ["sigma_1", "sigma_2", "edges"]
    rolled, single = (
        sift_graph.measure(mask, metrics=names),
        sift_graph.measure(mask, metrics=names, encoding="channel"),
    )
    counts = sift_graph.measure(mask, metrics=names, encoding="channel_count")
    assert [single["sigma_1"], single["sigma_2"]] == pytest.approx([3, math.sqrt(2)])
    for name in ("sigma_1", "sigma_2"):
        assert rolled[name] == pytest.approx(math.sqrt(6) * single[name])
        assert counts[name] == pytest.approx(6 * single[name])
    assert (single["edges"], counts["edges"], rolled["edges"]) == (21, 126, 126)


@pytest.mark.parametrize("groups", [1, 3])
def test_channel_counts_and_norms(groups):
    mask = layer((6, 4, 3, 3), groups=groups, density=0.1)
    counts, weight = mask.mask.sum((2, 3)), np.where(mask.mask, mask.weight, 0)
    one, many = channel(mask), channel_count(mask)
    assert np.array_equal(one.mask.mask, counts > 0)
    assert one.mask.groups == groups
    assert one.mask.weight == pytest.approx(np.sqrt((weight**2).sum((2, 3))))
    assert np.array_equal(many.counts, counts[counts > 0])
    assert many.mask.weight == pytest.approx(np.abs(weight).sum((2, 3)))
    values = measure_encoded(many, ["edges", "density", "mean_right_degree", "sigma_1", "normalised_sigma_2"])
    assert values["edges"] == mask.edges
    assert values["density"] == pytest.approx(mask.density)
    assert values["mean_right_degree"] == pytest.approx(mask.edges / (counts.sum(1) > 0).sum())
    blocks = counts.reshape(groups, -1, 4).astype(float)
    assert values["sigma_1"] == pytest.approx(max(np.linalg.svd(b, compute_uv=False)[0] for b in blocks))


def test_a_dense_depthwise_layer_is_as_many_stars_as_channels():
    mask = LayerMask.from_dense("dw", np.ones((4, 1, 3, 3), dtype=bool), groups=4)
    values = sift_graph.measure(mask)
    assert (values["sigma_1"], values["sigma_2"]) == pytest.approx((3, 3))
    assert sift_graph.measure(mask, encoding="channel")["sigma_2"] == pytest.approx(1)


def test_channels_last_gives_the_same_graphs():
    mask = layer((6, 5, 3, 3))
    other = LayerMask.from_dense("conv", np.moveaxis(mask.mask, (0, 1), (-1, -2)), layout="io")
    for options in ({"encoding": "channel"}, {"encoding": "channel_count"}, {"encoding": "unrolled", "input_size": (4, 4)}):  # fmt: skip  # noqa: E501
        names = ["edges", "sigma_1", "sigma_2", "mean_left_degree"]
        one, two = (sift_graph.measure(m, metrics=names, **options) for m in (mask, other))
        assert [one[n] for n in names] == pytest.approx([two[n] for n in names])


def test_fused_projections_and_heads():
    mask = layer((24, 8), name="attn.in_proj_weight")
    parts = split_qkv(mask)
    assert list(parts) == ["q", "k", "v"]
    assert np.array_equal(np.concatenate([p.mask for p in parts.values()]).reshape(24, 8), mask.mask)
    assert parts["v"].layer == "attn.in_proj_weight[v]"
    heads = head_rows(parts["k"], 4)
    assert np.array_equal(heads["2"].mask.reshape(2, 8), mask.mask[12:14])
    assert np.array_equal(heads["2"].weight.reshape(2, 8), np.where(mask.mask, mask.weight, 0)[12:14])
    with pytest.raises(UsageError, match=r"'fc'.*query, key and value.*found 8 outputs"):
        split_qkv(layer((8, 8), name="fc"))
    with pytest.raises(UsageError, match=r"3 heads do not divide its 8 outputs"):
        head_rows(parts["q"], 3)


def test_parallel_branches_together():
    branches = [layer((6, 5, 3, 3), seed=s, name=f"x.branches.{s}") for s in range(3)]
    masks = np.array([b.mask for b in branches])
    either = parallel(branches, layer="x", sum_edges=False)
    each = parallel(branches, layer="x", sum_edges=True)
    assert np.array_equal(either.mask.mask, masks.any(0))
    assert np.array_equal(each.counts, masks.sum(0)[masks.any(0)])
    assert either.mask.weight == pytest.approx(sum(np.abs(b.weight) for b in branches))
    values = measure_encoded(each, ["edges", "sigma_1", "sigma_2", "density"])
    assert values["edges"] == masks.sum()
    assert values["density"] == pytest.approx(masks.mean())
    assert [values["sigma_1"], values["sigma_2"]] == pytest.approx(top(masks.sum(0).reshape(6, -1).astype(float)))
    with pytest.raises(UsageError, match=r"'x'.*not alike"):
        parallel([branches[0], layer((6, 4, 3, 3))], layer="x", sum_edges=True)


@pytest.mark.parametrize("groups", [1, 2])
def test_paths_through_a_rank(groups):
    u, v = (
        layer((4, 5, 3, 3), groups=groups, name="x.u"),
        layer((6, 4 // groups, 1, 1), seed=1, groups=groups, name="x.v"),
    )
    found = factorized(u, v, layer="x", count=True)
    support = factorized(u, v, layer="x", count=False)
    paths, weights = (
        np.concatenate([
            b.reshape(6 // groups, -1) @ a.reshape(4 // groups, -1)
            for a, b in zip(np.split(one, groups), np.split(two, groups), strict=True)
        ])
        for one, two in ((u.mask.astype(int), v.mask.astype(int)), (np.abs(u.weight), np.abs(v.weight)))
    )  # fmt: skip
    assert found.mask.shape == (6, 5, 3, 3)
    assert np.array_equal(found.mask.mask.reshape(6, -1), paths > 0)
    assert np.array_equal(found.counts, paths[paths > 0])
    assert support.counts is None
    assert found.mask.weight.reshape(6, -1) == pytest.approx(np.where(paths > 0, weights, 0))
    assert measure_encoded(found, ["edges"])["edges"] == paths.sum()
    with pytest.raises(UsageError, match=r"outputs of the first must be the inputs of the second"):
        factorized(u, layer((6, 5, 1, 1), name="x.v"), layer="x", count=True)


def test_attention_pairs_count_paths_through_a_head():
    q, k, v, o = (layer((6, 6), seed=s, name=f"a.{n}") for s, n in enumerate(("query", "key", "value", "output")))
    request = Request("attention", heads=3)
    entries = [{"name": m.layer, "shape": m.shape, "layout": "oi", "groups": 1} for m in (q, k, v, o)]
    targets, unfit = find_targets(entries, request)
    assert not unfit
    assert [t.layer for t in targets] == [f"a[{kind}.{h}]" for h in range(3) for kind in ("qk", "vo")]
    masks = {m.layer: m for m in (q, k, v, o)}
    for target in targets:
        h = int(target.part[-1])
        rows = slice(2 * h, 2 * h + 2)
        expected = (
            k.mask[rows].T.astype(int) @ q.mask[rows]
            if "qk" in target.part
            else o.mask[:, rows].astype(int) @ v.mask[rows]
        )
        found = encode(target, [masks[name] for name in target.members])
        assert np.array_equal(found.mask.mask, expected > 0)
        assert np.array_equal(found.counts, expected[expected > 0])
    with pytest.raises(UsageError, match="do not share the dimensions of one head"):
        attention_pair(q, layer((4, 6)), layer="a", reads=True)


def test_what_does_not_fit_is_named():
    mask = layer((5, 4, 3, 3), name="stage.conv")
    with pytest.raises(UsageError, match=r"layer 'stage.conv'.*--input-size"):
        sift_graph.measure(mask, encoding="unrolled")
    with pytest.raises(UsageError, match=r"2 positive numbers for a kernel of \(3, 3\), found \(32,\)"):
        sift_graph.measure(mask, encoding="unrolled", input_size=(32,))
    with pytest.raises(UsageError, match=r"stride of \(2, 2\) does not fit the circular case"):
        sift_graph.measure(mask, encoding="unrolled_circular", input_size=(8, 8), stride=2)
    with pytest.raises(UsageError, match=r"smaller than the kernel"):
        sift_graph.measure(mask, encoding="unrolled", input_size=(2, 2), padding=0)
    with pytest.raises(UsageError, match=r"no encoding 'chanel'; did you mean 'channel'"):
        sift_graph.measure(mask, encoding="chanel")
    with pytest.raises(UsageError, match=r"measure each"):
        sift_graph.measure(mask, encoding="qkv")
    with pytest.raises(UsageError, match="number of attention heads"):
        Request("heads")
    reflecting = Geometry((8, 8), (1, 1), (1, 1), (1, 1), (8, 8), padding_mode="reflect")
    with pytest.raises(UsageError, match="'reflect', and the unrolled encoding knows zeros only"):
        unrolled(mask, reflecting)


def test_an_empty_mask_has_sizes_and_a_note():
    mask = LayerMask.from_dense("c", np.zeros((4, 3, 3, 3), dtype=bool))
    for options in ({"encoding": "channel_count"}, {"encoding": "unrolled", "input_size": (5, 5)}):
        values = sift_graph.measure(mask, **options)
        assert values["edges"] == 0
        assert math.isnan(values["sigma_2"])
        assert "empty" in values["note"].split(",")


@pytest.mark.parametrize(
    ("encoding", "options", "rows"),
    [
        ("channel", {}, 4),
        ("channel_count", {}, 4),
        ("unrolled", {"input_size": ["6x6", "stage2.*=3x3"]}, 4),
        ("unrolled_circular", {"input_size": "5x5"}, 4),
    ],
)
def test_a_table_in_another_encoding(tmp_path, encoding, options, rows):
    run = write_run(tmp_path / "a", steps=(0, 10))
    analysis = table.analyze_runs(run, encoding=encoding, **options)
    assert len(analysis.layers) == 2 * rows
    assert set(analysis.layers["encoding"]) == {encoding}
    assert not analysis.failures
    again = table.analyze_runs(run, encoding=encoding, **options)
    assert again.timing["computed"] == 0
    assert again.layers["sigma_2"].tolist() == analysis.layers["sigma_2"].tolist()
    kernel = table.analyze_runs(run)
    assert kernel.directories != analysis.directories
    assert set(kernel.layers["encoding"]) == {"kernel"}


def test_a_layer_that_does_not_fit_is_a_failure_and_the_rest_goes_on(tmp_path):
    run = write_run(tmp_path / "a", steps=(0, 10))
    analysis = table.analyze_runs(run, encoding="unrolled", input_size="stage1.*=4x4")
    assert set(analysis.layers["layer"]) == {"stage1.0.conv1", "stage1.0.conv2", "fc"}
    (failure,) = analysis.failures
    assert failure.layer == "stage2.dw"
    assert "--input-size" in str(failure)
    with pytest.raises(UsageError, match=r"cannot read the input size '4by4'"):
        table.analyze_runs(run, encoding="unrolled", input_size="4by4")


def test_a_table_of_composites(tmp_path):
    shapes = {"b.branches.0": (6, 5), "b.branches.1": (6, 5), "c.u": (3, 6), "c.v": (7, 3), "a.in_proj_weight": (12, 4)}
    writer = RunWriter(tmp_path / "run")
    layers = {name: layer(shape, seed=i, name=name) for i, (name, shape) in enumerate(shapes.items())}
    writer.write_snapshot(Snapshot(0, layers))
    found = {
        name: table.analyze_runs(tmp_path / "run", encoding=name, heads=2 if name == "heads" else None)
        for name in ("parallel_sum", "factorized", "qkv", "heads")
    }
    assert list(found["parallel_sum"].layers["layer"]) == ["b"]
    assert found["parallel_sum"].layers["edges"][0] == layers["b.branches.0"].edges + layers["b.branches.1"].edges
    assert list(found["factorized"].layers["layer"]) == ["c"]
    assert [f"a.in_proj_weight[{part}]" for part in "qkv"] == list(found["qkv"].layers["layer"])
    assert len(found["heads"].layers) == 6
    assert {f.layer for f in found["qkv"].failures} == set(shapes) - {"a.in_proj_weight"}
    assert found["qkv"].layers["edges"].sum() == layers["a.in_proj_weight"].edges
    assert found["parallel_sum"].layers["weighted_sigma_1"].notna().all()


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), (3, 2, 2)])
def test_sizes_are_those_of_torch(stride, padding, dilation):
    torch = pytest.importorskip("torch", reason="torch is an extra")
    conv = torch.nn.Conv2d(2, 3, (3, 5), stride, padding, dilation)
    geometry = Geometry.plain((11, 14), (3, 5), stride=stride, padding=padding, dilation=dilation)
    assert geometry.output == tuple(conv(torch.zeros(1, 2, 11, 14)).shape[2:])
    assert Geometry.from_record(geometry.record()) == geometry
    assert Geometry.plain((11, 14), (3, 5)).output == (11, 14)


@pytest.mark.parametrize("encoding", ["channel", "channel_count", "unrolled", "unrolled_circular"])
def test_every_metric_has_an_answer_or_says_that_the_encoding_has_none(encoding):
    mask = layer((6, 5, 3, 3))
    options = {"input_size": (5, 4)} if "unrolled" in encoding else {}
    values = sift_graph.measure(mask, metrics=list(sift_graph.METRICS), encoding=encoding, **options)
    assert set(sift_graph.METRICS) <= set(values)
    assert values["sigma_1"] > values["sigma_2"] > 0
    assert ("encoding" in values["note"].split(",")) == (encoding != "channel")


def test_a_layer_without_heads_is_told_what_those_with_heads_are_called():
    entry = {"name": "up", "shape": [8, 4], "groups": 1, "layout": "oi"}
    for encoding, called in (("heads", "query"), ("qkv", "in_proj_weight")):
        _, [(name, error)] = find_targets([entry], Request(encoding, heads=2))
        assert name == "up"
        assert called in str(error)
