"""The full-spectrum coordinate of NeurIPS 2023, and the three different quantities that are called its L2 distance.

A layer's coordinate is (Ramanujan gap, IMDB, weighted gap, IMSG). Named apart, never plain "L2":

``fs_norm``
    its distance from the origin, averaged over layers: what the paper's scatter plots show.
:func:`distance`
    its distance from the coordinate at initialisation: what the abstract describes.
:func:`anchor_distance`, :func:`angular_distance`
    over the layers, one weighted metric at a time: what the code's ``batch_l2_distance`` compares.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sift_graph.metrics.iterative import ITERATIVE
from sift_graph.metrics.layer import Layer
from sift_graph.metrics.metric import Flagged, Laws, Metric, Undefined
from sift_graph.metrics.ramanujan import ramanujan_gap
from sift_graph.metrics.weighted import NO_WEIGHTS, gradient_imsg, gradient_spectral_gap, weighted_spectral_gap

__all__ = ["COORDINATE", "FULL_SPECTRUM", "anchor_distance", "angular_distance", "coordinate", "distance"]

COORDINATE = ("ramanujan_gap", "imdb", "weighted_spectral_gap", "imsg")
"""Columns that are the coordinate, in its order."""

_ITERATIVE = {metric.name: metric.compute for metric in ITERATIVE}


def coordinate(layer: Layer, *, gradient: bool = False) -> np.ndarray:
    """Compute a layer's coordinate.

    Parameters
    ----------
    layer : Layer
    gradient : bool
        With the two entries of the gradients behind.

    Returns
    -------
    ndarray of float64, shape (4,) or (6,)
        NaN where an entry is undefined.
    """
    entries: list[Any] = [ramanujan_gap, _ITERATIVE["imdb"], weighted_spectral_gap, _ITERATIVE["imsg"]]
    if gradient:
        entries += [gradient_spectral_gap, gradient_imsg]
    found = []
    for compute in entries:
        try:
            found.append(float(compute(layer)))
        except Undefined:
            found.append(math.nan)
    return np.array(found)


def norm(values: np.ndarray) -> Any:
    """Length of a coordinate with 0 for what is undefined, flagged where that is so."""
    length = float(np.linalg.norm(np.nan_to_num(values)))
    return Flagged(length, "fs_partial") if np.isnan(values).any() else length


def fs_norm(layer: Layer) -> Any:
    """Length of the coordinate."""
    layer.require_weights()
    return norm(coordinate(layer))


def fs_norm_gradient(layer: Layer) -> Any:
    """Length of the coordinate with gradients."""
    layer.require_weights()
    layer.require_gradient()
    return norm(coordinate(layer, gradient=True))


def distance(now: np.ndarray, then: np.ndarray) -> np.ndarray:
    """Distance of each layer's coordinate from an earlier one.

    Parameters
    ----------
    now, then : ndarray of float64, shape (layers, entries)

    Returns
    -------
    ndarray of float64, shape (layers,)
        NaN where an entry of either is undefined. The distance of a network is their mean, or the norm of them all
        stacked: two different numbers.

    Examples
    --------
    >>> distance(np.array([[3.0, 4.0, 0.0, 0.0]]), np.zeros((1, 4)))
    array([5.])
    """
    return np.asarray(np.linalg.norm(np.asarray(now) - np.asarray(then), axis=-1))


def anchor_distance(now: np.ndarray, anchor: np.ndarray) -> float:
    """Distance over the layers of one weighted metric from its anchor.

    Parameters
    ----------
    now, anchor : ndarray of float64, shape (layers,)
        The metric of each layer, for instance with the weights at which a mask was found, and with the weights of the
        initialisation on the same mask. What is undefined counts as 0.

    Returns
    -------
    float

    Examples
    --------
    >>> anchor_distance(np.array([1.0, 2.0]), np.array([1.0, 0.0]))
    2.0
    """
    return float(np.linalg.norm(np.nan_to_num(np.asarray(now)) - np.nan_to_num(np.asarray(anchor))))


def angular_distance(now: np.ndarray, anchor: np.ndarray) -> float:
    """Cosine similarity over the layers, times the anchor distance.

    Parameters
    ----------
    now, anchor : ndarray of float64, shape (layers,)

    Returns
    -------
    float
        NaN if either is all zeros.

    Examples
    --------
    >>> angular_distance(np.array([2.0, 0.0]), np.array([1.0, 0.0]))
    1.0
    """
    a, b = np.nan_to_num(np.asarray(now)), np.nan_to_num(np.asarray(anchor))
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size * anchor_distance(a, b) if size else math.nan


FULL_SPECTRUM = (
    Metric(
        "fs_norm",
        fs_norm,
        "norm of (ramanujan_gap, imdb, weighted_spectral_gap, imsg), 0 for what is undefined",
        "[0, inf)",
        NO_WEIGHTS,
        "Hoang et al., NeurIPS 2023, plots",
        needs="weight",
        group="full_spectrum",
        cost="subgraphs",
        predicts="plotted there against accuracy as a distance; the raw gap, and with it the width, dominates it",
        oracle="its four entries",
        laws=Laws(degree=None, transposed=None),
    ),
    Metric(
        "fs_norm_gradient",
        fs_norm_gradient,
        "the same with gradient_spectral_gap and gradient_imsg",
        "[0, inf)",
        NO_WEIGHTS + ", or no finite gradients",
        "Hoang et al., NeurIPS 2023, plots",
        needs="gradient",
        group="full_spectrum",
        cost="gradient_subgraphs",
        predicts="as fs_norm",
        oracle="its six entries",
        laws=Laws(degree=None, transposed=None),
    ),
)
