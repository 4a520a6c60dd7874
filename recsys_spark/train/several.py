"""Several settings fitted to the same ratings: blocked once, one job per half-iteration for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.errors import ConfigError
from recsys_spark.rating_blocks import USERS, blocks_from_arrow
from recsys_spark.shared_value import SharedValue, shared
from recsys_spark.train.half_iteration import (
    SOLVED_SCHEMA,
    HalfIterationInput,
    collect_solved,
    missing_block,
    needs_start,
    prepare_fixed,
    row_problem,
    solve_block,
)
from recsys_spark.train.local_copies import open_copy, save_copy
from recsys_spark.train.loop_state import LoopState
from recsys_spark.train.model import Factorization
from recsys_spark.train.observations import constant_of_rows, observations
from recsys_spark.train.replicate import ReplicateExchange
from recsys_spark.train.shares import Shares
from recsys_spark.train.side_blocks import SideBlocks, block_ratings

if TYPE_CHECKING:
    # Workers import this package, and have no pydantic.
    from recsys_spark.config import TrainConfig

_SCHEMA = f"setting int, {SOLVED_SCHEMA}"


def observation_key(config: TrainConfig) -> tuple[Any, ...]:
    """Return what settings must have in common to be fitted to the same blocks of observations."""
    is_centred = config.uses_biases and config.unobserved_weight == 0
    return config.loss, is_centred, config.half_life_days, config.positive_threshold


class SeveralFits:
    """Fits of several settings, side by side, to ratings that are blocked once.

    Parameters
    ----------
    spark : SparkSession
    ratings : DataFrame
        As for `fit_factors`.
    config : TrainConfig
        Of any of the settings: all have its `observation_key`.
    n_users, n_items, n_blocks : int

    Notes
    -----
    The vectors of all settings are on the driver, and those of one call of `advance` go to every task together, as in
    the ``replicate`` exchange. The bits are those of `fit_factors`, except that hot rows are solved whole.
    """

    def __init__(
        self,
        spark: SparkSession,
        ratings: DataFrame,
        config: TrainConfig,
        *,
        n_users: int,
        n_items: int,
        n_blocks: int,
    ) -> None:
        self._spark, self._key = spark, observation_key(config)
        self._given = observations(ratings, config)
        self._constant = constant_of_rows(config, self._given.constant)
        self._configs: dict[int, TrainConfig] = {}
        self._states: dict[int, LoopState] = {}
        self._sides = block_ratings(self._given.frame, n_users, n_items, n_blocks, splits_hot=False)

    @property
    def numbers(self) -> list[int]:
        """The settings that have begun and were not dropped."""
        return list(self._states)

    def begin(self, number: int, config: TrainConfig) -> None:
        """Put the first vectors of a setting in place; nothing where it has begun.

        Iterations are not the setting's but asked for; nothing is kept back and nothing checkpointed.

        Raises
        ------
        ConfigError
            If it cannot be fitted beside the others. Ranks, penalties, weights and solvers may differ.
        """
        if number in self._states:
            return
        if config.model != "factors" or config.updates != "alternating" or observation_key(config) != self._key:
            raise ConfigError(
                "a setting cannot be fitted beside the others",
                allowed="model: factors, updates: alternating, and one loss, half_life_days and positive_threshold",
            )
        exchange = _Told(self._spark, config, self._constant)
        self._configs[number], self._states[number] = config, LoopState(config, exchange)
        self._states[number].penalties = exchange.begin(*self._sides, None)

    def advance(self, numbers: list[int], iterations: int) -> None:
        """Go on with some settings until each has so many iterations, or has met its tolerance.

        Raises
        ------
        NumericalError
            As `fit_factors`; the error does not know which setting it is of.
        """
        users, items = self._sides
        while True:
            states = {number: self._states[number] for number in numbers}
            running = [n for n, state in states.items() if state.iteration < iterations and not state.has_converged()]
            if not running:
                return
            for rows, fixed in ((users, items), (items, users)):
                self._solve(running, rows, fixed)

    def model(self, number: int) -> Factorization:
        """Return the model of a setting as it is now."""
        state, config = self._states[number], self._configs[number]
        users, items = self._sides
        return Factorization(
            state.exchange.vectors.users,
            state.exchange.vectors.items,
            users.degrees,
            items.degrees,
            self._given.mean_rating,
            config.uses_biases,
            self._given.constant,
            config.loss,
            list(state.history),
        )

    def drop(self, number: int) -> None:
        """Let go of a setting; it may begin again."""
        self._states.pop(number, None)

    def release(self) -> None:
        """Drop the blocks."""
        for blocks in self._sides:
            blocks.release()

    def _solve(self, numbers: list[int], rows: SideBlocks, fixed: SideBlocks) -> None:
        given = [self._input(number, rows, fixed) for number in numbers]
        solved = solve_side_of_several(rows, given)
        for place, number in enumerate(numbers):
            state = self._states[number]
            assert isinstance(state.exchange, _Told)
            mine = solved.filter(pc.equal(solved["setting"], place))
            state.exchange.solved = collect_solved(mine, None, len(rows.degrees), given[place], 0)
            # Users are solved first: with them an iteration begins.
            state.solve(state.iteration + (rows.side == USERS), rows, fixed)

    def _input(self, number: int, rows: SideBlocks, fixed: SideBlocks) -> HalfIterationInput:
        problem, vectors = row_problem(self._configs[number]), self._states[number].exchange.vectors
        side = prepare_fixed(vectors.of(fixed.side), fixed.is_trained, self._constant, problem)
        return HalfIterationInput(side, vectors.of(rows.side) if needs_start(problem) else None, problem)


def solve_side_of_several(blocks: SideBlocks, given: list[HalfIterationInput]) -> pa.Table:
    """Solve every row of a side for several settings, each against its own fixed side.

    Parameters
    ----------
    blocks : SideBlocks
    given : list of HalfIterationInput
        All go to every task.

    Returns
    -------
    Arrow table
        ``setting`` (the place in ``given``) and ``SOLVED_SCHEMA``, one row per block and setting. No shuffle; blocks
        whose machine has no copy are sent in full by a second job.
    """
    with shared(blocks.frame.sparkSession, given) as everywhere:
        by_copy = partial(solve_several_from_copies, given=everywhere, copies=blocks.copies)
        solved = blocks.numbers.mapInArrow(by_copy, _SCHEMA).toArrow()
        is_missing = pc.is_null(solved["row_index"])
        missing = solved.filter(is_missing)["block"].to_pylist()
        if missing:
            in_full = partial(solve_several_from_batches, given=everywhere, copies=blocks.copies)
            rest = blocks.frame.where(F.col("block").isin(missing)).mapInArrow(in_full, _SCHEMA).toArrow()
            solved = pa.concat_tables([solved.filter(pc.invert(is_missing)), rest])
    return solved


def solve_several_from_copies(
    batches: Iterator[pa.RecordBatch], given: SharedValue[list[HalfIterationInput]], copies: str
) -> Iterator[pa.RecordBatch]:
    """Worker: block numbers -> solved rows of every setting, or a null where this machine has no copy of the block."""
    for batch in batches:
        for number in batch["block"].to_pylist():
            block = open_copy(copies, number)
            if block is None:
                yield _of_setting(-1, missing_block(number))
            else:
                for setting, one in enumerate(given.value):
                    yield _of_setting(setting, solve_block(number, block, one, ""))


def solve_several_from_batches(
    batches: Iterator[pa.RecordBatch], given: SharedValue[list[HalfIterationInput]], copies: str
) -> Iterator[pa.RecordBatch]:
    """Worker: blocks -> solved rows of every setting, leaving a copy of each block for the next half-iteration."""
    for number, block in blocks_from_arrow(batches):
        save_copy(copies, number, block)
        for setting, one in enumerate(given.value):
            yield _of_setting(setting, solve_block(number, block, one, ""))


def _of_setting(setting: int, solved: pa.RecordBatch) -> pa.RecordBatch:
    columns = [pa.array([setting], pa.int32()), *solved.columns]
    return pa.RecordBatch.from_arrays(columns, names=["setting", *solved.schema.names])


class _Told(ReplicateExchange):
    """An exchange that is told what a job for all settings has solved."""

    solved: Any = None

    def solve(self, rows: SideBlocks, fixed: SideBlocks) -> Shares:
        """Put the new vectors in place."""
        vectors, shares, sizes = self.solved
        self.sizes.append(sizes)
        self.vectors = self.vectors.with_side(rows.side, vectors)
        self.solved = None
        return Shares(*shares)
