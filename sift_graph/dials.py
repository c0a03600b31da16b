"""What a study turned beside family, sparsity and method: the keys in which its runs' configurations differ."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from sift_graph.errors import DamagedStoreError
from sift_graph.store import check_file

__all__ = ["Response", "read_dials", "responses"]

KNOWN = ("family", "sparsity", "method", "seed")
GAP = "ramanujan_gap_norm"
MIN_LEVELS, MIN_RUNS = 3, 3
LEVEL = 0.05
MAX_CONFIG = 1 << 20  # bytes


@dataclass(frozen=True, eq=False)
class Response:
    """What happens to the target where one number is turned and all else stands.

    Attributes
    ----------
    dial : str
        Key of the configuration.
    held : str
        What stood: family, method, sparsity, and other keys that the study turned.
    runs : DataFrame
        Columns ``run``, ``level``, ``seed``, ``target`` and, where it was measured, ``gap``.
    """

    dial: str
    held: str
    runs: pd.DataFrame

    @property
    def ends(self) -> tuple[float, float]:
        """Lowest and highest level."""
        return float(self.runs["level"].min()), float(self.runs["level"].max())

    def change(self, column: str) -> tuple[float, float, float]:
        """Subtract the mean at the lowest level from that at the highest, paired by seed where seeds are shared.

        Returns
        -------
        tuple of float
            Change, and the ends of its 95 % interval: NaN with fewer than three runs at an end.
        """
        low, high = (self.runs[self.runs["level"] == end].dropna(subset=[column]) for end in self.ends)
        a, b = (part.groupby("seed")[column].mean() for part in (low, high))
        shared = a.index.intersection(b.index)
        with np.errstate(all="ignore"):
            if 0 < len(shared) == len(a) == len(b):
                d = (b[shared] - a[shared]).to_numpy(dtype=float)
                found: Any = stats.ttest_1samp(d, 0.0) if len(d) >= MIN_RUNS and np.ptp(d) > 1e-12 else None
            else:
                enough = min(len(low), len(high)) >= MIN_RUNS and min(np.ptp(low[column]), np.ptp(high[column])) > 0
                found = stats.ttest_ind(high[column], low[column], equal_var=False) if enough else None
        mean = float(high[column].mean() - low[column].mean())
        if found is None:
            return mean, float("nan"), float("nan")
        lo, hi = found.confidence_interval()
        return mean, float(lo), float(hi)

    def sentence(self, target: str) -> str:
        """Say what turning the dial did to the target and to the gap."""
        low, high = self.ends
        mean, lo, hi = self.change("target")
        interval = f" [{lo:+.3f}, {hi:+.3f}]" if np.isfinite(lo) else ""
        gap = ""
        if "gap" in self.runs and self.runs["gap"].notna().any():
            gap = f", the gap over its bound by {self.change('gap')[0]:+.3f}"
        known = self.runs.dropna(subset=["target"])
        if known["target"].nunique() < 2:
            trend = "the target is constant"
        else:
            rho, p = stats.spearmanr(known["level"], known["target"])
            word = "a trend" if p < LEVEL else "no trend that chance does not make"
            trend = f"{word} (rho = {rho:+.2f}, p = {p:.2g}, {len(known)} runs)"
        return f"{self.held}: from {low:g} to {high:g} {target} changes by {mean:+.3f}{interval}{gap}; {trend}."


def read_dials(runs: Mapping[str, Path]) -> pd.DataFrame:
    """Read in which keys the configurations of a study's runs differ.

    Parameters
    ----------
    runs : mapping of str to Path
        Run directories by name; those without a readable ``config.toml`` have no value.

    Returns
    -------
    DataFrame
        A row a run, indexed by its name; a column for each key that is turned, such as ``options.strength``. Family,
        sparsity, method and seed are not among them.
    """
    configs = {name: dict(flat(read_config(path / "config.toml"))) for name, path in runs.items()}
    keys = sorted({key for config in configs.values() for key in config} - set(KNOWN))
    frame = pd.DataFrame([{key: config.get(key) for key in keys} for config in configs.values()], index=list(configs))
    read = frame[[bool(config) for config in configs.values()]]
    turned = [key for key in keys if read[key].map(repr).nunique() > 1]
    return frame[turned]


def read_config(path: Path) -> dict[str, Any]:
    """Read a run's configuration; nothing where it cannot be read, or is a link out of the run."""
    try:
        check_file(path.parent, path)
        return tomllib.loads(path.read_text(encoding="utf-8")) if path.stat().st_size <= MAX_CONFIG else {}
    except (DamagedStoreError, OSError, UnicodeDecodeError, RecursionError, tomllib.TOMLDecodeError):
        return {}


def flat(table: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Walk through nested tables, keys joined by points."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def responses(network: pd.DataFrame, dials: pd.DataFrame, target: str) -> list[Response]:
    """Find where one number was turned, with all else as it was.

    Parameters
    ----------
    network : DataFrame
        One row per (run, step); the last step of each run counts.
    dials : DataFrame
        As :func:`read_dials` returns it.
    target : str
        Column of `network`.

    Returns
    -------
    list of Response
        For each number that takes three or more values, and each setting of all else.
    """
    if target not in network or dials.empty:
        return []
    last = network.loc[network.groupby("run")["step"].idxmax()].set_index("run")
    last = last[last[target].notna()].join(dials, how="inner")
    found = []
    for dial in dials:
        numbers = last[dial].map(lambda v: isinstance(v, int | float) and not isinstance(v, bool))
        if not len(last) or not numbers.any():
            continue
        rows = last[numbers]
        held = [k for k in ("family", "method", "sparsity") if k in rows] + [k for k in dials if k != dial]
        labels = rows[held].map(lambda v: f"{v:g}" if isinstance(v, float) else str(v)).agg(" · ".join, axis=1)
        for label, part in rows.groupby(labels, sort=False):
            if part[dial].nunique() < MIN_LEVELS:
                continue
            runs = pd.DataFrame({"run": part.index, "level": part[dial].astype(float).to_numpy()})
            runs["seed"], runs["target"] = part["seed"].to_numpy(), part[target].to_numpy(dtype=float)
            if GAP in part:
                runs["gap"] = part[GAP].to_numpy(dtype=float)
            found.append(Response(str(dial), str(label), runs))
    return found
