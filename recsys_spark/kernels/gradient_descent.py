"""The method's textbook form: gradient steps on each row, with a step length that is provably safe."""

from collections.abc import Callable

import numpy as np

from recsys_spark.kernels.arrays import Float32Array, Float64Array
from recsys_spark.kernels.normal_equations import NormalEquations
from recsys_spark.kernels.objective import Ridge

HalfGradient = Callable[[Float64Array], Float64Array]
"""Vectors of shape (n_rows, width) -> half the gradient of each row's objective there."""


def solve_gradient(
    half_gradient: HalfGradient, steepest: Float64Array, ridge: Ridge, start: Float32Array, steps: int
) -> Float64Array:
    """Take accelerated gradient steps on each row.

    Half the objective of a row is convex with curvature between the least entry of the ridge's diagonal and
    L = steepest + the largest one. Steps of length 1 / L never overshoot, whatever the data, so there is no
    learning rate to choose; momentum follows Nesterov, and starts anew where it points uphill.

    Parameters
    ----------
    half_gradient : callable
        Of the whole row problem, ridge included.
    steepest : float64 array of shape (n_rows,)
        Bound on the curvature of the observations' part: ``sum_j w_j |z_j|**2``, with w_j at its largest.
    ridge : Ridge
    start : float32 array of shape (n_rows, width)
        Where each row begins. Not changed.
    steps : int >= 1

    Returns
    -------
    float64 array of shape (n_rows, width)
        O(n_rows length width) per step.

    References
    ----------
    Nesterov (2004), Introductory lectures on convex optimization, scheme 2.2.9 (constant momentum).
    O'Donoghue, Candès (2015), Adaptive restart for accelerated gradient schemes, gradient scheme.
    doi:10.1007/s10208-013-9150-3
    """
    largest = ridge.diagonal.max(axis=1)
    if ridge.matrix is not None:
        largest = largest + np.linalg.norm(ridge.matrix)
    longest = 1.0 / (steepest + largest)[:, None]
    flattest = np.sqrt(ridge.diagonal.min(axis=1)[:, None] * longest)
    momentum = (1.0 - flattest) / (1.0 + flattest)
    vectors = ahead = start.astype(np.float64)
    for _ in range(steps):
        gradient = half_gradient(ahead)
        moved = ahead - longest * gradient
        points_uphill = (gradient * (moved - vectors)).sum(axis=1) > 0
        ahead = np.where(points_uphill[:, None], moved, moved + momentum * (moved - vectors))
        vectors = moved
    return vectors


def solve_gradient_formed(equations: NormalEquations, ridge: Ridge, start: Float32Array, steps: int) -> Float64Array:
    """Take the same steps on normal equations that were formed already."""
    matrices, moments = equations.gramian, equations.moment

    def half_gradient(vectors: Float64Array) -> Float64Array:
        bent = np.matmul(matrices, vectors[:, :, None])[:, :, 0]
        return np.asarray(bent - moments + ridge.half_gradient(vectors))

    # The trace is the sum of w_j |z_j|**2.
    return solve_gradient(half_gradient, np.trace(matrices, axis1=1, axis2=2), ridge, start, steps)
