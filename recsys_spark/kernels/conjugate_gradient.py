"""A few conjugate gradient steps per row, from where the row stood before."""

import numpy as np

from recsys_spark.kernels.arrays import BoolArray, Float32Array, Float64Array
from recsys_spark.kernels.normal_equations import NormalEquations
from recsys_spark.kernels.objective import Ridge
from recsys_spark.kernels.row_batch import WeightedRows

# A gradient this far below the first one is rounding: further steps would follow noise.
_RELATIVE_TOLERANCE = 1e-6


def solve_conjugate_gradient(rows: WeightedRows, ridge: Ridge, start: Float32Array, steps: int) -> Float64Array:
    """Take conjugate gradient steps on each row's problem, without forming its matrix.

    The residual h - w Z v is kept next to v, and multiplied by Z and Z' in turn. Where all pairs have a
    weight, the ridge's diagonal holds nearly all of the curvature, and preconditions the steps.

    Parameters
    ----------
    rows : WeightedRows
        Observations of shape (n_rows, length, width). Not changed.
    ridge : Ridge
        Without a matrix.
    start : float32 array of shape (n_rows, width)
        Where each row begins. Not changed.
    steps : int >= 0
        Steps at most; a converged row is frozen.

    Returns
    -------
    float64 array of shape (n_rows, width)
        After ``width`` steps the exact solution, up to rounding.

    Notes
    -----
    O(n_rows length width) per step, in float32: two passes over the design.

    References
    ----------
    Hestenes, Stiefel (1952), eq. 10:2. doi:10.6028/jres.049.044
    Takács, Pilászy, Tikk (2011), Applications of the conjugate gradient method for implicit feedback
    collaborative filtering. doi:10.1145/2043932.2043987
    """
    transposed = rows.design.transpose(0, 2, 1)
    precondition = _preconditioner(ridge)
    residuals = rows.residuals(start)
    vectors = start.astype(np.float64)
    descent = np.zeros_like(vectors)
    steepness = np.ones(len(vectors))
    floor = None
    is_moving = np.ones(len(vectors), dtype=np.bool_)
    for _ in range(steps):
        gradient = np.matmul(transposed, residuals[:, :, None])[:, :, 0] - ridge.half_gradient(vectors)
        scaled = gradient * precondition
        previous, steepness = steepness, _row_dot(gradient, scaled)
        floor = steepness * _RELATIVE_TOLERANCE**2 if floor is None else floor
        is_moving &= steepness > floor
        descent *= _ratio(steepness, previous, is_moving)[:, None]
        descent += scaled
        change = np.matmul(rows.design, descent.astype(np.float32)[:, :, None])[:, :, 0]
        weighted = rows.weighted(change)
        curvature = _row_dot(ridge.diagonal * descent, descent) + _row_dot(change, weighted)
        # The least point along `descent`. The textbook's |gradient|^2 in place of this inner product is equal
        # in exact arithmetic, but lets rounding pile up once a row has converged.
        length = _ratio(_row_dot(gradient, descent), curvature, is_moving)
        vectors += length[:, None] * descent
        residuals -= length.astype(np.float32)[:, None] * weighted
    return vectors


def solve_conjugate_gradient_formed(
    equations: NormalEquations, ridge: Ridge, start: Float32Array, steps: int
) -> Float64Array:
    """Take the same steps on normal equations that were formed already.

    For rows too long to hold at once: their observations are read once, not once per step.

    Parameters
    ----------
    equations : NormalEquations
        The observations' part of systems of shape (n_rows, width, width); OVERWRITTEN.
    ridge : Ridge
        What is added to it.
    start : float32 array of shape (n_rows, width)
        Where each row begins. Not changed.
    steps : int >= 0
        Steps at most; a converged row is frozen.

    Returns
    -------
    float64 array of shape (n_rows, width)
        O(n_rows width**2) per step, in float64.
    """
    equations.add_ridge(ridge)
    matrices, precondition = equations.gramian, _preconditioner(ridge)
    vectors = start.astype(np.float64)
    gradient = equations.moment - np.matmul(matrices, vectors[:, :, None])[:, :, 0]
    scaled = gradient * precondition
    descent = scaled.copy()
    steepness = _row_dot(gradient, scaled)
    floor = steepness * _RELATIVE_TOLERANCE**2
    is_moving = steepness > floor
    for _ in range(steps):
        change = np.matmul(matrices, descent[:, :, None])[:, :, 0]
        length = _ratio(_row_dot(gradient, descent), _row_dot(descent, change), is_moving)[:, None]
        vectors += length * descent
        gradient -= length * change
        scaled = gradient * precondition
        previous, steepness = steepness, _row_dot(gradient, scaled)
        is_moving &= steepness > floor
        descent = scaled + _ratio(steepness, previous, is_moving)[:, None] * descent
    return vectors


def _preconditioner(ridge: Ridge) -> Float64Array | float:
    return 1.0 if ridge.pull is None else 1.0 / ridge.diagonal


def _row_dot(left: Float64Array | Float32Array, right: Float64Array | Float32Array) -> Float64Array:
    """Inner product of each row of two (n, m) arrays, one BLAS call per row whatever n is."""
    products = np.matmul(left[:, None, :], right[:, :, None])[:, 0, 0]
    return np.asarray(products, dtype=np.float64)


def _ratio(numerator: Float64Array, denominator: Float64Array, where: BoolArray) -> Float64Array:
    """Divide where asked and the denominator is positive; zero elsewhere."""
    quotient = np.zeros_like(numerator)
    np.divide(numerator, denominator, out=quotient, where=where & (denominator > 0))
    return quotient
