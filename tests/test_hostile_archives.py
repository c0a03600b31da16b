"""Archives and pickles from strangers that claim more than they hold, or would take for ever."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.stress.targets import make_npz
from sift_graph.errors import MaskError
from sift_graph.importers import read_masks
from sift_graph.pickles import check_tuples
from tests.hostile_runs import peak_of

MIB = 1 << 20


# Archives


def npz_of(path: Path, *members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array)
    return out.getvalue()


def patched(path: Path, offset: int, value: int, size: int = 4) -> Path:
    """Overwrite a number in the first entry of a zip's directory."""
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02") + offset
    data[at : at + size] = value.to_bytes(size, "little")
    path.write_bytes(bytes(data))
    return path


def test_a_zip_that_claims_more_packed_bytes_than_it_has_is_refused(tmp_path: Path):
    file = npz_of(tmp_path / "bad.npz", ("mask/fc.npy", npy(np.eye(8))))
    patched(patched(file, 20, 2**30), 24, 2**32 - 2)
    with pytest.raises(MaskError, match=r"bad\.npz: claims 1073741824 packed bytes and has \d+"):
        read_masks(file)


def test_a_compression_that_numpy_does_not_write_is_refused(tmp_path: Path):
    for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):  # neither bounds what it unfolds to, or takes to do so
        file = npz_of(tmp_path / "bad.npz", ("mask/fc.npy", npy(np.eye(8))), method=method)
        with pytest.raises(MaskError, match=rf"'mask/fc' is compressed by method {method}, which numpy does not write"):
            read_masks(file)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_array_that_is_there_twice_is_refused(tmp_path: Path):
    file = npz_of(tmp_path / "bad.npz", ("mask/fc.npy", npy(np.eye(8))), ("mask/fc.npy", npy(np.ones((8, 8)))))
    with pytest.raises(MaskError, match=r"bad\.npz: holds 'mask/fc' twice"):
        read_masks(file)


def test_a_numpy_header_that_claims_four_gibibytes_is_not_read(tmp_path: Path):
    claim = b"\x93NUMPY\x02\x00" + (2**32 - 1).to_bytes(4, "little")
    file = npz_of(tmp_path / "bad.npz", ("mask/fc.npy", claim + bytes(64 * MIB)))

    def read() -> None:
        with pytest.raises(MaskError, match=r"bad\.npz: truncated, or not a numpy archive"):
            read_masks(file)

    assert peak_of(read) < 4 * MIB


@pytest.mark.parametrize("position", [38, 60, 90])
def test_a_broken_deflate_stream_is_a_named_error(tmp_path: Path, position):
    file = make_npz(tmp_path / "bad.npz")
    data = bytearray(file.read_bytes())
    data[position : position + 12] = b"\xff" * 12
    file.write_bytes(bytes(data))
    with pytest.raises(MaskError, match=r"bad\.npz: "):
        read_masks(file)


# Pickles


def bomb(levels: int) -> bytes:
    """Pickle a dictionary whose key is a tuple that takes 2^levels steps to hash."""
    key = pickle.EMPTY_TUPLE + pickle.BINPUT + b"\0"  # what is left on the stack below the dictionary does no harm
    for level in range(levels):
        key += pickle.BINGET + bytes([level]) + pickle.BINGET + bytes([level]) + pickle.TUPLE2
        key += pickle.BINPUT + bytes([level + 1])
    item = pickle.EMPTY_DICT + pickle.BINGET + bytes([levels]) + pickle.NONE + pickle.SETITEM
    return pickle.PROTO + b"\x02" + key + item + pickle.STOP


@pytest.mark.parametrize("zipped", [True, False])
def test_a_key_that_takes_years_to_hash_is_refused(tmp_path: Path, zipped):
    file = tmp_path / "bad.pt"
    if zipped:
        npz_of(file, ("bad/data.pkl", bomb(60)), ("bad/version", b"3\n"), method=zipfile.ZIP_STORED)
    else:
        file.write_bytes(bomb(60))
    with pytest.raises(MaskError, match=r"bad\.pt: it holds a tuple of tuples with more than 1048576 entries"):
        read_masks(file)


def test_pickles_of_checkpoints_pass(tmp_path: Path):
    check_tuples(pickle.dumps({"a": (1, (2, 3)), ("b", "c"): [{1, 2}, (4, 5, 6, 7)], "d": None}, protocol=2))
    check_tuples(bomb(10))
    check_tuples(b"no pickle at all")


def test_a_tensor_without_a_shape_is_refused(tmp_path: Path):
    with pytest.warns(UserWarning, match="prototype"):
        nested = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)])
    torch.save({"fc.weight": nested, "fc.weight_mask": torch.eye(2)}, tmp_path / "bad.pt")
    with pytest.raises(MaskError, match=r"bad\.pt: holds a tensor without a shape"):
        read_masks(tmp_path / "bad.pt")
