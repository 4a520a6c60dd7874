"""The alternating loop: users against fixed items, items against fixed users, until the objective rests."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.errors import NumericalError
from recsys_spark.kernels.arrays import Float32Array
from recsys_spark.kernels.fixed_side import make_fixed_side
from recsys_spark.kernels.initialization import initial_factors
from recsys_spark.kernels.objective import penalty, row_penalties
from recsys_spark.rating_blocks import ITEMS, USERS, choose_n_blocks
from recsys_spark.train.global_mean import exact_mean
from recsys_spark.train.half_iteration import (
    HalfIterationInput,
    SideBlocks,
    SolverSettings,
    solve_side,
    solver_settings,
)

if TYPE_CHECKING:
    # Workers import this module through its package, and have neither pydantic nor rich.
    from recsys_spark.config import TrainConfig
    from recsys_spark.progress import Progress

# Rows are stored in single precision: a descent of less than this share of the objective is rounding.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class HalfIteration:
    """What one half-iteration reached: objective = squared_error + penalty of both sides."""

    iteration: int
    side: str
    objective: float
    squared_error: float
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
    history : list of HalfIteration
    blocking_seconds : float
        Time until the ratings were blocked on both sides.
    """

    user_vectors: Float32Array
    item_vectors: Float32Array
    user_degrees: np.ndarray[tuple[int, ...], np.dtype[np.int32]]
    item_degrees: np.ndarray[tuple[int, ...], np.dtype[np.int32]]
    mean_rating: float
    biases: bool
    history: list[HalfIteration] = field(default_factory=list)
    blocking_seconds: float = 0.0

    @property
    def global_mean(self) -> float:
        """The constant part of every score: the mean rating with biases, 0 without."""
        return self.mean_rating if self.biases else 0.0

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
    """Minimise squared error + regularisation over the observed ratings.

    objective = sum (r_ui - mu - b_u - c_i - w_u . x_i)^2 + sum_u Lambda_u |v_u|^2 + sum_i Lambda_i |v_i|^2,
    Lambda = reg_param * degree^reg_exponent (``bias_reg_param`` for the biases).

    Parameters
    ----------
    spark : SparkSession
    ratings : DataFrame
        ``user_index int, item_index int, rating float``; each pair once, at least one.
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
        If a row or the objective is not finite, or the objective rises.

    Notes
    -----
    Two shuffles in all, one per side's blocks. Per half-iteration, the fixed side is broadcast and the solved
    side comes to the driver: (n_users + n_items) * width * 4 bytes each way per iteration.
    """
    mean, n_ratings = exact_mean(ratings)
    if n_ratings == 0:
        raise NumericalError(
            "there are no ratings to train on", remedy="lower evaluate.holdout_share, or check the input"
        )
    n_blocks = config.n_blocks or choose_n_blocks(spark, n_ratings)
    started = time.monotonic()
    # Taken off in double precision: ratings far from 0 would lose their differences in single precision.
    centred = F.col("rating").cast("double") - F.lit(mean if config.biases else 0.0)
    ratings = ratings.withColumn("rating", centred.cast("float"))
    sides: list[SideBlocks] = []
    try:
        for side, n_rows in ((USERS, n_users), (ITEMS, n_items)):
            sides.append(SideBlocks(ratings, side, n_rows, n_blocks))
        users, items = sides
        blocking_seconds = time.monotonic() - started
        progress.say(f"{title}: {n_ratings:,} ratings in 2 x {n_blocks} blocks after {blocking_seconds:.1f} s")
        loop = _Loop(config, users, items)
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
        return loop.result(mean, blocking_seconds)
    finally:
        for blocks in sides:
            blocks.release()


class _Loop:
    """The state between half-iterations: both sides' vectors and penalties, and the objectives so far."""

    def __init__(self, config: TrainConfig, users: SideBlocks, items: SideBlocks) -> None:
        self._config = config
        self._settings: SolverSettings = solver_settings(config)
        self._degrees = {side.side: side.degrees for side in (users, items)}
        width = config.rank + config.biases
        self._vectors = {
            users.side: np.zeros((len(users.degrees), width), np.float32),
            items.side: _initial_vectors(config, items),
        }
        regularization = self._settings.regularization
        self._penalties = {
            blocks.side: math.fsum(
                penalty(self._vectors[blocks.side], row_penalties(blocks.degrees, width, regularization))
            )
            for blocks in (users, items)
        }
        self.history: list[HalfIteration] = []

    def solve(self, iteration: int, rows: SideBlocks, fixed: SideBlocks) -> HalfIteration:
        """Solve one side and guard the descent."""
        started = time.monotonic()
        given = HalfIterationInput(
            make_fixed_side(self._vectors[fixed.side], 0.0, self._config.biases),
            self._vectors[rows.side],
            self._settings,
        )
        solved = solve_side(rows, given)
        self._vectors[rows.side] = solved.vectors
        self._penalties[rows.side] = solved.penalty
        both = self._penalties[rows.side] + self._penalties[fixed.side]
        step = HalfIteration(
            iteration,
            rows.side.name,
            _rounded(solved.squared_error + both),
            _rounded(solved.squared_error),
            _rounded(both),
            round(time.monotonic() - started, 4),
        )
        self._guard_descent(step)
        self.history.append(step)
        return step

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
            self._config.biases,
            self.history,
            blocking_seconds,
        )


def _initial_vectors(config: TrainConfig, items: SideBlocks) -> Float32Array:
    """Return the items' first vectors: small random factors, no bias; zero where an item has no rating."""
    index = np.arange(len(items.degrees))
    vectors = np.zeros((len(index), config.rank + config.biases), np.float32)
    vectors[:, : config.rank] = initial_factors(config.seed, items.side.number, index, config.rank)
    vectors[items.degrees == 0] = 0.0
    return vectors


def _rounded(value: float) -> float:
    """Round to 12 digits: the sums over blocks agree that far for every number of blocks."""
    return float(f"{value:.12g}")
