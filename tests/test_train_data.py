"""Data sets: what they hold, that seeds repeat them, and what is said where files are missing or wrong."""

import os
import pickle
import re
import tarfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sift_graph.errors import TrainingError, UsageError
from sift_graph.train import DATASETS, load_config
from sift_graph.train.config import DataConfig
from sift_graph.train.data import bpe, check_data, data_spec, load_data
from sift_graph.train.data.augment import crop, cutout, flip
from sift_graph.train.data.bpe import learn_bpe
from sift_graph.train.data.cifar import CIFAR10, CIFAR100, read_batch
from sift_graph.train.data.folder import random_window
from sift_graph.train.data.shapes import OUTLINES, TEXTURES, draw_shapes
from sift_graph.train.data.text import stdlib_files

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 3072), dtype=np.uint8)


def write_cifar(folder, archive, *, protocol=2, changes=None):
    """Write the batches of an archive, ten images each; changes replace entries."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(archive.train + archive.test):
        labels = [(i + j) % archive.classes for j in range(10)]
        batch = {b"data": PIXELS[10 * i : 10 * i + 10], archive.labels: labels, b"batch_label": b"a batch"}
        (folder / name).write_bytes(pickle.dumps(batch | (changes or {}), protocol=protocol))
    return folder


def pack(folder, path):
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)


@pytest.mark.parametrize("archive", [CIFAR10, CIFAR100], ids=lambda archive: archive.name)
def test_cifar_is_read_from_its_folder_its_parent_and_its_archive(tmp_path, archive):
    folder = write_cifar(tmp_path / "a" / archive.folder, archive)
    (tmp_path / "b").mkdir()
    pack(folder, tmp_path / "b" / archive.packed)
    loaded = []
    for path in (folder, tmp_path / "a", tmp_path / "b", tmp_path / "b" / archive.packed):
        data = load_data(DataConfig(archive.name, str(path)), 0)
        loaded.append(data.train.images)
        assert len(data.train) == 10 * len(archive.train)
        assert len(data.validation) == 10
    assert all(torch.equal(images, loaded[0]) for images in loaded)
    images, labels = data.train.batch(torch.tensor([3]))
    expected = (PIXELS[3].reshape(3, 32, 32) / 255 - np.reshape(archive.mean, (3, 1, 1))) / np.reshape(
        archive.std, (3, 1, 1)
    )
    assert images[0].numpy() == pytest.approx(expected, abs=1e-5)
    assert labels.tolist() == [3]
    assert data_spec(DataConfig(archive.name)).classes == archive.classes


def test_a_part_of_cifar_is_chosen_by_the_seed(tmp_path):
    write_cifar(tmp_path, CIFAR10)
    parts = [load_data(DataConfig("cifar10", str(tmp_path), 20, seed=seed), 0).train for seed in (1, 1, 2)]
    assert len(parts[0]) == 20
    assert torch.equal(parts[0].images, parts[1].images)
    assert not torch.equal(parts[0].images, parts[2].images)
    with pytest.raises(UsageError, match="train_samples: expected at most 50, which is all there is, found 51"):
        load_data(DataConfig("cifar10", str(tmp_path), 51), 0)


def test_a_missing_cifar_says_what_to_put_where(tmp_path):
    with pytest.raises(UsageError, match=r"no cifar100 in .*; put cifar-100-python\.tar\.gz .* data\.path=FOLDER"):
        load_data(DataConfig("cifar100", str(tmp_path)), 0)


class Malicious:
    def __init__(self, function, *arguments):
        self.what = function, arguments

    def __reduce__(self):
        return self.what


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [(os.mkdir, ("OWNED",)), (eval, ("__import__('os').mkdir('OWNED')",)), (np.load, ("x.npy",)), (getattr, (1, "a"))],
)
def test_a_batch_that_would_run_code_runs_none(tmp_path, monkeypatch, function, arguments, protocol):
    monkeypatch.chdir(tmp_path)
    folder = write_cifar(tmp_path / CIFAR100.folder, CIFAR100, protocol=protocol)
    batch = {b"data": Malicious(function, *arguments), b"fine_labels": [0]}
    (folder / "train").write_bytes(pickle.dumps(batch, protocol=protocol))
    with pytest.raises(UsageError, match=r"train: is not a batch of cifar100 \(it names .*, which a batch of images"):
        load_data(DataConfig("cifar100", str(tmp_path)), 0)
    assert not (tmp_path / "OWNED").exists()


def test_a_dotted_name_does_not_lead_past_the_list(tmp_path):
    # Protocol 4 looks dotted names up attribute by attribute: ndarray.__reduce__ and the like must not be reached.
    content = b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.dump\x93."
    with pytest.raises(UsageError, match=r"it names numpy\.ndarray\.dump"):
        read_batch(content, CIFAR10, "train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({b"data": PIXELS[:10].astype(float)}, "as bytes in rows of 3072, found float64 of shape"),
        ({b"data": PIXELS[:10, :5]}, r"as bytes in rows of 3072, found uint8 of shape \(10, 5\)"),
        ({b"labels": [0] * 9}, "expected 10 labels from 0 to 9 under 'labels', found a list of 9"),
        ({b"labels": [10] * 10}, "expected 10 labels from 0 to 9"),
        ({b"labels": None}, "found NoneType"),
    ],
)
def test_batches_of_something_else_are_refused(tmp_path, changes, message):
    write_cifar(tmp_path, CIFAR10, changes=changes)
    with pytest.raises(UsageError, match=message):
        load_data(DataConfig("cifar10", str(tmp_path)), 0)


def test_damaged_archives_are_named(tmp_path):
    path = tmp_path / CIFAR10.packed
    path.write_bytes(b"not a tar")
    with pytest.raises(UsageError, match=r"cifar-10-python\.tar\.gz: is not cifar-10-python\.tar\.gz as published"):
        load_data(DataConfig("cifar10", str(tmp_path)), 0)
    with pytest.raises(UsageError, match="is not a batch of cifar10"):
        read_batch(pickle.dumps({})[:-1], CIFAR10, "x")
    pack(write_cifar(tmp_path / CIFAR100.folder, CIFAR100), path)
    with pytest.raises(UsageError, match="as published"):
        load_data(DataConfig("cifar10", str(path)), 0)


def test_shapes_repeat_by_seed_and_index():
    some, more = draw_shapes(3, 0, 20), draw_shapes(3, 0, 1100)
    assert torch.equal(some.images, more.images[:20])
    assert torch.equal(some.labels, more.labels[:20])
    assert torch.bincount(more.labels[:1000], minlength=100).tolist() == [10] * 100
    for other in (draw_shapes(4, 0, 20), draw_shapes(3, 1, 20)):
        assert not torch.equal(other.images, some.images)
    images, _ = more.batch(torch.arange(1000))
    assert images.shape == (1000, 3, 32, 32)
    assert abs(float(images.mean())) < 0.1
    assert 0.8 < float(images.std()) < 1.2
    assert not torch.equal(more.images[:100], more.images[1000:])  # chunks differ


def test_shapes_of_one_class_differ_and_classes_can_be_told_apart():
    # Rings are hollow: object pixels by outline, without the rest of the image, from the level functions alone.
    axis = np.linspace(-1, 1, 101)
    x, y = np.meshgrid(axis, axis)
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    inside = {name: outline(radius, angle) > 0 for name, outline in OUTLINES.items()}
    for name, mask in inside.items():
        assert 0.1 < mask.mean() < 0.8
        assert not (mask & (radius > 1.0001)).any(), name
        assert all((mask != other).mean() > 0.03 for key, other in inside.items() if key != name), name
    shares = {name: texture(x, y, np.zeros_like(x)) for name, texture in TEXTURES.items()}
    for name, share in shares.items():
        assert share.min() >= 0, name
        assert share.max() <= 1, name
        assert all(np.abs(share - other).mean() > 0.05 for key, other in shares.items() if key != name), name


def test_shapes_take_fewer_classes_and_noise():
    config = DataConfig("shapes", train_samples=50, validation_samples=30, classes=20, noise=1.0)
    data = load_data(config, 0)
    assert (len(data.train), len(data.validation)) == (50, 30)
    assert int(data.train.labels.max()) < 20
    assert data_spec(config).classes == 20
    plain = load_data(DataConfig("shapes", train_samples=50, validation_samples=30, classes=20), 0)
    difference = data.train.batch(torch.arange(50))[0] - plain.train.batch(torch.arange(50))[0]
    assert 0.6 < float(difference.std()) < 1.1  # less than 1: a pixel has a darkest and a brightest


def images_of(count=64, size=8):
    return torch.arange(count * 3 * size * size, dtype=torch.float32).view(count, 3, size, size) + 1


def test_a_crop_is_a_window_of_the_padded_image():
    images = images_of()
    padded = torch.nn.functional.pad(images, (2,) * 4)
    cropped = crop(images, np.random.default_rng(0), padding=2)
    offsets = set()
    for original, result in zip(padded, cropped, strict=True):
        places = [(i, j) for i in range(5) for j in range(5) if torch.equal(original[:, i : i + 8, j : j + 8], result)]
        assert len(places) == 1
        offsets.update(places)
    assert len(offsets) > 15
    assert torch.equal(crop(images, np.random.default_rng(0), padding=0), images)
    assert crop(images.to(torch.uint8), np.random.default_rng(0), padding=1).dtype == torch.uint8
    for channels in (1, 3):  # laid out as any batch, also where one channel leaves the stride open
        batch = torch.zeros(4, channels, 8, 8)
        assert crop(batch, np.random.default_rng(0), padding=1).stride() == batch.stride()
    assert cropped.is_contiguous()  # as its model's weights are


def test_a_flip_mirrors_about_half_of_the_images():
    images = images_of()
    flipped = flip(images, np.random.default_rng(0))
    mirrored = [torch.equal(a.flip(2), b) for a, b in zip(images, flipped, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(images, flipped, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 16 < sum(mirrored) < 48


def test_cutout_clears_a_square_in_all_channels():
    images = images_of()
    cut = cutout(images, np.random.default_rng(0), size=4)
    cleared = cut == 0
    assert torch.equal(cut[~cleared], images[~cleared])
    assert (cleared[:, :1] == cleared).all()
    areas = cleared[:, 0].flatten(1).sum(1)
    assert areas.max() == 16
    assert areas.min() >= 4  # a centre in the corner leaves a quarter of it
    for mask in cleared[:, 0]:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns[None, :])


def test_only_batches_with_a_generator_are_augmented_and_it_repeats_them(tmp_path):
    write_cifar(tmp_path, CIFAR10)
    data = load_data(DataConfig("cifar10", str(tmp_path), augment=("crop", "flip", "cutout")), 0)
    indices = torch.arange(20)
    plain = data.train.batch(indices)[0]
    assert torch.equal(plain, data.train.batch(indices)[0])
    first, again, other = (data.train.batch(indices, np.random.default_rng(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, plain)
    validation = data.validation.batch(torch.arange(5))[0]
    assert torch.equal(data.validation.batch(torch.arange(5), np.random.default_rng(0))[0], validation)


def write_tree(root, parts=("train", "val"), classes=("cat", "dog"), size=(40, 30)):
    for part in parts:
        for label, name in enumerate(classes):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(3):
                colour = tuple(200 * (channel == label) for channel in range(3))
                Image.new("RGB", size, colour).save(folder / f"{i}.{'png' if i else 'JPEG'}")
    return root


def test_a_folder_is_read_in_order_cut_and_scaled(tmp_path):
    config = DataConfig("folder", str(write_tree(tmp_path)), image_size=16, augment=("crop", "flip"))
    assert data_spec(config) == data_spec(DataConfig("folder", image_size=16, classes=2))
    data = load_data(config, 0)
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [path.name for path in data.train.paths[:3]] == ["0.JPEG", "1.png", "2.png"]
    images, labels = data.train.batch(torch.tensor([5, 1]), np.random.default_rng(0))
    assert images.shape == (2, 3, 16, 16)
    assert images.is_contiguous()
    assert labels.tolist() == [1, 0]
    red, green = (200 / 255 - 0.485) / 0.229, (200 / 255 - 0.456) / 0.224
    assert images[0, 1].numpy() == pytest.approx(green, abs=0.02)
    assert images[1, 0].numpy() == pytest.approx(red, abs=0.02)
    again, _ = data.train.batch(torch.tensor([5, 1]), np.random.default_rng(0))
    assert torch.equal(images, again)


def test_the_middle_and_the_windows_of_an_image(tmp_path):
    write_tree(tmp_path, size=(256, 256))
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 256, axis=0).repeat(3, axis=2)
    Image.fromarray(ramp).save(tmp_path / "val" / "cat" / "1.png")
    data = load_data(DataConfig("folder", str(tmp_path)), 0)
    middle = data.validation.batch(torch.tensor([1]))[0][0, 0, 0]
    assert middle.numpy() * 0.229 + 0.485 == pytest.approx(np.arange(16, 240) / 255, abs=1e-4)
    generator = np.random.default_rng(0)
    for width, height in ((500, 300), (30, 400), (64, 64)):
        for _ in range(50):
            left, top, right, bottom = random_window(width, height, generator.random((10, 4)))
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
    assert random_window(1000, 10, np.full((10, 4), 0.99)) == (495, 0, 505, 10)  # no try fits


def test_folders_with_the_wrong_files_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"expected folders of images in .*train.*found none; put train/CLASS/\*\.jpg"):
        load_data(DataConfig("folder", str(tmp_path)), 0)
    write_tree(tmp_path, parts=("train",))
    config = DataConfig("folder", str(tmp_path))
    with pytest.raises(UsageError, match="has no folder val, validation or test to validate on"):
        load_data(config, 0)
    write_tree(tmp_path, parts=("validation",), classes=("cat", "dgo"))
    with pytest.raises(UsageError, match="differ in their classes: dgo, dog"):
        load_data(config, 0)
    (tmp_path / "validation" / "dgo").rename(tmp_path / "validation" / "dog")
    with pytest.raises(UsageError, match=r"data\.classes: .* has 2 classes, found 3"):
        load_data(DataConfig("folder", str(tmp_path), classes=3), 0)
    broken = tmp_path / "train" / "cat" / "1.png"
    broken.write_bytes(b"no image")
    with pytest.raises(TrainingError, match=r"1\.png: cannot be read as an image .*mend or remove the file"):
        load_data(config, 0).train.batch(torch.tensor([0, 1]))
    for path in (tmp_path / "train" / "cat").iterdir():
        path.unlink()
    with pytest.raises(UsageError, match=r"cat holds no image; expected files that end in \.bmp, \.jpeg"):
        load_data(config, 0)


def test_a_text_gives_stretches_and_what_follows(tmp_path):
    text = bytes(range(32, 127)) * 4
    (tmp_path / "a.txt").write_bytes(text)
    config = DataConfig("text", str(tmp_path / "a.txt"), sequence_length=10)
    data = load_data(config, 0)
    assert (len(data.train), len(data.validation)) == (34, 3)
    inputs, labels = data.train.batch(torch.tensor([0, 33]))
    assert bytes(inputs[1].tolist()) == text[330:340]
    assert bytes(labels[1].tolist()) == text[331:341]
    assert bytes(data.validation.batch(torch.tensor([0]))[0][0].tolist()) == text[342:352]
    assert data_spec(config) == data_spec(DataConfig("stdlib", sequence_length=10))
    (tmp_path / "b.txt").write_bytes(text)
    (tmp_path / "c.bin").write_bytes(text)
    assert len(load_data(DataConfig("text", str(tmp_path), sequence_length=10), 0).train) == 68
    assert len(load_data(DataConfig("text", str(tmp_path), 5, sequence_length=10), 0).train) == 5


def test_texts_that_are_missing_or_too_short_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no text in .*; expected a file, or a folder with files that end in \.txt"):
        load_data(DataConfig("text", str(tmp_path)), 0)
    with pytest.raises(UsageError, match=r"no WikiText-103 in .*; put wiki\.train\.tokens and wiki\.valid\.tokens"):
        load_data(DataConfig("wikitext103", str(tmp_path)), 0)
    (tmp_path / "a.txt").write_bytes(b"x" * 1000)
    with pytest.raises(UsageError, match=r"the validation part of .* has 100 tokens, not one stretch of 100"):
        load_data(DataConfig("text", str(tmp_path), sequence_length=100), 0)


def test_wikitext_is_found_under_its_folder(tmp_path):
    folder = tmp_path / "wikitext-103"
    folder.mkdir()
    (folder / "wiki.train.tokens").write_bytes(b" = A title = \n the <unk> text \n" * 20)
    (folder / "wiki.valid.tokens").write_bytes(b" the <unk> text \n" * 5)
    config = DataConfig("wikitext103", str(tmp_path), sequence_length=8, tokenizer="bpe", vocabulary=270)
    data = load_data(config, 0)
    assert data_spec(config).classes == 270
    assert 256 < int(data.train.tokens.max()) < 270
    assert data.validation.tokens.numel() < 5 * 17


def test_the_standard_library_is_a_corpus_of_two_parts():
    files = stdlib_files()
    names = [file.name for file in files]
    assert {"ast.py", "argparse.py", "random.py"} <= set(names)
    assert not any("test" in file.parts for file in files)
    data = load_data(DataConfig("stdlib", train_samples=100, validation_samples=50), 0)
    assert (len(data.train), len(data.validation)) == (100, 50)
    assert data.train.tokens.numel() > 6 * data.validation.tokens.numel() > 1e6


@given(st.binary(max_size=200), st.integers(256, 300))
def test_byte_pairs_lose_nothing(text, vocabulary):
    tokenizer = learn_bpe(text * 3, vocabulary)
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert (tokens < 256 + len(tokenizer.merges)).all()
    assert len(tokenizer.merges) <= vocabulary - 256


def test_byte_pairs_are_learnt_by_frequency():
    # "ab" 6 times; then " ab" 5 times, before "abc" 4 times.
    tokenizer = learn_bpe(b"abc abc abc abc ab ab", 258)
    a, b, _ = b"abc"
    assert tokenizer.merges[0] == (a, b)
    assert tokenizer.merges[1] == (32, 256)
    assert tokenizer.encode(b"abab").tolist() == [256, 256]
    tokens = learn_bpe(b"low low low lower lower newest newest newest widest " * 9, 300).encode(b" newest")
    assert len(tokens) == 1
    with pytest.raises(UsageError, match=r"data\.vocabulary: expected 256 or more, a token for each byte, found 255"):
        learn_bpe(b"", 255)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("data={name='digits', path='x'}", "data.path: means nothing to the data set 'digits'; it heeds seed, train"),
        ("data={name='cifar10', noise=1.0}", "data.noise: means nothing to the data set 'cifar10'"),
        ("data={name='cifar10', augment=['crap']}", "unknown augmentation 'crap'; did you mean 'crop'?"),
        ("data={name='shapes', classes=101}", "data.classes: expected from 2 to 100, or 0 for all, found 101"),
        ("data={name='stdlib', tokenizer='bqe'}", "unknown tokenizer 'bqe'; did you mean 'bpe'?"),
        ("data={name='stdlib', vocabulary=500}", "data.vocabulary: expected 256 or more with the bpe tokenizer"),
        ("data={name='shapes', cutout_size=0}", "data.cutout_size: expected 1 or more pixels, found 0"),
        ("data={name='digits', train_samples=-1}", "data.train_samples: expected 0 or more, found -1"),
    ],
)
def test_options_that_do_not_fit_are_refused(item, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        load_config(sets=[item])


def test_every_option_is_heeded_by_some_data_set_and_every_set_keeps_its_word(tmp_path):
    for archive in (CIFAR10, CIFAR100):
        write_cifar(tmp_path / archive.folder, archive)
    write_tree(tmp_path)
    for name in ("a.txt", "wiki.train.tokens", "wiki.valid.tokens"):
        (tmp_path / name).write_bytes(b"some text" * 500)
    fewer = {"shapes": {"train_samples": 300, "validation_samples": 300, "classes": 30}, "folder": {"image_size": 8}}
    for name, source in DATASETS.items():
        path = str(tmp_path) if "path" in source.options else ""
        config = DataConfig(name, path, **fewer.get(name, {}))
        check_data(config)
        data, spec = load_data(config, 0), data_spec(config)
        for part in (data.train, data.validation):
            inputs, labels = part.batch(torch.arange(min(len(part), 1000)))
            assert inputs.shape[1:] == spec.shape
            assert inputs.dtype == (torch.float32 if source.kind == "images" else torch.int64)
            assert labels.shape[1:] == (() if source.kind == "images" else spec.shape)
            assert 0 <= int(labels.min()) <= int(labels.max()) < spec.classes
    heeded = {option for source in DATASETS.values() for option in source.options}
    assert heeded | {"name", "seed", "train_samples"} == set(DataConfig.__dataclass_fields__)


def test_an_unknown_set_is_refused():
    with pytest.raises(UsageError, match="unknown data set 'digit'; did you mean 'digits'"):
        load_data(DataConfig("digit"), 0)


def test_a_long_text_is_put_together_from_parts(monkeypatch):
    text = b"one two two three three three  one, two; 34 34 three" * 20
    tokenizer = learn_bpe(text, 280)
    whole = tokenizer.encode(text)
    monkeypatch.setattr(bpe, "CHUNK", 7)
    assert np.array_equal(tokenizer.encode(text), whole)
    assert tokenizer.encode(b"").size == 0
