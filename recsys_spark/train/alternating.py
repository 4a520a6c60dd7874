"""The alternating loop: users against fixed items, items against fixed users, until the objective rests."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from pyspark.sql import DataFrame, SparkSession

from recsys_spark.errors import NumericalError, RowError, error_from_worker
from recsys_spark.kernels.arrays import Float32Array, Int32Array
from recsys_spark.kernels.initialization import initial_factors
from recsys_spark.kernels.objective import penalty, row_penalties
from recsys_spark.kernels.solve_rows import RowProblem
from recsys_spark.rating_blocks import ITEMS, USERS, Side, choose_n_blocks
from recsys_spark.train.half_iteration import (
    HalfIterationInput,
    HalfIterationResult,
    needs_start,
    prepare_fixed,
    row_problem,
    solve_side,
)
from recsys_spark.train.observations import observations
from recsys_spark.train.side_blocks import SideBlocks

if TYPE_CHECKING:
    # Workers import this module through its package, and have neither pydantic nor rich.
    from recsys_spark.config import TrainConfig
    from recsys_spark.progress import Progress

# Rows are stored in single precision: a descent of less than this share of the objective is rounding.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class HalfIteration:
    """What one half-iteration reached: objective = observed + unobserved + penalty of both sides."""

    iteration: int
    side: str
    objective: float
    observed: float
    unobserved: float
    penalty: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Factorization:
    """A trained model.

    Attributes
    ----------
    user_vectors, item_vectors : float32 arrays of shape (n_users, width), (n_items, width)
        The factors, and with biases one more column, the bias. Rows without ratings are zero.
    user_degrees, item_degrees : int32 arrays
        Ratings each row was solved from.
    mean_rating : float
        Of the ratings it was trained on.
    biases : bool
    global_mean : float
        Part of every score, see ``Observations.constant``.
    loss : str
        What was minimised; scores of the logistic loss are log-odds.
    history : list of HalfIteration
    blocking_seconds : float
        Time until the ratings were blocked on both sides.
    """

    user_vectors: Float32Array
    item_vectors: Float32Array
    user_degrees: Int32Array
    item_degrees: Int32Array
    mean_rating: float
    biases: bool
    global_mean: float
    loss: str = "squared"
    history: list[HalfIteration] = field(default_factory=list)
    blocking_seconds: float = 0.0

    @property
    def rank(self) -> int:
        """Number of factors."""
        return int(self.item_vectors.shape[1]) - self.biases


def fit_factors(
    spark: SparkSession,
    ratings: DataFrame,
    config: TrainConfig,
    *,
    n_users: int,
    n_items: int,
    progress: Progress,
    title: str = "train",
) -> Factorization:
    """Minimise loss + regularisation, with scores s_ui = mu + b_u + c_i + w_u . x_i.

    objective = sum_observed loss(r_ui, s_ui) + a0 sum_all (s_ui - mu)^2 + sum_u Lambda_u |v_u|^2 + sum_i Lambda_i
    |v_i|^2, Lambda = reg_param * degree^reg_exponent (``bias_reg_param`` for the biases); for the losses and the
    weight a0 of all pairs see ``kernels.losses``.

    Parameters
    ----------
    spark : SparkSession
    ratings : DataFrame
        ``user_index int, item_index int, rating float``, optionally ``weight`` and ``timestamp``; each pair
        once, at least one.
    config : TrainConfig
    n_users, n_items : int
        Sizes of the indexes.
    progress : Progress
        Told of every half-iteration.
    title : str
        Names this fit in the progress.

    Returns
    -------
    Factorization
        Equal bit for bit for every number of blocks and partitions.

    Raises
    ------
    NumericalError
        If there is nothing to train on, a row or the objective is not finite, or the objective rises.
    ContractError
        If the logistic loss is given no labels.

    Notes
    -----
    Two shuffles in all, one per side's blocks. Per half-iteration, the fixed side is broadcast and the solved
    side comes to the driver: (n_users + n_items) * width * 4 bytes each way per iteration.
    """
    given = observations(ratings, config)
    n_blocks = config.n_blocks or choose_n_blocks(spark, given.n)
    started = time.monotonic()
    sides: list[SideBlocks] = []
    try:
        for side, n_rows in ((USERS, n_users), (ITEMS, n_items)):
            sides.append(SideBlocks(given.frame, side, n_rows, n_blocks))
        users, items = sides
        blocking_seconds = time.monotonic() - started
        progress.say(f"{title}: {given.n:,} ratings in 2 x {n_blocks} blocks after {blocking_seconds:.1f} s")
        loop = _Loop(config, users, items, given.constant)
        with progress.steps(title, 2 * config.iterations) as steps:
            for iteration in range(1, config.iterations + 1):
                for step in (loop.solve(iteration, users, items), loop.solve(iteration, items, users)):
                    steps.done(
                        f"{step.side}, objective {step.objective:,.6g}",
                        side=step.side,
                        objective=step.objective,
                    )
                if loop.has_converged():
                    break
        return loop.result(given.mean_rating, blocking_seconds)
    finally:
        for blocks in sides:
            blocks.release()


class _Loop:
    """The state between half-iterations: both sides' vectors and penalties, and the objectives so far."""

    def __init__(self, config: TrainConfig, users: SideBlocks, items: SideBlocks, constant: float) -> None:
        self._config = config
        self._constant = constant
        self._problem = row_problem(config)
        self._degrees = {side.side: side.degrees for side in (users, items)}
        width = config.rank + config.uses_biases
        self._vectors = {
            users.side: np.zeros((len(users.degrees), width), np.float32),
            items.side: _initial_vectors(config, items),
        }
        self._penalties = {
            users.side: 0.0,
            items.side: _penalty(self._vectors[items.side], items, users, self._problem),
        }
        self.history: list[HalfIteration] = []

    def solve(self, iteration: int, rows: SideBlocks, fixed: SideBlocks) -> HalfIteration:
        """Solve one side and guard the descent."""
        started = time.monotonic()
        solved = self._solve(iteration, rows, fixed)
        self._vectors[rows.side] = solved.vectors
        self._penalties[rows.side] = solved.penalty
        both = self._penalties[rows.side] + self._penalties[fixed.side]
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
            prepare_fixed(self._vectors[fixed.side], fixed.is_trained, self._constant_of_rows(), self._problem),
            self._vectors[rows.side] if needs_start(self._problem) else None,
            self._problem,
        )
        try:
            return solve_side(rows, given)
        except Exception as error:
            raise _with_row(error, iteration, rows.side) from error

    def _constant_of_rows(self) -> float:
        """Return what scores hold besides vectors: centred ratings have had it taken off already."""
        return self._constant if self._config.loss == "logistic" else 0.0

    def _guard_descent(self, step: HalfIteration) -> None:
        before = self.history[-1].objective if self.history else math.inf
        if step.objective > before * (1 + _ROUNDING):
            raise NumericalError(
                "the objective rose, which exact arithmetic cannot do",
                where=f"iteration {step.iteration}, {step.side}",
                got=f"{step.objective:.9g} after {before:.9g}",
                remedy="ratings of very different sizes lose precision: rescale them, or raise train.reg_param",
            )

    def has_converged(self) -> bool:
        """Return whether the last whole iteration lowered the objective by less than the tolerance."""
        if len(self.history) < 4:
            return False
        before, now = self.history[-3].objective, self.history[-1].objective
        return before - now <= self._config.tolerance * before

    def result(self, mean_rating: float, blocking_seconds: float) -> Factorization:
        """Return the model as it is now."""
        return Factorization(
            self._vectors[USERS],
            self._vectors[ITEMS],
            self._degrees[USERS],
            self._degrees[ITEMS],
            mean_rating,
            self._config.uses_biases,
            self._constant,
            self._config.loss,
            self.history,
            blocking_seconds,
        )


def _initial_vectors(config: TrainConfig, items: SideBlocks) -> Float32Array:
    """Return the items' first vectors: random factors of length about 1, no bias; zero where an item has no rating."""
    index = np.arange(len(items.degrees))
    vectors = np.zeros((len(index), config.rank + config.uses_biases), np.float32)
    vectors[:, : config.rank] = initial_factors(config.seed, items.side.number, index, config.rank)
    vectors[items.degrees == 0] = 0.0
    return np.abs(vectors) if config.nonnegative else vectors


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
