"""The models: published parameter and MAC counts, shapes at any width, and a few steps of training for each."""

import math

import pytest
import torch
from torch import nn

from sift_graph.errors import UsageError
from sift_graph.ift import count_macs
from sift_graph.store import RunReader
from sift_graph.train import MODELS, describe, load_config, run
from sift_graph.train.build import build_model
from sift_graph.train.models.mobilenet import scaled
from sift_graph.train.models.resnet import SpatialAttention
from sift_graph.train.models.transformer import Attention, multiple

CIFAR, IMAGENET = (3, 32, 32), (3, 224, 224)

# Small by configuration: width, depths, heads.
SMALL = {
    "mlp": (16, (2,), 0),
    "resnet": (4, (1, 1), 0),
    "resnet18": (4, (1, 1, 1, 1), 0),
    "resnet34": (4, (1, 1), 0),
    "resnet18_imagenet": (4, (1, 1), 0),
    "resnet34_imagenet": (4, (1, 1), 0),
    "resnet50_imagenet": (4, (1, 1), 0),
    "botnet50": (4, (1, 1), 2),
    "botnet50_imagenet": (4, (1, 1), 2),
    "vgg16": (8, (1, 1, 2), 0),
    "vgg16_quarter": (4, (1, 1), 0),
    "vgg16_imagenet": (2, (1, 1), 0),
    "mobilenet_v2": (16, (1, 1, 2), 0),
    "mobilevit_s": (8, (1, 1), 2),
    "mobilevit_s_imagenet": (8, (1,), 2),
    "vit": (24, (2,), 3),
    "vit_ti16": (24, (2,), 3),
    "vit_s16": (24, (2,), 3),
    "vit_b16": (24, (2,), 3),
    "gpt": (24, (2,), 3),
    "gpt3_small": (24, (2,), 3),
    "gpt3_medium": (24, (2,), 3),
    "gpt3_xl": (24, (2,), 3),
}


def small_config(name, *sets, **overrides):
    width, depths, heads = SMALL[name]
    images = ["data={name='shapes', train_samples=24, validation_samples=12, classes=10}"]
    text = ["data={name='stdlib', train_samples=24, validation_samples=12, sequence_length=16}"]
    training = ["training.batch_size=12", "training.epochs=2", "masks.every=2", "masks.stop=1.0"]
    model = [f"model={{name='{name}', width={width}, depths={list(depths)}, heads={heads}}}"]
    data = images if MODELS[name].reads == "images" else text
    return load_config(sets=[*model, *data, *training, *sets], **overrides)


def on_meta(name, shape, classes, width=None):
    source = MODELS[name]
    with torch.device("meta"):
        model = source.make(width or source.width, shape, classes)
        return sum(p.numel() for p in model.parameters()), count_macs(model, torch.empty(1, *shape)), model


@pytest.mark.parametrize(
    ("name", "shape", "classes", "parameters", "macs"),
    [
        # Counts of libraries and of released code; MACs are those of convolutions and linear layers alone.
        ("resnet18", CIFAR, 100, 11_220_132, 555_468_800),
        ("resnet34", CIFAR, 100, 21_328_292, None),
        ("resnet18_imagenet", IMAGENET, 1000, 11_689_512, 1_814_073_344),
        ("resnet34_imagenet", IMAGENET, 1000, 21_797_672, 3_663_761_408),
        ("resnet50_imagenet", IMAGENET, 1000, 25_557_032, None),
        ("vgg16_imagenet", IMAGENET, 1000, 138_365_992, None),
        ("vgg16_quarter", CIFAR, 10, 1_256_730, None),
        ("vgg16_quarter", CIFAR, 100, 1_302_900, None),
        ("mobilenet_v2", CIFAR, 100, 2_369_380, None),
        ("mobilevit_s_imagenet", (3, 256, 256), 1000, 5_578_632, None),
        ("mobilevit_s_imagenet", (3, 256, 256), 100, 5_001_732, None),
        ("vit_ti16", IMAGENET, 1000, 5_717_416, None),
        ("vit_s16", IMAGENET, 1000, 22_050_664, None),
        ("vit_b16", IMAGENET, 1000, 86_567_656, None),
        ("gpt3_small", (1024,), 50257, 124_439_808, None),
        ("gpt3_medium", (1024,), 50257, 354_823_168, None),
        ("gpt3_xl", (2048,), 50257, 1_315_723_264, None),
    ],
)
def test_published_counts_come_out_to_the_digit(name, shape, classes, parameters, macs):
    found, costs, _ = on_meta(name, shape, classes)
    assert found == parameters
    if macs is not None:
        assert sum(cost.macs for cost in costs) == macs


@pytest.mark.parametrize(
    ("name", "shape", "classes", "gmacs"),
    [
        ("resnet18", CIFAR, 100, 0.5567),
        ("resnet34", CIFAR, 100, 1.1615),
        ("resnet18_imagenet", IMAGENET, 1000, 1.819),
        ("resnet34_imagenet", IMAGENET, 1000, 3.671),
        ("resnet50_imagenet", IMAGENET, 1000, 4.112),
        ("vgg16_imagenet", IMAGENET, 1000, 15.50),
        ("mobilevit_s_imagenet", (3, 256, 256), 1000, 1.856),
        ("vit_ti16", IMAGENET, 1000, 1.08),
        ("vit_s16", IMAGENET, 1000, 4.25),
        ("vit_b16", IMAGENET, 1000, 16.87),
    ],
)
def test_macs_with_norms_as_fvcore_counts_them(name, shape, classes, gmacs):
    # fvcore adds 2 operations an entry for a batch norm and 5 for a layer norm, and leaves fused attention out.
    _, costs, model = on_meta(name, shape, classes)
    norms = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            factor = 2 if isinstance(module, nn.BatchNorm2d) else 5
            module.register_forward_hook(lambda _, x, y, factor=factor: norms.append(factor * y.numel()))
    model.eval()(torch.empty(1, *shape, device="meta"))
    assert (sum(cost.macs for cost in costs) + sum(norms)) / 1e9 == pytest.approx(gmacs, rel=2e-3)


def test_botnet_is_resnet_50_with_attention_for_three_convolutions():
    found, _, model = on_meta("botnet50_imagenet", IMAGENET, 1000)
    positions = sum(p.numel() for n, p in model.named_parameters() if n.endswith((".heights", ".widths")))
    assert found - positions == 25_557_032 - 3 * (9 - 3) * 512**2
    assert positions == 2 * (2 * 14 - 1) * 128 + 2 * 2 * (2 * 7 - 1) * 128
    assert [n for n, m in model.named_modules() if isinstance(m, SpatialAttention)] == [
        f"stage4.{i}.attention" for i in range(3)
    ]


def test_mobilenet_multiplies_as_often_as_the_published_budget_says():
    # Its profiler multiplies once a MAC and three times an entry of a batch norm: 67.6 million.
    _, costs, model = on_meta("mobilenet_v2", CIFAR, 100)
    norms = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda _, x, y: norms.append(3 * y.numel()))
    model.eval()(torch.empty(1, *CIFAR, device="meta"))
    assert sum(cost.macs for cost in costs) + sum(norms) == 67_592_400


@pytest.mark.parametrize(
    ("sparsity", "width", "parameters"), [(0.0, 768, 124_439_808), (0.5, 1092, 227_886_204), (0.75, 1536, 418_748_928)]
)
def test_widened_gpt_has_the_published_counts(sparsity, width, parameters):
    # Bytes instead of 50 257 tokens, so the embedding is taken from the closed form.
    config = load_config(
        sets=["data.sequence_length=1024", "masks.compensate=false"],
        model="gpt3_small",
        data="stdlib",
        family="sparse_wide" if sparsity else "dense",
        sparsity=sparsity,
    )
    with torch.device("meta"):
        model = build_model(config)
    assert model.tokens.weight.shape == (256, width)
    assert sum(p.numel() for p in model.parameters()) + (50257 - 256) * width == parameters
    masked = [layer["name"] for layer in describe(config)["layers"] if layer["masked"]]
    assert len(masked) == (72 if sparsity else 0)
    assert "head" not in masked


@pytest.mark.parametrize(
    ("name", "width", "density", "flops"),
    [
        ("gpt3_small", 768, 1.0, 8.763e11),
        ("gpt3_small", 1092, 0.5, 1.029e12),
        ("gpt3_medium", 1024, 1.0, 2.4845e12),
    ],
)
def test_gpt_costs_what_the_paper_says(name, width, density, flops):
    _, costs, _ = on_meta(name, (1024,), 50257, width)
    dense = sum(cost.macs for cost in costs if cost.name == "head")
    masked = sum(cost.macs for cost in costs if cost.name != "head")
    layers = MODELS[name].depths[0]
    # Forward and backward: three times two operations a MAC; scores and sums of attention are no layer's.
    assert 6 * (dense + density * masked) + 12 * layers * width * 1024**2 == pytest.approx(flops, rel=2e-3)


def test_gpt_ties_its_head_and_sees_no_future():
    torch.manual_seed(0)
    model = MODELS["gpt"].make(16, (8,), 11, (2,), heads=2).eval()
    assert model.head.weight is model.tokens.weight
    assert [n for n, _ in model.named_parameters() if "head" in n] == []
    tokens = torch.randint(11, (3, 8))
    changed = tokens.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 11
    a, b = model(tokens), model(changed)
    assert a.shape == (3, 8, 11)
    assert torch.allclose(a[:, :5], b[:, :5], atol=1e-6)
    assert not torch.allclose(a[:, 5], b[:, 5], atol=1e-3)


def test_gpt_starts_small_at_the_ends_of_branches():
    torch.manual_seed(0)
    model = MODELS["gpt"].make(96, (8,), 50, (8,), heads=2)
    for name, parameter in model.named_parameters():
        parameter = parameter.detach()
        if parameter.ndim == 2:
            std = 0.02 / 4 if name.endswith((".output.weight", ".down.weight")) else 0.02
            assert float(parameter.abs().max()) <= 2 * std + 1e-9
            assert float(parameter.std()) == pytest.approx(0.88 * std, rel=0.1)  # of a normal cut at 2


def test_relative_positions_are_those_of_the_definition():
    torch.manual_seed(0)
    layer = SpatialAttention(6, (3, 2), 2)
    x = torch.randn(1, 6, 3, 2)
    q, k, v = (part(x)[0].view(2, 3, 6) for part in (layer.query, layer.key, layer.value))  # head, depth, position
    expected = torch.empty(2, 3, 6)
    for head in range(2):
        for i in range(6):
            scores = []
            for j in range(6):
                height, width = j // 2 - i // 2, j % 2 - i % 2
                near = k[head, :, j] + layer.heights[height + 2] + layer.widths[width + 1]
                scores.append(q[head, :, i] @ near / math.sqrt(3))
            expected[head, :, i] = v[head] @ torch.stack(scores).softmax(0)
    assert torch.allclose(layer(x)[0].view(2, 3, 6), expected, atol=1e-5)


def test_attention_agrees_with_pytorch():
    torch.manual_seed(0)
    ours, theirs = Attention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
        theirs.out_proj.load_state_dict(ours.output.state_dict())
    x = torch.randn(2, 5, 12)
    assert torch.allclose(ours(x), theirs(x, x, x)[0], atol=1e-5)


def test_a_mobilevit_transformer_mixes_pixels_of_one_place_only():
    torch.manual_seed(0)
    model = MODELS["mobilevit_s"].make(8, CIFAR, 10, (1,), heads=2).eval()
    block = model.stage3[1]
    block.local, block.fuse = nn.Identity(), nn.Identity()
    channels = block.enter.in_channels
    x = torch.randn(1, channels, 8, 8)
    changed = x.clone()
    changed[0, :, 2, 4] += 1
    moved = (block(x) - block(changed))[0].abs().sum(0) > 1e-6  # the second half of the channels is the input itself
    rows, columns = moved.nonzero(as_tuple=True)
    assert len(rows) > 1
    assert set((rows % 2).tolist()) == {0}
    assert set((columns % 2).tolist()) == {0}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_grows_with_its_width_and_gives_logits(name):
    width, depths, heads = SMALL[name]
    shape, classes = (CIFAR, 7) if MODELS[name].reads == "images" else ((6,), 7)
    sizes = []
    for factor in (1, 2):
        model = MODELS[name].make(width * factor, shape, classes, depths, heads=heads)
        x = torch.randn(2, *shape) if len(shape) == 3 else torch.randint(7, (2, *shape))
        assert model.eval()(x).shape == ((2, 7) if len(shape) == 3 else (2, 6, 7))
        sizes.append({cost.name: cost.shape for cost in count_macs(model, x)})
    inner = [name for name in sizes[0] if name not in (next(iter(sizes[0])), "head")]
    assert inner
    for layer in inner:
        before, after = sizes[0][layer], sizes[1][layer]
        assert after[0] == 2 * before[0]
        assert after[1] == (before[1] if before[1] == 1 else 2 * before[1])  # a depthwise layer has one input a group


@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains_a_few_steps_sparse(tmp_path, name):
    config = small_config(name, "masks.compensate=false", family="sparse_wide", sparsity=0.5, method="rigl")
    result = run(config, tmp_path / "a")
    reader = RunReader(tmp_path / "a")
    assert reader.steps == [0, 2, 4]
    assert math.isfinite(result.val_loss)
    masked = {row["name"] for row in reader.header["layers"] if row["masked"]}
    first, second = reader.load_snapshot(0), reader.load_snapshot(2)
    assert set(first.layers) == masked
    assert any(first.layers[layer].digest != second.layers[layer].digest for layer in masked)


def test_widths_are_rounded_to_the_nearest_and_up_to_heads():
    assert [scaled(16, width, 32) for width in (32, 33, 45, 1)] == [16, 17, 23, 1]
    assert [multiple(n, 12) for n in (1086, 1092, 1093)] == [1092, 1092, 1104]


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["model=gpt"], "'gpt' reads tokens, the data set 'digits' gives images; choose one of the data sets text"),
        (["data=stdlib"], "'resnet' reads images, the data set 'stdlib' gives tokens; choose one of .* digits, shapes"),
        (["model.heads=2"], "model.heads: expected 0, for 'resnet' has no attention, found 2"),
        (["model={name='vit', heads=-1}"], "model.heads: expected 1 or more, or 0 for the model's own, found -1"),
        (["model.dropout=0.1"], "model.dropout: expected 0, for 'resnet' has no dropout, found 0.1"),
        (["model={name='vit', dropout=1.0}"], r"model.dropout: expected in \[0, 1\), found 1.0"),
        (["model={name='mobilevit_s', depths=[1,1,1,1]}"], "model.depths: expected at most 3 stages for 'mobilevit_s'"),
    ],
)
def test_options_that_do_not_fit_the_model_are_refused(sets, message):
    with pytest.raises(UsageError, match=message):
        load_config(sets=sets)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("vit_b16", (3, 40, 40), "patches of 16 by 16 do not divide images of 40 by 40"),
        ("mobilevit_s", (3, 8, 8), "images of 8 by 8 give 1 by 1 pixels at the transformer of stage 5, .* fewer model"),
    ],
)
def test_images_that_do_not_fit_are_refused(name, shape, message):
    source = MODELS[name]
    with pytest.raises(UsageError, match=message), torch.device("meta"):
        source.make(source.width, shape, 10)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(UsageError, match="3 heads do not divide the 512 channels of the last stage at width 64"):
        MODELS["botnet50"].make(64, CIFAR, 10, heads=3)
