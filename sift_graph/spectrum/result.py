"""What a spectrum is: singular values, a bracket around each, and how they were come by."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["Bracket", "RegularSubgraph", "Spectrum"]


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The largest singular values of one layer, repeated ones counted.

    Attributes
    ----------
    sigma : ndarray of float64, shape (k,)
        Descending. Values that the graph does not have, because its smaller side has fewer vertices with an edge,
        are 0.0.
    lo, hi : ndarray of float64, shape (k,)
        Lower and upper bound of each; `certificate` says what they rest on.
    method : str
        How they were computed, for instance ``"dense"``, ``"gram+lanczos"`` or ``"matrix_free"``.
    status : str
        ``ok``; ``empty`` for a graph without edges, whose values are all NaN; ``not_converged`` when the iteration
        stopped before the asked tolerance: `lo` still holds, `sigma` may be too small.
    certificate : str
        ``full``: `lo` and `hi` of every value are proven. ``sign``: it is proven on which side of the bound `sigma_2`
        lies; `hi` is proven if that is below, though only as narrow as that took. ``undecided``: asked for, but the
        bound lies within the error. ``none``: `hi` is the iteration's own estimate. `lo` is always proven.
    """

    sigma: np.ndarray
    lo: np.ndarray
    hi: np.ndarray
    method: str
    status: str = "ok"
    certificate: str = "none"

    @property
    def sigma_1(self) -> float:
        """Largest singular value; NaN for a graph without edges."""
        return float(self.sigma[0])

    @property
    def sigma_2(self) -> float:
        """Second largest singular value; NaN for a graph without edges or if only one was asked for."""
        return float(self.sigma[1]) if self.sigma.size > 1 else math.nan

    @property
    def sigma_2_lo(self) -> float:
        """Lower bound of `sigma_2`."""
        return float(self.lo[1]) if self.lo.size > 1 else math.nan

    @property
    def sigma_2_hi(self) -> float:
        """Upper bound of `sigma_2`."""
        return float(self.hi[1]) if self.hi.size > 1 else math.nan


@dataclass(frozen=True, eq=False)
class Bracket:
    """Singular values of one part of a layer, descending, in the words of :class:`Spectrum`."""

    sigma: np.ndarray
    lo: np.ndarray
    hi: np.ndarray
    method: str
    status: str
    certificate: str


@dataclass(frozen=True)
class RegularSubgraph:
    """The vertices of one degree on one side of a layer, with the edges at them.

    Attributes
    ----------
    degree : int
        Degree of the chosen vertices.
    n_left, n_right : int
        Vertices of the subgraph on each side, all with an edge.
    edges : int
        ``degree`` times the number of chosen vertices.
    sigma_1, sigma_2 : float
        Its two largest singular values.
    sigma_2_lo, sigma_2_hi : float
        Proven bounds of `sigma_2`.
    weighted_sigma_1, weighted_sigma_2 : float
        The same of the absolute weights; NaN where they were not asked for.
    """

    degree: int
    n_left: int
    n_right: int
    edges: int
    sigma_1: float
    sigma_2: float
    sigma_2_lo: float
    sigma_2_hi: float
    weighted_sigma_1: float = math.nan
    weighted_sigma_2: float = math.nan
