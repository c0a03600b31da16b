"""Importing what particular libraries write: jaxpruner, compressed-tensors, ASP, ModelOpt, sparse tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sift_graph.errors import MaskError, UsageError
from sift_graph.importers import import_masks, read_masks
from sift_graph.store import RunReader

RNG = np.random.default_rng(3)
DENSE = RNG.random((5, 7)) < 0.4
CONV = RNG.random((3, 3, 4, 6)) < 0.4  # HWIO


def save_npz(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)
    return path


# --- jaxpruner


def test_masks_of_jaxpruner_by_the_path_of_the_tree(tmp_path: Path):
    masks = {"params/Dense_0/kernel": DENSE.astype(np.uint8), "params/block/Conv_0/kernel": CONV.astype(np.uint8)}
    masks["params/Dense_1/kernel"] = None
    contents = read_masks(save_npz(tmp_path / "masks.npz", **masks))
    assert list(contents.layers) == ["Dense_0", "block/Conv_0"]
    assert any("'params/Dense_1/kernel' is a Python object (None, a dense layer" in what for what in contents.skipped)
    for layer, mask in zip(contents.layers.values(), (DENSE, CONV), strict=True):
        assert (layer.layout, layer.source) == ("io", "file")
        assert np.array_equal(layer.mask, mask)


def test_inputs_come_first_in_a_kernel_of_flax(tmp_path: Path):
    """An input row of [in, out] is a left vertex, as a row of HWIO's third axis at one position is."""
    from sift_graph.graph import BipartiteGraph

    layers = read_masks(save_npz(tmp_path / "a.npz", **{"a/kernel": DENSE, "c/kernel": CONV})).layers
    graph = BipartiteGraph.from_mask(layers["a"])
    assert (graph.n_left, graph.n_right) == (5, 7)
    assert np.array_equal(graph.right_degree, DENSE.sum(axis=0))
    graph = BipartiteGraph.from_mask(layers["c"])
    assert (graph.n_left, graph.n_right) == (36, 6)
    assert np.array_equal(graph.right_degree, CONV.sum(axis=(0, 1, 2)))


def test_packed_masks_of_jaxpruner_take_their_shape_from_the_file_or_the_weight(tmp_path: Path):
    arrays = {
        "mask/params/Dense_0/kernel": np.packbits(DENSE),
        "shape/params/Dense_0/kernel": DENSE.shape,
        "mask/params/Conv_0/kernel": np.packbits(CONV),
        "weight/params/Conv_0/kernel": np.full(CONV.shape, 2.0),
        "bare/kernel": np.packbits(DENSE.T),
        "shape/bare/kernel": DENSE.T.shape,
    }
    layers = read_masks(save_npz(tmp_path / "packed.npz", **arrays)).layers
    assert np.array_equal(layers["Dense_0"].mask, DENSE)
    assert np.array_equal(layers["Conv_0"].mask, CONV)
    assert np.array_equal(layers["Conv_0"].weight, CONV * 2.0)
    assert np.array_equal(layers["bare"].mask, DENSE.T)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mask/a": np.packbits(DENSE)}, r"'mask/a' has shape \(5,\), expected 2 or more axes.*shape/<layer> beside"),
        ({"mask/a": np.packbits(DENSE), "shape/a": (5, 9)}, r"layer 'a': a packed mask of shape \(5, 9\) has 6 bytes"),
        ({"mask/a": np.packbits(DENSE) | 1, "shape/a": (5, 7)}, r"'mask/a' has bits beyond its 35 entries"),
        (
            {"mask/a": np.ones(5), "shape/a": (5, 7)},
            r"expected 'mask/a' of uint8, as np.packbits gives it, found float64",
        ),
        ({"mask/a": np.packbits(DENSE), "shape/a": (35,)}, r"'shape/a': expected the shape of a weight, 2 to 8 whole"),
        ({"mask/a": np.packbits(DENSE), "shape/a": (5.0, 7.0)}, r"'shape/a': expected the shape .* found float64"),
        ({"mask/a": np.ones(3), "weight/a": np.ones(3)}, r"'mask/a' has shape \(3,\), expected 2 or more axes"),
        ({"mask/a": DENSE, "layout/a": "hwio"}, r"'layout/a': expected the text 'oi' or 'io', found 'hwio'"),
        ({"masks": {"a": DENSE}}, r"'masks' hold Python objects: save each mask of a tree under a key of its own"),
    ],
)
def test_what_cannot_be_unpacked_is_refused(tmp_path: Path, arrays, message):
    with pytest.raises(MaskError, match=message) as caught:
        read_masks(save_npz(tmp_path / "bad.npz", **arrays))
    assert str(caught.value).startswith(str(tmp_path / "bad.npz"))


def test_the_layout_is_told_by_the_file_or_by_the_user(tmp_path: Path):
    file = save_npz(
        tmp_path / "a.npz",
        **{"mask/a": DENSE, "layout/a": "io", "mask/b": DENSE, "mask/c/kernel": CONV, "layout/c": "oi"},
    )
    assert [layer.layout for layer in read_masks(file).layers.values()] == ["io", "oi", "oi"]
    assert [layer.layout for layer in read_masks(file, layout="io").layers.values()] == ["io", "io", "oi"]
    zeros = save_npz(tmp_path / "w.npz", **{"params/d/kernel": CONV * 1.5})
    assert read_masks(zeros, from_zeros=True).layers["d"].layout == "io"
    import_masks(file, tmp_path / "run", layout="io")
    assert RunReader(tmp_path / "run").load_layer(0, "b").layout == "io"
    with pytest.raises(UsageError, match=r"layout: expected 'oi' .* or 'io' .*found 'hwio'"):
        import_masks(file, tmp_path / "other", layout="hwio")


def test_one_array_is_the_mask_of_the_layer_that_its_file_is_named_for(tmp_path: Path):
    for step in (100, 200):
        np.save(tmp_path / f"fc1_step{step}.npy", DENSE.astype(np.uint8))
    result = import_masks(sorted(tmp_path.glob("*.npy")), tmp_path / "run")
    assert (result.layers, result.steps) == (("fc1",), (100, 200))
    assert np.array_equal(RunReader(tmp_path / "run").load_layer(200, "fc1").mask, DENSE)
    np.save(tmp_path / "conv2.npy", DENSE)
    assert list(read_masks(tmp_path / "conv2.npy").layers) == ["conv2"]


def test_one_array_that_is_no_mask_is_refused(tmp_path: Path):
    np.save(tmp_path / "fc.npy", DENSE * 0.5)
    with pytest.raises(MaskError, match=r"found no masks among 1 arrays \('fc'\); expected an array of bool or uint8"):
        read_masks(tmp_path / "fc.npy")
    np.save(tmp_path / "tree.npy", {"fc": DENSE}, allow_pickle=True)
    with pytest.raises(MaskError, match=r"tree\.npy: holds a Python object, which is never unpickled"):
        read_masks(tmp_path / "tree.npy")
    np.save(tmp_path / "cut.npy", DENSE)
    for keep in (0, 5, 100, 150):
        (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:keep])
        with pytest.raises(MaskError, match=r"cut\.npy: .*(truncated|cannot hold)"):
            read_masks(tmp_path / "cut.npy")
        np.save(tmp_path / "cut.npy", DENSE)


# --- compressed-tensors


def compressed(name: str, weight: torch.Tensor, *, two_in_four: bool = False) -> dict[str, torch.Tensor]:
    """Lay a weight out as the two bitmask compressors of compressed-tensors do."""
    kept = weight != 0
    bitmask = torch.from_numpy(np.packbits(kept.numpy(), axis=-1, bitorder="little"))
    if two_in_four:
        return {
            f"{name}.shape": torch.tensor(weight.shape).reshape(-1, 1),
            f"{name}.compressed": weight[kept].reshape(len(weight), -1),
            f"{name}.bitmask": bitmask,
        }
    counts = kept.sum(dim=-1)
    return {
        f"{name}.weight.shape": torch.tensor(weight.shape),
        f"{name}.weight.compressed": weight[kept],
        f"{name}.weight.bitmask": bitmask,
        f"{name}.weight.row_offsets": torch.cumsum(counts, 0) - counts,
    }


def sparse_weight(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.where(RNG.random(shape) < 0.5, RNG.standard_normal(shape), 0)).to(torch.float32)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_bitmask_checkpoints_of_compressed_tensors(tmp_path: Path, suffix):
    first, conv, last = sparse_weight(6, 11), sparse_weight(4, 3, 3, 3), torch.tensor([[1.0, 0, 2, 0, 0, 3, 4, 0]] * 3)
    state = {**compressed("model.0", first), **compressed("model.1", conv), "model.2.weight": torch.ones(3, 3)}
    state |= compressed("model.3", last, two_in_four=True)
    file = tmp_path / f"model{suffix}"
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    contents = read_masks(file)
    assert list(contents.layers) == ["model.0", "model.1", "model.3"]
    for layer, weight in zip(contents.layers.values(), (first, conv, last), strict=True):
        assert np.array_equal(layer.mask, weight.numpy() != 0)
        assert np.array_equal(layer.weight, weight.numpy())
    assert [what for what in contents.skipped if "model.2" not in what] == []


def test_the_parts_of_a_bitmask_are_no_weights_of_their_own(tmp_path: Path):
    save_file(compressed("fc", torch.eye(8)[:, :4].contiguous()), tmp_path / "a.safetensors")
    assert list(read_masks(tmp_path / "a.safetensors", from_zeros=True).layers) == ["fc"]


def test_values_in_bfloat16_and_quantised_ones(tmp_path: Path):
    weight = sparse_weight(4, 9).to(torch.bfloat16)
    state = {**compressed("a", weight), **compressed("b", sparse_weight(2, 8))}
    state["b.weight_scale"] = torch.ones(2, 1)
    save_file(state, tmp_path / "a.safetensors")
    contents = read_masks(tmp_path / "a.safetensors")
    assert np.array_equal(contents.layers["a"].weight, weight.float().numpy())
    assert contents.layers["b"].values is None
    assert any("'b.weight.compressed' holds quantised values" in what for what in contents.skipped)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        (
            "shape",
            torch.tensor([4, 20]),
            r"the bitmask of a weight of shape \(4, 20\) has shape \(4, 3\), .* has \(4, 2\)",
        ),
        ("shape", torch.tensor([4]), r"'fc.weight.shape': expected the shape of a weight"),
        (
            "compressed",
            torch.ones(3),
            r"layer 'fc': the bitmask keeps \d+ entries, 'fc.weight.compressed' holds 3 values",
        ),
        ("bitmask", torch.full((4, 2), 255).to(torch.uint8), r"'fc.weight.bitmask' has bits beyond its 9 entries"),
        ("bitmask", torch.ones(4, 2), r"layer 'fc': expected 'fc.weight.bitmask' of uint8, found float32"),
    ],
)
def test_a_bitmask_that_does_not_fit_is_refused(tmp_path: Path, part, value, message):
    state = {**compressed("fc", sparse_weight(4, 9)), f"fc.weight.{part}": value}
    save_file(state, tmp_path / "bad.safetensors")
    with pytest.raises(MaskError, match=message):
        read_masks(tmp_path / "bad.safetensors")


# --- state dicts


def test_state_dicts_of_other_libraries(tmp_path: Path):
    weight, mask = torch.randn(4, 6), torch.from_numpy(RNG.random((4, 6)) < 0.5)
    state = {f"{name}.weight": weight for name in ("asp", "modelopt", "layer", "private")}
    state |= {"asp.__weight_mma_mask": mask, "modelopt._weight_mask": mask, "layer.mask": mask}
    state |= {"private._weight": weight, "private._weight_mask": mask}  # a parameter that is called _weight
    state |= {f"ao.parametrizations.weight.{what}": weight for what in ("original", "0.dense_grad")}  # sparsimony
    state |= {"ao.parametrizations.weight.0.mask": mask}
    state |= {"causal.weight": weight, "causal.mask": torch.ones(4, 4)}
    torch.save(state, tmp_path / "a.pt")
    layers = read_masks(tmp_path / "a.pt").layers
    assert sorted(layers) == ["ao", "asp", "layer", "modelopt", "private._weight"]
    for layer in layers.values():
        assert np.array_equal(layer.mask, mask.numpy())
        assert np.array_equal(layer.weight, np.where(mask, weight, 0))
    assert sorted(read_masks(tmp_path / "a.pt", from_zeros=True).layers)[-2:] == ["private", "private._weight"]


def test_a_state_dict_saved_as_arrays(tmp_path: Path):
    weight = RNG.standard_normal((4, 6))
    mask = RNG.random((4, 6)) < 0.5
    arrays = {"a.weight_orig": weight, "a.weight_mask": mask.astype(float), "a.bias": np.ones(4), "b.weight": weight}
    arrays |= {"c.weight": weight, "c.__weight_mma_mask": mask, "attn.causal_mask": np.ones((2, 2))}
    file = save_npz(tmp_path / "state.npz", **arrays)
    layers = read_masks(file).layers
    assert sorted(layers) == ["a", "c"]
    for layer in layers.values():
        assert np.array_equal(layer.mask, mask)
        assert np.array_equal(layer.weight, np.where(mask, weight, 0))
    assert sorted(read_masks(file, from_zeros=True).layers) == ["a", "attn.causal_mask", "b", "c"]


def test_names_with_line_breaks_are_names_still(tmp_path: Path):
    torch.save({"a\nb.weight": torch.ones(2, 2), "a\nb.weight_mask": torch.eye(2)}, tmp_path / "a.pt")
    assert list(read_masks(tmp_path / "a.pt").layers) == ["a\nb"]


def test_two_masks_of_one_weight_in_a_file(tmp_path: Path):
    state = {"fc.weight": torch.randn(3, 3), "fc.weight_mask": torch.eye(3), "fc.mask": torch.ones(3, 3)}
    torch.save(state, tmp_path / "a.pt")
    contents = read_masks(tmp_path / "a.pt")
    assert contents.layers["fc"].edges == 3
    assert "'fc.mask' is a second mask of 'fc': 'fc.weight_mask' is taken" in contents.skipped


class MaskOptimizer(torch.optim.Optimizer):
    """As cbsparse's: names in the parameter groups, masks in the state."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__([dict(model.named_parameters())[name] for name in names], {"names": names, "sparsity": 0.5})
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter] = {"mask": torch.rand(parameter.shape) < 0.5, "fired_mask": parameter > 0}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_checkpoints_of_sparse_ift_hold_masks_in_the_optimizer(tmp_path: Path, prefix):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 1))
    masked = MaskOptimizer(model, ["2.weight", "0.weight"])
    content = {
        "epoch": 3,
        "state_dict": {prefix + key: value for key, value in model.state_dict().items()},
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1).state_dict(),
        "mask_optimizer": masked.state_dict(),
    }
    torch.save(content, tmp_path / "a.pth")
    layers = read_masks(tmp_path / "a.pth").layers
    assert sorted(layers) == ["0", "2"]
    for name, layer in layers.items():
        weight = model[int(name)].weight
        assert np.array_equal(layer.mask, masked.state[weight]["mask"].numpy())
        assert np.array_equal(layer.weight, np.where(layer.mask, weight.detach().numpy(), 0))
    content["mask_optimizer"]["param_groups"][0]["names"].pop()  # whose masks they are cannot be told
    torch.save(content, tmp_path / "b.pth")
    with pytest.raises(MaskError, match="found no masks among"):
        read_masks(tmp_path / "b.pth")


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta")
@pytest.mark.parametrize("compress", [torch.Tensor.to_sparse, torch.Tensor.to_sparse_csr])
def test_the_stored_entries_of_sparse_tensors_are_masks(tmp_path: Path, compress):
    sparse = compress(torch.eye(4))
    (sparse._values() if sparse.layout == torch.sparse_coo else sparse.values())[0] = 0.0
    layer = nn.Linear(4, 4, bias=False)
    layer.weight = nn.Parameter(sparse)
    torch.save({"fc.weight": sparse}, tmp_path / "a.pt")
    result = import_masks(tmp_path / "a.pt", tmp_path / "run")
    assert not result.derived
    found = RunReader(tmp_path / "run").load_layer(0, "fc")
    assert np.array_equal(found.mask, np.eye(4) == 1)
    assert found.values.tolist() == [0.0, 1.0, 1.0, 1.0]
