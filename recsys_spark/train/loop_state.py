"""The state between half-iterations: both sides' vectors and penalties, and the objectives so far."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from recsys_spark.errors import NumericalError
from recsys_spark.kernels.arrays import Float32Array
from recsys_spark.kernels.initialization import initial_factors
from recsys_spark.kernels.objective import penalty, row_penalties
from recsys_spark.kernels.solve_rows import RowProblem
from recsys_spark.rating_blocks import ITEMS, USERS, Side
from recsys_spark.train.model import HalfIteration, Vectors
from recsys_spark.train.row_errors import with_row
from recsys_spark.train.shares import Shares
from recsys_spark.train.side_blocks import SideBlocks

if TYPE_CHECKING:
    # Workers import this module through its package, and have no pydantic.
    from recsys_spark.config import TrainConfig

# Rows are stored in single precision: a descent of less than this share of the objective is rounding.
_ROUNDING = 1e-6
_ROWS_PER_PART = 1 << 14


class Exchange(Protocol):
    """Where both sides' vectors are, and how the fixed side gets to the tasks that solve the other."""

    def solve(self, rows: SideBlocks, fixed: SideBlocks) -> Shares:
        """Solve every row of a side against the fixed side, and keep the new vectors."""

    def step_both(self, users: SideBlocks, items: SideBlocks) -> tuple[Shares, dict[Side, float]]:
        """Take simultaneous gradient steps, where the exchange can; return both sides' shares and penalties."""


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
    exchange : Exchange
        Holds the vectors.
    penalties : dict of Side to float
        Regularisation of both sides' first vectors.
    """

    def __init__(self, config: TrainConfig, exchange: Exchange, penalties: dict[Side, float]) -> None:
        self._config = config
        self.exchange = exchange
        self.penalties = penalties
        self.history: list[HalfIteration] = []

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
        try:
            shares = self.exchange.solve(rows, fixed)
        except Exception as error:
            raise with_row(error, rows.side, f"iteration {iteration}, {rows.side.name}") from error
        self.penalties[rows.side] = shares.penalty
        return self._note(iteration, rows.side.name, shares, started)

    def step_both(self, iteration: int, users: SideBlocks, items: SideBlocks) -> HalfIteration:
        """Move both sides at once and guard the descent."""
        started = time.monotonic()
        shares, self.penalties = self.exchange.step_both(users, items)
        return self._note(iteration, "both", shares, started)

    def _note(self, iteration: int, name: str, shares: Shares, started: float) -> HalfIteration:
        if not math.isfinite(sum(shares)):
            raise NumericalError("the objective is not finite", got=str(shares))
        both = sum(self.penalties.values())
        step = HalfIteration(
            iteration,
            name,
            _rounded(shares.observed + shares.unobserved + both),
            _rounded(shares.observed),
            _rounded(shares.unobserved),
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

    def note_validation(self, loss: float) -> None:
        """Write the validation loss into the last step's record."""
        self.history[-1] = replace(self.history[-1], validation=loss)

    def has_converged(self) -> bool:
        """Return whether the last whole iteration lowered the objective by less than the tolerance."""
        earlier = [step.objective for step in self.history if step.iteration < self.iteration]
        if not earlier:
            return False
        return earlier[-1] - self.history[-1].objective <= self._config.tolerance * earlier[-1]


def penalty_of(vectors: Float32Array, rows: SideBlocks, fixed: SideBlocks, problem: RowProblem) -> float:
    """Return the regularisation of a side's vectors."""
    unobserved = problem.loss.all_pairs_weight * fixed.is_trained.sum() if problem.loss.counts_unobserved else 0.0
    width, regularization = vectors.shape[1], problem.regularization
    # In parts: in double precision, and beside its penalties, a side is four times its size.
    parts = (slice(first, first + _ROWS_PER_PART) for first in range(0, len(vectors), _ROWS_PER_PART))
    shares = (
        penalty(vectors[part], row_penalties(rows.degrees[part], width, regularization, unobserved)) for part in parts
    )
    return math.fsum(itertools.chain.from_iterable(shares))


def _rounded(value: float) -> float:
    """Round to 12 digits: the sums over blocks agree that far for every number of blocks."""
    return float(f"{value:.12g}")
