"""Which path a layer takes, and what it will cost: one model of time, measured, that both questions share.

With n vertices on the smaller side, m on the larger one, E edges and w = m / 64 words a row:

========  =====================================  ===============================  ========================
path      to set up                              a step                           taken for
========  =====================================  ===============================  ========================
dense     ---                                    ---                              n <= 48, few entries
gram      E n / 2 bits added, or n^2 w / 2       n^2 multiply-adds, from memory   most layers
          words compared
packed    ---                                    2 n w masked additions           large n, few steps
sparse    E list entries                         2 E gathers and scatters         low density; weights
========  =====================================  ===============================  ========================

The number of steps is not known beforehand: about 45 for a mask without structure, whatever its size; half a dozen
where degrees vary much more than chance would make them, because then sigma_2 stands clear of the bulk.
"""

from __future__ import annotations

from typing import Literal

__all__ = ["Path", "choose_path", "estimate_seconds", "fits_dense"]

Path = Literal["gram", "packed", "sparse"]

DENSE_SIDE = 48
DENSE_CELLS = 1 << 17
# Seconds on one core with AVX2; other machines scale them alike, roughly, and only ratios matter here.
COMPARE_WORD = 2.5e-10
ADD_BIT = 4.7e-12
LIST_WORD = 1.0e-8
GRAM_ENTRY = 1.5e-9
MULTIPLY_ADD = 4.2e-11
MASKED_WORD = 7.5e-9
GATHER = 4.8e-10
LIST_EDGE = 7.0e-9
STEPS = 45
FEW_STEPS = 7
GRAM_SIDE = 40_000  # 6.4 GB in float32


def fits_dense(n: int, m: int) -> bool:
    """Whether numpy on the unpacked block beats loading compiled code."""
    return n <= DENSE_SIDE and n * m <= DENSE_CELLS


def choose_path(n: int, m: int, edges: int, *, uneven: bool = False, exact: bool = True) -> Path:
    """Pick the cheapest form of the operator x -> A A^T x.

    Parameters
    ----------
    n, m : int
        Vertices of the smaller and of the larger side.
    edges : int
    uneven : bool
        Whether degrees vary far more than chance would make them.
    exact : bool
        Whether the entries are 0 and 1; otherwise only ``sparse`` will do.

    Returns
    -------
    {"gram", "packed", "sparse"}

    Examples
    --------
    >>> choose_path(1619, 14571, 2_359_045)
    'gram'
    >>> choose_path(1619, 14571, 2_359_045, exact=False)
    'sparse'
    >>> choose_path(20_000, 80_000, 400_000_000)
    'packed'
    >>> choose_path(8_000, 8_000, 64_000)
    'sparse'
    """
    if not exact:
        return "sparse"
    costs = _costs(n, m, edges, FEW_STEPS if uneven else STEPS)
    if uneven:
        costs["packed"] /= 2  # the steps are taken in float32
    if n > GRAM_SIDE or m >= 1 << 24:  # counts must be exact in float32
        del costs["gram"]
    return min(costs, key=lambda path: costs[path])


def _costs(n: int, m: int, edges: int, steps: int) -> dict[Path, float]:
    words = -(-m // 64)
    added = ADD_BIT * min(edges, n * m - edges) * n / 2 + LIST_WORD * n * words
    return {
        "gram": min(COMPARE_WORD * n * n * words / 2, added) + (GRAM_ENTRY + MULTIPLY_ADD * steps) * n * n,
        "packed": MASKED_WORD * n * words * 2 * steps,
        "sparse": LIST_EDGE * edges + 2 * GATHER * edges * steps + 1.5 * LIST_WORD * n * words,
    }


def estimate_seconds(n_left: int, n_right: int, edges: int) -> float:
    """Estimate the time of one layer's core metrics (sigma_1, sigma_2, IMDB) on one core.

    Parameters
    ----------
    n_left, n_right : int
        Vertices on each side.
    edges : int
        Edges between them.

    Returns
    -------
    float
        Seconds: a guide for sorting work by cost, within a factor of about two.

    Examples
    --------
    >>> estimate_seconds(14571, 1619, 2_358_000) > estimate_seconds(1818, 202, 36_700) > 0
    True
    """
    n, m = sorted((n_left, n_right))
    proof = 6e-12 * min(n, 16_384) ** 3
    subgraphs = 1.5e-8 * edges
    return 3e-4 + min(_costs(n, m, edges, STEPS).values()) + proof + subgraphs
