"""The table of families.

A family widens the model, or puts something in the place of its layers, and says whether those carry masks.

References
----------
.. [1] V. Thangarasa, S. Saxena, A. Gupta, S. Lie, "Sparse-IFT: Sparse Iso-FLOP Transformations for Maximizing
   Training Efficiency", ICML 2024, section 3 and appendix A.
"""

from __future__ import annotations

from dataclasses import dataclass

from sift_graph.errors import UsageError, did_you_mean
from sift_graph.ift.formulas import check_sparsity
from sift_graph.ift.recipe import Kind

__all__ = ["FAMILIES", "Family", "checked_family"]


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes
    ----------
    name : str
    kind : {"parallel", "factorized", "doped", "low_rank"} or None
        What takes the place of a layer.
    is_masked : bool
        Whether its layers, but for the first and the last, carry masks.
    is_wide : bool
        Whether the model is widened.
    is_compensated : bool
        Whether the density may be chosen freely; that of N:M masks may not.
    """

    name: str
    kind: Kind | None = None
    is_masked: bool = True
    is_wide: bool = False
    is_compensated: bool = True

    @property
    def takes_sparsity(self) -> bool:
        """Whether a sparsity means anything; for a low rank it sets the width, as in Sparse Wide."""
        return self.is_masked or self.is_wide


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("dense", is_masked=False),
        Family("sparse_wide", is_wide=True),
        Family("sparse_parallel", "parallel"),
        Family("sparse_factorized", "factorized"),
        Family("sparse_doped", "doped"),
        Family("nm_wide", is_wide=True, is_compensated=False),
        Family("low_rank_linear", "low_rank", is_masked=False, is_wide=True),
        Family("low_rank_nonlinear", "low_rank", is_masked=False, is_wide=True),
    )
}


def checked_family(name: str, sparsity: float) -> Family:
    """Look up a family; refuse a name that is in no table, and a sparsity that it cannot have."""
    if name not in FAMILIES:
        raise UsageError(f"unknown family {name!r}{did_you_mean(name, FAMILIES)}")
    check_sparsity(sparsity)
    if sparsity != 0 and not FAMILIES[name].takes_sparsity:
        raise UsageError(
            f"the family {name!r} has sparsity 0, found {sparsity}; choose a sparse family or leave it out"
        )
    return FAMILIES[name]
