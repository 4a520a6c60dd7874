"""The state between half-iterations: both sides' vectors and penalties, and the objectives so far."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from recsys_spark.errors import NumericalError
from recsys_spark.rating_blocks import Side
from recsys_spark.train.exchange import Exchange
from recsys_spark.train.model import HalfIteration
from recsys_spark.train.row_errors import with_row
from recsys_spark.train.shares import Shares
from recsys_spark.train.side_blocks import SideBlocks

if TYPE_CHECKING:
    # Workers import this module through its package, and have no pydantic.
    from recsys_spark.config import TrainConfig

# Rows are stored in single precision: a descent of less than this share of the objective is rounding.
_ROUNDING = 1e-6


class LoopState:
    """What one half-iteration leaves for the next.

    Parameters
    ----------
    config : TrainConfig
    exchange : Exchange
        Holds the vectors.

    Attributes
    ----------
    penalties : dict of Side to float
        Regularisation of both sides' vectors.
    history : list of HalfIteration
    """

    def __init__(self, config: TrainConfig, exchange: Exchange) -> None:
        self._config = config
        self.exchange = exchange
        self.penalties: dict[Side, float] = {}
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


def _rounded(value: float) -> float:
    """Round to 12 digits: the sums over blocks agree that far for every number of blocks."""
    return float(f"{value:.12g}")
