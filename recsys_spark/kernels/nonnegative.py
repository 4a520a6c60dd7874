"""Solving rows under the constraint that no factor is negative."""

import numpy as np

from recsys_spark.kernels.arrays import Float32Array, Float64Array
from recsys_spark.kernels.normal_equations import NormalEquations
from recsys_spark.kernels.objective import Ridge

_RELATIVE_TOLERANCE = 1e-7
_MOST_SWEEPS = 500


def solve_nonnegative(
    equations: NormalEquations, ridge: Ridge, start: Float32Array, n_constrained: int
) -> Float64Array:
    """Minimise each row's quadratic over vectors whose first entries are >= 0, by cyclic coordinate descent.

    Every step sets one entry to its best admissible value; the objective falls with each, and for these
    strictly convex problems the limit is the constrained minimum.

    Parameters
    ----------
    equations : NormalEquations
        The observations' part of systems of shape (n_rows, width, width); OVERWRITTEN.
    ridge : Ridge
        With a diagonal > 0.
    start : float32 array of shape (n_rows, width)
        Where each row begins; negative entries count as zero. Not changed.
    n_constrained : int
        Entries that must not be negative; those behind them, a bias, are free.

    Returns
    -------
    float64 array of shape (n_rows, width)

    Notes
    -----
    O(n_rows width**2) per sweep, until no entry moves by more than 1e-7 of the row's largest.

    References
    ----------
    Franc, Hlaváč, Navara (2005), Sequential coordinate-wise algorithm for the non-negative least squares
    problem. doi:10.1007/11556121_50
    """
    equations.add_ridge(ridge)
    matrices, vectors = equations.gramian, start.astype(np.float64)
    np.maximum(vectors[:, :n_constrained], 0.0, out=vectors[:, :n_constrained])
    moving = np.arange(len(vectors))
    for _ in range(_MOST_SWEEPS):
        # Rows that have settled are left out, so that what a row goes through depends on itself alone.
        before = vectors[moving]
        vectors[moving] = after = _sweep(matrices[moving], equations.moment[moving], before, n_constrained)
        largest = np.abs(after).max(axis=1)
        moving = moving[np.abs(after - before).max(axis=1) > _RELATIVE_TOLERANCE * largest]
        if len(moving) == 0:
            break
    return vectors


def _sweep(matrices: Float64Array, moments: Float64Array, vectors: Float64Array, n_constrained: int) -> Float64Array:
    vectors = vectors.copy()
    for entry in range(vectors.shape[1]):
        gradient = moments[:, entry] - np.matmul(matrices[:, entry, None, :], vectors[:, :, None])[:, 0, 0]
        best = vectors[:, entry] + gradient / matrices[:, entry, entry]
        vectors[:, entry] = np.maximum(best, 0.0) if entry < n_constrained else best
    return vectors
