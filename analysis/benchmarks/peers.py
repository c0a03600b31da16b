"""What the library is compared with: our own replica of the field's method on scipy, and other tools' solvers.

The replica follows the published descriptions only: the three eigenvalues of largest magnitude of the float32 adjacency
of the whole layer, or of each induced left-regular subgraph. ARPACK starts from a fixed vector: its random start alone
moves its time by a factor of two.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as sla

Matrix = sp.csr_array


def start(size: int, dtype: type = np.float64) -> np.ndarray:
    return np.random.default_rng(0).random(size).astype(dtype)


def replica_sigma_2(matrix: Matrix) -> float:
    """eigsh(k=3) on the float32 adjacency: +sigma_1, -sigma_1 and the next."""
    single = sp.csr_array(matrix, dtype=np.float32)
    adjacency = sp.block_array([[None, single], [single.T, None]], format="coo")
    values = sla.eigsh(adjacency, k=3, which="LM", return_eigenvectors=False, v0=start(sum(matrix.shape), np.float32))
    return float(np.sort(np.abs(values))[0])


def subgraphs(mask: np.ndarray) -> list[Matrix]:
    """Accepted left-regular subgraphs, left by right, isolated right vertices dropped."""
    turned = sp.csr_array(mask.T, dtype=np.float32)
    degree = np.diff(turned.indptr)
    found = []
    for d in np.unique(degree):
        rows = np.flatnonzero(degree == d)
        if d < 3 or rows.size < 3:
            continue
        part = turned[rows]
        keep = np.unique(part.indices)
        if part.nnz / keep.size >= 3:
            found.append(part[:, keep])
    return found


def imdb_with(mask: np.ndarray, sigma_2: Callable[[Matrix], float]) -> float:
    """IMDB by any solver, gates included, subgraphs cut out anew."""
    gaps = []
    for part in subgraphs(mask):
        left, right = part.nnz / part.shape[0], part.nnz / part.shape[1]
        gaps.append(np.sqrt(left - 1) + np.sqrt(right - 1) - sigma_2(part))
    return float(np.mean(gaps)) if gaps else float("nan")


def dense_small_sigma_2(matrix: Matrix) -> float:
    """Dense Gram on the smaller side and all of its eigenvalues in float64."""
    dense = matrix.toarray()
    gram = (dense @ dense.T if dense.shape[0] <= dense.shape[1] else dense.T @ dense).astype(np.float64)
    return float(np.sqrt(max(np.linalg.eigvalsh(gram)[-2], 0.0)))


def svds(matrix: Matrix, solver: str = "arpack", dtype: type = np.float64) -> float:
    """The second value by scipy's svds."""
    typed = sp.csr_array(matrix, dtype=dtype)
    options = {} if solver == "propack" else {"v0": start(min(matrix.shape), dtype)}
    if solver == "lobpcg":
        options = {"rng": np.random.default_rng(0)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = sla.svds(typed, k=2, solver=solver, return_singular_vectors=False, **options)
    return float(np.sort(values)[0])


def torch_svdvals(dense: np.ndarray) -> float:
    torch = importlib.import_module("torch")
    return float(torch.linalg.svdvals(torch.from_numpy(dense))[1])


def torch_lowrank(dense: np.ndarray) -> float:
    torch = importlib.import_module("torch")
    torch.manual_seed(0)
    return float(torch.svd_lowrank(torch.from_numpy(dense))[1][1])


def networkx_sigma_2(mask: np.ndarray) -> float:
    """Build the graph, take numpy's eigenvalues of its adjacency: what a notebook does."""
    networkx = importlib.import_module("networkx")
    graph = networkx.algorithms.bipartite.from_biadjacency_matrix(sp.csr_array(mask.astype(np.float64)))
    return float(np.sort(np.linalg.eigvalsh(networkx.to_numpy_array(graph)))[-2])


def weightwatcher_sigma_2(weight: np.ndarray) -> float:
    """The second singular value from WeightWatcher's spectral density; raises ImportError where it is absent."""
    torch = importlib.import_module("torch")
    weightwatcher = importlib.import_module("weightwatcher")
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
    watcher = weightwatcher.WeightWatcher(model=torch.nn.Sequential(layer))
    eigenvalues = watcher.get_ESD(layer=watcher.describe()["layer_id"].iloc[0])
    return float(np.sqrt(np.sort(eigenvalues)[-2]))
