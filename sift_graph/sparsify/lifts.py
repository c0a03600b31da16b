"""Random lifts: large masks that look, around each edge, like a small base graph."""

from __future__ import annotations

import numpy as np

__all__ = ["lift", "most_layers"]


def lift(base: np.ndarray, layers: int, generator: np.random.Generator) -> np.ndarray:
    r"""Replace each vertex of a bipartite graph by several, and each edge by a random matching between these.

    Parameters
    ----------
    base : ndarray of bool, shape (outputs, inputs)
    layers : int
        Copies of each vertex.
    generator : numpy.random.Generator

    Returns
    -------
    ndarray of bool, shape (outputs layers, inputs layers)
        Copies of a vertex follow each other and have its degree. The singular values of the base are among those of the
        lift; the others are new, and with high probability near :math:`\sqrt{d_L - 1} + \sqrt{d_R - 1}` at most.

    References
    ----------
    .. [1] A. Amit and N. Linial, Random graph coverings I: general theory and graph connectivity, Combinatorica 22
       (2002).
    .. [2] Y. Bilu and N. Linial, Lifts, discrepancy and nearly optimal spectral gap, Combinatorica 26 (2006).
    .. [3] C. Bordenave and B. Collins, Eigenvalues of random lifts and polynomials of random permutation matrices,
       Annals of Mathematics 190 (2019): the new singular values.

    Examples
    --------
    >>> lift(np.ones((1, 2), dtype=bool), 3, np.random.default_rng(0)).sum(axis=1).tolist()
    [2, 2, 2]
    """
    outputs, inputs = base.shape
    lifted = np.zeros((outputs, layers, inputs, layers), dtype=np.bool_)
    for output, source in zip(*np.nonzero(base), strict=True):
        lifted[output, np.arange(layers), source, generator.permutation(layers)] = True
    return lifted.reshape(outputs * layers, inputs * layers)


def most_layers(outputs: int, inputs: int, degree: int) -> int:
    """Give the most copies that a graph of this size can be a lift by, of a base whose outputs have `degree` inputs.

    Parameters
    ----------
    outputs, inputs, degree : int

    Returns
    -------
    int
        1 if it is a lift of itself only. The base has equal fan-out if `outputs` times `degree` is a multiple of
        `inputs`.
    """
    return max(
        n for n in range(1, min(outputs, inputs) + 1) if not (outputs % n or inputs % n) and degree * n <= inputs
    )
