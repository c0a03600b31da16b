"""Importing masks from numpy archives, safetensors and PyTorch state dicts, and what is refused."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

from sift_graph.errors import MaskError, RunDirectoryError, UsageError
from sift_graph.importers import import_masks, read_masks
from sift_graph.store import RunReader

RNG = np.random.default_rng(0)
MASK = RNG.random((6, 4, 3, 3)) < 0.3
WEIGHT = RNG.standard_normal((6, 4, 3, 3)).astype(np.float32)


def save_npz(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)
    return path


def pruned_model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4))
    prune.random_unstructured(model[0], "weight", 0.5)
    prune.random_unstructured(model[0], "bias", 0.5)
    prune.random_unstructured(model[2], "weight", 0.75)
    return model


def test_npz_with_masks_weights_and_groups(tmp_path: Path):
    file = save_npz(
        tmp_path / "masks.npz",
        **{"mask/stage1.conv": MASK, "weight/stage1.conv": WEIGHT, "groups/stage1.conv": 2, "mask/fc": np.eye(5)},
    )
    result = import_masks(file, tmp_path / "run", step=7, about={"family": "sparse_wide"})
    assert result.steps == (7,)
    assert result.layers == ("stage1.conv", "fc")
    assert not result.derived
    reader = RunReader(tmp_path / "run")
    conv = reader.load_layer(7, "stage1.conv")
    assert np.array_equal(conv.mask, MASK)
    assert np.array_equal(conv.weight, np.where(MASK, WEIGHT, 0))
    assert (conv.groups, conv.source) == (2, "file")
    assert reader.load_layer(7, "fc").values is None
    assert reader.about == {"imported_from": ["masks.npz"], "family": "sparse_wide"}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_state_dicts_of_torch_prune(tmp_path: Path, suffix):
    model = pruned_model()
    file = tmp_path / f"model{suffix}"
    save_file(model.state_dict(), file) if suffix == ".safetensors" else torch.save(model.state_dict(), file)
    result = import_masks(file, tmp_path / "run")
    assert set(result.layers) == {"0", "2"}
    assert any("'0.bias_mask' is the mask of a bias" in what for what in result.skipped)
    for name, module in (("0", model[0]), ("2", model[2])):
        layer = RunReader(tmp_path / "run").load_layer(0, name)
        assert np.array_equal(layer.mask, module.weight_mask.numpy() == 1)
        assert np.array_equal(layer.weight, (module.weight_orig * module.weight_mask).detach().numpy())


def test_a_checkpoint_that_holds_the_state_dict_and_wrapper_prefixes(tmp_path: Path):
    state = {"module._orig_mod.fc.weight": torch.randn(4, 4), "module._orig_mod.fc.weight_mask": torch.eye(4).bool()}
    torch.save({"epoch": 3, "model_state_dict": state}, tmp_path / "a.pt")
    assert import_masks(tmp_path / "a.pt", tmp_path / "run").layers == ("fc",)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
def test_from_zeros_derives_and_says_so(tmp_path: Path, suffix):
    weight = torch.tensor([[1.0, 0.0], [0.0, float("nan")]])
    state = {"fc.weight": weight, "fc.bias": torch.zeros(2)}
    file = tmp_path / f"dense{suffix}"
    if suffix == ".npz":
        np.savez(file, **{key: value.numpy() for key, value in state.items()})
    else:
        save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    with pytest.raises(MaskError, match=r"dense\.\w+: found no masks among 2 arrays .*'fc\.weight'.*--from-zeros"):
        import_masks(file, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    result = import_masks(file, tmp_path / "run", from_zeros=True)
    assert result.derived
    layer = RunReader(tmp_path / "run").load_layer(0, "fc")
    assert layer.source == "weight!=0"
    assert layer.mask.tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_bfloat16_and_sparse_tensors_are_read(tmp_path: Path, suffix):
    weight = (torch.arange(12.0).reshape(3, 4) - 2).to(torch.bfloat16)
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[1] = False
    state = {"fc.weight": weight, "fc.weight_mask": mask}
    file = tmp_path / f"half{suffix}"
    if suffix == ".pt":
        torch.save({**state, "fc.weight": weight.to_sparse()}, file)
    else:
        save_file(state, file)
    import_masks(file, tmp_path / "run")
    layer = RunReader(tmp_path / "run").load_layer(0, "fc")
    assert np.array_equal(layer.weight, (weight.float() * mask).numpy())


def test_layers_of_safetensors_come_in_the_order_of_their_numbers(tmp_path: Path):
    names = [f"stage.{i}" for i in (0, 1, 2, 10)]
    state = {f"{n}.{kind}": torch.eye(2) for n in reversed(names) for kind in ("weight", "weight_mask")}
    save_file(state, tmp_path / "a.safetensors")
    assert import_masks(tmp_path / "a.safetensors", tmp_path / "run").layers == tuple(names)


@pytest.mark.parametrize(
    ("names", "steps"), [(("m_300", "m_20", "m_5"), (5, 20, 300)), (("a", "b"), (0, 1)), (("a1", "b1"), (0, 1))]
)
def test_several_files_become_steps(tmp_path: Path, names, steps):
    files = [save_npz(tmp_path / f"{n}.npz", **{"mask/fc": np.eye(4) * (i + 1 > 0)}) for i, n in enumerate(names)]
    assert import_masks(files, tmp_path / "run").steps == steps
    assert RunReader(tmp_path / "run").steps == list(steps)


def test_groups_may_be_told_where_the_file_cannot(tmp_path: Path):
    torch.save(
        {"depthwise.weight": torch.ones(4, 1, 3, 3), "depthwise.weight_mask": torch.ones(4, 1, 3, 3)}, tmp_path / "a.pt"
    )
    import_masks(tmp_path / "a.pt", tmp_path / "run", groups={"depthwise": 4})
    assert RunReader(tmp_path / "run").load_layer(0, "depthwise").groups == 4
    with pytest.raises(UsageError, match="groups: there is no layer 'depthwide'; did you mean 'depthwise'"):
        import_masks(tmp_path / "a.pt", tmp_path / "other", groups={"depthwide": 4})


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mask/fc": np.eye(3) * 0.5}, r"layer 'fc': expected a mask of zeros and ones, found 0\.5 at \(0, 0\)"),
        ({"mask/fc": np.ones(3)}, r"layer 'fc': 'mask/fc' has shape \(3,\), expected 2 or more axes"),
        ({"mask/fc": np.eye(3), "weight/fc": np.ones((3, 4))}, r"mask 'mask/fc' has shape \(3, 3\) and the weight"),
        ({"mask/fc": np.ones((0, 3))}, r"layer 'fc': expected a mask with 2 or more axes, none of them empty"),
        ({"mask/fc": np.eye(3), "groups/fc": 2}, r"layer 'fc': 2 groups do not divide its 3 outputs"),
        ({"mask/fc": np.eye(3), "groups/fc": [1, 2]}, r"'groups/fc': expected one whole number, found int64 of shape"),
        ({"mask/fc": np.array([["a", "b"]])}, r"layer 'fc': expected a mask of bools or of zeros and ones"),
        ({"mask/fc": np.eye(3), "weight/fc": np.eye(3) * 1j}, r"layer 'fc': expected a real weight, found dtype compl"),
        ({"fc": np.eye(3)}, r"found no masks among 1 arrays \('fc'\); expected keys 'mask/<layer>'; --from-zeros"),
        ({"loss": np.ones(3)}, r"found no masks among 1 arrays \('loss'\); expected keys 'mask/<layer>'$"),
        ({"mask/fc": np.eye(3), "mask/fc.weight": np.eye(3)}, r"are the mask of one layer, 'fc'; remove one"),
    ],
)
def test_what_is_no_mask_is_refused_by_file_and_layer(tmp_path: Path, arrays, message):
    file = save_npz(tmp_path / "bad.npz", **arrays)
    with pytest.raises(MaskError, match=message) as caught:
        import_masks(file, tmp_path / "run")
    assert str(caught.value).startswith(str(file))
    assert not (tmp_path / "run").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["bad.npz"]  # no temporaries either


def test_pickled_arrays_are_never_unpickled(tmp_path: Path):
    file = save_npz(tmp_path / "bad.npz", **{"mask/fc": np.array([[Trap()]], dtype=object)})
    with pytest.raises(MaskError, match="'mask/fc' holds Python objects, which are never unpickled"):
        import_masks(file, tmp_path / "run")
    assert not Trap.sprung


class Trap:
    """Tells when it is unpickled."""

    sprung = False

    def __reduce__(self):
        return (spring, ())


def spring() -> None:
    Trap.sprung = True


def test_a_checkpoint_with_code_is_refused_and_not_run(tmp_path: Path):
    torch.save({"fc.weight": torch.eye(2), "trap": Trap()}, tmp_path / "bad.pt")
    with pytest.raises(MaskError, match=r"bad\.pt: .*nothing in it was run\. Save the state dict alone"):
        import_masks(tmp_path / "bad.pt", tmp_path / "run")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(MaskError, match=r"raw\.pt: .*nothing in it was run"):
        import_masks(tmp_path / "raw.pt", tmp_path / "run")
    assert not Trap.sprung


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 1, 40, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path: Path, suffix, keep):
    state = {"fc.weight": torch.randn(20, 20), "fc.weight_mask": torch.ones(20, 20)}
    file = tmp_path / f"cut{suffix}"
    if suffix == ".npz":
        np.savez(file, **{"mask/fc": np.ones((20, 20)), "weight/fc": np.ones((20, 20))})
    else:
        save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    data = file.read_bytes()
    file.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(MaskError, match=rf"cut\{suffix}: truncated"):
        import_masks(file, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_altered_byte_of_an_array_is_noticed(tmp_path: Path):
    file = save_npz(tmp_path / "bad.npz", **{"mask/fc": np.zeros((64, 64))})
    data = bytearray(file.read_bytes())
    data[2000] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(MaskError, match=r"bad\.npz: 'mask/fc' cannot be read \(Bad CRC"):
        import_masks(file, tmp_path / "run")


def npz_claiming(path: Path, shape: str) -> Path:
    """Write an archive whose array claims a shape that its bytes do not hold."""
    head = f"{{'descr': '|b1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mask/fc.npy", b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + b"\x00" * 64)
    return path


@pytest.mark.parametrize("shape", ["(1000000, 1000000)", "(1000, 1000)", "(-3, 4)", "(99999999999999999999, 2)"])
def test_a_claimed_shape_is_checked_before_it_is_allocated(tmp_path: Path, shape):
    file = npz_claiming(tmp_path / "bad.npz", shape)
    with pytest.raises(MaskError, match=r"'mask/fc' claims shape .*bytes cannot hold"):
        import_masks(file, tmp_path / "run")


def test_a_zip_bomb_is_refused(tmp_path: Path):
    file = npz_claiming(tmp_path / "bad.npz", "(8, 8)")
    data = bytearray(file.read_bytes())
    directory = data.rindex(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = (2**31).to_bytes(4, "little")  # the size when unpacked
    file.write_bytes(bytes(data))
    with pytest.raises(MaskError, match=r"'mask/fc' claims 2147483648 bytes"):
        import_masks(file, tmp_path / "run")


def test_a_tensor_that_repeats_one_entry_is_not_expanded(tmp_path: Path):
    huge = torch.ones(1).expand(200_000, 200_000)
    torch.save({"fc.weight_mask": huge, "fc.weight": huge}, tmp_path / "bad.pt")
    with pytest.raises(MaskError, match=r"'fc.weight_mask' claims shape \(200000, 200000\), which \d+ bytes cannot"):
        import_masks(tmp_path / "bad.pt", tmp_path / "run")


def test_a_safetensors_header_that_lies_is_refused(tmp_path: Path):
    entry = {"dtype": "BOOL", "shape": [1 << 20, 1 << 20], "data_offsets": [0, 1 << 40]}
    head = json.dumps({"fc.weight_mask": entry}).encode()
    (tmp_path / "bad.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + b"\0" * 64)
    with pytest.raises(MaskError, match=r"bad\.safetensors: truncated, or not a safetensors file"):
        import_masks(tmp_path / "bad.safetensors", tmp_path / "run")


@pytest.mark.parametrize("name", ["masks.csv", "masks", "masks.txt"])
def test_an_unknown_suffix_is_refused_with_the_known_ones(tmp_path: Path, name):
    (tmp_path / name).write_bytes(b"1,0")
    with pytest.raises(MaskError, match=r"expected one of \.npz, \.safetensors, \.pt, \.pth"):
        import_masks(tmp_path / name, tmp_path / "run")


def test_a_missing_file_or_a_directory_is_named(tmp_path: Path):
    with pytest.raises(MaskError, match=r"none\.npz: expected a file of masks, found nothing"):
        import_masks(tmp_path / "none.npz", tmp_path / "run")
    (tmp_path / "dir.npz").mkdir()
    with pytest.raises(MaskError, match=r"dir\.npz: expected a file of masks, found a directory"):
        import_masks(tmp_path / "dir.npz", tmp_path / "run")
    with pytest.raises(UsageError, match="one or more files to import, found none"):
        import_masks([], tmp_path / "run")


def test_nothing_is_overwritten(tmp_path: Path):
    file = save_npz(tmp_path / "a.npz", **{"mask/fc": np.eye(3)})
    import_masks(file, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(RunDirectoryError, match=r"holds another run.*nothing was overwritten"):
        import_masks(file, tmp_path / "run")
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.tex").write_text("x")
    with pytest.raises(RunDirectoryError, match=r"is not empty and is not a run directory \(it holds 'thesis.tex'\)"):
        import_masks(file, tmp_path / "work")
    with pytest.raises(RunDirectoryError, match="is not a directory; nothing was overwritten"):
        import_masks(file, tmp_path / "work" / "thesis.tex")
    (tmp_path / "empty").mkdir()
    import_masks(file, tmp_path / "empty")
    assert RunReader(tmp_path / "empty").steps == [0]


def test_a_bad_second_file_leaves_nothing_behind(tmp_path: Path):
    good = save_npz(tmp_path / "m1.npz", **{"mask/fc": np.eye(3)})
    bad = save_npz(tmp_path / "m2.npz", **{"mask/fc": np.eye(3) * 2})
    with pytest.raises(MaskError, match=r"m2\.npz: layer 'fc': expected a mask of zeros and ones, found 2\.0"):
        import_masks([good, bad], tmp_path / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m1.npz", "m2.npz"]


@pytest.mark.parametrize("name", ["../../evil", "a/b", 'q"<script>alert(1)</script>', "x" * 300, "naïve ∑", "a\nb"])
def test_a_hostile_layer_name_is_text_not_a_path(tmp_path: Path, name):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.eye(3))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr(f"mask/{name}.npy", buffer.getvalue())
    home = tmp_path / "deep" / "run"
    assert import_masks(tmp_path / "a.npz", home).layers == (name,)
    assert RunReader(home).load_layer(0, name).edges == 3
    assert sorted(path.name for path in home.rglob("*")) == ["masks", "sift.json", "step_000000000.safetensors"]


def test_what_was_left_out_is_told(tmp_path: Path):
    torch.save(
        {
            "fc.weight": torch.eye(2),
            "fc.weight_mask": torch.eye(2),
            "head.weight": torch.eye(2),
            "attn.causal_mask": torch.ones(2, 2),
        },
        tmp_path / "a.pt",
    )
    skipped = read_masks(tmp_path / "a.pt").skipped
    assert any("'attn.causal_mask' belongs to no weight" in what for what in skipped)
    assert any("'head.weight' has no mask" in what for what in skipped)
