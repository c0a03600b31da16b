"""Models, data, learning rates, and what describe says of them."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from sift_graph.errors import UsageError
from sift_graph.sparsify import METHODS, MaskSet, MethodOptions, Schedule
from sift_graph.train import MODELS, Config, describe, load_config
from sift_graph.train.batches import batches, batches_per_epoch, read_ahead
from sift_graph.train.build import build_model, mask_schedule
from sift_graph.train.config import DataConfig, OptimizerConfig
from sift_graph.train.data import load_data
from sift_graph.train.models import MLP, ResNet
from sift_graph.train.optimizer import clip_gradients, learning_rate, make_optimizer

TOTALS = "macs_dense macs ratio counter counted_ratio effective_sparsity parameters masked_layers masked_weights edges"

LAYER = (
    "name type origin shape shape_dense groups masked density edges cardinality macs macs_dense ratio n_left n_right"
)


@pytest.mark.parametrize("name", ["mlp", "resnet"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 7)])
def test_models_give_logits_at_any_width_and_size(name, shape):
    for width in (1, 5):
        model = MODELS[name].build(width, shape, 7, MODELS[name].depths)
        assert model(torch.randn(4, *shape)).shape == (4, 7)
        names = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert (names[0], names[-1]) == ("stem", "head")


def test_depths_set_the_layers():
    assert [n for n, _ in MLP(4, (1, 8, 8), 10, (1, 2)).hidden.named_children()] == ["0", "1", "2"]
    resnet = ResNet(4, (1, 8, 8), 10, (2, 1))
    convs = {n: tuple(m.weight.shape) for n, m in resnet.named_modules() if isinstance(m, nn.Conv2d)}
    assert convs == {
        "stem": (4, 1, 3, 3),
        "stage1.0.conv1": (4, 4, 3, 3),
        "stage1.0.conv2": (4, 4, 3, 3),
        "stage1.1.conv1": (4, 4, 3, 3),
        "stage1.1.conv2": (4, 4, 3, 3),
        "stage2.0.conv1": (8, 4, 3, 3),
        "stage2.0.conv2": (8, 8, 3, 3),
        "stage2.0.shortcut": (8, 4, 1, 1),
    }


def test_digits_are_split_and_blurred_by_the_seed():
    clean = load_data(DataConfig(train_samples=300), 0)
    assert clean.train.images.shape == (300, 1, 8, 8)
    assert clean.validation.images.shape == (1497, 1, 8, 8)
    whole = torch.cat([clean.train.images, clean.validation.images])
    assert float(whole.mean()) == pytest.approx(0, abs=1e-5)
    assert float(whole.std()) == pytest.approx(1, abs=1e-3)
    noisy = load_data(DataConfig(train_samples=300, noise=0.5), 0)
    assert torch.equal(noisy.train.labels, clean.train.labels)
    for part in ("train", "validation"):
        difference = getattr(noisy, part).images - getattr(clean, part).images
        assert float(difference.std()) == pytest.approx(0.5, rel=0.02)
    again = load_data(DataConfig(train_samples=300, noise=0.5), 5)  # the run's seed matters only where asked for
    assert torch.equal(again.train.images, noisy.train.images)
    other = load_data(DataConfig(train_samples=300, noise=0.5, seed=-1), 5)
    assert not torch.equal(other.train.labels, noisy.train.labels)
    assert torch.equal(other.train.images, load_data(DataConfig(train_samples=300, noise=0.5, seed=5), 0).train.images)


def test_a_split_without_validation_is_refused():
    with pytest.raises(UsageError, match="digits has 1797 images, 1797 for training leave none for validation"):
        load_data(DataConfig(train_samples=1797), 0)


def test_learning_rates():
    config = OptimizerConfig(lr=0.4, warmup_epochs=2.0)
    rates = [learning_rate(config, step, steps=100, steps_per_epoch=10) for step in range(100)]
    assert rates[:20] == pytest.approx([0.02 * (i + 1) for i in range(20)])
    assert rates[20] == pytest.approx(0.4)
    assert rates[60] == pytest.approx(0.2)
    assert rates[99] < 1e-3
    config = OptimizerConfig(lr=2.0, schedule="linear", final=0.5)
    assert [learning_rate(config, step, steps=4, steps_per_epoch=1) for step in range(4)] == [2.0, 1.75, 1.5, 1.25]
    config = OptimizerConfig(lr=2.0, schedule="constant", warmup_epochs=1.0)
    assert [learning_rate(config, step, steps=4, steps_per_epoch=2) for step in range(4)] == [1.0, 2.0, 2.0, 2.0]
    config = OptimizerConfig(lr=1.0, final=0.2, per_epoch=True, warmup_epochs=1.0)
    rates = [learning_rate(config, step, steps=15, steps_per_epoch=3) for step in range(15)]
    assert rates[:4] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert rates[3:6] == [rates[3]] * 3
    assert rates[9:12] == pytest.approx([0.6] * 3)
    assert rates[12:] == pytest.approx([0.2 + 0.4 * (1 + math.cos(0.75 * math.pi))] * 3)
    config = OptimizerConfig(lr=1.0, schedule="step", milestones=(0.3, 0.6), gamma=0.1)
    rates = [learning_rate(config, step, steps=10, steps_per_epoch=1) for step in range(10)]
    assert rates == pytest.approx([1.0] * 3 + [0.1] * 3 + [0.01] * 4)


def test_weight_decay_spares_norms_and_biases():
    model = ResNet(4, (1, 8, 8), 10, (1, 1))
    optimizer = make_optimizer(model, OptimizerConfig(weight_decay=0.1))
    decayed = {id(p) for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    everything = {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert everything == {id(p) for p in model.parameters()}
    weights = {id(m.weight) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert decayed == weights
    everywhere = make_optimizer(model, OptimizerConfig(weight_decay=0.1, decay_all=True, name="adamw"))
    assert [group["weight_decay"] for group in everywhere.param_groups] == [0.1, 0.1]
    assert isinstance(everywhere, torch.optim.AdamW)


def test_clipping_measures_the_weights_that_are_kept():
    layer = nn.Linear(3, 1, bias=False)
    optimizer = make_optimizer(layer, OptimizerConfig(lr=1.0, momentum=0.0, nesterov=False, weight_decay=0.0))
    masks = MaskSet({"weight": layer.weight}, {"weight": 2}, seed=0)
    METHODS["static"].make(masks, optimizer, Schedule(0, 10), model=layer, options=MethodOptions())
    clip_gradients(optimizer, 1.0)
    for size, expected in ((10.0, 1 / math.sqrt(2)), (0.1, 0.1)):
        before = layer.weight.detach().clone()
        layer.weight.grad = torch.full((1, 3), size)
        optimizer.step()
        moved = (before - layer.weight.detach())[masks["weight"]]
        assert moved.tolist() == pytest.approx([expected] * 2)


def test_batches_cover_an_epoch_and_leave_out_a_last_one_that_is_too_small():
    drawn = list(batches(25, 8, seed=3, epoch=1))
    assert [len(batch) for batch in drawn] == [8, 8, 8]
    assert batches_per_epoch(25, 8) == 3
    assert batches_per_epoch(26, 8) == 4
    assert batches_per_epoch(26, 8, least=4) == 3
    drawn = torch.cat(list(batches(24, 8, seed=3, epoch=1)))
    assert sorted(drawn.tolist()) == list(range(24))
    assert not torch.equal(drawn, torch.cat(list(batches(24, 8, seed=3, epoch=2))))


def test_reading_ahead_keeps_order_and_errors():
    assert list(read_ahead(iter(range(5)))) == list(range(5))
    assert list(read_ahead([])) == []

    def failing():
        yield 1
        raise UsageError("the third file is broken")

    items = read_ahead(failing())
    assert next(items) == 1
    with pytest.raises(UsageError, match="third file"):
        next(items)


@pytest.mark.parametrize("distribution", ["uniform", "er", "erk", "balanced"])
@pytest.mark.parametrize(("model", "width"), [("resnet", 4), ("resnet", 7), ("resnet", 16), ("mlp", 128)])
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.75, 0.9])
def test_sparse_wide_is_iso_flop_within_half_a_percent(model, width, sparsity, distribution):
    sets = [f"model.width={width}", f"masks.distribution={distribution}"]
    what = describe(load_config(sets=sets, family="sparse_wide", sparsity=sparsity, model=model))
    assert what["ratio"] == pytest.approx(1, abs=0.005)
    assert what["macs"] == sum(layer["macs"] for layer in what["layers"])
    assert what["macs_dense"] == sum(layer["macs_dense"] for layer in what["layers"])


def test_describe_has_its_keys_and_they_agree_with_the_model():
    config = load_config(sets=["model.width=4"], family="sparse_wide", sparsity=0.9)
    what = describe(config)
    assert set(what) == {*TOTALS.split(), "layers"}
    assert all(set(layer) == set(LAYER.split()) for layer in what["layers"])
    model = build_model(config)
    assert what["parameters"] == sum(p.numel() for p in model.parameters())
    modules = dict(model.named_modules())
    for layer in what["layers"]:
        assert layer["shape"] == list(modules[layer["name"]].weight.shape)
        assert layer["masked"] == (layer["name"] not in ("stem", "head"))
        assert layer["n_left"] * layer["n_right"] == np.prod(layer["shape"])
        assert layer["density"] == layer["edges"] / np.prod(layer["shape"])
    masked = [layer for layer in what["layers"] if layer["masked"]]
    assert what["masked_layers"] == len(masked) == 8
    assert what["masked_weights"] == sum(np.prod(layer["shape"]) for layer in masked)
    assert what["edges"] == sum(layer["edges"] for layer in masked)
    assert what["effective_sparsity"] == pytest.approx(1 - what["edges"] / what["masked_weights"])
    stem = what["layers"][0]
    assert (stem["shape"], stem["shape_dense"], stem["density"]) == ([13, 1, 3, 3], [4, 1, 3, 3], 1.0)


def test_describe_of_dense_has_nothing_masked():
    what = describe(load_config(sets=["model.width=4"]))
    assert (what["ratio"], what["effective_sparsity"], what["masked_layers"], what["masked_weights"]) == (
        1.0,
        0.0,
        0,
        0,
    )
    assert what["edges"] == sum(layer["edges"] for layer in what["layers"][1:-1])
    assert all(layer["shape"] == layer["shape_dense"] for layer in what["layers"])


def test_without_compensation_counts_follow_the_nominal_sparsity():
    config = load_config(sets=["masks.compensate=false"], family="sparse_wide", sparsity=0.75)
    what = describe(config)
    assert what["effective_sparsity"] == pytest.approx(0.75, abs=1e-4)
    assert what["ratio"] > 1.005


def test_describe_needs_no_randomness_and_little_memory():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    what = describe(
        load_config(sets=["model.width=4096", "model.depths=[2, 2, 2, 2]"], family="sparse_wide", sparsity=0.9)
    )
    assert what["parameters"] > 4e11
    assert torch.equal(torch.get_rng_state(), state)


def test_configurations_that_cannot_be_built_are_refused():
    config = load_config(sets=["model.width=1"], family="sparse_wide", sparsity=0.995)
    with pytest.raises(UsageError, match="no sparsity reaches the budget"):
        describe(config)
    # Two hidden layers of 1 by 1, 0.3 of a weight each.
    sets = ["masks.compensate=false", "ift.rounding=floor", "model.width=1", "model.depths=[2]"]
    config = load_config(sets=sets, family="sparse_wide", sparsity=0.7, model="mlp")
    with pytest.raises(UsageError, match=r"layer 'hidden\.1': a density of 0\.3 keeps none of its 1 weights"):
        describe(config)


def test_schedules_that_end_before_they_begin_or_never_move_are_refused():
    config = load_config(sets=["masks.begin=80"], family="sparse_wide", sparsity=0.5, method="rigl")
    with pytest.raises(UsageError, match=r"ends at step 75, before or where it begins \(80\); train longer"):
        mask_schedule(config, 100)
    config = load_config(sets=["masks.every=90"], family="sparse_wide", sparsity=0.5, method="rigl")
    with pytest.raises(UsageError, match="the masks of method 'rigl' would never move: no multiple of 90 lies between"):
        mask_schedule(config, 100)
    static = dataclasses.replace(config, method="static")
    assert mask_schedule(static, 100).updates == []


def test_a_model_has_its_own_width_and_depths_unless_told():
    config = load_config(model="mlp")
    assert (config.model.width, config.model.depths) == (128, (3,))
    assert describe(Config()) == describe(load_config())
    assert describe(load_config(family="sparse_wide", sparsity=0.9, model="mlp"))["ratio"] == pytest.approx(1, abs=1e-4)
