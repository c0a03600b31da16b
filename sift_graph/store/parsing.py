"""Read JSON that a stranger may have written: bounded before it is parsed, and with one meaning only."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_LINE", "MAX_VALUES", "parse_json", "read_rows"]

MAX_BYTES = 1 << 26  # of one document: sift.json, the header of a snapshot
MAX_VALUES = 1 << 22  # in one document; a list of empty lists takes 20 times its text in memory
MAX_DEPTH = 64
MAX_LINE = 1 << 24  # bytes of one line of metrics.jsonl and of what an analysis keeps
MAX_DIGITS = 18

_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_ODD_NUMBER = re.compile(rb"\d{19}|\d[eE]|N|I")
_SURROGATE = re.compile(rb"\\u[dD][89abAB]|\\u[dD][c-fC-F]")


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON document, and refuse what no writer of the format makes.

    Parameters
    ----------
    text : str or bytes
        UTF-8.

    Returns
    -------
    object
        Numbers are finite, and whole ones have at most 18 digits; every string can be encoded.

    Raises
    ------
    ValueError
        If it is not JSON, is larger or deeper than the limits above, has a key twice in one object, a number that is
        not finite or has more digits, or half of a surrogate pair.

    Examples
    --------
    >>> parse_json('{"step": 1}')
    {'step': 1}
    >>> parse_json('{"step": 1, "step": 2}')
    Traceback (most recent call last):
    ...
    ValueError: the key 'step' stands twice in one object
    """
    data = text.encode() if isinstance(text, str) else text
    if len(data) > MAX_BYTES:
        raise ValueError(f"it has {len(data)} bytes, expected at most {MAX_BYTES}")
    bare = _without_texts(data)
    values = bare.count(b",") + bare.count(b"[") + bare.count(b"{")
    if values > MAX_VALUES:
        raise ValueError(f"it has some {values} values, expected at most {MAX_VALUES}")
    if _depth(bare) > MAX_DEPTH:
        raise ValueError(f"it is nested {_depth(bare)} deep, expected at most {MAX_DEPTH}")
    odd = _ODD_NUMBER.search(bare)  # the rule is none: then numbers are parsed in C, three times as fast
    hooks: dict[str, Any] = {"parse_int": _whole, "parse_float": _finite, "parse_constant": _finite} if odd else {}
    content = json.loads(data.decode(), object_pairs_hook=_once, **hooks)
    if _SURROGATE.search(data):
        json.dumps(content, ensure_ascii=False).encode()  # UnicodeEncodeError, a ValueError, for half of a pair
    return content


def _without_texts(data: bytes) -> bytes:
    """Take the strings out of a JSON document."""
    return b"".join((_ESCAPE.sub(b"", data) if b"\\" in data else data).split(b'"')[::2])


def _depth(bare: bytes) -> int:
    marks = np.frombuffer(bare, dtype=np.uint8)
    turns = marks[(marks == ord("[")) | (marks == ord("{")) | (marks == ord("]")) | (marks == ord("}"))]
    if not len(turns):
        return 0
    opened = np.where((turns == ord("[")) | (turns == ord("{")), 1, -1)
    return int(np.cumsum(opened).max())


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:80]!r} stands twice in one object")
    return found


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS + 1:
        raise ValueError(f"a number has {len(text)} digits, expected at most {MAX_DIGITS}")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"a number is {text[:40]}, expected a finite one")
    return value


def read_rows(path: Path) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """Read a file of JSON objects, a line each.

    Parameters
    ----------
    path : Path
        Need not exist.

    Yields
    ------
    bytes, dict or None
        Each line, or as much of it as is over the limit, and its object: None where it is not one, was cut short by a
        crash, or is over the limits. A number of more than 18 digits is read as a float.
    """
    if not path.exists():
        return
    begins = True
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE):
            yield line, _row(line) if begins else None
            begins = line.endswith(b"\n")


def _row(line: bytes) -> dict[str, Any] | None:
    if len(line) >= MAX_LINE or _depth(_without_texts(line)) > MAX_DEPTH:
        return None
    try:
        row = json.loads(line.decode(), parse_int=_number)
        if _SURROGATE.search(line):
            json.dumps(row, ensure_ascii=False).encode()
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _number(text: str) -> int | float:
    return int(text) if len(text) <= MAX_DIGITS + 1 else float(text)
