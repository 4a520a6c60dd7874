"""One half-iteration of a block: solve its rows against the fixed side."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from recsys_spark.errors import NumericalError, ShapeError
from recsys_spark.kernels.arrays import BoolArray, Float32Array, Float64Array, Int64Array, IntArray
from recsys_spark.kernels.conjugate_gradient import solve_conjugate_gradient, solve_conjugate_gradient_formed
from recsys_spark.kernels.csr_block import CsrBlock
from recsys_spark.kernels.degree_ladder import LengthBatch, padded_lengths, plan_batches
from recsys_spark.kernels.dual import solve_dual
from recsys_spark.kernels.fixed_side import FixedSide, all_pairs_term, penalties_in_basis, ridge_of, rotate
from recsys_spark.kernels.gradient_descent import HalfGradient, solve_gradient, solve_gradient_formed
from recsys_spark.kernels.losses import SQUARED, Loss
from recsys_spark.kernels.method_choice import MAX_BATCH_FLOATS, Method, Solver, choose_methods, working_floats
from recsys_spark.kernels.nonnegative import solve_nonnegative
from recsys_spark.kernels.normal_equations import (
    NormalEquations,
    form_normal_equations,
    solve_normal_equations,
)
from recsys_spark.kernels.objective import Regularization, Ridge, penalty
from recsys_spark.kernels.row_batch import BatchGatherer, RowBatch, WeightedRows, predict
from recsys_spark.kernels.subspace import solve_subspace, solve_subspace_formed

MOST_HALVINGS = 10
"""A Newton step whose every halving is worse than standing still has met the rounding of the objective."""


@dataclass(frozen=True, slots=True)
class RowProblem:
    """What is minimised over each row, and how.

    Attributes
    ----------
    regularization : Regularization
    loss : Loss
    solver : {"auto", "cholesky", "dual", "cg", "subspace", "gradient"}
        "cholesky" forms the normal equations and solves them exactly; "dual" solves an equivalent system of
        the order of the row's degree, exactly, where that makes sense; "cg" takes a few conjugate gradient
        steps from where the row was; "subspace" minimises over a few entries at a time; "gradient" takes
        gradient steps. "auto" chooses by degree and width, see `choose_methods`.
    cg_steps, gradient_steps, newton_steps : int >= 1
        Steps at most; Newton's are for the logistic loss, each of them solved by ``solver``.
    nonnegative : bool
        Whether factors (not biases) must be >= 0; then ``solver`` is not asked.
    """

    regularization: Regularization
    loss: Loss = SQUARED
    solver: Solver = "auto"
    cg_steps: int = 3
    gradient_steps: int = 5
    newton_steps: int = 5
    nonnegative: bool = False

    def __post_init__(self) -> None:
        """Reject numbers of steps that would do nothing."""
        for name in ("cg_steps", "gradient_steps", "newton_steps"):
            if getattr(self, name) < 1:
                raise ShapeError(f"{name} must be >= 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class RowSolution:
    """Solved rows of a block and their share of the objective.

    Attributes
    ----------
    vectors : float32 array of shape (n_rows, width)
        In the order of the block's ``row_index``.
    observed, unobserved, penalty : float64 arrays of shape (n_rows,)
        Loss of each row's observations, its term of all pairs, and its regularisation; computed from the
        vectors as they are.
    """

    vectors: Float32Array
    observed: Float64Array
    unobserved: Float64Array
    penalty: Float64Array

    @property
    def objective(self) -> Float64Array:
        """Each row's share of the objective."""
        return self.observed + self.unobserved + self.penalty


def solve_rows(
    block: CsrBlock,
    fixed: FixedSide,
    problem: RowProblem,
    start: Float32Array | None = None,
    left_out: BoolArray | None = None,
    expected: Float32Array | None = None,
) -> RowSolution:
    """Minimise the objective over each row of a block.

    A row's result depends bit for bit on its own observations, its own start, the fixed side and the problem
    alone: not on the block it is in.

    Parameters
    ----------
    block : CsrBlock
        Rows to solve; column indexes point into the fixed side. Not changed.
    fixed : FixedSide
        In the basis of its term of all pairs, where the loss has one. Not changed.
    problem : RowProblem
    start : float32 array of shape (n_rows, width), optional
        Rows of the last iteration, for the methods that go on from there; zeros if not given. Not changed.
        The methods that go on from it never return a row with a higher objective; ``nonnegative`` needs one without
        negative factors.
    left_out : bool array of shape (n_rows,), optional
        Rows that are not solved here, see ``hot_rows``.
    expected : float32 array of shape (n_rows, width), optional
        What the penalty draws rows towards; zeros if not given. Not changed.

    Returns
    -------
    RowSolution
        Of zero rows for an empty block; a row that has no observations or is left out is zero.

    Raises
    ------
    ShapeError
        If a column index lies outside the fixed side, ``start`` or ``expected`` has the wrong shape, or the fixed
        side lacks the loss's term of all pairs.
    NumericalError
        If a solved row is not finite; names its global index.

    Notes
    -----
    O(nnz width**2 + n_rows width**3) time at most for the exact methods, O(nnz width) per conjugate gradient
    or gradient step. Works in batches of a few MB, whatever the block's size.

    References
    ----------
    Zhou et al. (2008), eq. 8, with biases as one more factor that is fixed at one on the other side.
    """
    _check_arguments(block, fixed, problem, start, expected)
    solution = RowSolution(
        np.zeros((block.n_rows, fixed.width), dtype=np.float32), *(np.zeros(block.n_rows) for _ in range(3))
    )
    task = _Task(block, fixed, problem, start, expected)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for plan in _plan(block, fixed, problem, left_out, has_start=start is not None):
            solved = task.solve(plan)
            for name in ("vectors", "observed", "unobserved", "penalty"):
                getattr(solution, name)[plan.rows] = getattr(solved, name)
    if fixed.all_pairs is not None:
        solution = replace(solution, vectors=rotate(solution.vectors, fixed.all_pairs.from_basis))
    reject_non_finite(solution, block.row_index, block.degrees)
    return solution


class _Task:
    """What the batches of one call share."""

    def __init__(
        self,
        block: CsrBlock,
        fixed: FixedSide,
        problem: RowProblem,
        start: Float32Array | None,
        expected: Float32Array | None,
    ) -> None:
        self._problem = problem
        self._gatherer = BatchGatherer(block, fixed, problem.loss)
        self._all_pairs = fixed.all_pairs
        # Whole, not batch by batch: one call instead of hundreds.
        if fixed.all_pairs is not None:
            start, expected = (
                None if vectors is None else rotate(vectors, fixed.all_pairs.to_basis) for vectors in (start, expected)
            )
        self._start, self._expected = start, expected
        self._width = fixed.width
        self._penalties = penalties_in_basis(block.degrees, fixed.width, problem.regularization, fixed.all_pairs)
        self._ridge = ridge_of(self._penalties, fixed.all_pairs, expected)

    def solve(self, plan: LengthBatch) -> RowSolution:
        """Solve one batch and return its rows in the basis of the fixed side."""
        rows = _Rows(self._gatherer, plan)
        start = self._starts(plan.rows)
        ridge = self._ridge.of(plan.rows)
        expected = None if self._expected is None else self._expected[plan.rows]

        def score(vectors: Float64Array | Float32Array, predictions: Float32Array | None = None) -> RowSolution:
            narrow = vectors.astype(np.float32, copy=False)
            observed = rows.observed_loss(narrow, predictions)
            penalties = penalty(narrow, self._penalties[plan.rows], expected)
            return RowSolution(narrow, observed, all_pairs_term(narrow, self._all_pairs), penalties)

        if plan.method in (Method.DUAL, Method.DIRECT) and self._problem.loss.is_quadratic:
            return score(self._solve_quadratic(rows, plan, ridge, start, None))
        if self._problem.loss.is_quadratic or plan.method == Method.GRADIENT:
            predictions = rows.predict(start)
            solved = score(self._solve_quadratic(rows, plan, ridge, start, predictions))
            return better_of(score(start, predictions), solved)
        return self._newton(rows, plan, ridge, score(start), score)

    def _newton(
        self,
        rows: "_Rows",
        plan: LengthBatch,
        ridge: Ridge,
        current: RowSolution,
        score: Callable[[Float64Array], RowSolution],
    ) -> RowSolution:
        """Take Newton steps, each halved until the row's objective does not rise.

        Every row takes every step, so that what it goes through does not depend on the rows beside it.
        """
        for _ in range(self._problem.newton_steps):
            before = current.vectors.astype(np.float64)
            predictions = rows.predict(current.vectors)
            step = self._solve_quadratic(rows, plan, ridge, current.vectors, predictions) - before
            next_one = current
            is_open = np.ones(len(before), dtype=np.bool_)
            for halving in range(MOST_HALVINGS):
                tried = score(before + step * 0.5**halving)
                takes = is_open & (tried.objective <= current.objective)
                next_one = _choose(takes, tried, next_one)
                is_open &= ~takes
                if not is_open.any():
                    break
            current = next_one
        return current

    def _solve_quadratic(
        self, rows: "_Rows", plan: LengthBatch, ridge: Ridge, start: Float32Array, predictions: Float32Array | None
    ) -> Float64Array:
        """Minimise the rows' quadratic, that of the loss itself or its second-order model around the start."""
        method = plan.method
        if method == Method.GRADIENT:
            steps = self._problem.gradient_steps
            return solve_gradient(rows.half_gradient(ridge), rows.steepest(), ridge, start, steps)
        if rows.is_sliced or method in (Method.DIRECT, Method.NONNEGATIVE):
            return solve_formed(rows.equations(start, predictions), method, ridge, start, self._problem)
        quadratic = rows.quadratic(predictions)
        if method == Method.DUAL:
            return solve_dual(quadratic, ridge)
        assert predictions is not None
        if method == Method.CG:
            return solve_conjugate_gradient(quadratic, ridge, start, predictions, self._problem.cg_steps)
        return solve_subspace(quadratic, ridge, start, predictions)

    def _starts(self, rows: Int64Array) -> Float32Array:
        if self._start is None:
            return np.zeros((len(rows), self._width), dtype=np.float32)
        return self._start[rows]


def solve_formed(
    equations: NormalEquations, method: int, ridge: Ridge, start: Float32Array, problem: RowProblem
) -> Float64Array:
    """Solve rows from their normal equations, which are OVERWRITTEN; methods not listed here solve them exactly."""
    if method == Method.CG:
        return solve_conjugate_gradient_formed(equations, ridge, start, problem.cg_steps)
    if method == Method.SUBSPACE:
        return solve_subspace_formed(equations, ridge, start)
    if method == Method.GRADIENT:
        return solve_gradient_formed(equations, ridge, start, problem.gradient_steps)
    if method == Method.NONNEGATIVE:
        n_factors = start.shape[1] - problem.regularization.biases
        return solve_nonnegative(equations, ridge, start, n_factors)
    return solve_normal_equations(equations, ridge)


class _Rows:
    """The observations of one batch: gathered once, or in slices where one row is too long to hold."""

    def __init__(self, gatherer: BatchGatherer, plan: LengthBatch) -> None:
        self._gatherer = gatherer
        self._plan = plan
        self.is_sliced = plan.is_sliced
        self._whole = None if plan.is_sliced else gatherer.gather(plan.rows, plan.length)

    def _slices(self) -> Iterator[RowBatch]:
        if self._whole is not None:
            yield self._whole
            return
        for first in range(0, self._plan.total_length, self._plan.length):
            yield self._gatherer.gather(self._plan.rows, self._plan.length, first)

    def predict(self, vectors: Float32Array) -> Float32Array | None:
        """Return Z v of rows that are held whole."""
        return None if self._whole is None else predict(self._whole.design, vectors)

    def quadratic(self, predictions: Float32Array | None) -> WeightedRows:
        """Return the quadratic of rows that are held whole."""
        assert self._whole is not None
        return self._whole.quadratic_around(predictions)

    def equations(self, around: Float32Array, predictions: Float32Array | None) -> NormalEquations:
        """Form the normal equations; the parts of a long row add up."""
        formed: NormalEquations | None = None
        for part in self._slices():
            known = predict(part.design, around) if predictions is None and part.needs_point else predictions
            equations = form_normal_equations(part.quadratic_around(known))
            if formed is None:
                formed = equations
            else:
                formed.add(equations)
        assert formed is not None
        return formed

    def observed_loss(self, vectors: Float32Array, predictions: Float32Array | None) -> Float64Array:
        """Sum the losses of each row's observations, from Z v where it is at hand."""
        if self._whole is not None and predictions is not None:
            return self._whole.observed_loss(predictions)
        return np.asarray(sum(part.loss_at(vectors) for part in self._slices()))

    def half_gradient(self, ridge: Ridge) -> HalfGradient:
        """Return what computes half the gradient of each row's objective."""
        return lambda vectors: ridge.half_gradient(vectors) - self.slope(vectors.astype(np.float32))

    def slope(self, vectors: Float32Array) -> Float64Array:
        """Return Z'(h - w Z v) of each row: minus half the gradient of the observed loss."""
        return np.asarray(sum(part.slope(vectors) for part in self._slices()))

    def steepest(self) -> Float64Array:
        """Bound the curvature of half the observed loss of each row."""
        return np.asarray(sum(part.steepest() for part in self._slices()))


def _plan(
    block: CsrBlock, fixed: FixedSide, problem: RowProblem, left_out: BoolArray | None, *, has_start: bool
) -> Iterator[LengthBatch]:
    """Batches of the rows that have observations and are not left out; the others stay zero."""
    rows = np.flatnonzero(block.degrees if left_out is None else np.where(left_out, 0, block.degrees))
    lengths = padded_lengths(block.degrees[rows])
    methods = choose_methods(
        lengths,
        fixed.width,
        problem.solver,
        has_start=has_start,
        cg_steps=problem.cg_steps,
        is_positive=problem.regularization.is_positive,
        nonnegative=problem.nonnegative,
    )
    floats = working_floats(lengths, methods, fixed.width)
    return plan_batches(rows, lengths, methods, floats, MAX_BATCH_FLOATS)


def better_of(before: RowSolution, after: RowSolution) -> RowSolution:
    """Keep rows whose objective would rise where they started."""
    has_risen = before.objective < after.objective
    return _choose(has_risen, before, after) if has_risen.any() else after


def _choose(where: BoolArray, one: RowSolution, other: RowSolution) -> RowSolution:
    return RowSolution(
        np.where(where[:, None], one.vectors, other.vectors),
        np.where(where, one.observed, other.observed),
        np.where(where, one.unobserved, other.unobserved),
        np.where(where, one.penalty, other.penalty),
    )


def _check_arguments(
    block: CsrBlock,
    fixed: FixedSide,
    problem: RowProblem,
    start: Float32Array | None,
    expected: Float32Array | None,
) -> None:
    if block.nnz:
        lowest, highest = int(block.column_index.min()), int(block.column_index.max())
        if lowest < 0 or highest >= fixed.n_fixed:
            raise ShapeError(
                f"column indexes must lie in [0, {fixed.n_fixed}), the fixed side, got {lowest} to {highest}"
                "; drop observations of unknown columns first"
            )
    for name, vectors in (("start", start), ("expected", expected)):
        if vectors is not None and vectors.shape != (block.n_rows, fixed.width):
            raise ShapeError(f"{name} must have shape {(block.n_rows, fixed.width)}, got {vectors.shape}")
    if (problem.loss.all_pairs_weight > 0) != (fixed.all_pairs is not None):
        raise ShapeError(f"the {problem.loss.name} loss and the fixed side disagree on a term of all pairs")
    if problem.nonnegative and fixed.all_pairs is not None and fixed.all_pairs.matrix is None:
        raise ShapeError("factors are >= 0 in their own basis only: make the term of all pairs with rotated=False")


def reject_non_finite(solution: RowSolution, rows: IntArray, degrees: IntArray) -> None:
    """Raise NumericalError if a row's vector or objective is not finite; ``rows`` are their global indexes."""
    is_finite = np.isfinite(solution.vectors).all(axis=1) & np.isfinite(solution.objective)
    if not is_finite.all():
        worst = int(np.argmin(is_finite))
        raise not_finite(int((~is_finite).sum()), int(rows[worst]), f" ({degrees[worst]} observations)")


def not_finite(n_rows: int, row: int, about_row: str = "") -> NumericalError:
    """Return the error of rows that are not finite."""
    return NumericalError(
        f"solved vectors must be finite, got {n_rows} rows that are not, first of them row {row}{about_row}"
        "; look for non-finite or huge ratings, and raise reg_param and bias_reg_param above 0"
    )
