"""What a mask is: packed and unpacked, it is the same; what is none, is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sift_graph.errors import MaskError, UsageError
from sift_graph.masks import LayerMask, Snapshot, layer_name, match_layers
from tests.strategies import layer_masks, shapes

EYE = np.eye(3, dtype=bool)


@given(hnp.arrays(np.bool_, shapes))
def test_unpacking_gives_the_mask_back(mask):
    packed = LayerMask.from_dense("fc", mask)
    assert np.array_equal(packed.mask, mask)
    assert packed.edges == mask.sum()
    assert packed.size == mask.size
    assert packed.density == mask.mean()


@given(hnp.arrays(np.bool_, shapes))
def test_bits_are_those_of_the_documented_format(mask):
    bits = LayerMask.from_dense("fc", mask).bits
    flat = mask.reshape(-1)
    assert [bool(bits[i // 8] >> (i % 8) & 1) for i in range(flat.size)] == flat.tolist()


@given(st.data())
def test_weights_keep_their_values_and_places(data):
    mask = data.draw(hnp.arrays(np.bool_, shapes))
    dtype = data.draw(st.sampled_from([np.float16, np.float32, np.float64]))
    weight = data.draw(hnp.arrays(dtype, mask.shape))
    layer = LayerMask.from_dense("fc", mask, weight)
    expected = np.where(mask, weight, np.array(0, dtype=dtype))
    assert np.array_equal(layer.weight, expected, equal_nan=True)
    assert layer.values.dtype == (np.float64 if dtype == np.float64 else np.float32)


@given(layer_masks(), layer_masks())
def test_the_digest_tells_masks_apart(one, other):
    assert (one.digest == other.digest) == np.array_equal(one.bits, other.bits)


@given(hnp.arrays(np.bool_, shapes), st.sampled_from([np.uint8, np.int64, np.float16, np.float32, np.float64]))
def test_zeros_and_ones_of_any_type_are_a_mask(mask, dtype):
    assert LayerMask.from_dense("fc", mask.astype(dtype)).digest == LayerMask.from_dense("fc", mask).digest


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_order_in_memory_does_not_matter(order):
    mask = np.random.default_rng(0).random((5, 7, 3)) < 0.5
    weight = np.random.default_rng(1).standard_normal((5, 7, 3))
    layer = LayerMask.from_dense("fc", np.asarray(mask, order=order), np.asarray(weight, order=order))
    assert np.array_equal(layer.mask, mask)
    assert np.array_equal(layer.weight, weight * mask)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("convert", [lambda t: t, lambda t: t.to_sparse(), lambda t: t.to_sparse_csr(), torch.clone])
def test_tensors_dense_or_sparse_are_read(convert):
    mask = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    layer = LayerMask.from_dense("fc", convert(mask), weight)
    assert layer.mask.tolist() == mask.bool().tolist()
    assert layer.values.tolist() == [0.0, 2.0, 5.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float16])
def test_tensors_of_types_that_numpy_lacks_are_read(dtype):
    weight = torch.tensor([[0.5, 1.0], [2.0, -4.0]]).to(dtype)
    assert LayerMask.from_dense("fc", np.ones((2, 2)), weight).values.tolist() == [0.5, 1.0, 2.0, -4.0]


def test_it_holds_a_copy_not_the_live_arrays():
    mask, weight = EYE.copy(), torch.ones(3, 3)
    layer = LayerMask.from_dense("fc", mask, weight)
    mask[:] = False
    weight.zero_()
    assert layer.edges == 3
    assert layer.values.tolist() == [1.0, 1.0, 1.0]


def test_a_newborn_weight_of_zero_keeps_its_place():
    layer = LayerMask.from_dense("fc", EYE, np.zeros((3, 3)))
    assert layer.edges == 3
    assert layer.values.tolist() == [0.0, 0.0, 0.0]


def test_infinite_and_undefined_weights_are_kept():
    layer = LayerMask.from_dense("fc", EYE, np.diag([np.nan, np.inf, 1.0]))
    assert np.isnan(layer.values[0])
    assert np.isinf(layer.values[1])


@pytest.mark.parametrize(
    ("mask", "options", "message"),
    [
        (np.eye(3) * 2, {}, r"layer 'fc': expected a mask of zeros and ones, found 2\.0 at \(0, 0\) and 3 such"),
        (np.array([[0.0, np.nan]]), {}, r"found nan at \(0, 1\) and 1 such entries.*mask >= threshold"),
        (np.ones(4), {}, r"layer 'fc': expected a mask with 2 or more axes, none of them empty, found shape \(4,\)"),
        (np.ones((0, 4)), {}, r"none of them empty, found shape \(0, 4\)"),
        (np.float64(1.0), {}, r"2 or more axes, none of them empty, found shape \(\)"),
        (np.array([["a"]]), {}, r"layer 'fc': expected a mask of bools or of zeros and ones, found dtype <U1"),
        (np.eye(3) * 1j, {}, r"found dtype complex128"),
        (EYE, {"weight": np.ones((3, 4))}, r"the mask has shape \(3, 3\) and the weight \(3, 4\)"),
        (EYE, {"weight": EYE * 1j}, r"expected a real weight, found dtype complex128"),
        (EYE, {"groups": 2}, r"2 groups do not divide its 3 outputs"),
        (EYE, {"groups": 0}, r"0 groups do not divide its 3 outputs"),
        (EYE, {"layout": "hwio"}, r"expected layout 'oi' or 'io', found 'hwio'"),
    ],
)
def test_what_is_no_mask_is_refused(mask, options, message):
    with pytest.raises(MaskError, match=message):
        LayerMask.from_dense("fc", mask, **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": np.zeros(1, dtype=np.uint8)}, "expected 2 packed bytes for shape"),
        ({"bits": np.zeros(2, dtype=np.int64)}, "expected 2 packed bytes for shape.*found int64"),
        ({"bits": np.array([0, 255], dtype=np.uint8)}, "bits beyond its 9 entries.*bitorder='little'"),
        ({"values": np.zeros(2, dtype=np.float32)}, r"expected 1 weights, one for each kept entry, found shape \(2,\)"),
        ({"values": np.zeros(1, dtype=np.int64)}, "expected weights of float32 or float64, found int64"),
        ({"layer": 3}, "expected the name of a layer, found 3"),
        ({"layer": "\ud800"}, "the name is not valid Unicode"),
    ],
)
def test_packed_parts_that_do_not_fit_are_refused(arguments, message):
    good = {"layer": "fc", "shape": (3, 3), "bits": np.array([1, 0], dtype=np.uint8)}
    assert LayerMask(**good).edges == 1
    with pytest.raises(MaskError, match=message):
        LayerMask(**{**good, **arguments})


def test_numbers_of_numpy_become_plain_ones():
    layer = LayerMask("fc", (np.int64(3), np.int64(3)), np.zeros(2, dtype=np.uint8), groups=np.int64(3))
    assert [type(n) for n in (*layer.shape, layer.groups)] == [int, int, int]
    assert type(Snapshot(np.int64(4), {}).step) is int


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": -1}, "expected a step of 0 or more, found -1"),
        ({"step": 1.5}, "expected a whole number of steps, found 1.5"),
        ({"epoch": float("nan")}, "step 1: expected a finite epoch, found nan; pass None"),
        ({"layers": {"other": LayerMask.from_dense("fc", EYE)}}, "layer 'fc' stands under the name 'other'"),
    ],
)
def test_a_snapshot_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(MaskError, match=message):
        Snapshot(**{"step": 1, "layers": {}, **arguments})


@pytest.mark.parametrize(
    ("parameter", "layer"),
    [
        ("conv.weight", "conv"),
        ("module.conv.weight", "conv"),
        ("module.module._orig_mod.conv", "conv"),
        ("_fsdp_wrapped_module.block._fsdp_wrapped_module.conv.weight", "block.conv"),
        ("block.module.conv.weight", "block.module.conv"),
        ("attention.in_proj_weight", "attention.in_proj_weight"),
        ("weight", "weight"),
        ("module", "module"),
        ("", ""),
    ],
)
def test_layer_names_lose_what_wrappers_add(parameter, layer):
    assert layer_name(parameter) == layer
    assert layer_name(layer) == layer


def test_layers_are_matched_in_network_order():
    names = ["stem", "stage1.conv", "stage2.conv", "head[0]", "a,b"]
    assert match_layers(names, None) == names
    assert match_layers(names, "*") == names
    assert match_layers(names, "stage?.conv, stem") == ["stem", "stage1.conv", "stage2.conv"]
    assert match_layers(names, "head[0]") == ["head[0]"]
    assert match_layers(names, "a,b") == ["a,b"]
    with pytest.raises(UsageError, match="no layer matches 'stme'; did you mean 'stem'"):
        match_layers(names, "stme")
