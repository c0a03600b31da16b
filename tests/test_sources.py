"""Finding masks in models: real torch pruning, and objects built to other libraries' documented layouts."""

from __future__ import annotations

import gc
import weakref
from collections import defaultdict

import numpy as np
import pytest
import torch
from torch import nn
from torch.ao.pruning import WeightNormSparsifier
from torch.nn.utils import parametrize, prune

from sift_graph.errors import MaskError, UsageError
from sift_graph.masks import LayerMask
from sift_graph.sources import SOURCES, find_masks, find_weights, layer_table

GENERATOR = torch.Generator().manual_seed(0)


def random_mask(*shape: int) -> torch.Tensor:
    mask = torch.rand(shape, generator=GENERATOR) < 0.5
    mask.view(-1)[0] = True
    return mask


class Net(nn.Module):
    """Two linear layers and a convolution, in this order."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 6, 3, groups=2)
        self.norm = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 8)
        self.head = nn.Linear(8, 3)


def same(found: LayerMask, mask: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether a layer holds this mask and this weight under it."""
    masked = torch.where(mask.bool(), weight.detach(), 0.0)
    return np.array_equal(found.mask, mask.bool().numpy()) and np.array_equal(found.weight, masked.numpy())


def test_torch_prune_is_read_from_mask_and_orig_not_from_the_stale_weight():
    net = Net()
    prune.random_unstructured(net.stem, "weight", 0.5)
    prune.l1_unstructured(net.head, "weight", 0.5)
    prune.random_unstructured(net.head, "bias", 0.5)
    with torch.no_grad():
        net.head.weight_orig.add_(1.0)  # as an optimizer step does; net.head.weight is stale now
    found = find_masks(net)
    assert list(found) == ["stem", "head"]
    assert same(found["head"], net.head.weight_mask, net.head.weight_orig)
    assert found["stem"].groups == 2
    assert {layer.source for layer in found.values()} == {"torch.nn.utils.prune"}


def test_torch_ao_pruning_before_and_after_the_mask_moves():
    net = Net()
    sparsifier = WeightNormSparsifier(sparsity_level=0.5, sparse_block_shape=(1, 1))
    sparsifier.prepare(net, [{"tensor_fqn": "fc.weight"}, {"tensor_fqn": "head.weight"}])
    sparsifier.step()
    found = find_masks(net)
    assert list(found) == ["fc", "head"]
    parametrization = net.fc.parametrizations.weight
    assert same(found["fc"], parametrization[0].mask, parametrization.original)
    assert found["fc"].source == "torch.ao.pruning"
    assert 0 < found["fc"].density < 1
    parametrization[0].mask = random_mask(8, 6).float()  # sparsimony rebinds it at an update
    assert same(find_masks(net)["fc"], parametrization[0].mask, parametrization.original)
    sparsifier.squash_mask()
    with pytest.raises(MaskError, match="none of its 8 parameters has a mask"):
        find_masks(net)


def test_a_structured_row_mask_covers_its_rows():
    class RowMask(nn.Module):  # as torch's FakeStructuredSparsity
        def __init__(self, mask: torch.Tensor) -> None:
            super().__init__()
            self.register_buffer("mask", mask)

        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight * self.mask.reshape(-1, 1)

    net = Net()
    parametrize.register_parametrization(net.fc, "weight", RowMask(torch.tensor([True, False] * 4)))
    found = find_masks(net)["fc"].mask
    assert found.shape == (8, 6)
    assert found.any(axis=1).tolist() == [True, False] * 4
    assert found[0].all()


def test_a_mask_buffer_beside_a_parameter():
    net = Net()
    mask = random_mask(8, 6)
    net.fc.register_buffer("weight_mask", mask)
    net.norm.register_buffer("weight_mask", torch.ones(6))  # one axis: no graph
    net.head.register_buffer("weight_mask", torch.ones(3, 1))  # another shape: belongs to something else
    net.register_buffer("causal_mask", torch.ones(4, 4))  # no parameter of that name
    found = find_masks(net)
    assert list(found) == ["fc"]
    assert same(found["fc"], mask, net.fc.weight)
    assert found["fc"].source == "mask_buffer"


def test_a_mask_attribute_of_the_parameter():
    net = Net()
    net.fc.weight.mask = random_mask(8, 6).float()
    found = find_masks(net)
    assert list(found) == ["fc"]
    assert same(found["fc"], net.fc.weight.mask, net.fc.weight)
    assert found["fc"].source == "param.mask"


def test_a_sparse_optimizer_that_keeps_masks_in_its_state():
    class MaskOptimizer:  # as cbsparse
        def __init__(self, net: Net) -> None:
            self.state = defaultdict(dict)
            self.state[net.fc.weight]["mask"] = random_mask(8, 6)
            self.state[net.head.weight] = {"mask": random_mask(3, 8)}

    net = Net()
    optimizer = MaskOptimizer(net)
    for found in (find_masks(net, optimizer), find_masks(net, masks=optimizer)):
        assert list(found) == ["fc", "head"]
        assert same(found["fc"], optimizer.state[net.fc.weight]["mask"], net.fc.weight)
        assert found["fc"].source == "optimizer_state"
    assert len(optimizer.state) == 2  # asking adds nothing


def test_a_plain_optimizer_is_left_alone():
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(MaskError, match="none of its"):
        find_masks(net, optimizer)
    assert not optimizer.state


class Masking:
    """As ITOP's: a mapping of parameter names, popped and filled again at each update."""

    def __init__(self, net: Net) -> None:
        self.masks = {"head.weight": random_mask(3, 8).float(), "fc.weight": random_mask(8, 6).float()}
        self.masks["norm.weight"] = torch.ones(6)


class MaskSet:
    """The masks come from a method."""

    def __init__(self, net: Net) -> None:
        self._masks = {"head": random_mask(3, 8), "fc": None, "stem.weight": random_mask(6, 2, 3, 3)}

    def masks(self) -> dict[str, torch.Tensor | None]:
        return self._masks


def test_a_masking_object_with_a_mapping():
    net = Net()
    masking = Masking(net)
    found = find_masks(net, masks=masking)
    assert list(found) == ["fc", "head"]  # network order, not the object's
    assert same(found["head"], masking.masks["head.weight"], net.head.weight)
    assert found["head"].source == "mask_set"


def test_a_mask_set_with_a_method_and_dense_layers():
    net = Net()
    mask_set = MaskSet(net)
    assert list(find_masks(net, masks=mask_set)) == ["stem", "head"]
    assert list(find_masks(net, masks=lambda: mask_set)) == ["stem", "head"]
    assert list(find_masks(net, masks=mask_set.masks)) == ["stem", "head"]


def test_an_explicit_mapping_decides_over_everything_else():
    net = Net()
    net.fc.register_buffer("weight_mask", random_mask(8, 6))
    mask = random_mask(3, 8)
    found = find_masks(net, masks={"module.head.weight": mask})
    assert list(found) == ["head"]
    assert same(found["head"], mask, net.head.weight)
    assert found["head"].source == "mapping"


def test_keys_may_be_parameters_or_modules_and_values_pairs_or_layer_masks():
    net = Net()
    mask, weight = random_mask(3, 8), torch.randn(3, 8)
    ready = LayerMask.from_dense("whatever", random_mask(8, 6), source="elsewhere")
    found = find_masks(net, masks={net.head: (mask, weight), net.fc.weight: ready})
    assert same(found["head"], mask, weight)
    assert (found["fc"].layer, found["fc"].digest, found["fc"].source) == ("fc", ready.digest, "elsewhere")


@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        ({"haed": torch.ones(3, 8)}, UsageError, "the model has no layer 'haed'; did you mean 'head'"),
        ({"head": torch.ones(8, 3)}, MaskError, r"layer 'head': the mask has shape \(8, 3\) and the weight \(3, 8\)"),
        ({"head": torch.rand(3, 8)}, MaskError, r"layer 'head': expected a mask of zeros and ones.*mask >= threshold"),
        ({"norm": torch.ones(6)}, MaskError, r"layer 'norm': expected a mask with 2 or more axes"),
        ([1, 2], UsageError, "masks: expected a mapping of layer names to masks, or an object.*found list"),
        ({}, MaskError, "none of its 8 parameters has a mask"),
    ],
)
def test_wrong_masks_are_refused_by_layer(masks, error, message):
    with pytest.raises(error, match=message):
        find_masks(Net(), masks=masks)


def test_zeros_are_read_only_on_request_and_labelled():
    net = Net()
    with torch.no_grad():
        net.fc.weight[0] = 0.0
    with pytest.raises(MaskError, match=r"from_zeros=True"):
        find_masks(net)
    for found in (find_masks(net, from_zeros=True), find_masks(net, source="weight!=0")):
        assert list(found) == ["stem", "fc", "head"]
        assert found["fc"].edges == 42
        assert found["fc"].source == "weight!=0"


def test_a_newborn_weight_of_zero_stays_an_edge_where_there_is_a_mask():
    net = Net()
    net.fc.register_buffer("weight_mask", torch.ones(8, 6))
    with torch.no_grad():
        net.fc.weight[0] = 0.0
    found = find_masks(net, from_zeros=True)
    assert found["fc"].edges == 48
    assert found["head"].source == "weight!=0"


def test_one_source_may_be_asked_for_by_name():
    net = Net()
    net.fc.register_buffer("weight_mask", random_mask(8, 6))
    net.head.weight.mask = random_mask(3, 8)
    assert list(find_masks(net)) == ["fc", "head"]
    assert list(find_masks(net, source="param.mask")) == ["head"]
    with pytest.raises(UsageError, match=r"no source 'param.maks'; did you mean 'param.mask'"):
        find_masks(net, source="param.maks")


def test_layers_are_chosen_by_glob():
    found = find_masks(Net(), from_zeros=True, layers="fc,he*")
    assert list(found) == ["fc", "head"]
    with pytest.raises(UsageError, match="no layer matches 'conv'"):
        find_masks(Net(), from_zeros=True, layers="conv")


def test_weights_are_left_out_on_request():
    assert all(layer.values is None for layer in find_masks(Net(), from_zeros=True, weights=False).values())


def test_tied_weights_are_found_once():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(5, 4)
            self.head = nn.Linear(4, 5, bias=False)
            self.head.weight = self.embedding.weight

    assert list(find_masks(Tied(), from_zeros=True)) == ["embedding"]
    tied = Tied()
    assert list(find_masks(tied, masks={tied.head.weight: torch.ones(5, 4)})) == ["embedding"]


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda net: torch.compile(net, backend="eager")])
def test_names_are_those_of_the_bare_model(wrap):
    net = Net()
    prune.random_unstructured(net.fc, "weight", 0.5)
    assert list(find_masks(wrap(net))) == ["fc"]
    assert list(find_masks(wrap(nn.DataParallel(net)))) == ["fc"]


def test_a_submodule_that_is_called_module_does_not_hide_another():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.ModuleDict({"fc": nn.Linear(2, 2)})
            self.fc = nn.Linear(3, 3)

    assert sorted(layer.size for layer in find_masks(Odd(), from_zeros=True).values()) == [4, 9]


def test_a_bare_layer_has_a_name_too():
    assert list(find_masks(nn.Linear(2, 2), from_zeros=True)) == ["weight"]


def test_attention_and_its_bare_parameter_are_found():
    found = find_masks(nn.MultiheadAttention(4, 2), from_zeros=True)
    assert list(found) == ["in_proj_weight", "out_proj"]
    assert found["in_proj_weight"].shape == (12, 4)


def test_a_transposed_convolution_is_turned_to_outputs_first():
    layer = nn.ConvTranspose2d(4, 6, 3, groups=2)
    found = find_masks(layer, masks={"weight": layer.weight > 0})["weight"]
    assert (found.shape, found.groups) == ((6, 2, 3, 3), 2)
    # the same map as a convolution: each group's weight with its first two axes exchanged
    weight = layer.weight.detach().numpy()
    expected = np.concatenate([weight[:2].swapaxes(0, 1), weight[2:].swapaxes(0, 1)])
    assert np.array_equal(found.mask, expected > 0)
    assert np.array_equal(found.weight, np.where(expected > 0, expected, 0))


def test_conv1d_of_transformers_is_stored_inputs_first():
    class Conv1D(nn.Module):  # the name and attribute of transformers.pytorch_utils.Conv1D
        def __init__(self, nf: int, nx: int) -> None:
            super().__init__()
            self.nf = nf
            self.weight = nn.Parameter(torch.randn(nx, nf))

    found = find_masks(nn.Sequential(Conv1D(6, 3)), from_zeros=True)["0"]
    assert (found.layout, found.shape) == ("io", (3, 6))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_float_type_are_read(dtype):
    net = Net().to(dtype)
    found = find_masks(net, from_zeros=True)["fc"]
    assert np.array_equal(found.weight, net.fc.weight.detach().double().numpy())


def test_no_tensor_is_kept_and_none_is_shared():
    net = Net()
    net.fc.register_buffer("weight_mask", torch.ones(8, 6))
    ref = weakref.ref(net.fc.weight)
    found = find_masks(net)["fc"]
    before = found.digest, found.values.copy()
    with torch.no_grad():
        net.fc.weight.fill_(7.0)
        net.fc.weight_mask.zero_()
    assert (found.digest, found.values.tolist()) == (before[0], before[1].tolist())
    assert found.mask.all()
    del net
    gc.collect()
    assert ref() is None


def test_looking_changes_neither_gradients_nor_random_state():
    net = Net()
    prune.random_unstructured(net.fc, "weight", 0.5)
    state = torch.get_rng_state()
    versions = [p._version for p in net.parameters()]
    find_masks(net, from_zeros=True)
    assert torch.equal(state, torch.get_rng_state())
    assert versions == [p._version for p in net.parameters()]
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_finds_nothing_in_a_dense_model_but_the_last(name):
    weights = [weight for weight in find_weights(Net()) if weight.tensor.ndim >= 2]
    found = list(SOURCES[name](weights, None))
    assert len(found) == (3 if name == "weight!=0" else 0)
    assert list(SOURCES)[-1] == "weight!=0"


def test_a_source_that_is_added_is_asked_before_zeros(monkeypatch: pytest.MonkeyPatch):
    def score_mask(weights, optimizer):
        return ((weight, weight.module.score > 0) for weight in weights if hasattr(weight.module, "score"))

    net = Net()
    net.fc.score = torch.ones(8, 6)
    monkeypatch.setitem(SOURCES, "score", score_mask)
    found = find_masks(net, from_zeros=True)
    assert [layer.source for layer in found.values()] == ["weight!=0", "score", "weight!=0"]


def test_the_layer_table_lists_what_could_be_recorded():
    net = Net()
    prune.random_unstructured(net.fc, "weight", 0.5)
    assert layer_table(net) == [
        {"name": "stem", "shape": [6, 2, 3, 3], "kind": "Conv2d", "depth": 0},
        {"name": "fc", "shape": [8, 6], "kind": "Linear", "depth": 1},
        {"name": "head", "shape": [3, 8], "kind": "Linear", "depth": 2},
    ]
