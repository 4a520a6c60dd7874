"""Solving rows by forming their width x width normal equations."""

from dataclasses import dataclass

import numpy as np

from recsys_spark.kernels.arrays import Float32Array, Float64Array
from recsys_spark.kernels.objective import Ridge
from recsys_spark.kernels.row_batch import WeightedRows

_SYRK_MIN_LENGTH_PER_WIDTH = 3


@dataclass(frozen=True, slots=True)
class NormalEquations:
    """The observations' part of each row's linear system; sums of several parts are again one.

    Attributes
    ----------
    gramian : float64 array of shape (n_rows, width, width)
        Z' diag(w) Z, accumulated in float32 within a batch and in float64 across batches.
    moment : float64 array of shape (n_rows, width)
        Z'h, likewise.
    """

    gramian: Float64Array
    moment: Float64Array

    def add(self, other: "NormalEquations") -> None:
        """Add another part of the same rows, in place."""
        np.add(self.gramian, other.gramian, out=self.gramian)
        np.add(self.moment, other.moment, out=self.moment)

    def add_ridge(self, ridge: Ridge) -> None:
        """Add what stands beside the observations, in place: the whole system is then here."""
        add_to_diagonal(self.gramian, ridge.diagonal)
        if ridge.matrix is not None:
            np.add(self.gramian, ridge.matrix, out=self.gramian)
        if ridge.pull is not None:
            np.add(self.moment, ridge.pull, out=self.moment)


def form_normal_equations(rows: WeightedRows) -> NormalEquations:
    """Form Z' diag(w) Z and Z'h of each row.

    Parameters
    ----------
    rows : WeightedRows
        Observations of shape (n_rows, length, width). Not changed.

    Returns
    -------
    NormalEquations
        O(n_rows length width**2), in float32 BLAS.
    """
    transposed = rows.design.transpose(0, 2, 1)
    moment = np.matmul(transposed, rows.linear[:, :, None])[:, :, 0]
    return NormalEquations(gramian(rows.design, rows.curvature).astype(np.float64), moment.astype(np.float64))


def solve_normal_equations(equations: NormalEquations, ridge: Ridge) -> Float64Array:
    """Solve (Z' diag(w) Z + Lambda) v = Z'h for each row.

    Parameters
    ----------
    equations : NormalEquations
        The observations' part of the systems; OVERWRITTEN.
    ridge : Ridge
        What is added to it.

    Returns
    -------
    float64 array of shape (n_rows, width)
        NaN where a system is singular.

    Notes
    -----
    O(n_rows width**3) by LU in float64, the fastest that NumPy has for these systems: at width 64 its float32
    LU takes longer, and its Cholesky has no triangular solve to go with it.

    References
    ----------
    Zhou et al. (2008), eq. 8. doi:10.1007/978-3-540-68880-8_32
    """
    equations.add_ridge(ridge)
    return solve_systems(equations.gramian, equations.moment)


def solve_systems(matrices: Float64Array, right_sides: Float64Array) -> Float64Array:
    """Solve (n, m, m) systems for (n, m) right sides; NaN where a system is singular."""
    try:
        return np.asarray(np.linalg.solve(matrices, right_sides[:, :, None])[:, :, 0])
    except np.linalg.LinAlgError:
        return np.stack([_solve_one(*system) for system in zip(matrices, right_sides, strict=True)])


def add_to_diagonal(matrices: Float64Array, diagonals: Float64Array | float) -> None:
    """Add to the diagonals of C-contiguous (n, m, m) matrices, in place."""
    n_matrices, order, _ = matrices.shape
    matrices.reshape(n_matrices, order * order)[:, :: order + 1] += diagonals


def gramian(design: Float32Array, curvature: Float32Array | None) -> Float32Array:
    """Compute Z' diag(w) Z of each row.

    Given an array and its own transpose, NumPy calls SYRK and mirrors the triangle in a scalar loop. That
    pays for long rows only, so short ones are multiplied in two halves, which BLAS sees as plain products. Weights,
    which are >= 0, go into both factors as their roots, so that there is one array here too.
    """
    if curvature is not None:
        design = design * np.sqrt(curvature)[:, :, None]
    n_rows, length, width = design.shape
    transposed = design.transpose(0, 2, 1)
    if length >= _SYRK_MIN_LENGTH_PER_WIDTH * width or width == 1:
        return np.asarray(np.matmul(transposed, design))
    formed = np.empty((n_rows, width, width), dtype=np.float32)
    half = width // 2
    np.matmul(transposed[:, :half], design, out=formed[:, :half])
    np.matmul(transposed[:, half:], design, out=formed[:, half:])
    return formed


def _solve_one(matrix: Float64Array, right_side: Float64Array) -> Float64Array:
    try:
        return np.asarray(np.linalg.solve(matrix, right_side[:, None])[:, 0])
    except np.linalg.LinAlgError:
        return np.full(len(matrix), np.nan)
