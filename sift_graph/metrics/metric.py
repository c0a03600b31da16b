"""What a metric is: a function of a layer or of a network, with what a reader has to know to use its value."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from sift_graph.errors import SpectrumError, UsageError, did_you_mean

__all__ = ["GROUPS", "Flagged", "Laws", "Metric", "Undefined", "evaluate", "is_missing"]

Scope = Literal["layer", "dynamics", "network"]
Needs = Literal["mask", "weight", "gradient"]

GROUPS: dict[str, str] = {
    "structure": "Sizes, degrees and density",
    "ramanujan": "Two leading singular values against the Ramanujan bounds",
    "mixing": "Normalised spectrum, conductance and mixing",
    "local": "Cycles, cores and neighbourhoods",
    "weighted": "Spectra of the weights on the mask",
    "iterative": "Means over regular subgraphs",
    "reference": "Random references",
    "full_spectrum": "The full-spectrum coordinate",
    "dynamics": "Mask dynamics",
    "network": "The whole network",
    "vita": "As the code of ICLR 2023 computes it",
    "vita_stable": "As the published tables of ICLR 2023 have it",
    "mge": "As the code of TMLR 2024 computes it",
    "mge_graph_metrics": "As the published graph metrics of TMLR 2024 have it",
    "fullspectrum": "As the code of NeurIPS 2023 computes it",
    "fullspectrum_v0": "As the oldest version of that code computes it",
    "custom": "Added by other packages",
}
"""Groups of metrics: the headings of the catalogue, in its order."""


class Undefined(Exception):
    """A metric has no value here; the word says why, and goes into the row's ``note``."""


@dataclass(frozen=True)
class Flagged:
    """A value that stands, with a word for the row's ``note`` that its reader has to know."""

    value: Any
    word: str


@dataclass(frozen=True)
class Laws:
    """What a metric's value does when its layer is changed; the common tests hold every metric to it.

    Attributes
    ----------
    relabelled : bool
        It does not change when vertices are numbered otherwise.
    padded : bool
        It does not change when vertices without an edge are added.
    transposed : str or None
        The column that holds its value once the sides are exchanged: its own name by default (``""``); None where
        nothing is promised.
    degree : int or None
        Its value times ``c ** degree`` is that of weights times ``c``; 0 for what does not look at the weights' scale.
        None where nothing is promised.
    accuracy : float
        Within which, absolutely, these hold in floating point.
    """

    relabelled: bool = True
    padded: bool = True
    transposed: str | None = ""
    degree: int | None = 0
    accuracy: float = 1e-8


@dataclass(frozen=True)
class Metric:
    """One column of the table.

    Attributes
    ----------
    name : str
        The column.
    compute : callable
        From a :class:`sift_graph.metrics.Layer` (or, as `scope` says, from a layer's change or from a network) to a
        number or a word; raises :class:`Undefined` with a word where there is none.
    formula : str
        In the notation of the catalogue: M mask, A absolute weight on the mask, E edges, d mean degrees.
    values : str
        The range.
    undefined : str
        When the value is NaN.
    source : str
        The paper or the standard term.
    needs : {"mask", "weight", "gradient"}
        What must be known beside the mask.
    missing : object
        Stands for an undefined value: NaN, or None in a column of words.
    group : str
        A key of :data:`GROUPS`.
    cost : str
        The shared computation that the value rests on, a key of :data:`sift_graph.metrics.COSTS`.
    predicts : str
        What the value tells, and what it does not.
    oracle : str
        What its values are tested against.
    laws : Laws
    scope : {"layer", "dynamics", "network"}
        What `compute` is given.
    core : bool
        Computed when nothing is asked for.
    origin : str
        The package that defines it; a metric of another package may raise what it likes without harm to the rest.
    """

    name: str
    compute: Callable[[Any], Any]
    formula: str
    values: str
    undefined: str = "never"
    source: str = "standard"
    needs: Needs = "mask"
    missing: Any = math.nan
    group: str = "custom"
    cost: str = "edges"
    predicts: str = ""
    oracle: str = ""
    laws: Laws = Laws()
    scope: Scope = "layer"
    core: bool = False
    origin: str = "sift_graph"

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise UsageError(f"metric {self.name!r}: expected a name that can be a column, like my_metric")
        if self.group not in GROUPS:
            raise UsageError(f"metric {self.name!r}: no group {self.group!r}{did_you_mean(self.group, GROUPS)}")
        if not callable(self.compute):
            raise UsageError(f"metric {self.name!r}: expected a function of a layer, found {self.compute!r}")


def evaluate(subject: Any, metrics: Iterable[Metric]) -> dict[str, Any]:
    """Compute metrics of one subject: a layer, a layer's change, or a network.

    Parameters
    ----------
    subject : object
        What the metrics' functions take.
    metrics : iterable of Metric

    Returns
    -------
    dict
        A value for each name, ``missing`` where undefined, and ``note``: the words that say why, with commas between.
        A metric of another package that raises is undefined, with its name and the text of the exception as word.
    """
    values: dict[str, Any] = {}
    notes: dict[str, None] = {}
    for metric in metrics:
        values[metric.name] = metric.missing
        try:
            value = metric.compute(subject)
            if isinstance(value, Flagged):
                notes[value.word] = None
                value = value.value
            values[metric.name] = value if metric.origin == "sift_graph" else checked(value)
        except Undefined as reason:
            notes[str(reason)] = None
        except SpectrumError:
            notes["not_converged"] = None
        except Exception as error:
            if metric.origin == "sift_graph":
                raise
            notes[f"{metric.name}: {one_word(error)}"] = None
    values["note"] = ",".join(notes)
    return values


def checked(value: Any) -> Any:
    """Return what another package's metric computed as a plain number or text, or refuse it."""
    if hasattr(value, "item") and getattr(value, "size", 1) == 1:
        value = value.item()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"expected a number or a text; found {type(value).__name__}")


def one_word(error: Exception) -> str:
    """Write an exception so that it fits a note, whose words stand between commas."""
    text = f"{type(error).__name__}: {error}".replace(",", ";")
    return " ".join(text.split())[:200]


def is_missing(value: Any) -> bool:
    """Whether a metric's value says that there is none."""
    return value is None or (isinstance(value, float) and math.isnan(value))
