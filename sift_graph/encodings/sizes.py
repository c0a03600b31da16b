"""Where the convolutions of a run stand on their inputs: as asked for, or as recorded with its graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from sift_graph.encodings.geometry import Geometry, recorded_geometries
from sift_graph.errors import UsageError
from sift_graph.store import RunReader

__all__ = ["find_geometries", "parse_sizes"]


def parse_sizes(asked: str | Iterable[str] | None) -> list[tuple[str, str]]:
    """Read input sizes as pairs of a glob and a size.

    Parameters
    ----------
    asked : str or iterable of str or None

    Returns
    -------
    list of tuple of str

    Raises
    ------
    UsageError
        If a size is not numbers with an ``x`` between.

    Examples
    --------
    >>> parse_sizes(["32x32", "stage2.*=16x16"])
    [('*', '32x32'), ('stage2.*', '16x16')]
    """
    found = []
    for text in [asked] if isinstance(asked, str) else list(asked or ()):
        glob, _, size = text.rpartition("=")
        if not all(part.isdecimal() and int(part) for part in size.split("x")):
            raise UsageError(
                f"cannot read the input size {text!r}; expected 32x32, or a glob and a size: stage2.*=16x16"
            )
        found.append((glob or "*", size))
    return found


def find_geometries(reader: RunReader, sizes: Sequence[tuple[str, str]]) -> dict[str, Geometry]:
    """Find where each convolution of a run stands: as asked for, or as recorded with its graph."""
    found = recorded_geometries(reader.header.get("graph"))
    if not reader.steps or not sizes:
        return found
    for entry in reader.entries(reader.steps[-1]):
        kernel = entry["shape"][2:] if entry["layout"] == "oi" else entry["shape"][:-2]
        matching = [size for glob, size in sizes if glob == entry["name"] or fnmatchcase(entry["name"], glob)]
        if kernel and matching:
            size = [int(part) for part in matching[-1].split("x")]
            found[entry["name"]] = Geometry.plain(size, kernel)
    return found
