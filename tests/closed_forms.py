"""Masks whose singular values are known exactly (rows = outputs), and one golden mask with reference values.

``CLOSED_FORMS`` maps a name to ``(mask, sigma)``: the mask as a bool array and all of its singular values, descending.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

__all__ = ["CLOSED_FORMS", "GOLDEN", "block_diagonal", "golden_mask"]


def complete(m: int, n: int) -> tuple[np.ndarray, list[float]]:
    return np.ones((m, n), dtype=bool), [math.sqrt(m * n)] + [0.0] * (min(m, n) - 1)


def block_diagonal(blocks: Sequence[np.ndarray]) -> np.ndarray:
    rows, columns = (sum(b.shape[axis] for b in blocks) for axis in (0, 1))
    mask = np.zeros((rows, columns), dtype=bool)
    r = c = 0
    for block in blocks:
        mask[r : r + block.shape[0], c : c + block.shape[1]] = block
        r, c = r + block.shape[0], c + block.shape[1]
    return mask


def union(*sizes: tuple[int, int]) -> tuple[np.ndarray, list[float]]:
    """Disjoint complete bipartite graphs."""
    mask = block_diagonal([np.ones(size, dtype=bool) for size in sizes])
    values = sorted((math.sqrt(a * b) for a, b in sizes), reverse=True)
    return mask, values + [0.0] * (min(mask.shape) - len(values))


def circulant(n: int, steps: Sequence[int]) -> tuple[np.ndarray, list[float]]:
    mask = np.array([[(j - i) % n in set(steps) for j in range(n)] for i in range(n)])
    values = [abs(sum(np.exp(2j * math.pi * k * s / n) for s in steps)) for k in range(n)]
    return mask, sorted(values, reverse=True)


def cycle(n: int) -> tuple[np.ndarray, list[float]]:
    """The cycle on 2n vertices."""
    values = [abs(2 * math.cos(math.pi * k / n)) for k in range(n)]
    return circulant(n, (0, 1))[0], sorted(values, reverse=True)


def path(n: int) -> tuple[np.ndarray, list[float]]:
    """The path on 2n vertices."""
    mask = np.eye(n, dtype=bool) | np.eye(n, k=1, dtype=bool)
    return mask, [2 * math.cos(math.pi * k / (2 * n + 1)) for k in range(1, n + 1)]


def hypercube(n: int) -> tuple[np.ndarray, list[float]]:
    vertices = list(itertools.product((0, 1), repeat=n))
    even = [v for v in vertices if sum(v) % 2 == 0]
    odd = [v for v in vertices if sum(v) % 2]
    mask = np.array([[sum(a != b for a, b in zip(u, v, strict=True)) == 1 for v in odd] for u in even])
    eigenvalues = sorted((abs(n - 2 * k) for k in range(n + 1) for _ in range(math.comb(n, k))), reverse=True)
    return mask, [float(v) for v in eigenvalues[::2]]  # the adjacency has each singular value twice, as +- sigma


def projective_plane(q: int) -> tuple[np.ndarray, list[float]]:
    """Points and lines of PG(2, q), q prime."""
    points = [(1, a, b) for a in range(q) for b in range(q)] + [(0, 1, a) for a in range(q)] + [(0, 0, 1)]
    mask = np.array([[sum(x * y for x, y in zip(u, v, strict=True)) % q == 0 for v in points] for u in points])
    return mask, [q + 1.0] + [math.sqrt(q)] * (q * q + q)


def affine_plane(q: int) -> tuple[np.ndarray, list[float]]:
    """Lines (rows) and points (columns) of AG(2, q), q prime."""
    mask, _ = net(q + 1, q)
    return mask, [math.sqrt(q * (q + 1))] + [math.sqrt(q)] * (q * q - 1)


def net(classes: int, n: int) -> tuple[np.ndarray, list[float]]:
    """The net of `classes` parallel classes of lines over n x n points, n prime."""
    points = [(x, y) for x in range(n) for y in range(n)]
    rows = [[y == (m * x + b) % n for x, y in points] for m in range(min(classes, n)) for b in range(n)]
    if classes > n:
        rows += [[x == b for x, _ in points] for b in range(n)]
    values = [math.sqrt(classes * n)] + [math.sqrt(n)] * (classes * (n - 1))
    return np.array(rows), values + [0.0] * (min(classes * n, n * n) - len(values))


def quadratic_residues(p: int) -> tuple[np.ndarray, list[float]]:
    residues = sorted({x * x % p for x in range(1, p)})
    mask = circulant(p, residues)[0]
    half = (p - 1) // 2
    if p % 4 == 3:
        return mask, [half] + [math.sqrt(p + 1) / 2] * (p - 1)
    return mask, [half] + [(1 + math.sqrt(p)) / 2] * half + [(math.sqrt(p) - 1) / 2] * half


def crown(n: int) -> tuple[np.ndarray, list[float]]:
    return ~np.eye(n, dtype=bool), [n - 1.0] + [1.0] * (n - 1)


def petersen_cover() -> tuple[np.ndarray, list[float]]:
    pairs = list(itertools.combinations(range(5), 2))
    mask = np.array([[not set(a) & set(b) for b in pairs] for a in pairs])
    return mask, [3.0] + [2.0] * 4 + [1.0] * 5


def symplectic_quadrangle(q: int) -> tuple[np.ndarray, list[float]]:
    """The generalised quadrangle W(3, q), q prime: lines (rows) and points of PG(3, q)."""
    points = [v for v in itertools.product(range(q), repeat=4) if any(v) and next(x for x in v if x) == 1]

    def form(u: Sequence[int], v: Sequence[int]) -> int:
        return (u[0] * v[1] - u[1] * v[0] + u[2] * v[3] - u[3] * v[2]) % q

    index = {point: i for i, point in enumerate(points)}
    lines = set()
    for u, v in itertools.combinations(points, 2):
        if form(u, v) == 0:
            on = {v}
            for a in range(q):
                w = tuple((x + a * y) % q for x, y in zip(u, v, strict=True))
                inverse = pow(next(x for x in w if x), -1, q)
                on.add(tuple(inverse * x % q for x in w))
            lines.add(frozenset(index[p] for p in on))
    mask = np.zeros((len(lines), len(points)), dtype=bool)
    for row, line in enumerate(sorted(lines, key=sorted)):
        mask[row, list(line)] = True
    multiplicity = q * (q + 1) ** 2 // 2
    zeros = len(points) - 1 - multiplicity
    return mask, [q + 1.0] + [math.sqrt(2 * q)] * multiplicity + [0.0] * zeros


def kronecker(a: tuple[np.ndarray, list[float]], b: tuple[np.ndarray, list[float]]) -> tuple[np.ndarray, list[float]]:
    mask = np.kron(a[0], b[0]).astype(bool)
    values = sorted((x * y for x in a[1] for y in b[1]), reverse=True)
    return mask, values + [0.0] * (min(mask.shape) - len(values))


def kernel_expansion(a: tuple[np.ndarray, list[float]], k: int) -> tuple[np.ndarray, list[float]]:
    mask = np.kron(a[0], np.ones((1, k))).astype(bool)
    values = [math.sqrt(k) * x for x in a[1]]
    return mask, values + [0.0] * (min(mask.shape) - len(values))


def with_isolated(a: tuple[np.ndarray, list[float]]) -> tuple[np.ndarray, list[float]]:
    """Two empty rows and three empty columns added."""
    mask = np.zeros((a[0].shape[0] + 2, a[0].shape[1] + 3), dtype=bool)
    mask[1:-1, 2:-1] = a[0]
    return mask, a[1] + [0.0] * (min(mask.shape) - len(a[1]))


CLOSED_FORMS: dict[str, tuple[np.ndarray, list[float]]] = {
    "complete K(5,8)": complete(5, 8),
    "complete K(80,130)": complete(80, 130),
    "one edge": complete(1, 1),
    "star K(1,9)": complete(1, 9),
    "star K(9,1)": complete(9, 1),
    "two equal blocks": union((4, 6), (4, 6)),
    "three blocks": union((3, 5), (7, 2), (4, 4)),
    "stars of depthwise layers": union(*[(1, 9)] * 16),
    "perfect matching of 12": union(*[(1, 1)] * 12),
    "cycle of 14": cycle(7),
    "cycle of 200": cycle(100),
    "path of 40": path(20),
    "hypercube Q5": hypercube(5),
    "hypercube Q8": hypercube(8),
    "Fano plane": projective_plane(2),
    "PG(2,5)": projective_plane(5),
    "PG(2,11)": projective_plane(11),
    "AG(2,3)": affine_plane(3),
    "AG(2,7)": affine_plane(7),
    "net(3,4 classes of 5)": net(3, 5),
    "net(4,11)": net(4, 11),
    "circulant(15; 0 1 4)": circulant(15, (0, 1, 4)),
    "quadratic residues mod 19": quadratic_residues(19),
    "quadratic residues mod 29": quadratic_residues(29),
    "crown of 9": crown(9),
    "double cover of Petersen": petersen_cover(),
    "W(3,2)": symplectic_quadrangle(2),
    "W(3,3)": symplectic_quadrangle(3),
    "PG(2,2) x PG(2,3)": kronecker(projective_plane(2), projective_plane(3)),
    "PG(2,2) with a 3x3 kernel": kernel_expansion(projective_plane(2), 9),
    "two copies of PG(2,3)": kronecker((np.eye(2, dtype=bool), [1.0, 1.0]), projective_plane(3)),
    "PG(2,3) and isolated vertices": with_isolated(projective_plane(3)),
    "K(6,6) and isolated vertices": with_isolated(complete(6, 6)),
}

# Reference values of the golden mask, computed once in float64 by an independent script.
GOLDEN = {
    "edges": 80,
    "sigma": (6.5181971845, 3.3933310158, 3.1044696300),
    "weighted": (3.92152001, 2.11693581),
    "weighted_gap": 1.8045841957,
    "normalised_sigma_2": 0.6850395914,
    "weighted_normalised_sigma_2": 0.72310435,
    # degree: (vertices of that degree, active on the other side, sigma_2, weighted gap)
    "subgraphs": {
        5: (5, 8, 2.07075728, 1.17742561),
        3: (6, 6, 2.12976487, 0.74498356),
        4: (6, 9, 2.53848214, 0.60473160),
    },
}


def golden_mask() -> tuple[np.ndarray, np.ndarray]:
    """The golden mask, 12 outputs by 20 inputs, and its weights."""
    o, i = np.ogrid[:12, :20]
    mask = (7 * o + 3 * i + o * i) % 11 < 4
    mask[:, 4] = False
    mask[7] = False
    mask[:8, 11] = False
    weight = (((5 * o + 9 * i) % 13) / 13 + 0.1) * np.where((o + i) % 2 == 0, 1.0, -1.0)
    return mask, weight
