"""One half-iteration of a block: solve its rows against the fixed side."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from recsys_spark.errors import NumericalError, ShapeError
from recsys_spark.kernels.arrays import Float32Array, Float64Array, Int64Array
from recsys_spark.kernels.conjugate_gradient import (
    solve_conjugate_gradient,
    solve_conjugate_gradient_formed,
)
from recsys_spark.kernels.csr_block import CsrBlock
from recsys_spark.kernels.degree_ladder import LADDER, LengthBatch, padded_lengths, plan_batches
from recsys_spark.kernels.dual import solve_dual
from recsys_spark.kernels.fixed_side import FixedSide
from recsys_spark.kernels.method_choice import Method, Solver, choose_methods
from recsys_spark.kernels.normal_equations import (
    NormalEquations,
    form_normal_equations,
    solve_normal_equations,
)
from recsys_spark.kernels.objective import Regularization, penalty, row_penalties, squared_error
from recsys_spark.kernels.row_batch import BatchGatherer, RowBatch

# 1 MB of float32: a batch's design vectors stay in a core's second-level cache from gathering to residuals.
_MAX_BATCH_FLOATS = 1 << 18


@dataclass(frozen=True, slots=True)
class RowSolution:
    """Solved rows of a block and their share of the objective.

    Attributes
    ----------
    vectors : float32 array of shape (n_rows, width)
        In the order of the block's ``row_index``.
    squared_error : float64 array of shape (n_rows,)
        Sum of squared residuals of each row, computed from ``vectors`` as returned.
    penalty : float64 array of shape (n_rows,)
        Regularisation term of each row, likewise.
    """

    vectors: Float32Array
    squared_error: Float64Array
    penalty: Float64Array


def solve_rows(
    block: CsrBlock,
    fixed: FixedSide,
    regularization: Regularization,
    *,
    solver: Solver,
    start: Float32Array | None = None,
    cg_steps: int = 3,
) -> RowSolution:
    """Solve one regularised least-squares problem per row of a block.

    Row p minimises sum_j (t_j - z_j . v)^2 + v' Lambda v over its observations j, with t_j the rating minus
    the fixed side's offset and Lambda as `objective` defines it. A row's result depends bit for bit on its
    own observations, its own start, the fixed side and the parameters alone: not on the block it is in.

    Parameters
    ----------
    block : CsrBlock
        Rows to solve; column indexes point into the fixed side. Not changed.
    fixed : FixedSide
        From `make_fixed_side`. Not changed.
    regularization : Regularization
        Penalties, and whether the last entry is a bias.
    solver : {"auto", "cholesky", "dual", "cg"}
        "cholesky" forms the normal equations and solves them exactly; "dual" solves an equivalent system of
        the order of the row's degree, exactly, where that makes sense; "cg" takes a few steps from ``start``.
        "auto" chooses by degree and width, see `choose_methods`.
    start : float32 array of shape (n_rows, width), optional
        Rows of the last iteration, for conjugate gradients; zeros if not given. Not changed.
    cg_steps : int >= 1, default 3
        Conjugate gradient steps. Their result never has a higher objective than ``start``.

    Returns
    -------
    RowSolution
        Of zero rows for an empty block; a row without observations is zero.

    Raises
    ------
    ShapeError
        If a column index lies outside the fixed side, ``start`` has the wrong shape, or ``cg_steps`` < 1.
    NumericalError
        If a solved row is not finite; names its global index.

    Notes
    -----
    O(nnz width**2 + n_rows width**3) time at most for the exact methods, O(nnz width) per conjugate gradient
    step. Works in batches of a few MB, whatever the block's size.

    References
    ----------
    Zhou et al. (2008), eq. 8, with biases as one more factor that is fixed at one on the other side.
    """
    _check_shapes(block, fixed, start, cg_steps)
    penalties = row_penalties(block.degrees, fixed.width, regularization)
    solution = RowSolution(
        vectors=np.zeros((block.n_rows, fixed.width), dtype=np.float32),
        squared_error=np.zeros(block.n_rows),
        penalty=np.zeros(block.n_rows),
    )
    task = _Task(BatchGatherer(block, fixed), penalties, start, cg_steps)
    with np.errstate(over="ignore", invalid="ignore"):
        for batch in _plan(block, fixed.width, penalties, solver, start is not None, cg_steps):
            solved = task.solve_sliced(batch) if batch.is_sliced else task.solve_stacked(batch)
            solution.vectors[batch.rows] = solved.vectors
            solution.squared_error[batch.rows] = solved.squared_error
            solution.penalty[batch.rows] = solved.penalty
    _reject_non_finite(block, solution)
    return solution


@dataclass(frozen=True, slots=True)
class _Task:
    """What the batches of one call share."""

    gatherer: BatchGatherer
    penalties: Float64Array
    start: Float32Array | None
    cg_steps: int

    def solve_stacked(self, plan: LengthBatch) -> RowSolution:
        """Solve rows that fit the ladder, gathered once."""
        batch = self.gatherer.gather(plan.rows, plan.length)
        penalties = self.penalties[plan.rows]
        if plan.method == Method.CG:
            return self._solve_from_start(plan, batch, penalties)
        if plan.method == Method.DUAL:
            solved = solve_dual(batch, penalties)
        else:
            solved = solve_normal_equations(form_normal_equations(batch), penalties)
        vectors = solved.astype(np.float32)
        return _score([batch], vectors, penalties)

    def _solve_from_start(self, plan: LengthBatch, batch: RowBatch, penalties: Float64Array) -> RowSolution:
        start = self._starts(plan.rows)
        residuals = batch.residuals(start)
        before = RowSolution(start, squared_error(residuals), penalty(start, penalties))
        solved = solve_conjugate_gradient(batch, penalties, start, residuals, self.cg_steps)
        return _better(before, _score([batch], solved.astype(np.float32), penalties))

    def solve_sliced(self, plan: LengthBatch) -> RowSolution:
        """Solve one row beyond the ladder's top: the parts of its normal equations add up."""
        penalties = self.penalties[plan.rows]
        equations = self._add_slices(plan)
        if plan.method != Method.CG:
            solved = solve_normal_equations(equations, penalties)
            return _score(self._slices(plan), solved.astype(np.float32), penalties)
        start = self._starts(plan.rows)
        before = _score(self._slices(plan), start, penalties)
        solved = solve_conjugate_gradient_formed(equations, penalties, start, self.cg_steps)
        return _better(before, _score(self._slices(plan), solved.astype(np.float32), penalties))

    def _add_slices(self, plan: LengthBatch) -> NormalEquations:
        slices = self._slices(plan)
        equations = form_normal_equations(next(slices))
        for part in slices:
            equations.add(form_normal_equations(part))
        return equations

    def _slices(self, plan: LengthBatch) -> Iterator[RowBatch]:
        for first in range(0, plan.total_length, plan.length):
            yield self.gatherer.gather(plan.rows, plan.length, first)

    def _starts(self, rows: Int64Array) -> Float32Array:
        if self.start is None:
            return np.zeros((len(rows), self.penalties.shape[1]), dtype=np.float32)
        return self.start[rows]


def _plan(
    block: CsrBlock, width: int, penalties: Float64Array, solver: Solver, has_start: bool, cg_steps: int
) -> Iterator[LengthBatch]:
    """Batches of the rows that have observations; the others stay zero."""
    rows = np.flatnonzero(block.degrees)
    lengths = padded_lengths(block.degrees[rows])
    methods = choose_methods(
        lengths,
        width,
        solver,
        has_start=has_start,
        cg_steps=cg_steps,
        is_positive=bool((penalties > 0).all()),
    )
    # Counted in float32: the design, which the dual copies twice in float64; a float64 system, as given and
    # factorised.
    copies = np.where(methods == Method.DUAL, 5, 1)
    order = np.select([methods == Method.DUAL, methods == Method.CG], [lengths, 0], width)
    floats = copies * np.minimum(lengths, LADDER[-1]) * width + 4 * order**2
    return plan_batches(rows, lengths, methods, floats, _MAX_BATCH_FLOATS)


def _score(slices: Iterable[RowBatch], vectors: Float32Array, penalties: Float64Array) -> RowSolution:
    """Objective of float32 row vectors; the slices of a long row add up."""
    error = sum((squared_error(part.residuals(vectors)) for part in slices), start=np.zeros(len(vectors)))
    return RowSolution(vectors, error, penalty(vectors, penalties))


def _better(before: RowSolution, after: RowSolution) -> RowSolution:
    """Keep rows whose objective would rise by rounding where they started."""
    rises = before.squared_error + before.penalty < after.squared_error + after.penalty
    return RowSolution(
        vectors=np.where(rises[:, None], before.vectors, after.vectors),
        squared_error=np.where(rises, before.squared_error, after.squared_error),
        penalty=np.where(rises, before.penalty, after.penalty),
    )


def _check_shapes(block: CsrBlock, fixed: FixedSide, start: Float32Array | None, cg_steps: int) -> None:
    if block.nnz:
        lowest, highest = int(block.column_index.min()), int(block.column_index.max())
        if lowest < 0 or highest >= fixed.n_fixed:
            raise ShapeError(
                f"column indexes must lie in [0, {fixed.n_fixed}), the fixed side, got {lowest} to {highest}"
                "; drop observations of unknown columns first"
            )
    if start is not None and start.shape != (block.n_rows, fixed.width):
        raise ShapeError(f"start must have shape {(block.n_rows, fixed.width)}, got {start.shape}")
    if cg_steps < 1:
        raise ShapeError(f"cg_steps must be >= 1, got {cg_steps}")


def _reject_non_finite(block: CsrBlock, solution: RowSolution) -> None:
    is_finite = np.isfinite(solution.vectors).all(axis=1) & np.isfinite(solution.squared_error)
    if not is_finite.all():
        worst = int(np.argmin(is_finite))
        raise NumericalError(
            f"solved vectors must be finite, got {int((~is_finite).sum())} rows that are not, first of them "
            f"row {block.row_index[worst]} ({block.degrees[worst]} observations); look for non-finite or "
            "huge ratings, and raise reg_param and bias_reg_param above 0"
        )
