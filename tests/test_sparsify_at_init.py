"""Pruning at initialisation: the scores, and the masks laid out by them."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from sift_graph.errors import TrainingError, UsageError
from sift_graph.sparsify import LAYOUTS, MethodOptions, balanced_sample, lay_out
from sift_graph.sparsify.at_init import (
    choose,
    grasp_scores,
    magnitude_scores,
    snip_scores,
    synflow_masks,
    synflow_scores,
)
from sift_graph.sparsify.constructions import CONSTRUCTIONS

NAMES = ["0.weight", "2.weight", "4.weight"]


def network(*widths, bias=False):
    layers = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@pytest.fixture
def model():
    torch.manual_seed(0)
    return network(5, 8, 7, 3)


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randn(12, 5), torch.randint(3, (12,))


@pytest.mark.parametrize("layout", ["magnitude", "snip", "grasp", "synflow"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_the_number_of_weights_is_exact(model, batch, layout, scope):
    counts = {"0.weight": 10, "2.weight": 20, "4.weight": 9}
    before = [p.detach().clone() for p in model.parameters()]
    masks = lay_out(model, counts, layout=layout, scope=scope, batches=lambda: [batch])
    assert sum(masks.edges().values()) == 39
    if scope == "layer":
        assert masks.edges() == counts
    assert masks.counts == masks.edges()
    for weight, old, name in zip(model.parameters(), before, NAMES, strict=True):
        assert torch.equal(weight, old * masks[name])  # nothing but masked
        assert weight.grad is None


def test_with_costs_the_budget_is_of_macs(model, batch):
    costs = {"0.weight": 9.0, "2.weight": 3.0, "4.weight": 1.0}
    masks = lay_out(
        model, dict.fromkeys(NAMES, 10), layout="snip", scope="global", costs=costs, batches=lambda: [batch]
    )
    spent = sum(costs[name] * count for name, count in masks.edges().items())
    assert 130 - 9 < spent <= 130


def test_snip_is_the_gradient_of_a_mask_of_ones(model, batch):
    x, y = batch
    scores = snip_scores(model, NAMES, [batch], functional.cross_entropy)
    ones = {name: torch.ones_like(p, requires_grad=True) for name, p in model.named_parameters()}
    weights = {name: p.detach() * ones[name] for name, p in model.named_parameters()}
    functional.cross_entropy(torch.func.functional_call(model, weights, x), y).backward()
    whole = sum(one.grad.abs().sum() for one in ones.values())
    for name in NAMES:
        assert torch.allclose(scores[name], ones[name].grad.abs() / whole, rtol=1e-4, atol=1e-8)
    assert sum(float(score.sum()) for score in scores.values()) == pytest.approx(1)


def test_grasp_is_the_derivative_of_the_gradient_norm(batch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = batch[0].double(), batch[1]
    names = ["0.weight", "2.weight"]
    scores = grasp_scores(model, names, [(x, y)], functional.cross_entropy, temperature=2.0)

    def halves():  # the sum over the two halves of the batch, as the scores have it
        return sum(functional.cross_entropy(model(a) / 2, b) for a, b in zip(x.chunk(2), y.chunk(2), strict=True))

    def squared_norm():
        return sum((g**2).sum() for g in torch.autograd.grad(halves(), [model[0].weight, model[2].weight]))

    for name, layer in zip(names, (model[0], model[2]), strict=True):
        for index in ((0, 0), (1, 3), (2, 4)):
            values = []
            for delta in (1e-6, -1e-6):
                with torch.no_grad():
                    layer.weight[index] += delta
                values.append(squared_norm().item())
                with torch.no_grad():
                    layer.weight[index] -= delta
            slope = (values[0] - values[1]) / 2e-6 / 2  # half the derivative of g'g is H g
            assert scores[name][index].item() == pytest.approx(layer.weight[index].item() * slope, rel=1e-4, abs=1e-9)


def test_synaptic_flow_is_conserved_from_layer_to_layer(model):
    masks = {name: torch.rand_like(p) < 0.7 for name, p in model.named_parameters()}
    scores = synflow_scores(model, NAMES, torch.empty(4, 5), masks)
    flow = torch.ones(1, 5).double()
    for name, weight in model.named_parameters():
        flow = flow @ (weight.detach().double().abs() * masks[name]).T
        assert not scores[name][~masks[name]].any()
    assert [float(score.sum()) for score in scores.values()] == pytest.approx([float(flow.sum())] * 3)
    middle = scores["2.weight"]  # and at each hidden unit: what flows in flows out
    assert torch.allclose(middle.sum(1), scores["4.weight"].sum(0))
    assert torch.allclose(middle.sum(0), scores["0.weight"].sum(1))


def test_the_ranking_of_synaptic_flow_does_not_depend_on_the_scale_of_the_output(model):
    masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    ranked = [s.flatten().argsort() for s in synflow_scores(model, NAMES, torch.empty(1, 5), masks).values()]
    with torch.no_grad():
        model[4].weight *= 1024
    again = [s.flatten().argsort() for s in synflow_scores(model, NAMES, torch.empty(1, 5), masks).values()]
    assert all(torch.equal(a, b) for a, b in zip(ranked, again, strict=True))


def test_synaptic_flow_uses_no_data_and_keeps_every_layer_alive():
    torch.manual_seed(0)
    model = network(64, 64, 4, 64, 10)
    names = [f"{i}.weight" for i in (0, 2, 4, 6)]
    with torch.no_grad():
        model[2].weight /= 1000  # a bottleneck that magnitude prunes whole
    counts = dict.fromkeys(names, 8)
    inputs = [torch.full((2, 64), math.nan), torch.zeros(5, 64)]
    found = [
        lay_out(copy.deepcopy(model), counts, layout="synflow", scope="global", batches=lambda x=x: [(x, x)])
        for x in inputs
    ]
    assert all(torch.equal(found[0][name], found[1][name]) for name in names)
    assert min(found[0].edges().values()) >= 4  # near maximal critical compression: paths, not crumbs
    collapsed = lay_out(copy.deepcopy(model), counts, layout="magnitude", scope="global")
    assert collapsed.edges()["2.weight"] == 0


def test_synaptic_flow_that_overflows_says_so():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)).double()
    with torch.no_grad():
        model[0].weight.fill_(1e200)
        model[1].weight.fill_(1e200)
    with pytest.raises(TrainingError, match="overflows float64; the model is too deep"):
        synflow_masks(model, ["0.weight"], torch.empty(1, 4), lambda scores, exponent: {}, rounds=2)


def test_blocks_that_start_as_their_shortcut_have_scores():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
            self.head = nn.Linear(3, 4)
            nn.init.zeros_(self.norm.weight)

        def forward(self, x):
            return self.head((x + self.norm(self.conv(x))).mean((2, 3)))

    torch.manual_seed(0)
    model, batch = Block(), (torch.randn(8, 3, 5, 5), torch.randint(4, (8,)))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    ones = {"conv.weight": torch.ones_like(model.conv.weight, dtype=torch.bool)}
    for scores in (
        snip_scores(model, ["conv.weight"], [batch], functional.cross_entropy),
        grasp_scores(model, ["conv.weight"], [batch], functional.cross_entropy),
        synflow_scores(model, ["conv.weight"], batch[0], ones),
    ):
        assert scores["conv.weight"].abs().min() > 0
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())  # statistics too


class Attention(nn.Module):
    """A transformer block over tokens."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.act = nn.Embedding(11, 8), nn.LayerNorm(8), nn.GELU()
        self.query, self.key, self.value = (nn.Linear(8, 8, bias=False) for _ in range(3))
        self.head = nn.Linear(8, 11)

    def forward(self, tokens):
        x = self.norm(self.embed(tokens))
        y = functional.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x), is_causal=True)
        return self.head(self.act(x + y)).flatten(0, 1)


def test_attention_has_scores():
    torch.manual_seed(0)
    model, tokens = Attention(), torch.randint(11, (6, 5))
    names = ["query.weight", "key.weight", "value.weight"]
    batch = (tokens, tokens.roll(-1, 1))

    def loss(logits, targets):
        return functional.cross_entropy(logits, targets.flatten())

    ones = {name: torch.ones(8, 8, dtype=torch.bool) for name in names}
    flow = synflow_scores(model, names, tokens, ones)
    assert min(float(score.min()) for score in flow.values()) > 0
    sums = [float(score.sum()) for score in flow.values()]
    assert sums == pytest.approx([sums[0]] * 3)  # what attention passes on flows through each of the three
    grasp = grasp_scores(model, names, [batch], loss)
    assert all(torch.isfinite(score).all() and score.any() for score in grasp.values())


def test_magnitude_keeps_the_largest(model):
    scores = magnitude_scores(model, NAMES, [], functional.cross_entropy)
    masks = choose(scores, {"0.weight": 10, "2.weight": 10, "4.weight": 10}, scope="global")
    kept = torch.cat([model.get_parameter(name)[masks[name]].abs() for name in NAMES])
    lost = torch.cat([model.get_parameter(name)[~masks[name]].abs() for name in NAMES])
    assert len(kept) == 30
    assert kept.min() > lost.max()


def test_shuffled_masks_keep_the_counts_only(model):
    plain, mixed = (
        lay_out(
            copy.deepcopy(model),
            dict.fromkeys(NAMES, 9),
            layout="magnitude",
            scope="global",
            options=MethodOptions(shuffle=s),
        )
        for s in (False, True)
    )
    assert plain.edges() == mixed.edges()
    assert not all(torch.equal(plain[name], mixed[name]) for name in NAMES)


def test_samples_are_balanced():
    labels = torch.tensor([0] * 50 + [1] * 3 + [2] * 20)
    chosen = labels[balanced_sample(labels, 5, np.random.default_rng(0))]
    assert torch.bincount(chosen).tolist() == [5, 3, 5]


def test_layouts_that_cannot_be_are_refused(model):
    with pytest.raises(UsageError, match="unknown layout of masks 'snap'; did you mean 'snip'"):
        lay_out(model, {"0.weight": 3}, layout="snap")
    with pytest.raises(UsageError, match="the layout 'snip' needs data: pass batches"):
        lay_out(model, {"0.weight": 3}, layout="snip")
    known = {"exact", "bernoulli", "constant_fan_in", "dense", "magnitude", "snip", "grasp", "synflow"}
    assert known | set(CONSTRUCTIONS) == set(LAYOUTS)
