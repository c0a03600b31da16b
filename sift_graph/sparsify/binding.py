"""Communities at given degrees: edges are traded until most of them stay at home, and no vertex gains or loses one."""

from __future__ import annotations

import numpy as np

__all__ = ["bind"]


def bind(
    chosen: np.ndarray, mine: np.ndarray, theirs: np.ndarray, share: float, generator: np.random.Generator
) -> np.ndarray:
    """Bring a share of the edges that lie between communities home, by trades that keep every degree.

    A trade takes two edges that lie between communities, a-b and c-d, and makes a-d and c-b of them, of which the
    first, and where possible both, lie within a community.

    Parameters
    ----------
    chosen : ndarray of bool, shape (rows, columns)
    mine, theirs : ndarray of int
        The community of each row and of each column.
    share : float
        In [0, 1]: how many of the edges between communities are brought home; with 1 as many as trades can, which is
        all of them where degrees allow.
    generator : numpy.random.Generator

    Returns
    -------
    ndarray of bool, shape (rows, columns)
        With the row and column sums of `chosen`.

    Examples
    --------
    >>> halves = np.array([0, 0, 1, 1])
    >>> bind(np.eye(4, dtype=bool)[::-1], halves, halves, 1.0, np.random.default_rng(0))[:2, :2].sum()
    np.int64(2)
    """
    bound = chosen.copy()
    row, column = np.nonzero(bound)
    away = mine[row] != theirs[column]
    row, column = row[away], column[away]
    left = round((1 - share) * len(row))
    away, gained = np.ones(len(row), dtype=np.bool_), True
    while gained and away.sum() > left:
        gained = False
        for i in generator.permutation(len(row)):
            if not away[i] or away.sum() <= left:
                continue
            r, c = row[i], column[i]
            can = away & (theirs[column] == mine[r]) & ~bound[r, column] & ~bound[row, c]
            both = can & (mine[row] == theirs[c])
            partners = np.flatnonzero(both if both.any() else can)
            if len(partners):
                j = generator.choice(partners)
                bound[[r, row[j]], [c, column[j]]] = False
                bound[[r, row[j]], [column[j], c]] = True
                column[i], column[j] = column[j], c
                away[[i, j]] = mine[row[[i, j]]] != theirs[column[[i, j]]]
                gained = True
    return bound
