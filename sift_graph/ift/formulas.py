r"""The iso-FLOP solutions: from a sparsity to widths, branches and ranks, as whole numbers.

A layer with :math:`d_{in}` inputs (times kernel positions, for a convolution) and :math:`d_{out}` outputs costs
:math:`d_{in} d_{out}` multiply-accumulates at each position. Each function here gives the number that keeps this cost
when the weights are a fraction :math:`1 - s` dense.

References
----------
.. [1] V. Thangarasa, S. Saxena, A. Gupta, S. Lie, "Sparse-IFT: Sparse Iso-FLOP Transformations for Maximizing
   Training Efficiency", ICML 2024, section 3, table 1 and appendix A.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from sift_graph.errors import UsageError, did_you_mean

__all__ = [
    "ROUNDINGS",
    "check_sparsity",
    "doped_rank",
    "factorized_rank",
    "last_branch_density",
    "parallel_branches",
    "rounded",
    "training_flops",
    "transformer_training_flops",
    "widen_factor",
    "widened",
]

ROUNDINGS = ("nearest", "floor", "ceil", "official")
BRANCH_ROUNDINGS = ("exact", *ROUNDINGS)
TOLERANCE = 1e-9  # 1 - 0.9 is a little below 0.1 in floating point, and 57.6 / (1 - 0.9) a little above 576


def check_sparsity(sparsity: float) -> None:
    """Refuse a sparsity outside [0, 1)."""
    if not 0 <= sparsity < 1:
        raise UsageError(f"expected a sparsity of at least 0 and below 1, a fraction of zeros, found {sparsity}")


def check_choice(what: str, value: str, known: Iterable[str]) -> None:
    """Refuse a word that is not among those known, and suggest one."""
    known = list(known)
    if value not in known:
        raise UsageError(f"unknown {what} {value!r}{did_you_mean(value, known)}")


def rounded(value: float, rounding: str) -> int:
    """Turn a number into an integer.

    Parameters
    ----------
    value : float
    rounding : {"nearest", "floor", "ceil", "official"}
        Halves go up; ``"floor"`` and ``"ceil"`` forgive an error of 1e-9. ``"official"`` is a ceiling that forgives
        nothing, as the released code of Sparse-IFT has it: 57.6 / (1 - 0.9) gives 577.

    Returns
    -------
    int

    Raises
    ------
    UsageError
        If the rounding is unknown.

    Examples
    --------
    >>> rounded(2.5, "nearest"), rounded(576.0000000001, "ceil"), rounded(57.6 / (1 - 0.9), "official")
    (3, 576, 577)
    """
    check_choice("rounding", rounding, ROUNDINGS)
    if rounding == "official":
        return math.ceil(value)
    if rounding == "ceil":
        return math.ceil(value - TOLERANCE)
    return math.floor(value + (TOLERANCE if rounding == "floor" else 0.5))


def widen_factor(sparsity: float) -> float:
    r"""Width factor of Sparse Wide, :math:`k = 1 / \sqrt{1 - s}`.

    Parameters
    ----------
    sparsity : float
        In [0, 1).

    Returns
    -------
    float

    Raises
    ------
    UsageError
        If the sparsity is outside [0, 1).

    Examples
    --------
    >>> widen_factor(0.75)
    2.0
    """
    check_sparsity(sparsity)
    return 1 / math.sqrt(1 - sparsity)


def widened(width: int, sparsity: float, *, rounding: str = "nearest", multiple: int = 1) -> int:
    """Width of a Sparse Wide model.

    Parameters
    ----------
    width : int
        Of the dense model.
    sparsity : float
        In [0, 1).
    rounding : {"nearest", "floor", "ceil", "official"}
        ``"floor"`` truncates: 64 at 0.5 gives 90, where ``"nearest"`` gives 91. ``"official"`` is what the released
        code of Sparse-IFT does: the factor is the root of :math:`1 / (1 - s)` rounded to an integer, and the width is
        truncated.
    multiple : int
        Round to a multiple of it: of the number of heads of a transformer, or of the M of N:M masks.

    Returns
    -------
    int

    Raises
    ------
    UsageError
        If the width or the multiple is below 1, the sparsity outside [0, 1), or the rounding unknown.

    Examples
    --------
    >>> widened(64, 0.9), widened(64, 0.5), widened(64, 0.5, rounding="floor")
    (202, 91, 90)
    >>> widened(768, 0.5, rounding="ceil", multiple=12)  # the 12 heads of GPT-3 Small
    1092
    """
    if width < 1:
        raise UsageError(f"expected a width of 1 or more, found {width}")
    if multiple < 1:
        raise UsageError(f"expected widths to be a multiple of 1 or more, found {multiple}")
    factor = widen_factor(sparsity)
    if rounding == "official":
        factor, rounding = math.sqrt(round(1 / (1 - sparsity))), "floor"
    return max(rounded(width * factor / multiple, rounding), 1) * multiple


def parallel_branches(sparsity: float, *, rounding: str = "exact") -> int:
    """Count the branches of Sparse Parallel, :math:`1 / (1 - s)`.

    Parameters
    ----------
    sparsity : float
        In [0, 1).
    rounding : {"exact", "nearest", "floor", "ceil", "official"}
        ``"exact"``: so many branches of density `1 - s` as there are whole ones, and one more of what is left,
        :func:`last_branch_density`. With the others all branches have the same density, which compensation adjusts;
        ``"official"`` rounds halves to the even number, as the released code does.

    Returns
    -------
    int

    Raises
    ------
    UsageError
        If the sparsity is outside [0, 1), the rounding unknown, or a positive sparsity gives a single branch, which
        is the dense layer.

    Examples
    --------
    >>> parallel_branches(0.9), parallel_branches(0.6), parallel_branches(0.6, rounding="official")
    (10, 3, 2)
    """
    check_sparsity(sparsity)
    check_choice("rounding", rounding, BRANCH_ROUNDINGS)
    exact = 1 / (1 - sparsity)
    up = "ceil" if rounding == "exact" else rounding
    branches = round(exact) if rounding == "official" else rounded(exact, up)
    if branches == 1 and sparsity > TOLERANCE:
        raise UsageError(
            f"sparse_parallel: a sparsity of {sparsity} asks for {exact:.3g} branches, which rounding {rounding!r} "
            "turns into 1, the dense layer; take rounding 'exact' or 'ceil', or a higher sparsity"
        )
    return branches


def last_branch_density(sparsity: float) -> float:
    """Density of the last of the branches of Sparse Parallel, so that together they cost what the dense layer does.

    Parameters
    ----------
    sparsity : float
        In [0, 1).

    Returns
    -------
    float
        In (0, 1 - s]; equal to `1 - s` where :math:`1 / (1 - s)` is an integer.

    Examples
    --------
    >>> round(last_branch_density(0.6), 12), round(last_branch_density(0.75), 12)
    (0.2, 0.25)
    """
    return 1 - (parallel_branches(sparsity) - 1) * (1 - sparsity)


def factorized_rank(d_in: int, d_out: int, sparsity: float, *, rounding: str = "ceil") -> int:
    """Rank of Sparse Factorized, :math:`d_{in} d_{out} / ((d_{in} + d_{out}) (1 - s))`.

    Parameters
    ----------
    d_in : int
        Inputs, times kernel positions; of one group.
    d_out : int
        Outputs; of one group.
    sparsity : float
        In [0, 1).
    rounding : {"ceil", "nearest", "floor", "official"}

    Returns
    -------
    int
        1 or more.

    Examples
    --------
    >>> factorized_rank(9 * 64, 64, 0.5), factorized_rank(9 * 64, 64, 0.9, rounding="official")
    (116, 577)
    """
    check_sparsity(sparsity)
    return max(rounded(d_in * d_out / (d_in + d_out) / (1 - sparsity), rounding), 1)


def doped_rank(d_in: int, d_out: int, sparsity: float, *, rounding: str = "floor") -> int:
    """Rank of the dense pair of Sparse Doped, :math:`s d_{in} d_{out} / (d_{in} + d_{out})`.

    Parameters
    ----------
    d_in : int
        Inputs, times kernel positions; of one group.
    d_out : int
        Outputs; of one group.
    sparsity : float
        In [0, 1).
    rounding : {"floor", "nearest", "ceil", "official"}
        ``"official"`` is ``"floor"``.

    Returns
    -------
    int
        0 or more; 0 leaves the pair out.

    Examples
    --------
    >>> doped_rank(9 * 64, 64, 0.5)
    28
    """
    check_sparsity(sparsity)
    return rounded(sparsity * d_in * d_out / (d_in + d_out), "floor" if rounding == "official" else rounding)


def training_flops(sparse: float, dense: float, *, every: int = 0) -> float:
    r"""Cost of training on one sample: a forward pass, and a backward pass that counts as two.

    :math:`3 f_S`; for a method that grows by the dense gradient,
    :math:`(3 f_S \Delta T + 2 f_S + f_D) / (\Delta T + 1)`: once in :math:`\Delta T` updates a third of it is dense.

    Parameters
    ----------
    sparse : float
        Of a forward pass with the masks, in any unit.
    dense : float
        Of one of the same model with every weight present; only counted with `every`.
    every : int
        Updates between two that need the dense gradient; 0 for never: static masks, SET, or after the last.

    Returns
    -------
    float
        In the same unit.

    Raises
    ------
    UsageError
        If `every` is below 0.

    References
    ----------
    .. [1] U. Evci et al., "Rigging the Lottery", ICML 2020, appendix H.

    Examples
    --------
    >>> training_flops(1.0, 10.0), round(training_flops(1.0, 10.0, every=100), 4)
    (3.0, 3.0891)
    """
    if every < 0:
        raise UsageError(f"expected 0 or more updates between two dense gradients, found {every}")
    return (3 * sparse * every + 2 * sparse + dense) / (every + 1) if every else 3 * sparse


def transformer_training_flops(
    width: int, hidden: int, depth: int, *, tokens: int, vocabulary: int, density: float = 1.0
) -> float:
    r"""Floating-point operations of training a causal transformer on one sequence, as the literature counts them.

    :math:`6 T (\delta L (4 d^2 + 2 d f) + V d) + 12 L d T^2` for width d, hidden width f, depth L, T tokens, V in the
    vocabulary. The last term is attention; the head, which stays dense, is the one with V. Multiplications and
    additions count apart, a backward pass as two forward ones.

    Parameters
    ----------
    width, hidden, depth : int
    tokens : int
        Of the sequence.
    vocabulary : int
    density : float
        Of the weights of all blocks.

    Returns
    -------
    float

    References
    ----------
    .. [1] V. Thangarasa et al., "Sparse-IFT", ICML 2024, appendix, table 15: 8.763e11 for GPT-3 Small and 1.029e12 for
       Sparse Wide at 0.5; this is within 0.2 % of them.

    Examples
    --------
    >>> f"{transformer_training_flops(768, 3072, 12, tokens=1024, vocabulary=50257):.3e}"
    '8.749e+11'
    """
    weights = density * depth * (4 * width**2 + 2 * width * hidden) + vocabulary * width
    return 6 * tokens * weights + 12 * depth * width * tokens**2
