"""The replaced layers: what they compute, their names, gradients, weights; and what cannot be replaced."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from sift_graph.errors import UsageError
from sift_graph.ift import NONLINEARITIES, Options, count_macs, transform
from sift_graph.ift.layers import SkippedNorm
from sift_graph.sparsify import METHODS, MaskSet, MethodOptions, Schedule, layer_counts

REPLACING = ["sparse_parallel", "sparse_factorized", "sparse_doped"]
LAYERS = {
    "linear": (lambda: nn.Linear(12, 20), (5, 12)),
    "tokens": (lambda: nn.Linear(12, 20, bias=False), (5, 3, 12)),
    "conv": (lambda: nn.Conv2d(6, 8, 3, stride=2, padding=1, dilation=2), (5, 6, 11, 9)),
    "reflect": (lambda: nn.Conv2d(6, 8, (3, 1), padding=1, padding_mode="reflect"), (5, 6, 7, 7)),
    "grouped": (lambda: nn.Conv2d(6, 12, 3, stride=2, groups=3, bias=False), (5, 6, 9, 9)),
}


def alone(layer, family, sparsity, example, **choices):
    """Transform a layer that stands alone."""
    return transform(layer, family, sparsity, example_input=example, keep_ends=False, **choices)


@pytest.mark.parametrize("nonlinearity", ["identity", "bn_relu", "bn", "relu"])
@pytest.mark.parametrize("family", REPLACING)
@pytest.mark.parametrize("kind", LAYERS)
def test_outputs_have_the_layer_s_shape_and_every_weight_a_gradient(kind, family, nonlinearity):
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    layer, x = make(), torch.randn(shape)
    made = alone(layer, family, 0.75, x, nonlinearity=nonlinearity)
    y = made.model(x)
    assert y.shape == layer(x).shape
    y.square().sum().backward()
    for name, parameter in made.model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.abs().sum() > 0 or "bias" in name, name


@pytest.mark.parametrize("kind", LAYERS)
def test_at_sparsity_zero_with_an_identity_the_dense_layer_is_back(kind):
    make, shape = LAYERS[kind]
    layer, x = make(), torch.randn(shape)
    for family in ("sparse_parallel", "sparse_doped"):
        made = alone(layer, family, 0.0, x, nonlinearity="identity")
        assert torch.allclose(made.model(x), layer(x), atol=1e-6)
        assert made.plan.effective_sparsity == 0


def test_parallel_is_the_sum_of_its_branches():
    layer, x = nn.Conv2d(3, 4, 3, padding=1), torch.randn(2, 3, 5, 5)
    model = alone(layer, "sparse_parallel", 0.6, x, nonlinearity="relu").model
    assert len(model.branches) == 3
    expected = sum(torch.relu(branch(x)) for branch in model.branches) + layer.bias[:, None, None]
    assert torch.allclose(model(x), expected, atol=1e-6)


def test_factorized_has_its_non_linearity_between_u_and_v():
    layer, x = nn.Linear(6, 4), torch.randn(3, 6)
    model = alone(layer, "sparse_factorized", 0.5, x, nonlinearity="relu").model
    expected = torch.relu(x @ model.u.weight.T) @ model.v.weight.T + layer.bias
    assert torch.allclose(model(x), expected, atol=1e-6)


def test_doped_has_its_non_linearity_after_the_sparse_weight_alone():
    layer, x = nn.Linear(6, 4), torch.randn(3, 6)
    model = alone(layer, "sparse_doped", 0.9, x, nonlinearity="relu").model
    low_rank = x @ model.u.weight.T @ model.v.weight.T
    assert torch.equal(model.sparse.weight, layer.weight)
    assert torch.allclose(model(x), torch.relu(x @ layer.weight.T) + low_rank + layer.bias, atol=1e-6)


def test_convolutions_factorize_into_a_strided_kernel_and_a_pointwise_one():
    layer, x = nn.Conv2d(6, 12, 3, stride=2, padding=1, groups=3), torch.randn(2, 6, 8, 8)
    made = alone(layer, "sparse_factorized", 0.5, x, nonlinearity="identity").model
    rank = 7  # of each group: 18 by 4 weights, 18 * 4 / 22 / 0.5 = 6.5
    assert made.u.weight.shape == (3 * rank, 2, 3, 3)
    assert made.v.weight.shape == (12, rank, 1, 1)
    assert (made.u.stride, made.u.groups, made.v.stride, made.v.groups) == ((2, 2), 3, (1, 1), 3)


def test_new_weights_have_the_gain_of_the_old():
    torch.manual_seed(1)
    layer = nn.Linear(400, 300, bias=False)
    nn.init.normal_(layer.weight, std=0.3)
    x = torch.randn(200, 400)
    for family in ("sparse_parallel", "sparse_factorized"):
        model = alone(layer, family, 0.75, x, nonlinearity="identity").model
        parts = model.branches[1:] if family == "sparse_parallel" else [model.u, model.v]
        for part in parts:
            gain = part.weight.detach().std() * part.weight.shape[1] ** 0.5
            assert float(gain) == pytest.approx(0.3 * 20, rel=0.03)


def test_names_of_the_masked_layers():
    net = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 2))
    names = {
        family: list(transform(net, family, 0.5, example_input=torch.zeros(1, 8)).plan.densities)
        for family in REPLACING
    }
    assert names == {
        "sparse_parallel": ["1.branches.0", "1.branches.1"],
        "sparse_factorized": ["1.u", "1.v"],
        "sparse_doped": ["1.sparse"],
    }
    masked = transform(net, "sparse_doped", 0.5, example_input=torch.zeros(1, 8), mask_low_rank=True).plan.densities
    assert list(masked) == ["1.sparse", "1.u", "1.v"]


def test_the_given_model_is_left_as_it_was():
    net = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Linear(16, 2))
    before, text = copy.deepcopy(net.state_dict()), repr(net)
    made = transform(net, "sparse_parallel", 0.5, example_input=torch.zeros(2, 8))
    assert repr(net) == text
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert made.model[0] is not net[0]
    assert made.model.training


@pytest.mark.parametrize("family", REPLACING)
def test_a_state_dict_goes_out_and_in(family):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 4 * 4, 5))
    x = torch.randn(4, 3, 8, 8)
    one = transform(net, family, 0.7, example_input=x).model
    other = transform(net, family, 0.7, example_input=x).model
    one(x)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.eval()(x), other.eval()(x))


@pytest.mark.parametrize("family", REPLACING)
def test_masks_can_be_laid_on_and_moved(family):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    x, y = torch.randn(64, 8), torch.randint(4, (64,))
    made = transform(net, family, 0.75, example_input=x)
    shapes = {f"{name}.weight": made.plan.transformed[name].shape for name in made.plan.densities}
    counts = layer_counts(shapes, 1 - made.plan.effective_sparsity)
    parameters = dict(made.model.named_parameters())
    masks = MaskSet({name: parameters[name] for name in shapes}, counts, seed=0)
    optimizer = torch.optim.SGD(made.model.parameters(), lr=0.1, momentum=0.9)
    method = METHODS["rigl"].make(masks, optimizer, Schedule(0, 20, every=5), model=made.model, options=MethodOptions())
    losses = []
    for step in range(1, 21):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(made.model(x), y)
        loss.backward()
        optimizer.step()
        method.step(step)
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    kept = {name: int((parameters[name] != 0).sum()) for name in shapes}
    assert all(kept[name] <= counts[name] for name in shapes)
    costs = {cost.name: cost for cost in count_macs(made.model, x)}
    macs = sum(counts.get(f"{name}.weight", cost.weights) * cost.positions for name, cost in costs.items())
    assert macs / made.plan.budget == pytest.approx(1, abs=0.005)


class Shared(nn.Module):
    """A layer under two names and a weight under two more."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.twice = nn.Linear(6, 6)
        self.again = self.twice
        self.tied = nn.Linear(6, 6, bias=False)
        self.last = nn.Linear(6, 6, bias=False)
        self.last.weight = self.tied.weight

    def forward(self, x):
        return self.last(self.tied(self.again(self.twice(self.first(x)))))


def test_a_layer_under_two_names_is_replaced_under_both():
    made = transform(Shared(), "sparse_doped", 0.5, example_input=torch.zeros(2, 6), layers="twice").model
    assert made.twice is made.again
    assert type(made.twice).__name__ == "SparseDoped"


def test_a_tied_weight_is_refused():
    with pytest.raises(UsageError, match=r"layer 'tied': its weight is also 'last\.weight'.*'!tied'"):
        transform(Shared(), "sparse_doped", 0.5, example_input=torch.zeros(2, 6))


def test_what_only_looks_like_a_layer_is_refused():
    net = nn.Sequential(nn.Linear(6, 6), weight_norm(nn.Linear(6, 6)), nn.Linear(6, 6))
    with pytest.raises(UsageError, match=r"layer '1': .* found ParametrizedLinear, which may do more.*'!1'"):
        transform(net, "sparse_parallel", 0.5, example_input=torch.zeros(2, 6))


@pytest.mark.parametrize(
    ("family", "sparsity", "choices", "message"),
    [
        ("sparse_wide", 0.5, {}, r"changes the width of a whole model.*widen\(model, example_input, sparsity\)"),
        ("low_rank_linear", 0.5, {}, "changes the width of a whole model"),
        ("sparse_paralel", 0.5, {}, "unknown family 'sparse_paralel'; did you mean 'sparse_parallel'"),
        ("sparse_doped", 1.0, {}, "at least 0 and below 1"),
        ("dense", 0.5, {}, r"'dense' has sparsity 0, found 0\.5"),
        ("sparse_doped", 0.5, {"nonlinearity": "gelu"}, "unknown nonlinearity 'gelu'; did you mean 'relu'"),
        ("sparse_doped", 0.5, {"layers": "9"}, "the layers 9 leave none of 0, 1, 2, of which 0 and 2 stay dense"),
        ("sparse_doped", 0.5, {"round": "up"}, "unknown option 'round' of transform; known: compensate, counter"),
        ("sparse_parallel", 0.5, {"rounding": "exct"}, "unknown rounding 'exct'; did you mean 'exact'"),
        ("sparse_doped", 0.5, {"norm_after": "drop"}, "unknown choice for norms after a layer 'drop'; known"),
        ("sparse_doped", 0.5, {"compensate": "maybe"}, "unknown choice of compensation 'maybe'; known: "),
    ],
)
def test_bad_input_is_refused(family, sparsity, choices, message):
    net = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6))
    with pytest.raises(UsageError, match=message):
        transform(net, family, sparsity, example_input=torch.zeros(2, 6), **choices)


def test_layer_norm_is_for_linear_layers():
    x = torch.randn(2, 3, 12)
    for name in ("layer_norm", "layer_norm_relu"):
        made = alone(nn.Linear(12, 20), "sparse_parallel", 0.5, x, nonlinearity=name)
        assert made.model(x).shape == (2, 3, 20)
        with pytest.raises(
            UsageError, match=r"layer '': .*'layer_norm' is for linear layers; for convolutions take .* leave it out"
        ):
            alone(nn.Conv2d(3, 4, 1), "sparse_parallel", 0.5, torch.zeros(1, 3, 2, 2), nonlinearity=name)
    assert {"bn_relu", "identity", "layer_norm"} <= set(NONLINEARITIES)


def test_batch_norm_of_tokens_is_over_features():
    x = torch.randn(7, 3, 12) * 5
    model = alone(nn.Linear(12, 20), "sparse_parallel", 0.5, x, nonlinearity="bn").model
    normed = model.nonlinearities[0](model.branches[0](x))
    assert torch.allclose(normed.mean((0, 1)), torch.zeros(20), atol=1e-5)
    assert torch.allclose(normed.var((0, 1), unbiased=False), torch.ones(20), atol=1e-2)


def block():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)
    )
    nn.init.zeros_(net[4].weight)
    return net


def test_norms_after_a_layer_are_kept_reset_or_skipped():
    x = torch.randn(2, 3, 9, 9)
    made = {
        choice: transform(block(), "sparse_doped", 0.5, example_input=x, norm_after=choice).model
        for choice in ("keep", "reset", "skip")
    }
    assert (made["keep"][4].weight == 0).all()
    assert (made["reset"][4].weight == 1).all()
    assert isinstance(made["skip"][4], SkippedNorm)
    assert isinstance(made["skip"][1], nn.BatchNorm2d)  # that of the stem, which is not transformed
    assert torch.equal(made["skip"][4](x), x)
    assert not any(p.requires_grad for p in made["skip"][4].parameters())
    sizes = {choice: sum(p.numel() for p in model.parameters()) for choice, model in made.items()}
    assert len(set(sizes.values())) == 1


def test_options_may_be_given_whole():
    net, x = block(), torch.randn(2, 3, 9, 9)
    whole = Options(preset="official_cifar", layers=("3",))
    made = transform(net, "sparse_parallel", 0.5, example_input=x, options=whole)
    assert made.plan.counter == "official"
    assert isinstance(made.model[3].nonlinearities[0], nn.BatchNorm2d)
    assert isinstance(made.model[4], SkippedNorm)


def test_half_precision_and_device_are_the_layer_s():
    layer = nn.Linear(12, 20, dtype=torch.float64, device="meta")
    made = alone(layer, "sparse_doped", 0.5, torch.empty(2, 12, dtype=torch.float64, device="meta")).model
    assert {p.device.type for p in made.parameters()} == {"meta"}
    assert {p.dtype for p in made.parameters()} == {torch.float64}
