"""Solving rows by forming their width x width normal equations."""

from dataclasses import dataclass

import numpy as np

from recsys_spark.kernels.arrays import Float32Array, Float64Array
from recsys_spark.kernels.row_batch import RowBatch

_SYRK_MIN_LENGTH_PER_WIDTH = 3


@dataclass(frozen=True, slots=True)
class NormalEquations:
    """The data's part of each row's linear system; sums of several parts are again one.

    Attributes
    ----------
    gramian : float64 array of shape (n_rows, width, width)
        Z'Z, accumulated in float32 within a batch and in float64 across batches.
    moment : float64 array of shape (n_rows, width)
        Z't, likewise.
    """

    gramian: Float64Array
    moment: Float64Array

    def add(self, other: "NormalEquations") -> None:
        """Add another part of the same rows, in place."""
        np.add(self.gramian, other.gramian, out=self.gramian)
        np.add(self.moment, other.moment, out=self.moment)


def form_normal_equations(batch: RowBatch) -> NormalEquations:
    """Form Z'Z and Z't of each row.

    Parameters
    ----------
    batch : RowBatch
        Observations of shape (n_rows, length, width). Not changed.

    Returns
    -------
    NormalEquations
        O(n_rows length width**2), in float32 BLAS.
    """
    transposed = batch.design.transpose(0, 2, 1)
    moment = np.matmul(transposed, batch.targets[:, :, None])[:, :, 0]
    return NormalEquations(_gramian(batch.design).astype(np.float64), moment.astype(np.float64))


def solve_normal_equations(equations: NormalEquations, penalties: Float64Array) -> Float64Array:
    """Solve (Z'Z + Lambda) v = Z't for each row.

    Parameters
    ----------
    equations : NormalEquations
        Data part of the systems; its gramian is overwritten.
    penalties : float64 array of shape (n_rows, width)
        Diagonal of Lambda.

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
    gramian, moment = equations.gramian, equations.moment[:, :, None]
    add_to_diagonal(gramian, penalties)
    try:
        return np.asarray(np.linalg.solve(gramian, moment)[:, :, 0])
    except np.linalg.LinAlgError:
        return np.stack([_solve_one(*system) for system in zip(gramian, moment, strict=True)])


def add_to_diagonal(matrices: Float64Array, diagonals: Float64Array | float) -> None:
    """Add to the diagonals of C-contiguous (n, m, m) matrices, in place."""
    n_matrices, order, _ = matrices.shape
    matrices.reshape(n_matrices, order * order)[:, :: order + 1] += diagonals


def _gramian(design: Float32Array) -> Float32Array:
    """Z'Z of each row.

    Given an array and its own transpose, NumPy calls SYRK and mirrors the triangle in a scalar loop. That
    pays for long rows only, so short ones are multiplied in two halves, which BLAS sees as plain products.
    """
    n_rows, length, width = design.shape
    transposed = design.transpose(0, 2, 1)
    if length >= _SYRK_MIN_LENGTH_PER_WIDTH * width or width == 1:
        return np.asarray(np.matmul(transposed, design))
    gramian = np.empty((n_rows, width, width), dtype=np.float32)
    half = width // 2
    np.matmul(transposed[:, :half], design, out=gramian[:, :half])
    np.matmul(transposed[:, half:], design, out=gramian[:, half:])
    return gramian


def _solve_one(matrix: Float64Array, right_side: Float64Array) -> Float64Array:
    try:
        return np.asarray(np.linalg.solve(matrix, right_side)[:, 0])
    except np.linalg.LinAlgError:
        return np.full(len(matrix), np.nan)
