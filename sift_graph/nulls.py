"""Random references: masks that share a layer's counts and nothing else.

The closed forms of a random mask stand in :mod:`sift_graph.bounds`; here are the masks themselves.
"""

from __future__ import annotations

import numpy as np

from sift_graph.masks import LayerMask

__all__ = ["erdos_renyi"]


def erdos_renyi(mask: LayerMask, rng: np.random.Generator) -> LayerMask:
    """Draw a mask of the same shape and the same number of edges, uniformly among all of them.

    Parameters
    ----------
    mask : LayerMask
    rng : numpy.random.Generator

    Returns
    -------
    LayerMask
        Without weights, ``source="erdos_renyi"``.

    Examples
    --------
    >>> mask = LayerMask.from_dense("fc", np.eye(8, dtype=bool))
    >>> erdos_renyi(mask, np.random.default_rng(0)).edges
    8
    """
    flat = np.zeros(mask.size, dtype=bool)
    flat[rng.choice(mask.size, size=mask.edges, replace=False, shuffle=False)] = True
    return LayerMask.from_dense(
        mask.layer, flat.reshape(mask.shape), groups=mask.groups, layout=mask.layout, source="erdos_renyi"
    )
