"""The state between half-iterations: both sides' vectors and penalties, and the objectives so far."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from recsys_spark.errors import NumericalError, RowError, error_from_worker
from recsys_spark.kernels.arrays import Float32Array
from recsys_spark.kernels.initialization import initial_factors
from recsys_spark.kernels.objective import penalty, row_penalties
from recsys_spark.kernels.solve_rows import RowProblem
from recsys_spark.rating_blocks import ITEMS, USERS, Side
from recsys_spark.train.half_iteration import (
    HalfIterationInput,
    HalfIterationResult,
    HalfIterationSizes,
    needs_start,
    prepare_fixed,
    row_problem,
    solve_side,
)
from recsys_spark.train.model import HalfIteration
from recsys_spark.train.side_blocks import SideBlocks

if TYPE_CHECKING:
    # Workers import this module through its package, and have no pydantic.
    from recsys_spark.config import TrainConfig

# Rows are stored in single precision: a descent of less than this share of the objective is rounding.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Vectors:
    """Both sides' vectors, float32 (n_users, width) and (n_items, width)."""

    users: Float32Array
    items: Float32Array

    def of(self, side: Side) -> Float32Array:
        """Return one side's."""
        return self.users if side == USERS else self.items

    def with_side(self, side: Side, vectors: Float32Array) -> Vectors:
        """Return both sides, one of them new."""
        return replace(self, users=vectors) if side == USERS else replace(self, items=vectors)


def first_vectors(config: TrainConfig, users: SideBlocks, items: SideBlocks, known: Vectors | None = None) -> Vectors:
    """Return the vectors that training starts from.

    Items begin as random factors of length about 1 without a bias, users as zeros, for the users are solved
    first. Where a model is known already, rows with a vector of it begin there; rows without ratings are zero.
    """
    width = config.rank + config.uses_biases
    n_items = len(items.degrees)
    item_vectors = np.zeros((n_items, width), np.float32)
    item_vectors[:, : config.rank] = initial_factors(config.seed, ITEMS.number, np.arange(n_items), config.rank)
    vectors = Vectors(np.zeros((len(users.degrees), width), np.float32), item_vectors)
    if known is not None:
        for side in (USERS, ITEMS):
            is_known = known.of(side).any(axis=1)
            vectors.of(side)[is_known] = known.of(side)[is_known]
    vectors.users[users.degrees == 0] = 0.0
    vectors.items[items.degrees == 0] = 0.0
    if config.nonnegative:
        np.abs(vectors.items[:, : config.rank], out=vectors.items[:, : config.rank])
    return vectors


class LoopState:
    """What one half-iteration leaves for the next.

    Parameters
    ----------
    config : TrainConfig
    users, items : SideBlocks
    constant : float
        Part of every score.
    vectors : Vectors
        Where training starts from.
    """

    def __init__(
        self, config: TrainConfig, users: SideBlocks, items: SideBlocks, constant: float, vectors: Vectors
    ) -> None:
        self._config = config
        # Centred ratings have had the constant taken off already.
        self._constant_of_rows = constant if config.loss == "logistic" else 0.0
        self._problem = row_problem(config)
        self.vectors = vectors
        self.penalties = {
            USERS: _penalty(vectors.users, users, items, self._problem),
            ITEMS: _penalty(vectors.items, items, users, self._problem),
        }
        self.history: list[HalfIteration] = []
        # Of the half-iterations of this process; a checkpoint has none.
        self.sizes: list[HalfIterationSizes] = []

    @property
    def iteration_seconds(self) -> float:
        """Mean time of an iteration so far."""
        return sum(step.seconds for step in self.history) / max(1, self.iteration)

    @property
    def iteration(self) -> int:
        """The last whole iteration, from 1; 0 before the first."""
        return self.history[-1].iteration if self.history else 0

    def solve(self, iteration: int, rows: SideBlocks, fixed: SideBlocks) -> HalfIteration:
        """Solve one side and guard the descent."""
        started = time.monotonic()
        solved = self._solve(iteration, rows, fixed)
        self.vectors = self.vectors.with_side(rows.side, solved.vectors)
        self.penalties[rows.side] = solved.penalty
        self.sizes.append(solved.sizes)
        both = self.penalties[rows.side] + self.penalties[fixed.side]
        step = HalfIteration(
            iteration,
            rows.side.name,
            _rounded(solved.observed + solved.unobserved + both),
            _rounded(solved.observed),
            _rounded(solved.unobserved),
            _rounded(both),
            round(time.monotonic() - started, 4),
        )
        self._guard_descent(step)
        self.history.append(step)
        return step

    def _solve(self, iteration: int, rows: SideBlocks, fixed: SideBlocks) -> HalfIterationResult:
        given = HalfIterationInput(
            prepare_fixed(self.vectors.of(fixed.side), fixed.is_trained, self._constant_of_rows, self._problem),
            self.vectors.of(rows.side) if needs_start(self._problem) else None,
            self._problem,
        )
        try:
            return solve_side(rows, given)
        except Exception as error:
            raise _with_row(error, iteration, rows.side) from error

    def _guard_descent(self, step: HalfIteration) -> None:
        before = self.history[-1].objective if self.history else math.inf
        if step.objective > before * (1 + _ROUNDING):
            raise NumericalError(
                "the objective rose, which exact arithmetic cannot do",
                where=f"iteration {step.iteration}, {step.side}",
                got=f"{step.objective:.9g} after {before:.9g}",
                remedy="ratings of very different sizes lose precision: rescale them, or raise train.reg_param",
            )

    def note_validation(self, loss: float) -> None:
        """Write the validation loss into the last step's record."""
        self.history[-1] = replace(self.history[-1], validation=loss)

    def has_converged(self) -> bool:
        """Return whether the last whole iteration lowered the objective by less than the tolerance."""
        if len(self.history) < 4:
            return False
        before, now = self.history[-3].objective, self.history[-1].objective
        return before - now <= self._config.tolerance * before


def _penalty(vectors: Float32Array, rows: SideBlocks, fixed: SideBlocks, problem: RowProblem) -> float:
    """Return the regularisation of a side's vectors."""
    unobserved = problem.loss.all_pairs_weight * fixed.is_trained.sum() if problem.loss.counts_unobserved else 0.0
    penalties = row_penalties(rows.degrees, vectors.shape[1], problem.regularization, unobserved)
    return math.fsum(penalty(vectors, penalties))


def _with_row(error: Exception, iteration: int, side: Side) -> Exception:
    """Return the error of a worker as one that says which row of which side it met, or else the error itself."""
    known = error if isinstance(error, NumericalError) else error_from_worker(str(error))
    found = re.search(r"first of them row (\d+)", str(known)) if isinstance(known, NumericalError) else None
    return RowError(f"iteration {iteration}, {side.name}: {known}", side.name, int(found.group(1))) if found else error


def _rounded(value: float) -> float:
    """Round to 12 digits: the sums over blocks agree that far for every number of blocks."""
    return float(f"{value:.12g}")
