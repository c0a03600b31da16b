"""What recorded masks tell of a training that did not do what was meant: they stand still, are full, or drifted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from sift_graph.errors import DamagedStoreError
from sift_graph.store import RunReader
from sift_graph.store.condition import Condition, Finding, few

__all__ = ["DENSITY_MARGIN", "ZERO_SHARE", "find_symptoms"]

DENSITY_MARGIN = 0.1  # of the density that the run was to have
ZERO_SHARE = 0.5  # of a layer's recorded weights
MANY_SNAPSHOTS = 10
REGULAR = 0.7  # of the distances between snapshots: so many are equal where there is a spacing
STATIC = {"static", "none", "dense", "magnitude", "snip", "grasp", "synflow"}

Entry = Mapping[str, Any]


def find_symptoms(reader: RunReader, condition: Condition) -> list[Finding]:
    """Say what the recorded masks suggest about the training.

    Parameters
    ----------
    reader : RunReader
    condition : Condition
        Of its files; only snapshots whose header can be read are looked at.

    Returns
    -------
    list of Finding
        Warnings and notes: none of them is damage.
    """
    if not condition.headers:
        if reader.steps:
            return []
        return [Finding("no_snapshots", "note", "run", "no snapshot yet", "train on; the first comes at attach()")]
    step = max(condition.headers)
    entries = [entry for entry in condition.headers[step]["layers"] if entry["source"] != "dense"]
    findings = [*_full(step, entries), *_off_target(reader.about, step, entries)]
    findings += _standing_still(reader.about, condition.headers)
    findings += _drifted(reader, step, entries)
    findings += _skipped_steps(reader)
    return findings


def _size(entry: Entry) -> int:
    return math.prod(entry["shape"])


def _names(entries: list[Entry]) -> str:
    return few([repr(entry["name"]) for entry in entries])


def _full(step: int, entries: list[Entry]) -> Iterator[Finding]:
    """Masks of ones alone, and of zeros alone."""
    full = [entry for entry in entries if entry["nnz"] == _size(entry)]
    empty = [entry for entry in entries if entry["nnz"] == 0]
    if full and len(full) == len(entries):
        yield Finding(
            "all_ones",
            "warning",
            "run",
            f"all {len(full)} masks of step {step} keep every entry: nothing is sparse",
            "sparsify the model before attach(), and look whether the mask is the one that the forward pass uses; "
            "right only where pruning has not begun",
        )
    elif full:
        cure = "right where the distribution leaves small layers dense; else look at how these are sparsified"
        yield Finding("all_ones", "note", _names(full), f"the mask of step {step} keeps every entry", cure)
    if empty:
        cure = "the layer passes nothing on: lower the sparsity, or give each layer a least density"
        yield Finding("empty", "warning", _names(empty), f"the mask of step {step} keeps nothing", cure)


def _off_target(about: Mapping[str, Any], step: int, entries: list[Entry]) -> Iterator[Finding]:
    """Hold the density against what the run was to have, with the layers that are full and without: either may fit."""
    sparsity = about.get("sparsity")
    sparse = [entry for entry in entries if entry["nnz"] < _size(entry)]
    if isinstance(sparsity, bool) or not isinstance(sparsity, int | float) or not 0 <= sparsity < 1 or not sparse:
        return
    wanted = 1 - sparsity
    density, of_all = (sum(e["nnz"] for e in part) / sum(map(_size, part)) for part in (sparse, entries))
    if min(abs(density - wanted), abs(of_all - wanted)) > DENSITY_MARGIN * wanted:
        yield Finding(
            "off_target",
            "warning",
            "run",
            f"the sparse layers of step {step} have density {density:.4f}; sparsity {sparsity:g} means {wanted:.4f} "
            f"(off by more than {DENSITY_MARGIN:.0%} of it)",
            "right while a gradual method is on its way; else the mask or the sparsity in `about` is another one",
        )


def _standing_still(about: Mapping[str, Any], headers: Mapping[int, Mapping[str, Any]]) -> Iterator[Finding]:
    """Masks that never change although they should, and the other way round."""
    seen: dict[str, list[str]] = {}
    for step in sorted(headers):
        for entry in headers[step]["layers"]:
            if entry["source"] != "dense":
                seen.setdefault(entry["name"], []).append(entry["xxh3"])
    several = {name: digests for name, digests in seen.items() if len(digests) > 1}
    still = [name for name, digests in several.items() if len(set(digests)) == 1]
    method = about.get("method")
    is_static = method in STATIC
    count = len(headers)
    if is_static and len(still) < len(several):
        moved = [repr(name) for name in several if name not in still]
        found = f"the masks changed although the method is {method!r}"
        cure = "tell the recorder what the method is (about=), or look at what moves the masks"
        yield Finding("changed", "warning", few(moved), found, cure)
    if is_static or not still or (method is None and count < MANY_SNAPSHOTS):
        return
    if len(still) == len(several):
        expected = f"although the method is {method!r}" if method is not None else "and no method is recorded"
        yield Finding(
            "never_changed",
            "warning",
            "run",
            f"no mask changed in {count} snapshots, {expected}",
            "look whether the method's step is called and its schedule has begun; where the masks move after "
            'optimizer.step(), record with when="pre_step"',
        )
    elif method is not None:
        found = f"the mask never changed in {count} snapshots; those of other layers did"
        cure = "right where a layer is left out of the updates or full; else look at the method's list of layers"
        yield Finding("never_changed", "note", few([repr(name) for name in still]), found, cure)


def _drifted(reader: RunReader, step: int, entries: list[Entry]) -> Iterator[Finding]:
    """Look at the weights under the masks: those outside are not recorded, so only one side can be seen."""
    recorded = [entry for entry in entries if entry["weight_xxh3"] is not None]
    if entries and not recorded:
        found = f"step {step} holds no weights: whether they fit the masks cannot be seen"
        yield Finding("no_weights", "note", "run", found, "record with weights='fp16'")
    unused, odd = [], []
    for entry in recorded:
        try:
            values = reader.load_entry(step, entry).values
        except DamagedStoreError:
            continue  # said elsewhere
        if values is not None and values.size:
            if np.mean(values == 0) > ZERO_SHARE:
                unused.append(entry)
            if not np.isfinite(values).all():
                odd.append(entry)
    if unused:
        yield Finding(
            "drifted",
            "warning",
            _names(unused),
            f"of the weights that the mask of step {step} keeps, more than {ZERO_SHARE:.0%} are exactly 0",
            "the training may use another mask than the recorded one: compare with weight != 0. Weights outside the "
            "mask are not recorded, so that the opposite cannot be seen here",
        )
    if odd:
        found = f"weights of step {step} are not finite"
        yield Finding("not_finite", "warning", _names(odd), found, "the training diverged: lower the learning rate")


def _stood_still(reader: RunReader, first: int, last: int) -> bool:
    """Whether the masks of two steps are the same: then nothing is missing between."""
    try:
        one, other = ({e["name"]: e["xxh3"] for e in reader.snapshot_header(s)["layers"]} for s in (first, last))
    except DamagedStoreError:
        return False
    return one == other


def _skipped_steps(reader: RunReader) -> Iterator[Finding]:
    """Snapshots that a regular spacing would have, and that are not there."""
    steps = reader.steps
    distances = np.diff(steps)
    if len(distances) < 4:
        return
    (usual, times), *_ = Counter(distances.tolist()).most_common(1)
    if times < REGULAR * len(distances):
        return
    holes = [(a, b) for a, b in pairwise(steps) if b - a > usual and (b - a) % usual == 0]
    holes = [(a, b) for a, b in holes if not _stood_still(reader, a, b)]
    if not holes:
        return
    recorder = reader.header.get("recorder")
    if isinstance(recorder, Mapping) and recorder.get("on_change"):
        severity, cure = "note", "right where the masks did not change; else snapshots were dropped or removed"
    else:
        severity, cure = "warning", "snapshots were dropped (policy='drop'), lost or removed; look in masks/"
    where = few([f"{a} to {b}" for a, b in holes])
    found = f"no snapshot between, though most are {usual} steps apart"
    yield Finding("hole", severity, f"steps {where}", found, cure)  # type: ignore[arg-type]  # one of two
