"""Large masks are packed by compiled code: the same bits, values and refusals as numpy's way gives small ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from sift_graph.arrays import LARGE
from sift_graph.errors import MaskError
from sift_graph.masks import LayerMask
from sift_graph.pack_kernels import pack_nonzero, pick
from sift_graph.sources import find_masked, find_masks

RNG = np.random.default_rng(0)
SIDE = 601  # not a multiple of anything, and SIDE squared is large
MASK = RNG.random((SIDE, SIDE)) < 0.3
WEIGHT = RNG.standard_normal((SIDE, SIDE)).astype(np.float32)


def packed(mask: np.ndarray) -> np.ndarray:
    return np.packbits(mask, axis=None, bitorder="little")


@pytest.mark.parametrize("size", [0, 1, 7, 15, 16, 17, 63, 64, 65, 200])
@pytest.mark.parametrize("density", [0.0, 0.4, 1.0])
def test_bits_and_values_of_any_length(size, density):
    kept = RNG.random(size) < density
    bits, are_ones = pack_nonzero(kept.astype(np.float32))
    assert are_ones
    assert np.array_equal(bits, packed(kept))
    for dtype in (np.float32, np.float64):
        values = RNG.standard_normal(size).astype(dtype)
        out = np.full(int(kept.sum()) + 1, 7, dtype)
        pick(bits, values, out)
        assert np.array_equal(out, [*values[kept], 7])


@pytest.mark.parametrize("odd", [2.0, -1.0, 0.5, 1e-40, np.nan, np.inf])
@pytest.mark.parametrize("at", [0, 70, 99])
def test_what_is_neither_0_nor_1_is_seen_wherever_it_stands(odd, at):
    values = np.ones(100, np.float32)
    values[at] = odd
    bits, are_ones = pack_nonzero(values)
    assert not are_ones
    assert np.array_equal(bits, packed(values != 0))


def test_a_negative_zero_is_zero():
    bits, are_ones = pack_nonzero(np.array([-0.0, 1.0], np.float32))
    assert (bits.tolist(), are_ones) == ([2], True)


@pytest.mark.parametrize(
    "given",
    [
        MASK,
        MASK.astype(np.float32),
        MASK.astype(np.int8),
        MASK.astype(np.uint8),
        MASK.astype(np.float64),
        MASK.T.astype(np.float32).T,  # not contiguous
        torch.from_numpy(MASK).float(),
        torch.from_numpy(MASK).bfloat16(),
    ],
    ids=lambda given: f"{type(given).__name__}-{given.dtype}",
)
@pytest.mark.parametrize("weight", [WEIGHT, WEIGHT.astype(np.float64), torch.from_numpy(WEIGHT).half(), WEIGHT.T.T])
def test_a_large_mask_of_any_kind_with_any_weight(given, weight):
    layer = LayerMask.from_dense("fc", given, weight)
    assert np.array_equal(layer.bits, packed(MASK))
    assert layer.edges == MASK.sum()
    assert np.array_equal(layer.values, np.asarray(weight)[MASK])
    assert layer.values.dtype == (np.float64 if weight.dtype == np.float64 else np.float32)


def test_a_large_mask_that_is_none_is_refused_with_its_place():
    odd = MASK.astype(np.float32)
    odd[3, 5] = 0.5
    with pytest.raises(MaskError, match=r"layer 'fc': expected a mask of zeros and ones, found 0.5 at \(3, 5\) and 1"):
        LayerMask.from_dense("fc", odd)
    with pytest.raises(MaskError, match=r"found 2 at \(0, 0\)"):
        LayerMask.from_dense("fc", np.full((4, 4), 2, np.int8))
    with pytest.raises(MaskError, match=r"found -1 at \(0, 0\)"):
        LayerMask.from_dense("fc", np.full((4, 4), -1, np.int8))
    with pytest.raises(MaskError, match=r"found shape \(361201,\)"):
        LayerMask.from_dense("fc", MASK.astype(np.float32).reshape(-1))
    with pytest.raises(MaskError, match=r"the mask has shape \(601, 601\) and the weight \(601, 600\)"):
        LayerMask.from_dense("fc", MASK, WEIGHT[:, 1:])


@pytest.mark.parametrize("shape", [(SIDE, SIDE), (5, 7)])
def test_the_support_of_a_weight(shape):
    weight = RNG.standard_normal(shape).astype(np.float32)
    weight[RNG.random(shape) < 0.7] = 0
    weight[0, 0] = np.nan
    for given in (weight, torch.from_numpy(weight), torch.from_numpy(weight).double()):
        assert np.array_equal(LayerMask.from_nonzero("fc", given).mask, weight != 0)
    with pytest.raises(MaskError, match="2 or more axes"):
        LayerMask.from_nonzero("fc", weight.reshape(-1))


def test_weights_are_put_on_and_taken_off_without_counting_again():
    layer = LayerMask.from_dense("fc", MASK)
    digest, edges = layer.digest, layer.edges
    full = layer.with_weight(WEIGHT)
    assert full.__dict__["digest"] is digest
    assert full.__dict__["edges"] == edges
    assert full.without_values().values is None
    assert layer.without_values() is layer
    with pytest.raises(MaskError, match="expected a real weight, found dtype complex64"):
        layer.with_weight(WEIGHT.astype(np.complex64))


def test_weights_are_read_only_when_asked_for():
    model = nn.Linear(400, 400)
    prune.random_unstructured(model, "weight", 0.5)
    (found,) = find_masked(model).values()
    assert found.mask.values is None
    complete = found.complete()
    kept = model.weight_mask.numpy().astype(bool)
    assert np.array_equal(complete.values, model.weight_orig.detach().numpy()[kept])
    given = LayerMask.from_dense("weight", kept, model.weight_orig)
    (one,) = find_masked(model, masks={"weight": given}).values()
    assert one.mask.values is None
    assert np.array_equal(one.complete().values, complete.values)
    (without,) = find_masks(model, masks={"weight": given}, weights=False).values()
    assert without.values is None


def test_the_benchmark_of_the_recorder_runs(monkeypatch, capsys):
    from analysis.benchmarks import recorder

    threads = torch.get_num_threads()
    monkeypatch.setattr("sys.argv", ["recorder", "--quick", "--repeats", "1"])
    recorder.main()
    torch.set_num_threads(threads)
    lines = capsys.readouterr().out.splitlines()
    assert "20 layers, 1.1 M weights" in lines[0]
    assert sum(line.startswith("P11") for line in lines) == 3
    assert any("others: safetensors of the bool masks" in line and "1.1 MB of 1.1 MB" in line for line in lines)


def test_the_support_of_large_and_transposed_weights_of_a_model():
    model = nn.Sequential(nn.ConvTranspose2d(64, 128, 6, groups=2), nn.Linear(3, 2))
    assert model[0].weight.numel() >= LARGE
    with torch.no_grad():
        model[0].weight[torch.rand_like(model[0].weight) < 0.5] = 0
    found = find_masks(model, from_zeros=True)
    weight = model[0].weight.detach()
    turned = weight.reshape(2, 32, 64, 6, 6).transpose(1, 2).reshape(128, 32, 6, 6).numpy()
    assert np.array_equal(found["0"].mask, turned != 0)
    assert np.array_equal(found["0"].values, turned[turned != 0])
    assert (found["0"].groups, found["0"].source, found["1"].edges) == (2, "weight!=0", 6)


def test_a_mask_that_is_read_only_takes_weights_too():
    bits = np.frombuffer(packed(MASK).tobytes(), dtype=np.uint8)
    weight = WEIGHT.copy()
    weight.setflags(write=False)
    layer = LayerMask("fc", MASK.shape, bits).with_weight(weight)
    assert np.array_equal(layer.values, WEIGHT[MASK])
    frozen = MASK.astype(np.float32)
    frozen.setflags(write=False)
    assert np.array_equal(LayerMask.from_dense("fc", frozen).bits, bits)
