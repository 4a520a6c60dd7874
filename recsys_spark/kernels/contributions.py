"""What each observation of a row adds to its scores: the linear form of a least-squares solution."""

from dataclasses import dataclass

import numpy as np

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.arrays import BoolArray, Float32Array, Float64Array, IntArray
from recsys_spark.kernels.csr_block import CsrBlock
from recsys_spark.kernels.fixed_side import FixedSide, penalties_in_basis, ridge_of
from recsys_spark.kernels.losses import logistic_terms, quadratic_terms
from recsys_spark.kernels.normal_equations import add_to_diagonal
from recsys_spark.kernels.solve_rows import RowProblem


@dataclass(frozen=True, slots=True)
class Contributions:
    """Parts of what a row's vector adds to the scores of some columns; they add up to ``z_i . v``.

    Attributes
    ----------
    observed : float64 array of shape (m, nnz)
        Of each of the row's observations.
    unobserved : float64 array of shape (m,)
        Of the pairs that were not observed: their pull towards the mean where columns have biases.
    unsettled : float64 array of shape (m,)
        How far the score lies from that of the exact solution: what training left over, since the fixed side moved
        once more after the row was solved.
    """

    observed: Float64Array
    unobserved: Float64Array
    unsettled: Float64Array


def contributions(
    row: CsrBlock, fixed: FixedSide, problem: RowProblem, vector: Float32Array, columns: IntArray
) -> Contributions:
    """Split the scores that a row gives to some columns into what each of its observations adds.

    The solution of a row is linear in its observations, ``v = A^-1 (sum_j h_j z_j + pull)`` with
    ``A = Z' diag(w) Z + Lambda + a0 G``, and so is ``z_i . v``: observation j adds ``h_j z_i' A^-1 z_j``.

    Parameters
    ----------
    row : CsrBlock
        One row, or none: with all the observations it was solved from.
    fixed : FixedSide
        In the model's own basis (``rotated=False``).
    problem : RowProblem
    vector : float32 array of shape (width,)
        The row as it is in the model.
    columns : integer array of shape (m,)
        Whose scores are split.

    Returns
    -------
    Contributions
        Exact for quadratic losses. The logistic loss is split as its second-order model around ``vector`` is, in
        log-odds: w and h are those of its last Newton step, which at the minimum leads nowhere, so that there the
        parts add up with nothing left over; without an observation the others would have other parts. Of nonnegative
        rows, factors at zero take no part.

    Raises
    ------
    ShapeError
        If there are several rows, or the fixed side is in another basis.

    Notes
    -----
    O(nnz width**2 + width**3 + m nnz width), in float64.

    References
    ----------
    Hu, Koren, Volinsky (2008), Collaborative filtering for implicit feedback datasets, section 5.
    doi:10.1109/ICDM.2008.22
    """
    if row.n_rows > 1 or vector.shape != (fixed.width,):
        raise ShapeError(f"one row of width {fixed.width} is explained at a time, got {row.n_rows} and {vector.shape}")
    if fixed.all_pairs is not None and fixed.all_pairs.matrix is None:
        raise ShapeError("scores are explained in the model's own basis: make the term of all pairs with rotated=False")
    design = fixed.design[row.column_index].astype(np.float64)
    targets = fixed.design[columns].astype(np.float64)
    wide = vector.astype(np.float64)
    curvature, linear = _terms(row, fixed, problem, design @ wide)
    degrees = np.array([row.nnz])
    ridge = ridge_of(penalties_in_basis(degrees, fixed.width, problem.regularization, fixed.all_pairs), fixed.all_pairs)
    system = design.T @ (design * curvature[:, None])
    if ridge.matrix is not None:
        system += ridge.matrix
    add_to_diagonal(system[None], ridge.diagonal)
    free = _free_entries(wide, problem)
    sensitivity = np.zeros((fixed.width, len(targets)))
    sensitivity[free] = np.linalg.solve(system[np.ix_(free, free)], targets[:, free].T)
    observed = (design @ sensitivity).T * linear
    unobserved = np.zeros(len(targets)) if ridge.pull is None else ridge.pull @ sensitivity
    return Contributions(observed, unobserved, targets @ wide - observed.sum(axis=1) - unobserved)


def _terms(
    row: CsrBlock, fixed: FixedSide, problem: RowProblem, predictions: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Return w and h of the row's quadratic, the columns' own offsets taken off: float64 arrays of shape (nnz,)."""
    offsets = fixed.offsets[row.column_index]
    if problem.loss.is_quadratic:
        terms = quadratic_terms(problem.loss, row.values, row.weights)
        curvature = np.ones(row.nnz) if terms.curvature is None else terms.curvature.astype(np.float64)
        return curvature, terms.linear - curvature * offsets
    scores = (offsets + predictions).astype(np.float32)
    curvature_32, slope = logistic_terms(row.values, row.weights, scores)
    curvature = curvature_32.astype(np.float64)
    return curvature, curvature * predictions + slope


def _free_entries(vector: Float64Array, problem: RowProblem) -> BoolArray:
    """Return which entries the constraint leaves free: bool array of shape (width,)."""
    free = np.ones(len(vector), dtype=np.bool_)
    if problem.nonnegative:
        n_factors = len(vector) - problem.regularization.biases
        free[:n_factors] = vector[:n_factors] > 0
    return free
