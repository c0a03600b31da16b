r"""Spectral radius of the universal cover of a bipartite graph, weighted or not.

The cover of a graph is a tree, and its spectral radius rho is the smallest t for which the messages
:math:`g_{v \to w} = 1 / (t - \sum_{u \sim v, u \ne w} a_{uv}^2 g_{u \to v})` stay positive, and with them
:math:`\alpha_v = t - \sum_{u \sim v} a_{uv}^2 g_{u \to v}` at every vertex. Iterating the messages needs thousands of
rounds where t is near rho. Two steps avoid them.

*From edges to vertices.* The two messages of an edge solve a pair of equations in :math:`\alpha_v, \alpha_w` alone,
with :math:`s = \sqrt{1 + 4 a^2 / (\alpha_v \alpha_w)}`, and what remains is one equation a vertex,

.. math:: \Phi_v(\alpha) = \alpha_v \Bigl(1 + \sum_{w \sim v} \tfrac{s_{vw} - 1}{2}\Bigr) = t .

Any positive alpha proves :math:`\rho \le \max_v \Phi_v(\alpha)`: it is a supersolution of the messages.

*From a bisection to a minimum.* The solutions are a curve; fixing the mean of :math:`\log \alpha` to tau picks one of
them, t(tau) is smooth, and rho is its minimum, where an error of tau enters squared. At fixed tau the iteration
contracts as fast as the graph mixes, whatever t is.

A component with no more than one cycle has an amenable cover: rho is its own sigma_1.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numba
import numpy as np

from sift_graph.adjacency import Adjacency
from sift_graph.errors import SpectrumError
from sift_graph.spectrum.vectors import leading_pairs

__all__ = ["cover_radius"]

MEMORY = 6  # of Anderson's mixing
FULL_ROUNDS, HALF_ROUNDS = 60, 600
REACH = 200.0  # of log alpha around its mean
WALK = 0.1  # first step of tau
FARTHEST = 40.0  # a cover that is barely not amenable: where its fold lies no longer matters
WIDE, NARROW = 0.03, 0.004  # of tau around the minimum
PARABOLAS = 20
ROUGH = 2e-4


@numba.njit(cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz", "arcp"})
def _sum_sides(
    starts: np.ndarray, left: np.ndarray, squares: np.ndarray, a: np.ndarray, b: np.ndarray, of_left: np.ndarray
) -> np.ndarray:
    """Sum (s - 1) / 2 over the edges at each vertex; `a`, `b` hold 1 / alpha; `squares` is empty for ones."""
    of_left[:] = 0.0
    of_right = np.empty(b.size)
    for r in range(b.size):
        total = 0.0
        scale = 4.0 * b[r]
        if squares.size:
            for e in range(starts[r], starts[r + 1]):
                q = scale * squares[e] * a[left[e]]
                half = 0.5 * q / (1.0 + math.sqrt(1.0 + q))
                of_left[left[e]] += half
                total += half
        else:
            for e in range(starts[r], starts[r + 1]):
                q = scale * a[left[e]]
                half = 0.5 * q / (1.0 + math.sqrt(1.0 + q))
                of_left[left[e]] += half
                total += half
        of_right[r] = total
    return of_right


class _Curve:
    """The solutions of one component, by tau; the last two predict the next."""

    def __init__(self, starts: np.ndarray, left: np.ndarray, squares: np.ndarray, x: np.ndarray, tol: float) -> None:
        self.starts, self.left, self.squares, self.tol = starts, left, squares, tol
        self.n_left = x.size - starts.size + 1
        self.solved: list[tuple[float, np.ndarray]] = [(float(x.mean()), x)]

    def predict(self, tau: float) -> np.ndarray:
        """Extrapolate from the last two solutions."""
        at, x = self.solved[-1]
        if len(self.solved) < 3:  # the first is a guess
            return x + (tau - at)
        before, y = self.solved[-2]
        return x + (x - y) * ((tau - at) / (at - before)) if abs(tau - at) < 3 * abs(at - before) else x + (tau - at)

    def level(self, tau: float, *, rough: bool = False) -> float:
        """Solve at this tau, and return t: with full steps, or where those fail with half steps."""
        for factor, rounds in ((2.0, FULL_ROUNDS), (1.0, HALF_ROUNDS)):
            found = self._solve(tau, factor, rounds, ROUGH if rough else self.tol)
            if found is not None:
                x, mean = found
                self.solved = [*self.solved[-2:], (tau, x)]
                return math.exp(mean)
        raise SpectrumError("universal cover: the equations of its vertices were not solved")

    def _solve(self, tau: float, factor: float, rounds: int, tol: float) -> tuple[np.ndarray, float] | None:
        """Iterate x + (logarithm of t / Phi) times a factor, with Anderson's mixing."""
        x = self.predict(tau)
        points: list[np.ndarray] = []
        residuals: list[np.ndarray] = []
        sums = np.empty(x.size)
        best = math.inf
        for _ in range(rounds):
            inverse = np.exp(-np.clip(x, tau - REACH, tau + REACH))
            of_left, of_right = sums[: self.n_left], sums[self.n_left :]
            of_right[:] = _sum_sides(
                self.starts, self.left, self.squares, inverse[: self.n_left], inverse[self.n_left :], of_left
            )
            logs = x + np.log1p(sums)
            mean = float(logs.mean())
            worst = float(np.abs(logs - mean).max())
            if worst < tol:
                return x, mean
            if not worst < 1e3 * best:
                return None
            if worst > 10 * best:  # the past misleads: forget it
                points, residuals = [], []
            best = min(best, worst)
            points.append(x)
            # a vertex's equation has a slope of alpha / Phi in its own unknown, nearly; 1 / 2 for one of high degree
            residuals.append(np.minimum(1 + sums, factor) * (mean - logs))
            del points[: -MEMORY - 1], residuals[: -MEMORY - 1]
            x = _mixed(points, residuals)
            x += tau - x.mean()
        return None

    def minimum(self) -> float:
        """Walk down to the minimum with rough values; then parabolas through exact ones, the last ones narrower."""
        u, width = self._walk(), WIDE
        lowest = math.inf
        for _ in range(PARABOLAS):
            low, middle, high = (self.level(u + shift) for shift in (-width, 0.0, width))
            lowest = min(lowest, low, middle, high)
            bend = low - 2 * middle + high
            move = 0.5 * width * (low - high) / bend if bend > 0 else math.copysign(2 * width, low - high)
            if bend > 0 and abs(move) <= width:
                if width < WIDE:
                    return min(lowest, self.level(u + move))
                width = NARROW  # the vertex is off by the square of the width, and the minimum by the square of that
            u += min(max(move, -5 * width), 5 * width)
            if abs(u) > FARTHEST:
                break
        return lowest

    def _walk(self) -> float:
        """Find where a bracket of rough values has its lowest point."""
        step, a = WALK, self.solved[0][0]
        b = a + step
        at_a, at_b = self.level(a, rough=True), self.level(b, rough=True)
        if at_b > at_a:
            a, b, at_a, at_b, step = b, a, at_b, at_a, -step
        c = b + step
        at_c = self.level(c, rough=True)
        while at_c < at_b and abs(c) < FARTHEST:
            step *= 1.6
            a, b, at_a, at_b, c = b, c, at_b, at_c, c + step
            at_c = self.level(c, rough=True)
        p, q = (b - a) * (at_b - at_c), (b - c) * (at_b - at_a)
        vertex = b - 0.5 * ((b - a) * p - (b - c) * q) / (p - q) if p != q else b
        return min(max(vertex, min(a, c)), max(a, c))


def _mixed(points: list[np.ndarray], residuals: list[np.ndarray]) -> np.ndarray:
    """Take Anderson's next point: the combination of the last ones whose residuals cancel best, plus its residual."""
    if len(points) == 1:
        return np.asarray(points[0] + residuals[0])
    change = np.array([b - a for a, b in pairwise(residuals)])
    gram = change @ change.T
    gram[np.diag_indices_from(gram)] *= 1 + 1e-10
    try:
        weight = np.linalg.solve(gram, change @ residuals[-1])
    except np.linalg.LinAlgError:
        return np.asarray(points[-1] + residuals[-1])
    moves = np.array([b - a for a, b in pairwise(points)])
    step = residuals[-1] - weight @ (moves + change)
    return np.asarray(points[-1] + np.clip(step, -2.0, 2.0))


def cover_radius(lists: Adjacency, values: np.ndarray | None = None, *, tol: float = 1e-8) -> float:
    """Compute the spectral radius of the universal cover.

    Parameters
    ----------
    lists : Adjacency
        With an edge.
    values : ndarray of float64, shape (edges,), optional
        Positive weights; ones by default.
    tol : float
        How far the vertices' values may differ, relative to the radius.

    Returns
    -------
    float
        The largest over the components.

    Raises
    ------
    SpectrumError
        If the iteration does not converge.
    """
    count, label = lists.components
    order = np.argsort(label, kind="stable") if count > 1 else np.arange(lists.edges)
    cuts = np.concatenate([[0], np.cumsum(np.bincount(label, minlength=count))])
    best = 0.0
    amenable = np.zeros(lists.edges, dtype=bool)
    rest: list[tuple[float, np.ndarray]] = []
    for i in range(count):
        edges = order[cuts[i] : cuts[i + 1]]
        left, right = lists.left[edges], lists.right[edges]
        vertices = np.unique(left).size + np.unique(right).size
        if edges.size <= vertices:
            amenable[edges] = True
        else:
            own = None if values is None else np.square(values[edges])
            limit = math.sqrt(float(np.bincount(left, own).max()) * float(np.bincount(right, own).max()))
            rest.append((2 * limit, edges))  # sqrt(d_L - 1) + sqrt(d_R - 1) <= 2 max; with weights sums of squares
    if amenable.any():
        part = None if values is None else values[amenable]
        best = float(leading_pairs(lists.keep(amenable), 1, values=part).sigma[0])
    for _, edges in sorted(rest, key=lambda one: -one[0]):
        own = None if values is None else values[edges]
        best = max(best, _of_component(lists.left[edges], lists.right[edges], own, tol))
    return best


def _of_component(left: np.ndarray, right: np.ndarray, values: np.ndarray | None, tol: float) -> float:
    """Radius of the cover of one connected component that has more edges than vertices."""
    _, left = np.unique(left, return_inverse=True)
    _, right = np.unique(right, return_inverse=True)
    order = np.argsort(right, kind="stable")  # one row after the other
    left, right = left[order].astype(np.int32), right[order]
    scale = 1.0 if values is None else float(np.sqrt(np.mean(np.square(values))))
    squares = np.empty(0) if values is None else np.square(values[order] / scale)
    own = None if values is None else squares
    of_left, of_right = np.bincount(left, own), np.bincount(right, own)
    starts = np.concatenate([[0], np.cumsum(np.bincount(right))])
    # the solution of a biregular graph of these mean degrees: messages 1/p and 1/q, and alpha = t - d times those
    p, q = (math.sqrt(max(float(side.mean()) - 1, 0.3)) for side in (of_left, of_right))
    alpha = p + q - np.concatenate([of_left / p, of_right / q])
    curve = _Curve(starts, left, squares, np.log(np.maximum(alpha, 0.2 * min(p, q))), tol)
    return scale * curve.minimum()
