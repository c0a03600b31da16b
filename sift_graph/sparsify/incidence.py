"""Point and line geometries over a prime field: masks whose second singular value is as small as degrees allow."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["incidence", "net", "plane"]


def plane(q: int) -> np.ndarray:
    r"""Mark which points lie on which lines of the projective plane over the integers modulo a prime.

    Parameters
    ----------
    q : int
        A prime.

    Returns
    -------
    ndarray of bool, shape (q^2 + q + 1, q^2 + q + 1)
        Lines by points: every line has q + 1 points, every point q + 1 lines. The singular values are q + 1, once, and
        :math:`\sqrt q`: the normalised gap is exactly 1/2.

    Examples
    --------
    >>> sigma = np.linalg.svd(plane(2).astype(float), compute_uv=False)
    >>> sigma.round(4).tolist()
    [3.0, 1.4142, 1.4142, 1.4142, 1.4142, 1.4142, 1.4142]
    """
    points = np.array([(1, a, b) for a in range(q) for b in range(q)] + [(0, 1, a) for a in range(q)] + [(0, 0, 1)])
    incident: np.ndarray = points @ points.T % q == 0
    return incident


def net(q: int, classes: int) -> np.ndarray:
    r"""Mark which points of a q by q grid lie on which lines of some slopes, modulo a prime.

    Parameters
    ----------
    q : int
        A prime.
    classes : int
        Slopes, 1 to q + 1; the last one is vertical.

    Returns
    -------
    ndarray of bool, shape (classes q, q^2)
        Lines by points: every line has q points, every point `classes` lines. The singular values are
        :math:`\sqrt{kq}`, once, :math:`\sqrt q` and 0.

    Examples
    --------
    >>> net(3, 2).sum(axis=0).tolist(), net(3, 2).sum(axis=1).tolist()
    ([2, 2, 2, 2, 2, 2, 2, 2, 2], [3, 3, 3, 3, 3, 3])
    """
    x, y = np.divmod(np.arange(q * q), q)
    offsets = np.stack([(y - slope * x) % q for slope in range(min(classes, q))] + [x] * (classes - q), axis=0)
    lines: np.ndarray = offsets[:, None, :] == np.arange(q)[None, :, None]
    return lines.reshape(classes * q, q * q)


def incidence(outputs: int, inputs: int, degree: int) -> np.ndarray | None:
    """Give the plane or the net of these sizes.

    Parameters
    ----------
    outputs, inputs : int
        Lines and points.
    degree : int
        Points of a line.

    Returns
    -------
    ndarray of bool, shape (outputs, inputs), or None
        None if there is none over a prime field: a plane has q^2 + q + 1 of both and degree q + 1, a net of k classes
        kq lines, q^2 points and degree q.
    """
    if is_prime(degree - 1) and outputs == inputs == degree * (degree - 1) + 1:
        return plane(degree - 1)
    if is_prime(degree) and inputs == degree**2 and outputs % degree == 0 and outputs // degree <= degree + 1:
        return net(degree, outputs // degree)
    return None


def is_prime(q: int) -> bool:
    """Say whether a number is prime."""
    return q > 1 and all(q % d for d in range(2, math.isqrt(q) + 1))
