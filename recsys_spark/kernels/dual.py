"""Solving short rows through a system as small as their number of observations."""

import numpy as np

from recsys_spark.kernels.arrays import Float64Array
from recsys_spark.kernels.normal_equations import add_to_diagonal, solve_systems
from recsys_spark.kernels.objective import Ridge
from recsys_spark.kernels.row_batch import WeightedRows


def solve_dual(rows: WeightedRows, ridge: Ridge) -> Float64Array:
    """Solve each row by the push-through identity.

    With D the ridge's diagonal, P = D^-1 and q its pull, the solution of (Z'WZ + D) v = Z'h + q is
    v = P (Z'y + q) where (I + W Z P Z') y = h - W Z P q: exact, with a system of the order of the padded length
    instead of the width.

    Parameters
    ----------
    rows : WeightedRows
        Observations of shape (n_rows, length, width). Not changed.
    ridge : Ridge
        With a diagonal > 0 and no matrix.

    Returns
    -------
    float64 array of shape (n_rows, width)
        Solved rows; a padded observation gets y = 0.

    Notes
    -----
    O(n_rows (length**2 width + length**3)) time; two copies of the design in float64 as working memory. It is
    all float64: a row with more observations than the width makes Z P Z' singular, and float32 would lose the
    digits that the identity matrix holds.

    References
    ----------
    Henderson, Searle (1981), On deriving the inverse of a sum of matrices. doi:10.1137/1023004
    """
    root = 1.0 / np.sqrt(ridge.diagonal)
    scaled = rows.design * root[:, None, :]
    transposed = scaled.transpose(0, 2, 1)
    system, right_side = np.matmul(scaled, transposed), rows.linear.astype(np.float64)
    pull = None if ridge.pull is None else root * ridge.pull
    if pull is not None:
        right_side -= rows.weighted(np.matmul(scaled, pull[:, :, None])[:, :, 0])
    if rows.curvature is not None:
        system *= rows.curvature[:, :, None]
    add_to_diagonal(system, 1.0)
    weights = solve_systems(system, right_side)
    vectors = np.matmul(transposed, weights[:, :, None])[:, :, 0]
    if pull is not None:
        vectors += pull
    return np.asarray(vectors * root)
