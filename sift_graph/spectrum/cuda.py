r"""The same contract on tensors that are already on a device, so that a recorder measures without moving weights.

Torch is imported when a function here is called, never by importing this module. Everything runs where the mask is: a
CUDA device, or the processor, where the tests hold it against the numpy engine. Only scalars come back.

*Exactness.* The Gram of a 0/1 mask is a float32 matrix product. Zeros and ones are exact in every format that inputs
are rounded to on the way (TF32, bfloat16) and the sums are float32, so counts below :math:`2^{24}` are exact. From
there on all is float64: Lanczos with full reorthogonalisation, Rayleigh-Ritz, and the Cholesky factorisation whose
success is the proof of :mod:`sift_graph.spectrum.certificate`.

A batch of small masks of one shape goes through one batched decomposition.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from sift_graph.errors import MaskError, SpectrumError
from sift_graph.spectrum.certificate import UNIT, perron_upper_bound, ritz_lower_bounds
from sift_graph.spectrum.result import Spectrum
from sift_graph.spectrum.solve import Certify, check_options

if TYPE_CHECKING:
    import torch

__all__ = ["leading_of_batch", "leading_on_device"]

DENSE_SIDE = 512  # a full decomposition on the device; also the last resort beyond it
MAX_STEPS = 300
LOOK = 8  # steps between two looks at T_k, each of which waits for the device


def leading_on_device(
    mask: torch.Tensor,
    *,
    weight: torch.Tensor | None = None,
    k: int = 2,
    certify: Certify = "gap",
    bound: float | None = None,
    tol: float = 1e-6,
    layer: str = "layer",
) -> Spectrum:
    """Compute the `k` largest singular values of a mask where it lies.

    Parameters
    ----------
    mask : torch.Tensor of bool, shape (out, in, *kernel)
        On any device. Ungrouped; pass the blocks of a grouped layer to :func:`leading_of_batch`.
    weight : torch.Tensor of the same shape, optional
        Then the values are those of the absolute weights on the mask.
    k, certify, bound, tol
        As in :func:`sift_graph.spectrum.leading`.
    layer : str
        Its name, for messages.

    Returns
    -------
    Spectrum
        ``method`` is ``"torch:"`` and the device's type.

    Raises
    ------
    MaskError
        If the mask is not bool with two or more axes, or the weight does not fit it.
    SpectrumError
        If a weight is not finite.
    UsageError
        If an option does not exist.
    """
    import torch

    check_options(k, "binary" if weight is None else "weighted", certify, tol)
    method = f"torch:{mask.device.type}"
    with torch.no_grad():
        matrix = _entries(mask, weight, layer)
        if not bool(matrix.any()):
            nothing = np.full(k, np.nan) if not bool(mask.any()) else np.zeros(k)
            return Spectrum(nothing, nothing, nothing, method, "ok" if bool(mask.any()) else "empty")
        gram, error = _gram(matrix, exact=weight is None)
        trace = float(gram.diagonal().sum()) * (1 + 1e-12)
        n, count = len(gram), min(max(k, 2), len(gram))
        if n <= DENSE_SIDE or k > 2:
            lo, values, hi = _decompose(gram, error, count)
            return _spectrum(values, lo, hi, k, method, "full")
        return _iterate(gram, error, trace, k, certify, bound, tol, method)


def leading_of_batch(masks: torch.Tensor, *, k: int = 2) -> list[Spectrum]:
    """Compute the `k` largest singular values of many small masks of one shape, each bracketed.

    Parameters
    ----------
    masks : torch.Tensor of bool, shape (batch, rows, columns)
        On any device.
    k : int

    Returns
    -------
    list of Spectrum

    Raises
    ------
    MaskError
        If `masks` is not a bool tensor of three axes.
    UsageError
        If `k` is below 1.
    """
    import torch

    check_options(k, "binary", "full", 1e-6)
    if masks.dtype != torch.bool or masks.ndim != 3:
        raise MaskError(
            f"expected a bool tensor (batch, rows, columns), found {masks.dtype} of shape {tuple(masks.shape)}"
        )
    with torch.no_grad():
        matrix = masks if masks.shape[1] <= masks.shape[2] else masks.mT
        single = matrix.to(torch.float32)
        lo, values, hi = _decompose((single @ single.mT).to(torch.float64), 0.0, min(k, matrix.shape[1]))
        method = f"torch:{masks.device.type}"
        nothing = np.full(k, np.nan)
        edges = masks.flatten(1).any(dim=1).tolist()
    return [
        _spectrum(values[i], lo[i], hi[i], k, method, "full")
        if edges[i]
        else Spectrum(nothing, nothing, nothing, method, "empty")
        for i in range(len(masks))
    ]


def _entries(mask: torch.Tensor, weight: torch.Tensor | None, layer: str) -> Any:
    """Turn the matrix to its smaller side: float32 ones, or float64 absolute weights."""
    import torch

    if mask.dtype != torch.bool or mask.ndim < 2:
        raise MaskError(
            f"layer {layer!r}: expected a bool mask of two or more axes, found {mask.dtype} of shape "
            f"{tuple(mask.shape)}; pass the mask itself, or weight != 0 where none is known"
        )
    matrix = mask.flatten(1)
    if weight is not None:
        if weight.shape != mask.shape:
            raise MaskError(
                f"layer {layer!r}: the weight's shape {tuple(weight.shape)} is not the mask's {tuple(mask.shape)}"
            )
        matrix = torch.where(matrix, weight.detach().flatten(1).to(torch.float64).abs(), 0.0)
        if not bool(torch.isfinite(matrix).all()):
            raise SpectrumError(
                f"layer {layer!r}: weights on the mask are not finite; its weighted spectrum does not exist"
            )
    else:
        matrix = matrix.to(torch.float32)
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT


def _gram(matrix: Any, *, exact: bool) -> tuple[Any, float]:
    """G in float64, and a bound of its error in norm."""
    import torch

    gram = (matrix @ matrix.mT).to(torch.float64)
    error = 0.0 if exact else (matrix.shape[1] + 64) * UNIT * float(gram.diagonal().sum())
    return gram, error


def _decompose(gram: Any, gram_error: float, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All eigenvalues, with the residual bounds of :mod:`sift_graph.spectrum.dense`; roots of the `count` largest."""
    import torch

    n = gram.shape[-1]
    theta, q = torch.linalg.eigh(gram)
    hidden = (n + 4) * UNIT
    identity = torch.eye(n, dtype=gram.dtype, device=gram.device)
    size = theta.abs().amax(-1)
    defect = torch.linalg.matrix_norm(q.mT @ q - identity) + 1.1 * hidden * n
    residual = torch.linalg.matrix_norm(gram @ q - q * theta[..., None, :])
    residual = residual + 1.1 * hidden * math.sqrt(n) * (torch.linalg.matrix_norm(gram) + size)
    error = ((residual + 2 * defect * size) / (1 - defect) * (1 + 1e-12) + gram_error)[..., None]
    top = theta.flip(-1)[..., :count]
    parts = [(top + shift).clamp(min=0).sqrt().cpu().numpy() for shift in (-error, 0.0, error)]
    return parts[0], parts[1], parts[2]


def _iterate(
    gram: Any,
    gram_error: float,
    trace: float,
    k: int,
    certify: str,
    bound: float | None,
    tol: float,
    method: str,
) -> Spectrum:
    """Lanczos for two values, lower bounds from their Ritz vectors, and a factorisation where a proof is asked for."""
    import torch

    n = len(gram)
    wants_sign = certify == "gap" and bound is not None and math.isfinite(bound)
    vectors, estimate = _lanczos(gram, tol / 4)
    for attempt in range(2):
        images = vectors @ gram
        projected, overlap = (vectors @ images.mT).cpu().numpy(), (vectors @ vectors.mT).cpu().numpy()
        rounding = 2 * (n + 8) * UNIT
        lower = np.maximum(ritz_lower_bounds(projected, overlap, rounding, trace) - gram_error, 0.0)
        values = np.sort(np.linalg.eigvalsh((projected + projected.T) / 2))[::-1]
        lo, sigma = np.sqrt(lower), np.sqrt(np.maximum(values, 0.0))
        hi = sigma * (1 + max(estimate, 1e-12))
        if certify == "off" or (certify == "gap" and not wants_sign):
            return _spectrum(sigma, lo, hi, k, method, "none", "ok" if estimate < tol else "not_converged")
        if wants_sign and bound is not None and lo[1] > bound:
            return _spectrum(sigma, lo, hi, k, method, "sign")
        shift = values[1] * (1 + 1.5 * tol) + 64 * (n + 8) * UNIT * trace + 4 * gram_error
        if wants_sign and bound is not None:
            shift = max(shift, values[1] + min(0.5 * (bound * bound - values[1]), 0.05 * values[1]))
        upper = _upper_bound(gram, vectors[0], float(values[0]), shift, trace) + gram_error
        if math.isfinite(upper):
            residual = float(torch.linalg.vector_norm(images[0] - float(values[0]) * vectors[0]))
            first = perron_upper_bound(float(values[0]), residual, upper, rounding, trace)
            hi = np.sqrt([first, upper])
            proven = "full" if certify == "full" else "sign" if bound is not None and hi[1] < bound else "undecided"
            return _spectrum(sigma, lo, np.maximum(hi, sigma), k, method, proven)
        if attempt == 0:  # a value was missed: look for it away from what was found
            more, _ = _lanczos(gram, tol / 10, locked=vectors)
            joined = torch.linalg.qr(torch.cat([vectors, more]).mT)[0].mT
            _, turn = torch.linalg.eigh(joined @ gram @ joined.mT)
            vectors, estimate = turn.mT.flip(0)[:2] @ joined, 0.0
    low, middle, high = _decompose(gram, gram_error, 2)
    return _spectrum(middle, low, high, k, method, "full")


def _lanczos(gram: Any, tol: float, *, locked: Any = None) -> tuple[Any, float]:
    """Two Ritz vectors with their estimated relative error; away from `locked` rows if given."""
    import torch

    n, device = len(gram), gram.device
    noise = torch.from_numpy(np.random.default_rng(20240305).random(n)).to(device)
    start = gram.diagonal().sqrt() * (0.65 + 0.7 * noise) if locked is None else noise - 0.5
    steps = min(n - (0 if locked is None else len(locked)), MAX_STEPS)
    basis = torch.zeros((steps, n), dtype=torch.float64, device=device)
    alpha, beta = (torch.zeros(steps, dtype=torch.float64, device=device) for _ in range(2))
    w, theta, coefficients, error = start, np.zeros(2), np.zeros((1, 2)), math.inf
    for j in range(steps):
        for _ in range(2):
            if locked is not None:
                w = w - (locked @ w) @ locked
            w = w - (basis[:j] @ w) @ basis[:j]
        norm = torch.linalg.vector_norm(w)
        if j:
            beta[j - 1] = norm
        basis[j] = w / norm.clamp(min=1e-300)
        w = gram @ basis[j]
        alpha[j] = basis[j] @ w
        if j >= 3 and ((j + 1) % LOOK == 0 or j + 1 == steps):
            a, b = alpha[: j + 1].cpu().numpy(), beta[:j].cpu().numpy()
            eigenvalues, small = np.linalg.eigh(np.diag(a) + np.diag(b, 1) + np.diag(b, -1))
            theta, coefficients = eigenvalues[::-1][:3], small[:, ::-1][:, :2]
            out = float(torch.linalg.vector_norm(w - (basis[: j + 1] @ w) @ basis[: j + 1]))
            residual, gap = out * abs(coefficients[-1, 1]), max(theta[1] - theta[2], 1e-30)
            squared = residual * residual / gap if residual < 0.3 * gap else residual
            error = squared / (2 * max(theta[1], 1e-14 * theta[0]))
            if error < tol or out <= 1e-12 * theta[0]:
                break
    used = len(coefficients)
    return torch.from_numpy(np.ascontiguousarray(coefficients.T)).to(device) @ basis[:used], error


def _upper_bound(gram: Any, vector: Any, value: float, shift: float, trace: float) -> float:
    """Apply the theorem of :mod:`sift_graph.spectrum.certificate` for one deflated vector; infinity if refused."""
    import torch

    n = len(gram)
    work = value * torch.outer(vector, vector) - gram
    work.diagonal().add_(shift)
    diagonal = float(work.diagonal().abs().sum()) * (1 + 1e-6)
    _, failed = torch.linalg.cholesky_ex(work)
    if int(failed) != 0:
        return math.inf
    gamma = (n + 1) * UNIT / (1 - (n + 1) * UNIT)
    formation = 6 * UNIT * (shift + trace + value * float(vector @ vector))
    return (shift + gamma * diagonal / (1 - gamma) + formation) * (1 + 1e-12)


def _spectrum(
    sigma: np.ndarray, lo: np.ndarray, hi: np.ndarray, k: int, method: str, certificate: str, status: str = "ok"
) -> Spectrum:
    """Pad with zeros, which a smaller side of fewer vertices has, or cut to k values."""
    padded = [np.concatenate([values, np.zeros(k)])[:k] for values in (sigma, lo, hi)]
    return Spectrum(padded[0], padded[1], padded[2], method, status, certificate)
