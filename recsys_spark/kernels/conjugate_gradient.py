"""A few conjugate gradient steps per row, from where the row stood before."""

import numpy as np

from recsys_spark.kernels.arrays import Float32Array, Float64Array
from recsys_spark.kernels.normal_equations import NormalEquations
from recsys_spark.kernels.objective import Ridge
from recsys_spark.kernels.row_batch import WeightedRows, predict

# A gradient this far below the first one is rounding: further steps would follow noise.
_RELATIVE_TOLERANCE = 1e-6
_LEAST = np.finfo(np.float64).tiny


def solve_conjugate_gradient(
    rows: WeightedRows, ridge: Ridge, start: Float32Array, predictions: Float32Array, steps: int
) -> Float64Array:
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
    predictions : float32 array of shape (n_rows, length)
        Z times ``start``. Not changed.
    steps : int >= 0
        Steps at most; a converged row is frozen.

    Returns
    -------
    float64 array of shape (n_rows, width)
        After ``width`` steps the exact solution, up to rounding.

    Notes
    -----
    O(n_rows length width) per step, in float32: two passes over the design. Batches are small, so that the number
    of NumPy calls counts as much as what they do.

    References
    ----------
    Hestenes, Stiefel (1952), eq. 10:2. doi:10.6028/jres.049.044
    Takács, Pilászy, Tikk (2011), Applications of the conjugate gradient method for implicit feedback
    collaborative filtering. doi:10.1145/2043932.2043987
    """
    transposed = rows.design.transpose(0, 2, 1)
    precondition = _preconditioner(ridge)
    residuals = rows.residuals(predictions)
    vectors = start.astype(np.float64)
    # Minus half the gradient of the ridge.
    pulled = -ridge.half_gradient(vectors)
    descent = steepness = floor = np.zeros(0)
    for step in range(steps):
        gradient = np.matmul(transposed, residuals[:, :, None])[:, :, 0] + pulled
        scaled = gradient if precondition is None else gradient * precondition
        previous, steepness = steepness, _row_dot(gradient, scaled)
        if step == 0:
            descent, floor, ahead = scaled, steepness * _RELATIVE_TOLERANCE**2, steepness
        else:
            descent *= _ratio(steepness, previous)[:, None]
            descent += scaled
            # The textbook's |gradient|^2 in place of this inner product is equal in exact arithmetic, but lets
            # rounding pile up once a row has converged.
            ahead = _row_dot(gradient, descent)
        bent = ridge.diagonal * descent
        change = predict(rows.design, descent.astype(np.float32))
        weighted = rows.weighted(change)
        curvature = _row_dot(bent, descent) + _row_dot(change, weighted)
        # The least point along `descent`.
        length = (_ratio(ahead, curvature) * (steepness > floor))[:, None]
        vectors += length * descent
        if step < steps - 1:
            bent *= length
            pulled -= bent
            weighted *= length.astype(np.float32)
            residuals -= weighted
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
    descent = steepness = floor = np.zeros(0)
    for step in range(steps):
        scaled = gradient if precondition is None else gradient * precondition
        previous, steepness = steepness, _row_dot(gradient, scaled)
        if step == 0:
            descent, floor = scaled.copy(), steepness * _RELATIVE_TOLERANCE**2
        else:
            descent = scaled + _ratio(steepness, previous)[:, None] * descent
        change = np.matmul(matrices, descent[:, :, None])[:, :, 0]
        ahead = _ratio(_row_dot(gradient, descent), _row_dot(descent, change)) * (steepness > floor)
        vectors += ahead[:, None] * descent
        gradient -= ahead[:, None] * change
    return vectors


def _preconditioner(ridge: Ridge) -> Float64Array | None:
    return None if ridge.pull is None else 1.0 / ridge.diagonal


def _row_dot(left: Float64Array | Float32Array, right: Float64Array | Float32Array) -> Float64Array:
    """Inner product of each row of two (n, m) arrays, the same whatever n is."""
    return np.asarray(np.einsum("ij,ij->i", left, right))


def _ratio(numerator: Float64Array, denominator: Float64Array) -> Float64Array:
    """Divide numbers >= 0, 0 / 0 being 0."""
    return np.asarray(numerator / np.maximum(denominator, _LEAST))
