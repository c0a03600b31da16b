"""Masks of particular libraries: real torch where it has them, else objects built to the documented layouts."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.ao.pruning import WeightNormSparsifier
from torch.nn.utils import prune
from torch.sparse._semi_structured_conversions import sparse_semi_structured_from_dense_cutlass

from sift_graph.errors import MaskError, MaskWarning, UsageError
from sift_graph.sources import find_masks

GENERATOR = torch.Generator().manual_seed(1)


def random_mask(*shape: int) -> torch.Tensor:
    mask = torch.rand(shape, generator=GENERATOR) < 0.5
    mask.view(-1)[0] = True
    return mask


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, groups=2)
        self.fc = nn.Linear(6, 8)
        self.attention = nn.MultiheadAttention(8, 2)


class Tied(nn.Module):
    """A language model in little: the head reads with the table of the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.body = nn.Linear(4, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight


# --- tied weights, and sources that disagree


def test_a_mask_at_the_second_owner_of_a_tied_weight_is_found_under_its_name():
    net = Tied()
    prune.random_unstructured(net.head, "weight", 0.5)
    found = find_masks(net)
    assert list(found) == ["head"]
    assert np.array_equal(found["head"].mask, net.head.weight_mask.bool().numpy())
    assert np.array_equal(
        found["head"].values, net.embedding.weight.detach().numpy()[net.head.weight_mask.bool().numpy()]
    )
    assert list(find_masks(net, from_zeros=True)) == ["body", "head"]  # in its place, and not twice


def test_a_parametrization_at_the_second_owner_is_found_too():
    net = Tied()
    sparsifier = WeightNormSparsifier(sparsity_level=0.5, sparse_block_shape=(1, 1))
    sparsifier.prepare(net, [{"tensor_fqn": "head.weight"}])
    sparsifier.step()
    assert list(find_masks(net)) == ["head"]


def test_either_owner_may_be_named():
    net = Tied()
    mask = random_mask(5, 4)
    for name in ("embedding", "head"):
        for key in (name, f"{name}.weight", getattr(net, name)):
            found = find_masks(net, masks={key: mask})
            assert list(found) == [name]
            assert np.array_equal(found[name].mask, mask.numpy())
    assert list(find_masks(net, masks={"head": mask, "embedding": mask.clone()})) == ["head"]


def test_owners_that_disagree_are_told():
    net = Tied()
    for owner in (net.embedding, net.head):
        owner.register_buffer("weight_mask", random_mask(5, 4))
    with pytest.warns(MaskWarning, match="'mask_buffer' at layer 'embedding' is taken, and .* at layer 'head' is not"):
        found = find_masks(net)
    assert np.array_equal(found["embedding"].mask, net.embedding.weight_mask.numpy())


def test_two_libraries_that_disagree_are_both_named_with_the_layer():
    net = Net()
    net.fc.register_buffer("weight_mask", random_mask(8, 6))
    net.fc.weight.mask = net.fc.weight_mask.float()
    assert find_masks(net)["fc"].source == "mask_buffer"  # the same mask twice is no news
    net.fc.weight.mask[3] = 1 - net.fc.weight.mask[3]
    said = r"found by 'mask_buffer' at layer 'fc' is taken, and the one by 'param.mask' .* is not; name the right one"
    with pytest.warns(MaskWarning, match=said):
        found = find_masks(net)["fc"]
    assert np.array_equal(found.mask, net.fc.weight_mask.numpy())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for _ in range(3):
            find_masks(net)
    assert len(told) == 1
    assert find_masks(net, source="param.mask")["fc"].source == "param.mask"  # the way out that the warning names


# --- Hugging Face's Conv1D


@pytest.mark.parametrize("how", ["torch.nn.utils.prune", "torch.ao.pruning"])
def test_a_pruned_conv1d_of_transformers_keeps_its_inputs_first(how):
    conv1d = pytest.importorskip("transformers.pytorch_utils", reason="transformers is an extra").Conv1D
    net = nn.Sequential(conv1d(6, 3))
    if how == "torch.ao.pruning":
        sparsifier = WeightNormSparsifier(sparsity_level=0.5, sparse_block_shape=(1, 1))
        sparsifier.prepare(net, [{"tensor_fqn": "0.weight"}])
        sparsifier.step()
    else:
        prune.random_unstructured(net[0], "weight", 0.5)
    found = find_masks(net)["0"]
    assert (found.layout, found.shape, found.source) == ("io", (3, 6), how)


# --- MultiheadAttention


def test_the_fused_projection_of_attention_is_one_layer():
    net = Net()
    prune.l1_unstructured(net.attention, "in_proj_weight", 0.5)
    found = find_masks(net)
    assert list(found) == ["attention.in_proj_weight"]
    assert found["attention.in_proj_weight"].edges == 96
    assert np.array_equal(found["attention.in_proj_weight"].mask, net.attention.in_proj_weight_mask.bool().numpy())


def test_masks_of_asp():
    net = Net()
    net.attention.register_buffer("__in_proj_weight_mma_mask", random_mask(24, 8))
    net.fc.register_buffer("__weight_mma_mask", random_mask(8, 6))
    net.fc.register_buffer("__weight_mma_pruned_p", torch.zeros(8, 6))
    found = find_masks(net)
    assert list(found) == ["fc", "attention.in_proj_weight"]
    assert {layer.source for layer in found.values()} == {"asp"}
    assert np.array_equal(found["fc"].mask, net.fc._buffers["__weight_mma_mask"].numpy())


# --- objects beside the model


class Scheduler:
    """As rigl-torch's: to call it is to make a step of it."""

    def __init__(self, net: Net) -> None:
        self.W = [net.conv.weight, net.fc.weight]
        self.backward_masks = None

    def __call__(self) -> bool:
        raise AssertionError("looking made a step")


def test_a_rigl_scheduler():
    net = Net()
    scheduler = Scheduler(net)
    with pytest.raises(MaskError, match="none of its 8 parameters has a mask"):
        find_masks(net, masks=scheduler)
    scheduler.backward_masks = [None, random_mask(8, 6)]
    for found in (
        find_masks(net, masks=scheduler),
        find_masks(net, scheduler),
        find_masks(net, masks=lambda: scheduler),
    ):
        assert list(found) == ["fc"]  # None is a dense layer
        assert np.array_equal(found["fc"].mask, scheduler.backward_masks[1].numpy())
        assert found["fc"].source == "rigl_torch"
    scheduler.backward_masks.append(random_mask(2, 2))
    with pytest.raises(
        MaskError, match="Scheduler: expected a mask beside each weight, found 3 in backward_masks, 2 in W"
    ):
        find_masks(net, masks=scheduler)


def test_masks_of_biases_in_an_optimizer_are_left_out():
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for parameter in (net.fc.weight, net.fc.bias):
        optimizer.state[parameter]["mask"] = torch.ones_like(parameter)
    assert list(find_masks(net, masks=optimizer)) == ["fc"]


@pytest.mark.parametrize("named", ["layers", "layer_names"])
def test_a_handle_of_sparseml(named):
    class Handle:  # as ModuleParamPruningMask
        def __init__(self, net: Net) -> None:
            self.param_masks = [random_mask(24, 8).float(), random_mask(8, 6).float()]
            self.param_names = ["in_proj_weight", "weight"]
            self.layer_names = ["attention", "fc"]
            if named == "layers":
                self.layers, self.layer_names = [net.attention, net.fc], None

    net = Net()
    handle = Handle(net)
    found = find_masks(net, masks=handle)
    assert list(found) == ["fc", "attention.in_proj_weight"]
    assert np.array_equal(found["fc"].mask, handle.param_masks[1].bool().numpy())
    assert found["fc"].source == "sparseml"


def test_masks_by_module_as_grasp_keeps_them():
    net = Net()
    mask = random_mask(8, 6).float()
    found = find_masks(net, masks={net.fc: mask, net.conv: torch.ones(6, 2, 3, 3)})
    assert list(found) == ["conv", "fc"]
    assert np.array_equal(found["fc"].mask, mask.bool().numpy())


def test_an_object_without_masks_is_refused_with_what_would_do():
    with pytest.raises(UsageError, match=r"an object that keeps masks \(as `masks`, .* a RigL scheduler.*found object"):
        find_masks(Net(), masks=object())


# --- buffers beside the weight


def test_a_buffer_called_mask_of_the_shape_of_the_weight():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(4, 4))
            self.other = nn.Parameter(torch.randn(4, 4))
            self.register_buffer("mask", torch.ones(4, 4))

    net = Net()
    net.fc.register_buffer("mask", random_mask(8, 6))  # as LayerParamMasking's, and GSE's as floats
    net.attention.register_buffer("mask", torch.ones(5, 5))  # causal, say
    net.odd = Odd()  # whose mask it is cannot be told
    found = find_masks(net)
    assert list(found) == ["fc"]
    assert np.array_equal(found["fc"].mask, net.fc.mask.numpy())
    assert found["fc"].source == "module.mask"


def test_masks_of_modelopt():
    net = Net()
    net.fc.register_buffer("_weight_mask", random_mask(8, 6))
    net.conv.register_buffer("_weight_mask", None)  # dense
    found = find_masks(net)
    assert list(found) == ["fc"]
    assert (found["fc"].source, found["fc"].edges) == ("modelopt", int(net.fc._weight_mask.sum()))
    net.fc.is_sparse = False  # the mask is kept, and not applied
    with pytest.raises(MaskError, match="none of its 8 parameters has a mask"):
        find_masks(net)


def spartan(module: nn.Module, mask: torch.Tensor | None, threshold: float | None) -> None:
    module.register_buffer("mask", mask)
    module.register_buffer("hard_mask_threshold", None if threshold is None else torch.tensor(threshold))


def test_soft_masks_of_spartan_are_cut_at_their_threshold():
    net = Net()
    soft = torch.rand(8, 6, generator=GENERATOR)
    soft[0] = 0.0
    spartan(net.fc, soft, 0.25)
    found = find_masks(net)["fc"]
    assert found.source == "spartan"
    assert np.array_equal(found.mask, (soft >= 0.25).numpy())
    effective = (net.fc.weight.detach() * soft).numpy()
    assert np.array_equal(found.weight, np.where(soft.numpy() >= 0.25, effective, 0))
    for threshold in (0.0, None):  # zero keeps all but what is zero
        spartan(net.fc, soft, threshold)
        assert np.array_equal(find_masks(net)["fc"].mask, (soft > 0).numpy())


def test_soft_masks_of_spartan_stand_for_blocks():
    net = Net()
    soft = torch.tensor([[0.9, 0.1, 0.4], [0.0, 0.5, 0.2]])  # blocks of 4 by 2
    spartan(net.fc, soft, 0.4)
    spartan(net.attention, torch.tensor([[0.1], [0.9], [0.3]]), 0.3)  # blocks of 8 by 8: query, key, value
    found = find_masks(net)
    assert list(found) == ["fc", "attention.in_proj_weight"]
    expected = np.kron([[1, 0, 1], [0, 1, 0]], np.ones((4, 2)))
    assert np.array_equal(found["fc"].mask, expected == 1)
    assert found["attention.in_proj_weight"].mask.all(axis=1).tolist() == [False] * 8 + [True] * 16
    spartan(net.fc, torch.ones(3, 3), 0.5)  # does not divide the weight
    assert "fc" not in find_masks(net)


def test_separate_projections_of_spartan_have_their_parts_of_the_mask():
    class Attention(nn.MultiheadAttention):
        q_proj_mask = property(lambda self: self.mask[:64].view(8, 8))
        k_proj_mask = property(lambda self: self.mask[64:96].view(8, 4))
        v_proj_mask = property(lambda self: self.mask[96:].view(8, 4))

    attention = Attention(8, 2, kdim=4, vdim=4)
    flat = torch.rand(128, generator=GENERATOR)
    spartan(attention, flat, 0.5)
    found = find_masks(attention)
    assert list(found) == ["q_proj_weight", "k_proj_weight", "v_proj_weight"]
    assert np.array_equal(found["k_proj_weight"].mask, (flat[64:96].view(8, 4) >= 0.5).numpy())


# --- sparse tensors

LAYOUTS = {
    "coo": lambda dense: dense.to_sparse(),
    "csr": lambda dense: dense.to_sparse_csr(),
    "csc": lambda dense: dense.to_sparse_csc(),
    "bsr": lambda dense: dense.to_sparse_bsr((2, 3)),
    "bsc": lambda dense: dense.to_sparse_bsc((2, 3)),
}


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("source", ["auto", "weight!=0"])
def test_the_stored_entries_of_a_sparse_weight_are_its_mask(layout, source):
    pattern = np.kron(random_mask(4, 2).numpy(), np.ones((2, 3))) == 1
    sparse = LAYOUTS[layout](torch.from_numpy(pattern).float())
    values = sparse._values() if layout == "coo" else sparse.values()
    values.copy_(torch.arange(values.numel()).reshape(values.shape))  # the first is a zero that is stored
    net = Net()
    net.fc.weight = nn.Parameter(sparse)
    found = find_masks(net, source=source, layers="fc")["fc"]
    assert found.source == ("sparse_tensor" if source == "auto" else source)
    assert np.array_equal(found.mask, pattern)
    assert np.array_equal(found.weight, sparse.to_dense().numpy())
    assert np.count_nonzero(found.weight) == found.edges - 1


@pytest.mark.filterwarnings("ignore:The PyTorch API of SparseSemiStructuredTensor is in prototype stage")
def test_a_two_in_four_tensor_is_read_through_its_values():
    dense = torch.zeros(32, 64, dtype=torch.float16)
    dense[:, 1::4] = 1.5
    dense[:, 2::4] = -2.0
    packed, meta = sparse_semi_structured_from_dense_cutlass(dense)
    tensor = torch.sparse.SparseSemiStructuredTensorCUTLASS(dense.shape, packed, meta, None, None, None)
    net = nn.Sequential(nn.Linear(64, 32))
    net[0].weight = nn.Parameter(tensor)
    found = find_masks(net)["0"]
    assert found.source == "sparse_tensor"
    assert np.array_equal(found.weight, dense.numpy())
    assert np.array_equal(found.mask, dense.numpy() != 0)
