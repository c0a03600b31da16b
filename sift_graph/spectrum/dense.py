r"""Dense solvers: small sides, whole spectra, and the second opinion when an iteration is refused.

A matrix that has no more than `SVD_SIDE` vertices on its smaller side goes through a singular value decomposition,
whose error is at most :math:`p\,u\,\sigma_1` for every value, small ones too (:math:`u = 2^{-53}`; backward stability
of Householder bidiagonalisation and QR). Larger ones go through the Gram matrix :math:`G = B B^T` on the smaller side,
whose eigenvalues are off by at most :math:`p\,u\,\lambda_1`: for the values that decide a gap this is as good, for
:math:`\sigma < 10^{-6} \sigma_1` it is not. With 0/1 entries :math:`G` holds exact integers. Here :math:`p = 8 n`, far
above what is observed and below what the proofs of backward stability allow themselves.
"""

from __future__ import annotations

import numpy as np

__all__ = ["SVD_SIDE", "dense_values"]

SVD_SIDE = 512
UNIT = 2.0**-53


def dense_values(matrix: np.ndarray, *, squared_ok: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute all singular values of a dense matrix, with bounds.

    Parameters
    ----------
    matrix : ndarray of float64, shape (rows, columns)
    squared_ok : bool
        Let larger matrices go through their Gram matrix, which blurs values below a millionth of the largest.

    Returns
    -------
    tuple of three ndarrays of float64, shape (min(rows, columns),)
        Values, descending; a lower and an upper bound of each.
    """
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    small, large = matrix.shape
    if small == 0:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    if small <= SVD_SIDE or not squared_ok:
        sigma = np.linalg.svd(matrix, compute_uv=False)
        error = 8 * large * UNIT * sigma[0]
        return sigma, np.maximum(sigma - error, 0.0), sigma + error
    eigenvalues = np.linalg.eigvalsh(matrix @ matrix.T)[::-1]
    error = 8 * (small + np.sqrt(large)) * UNIT * eigenvalues[0]
    roots = [np.sqrt(np.maximum(eigenvalues + shift, 0.0)) for shift in (0.0, -error, error)]
    return roots[0], roots[1], roots[2]
