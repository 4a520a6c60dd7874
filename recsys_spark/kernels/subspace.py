"""Block coordinate steps: each row is minimised over a few entries at a time."""

import numpy as np

from recsys_spark.kernels.arrays import Float32Array, Float64Array
from recsys_spark.kernels.normal_equations import NormalEquations, add_to_diagonal, gramian, solve_systems
from recsys_spark.kernels.objective import Ridge
from recsys_spark.kernels.row_batch import WeightedRows

SUBSPACE_SIZE = 32
"""Entries per step."""


def solve_subspace(rows: WeightedRows, ridge: Ridge, start: Float32Array, predictions: Float32Array) -> Float64Array:
    """Minimise each row over one block of entries after the other, once over all of them.

    Parameters
    ----------
    rows : WeightedRows
        Observations of shape (n_rows, length, width). Not changed.
    ridge : Ridge
        Without a matrix.
    start : float32 array of shape (n_rows, width)
        Where each row begins. Not changed.
    predictions : float32 array of shape (n_rows, length)
        Z times ``start``. Not changed.

    Returns
    -------
    float64 array of shape (n_rows, width)
        Never a higher objective than at ``start``, but for rounding; exact where one block holds all entries.

    Notes
    -----
    O(n_rows (length width size + width size**2)): width / size times less than the whole system.

    References
    ----------
    Rendle, Krichene, Zhang, Koren (2021), iALS++: Speeding up matrix factorization with subspace optimization,
    algorithm 2. arXiv:2110.14044
    """
    residuals = rows.residuals(predictions)
    vectors = start.astype(np.float64)
    for part in _blocks(vectors.shape[1]):
        design = rows.design[:, :, part]
        gradient = np.matmul(design.transpose(0, 2, 1), residuals[:, :, None])[:, :, 0].astype(np.float64)
        gradient -= ridge.half_gradient(vectors)[:, part]
        system = gramian(np.ascontiguousarray(design), rows.curvature).astype(np.float64)
        add_to_diagonal(system, ridge.diagonal[:, part])
        change = solve_systems(system, gradient)
        vectors[:, part] += change
        moved = np.matmul(design, change.astype(np.float32)[:, :, None])[:, :, 0]
        residuals -= rows.weighted(moved)
    return vectors


def solve_subspace_formed(equations: NormalEquations, ridge: Ridge, start: Float32Array) -> Float64Array:
    """Take the same steps on normal equations that were formed already; these are OVERWRITTEN."""
    equations.add_ridge(ridge)
    matrices, vectors = equations.gramian, start.astype(np.float64)
    for part in _blocks(vectors.shape[1]):
        gradient = equations.moment[:, part] - np.matmul(matrices[:, part], vectors[:, :, None])[:, :, 0]
        vectors[:, part] += solve_systems(np.ascontiguousarray(matrices[:, part, part]), gradient)
    return vectors


def _blocks(width: int) -> list[slice]:
    return [slice(first, min(first + SUBSPACE_SIZE, width)) for first in range(0, width, SUBSPACE_SIZE)]
