"""CIFAR-10 and CIFAR-100 from their published python archives, packed or unpacked.

The batches are pickles, and a pickle may call any function that it names. They are read by an unpickler that knows
nothing but what a numpy array is made of; dicts, lists, numbers and strings need no name.
"""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sift_graph.errors import UsageError
from sift_graph.train.config import DataConfig
from sift_graph.train.data.augment import Augmentation
from sift_graph.train.data.examples import Dataset, ImageTensors
from sift_graph.train.data.place import chosen_samples, data_path

__all__ = ["CIFAR10", "CIFAR100", "Archive", "load_cifar", "read_batch"]

ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),  # how Python 3 writes bytes in the protocol of the published files
}


@dataclass(frozen=True)
class Archive:
    """One of the two data sets as it is published.

    Attributes
    ----------
    name : str
    packed, folder : str
        The file to download and the folder in it.
    train, test : tuple of str
        Its batches.
    labels : bytes
        Key of the labels in a batch.
    classes : int
    mean, std : tuple of float
        Of the training images.
    """

    name: str
    packed: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    labels: bytes
    classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


CIFAR10 = Archive(
    "cifar10",
    "cifar-10-python.tar.gz",
    "cifar-10-batches-py",
    tuple(f"data_batch_{i}" for i in range(1, 6)),
    ("test_batch",),
    b"labels",
    10,
    (0.4914, 0.4822, 0.4465),
    (0.2470, 0.2435, 0.2616),
)
CIFAR100 = Archive(
    "cifar100",
    "cifar-100-python.tar.gz",
    "cifar-100-python",
    ("train",),
    ("test",),
    b"fine_labels",
    100,
    (0.50708, 0.48655, 0.44092),
    (0.26733, 0.25644, 0.27615),
)


class ArrayUnpickler(pickle.Unpickler):
    """Reads containers, numbers, strings and numpy arrays; refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        """Give what an array is made of."""
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which a batch of images has no use for")
        if name == "_reconstruct":
            module = "numpy._core.multiarray"  # where it lives now; the files were written by an older numpy
        return super().find_class(module, name)


def read_batch(content: bytes, archive: Archive, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Read one published batch.

    Parameters
    ----------
    content : bytes
        Of the file.
    archive : Archive
    where : str
        Name of the file, for messages.

    Returns
    -------
    images : ndarray of uint8, shape (n, 3, 32, 32)
    labels : ndarray of int64, shape (n,)

    Raises
    ------
    UsageError
        If it is not such a batch, or one that names anything but arrays.
    """
    try:
        batch = ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to mean
        raise UsageError(
            f"{where}: is not a batch of {archive.name} ({error}); get {archive.packed} again from its authors"
        ) from error
    images = batch.get(b"data") if isinstance(batch, Mapping) else None
    labels = batch.get(archive.labels) if isinstance(batch, Mapping) else None
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != 3072:
        raise UsageError(f"{where}: expected images under 'data' as bytes in rows of 3072, found {described(images)}")
    whole = isinstance(labels, list) and all(type(label) is int and 0 <= label < archive.classes for label in labels)
    if not whole or len(labels) != len(images):  # type: ignore[arg-type]
        raise UsageError(
            f"{where}: expected {len(images)} labels from 0 to {archive.classes - 1} under "
            f"{archive.labels.decode()!r}, found {described(labels)}"
        )
    return images.reshape(-1, 3, 32, 32), np.asarray(labels, dtype=np.int64)


def described(value: object) -> str:
    """Say what something is, in a few words."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return f"a {type(value).__name__} of {len(value)}" if isinstance(value, list) else type(value).__name__


def read_files(archive: Archive, config: DataConfig) -> dict[str, bytes]:
    """Read the files of all batches, from the folder or from the packed file."""
    root = data_path(config)
    names = archive.train + archive.test
    for folder in (root, root / archive.folder):
        if all((folder / name).is_file() for name in names):
            return {name: (folder / name).read_bytes() for name in names}
    packed = root if root.is_file() else root / archive.packed
    if not packed.is_file():
        raise UsageError(
            f"data.path: no {archive.name} in {root}; put {archive.packed} (the python version of its authors) there, "
            f"or the folder {archive.folder} made of it, or say where it is: --set data.path=FOLDER"
        )
    try:
        with tarfile.open(packed) as tar:
            members = {name: tar.extractfile(f"{archive.folder}/{name}") for name in names}
            return {name: member.read() for name, member in members.items() if member is not None}
    except (KeyError, EOFError, OSError, tarfile.TarError) as error:
        raise UsageError(f"{packed}: is not {archive.packed} as published ({error})") from error


def load_cifar(archive: Archive, config: DataConfig, seed: int) -> Dataset:
    """Load one of the two data sets: the published training images (or a seeded choice), the test images to validate.

    Parameters
    ----------
    archive : Archive
    config : DataConfig
    seed : int
        Of the choice, where `train_samples` is less than all.

    Returns
    -------
    Dataset

    Raises
    ------
    UsageError
        If the files are missing or not what was published.
    """
    files = read_files(archive, config)
    parts = []
    for names in (archive.train, archive.test):
        batches = [read_batch(files[name], archive, name) for name in names]
        parts.append(tuple(torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*batches, strict=True)))
    (images, labels), (test_images, test_labels) = parts
    chosen = chosen_samples(len(labels), config.train_samples, seed, "data.train_samples")
    augmentation = Augmentation(config.augment, config.crop_padding, config.cutout_size)
    return Dataset(
        ImageTensors(images[chosen], labels[chosen], archive.mean, archive.std, augmentation),
        ImageTensors(test_images, test_labels, archive.mean, archive.std),
    )
