"""The device path against the numpy engine: on the processor always, on CUDA where there is one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from closed_forms import CLOSED_FORMS

from sift_graph.errors import MaskError, SpectrumError
from sift_graph.graph import BipartiteGraph
from sift_graph.masks import LayerMask
from sift_graph.spectrum import leading

torch = pytest.importorskip("torch")

from sift_graph.spectrum.cuda import leading_of_batch, leading_on_device  # noqa: E402

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")),
]


def graph_of(mask, weight=None):
    return BipartiteGraph.from_mask(LayerMask.from_dense("layer", mask, weight))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(40, 90), (700, 1500), (1500, 600)])
@pytest.mark.parametrize("certify", ["off", "gap", "full"])
def test_both_engines_agree_within_their_bounds(device, shape, certify):
    rng = np.random.default_rng(0)
    mask = rng.random(shape) < 0.1
    weight = rng.normal(size=shape)
    for heavy in (None, weight):
        ours = leading(graph_of(mask, weight), kind="binary" if heavy is None else "weighted", certify="full")
        bound = 1.04 * ours.sigma_2
        on_device = None if heavy is None else torch.from_numpy(heavy).to(device)
        theirs = leading_on_device(torch.from_numpy(mask).to(device), weight=on_device, certify=certify, bound=bound)
        np.testing.assert_allclose(theirs.sigma, ours.sigma, rtol=1e-6)
        assert (theirs.lo <= ours.hi).all()
        if certify != "off":
            assert (ours.lo <= theirs.hi).all()
            assert theirs.sigma_2_hi < bound
            assert theirs.certificate in {"sign", "full"}
        assert theirs.method == f"torch:{device}"


@pytest.mark.parametrize("device", DEVICES)
def test_a_value_above_the_bound_is_proven_from_below(device):
    mask = torch.from_numpy(np.random.default_rng(0).random((600, 900)) < 0.1).to(device)
    sigma_2 = leading_on_device(mask, certify="full").sigma_2
    spectrum = leading_on_device(mask, bound=0.99 * sigma_2)
    assert spectrum.certificate == "sign"
    assert spectrum.sigma_2_lo > 0.99 * sigma_2
    assert leading_on_device(mask).certificate == "none"


@pytest.mark.parametrize("device", DEVICES)
def test_equal_components_tie_although_one_vector_sees_one_copy(device):
    part = np.random.default_rng(1).random((320, 400)) < 0.1
    mask = np.zeros((640, 800), dtype=bool)
    mask[:320, :400] = mask[320:, 400:] = part
    sigma = np.linalg.svd(part.astype(float), compute_uv=False)
    spectrum = leading_on_device(torch.from_numpy(mask).to(device), certify="full")
    np.testing.assert_allclose(spectrum.sigma, [sigma[0], sigma[0]], rtol=1e-6)
    assert spectrum.sigma_2_hi >= sigma[0] * (1 - 1e-12)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_closed_forms(device, name):
    mask, sigma = CLOSED_FORMS[name]
    tensor = torch.from_numpy(np.ascontiguousarray(mask)).to(device)
    expected = np.array([*sigma, 0.0, 0.0][:3])
    for spectrum in (leading_on_device(tensor, k=3), leading_of_batch(tensor[None], k=3)[0]):
        np.testing.assert_allclose(spectrum.sigma, expected, atol=1e-6 * sigma[0])
        assert (spectrum.lo <= expected + 1e-12).all()
        assert (spectrum.hi >= expected - 1e-12).all()


@pytest.mark.parametrize("device", DEVICES)
def test_a_batch_is_each_of_its_masks(device):
    masks = np.random.default_rng(3).random((7, 20, 9)) < 0.4
    masks[4] = False
    found = leading_of_batch(torch.from_numpy(masks).to(device))
    for mask, spectrum in zip(masks, found, strict=True):
        if mask.any():
            np.testing.assert_allclose(spectrum.sigma, leading(graph_of(mask)).sigma, rtol=1e-9)
        else:
            assert spectrum.status == "empty"
            assert math.isnan(spectrum.sigma_1)


def test_what_is_not_a_mask_is_refused():
    ones = torch.ones(3, 4)
    with pytest.raises(MaskError, match=r"expected a bool mask .* found torch.float32 .* pass the mask itself"):
        leading_on_device(ones)
    with pytest.raises(MaskError, match=r"shape \(4, 3\) is not the mask's \(3, 4\)"):
        leading_on_device(ones.bool(), weight=ones.T)
    with pytest.raises(SpectrumError, match="'fc': weights on the mask are not finite"):
        leading_on_device(ones.bool(), weight=ones / 0, layer="fc")
    with pytest.raises(MaskError, match=r"expected a bool tensor \(batch, rows, columns\)"):
        leading_of_batch(ones)


def test_the_module_itself_loads_without_torch():
    import subprocess
    import sys

    script = "import sys, sift_graph.spectrum.cuda; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
