"""The ``replicate`` exchange: both sides' vectors on the driver, the fixed side sent to every task."""

from __future__ import annotations

from recsys_spark.kernels.solve_rows import RowProblem
from recsys_spark.rating_blocks import Side
from recsys_spark.train.half_iteration import half_iteration_input, solve_side
from recsys_spark.train.model import Vectors
from recsys_spark.train.shares import HalfIterationSizes, Shares
from recsys_spark.train.side_blocks import SideBlocks
from recsys_spark.train.simultaneous import step_both_sides


class ReplicateExchange:
    """Both sides' vectors on the driver.

    Parameters
    ----------
    problem : RowProblem
    constant : float
        Part of every score that the observations still hold.
    vectors : Vectors
        Where training starts from.
    """

    def __init__(self, problem: RowProblem, constant: float, vectors: Vectors) -> None:
        self._problem, self._constant = problem, constant
        self.vectors = vectors
        # Of the half-iterations of this process; a checkpoint has none.
        self.sizes: list[HalfIterationSizes] = []

    def solve(self, rows: SideBlocks, fixed: SideBlocks) -> Shares:
        """Solve every row of a side against the fixed side; for shuffles see ``solve_side``."""
        given = half_iteration_input(self.vectors, rows, fixed, self._constant, self._problem)
        solved, shares, sizes = solve_side(rows, given)
        self.sizes.append(sizes)
        self.vectors = self.vectors.with_side(rows.side, solved)
        return shares

    def step_both(self, users: SideBlocks, items: SideBlocks) -> tuple[Shares, dict[Side, float]]:
        """Take simultaneous gradient steps; return the shares of both sides together, and their penalties."""
        for _ in range(self._problem.gradient_steps):
            step = step_both_sides(self.vectors, users, items, self._constant, self._problem)
            self.sizes += step.sizes
            self.vectors = step.vectors
        return Shares(step.observed, step.unobserved, sum(step.penalties.values())), step.penalties
