"""Sparse Wide for any model: consistent widths, equal FLOPs, and errors that name what cannot be followed."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from sift_graph.errors import UsageError
from sift_graph.ift import count_macs, plan, widen
from sift_graph.train.models import MODELS, ResNet

IMAGE = torch.zeros(2, 3, 16, 16)


def shapes(model):
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


@pytest.mark.parametrize("sparsity", [0.5, 0.75, 0.9])
def test_a_resnet_widens_as_by_its_width_argument(sparsity):
    def build(width):
        return ResNet(width, (3, 16, 16), 10, (2, 1, 1))

    wide = widen(build(8), IMAGE, sparsity)
    if sparsity == 0.75:  # the only one at which no width is rounded
        assert shapes(wide.model) == shapes(build(16))
        by_argument = plan(build, (3, 16, 16), family="sparse_wide", sparsity=sparsity, width=8)
        assert wide.plan.effective_sparsity == pytest.approx(by_argument.effective_sparsity, rel=1e-12)
        assert wide.plan.densities == pytest.approx(by_argument.densities)
    assert wide.plan.ratio == pytest.approx(1, rel=1e-9)
    assert wide.model(IMAGE).shape == (2, 10)
    assert list(dict(wide.model.named_modules())) == list(dict(build(8).named_modules()))


@pytest.mark.parametrize("name", ["resnet", "resnet18", "mobilenet_v2"])
def test_bundled_models_double_at_three_quarters(name):
    source = MODELS[name]
    wide = widen(source.make(source.width, (3, 16, 16), 10), IMAGE, 0.75)
    assert shapes(wide.model) == shapes(source.make(2 * source.width, (3, 16, 16), 10))
    assert wide.plan.ratio == pytest.approx(1, rel=1e-9)


class Concatenating(nn.Module):
    """Dense connections, a squeeze gate, groups, depthwise with a multiplier, a flattened head, a shared layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.left = nn.Conv2d(8, 4, 1)
        self.right = nn.Conv2d(8, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(8 + 4 + 12)
        self.mix = nn.Conv2d(24, 8, 1)
        self.squeeze = nn.Linear(8, 2)
        self.excite = nn.Linear(2, 8)
        self.grouped = nn.Conv2d(8, 16, 3, padding=1, groups=4)
        self.norm2 = nn.GroupNorm(2, 16)
        self.depthwise = nn.Conv2d(16, 32, 3, stride=2, padding=1, groups=16)
        self.with_image = nn.Conv2d(32 + 3, 6, 1)
        self.scale = nn.Parameter(torch.full((6, 1, 1), 0.1))
        self.shared = nn.Conv2d(6, 6, 1)
        self.flat = nn.Linear(6 * 8 * 8, 20)
        self.head = nn.Linear(20, 5)

    def forward(self, x):
        y = self.stem(x)
        y = self.mix(functional.relu(self.norm(torch.cat([y, self.left(y), self.right(y)], 1)))) + y
        gate = self.excite(functional.relu(self.squeeze(y.mean((2, 3)))))
        y = y * gate.sigmoid().view(y.size(0), -1, 1, 1)
        y = self.depthwise(self.norm2(self.grouped(y)))
        y = self.with_image(torch.cat([y, functional.avg_pool2d(x, 2)], 1)) * self.scale
        y = self.shared(self.shared(y))
        return self.head(functional.relu(self.flat(torch.flatten(y, 1))))


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.75, 0.9])
def test_what_is_added_concatenated_and_multiplied_grows_together(sparsity):
    torch.manual_seed(0)
    net = Concatenating()
    before = copy.deepcopy(net.state_dict())
    wide = widen(net, IMAGE, sparsity, compensate="no").model
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    out = wide(torch.randn(2, 3, 16, 16))
    assert out.shape == (2, 5)
    out.sum().backward()
    assert all(p.grad is not None for p in wide.parameters())
    assert wide.norm.num_features == wide.stem.out_channels + wide.left.out_channels + wide.right.out_channels
    assert wide.mix.out_channels == wide.stem.out_channels == wide.excite.out_features
    assert (wide.grouped.groups, wide.grouped.out_channels % 4, wide.grouped.in_channels % 4) == (4, 0, 0)
    assert wide.depthwise.groups == wide.norm2.num_channels == wide.grouped.out_channels
    assert wide.depthwise.out_channels == 2 * wide.depthwise.groups
    assert wide.with_image.in_channels == wide.depthwise.out_channels + 3
    assert wide.scale.shape == (wide.with_image.out_channels, 1, 1)
    assert torch.equal(wide.scale, torch.full_like(wide.scale, 0.1))
    assert wide.shared.in_channels == wide.shared.out_channels == wide.with_image.out_channels
    assert wide.flat.in_features == 64 * wide.shared.out_channels
    k = (1 - sparsity) ** -0.5
    assert wide.flat.out_features == pytest.approx(20 * k, abs=0.5)
    assert wide.head.out_features == 5


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.integers(6, 40), min_size=2, max_size=4),
    st.sampled_from([0.1, 0.5, 0.75, 0.9]),
    st.sampled_from(["nearest", "floor", "ceil"]),
)
def test_random_chains_with_a_shortcut_stay_iso_flop(widths, sparsity, rounding):
    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, widths[0], 1)
            pairs = zip(widths, [*widths[1:], widths[0]], strict=True)
            self.convs = nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in pairs))
            self.head = nn.Linear(widths[0], 4)

        def forward(self, x):
            y = self.stem(x)
            y += self.convs(y)
            return self.head(y.mean((2, 3)))

    wide = widen(Chain(), torch.zeros(1, 3, 6, 6), sparsity, rounding=rounding, compensate="no")
    free = sum(layer.cost.macs for layer in wide.plan.layers if not layer.is_fixed)
    dense = sum(layer.dense.macs for layer in wide.plan.layers if not layer.is_fixed)
    assert free * (1 - sparsity) / dense == pytest.approx(1, rel=0.35)  # widths of 6 round by up to an eighth
    assert wide.model.stem.out_channels == wide.model.convs[-1].out_channels == wide.model.head.in_features


class Tokens(nn.Module):
    def __init__(self, tie=False):
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.places = nn.Parameter(torch.randn(1, 6, 16))
        self.norm = nn.LayerNorm(16)
        self.up, self.down = nn.Linear(16, 64), nn.Linear(64, 16)
        self.head = nn.Linear(16, 11, bias=False)
        if tie:
            self.head.weight = self.embed.weight

    def forward(self, x):
        y = self.embed(x) + self.places
        y = y + self.down(functional.gelu(self.up(self.norm(y))))
        return self.head(y[:, -1])


def test_embeddings_and_positions_widen_with_the_stream():
    torch.manual_seed(0)
    tokens = torch.zeros(2, 6, dtype=torch.int64)
    wide = widen(Tokens(), tokens, 0.75, compensate="no").model
    assert shapes(wide)["places"] == (1, 6, 32)
    assert wide.embed.embedding_dim == wide.norm.normalized_shape[0] == wide.down.out_features == 32
    assert wide.up.out_features == 128
    assert wide(tokens).shape == (2, 11)
    assert 0.7 < float(wide.places.detach().std()) < 1.3


def test_a_tied_embedding_is_refused():
    with pytest.raises(UsageError, match=r"layer 'head': its weight is also 'embed\.weight'"):
        widen(Tokens(tie=True), torch.zeros(2, 6, dtype=torch.int64), 0.75)


class Around(nn.Module):
    """Something in the middle of a network."""

    def __init__(self, middle, channels=8):
        super().__init__()
        self.stem, self.middle, self.head = nn.Linear(8, channels), middle, nn.Linear(channels, 4)

    def forward(self, x):
        return self.head(self.middle(self.stem(x)))


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class MyLinear(nn.Linear):
    pass


@pytest.mark.parametrize(
    ("middle", "message"),
    [
        (Call(lambda x: x.view(-1, 2, 4).flatten(1)), r"'middle': .*'view' changes the shape \(8,\) .* to \(2, 4\)"),
        (Call(lambda x: torch.cumsum(x, 1)), "module 'middle': the operation 'cumsum' takes channels"),
        (Call(lambda x: x[:, [0] * 8]), "module 'middle': the operation 'getitem' cuts channels"),
        (Call(lambda x: x if x.sum() > 0 else -x), r"module 'middle' \(Call\): cannot be traced by torch\.fx"),
        (nn.Sequential(nn.Linear(8, 8), nn.PReLU(8)), r"module 'middle\.1' \(PReLU\) takes channels"),
        (MyLinear(8, 8), "module 'middle': the operation 'linear' takes channels"),
        (Call(lambda x: x @ x.transpose(0, 1) @ x), "module 'middle': the operation 'matmul' takes channels"),
        (Call(lambda x: x + torch.cat([x[:, :0], x], 1)), "module 'middle': the operation 'getitem' cuts channels"),
    ],
)
def test_what_cannot_be_followed_is_named(middle, message):
    with pytest.raises(UsageError, match=message):
        widen(Around(middle), torch.zeros(3, 8), 0.5)


class Uneven(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b, self.c = (nn.Linear(8, n) for n in (8, 3, 5, 8))
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        x = self.stem(x)
        return self.head(torch.cat([self.a(x), self.b(x)], 1) + self.c(x))


class Written(nn.Module):
    """A size written into the forward; the model alone knows."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.stem(x).reshape(-1, 6))


def test_channels_that_cannot_agree_and_sizes_that_are_written_down_are_refused():
    with pytest.raises(
        UsageError, match="the operation 'add' puts together channels that are concatenated differently"
    ):
        widen(Uneven(), torch.zeros(2, 8), 0.5)
    with pytest.raises(UsageError, match=r"Written: does not run when widened .*a size must be written into"):
        widen(Written(), torch.zeros(3, 8), 0.75)


def test_a_buffer_and_the_input_keep_what_meets_them():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)
            self.register_buffer("mask", torch.ones(8))

        def forward(self, x):
            y = self.a(x) + x
            return self.c(self.b(y) * self.mask)

    with pytest.raises(UsageError, match="no channels between its input and its output; there is nothing to widen"):
        widen(Fixed(), torch.zeros(2, 8), 0.5)


def test_a_model_that_does_not_run_is_refused():
    with pytest.raises(UsageError, match=r"does not run on the example input of shape \(3, 9\) \(mat1 and mat2"):
        widen(Around(nn.Identity()), torch.zeros(3, 9), 0.5)


def test_choices_are_checked():
    net = nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 64), nn.Linear(64, 4))
    with pytest.raises(UsageError, match="unknown option 'round' of widen; known: preset, layers"):
        widen(net, torch.zeros(1, 8), 0.5, round="up")
    with pytest.raises(UsageError, match="at least 0 and below 1"):
        widen(net, torch.zeros(1, 8), 1.0)
    assert widen(net, torch.zeros(1, 8), 0.5, multiple=8).model[0].out_features == 88
    assert widen(net, torch.zeros(1, 8), 0.0).plan.effective_sparsity == 0.0


def test_weights_start_with_the_gain_they_had():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 200), nn.BatchNorm1d(200), nn.Linear(200, 200), nn.Linear(200, 4))
    nn.init.normal_(net[2].weight, std=0.5)
    nn.init.zeros_(net[1].weight)
    wide = widen(net, torch.zeros(2, 40), 0.75).model
    assert float(wide[2].weight.detach().std()) == pytest.approx(0.5 / 2**0.5, rel=0.02)
    assert (wide[1].weight == 0).all()
    assert wide[1].running_mean.shape == (400,)
    assert sum(cost.macs for cost in count_macs(wide, torch.zeros(1, 40))) == 40 * 400 + 400 * 400 + 400 * 4
