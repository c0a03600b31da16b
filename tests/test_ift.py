"""FLOPs and families: hand counts, the published effective sparsities, and what cannot be iso-FLOP."""

import math

import pytest
import torch
from torch import nn

from sift_graph.errors import UsageError
from sift_graph.ift import (
    FAMILIES,
    LayerCost,
    LayerPlan,
    Options,
    count_macs,
    isoflop_sparsity,
    plan,
    widen_factor,
    widened,
)
from sift_graph.train.models import MLP, ResNet


def resnet18(width):
    return ResNet(width, (3, 32, 32), 100, (2, 2, 2, 2))


def test_macs_of_a_grouped_strided_convolution_and_a_linear_layer():
    model = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), nn.Flatten(), nn.Linear(8 * 3 * 3, 5))
    conv, linear = count_macs(model, torch.zeros(1, 4, 6, 6))
    assert conv == LayerCost("0", "Conv2d", (8, 2, 3, 3), 2, positions=9)
    assert conv.macs == 8 * 2 * 9 * 9
    assert (conv.n_left, conv.n_right) == (4 * 9, 8)
    assert linear == LayerCost("2", "Linear", (5, 72), 1, positions=1)
    assert linear.macs == 360


def test_positions_are_per_input_and_count_tokens():
    [linear] = count_macs(nn.Linear(6, 4), torch.zeros(3, 7, 6))
    assert linear.positions == 7


class TwiceAndNever(nn.Module):
    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(4, 4)
        self.late = nn.Linear(4, 4)
        self.early = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.late(self.norm(self.early(self.early(x))))


def test_a_layer_that_runs_twice_costs_twice_and_one_that_never_runs_is_left_out():
    costs = count_macs(TwiceAndNever(), torch.zeros(1, 4))
    assert [(cost.name, cost.macs) for cost in costs] == [("early", 32), ("late", 16)]


def test_counting_leaves_the_model_as_it_was():
    model = TwiceAndNever()
    model.norm.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count_macs(model, torch.ones(2, 4))
    assert model.training
    assert not model.norm.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_model_without_layers_to_count_is_refused():
    with pytest.raises(UsageError, match="no Conv2d or Linear layer ran"):
        count_macs(nn.ReLU(), torch.zeros(1, 4))


def test_resnet18_of_cifar_has_the_published_cost():
    model = resnet18(64)
    assert sum(p.numel() for p in model.parameters()) == 11_220_132
    with torch.device("meta"):
        costs = count_macs(resnet18(64), torch.empty(1, 3, 32, 32))
    assert sum(cost.macs for cost in costs) == 555_468_800


# Sparse-IFT's released code at base width 64 (it truncates widths); the effective sparsity is that of MACs alone.
@pytest.mark.parametrize(
    ("sparsity", "width", "parameters", "effective", "weights"),
    [
        (0.50, 90, 22_152_430, 0.49500, 22_064_400),
        (0.75, 128, 44_755_172, 0.75082, 44_630_016),
        (0.90, 202, 111_347_550, 0.90033, 111_150_096),
    ],
)
def test_sparse_wide_resnet18_has_the_published_sizes(sparsity, width, parameters, effective, weights):
    what = plan(
        resnet18, (3, 32, 32), family="sparse_wide", sparsity=sparsity, width=64, options=Options(rounding="floor")
    )
    assert what.layers[0].cost.shape[0] == width
    assert what.parameters == parameters
    assert what.effective_sparsity == pytest.approx(effective, abs=6e-6)
    assert len(what.transformed) == 19
    assert sum(cost.weights for cost in what.transformed.values()) == weights
    fixed = sum(layer.cost.macs for layer in what.layers if layer.is_fixed)
    masked = sum(layer.cost.macs for layer in what.layers if not layer.is_fixed)
    assert fixed + (1 - what.effective_sparsity) * masked == pytest.approx(what.budget, rel=1e-12)


def test_without_compensation_the_nominal_sparsity_stands():
    what = plan(resnet18, (3, 32, 32), family="sparse_wide", sparsity=0.9, width=64, options=Options(compensate="no"))
    assert what.effective_sparsity == 0.9


def test_at_sparsity_zero_sparse_wide_is_the_dense_model():
    wide = plan(resnet18, (3, 32, 32), family="sparse_wide", sparsity=0.0, width=16)
    assert wide.effective_sparsity == 0.0
    assert all(layer.cost == layer.dense for layer in wide.layers)


def test_dense_has_no_masks_and_knows_its_layers():
    what = plan(resnet18, (3, 32, 32), family="dense", sparsity=0.0, width=8)
    assert not what.is_masked
    assert (what.layers[0].cost.name, what.layers[-1].cost.name) == ("stem", "head")
    assert list(what.transformed)[:2] == ["stage1.0.conv1", "stage1.0.conv2"]
    assert what.budget == sum(layer.cost.macs for layer in what.layers)


@pytest.mark.parametrize(
    ("sparsity", "factor"), [(0.5, math.sqrt(2)), (0.75, 2), (0.875, math.sqrt(8)), (0.9, 10**0.5)]
)
def test_widen_factor(sparsity, factor):
    assert widen_factor(sparsity) == pytest.approx(factor, rel=1e-12)


def test_floor_is_not_led_astray_by_floating_point():
    assert 64 * widen_factor(0.99) < 640  # which is why
    assert widened(64, 0.99, rounding="floor") == 640


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, math.nan])
def test_a_sparsity_outside_its_range_is_refused(sparsity):
    with pytest.raises(UsageError, match="at least 0 and below 1"):
        plan(resnet18, (3, 32, 32), family="sparse_wide", sparsity=sparsity, width=8)


def test_unknown_names_are_refused_with_a_suggestion():
    with pytest.raises(UsageError, match="did you mean 'sparse_wide'"):
        plan(resnet18, (3, 32, 32), family="sparsewide", sparsity=0.5, width=8)
    with pytest.raises(UsageError, match="did you mean 'floor'"):
        widened(64, 0.5, rounding="flor")
    with pytest.raises(UsageError, match="width of 1 or more, found 0"):
        widened(0, 0.5)


def test_dense_with_a_sparsity_is_refused():
    with pytest.raises(UsageError, match=r"'dense' has sparsity 0, found 0\.5"):
        plan(resnet18, (3, 32, 32), family="dense", sparsity=0.5, width=8)


def test_a_budget_below_the_dense_layers_is_refused():
    # The stem of an mlp grows with the width and stays dense: at 0.99 it alone costs more than the narrow dense model.
    with pytest.raises(
        UsageError, match=r"first and the last layer, which stay dense, cost 4,?\d+.*raise the base width"
    ):
        plan(lambda width: MLP(width, (1, 8, 8), 10, (2,)), (1, 8, 8), family="sparse_wide", sparsity=0.99, width=6)


def test_a_model_cheaper_than_its_budget_is_refused():
    layers = [LayerPlan(LayerCost(name, "Linear", (2, 2), 1, 1), None, name != "b") for name in "abc"]
    assert isoflop_sparsity(12, layers) == 0
    with pytest.raises(UsageError, match="costs only 12 with every weight present"):
        isoflop_sparsity(13, layers)


def test_a_model_of_first_and_last_layer_only_has_nothing_to_mask():
    def two_layers(width):
        return nn.Sequential(nn.Linear(4, width), nn.Linear(width, 2))

    with pytest.raises(UsageError, match="nothing to mask"):
        plan(two_layers, (4,), family="sparse_wide", sparsity=0.5, width=8)


def test_every_family_has_its_own_name():
    assert all(name == family.name for name, family in FAMILIES.items())
