r"""Dense solvers: small sides, whole spectra, and the last resort when an iteration is refused.

The bounds are a posteriori: they rest on residuals, not on a belief in LAPACK. With u = 2^-53 and Frobenius norms:

*Singular values.* For :math:`A = U S V^T + R` with :math:`\|U^T U - I\| \le \delta_U`, :math:`\|V^T V - I\| \le
\delta_V`, by Ostrowski (multiplicative) and Weyl (additive)

.. math:: s_i \sqrt{(1 - \delta_U)(1 - \delta_V)} - \|R\| \le \sigma_i(A) \le
          s_i \sqrt{(1 + \delta_U)(1 + \delta_V)} + \|R\|.

*Eigenvalues.* For :math:`G Q = Q \Theta + R` with :math:`\|Q^T Q - I\| \le \delta < 1` and Q = W P its polar form,
:math:`W^T G W - \Theta = [(P - I)\Theta - \Theta(P - I)]P^{-1} + W^T R P^{-1}`, so by Weyl
:math:`|\lambda_i - \theta_i| \le (\|R\| + 2\delta\|\Theta\|) / (1 - \delta)`.

To each computed norm is added what rounding can hide in it: (n + 4) u times the product of the norms that were
multiplied.
"""

from __future__ import annotations

import numpy as np

__all__ = ["dense_values", "symmetric_values"]

UNIT = 2.0**-53


def _norm(matrix: np.ndarray) -> np.ndarray:
    """Frobenius norm of each matrix of a stack."""
    norm: np.ndarray = np.sqrt(np.sum(np.square(matrix), axis=(-2, -1)))
    return norm


def dense_values(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute and bracket all singular values of a dense matrix, or of each matrix of a stack.

    Parameters
    ----------
    matrix : ndarray of float64, shape (..., rows, columns)

    Returns
    -------
    tuple of three ndarrays of float64, shape (..., min(rows, columns))
        Values, descending; a lower and an upper bound of each.
    """
    rows, columns = matrix.shape[-2:]
    small, large = min(rows, columns), max(rows, columns)
    if matrix.size == 0:
        nothing = np.zeros((*matrix.shape[:-2], small))
        return nothing, nothing, nothing
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    hidden = (large + 4) * UNIT
    identity = np.eye(small)
    defect_u = _norm(np.swapaxes(u, -1, -2) @ u - identity) + hidden * small * 1.1
    defect_v = _norm(vt @ np.swapaxes(vt, -1, -2) - identity) + hidden * small * 1.1
    residual = _norm(matrix - (u * s[..., None, :]) @ vt) + hidden * small * s[..., 0] * 1.1
    shrink = np.sqrt((1 - defect_u) * (1 - defect_v))[..., None]
    grow = np.sqrt((1 + defect_u) * (1 + defect_v))[..., None]
    lo = np.maximum(s * shrink - residual[..., None], 0.0)
    hi = s * grow + residual[..., None]
    return s, lo, hi


def symmetric_values(gram: np.ndarray) -> tuple[np.ndarray, float]:
    """Compute all eigenvalues of a symmetric matrix, descending, and one bound of the error of each.

    Parameters
    ----------
    gram : ndarray of float64, shape (n, n)

    Returns
    -------
    tuple of ndarray of float64, shape (n,), and float
    """
    n = len(gram)
    theta, q = np.linalg.eigh(gram)
    hidden = (n + 4) * UNIT
    defect = float(_norm(q.T @ q - np.eye(n))) + hidden * n * 1.1
    size = float(np.abs(theta).max())
    residual = float(_norm(gram @ q - q * theta)) + hidden * np.sqrt(n) * (float(_norm(gram)) + size) * 1.1
    return theta[::-1].copy(), (residual + 2 * defect * size) / (1 - defect) * (1 + 1e-12)
