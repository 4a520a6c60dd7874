"""The ``replicate`` exchange: both sides' vectors on the driver, the fixed side sent to every task."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from pyspark.sql import DataFrame, SparkSession

from recsys_spark.factor_tables import collect_rows
from recsys_spark.kernels.arrays import Float32Array, Float64Array
from recsys_spark.kernels.pair_scores import pair_scores
from recsys_spark.kernels.side_information import SideInformation
from recsys_spark.rating_blocks import ITEMS, USERS, Side
from recsys_spark.storage import join
from recsys_spark.train.exchange import Known
from recsys_spark.train.first_vectors import first_vectors, make_feasible, penalty_of, side_information
from recsys_spark.train.half_iteration import half_iteration_input, row_problem, solve_side
from recsys_spark.train.held_back import HeldBack
from recsys_spark.train.model import Vectors
from recsys_spark.train.shares import HalfIterationSizes, Shares
from recsys_spark.train.side_blocks import SideBlocks
from recsys_spark.train.simultaneous import take_steps
from recsys_spark.train.standing_tasks import StandingTasks, can_stand
from recsys_spark.train.vector_blocks import collect_vectors, read_vector_blocks, vector_chunks

if TYPE_CHECKING:
    # Workers import this package, and have no pydantic.
    from recsys_spark.config import TrainConfig
    from recsys_spark.features import ItemFeatures


class ReplicateExchange:
    """Both sides' vectors on the driver; see ``Exchange``.

    Parameters
    ----------
    spark : SparkSession
    config : TrainConfig
    constant : float
        Part of every score that the observations still hold.
    features : ItemFeatures, optional
        Side information: items are drawn towards what their features say of them, see ``kernels.side_information``.
    """

    vectors: Vectors

    def __init__(
        self, spark: SparkSession, config: TrainConfig, constant: float, features: ItemFeatures | None = None
    ) -> None:
        self._spark, self._config, self._constant = spark, config, constant
        self._problem = row_problem(config)
        self._features = features
        self._told: SideInformation | None = None
        self._tasks = StandingTasks(spark) if config.standing_tasks and can_stand(spark) else None
        self.sizes: list[HalfIterationSizes] = []

    def begin(self, users: SideBlocks, items: SideBlocks, known: Known | None) -> dict[Side, float]:
        """Make both sides' first vectors; those that are known come to the driver."""
        self._take(users, items)
        self.vectors = first_vectors(self._config, self._problem, users, items)
        for blocks in (users, items):
            if known is not None:
                self._overlay(blocks, known[blocks.side])
        return {
            USERS: penalty_of(self.vectors.users, users, items, self._problem),
            ITEMS: penalty_of(self.vectors.items, items, users, self._problem)
            if self._told is None
            else self._told.penalty(self.vectors.items),
        }

    def solve(self, rows: SideBlocks, fixed: SideBlocks) -> Shares:
        """Solve every row of a side against the fixed side; for shuffles see ``solve_side``."""
        told = self._told if rows.side == ITEMS else None
        expected = None if told is None else told.expected(self.vectors.of(rows.side))
        given = half_iteration_input(self.vectors, rows, fixed, self._constant, self._problem, expected=expected)
        solved, shares, sizes = solve_side(rows, given, self._tasks)
        if told is not None:
            shares = shares._replace(penalty=told.penalty(solved))
        self.sizes.append(sizes)
        self.vectors = self.vectors.with_side(rows.side, solved)
        return shares

    def step_both(self, users: SideBlocks, items: SideBlocks) -> tuple[Shares, dict[Side, float]]:
        """Take simultaneous gradient steps; return the shares of both sides together, and their penalties."""
        step = take_steps(self.vectors, users, items, self._constant, self._problem)
        self.sizes += step.sizes
        self.vectors = step.vectors
        return Shares(step.observed, step.unobserved, sum(step.penalties.values())), step.penalties

    def pair_scores(self, pairs: HeldBack) -> tuple[Float32Array, Float64Array]:
        """Score pairs on the driver, without a job after the first time."""
        if not pairs.is_collected:
            self.release()
        users, items, values = pairs.arrays
        vectors = self.vectors
        return values, pair_scores(vectors.users[users], vectors.items[items], pairs.constant, self._config.uses_biases)

    def save(self, vectors: Vectors, place: str) -> dict[str, Any]:
        """Write both sides, through the driver."""
        self.release()
        saved = {}
        for side, degrees in self._degrees.items():
            saved[side.name] = join(place, side.name)
            chunks = self._spark.createDataFrame(vector_chunks(vectors.of(side), degrees))
            chunks.write.mode("error").parquet(saved[side.name])
        return saved

    def restore(self, saved: Mapping[str, Any], users: SideBlocks, items: SideBlocks) -> Vectors:
        """Collect both sides."""
        self._take(users, items)
        width = self._config.rank + self._config.uses_biases
        found = {
            side: collect_vectors(read_vector_blocks(self._spark, saved[side.name]), len(degrees), width)
            for side, degrees in self._degrees.items()
        }
        return Vectors(found[USERS], found[ITEMS])

    def keep_only(self, kept: Collection[Vectors], saved: Callable[[], Collection[str]]) -> None:
        """Do nothing: arrays go when nobody holds them."""

    def trained(self, vectors: Vectors) -> Vectors:
        """Return the arrays themselves."""
        return vectors

    def release(self) -> None:
        """Let tasks end that wait for the next half-iteration."""
        if self._tasks is not None:
            self._tasks.release()

    def _take(self, users: SideBlocks, items: SideBlocks) -> None:
        self._degrees = {USERS: users.degrees, ITEMS: items.degrees}
        self._told = side_information(self._config, self._features, users, items, self._problem)

    def _overlay(self, blocks: SideBlocks, known: DataFrame) -> None:
        """Let trained rows that are known begin there."""
        biases = self._config.uses_biases
        rows, found = collect_rows(known, blocks.side, biases=biases)
        if not len(rows):
            return
        trained = blocks.degrees[rows] > 0
        make_feasible(found, self._problem)
        self.vectors.of(blocks.side)[rows[trained]] = found[trained]
