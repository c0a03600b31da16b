"""Families by their numbers: closed forms, roundings, equal FLOPs, and the published counts of the released code."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sift_graph.errors import UsageError
from sift_graph.ift import (
    FAMILIES,
    Options,
    count_official,
    doped_rank,
    factorized_rank,
    parallel_branches,
    plan,
    training_flops,
    transform,
    transformer_training_flops,
    widen_factor,
    widened,
)
from sift_graph.ift.formulas import last_branch_density, rounded
from sift_graph.train.models import GPT, MLP, MODELS, ResNet

REPLACING = ["sparse_parallel", "sparse_factorized", "sparse_doped"]


def resnet18(width):
    return ResNet(width, (3, 32, 32), 100, (2, 2, 2, 2))


# d at s = 0, .5, .75, .9 and r at .5, .75, .9 for the 3x3 convolutions of a ResNet-18, as released.
RANKS = {
    (64, 64): ((58, 116, 231, 577), (28, 43, 51)),
    (64, 128): ((105, 210, 419, 1048), (52, 78, 94)),
    (128, 128): ((116, 231, 461, 1153), (57, 86, 103)),
    (128, 256): ((210, 419, 838, 2095), (104, 157, 188)),
    (256, 256): ((231, 461, 922, 2305), (115, 172, 207)),
    (256, 512): ((419, 838, 1676, 4190), (209, 314, 377)),
    (512, 512): ((461, 922, 1844, 4609), (230, 345, 414)),
}


@pytest.mark.parametrize(("channels", "ranks"), RANKS.items())
def test_ranks_of_a_resnet18_are_the_released_ones(channels, ranks):
    c_in, c_out = channels
    d, r = ranks
    assert tuple(factorized_rank(9 * c_in, c_out, s, rounding="official") for s in (0, 0.5, 0.75, 0.9)) == d
    assert tuple(doped_rank(9 * c_in, c_out, s) for s in (0.5, 0.75, 0.9)) == r


def test_a_ceiling_forgives_floating_point_and_the_released_one_does_not():
    assert factorized_rank(576, 64, 0.9) == 576
    assert factorized_rank(576, 64, 0.9, rounding="official") == 577


@pytest.mark.parametrize(("sparsity", "factor", "branches"), [(0.5, 2**0.5, 2), (0.75, 2, 4), (0.875, 8**0.5, 8)])
def test_widths_and_branches_of_whole_numbers(sparsity, factor, branches):
    assert widen_factor(sparsity) == pytest.approx(factor)
    for rounding in ("exact", "nearest", "floor", "ceil", "official"):
        assert parallel_branches(sparsity, rounding=rounding) == branches
    assert last_branch_density(sparsity) == pytest.approx(1 - sparsity)


def test_released_widths():
    assert [widened(64, s, rounding="official") for s in (0.5, 0.6, 0.75, 0.9)] == [90, 90, 128, 202]
    assert [parallel_branches(s, rounding="official") for s in (0.5, 0.6, 0.75, 0.9, 0.99)] == [2, 2, 4, 10, 100]


def test_widths_in_multiples():
    assert widened(768, 0.5, rounding="ceil", multiple=12) == 1092
    assert widened(64, 0.5, multiple=8) == 88
    assert widened(3, 0.5, rounding="floor", multiple=8) == 8
    with pytest.raises(UsageError, match="multiple of 1 or more, found 0"):
        widened(64, 0.5, multiple=0)


@given(st.floats(0, 0.995))
def test_branches_cost_what_the_layer_does(sparsity):
    branches = parallel_branches(sparsity)
    last = last_branch_density(sparsity)
    assert (branches - 1) * (1 - sparsity) + last == pytest.approx(1)
    assert -1e-6 < last <= (1 - sparsity) * (1 + 1e-6)


@given(st.integers(1, 5000), st.integers(1, 5000), st.floats(0, 0.995))
def test_ranks_solve_their_equations_to_within_one(d_in, d_out, sparsity):
    d = factorized_rank(d_in, d_out, sparsity)
    assert (d - 1) * (d_in + d_out) * (1 - sparsity) < d_in * d_out * (1 + 1e-6)
    assert d * (d_in + d_out) * (1 - sparsity) >= d_in * d_out * (1 - 1e-6)
    r = doped_rank(d_in, d_out, sparsity)
    cost = d_in * d_out * (1 - sparsity) + r * (d_in + d_out)
    assert cost <= d_in * d_out * (1 + 1e-6)
    assert cost + d_in + d_out >= d_in * d_out * (1 - 1e-6)


def test_limits():
    assert doped_rank(576, 64, 0.0) == 0
    assert doped_rank(576, 64, 1 - 1e-9, rounding="nearest") == round(576 * 64 / 640)
    assert factorized_rank(576, 64, 0.0) == 58
    assert parallel_branches(0.0) == 1
    assert widened(64, 0.0) == 64


@pytest.mark.parametrize("function", [widen_factor, parallel_branches])
@pytest.mark.parametrize("sparsity", [-0.1, 1.0, math.nan])
def test_sparsities_out_of_range_are_refused(function, sparsity):
    with pytest.raises(UsageError, match="at least 0 and below 1"):
        function(sparsity)


def test_a_single_branch_for_a_positive_sparsity_is_refused():
    with pytest.raises(UsageError, match=r"asks for 1\.25 branches, which rounding 'nearest' turns into 1.*'ceil'"):
        parallel_branches(0.2, rounding="nearest")
    assert parallel_branches(0.2, rounding="ceil") == 2
    assert parallel_branches(0.2) == 2
    assert last_branch_density(0.2) == pytest.approx(0.2)


def test_unknown_roundings_are_refused():
    with pytest.raises(UsageError, match="unknown rounding 'cel'; did you mean 'ceil'"):
        rounded(1.5, "cel")


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(REPLACING),
    st.sampled_from([0.0, 0.3, 0.5, 0.6, 0.75, 0.9, 0.95]),
    st.integers(6, 40),
    st.sampled_from(["identity", "bn_relu"]),
    st.booleans(),
)
def test_a_transformed_model_costs_what_the_dense_one_does(family, sparsity, width, nonlinearity, is_grouped):
    with torch.device("meta"):
        groups = 2 if is_grouped else 1
        model = nn.Sequential(
            nn.Conv2d(3, 2 * width, 3, padding=1),
            nn.Conv2d(2 * width, 4 * width, 3, stride=2, groups=groups),
            nn.Conv2d(4 * width, 2 * width, 1, groups=groups),
            nn.Flatten(),
            nn.Linear(2 * width * 9, 5 * width),
            nn.Linear(5 * width, 3),
        )
        made = transform(model, family, sparsity, example_input=torch.empty(1, 3, 8, 8), nonlinearity=nonlinearity).plan
    assert made.ratio == pytest.approx(1, abs=0.005)
    if family == "sparse_parallel":
        assert made.effective_sparsity == pytest.approx(sparsity, abs=1e-9)  # nothing but the branches to pay for
    whole = sum(layer.cost.macs * made.densities.get(layer.cost.name, 1.0) for layer in made.layers)
    assert whole / made.budget == pytest.approx(made.ratio, rel=1e-9)


def test_each_layer_alone_is_iso_flop_before_any_compensation():
    with torch.device("meta"):
        model = nn.Conv2d(64, 128, 3, stride=2, padding=1)
        for family in REPLACING:
            for sparsity in (0.5, 0.75, 0.9):
                options = Options(compensate="no", keep_ends=False)
                made = transform(model, family, sparsity, example_input=torch.empty(1, 64, 8, 8), options=options).plan
                assert made.effective_sparsity == sparsity
                assert made.ratio == pytest.approx(1, abs=0.02)


def test_cardinality_of_the_search_space():
    for family in ("sparse_wide", *REPLACING):
        options = Options(compensate="no")
        what = plan(lambda w: MLP(w, (64,), 10, (1,)), (64,), family=family, sparsity=0.75, width=64, options=options)
        cardinality = sum(what.transformed[name].weights for name in what.densities)
        assert cardinality == (64 * 64 if family == "sparse_doped" else 64 * 64 / (1 - 0.75))


# Nominal ratios, here and below, are published for one draw of Bernoulli masks, whose standard error is about 0.001.
def test_the_released_sparse_wide_resnet18_of_cifar():
    for sparsity, width, effective, parameters, nominal in (
        (0.50, 90, 0.49579, 22_152_430, 0.9913),
        (0.75, 128, 0.75179, 44_755_172, 1.0073),
        (0.90, 202, 0.90117, 111_347_550, 1.0115),
    ):
        options = Options(preset="official_cifar")
        what = plan(resnet18, (3, 32, 32), family="sparse_wide", sparsity=sparsity, width=64, options=options)
        assert (what.recipe.width, what.parameters, len(what.densities)) == (width, parameters, 19)
        assert what.dense_count.total == 1_115_226_800
        assert what.effective_sparsity == pytest.approx(effective, abs=6e-6)
        assert what.ratio == pytest.approx(1, rel=1e-12)
        assert what.ratio_at(dict.fromkeys(what.densities, 1 - sparsity)) == pytest.approx(nominal, abs=0.003)


@pytest.mark.parametrize(
    ("depths", "budget", "rows"),
    [
        (
            (2, 2, 2, 2),
            3_647_128_359,
            [
                (0.50, 90, 1.0175, 0.50983, 0.50868, 22_812_130, 22_064_400),
                (0.75, 128, 1.0713, 0.76888, 0.76748, 45_693_032, 44_630_016),
                (0.90, 202, 1.1454, 0.91596, 0.91475, 112_827_090, 111_150_096),
            ],
        ),
        (
            (3, 4, 6, 3),
            7_355_270_501,
            [
                (0.50, 90, 1.0042, 0.50200, 0.50119, 42_797_170, 42_039_000),
                (0.75, 128, 1.0364, 0.75934, 0.75836, 86_110_824, 85_032_960),
                (0.90, 202, 1.0744, 0.90770, 0.90685, 213_473_186, 211_772_760),
            ],
        ),
    ],
    ids=["resnet18", "resnet34"],
)
def test_the_released_sparse_wide_resnets_of_imagenet(depths, budget, rows):
    for sparsity, width, nominal, effective, by_macs, parameters, weights in rows:

        def build(width):
            return ResNet(width, (3, 224, 224), 1000, depths, stem="imagenet")

        what = plan(
            build,
            (3, 224, 224),
            family="sparse_wide",
            sparsity=sparsity,
            width=64,
            options=Options(preset="official_imagenet"),
        )
        assert what.dense_count.total == budget
        assert (what.recipe.width, what.parameters) == (width, parameters)
        assert sum(cost.weights for cost in what.transformed.values()) == weights
        assert what.effective_sparsity == pytest.approx(effective, abs=1e-5)
        assert what.ratio_at(dict.fromkeys(what.densities, 1 - sparsity)) == pytest.approx(nominal, abs=0.003)
        macs = Options(preset="official_imagenet", counter="macs")
        plain = plan(build, (3, 224, 224), family="sparse_wide", sparsity=sparsity, width=64, options=macs)
        assert plain.effective_sparsity == pytest.approx(by_macs, abs=6e-6)


# Also of one draw of Bernoulli masks each: 0.0022 is 3 of its standard errors.
@pytest.mark.parametrize(
    ("family", "sparsity", "ratio", "masked", "parameters"),
    [
        ("sparse_parallel", 0.50, 0.9962, 35, 22.22),
        ("sparse_parallel", 0.75, 1.0017, 67, 44.21),
        ("sparse_parallel", 0.90, 1.0197, 163, 110.17),
        ("sparse_factorized", 0.50, 1.0031, 35, 22.23),
        ("sparse_factorized", 0.75, 1.0052, 35, 44.22),
        ("sparse_factorized", 0.90, 1.0231, 35, 110.19),
        ("sparse_doped", 0.50, 0.7469, 51, None),
        ("sparse_doped", 0.75, 0.4389, 51, None),
        ("sparse_doped", 0.90, 0.1934, 51, None),
    ],
)
def test_the_released_families_are_not_compensated(family, sparsity, ratio, masked, parameters):
    options = Options(preset="official_cifar")
    what = plan(resnet18, (3, 32, 32), family=family, sparsity=sparsity, width=64, options=options)
    assert what.effective_sparsity == sparsity
    assert what.ratio == pytest.approx(ratio, abs=0.0022)
    assert len(what.densities) == masked
    assert parameters is None or what.parameters / 1e6 == pytest.approx(parameters, abs=0.005)


def test_the_same_families_as_the_paper_has_them():
    for family in REPLACING:
        what = plan(resnet18, (3, 32, 32), family=family, sparsity=0.9, width=64)
        assert what.ratio == pytest.approx(1, rel=1e-9)
        masked = {layer.cost.name for layer in what.layers if layer.cost.name in what.densities}
        assert {name.split(".")[0] for name in masked} == {"stage1", "stage2", "stage3", "stage4"}
        assert any("shortcut" in name for name in masked)
        if family == "sparse_doped":
            assert all(name.endswith(".sparse") for name in masked)


def test_the_official_counter_by_hand():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.LayerNorm(4),
        nn.Linear(4, 3),
    )
    count = count_official(model, torch.zeros(2, 2, 8, 8))
    assert count.layers == {"0": 72 * 64 + 71 * 64 + 4 * 64, "8": 12 + 9 + 3}
    norm, relu, largest, means, mean, layer_norm = 7 * 256 - 4, 256, 3 * 64, 4 * 16, 16, 7 * 4 - 1
    assert count.rest == norm + relu + largest + means + mean + layer_norm
    assert count.total == sum(count.layers.values()) + count.rest


@pytest.mark.parametrize("family", ["low_rank_linear", "low_rank_nonlinear"])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.75, 0.9])
def test_low_rank_baselines_have_the_width_of_sparse_wide_and_the_flops_of_dense(family, sparsity):
    what = plan(resnet18, (3, 32, 32), family=family, sparsity=sparsity, width=64)
    assert what.recipe.width == widened(64, sparsity)
    assert what.ratio == pytest.approx(1, abs=0.005)
    assert (what.effective_sparsity, what.densities) == (0.0, {})
    names = [layer.cost.name for layer in what.layers]
    assert {"stage1.0.conv1.u", "stage1.0.conv1.v", "stage2.0.shortcut.v"} <= set(names)
    plain = plan(resnet18, (3, 32, 32), family=family, sparsity=sparsity, width=64, options=Options(compensate="no"))
    k = widened(64, sparsity) / 64  # d = d_in d_out / (k (d_in + d_out))
    ranks = {layer.cost.name: layer.cost.n_right for layer in plain.layers}
    assert ranks["stage1.0.conv1.u"] == round(57.6 / k)
    assert ranks["stage4.1.conv2.u"] == round(460.8 / k)


def test_n_m_widths_are_multiples_and_their_density_is_given():
    for sparsity, width in ((0.5, 88), (0.75, 128), (0.875, 184)):
        what = plan(resnet18, (3, 32, 32), family="nm_wide", sparsity=sparsity, width=64)
        assert what.recipe.width == width
        assert what.effective_sparsity == sparsity
        assert all(layer.cost.shape[0] % 8 == layer.cost.shape[1] % 8 == 0 for layer in what.layers[1:-1])
        assert what.ratio == pytest.approx(1, abs=0.06)
    options = Options(multiple=4)
    assert plan(resnet18, (3, 32, 32), family="nm_wide", sparsity=0.5, width=64, options=options).recipe.width == 92


class Depthwise(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 1)
        self.expand = nn.Conv2d(width, 4 * width, 1)
        self.depthwise = nn.Conv2d(4 * width, 4 * width, 3, padding=1, groups=4 * width)
        self.project = nn.Conv2d(4 * width, width, 1)
        self.head = nn.Linear(width, 5)

    def forward(self, x):
        return self.head(self.project(self.depthwise(self.expand(self.stem(x)))).mean((2, 3)))


def test_depthwise_convolutions_are_left_alone_unless_told():
    for family in REPLACING:
        what = plan(Depthwise, (3, 8, 8), family=family, sparsity=0.75, width=32)
        depthwise = next(layer for layer in what.layers if layer.cost.name == "depthwise")
        assert depthwise.is_fixed
        assert "expand" not in {layer.cost.name for layer in what.layers}
        assert what.ratio == pytest.approx(1, abs=1e-9)
        options = Options(depthwise="transform")
        other = plan(Depthwise, (3, 8, 8), family=family, sparsity=0.75, width=32, options=options)
        assert "depthwise" not in {layer.cost.name for layer in other.layers}
        assert other.ratio == pytest.approx(1, abs=0.005)
    with pytest.raises(UsageError, match="unknown depthwise rule 'isoflop'; known: keep, transform"):
        plan(Depthwise, (3, 8, 8), family="sparse_doped", sparsity=0.5, width=8, options=Options(depthwise="isoflop"))


@pytest.mark.parametrize(
    ("rule", "density"), [("transform", None), ("isoflop", 0.5), ("keep", 1.0)], ids=["absorb", "isoflop", "keep"]
)
def test_depthwise_rules_of_sparse_wide(rule, density):
    what = plan(Depthwise, (3, 8, 8), family="sparse_wide", sparsity=0.75, width=32, options=Options(depthwise=rule))
    assert what.ratio == pytest.approx(1, rel=1e-12)
    found = what.densities.get("depthwise", 1.0)
    assert found == pytest.approx(1 - what.effective_sparsity if density is None else density)
    assert ("depthwise" in what.densities) == (rule != "keep")


def test_families_that_change_nothing_keep_every_layer():
    for family, options in (
        ("sparse_parallel", Options()),
        ("sparse_wide", Options()),
        ("sparse_doped", Options(nonlinearity="identity")),
    ):
        what = plan(resnet18, (3, 32, 32), family=family, sparsity=0.0, width=8, options=options)
        assert what.effective_sparsity == 0.0
        assert what.ratio == 1.0
        assert [layer.origin for layer in what.layers] == list(dict.fromkeys(layer.origin for layer in what.layers))


def test_globs_that_leave_nothing_are_refused():
    with pytest.raises(
        UsageError, match=r"nothing to mask or to transform: the layers stage9\.\* leave none of stem, stage1\.0\.conv1"
    ):
        plan(
            resnet18,
            (3, 32, 32),
            family="sparse_parallel",
            sparsity=0.5,
            width=4,
            options=Options(layers=("stage9.*",)),
        )


def test_options_take_layers_in_and_out():
    options = Options(layers=("stage1.*", "stage2.*", "!*.shortcut"), mask_only=("*.conv2",))
    what = plan(resnet18, (3, 32, 32), family="sparse_parallel", sparsity=0.5, width=8, options=options)
    masked = set(what.densities)
    assert "stage2.0.conv1.branches.1" in masked
    assert "stage2.0.conv2" in masked
    assert not any("shortcut" in name or "stage3" in name for name in masked)
    assert what.ratio == pytest.approx(1, rel=1e-12)


def test_every_family_has_options_of_its_own():
    for family in FAMILIES:
        for preset in ("", "official_cifar", "official_imagenet"):
            resolved = Options(preset=preset).resolved(family)
            assert resolved.layers == ("*",)
            assert resolved.nonlinearity


def gpt3_small(width):
    return GPT(width, (1024,), 50257, (12,), heads=12)


# Published per 1024 tokens: 8.763e11, 1.029e12 and, for Medium, 2.4845e12.
@pytest.mark.parametrize(
    ("sparsity", "width", "hidden", "parameters", "flops"),
    [
        (0.0, 768, 3072, 124_439_808, 8.763e11),
        (0.5, 1092, 4368, 227_886_204, 1.029e12),
        (0.75, 1536, 6144, 418_748_928, 1.228e12),
    ],
)
def test_the_released_sizes_of_gpt3_small(sparsity, width, hidden, parameters, flops):
    options = Options(rounding="ceil", multiple=12, compensate="no")
    tokens = torch.zeros(1, 1024)
    what = plan(gpt3_small, tokens, family="sparse_wide", sparsity=sparsity, width=768, options=options)
    assert (what.recipe.width, what.parameters) == (width, parameters)
    assert len(what.densities) == 72
    assert what.transformed["blocks.0.up"].shape == (hidden, width)
    assert not any("head" in name or "tokens" in name for name in what.densities)
    counted = transformer_training_flops(width, hidden, 12, tokens=1024, vocabulary=50257, density=1 - sparsity)
    assert counted == pytest.approx(flops, rel=0.004)  # the hidden width of the paper's table is 4344 at 0.5
    linear = sum(what.densities.get(layer.cost.name, 1) * layer.cost.macs for layer in what.layers)
    assert counted - 12 * 12 * width * 1024**2 == pytest.approx(6 * linear, rel=1e-9)


def test_training_flops_of_the_paper_s_table():
    assert transformer_training_flops(1092, 4344, 12, tokens=1024, vocabulary=50257, density=0.5) == pytest.approx(
        1.029e12, rel=0.0015
    )
    assert transformer_training_flops(1024, 4096, 24, tokens=1024, vocabulary=50257) == pytest.approx(
        2.4845e12, rel=0.0015
    )


def test_training_flops_of_masks_that_stay_and_of_those_that_grow_by_gradient():
    assert training_flops(2.0, 7.0) == 6.0
    for every in (1, 100):  # `every` sparse updates, and one whose weight gradient is dense
        assert training_flops(2.0, 7.0, every=every) == pytest.approx((every * 6 + 2 * 2 + 7) / (every + 1))
    assert training_flops(2.0, 2.0, every=5) == pytest.approx(6.0)
    with pytest.raises(UsageError, match="0 or more updates between two dense gradients, found -1"):
        training_flops(1.0, 1.0, every=-1)


def test_compensation_makes_gpt_iso_flop():
    what = plan(gpt3_small, torch.zeros(1, 64), family="sparse_wide", sparsity=0.5, width=768)
    assert what.ratio == pytest.approx(1, rel=1e-12)
    assert what.effective_sparsity > 0.505  # the head, dense and 1.42 times as wide, is paid for by the blocks


def test_mobilenet_s_published_budget():
    what = plan(
        lambda width: MODELS["mobilenet_v2"].make(width, (3, 32, 32), 100),
        (3, 32, 32),
        family="dense",
        sparsity=0,
        width=32,
        options=Options(counter="official"),
    )
    assert what.parameters == 2_369_380
    assert what.dense_count.total == 138_538_103
