"""Vectors for rows that training has not seen, or not with these observations."""

from dataclasses import replace

from recsys_spark.kernels.csr_block import CsrBlock
from recsys_spark.kernels.fixed_side import FixedSide
from recsys_spark.kernels.solve_rows import RowProblem, RowSolution, solve_rows

# From zero, with halved steps, Newton's method has settled long before; each is one pass over the row.
_NEWTON_STEPS = 25


def fold_in(block: CsrBlock, fixed: FixedSide, problem: RowProblem) -> RowSolution:
    """Solve rows against a trained fixed side, to the end.

    That is the half-iteration that training would take next, solved exactly: where training takes a few steps from
    where a row was, a row that is folded in was nowhere yet. It depends on the row's observations and the fixed side
    alone.

    Parameters
    ----------
    block : CsrBlock
        Rows to solve, with all their observations. Not changed.
    fixed : FixedSide
        As training prepares it.
    problem : RowProblem
        That of the training.

    Returns
    -------
    RowSolution
        The same bits as a half-iteration with the exact solvers (cholesky, dual, and auto without a start).

    Raises
    ------
    ShapeError, NumericalError
        As `solve_rows`.

    Notes
    -----
    Costs what `solve_rows` does, with 25 Newton steps for the logistic loss.
    """
    return solve_rows(block, fixed, exact(problem))


def exact(problem: RowProblem) -> RowProblem:
    """Return the same problem, solved exactly from any start."""
    solver = problem.solver if problem.solver in ("cholesky", "dual") else "auto"
    return replace(problem, solver=solver, newton_steps=max(problem.newton_steps, _NEWTON_STEPS))
