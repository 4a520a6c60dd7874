"""Solving short rows through a system as small as their number of observations."""

import numpy as np

from recsys_spark.kernels.arrays import Float64Array
from recsys_spark.kernels.normal_equations import NormalEquations, solve_normal_equations
from recsys_spark.kernels.row_batch import RowBatch


def solve_dual(batch: RowBatch, penalties: Float64Array) -> Float64Array:
    """Solve each row by the push-through identity.

    With P = Lambda^-1, the minimiser of |t - Zv|^2 + v' Lambda v is v = P Z' (I + Z P Z')^-1 t: exact, with a
    system of the order of the padded length instead of the width.

    Parameters
    ----------
    batch : RowBatch
        Observations of shape (n_rows, length, width). Not changed.
    penalties : float64 array of shape (n_rows, width)
        Diagonal of Lambda, all > 0.

    Returns
    -------
    float64 array of shape (n_rows, width)
        Solved rows; a padded observation gets weight zero.

    Notes
    -----
    O(n_rows (length**2 width + length**3)) time; two copies of the design in float64 as working memory. It is
    all float64: a row with more observations than the width makes Z P Z' singular, and float32 would lose the
    digits that the identity matrix holds.

    References
    ----------
    Henderson, Searle (1981), On deriving the inverse of a sum of matrices. doi:10.1137/1023004
    """
    root = 1.0 / np.sqrt(penalties)
    scaled = batch.design * root[:, None, :]
    transposed = scaled.transpose(0, 2, 1)
    system = NormalEquations(np.matmul(scaled, transposed), batch.targets.astype(np.float64))
    weights = solve_normal_equations(system, np.ones(batch.targets.shape))
    return np.asarray(np.matmul(transposed, weights[:, :, None])[:, :, 0] * root)
