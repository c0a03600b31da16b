"""Texts: any files, the source of Python's standard library, WikiText-103; as bytes or byte pairs."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import numpy as np
import torch

from sift_graph.errors import UsageError
from sift_graph.train.config import DataConfig
from sift_graph.train.data.bpe import BPE, BYTES, learn_bpe
from sift_graph.train.data.examples import Dataset, TokenWindows
from sift_graph.train.data.place import chosen_samples, data_path

__all__ = ["BPE_VOCABULARY", "SEQUENCE_LENGTH", "load_stdlib", "load_text", "load_wikitext103", "stdlib_files"]

SEQUENCE_LENGTH = 128
BPE_VOCABULARY = 4096
SKIPPED = frozenset(("test", "tests", "site-packages", "dist-packages", "__pycache__", "idlelib", "lib2to3"))
WIKITEXT = (("wiki.train.tokens", "wiki.valid.tokens"), ("wiki.train.raw", "wiki.valid.raw"))


def load_text(config: DataConfig, seed: int, tokenizer: BPE | None = None) -> Dataset:
    """Load a text file, or all files of a folder that end in ``.txt``; the last tenth of the text is for validation.

    Parameters
    ----------
    config : DataConfig
    seed : int
    tokenizer : BPE, optional
        Learnt elsewhere, where byte pairs are asked for.

    Returns
    -------
    Dataset

    Raises
    ------
    UsageError
        If there is no such text, or too little of it.
    """
    path = data_path(config)
    files = [path] if path.is_file() else sorted(path.rglob("*.txt"))
    if not files:
        raise UsageError(
            f"data.path: no text in {path}; expected a file, or a folder with files that end in .txt. Say where it is: "
            "--set data.path=FILE"
        )
    text = b"\n".join(file.read_bytes() for file in files)
    cut = len(text) * 9 // 10
    return windows(text[:cut], text[cut:], config, seed, str(path), tokenizer)


def load_wikitext103(config: DataConfig, seed: int, tokenizer: BPE | None = None) -> Dataset:
    """Load WikiText-103 as published: its training and its validation file.

    Parameters
    ----------
    config : DataConfig
    seed : int
    tokenizer : BPE, optional
        Learnt elsewhere, where byte pairs are asked for.

    Returns
    -------
    Dataset

    Raises
    ------
    UsageError
        If the files are not there.
    """
    root = data_path(config)
    for train, valid in WIKITEXT:
        for folder in (root, root / "wikitext-103", root / "wikitext-103-raw"):
            if (folder / train).is_file() and (folder / valid).is_file():
                texts = (folder / train).read_bytes(), (folder / valid).read_bytes()
                return windows(*texts, config, seed, str(folder), tokenizer)
    raise UsageError(
        f"data.path: no WikiText-103 in {root}; put wiki.train.tokens and wiki.valid.tokens (or the two .raw files) "
        "there, or say where they are: --set data.path=FOLDER"
    )


def stdlib_files() -> list[Path]:
    """List the source files of the running Python's standard library, without its tests, in alphabetical order."""
    root = Path(sysconfig.get_path("stdlib"))
    files = [path for path in root.rglob("*.py") if not SKIPPED & set(path.relative_to(root).parts)]
    return sorted(files, key=lambda path: path.relative_to(root).as_posix())


def load_stdlib(config: DataConfig, seed: int, tokenizer: BPE | None = None) -> Dataset:
    """Load the source of Python's standard library: each tenth file is for validation.

    It is there wherever Python is, but it differs from one version of Python to the next: compare only runs of one.

    Parameters
    ----------
    config : DataConfig
    seed : int
    tokenizer : BPE, optional
        Learnt elsewhere, where byte pairs are asked for.

    Returns
    -------
    Dataset

    Raises
    ------
    UsageError
        If this Python came without its source.
    """
    files = stdlib_files()
    if len(files) < 10:
        raise UsageError(f"this Python has no source in {sysconfig.get_path('stdlib')}; choose another data set")
    texts = [file.read_bytes() for file in files]
    valid = b"\n".join(texts[::10])
    train = b"\n".join(text for i, text in enumerate(texts) if i % 10)
    return windows(train, valid, config, seed, "stdlib", tokenizer)


def windows(
    train: bytes, valid: bytes, config: DataConfig, seed: int, where: str, tokenizer: BPE | None = None
) -> Dataset:
    """Tokenize both parts and cut them into stretches that follow each other."""
    length = config.sequence_length or SEQUENCE_LENGTH
    bpe = None
    if config.tokenizer == "bpe":
        vocabulary = config.vocabulary or BPE_VOCABULARY
        bpe = learn_bpe(train, vocabulary) if tokenizer is None else tokenizer
        if BYTES + len(bpe.merges) > vocabulary:
            raise UsageError(
                f"data.vocabulary: {vocabulary} tokens, but the checkpoint to begin with was trained on "
                f"{BYTES + len(bpe.merges)}; ask for the vocabulary of its run"
            )
        parts = [bpe.encode(text) for text in (train, valid)]
    else:
        parts = [np.frombuffer(text, np.uint8).copy() for text in (train, valid)]
    made = []
    wanted = (config.train_samples, config.validation_samples)
    for tokens, samples, key in zip(parts, wanted, ("train", "validation"), strict=True):
        count = (len(tokens) - 1) // length  # the last token of a stretch is followed by one more
        if count < 1:
            raise UsageError(
                f"data.sequence_length: the {key} part of {where} has {len(tokens)} tokens, not one stretch of {length}"
            )
        starts = chosen_samples(count, samples, seed, f"data.{key}_samples") * length
        made.append(TokenWindows(torch.from_numpy(tokens), starts, length))
    return Dataset(made[0], made[1], bpe)
