"""What a metric is: a function of a layer, with what a reader has to know to use its value."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from sift_graph.metrics.layer import Layer

__all__ = ["Metric"]


@dataclass(frozen=True)
class Metric:
    """One column of the table.

    Attributes
    ----------
    name : str
        The column.
    compute : callable
        Layer to value; raises Undefined with a word where there is none.
    formula : str
        In the notation of the catalogue: M mask, A absolute weight on the mask, E edges, d mean degrees.
    values : str
        The range.
    undefined : str
        When the value is NaN.
    source : str
        The paper or the standard term.
    needs : {"mask", "weight"}
        What must have been recorded.
    missing : object
        Stands for an undefined value: NaN, or None in a column of words.
    """

    name: str
    compute: Callable[[Layer], Any]
    formula: str
    values: str
    undefined: str = "never"
    source: str = "standard"
    needs: Literal["mask", "weight"] = "mask"
    missing: Any = math.nan
