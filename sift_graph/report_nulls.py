"""What a report says of comparisons with random masks, in words."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from sift_graph.plot_nulls import NULL_WORDS

__all__ = ["Finding", "null_findings"]

LEVEL = 0.05


@dataclass(frozen=True)
class Finding:
    """How the gaps of all layers lie among those of one null model."""

    words: str  # what the random masks share with the layers
    layers: int
    above: int
    below: int
    samples: int
    mean_z: float
    left_out: int

    @property
    def sentence(self) -> str:
        """Say it."""
        parts = []
        if self.above:
            parts.append(f"{self.above} of {self.layers} layers have a larger gap than random masks give")
        if self.below:
            parts.append(
                f"{self.below} a smaller one" if parts else f"{self.below} of {self.layers} layers have a smaller gap"
            )
        text = " and ".join(parts) if parts else f"none of {self.layers} layers can be told from random masks"
        text += f"; mean z {self.mean_z:+.2f}".replace("-", "−") if pd.notna(self.mean_z) else ""
        if self.left_out:
            text += f"; {self.left_out} without such random masks, or without a spread among them"
        return f"{text[0].upper()}{text[1:]}."


def null_findings(nulls: pd.DataFrame, layers: pd.DataFrame) -> list[Finding]:
    """Sum up each null model over the last snapshots, that with the strictest random masks first.

    Parameters
    ----------
    nulls : DataFrame
        One row per (run, step, layer, null, metric).
    layers : DataFrame
        The layers frame, whose last steps count.

    Returns
    -------
    list of Finding
        None of a null model without a single value.
    """
    metric = next((m for m in ("ramanujan_gap", "ramanujan_gap_norm") if (nulls["metric"] == m).any()), None)
    last = layers.groupby("run")["step"].max()
    rows = nulls[(nulls["metric"] == metric) & (nulls["step"] == nulls["run"].map(last))]
    found = []
    for null in ("nm", "degree", "er"):
        part = rows[rows["null"] == null]
        known = part[part["z"].notna()]
        if not len(known):
            continue
        differs = known["p"] < LEVEL
        found.append(
            Finding(
                NULL_WORDS[null],
                len(known),
                int((differs & (known["z"] > 0)).sum()),
                int((differs & (known["z"] < 0)).sum()),
                int(known["n"].max()),
                float(known["z"].mean()),
                len(part) - len(known),
            )
        )
    return found
