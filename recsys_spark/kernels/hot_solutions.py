"""Solving hot rows from the sums of their pieces.

A quadratic loss needs no more: the objective follows from the same sums. For the logistic loss they are those of a
Newton step, whose halvings are then evaluated in the pieces as well.
"""

import numpy as np

from recsys_spark.kernels.arrays import Float32Array, Float64Array, Int64Array
from recsys_spark.kernels.degree_ladder import LADDER
from recsys_spark.kernels.fixed_side import (
    AllPairs,
    all_pairs_term,
    penalties_in_basis,
    ridge_of,
    rotate,
)
from recsys_spark.kernels.hot_rows import HotRows
from recsys_spark.kernels.hot_sums import (
    Halvings,
    HotTask,
    unit_of_sums,
    unpack_sums,
)
from recsys_spark.kernels.method_choice import Method, choose_methods
from recsys_spark.kernels.normal_equations import NormalEquations
from recsys_spark.kernels.objective import penalty
from recsys_spark.kernels.solve_rows import (
    MOST_HALVINGS,
    RowProblem,
    RowSolution,
    better_of,
    reject_non_finite,
    solve_formed,
)


def solve_hot_rows(total: Int64Array, task: HotTask, problem: RowProblem, pairs: AllPairs | None) -> RowSolution:
    """Minimise the quadratic of each hot row: that of its loss, or the model of it around the start.

    Parameters
    ----------
    total : int64 array of shape (n_hot, n_sums)
        Of all pieces, from `add_up_pieces`.
    task : HotTask
    problem : RowProblem
    pairs : AllPairs or None
        Of the fixed side.

    Returns
    -------
    RowSolution
        For a quadratic loss never of a higher objective than the start. For another, the objective is that of
        the model, and the whole step may be too long: see `halvings`.

    Notes
    -----
    O(n_hot width**3) for an exact solution; the solver's own steps are taken on the normal equations.
    """
    hot, start = task.hot, task.start
    curvature, slope, loss = unpack_sums(total, task.units)
    basis_start = start if pairs is None else rotate(start, pairs.to_basis)
    around = task.around.astype(np.float64)
    # Not by BLAS: whether that uses several threads must not matter.
    moment = slope + (curvature * around[:, None, :]).sum(axis=2)
    penalties = penalties_in_basis(hot.degrees, start.shape[1], problem.regularization, pairs)

    def score(vectors: Float64Array | Float32Array) -> RowSolution:
        narrow = vectors.astype(np.float32)
        change = narrow - around
        bent = (curvature * change[:, None, :]).sum(axis=2)
        observed = loss + (change * (bent - 2.0 * slope)).sum(axis=1)
        return RowSolution(narrow, observed, all_pairs_term(narrow, pairs), penalty(narrow, penalties))

    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        method = _method(problem)
        equations = NormalEquations(curvature.copy(), moment)
        solved = score(solve_formed(equations, method, ridge_of(penalties, pairs), basis_start, problem))
        if problem.loss.is_quadratic and method != Method.DIRECT:
            solved = better_of(score(basis_start), solved)
    return _finished(solved, hot, pairs)


def halvings(solved: RowSolution, task: HotTask) -> Halvings:
    """Return the points between the starts and the minima of the model that are to be tried."""
    start, bounds = task.start, task.bounds
    whole = solved.vectors.astype(np.float64) - start
    lengths = [0.0, *(0.5**halving for halving in range(MOST_HALVINGS))]
    vectors = np.stack([(start + length * whole).astype(np.float32) for length in lengths], axis=2)
    score = np.ldexp(1.0, bounds.exponents[-1]) + (np.abs(vectors).max(axis=2) * bounds.design(None)).sum(axis=1)
    # log(1 + exp(s)) - y s is at most log 2 + |s|.
    bound = task.hot.degrees * 2.0 * bounds.weight * (1.0 + score)
    return Halvings(task.hot, vectors, unit_of_sums(bound)[:, None])


def longest_safe(total: Int64Array, tried: Halvings, problem: RowProblem) -> RowSolution:
    """Return, for each hot row, the longest of the steps that does not raise its objective.

    Parameters
    ----------
    total : int64 array of shape (n_hot, n_lengths)
        Of all pieces, from `evaluate_pieces`.
    tried : Halvings
    problem : RowProblem
        Without a term of all pairs.
    """
    n_hot, width, n_lengths = tried.vectors.shape
    observed = np.ldexp(total.astype(np.float64), tried.units)
    penalties = penalties_in_basis(tried.hot.degrees, width, problem.regularization, None)
    each = [penalty(tried.vectors[:, :, length], penalties) for length in range(n_lengths)]
    objectives = observed + np.stack(each, axis=1)
    is_safe = objectives[:, 1:] <= objectives[:, :1]
    chosen = np.where(is_safe.any(axis=1), 1 + is_safe.argmax(axis=1), 0)
    rows = np.arange(n_hot)
    vectors = np.ascontiguousarray(tried.vectors[rows, :, chosen])
    found = RowSolution(vectors, observed[rows, chosen], np.zeros(n_hot), penalty(vectors, penalties))
    return _finished(found, tried.hot, None)


def _method(problem: RowProblem) -> Method:
    """Return how rows with formed normal equations are solved: as any row that is too long to hold."""
    chosen = choose_methods(
        np.array([2 * LADDER[-1]]),
        1,
        problem.solver,
        has_start=True,
        cg_steps=problem.cg_steps,
        is_positive=problem.regularization.is_positive,
        nonnegative=problem.nonnegative,
    )
    return Method(int(chosen[0]))


def _finished(solution: RowSolution, hot: HotRows, pairs: AllPairs | None) -> RowSolution:
    """Return rows in the model's own basis, all of them finite."""
    reject_non_finite(solution, hot.rows, hot.degrees)
    if pairs is None:
        return solution
    vectors = rotate(solution.vectors, pairs.from_basis)
    return RowSolution(vectors, solution.observed, solution.unobserved, solution.penalty)
