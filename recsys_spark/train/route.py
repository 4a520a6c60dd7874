"""The ``route`` exchange: each block is sent just the factor rows that it needs, once per half-iteration.

Vectors live in blocks on the run's storage, never whole in one task or on the driver. In a half-iteration every
block of the fixed side sends each block of the rows one message: the vectors of the columns that occur there.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.errors import RecsysError
from recsys_spark.kernels.arrays import Float32Array, Float64Array, Int32Array
from recsys_spark.kernels.fixed_side import AllPairs, all_pairs
from recsys_spark.kernels.gramian import ExactSum, gramian_of
from recsys_spark.kernels.hot_solutions import halvings, longest_safe, solve_hot_rows
from recsys_spark.kernels.hot_sums import Bounds, HotTask, hot_task
from recsys_spark.kernels.solve_rows import RowSolution
from recsys_spark.rating_blocks import ITEMS, USERS, Side, placements
from recsys_spark.shared_value import SharedValue, pickled_bytes, shared
from recsys_spark.storage import Storage, join, literal_path
from recsys_spark.train.exchange import Known
from recsys_spark.train.first_vectors import unobserved_degree
from recsys_spark.train.half_iteration import needs_start, row_problem
from recsys_spark.train.held_back import HeldBack
from recsys_spark.train.route_blocks import (
    FACTOR_BLOCK_SCHEMA,
    GRAMIAN_SCHEMA,
    LOSSES_SCHEMA,
    SIZES,
    FirstRows,
    RouteSettings,
    begin_routed,
    block_gramians,
    evaluate_routed,
    solve_routed,
)
from recsys_spark.train.route_hot_rows import append_rows, collect_rows_of, sum_of, total_of_sums
from recsys_spark.train.route_messages import (
    MESSAGE_SCHEMA,
    NOT_SENT,
    PIECES,
    RATINGS,
    BlockCopies,
    Copies,
    find_links,
    send_ratings,
    send_rows,
    split_known,
)
from recsys_spark.train.scored_pairs import with_scores
from recsys_spark.train.shares import HalfIterationSizes, Shares
from recsys_spark.train.side_blocks import SideBlocks
from recsys_spark.train.vector_blocks import read_vector_blocks, vector_rows

if TYPE_CHECKING:
    # Workers import this module, and have no pydantic.
    from recsys_spark.config import TrainConfig

Work = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
RoutedVectors = dict[Side, str]
"""The folder of each side's blocks."""


class RouteExchange:
    """Both sides' vectors in blocks on storage, and the links between the blocks; see ``Exchange``.

    Parameters
    ----------
    spark : SparkSession
    config : TrainConfig
    constant : float
        Part of every score that the observations still hold.
    n_blocks : int
    storage : Storage
        Of the folder.
    folder : str
        Where the vectors lie.
    """

    def __init__(
        self, spark: SparkSession, config: TrainConfig, constant: float, n_blocks: int, storage: Storage, folder: str
    ) -> None:
        self._spark, self._config, self._n_blocks = spark, config, n_blocks
        self._storage, self._folder = storage, folder
        self._settings = RouteSettings(row_problem(config), constant)
        self._links: dict[tuple[Side, int], DataFrame] = {}
        self.vectors: RoutedVectors = {}
        self.sizes: list[HalfIterationSizes] = []

    def begin(self, users: SideBlocks, items: SideBlocks, known: Known | None) -> dict[Side, float]:
        """Make both sides' first vectors, block by block.

        Notes
        -----
        Per side one shuffle, of what is known.
        """
        penalties = {}
        for rows, fixed in ((users, items), (items, users)):
            path, summary = self._first(rows, fixed, None if known is None else known[rows.side])
            self.vectors = {**self.vectors, rows.side: path}
            penalties[rows.side] = _shares(summary).penalty
        return penalties

    def solve(self, rows: SideBlocks, fixed: SideBlocks) -> Shares:
        """Solve every row of a side against the fixed side.

        Notes
        -----
        Two shuffles: the fixed side's blocks to where their links are, and the messages to the blocks that are
        solved. The driver receives a few numbers per block. Blocks that were not on the machine where they were solved
        are sent there in a second job, and stay as copies.

        Of hot rows, each block sums its pieces; the sums of all blocks are added up by tasks, and the driver solves
        the rows from them, 255 at most. The logistic loss takes one more job, with the same two shuffles of the
        columns of the pieces, to evaluate the halvings of Newton steps.
        """
        settings = replace(self._settings, all_pairs=self._all_pairs(fixed))
        if rows.hot is not None:
            settings = replace(settings, hot=self._hot_task(rows, fixed, settings))
        copies = self._copies(rows)
        with shared(self._spark, settings) as everywhere:
            work = partial(solve_routed, settings=everywhere, copies=copies)
            path, summary = self._write(rows, self._messages(rows, fixed), work)
            shares, sizes = _shares(summary), self._measure(summary, fixed, pickled_bytes(settings))
            if settings.hot is not None:
                hot, sizes = self._solve_hot(path, rows, fixed, settings, everywhere, sizes)
                shares = _shares(summary, hot)
        self.sizes.append(sizes)
        self.vectors = {**self.vectors, rows.side: path}
        return shares

    def _hot_task(self, rows: SideBlocks, fixed: SideBlocks, settings: RouteSettings) -> HotTask:
        assert rows.hot is not None
        hot, problem = rows.hot.rows, settings.problem
        bounds = Bounds(rows.hot.value, rows.hot.weight, self._exponents(fixed))
        start = np.zeros((len(hot.rows), len(bounds.exponents) - 1), np.float32)
        if needs_start(problem):
            start = collect_rows_of(self._blocks(self.vectors[rows.side]), hot, start.shape[1])
        return hot_task(hot, bounds, problem, settings.all_pairs, start)

    def _solve_hot(
        self,
        path: str,
        rows: SideBlocks,
        fixed: SideBlocks,
        settings: RouteSettings,
        everywhere: SharedValue[RouteSettings],
        sizes: HalfIterationSizes,
    ) -> tuple[RowSolution, HalfIterationSizes]:
        """Solve the hot rows and write them beside the others; return what the half-iteration took in all, too."""
        task, problem = settings.hot, settings.problem
        assert task is not None
        total, n_bytes = total_of_sums(self._spark.read.schema(FACTOR_BLOCK_SCHEMA).parquet(literal_path(path)))
        solution = solve_hot_rows(total.reshape(len(task.hot.rows), -1), task, problem, settings.all_pairs)
        sizes = replace(sizes, returned_bytes=sizes.returned_bytes + n_bytes)
        if not problem.loss.is_quadratic:
            tried = halvings(solution, task)
            work = partial(evaluate_routed, settings=everywhere, copies=self._copies(rows), tried=tried)
            evaluated = self._evaluate(rows, fixed, work)
            total = sum_of(evaluated["losses"])
            solution = longest_safe(total.reshape(len(task.hot.rows), -1), tried, problem)
            received, links = (sum(evaluated[name].to_pylist()) for name in ("received_bytes", "link_bytes"))
            shuffled = sizes.shuffled_bytes + self._stored_bytes(fixed) + links + received
            sizes = replace(sizes, shuffled_bytes=shuffled, returned_bytes=sizes.returned_bytes + evaluated.nbytes)
        append_rows(self._spark, path, solution, task.hot, self._n_blocks, settings)
        return solution, sizes

    def _evaluate(self, rows: SideBlocks, fixed: SideBlocks, work: Work) -> pa.Table:
        """Do something to the pieces of every block, beside the fixed rows that they need."""
        assert rows.hot is not None
        messages = self._sent(fixed, self._links_to(rows, PIECES))

        def done(sent: DataFrame) -> pa.Table:
            return sent.repartition(self._n_blocks, "placement").mapInArrow(work, LOSSES_SCHEMA).toArrow()

        found = done(messages)
        is_found = pc.is_valid(found["losses"])
        absent = found.filter(pc.invert(is_found))["block"].to_pylist()
        if not absent:
            return found
        pieces = self._ratings(rows.hot.frame, rows, absent, PIECES)
        rest = done(messages.where(F.col("target").isin(absent)).unionByName(pieces))
        return pa.concat_tables([found.filter(is_found), rest])

    def step_both(self, users: SideBlocks, items: SideBlocks) -> tuple[Shares, dict[Side, float]]:
        """Simultaneous steps need both sides' vectors on the driver; the configuration refuses them here."""
        raise RecsysError("simultaneous updates cannot be routed", remedy="set train.exchange: replicate")

    def pair_scores(self, pairs: HeldBack) -> tuple[Float32Array, Float64Array]:
        """Score pairs by two joins; the driver receives value and score of each."""
        biases, rank = self._config.uses_biases, self._config.rank
        rows = self.trained(self.vectors)
        scored = with_scores(pairs.frame, rows, "score", rank=rank, biases=biases, constant=pairs.constant)
        values, scores = (column.to_numpy() for column in scored.select("rating", "score").toArrow().itercolumns())
        return values, scores

    def save(self, vectors: RoutedVectors, place: str) -> dict[str, Any]:
        """Name the folders: what lies on storage is saved already."""
        return {**{side.name: folder for side, folder in vectors.items()}, "n_blocks": self._n_blocks}

    def restore(self, saved: Mapping[str, Any], users: SideBlocks, items: SideBlocks) -> RoutedVectors:
        """Return the folders; cut anew what was in other blocks."""
        if saved.get("n_blocks") == self._n_blocks:
            return {side: saved[side.name] for side in (USERS, ITEMS)}
        found = {}
        for rows, fixed in ((users, items), (items, users)):
            blocks = read_vector_blocks(self._spark, saved[rows.side.name])
            known = vector_rows(blocks, rows.side, biases=self._config.uses_biases)
            found[rows.side], _ = self._first(rows, fixed, known)
        return found

    def keep_only(self, kept: Collection[RoutedVectors], saved: Callable[[], Collection[str]]) -> None:
        """Remove all folders of vectors but those that are needed."""
        needed = {*saved(), *(folder for vectors in (self.vectors, *kept) for folder in vectors.values())}
        names = {folder.rpartition("/")[2] for folder in needed}
        for name in self._storage.list_names(self._folder):
            if name not in names:
                self._storage.remove(join(self._folder, name))

    def trained(self, vectors: RoutedVectors) -> dict[Side, DataFrame]:
        """Return vectors as rows; nothing reaches the driver."""
        biases = self._config.uses_biases
        return {side: vector_rows(self._blocks(folder), side, biases=biases) for side, folder in vectors.items()}

    def release(self) -> None:
        """Drop the links."""
        for links in self._links.values():
            links.unpersist()

    def _blocks(self, path: str) -> DataFrame:
        blocks = self._spark.read.schema(FACTOR_BLOCK_SCHEMA).parquet(literal_path(path))
        return blocks.where(F.col("row_index").isNotNull())

    def _places(self) -> tuple[int, ...]:
        return placements(self._spark, self._n_blocks)

    def _copies(self, rows: SideBlocks) -> Copies:
        """Return where tasks find the blocks of a side, and those of its pieces."""
        ratings = BlockCopies(rows.copies, frozenset(rows.occupied))
        if rows.hot is None:
            return Copies(ratings)
        return Copies(ratings, BlockCopies(rows.hot.copies, frozenset(rows.hot.numbers)))

    def _write(self, rows: SideBlocks, messages: DataFrame, worker: Work) -> tuple[str, pa.Table]:
        """Write new blocks of a side: lineage ends here, in files. Return their folder, and what tasks measured."""
        path = join(self._folder, f"{rows.side.name}-{secrets.token_hex(8)}")

        def write(sent: DataFrame, mode: str) -> pa.Table:
            solved = sent.repartition(self._n_blocks, "placement").mapInArrow(worker, FACTOR_BLOCK_SCHEMA)
            # Numbers like these hardly shrink.
            solved.write.mode(mode).option("compression", "none").parquet(path)
            return self._summary(path)

        summary = write(messages, "error")
        absent = summary.filter(summary["is_absent"])["block"].to_pylist()
        if absent:
            ratings = self._ratings(rows.frame, rows, absent, RATINGS)
            again = messages.where(F.col("target").isin(absent)).unionByName(ratings)
            if rows.hot is not None:
                again = again.unionByName(self._ratings(rows.hot.frame, rows, absent, PIECES))
            summary = write(again, "append")
        return path, summary.filter(pc.invert(summary["is_absent"]))

    def _summary(self, path: str) -> pa.Table:
        """Return all but the vectors of a folder's blocks."""
        blocks = self._spark.read.schema(FACTOR_BLOCK_SCHEMA).parquet(literal_path(path))
        is_absent = F.col("row_index").isNull().alias("is_absent")
        return blocks.select("block", is_absent, "seconds", *Shares._fields, *SIZES).toArrow()

    def _ratings(self, frame: DataFrame, rows: SideBlocks, numbers: list[int], kind: int) -> DataFrame:
        """Return messages that hold some blocks of ratings, or of pieces."""
        send = partial(send_ratings, places=self._places(), side=rows.side, kind=kind)
        return frame.where(F.col("block").isin(numbers)).mapInArrow(send, MESSAGE_SCHEMA)

    def _first(self, rows: SideBlocks, fixed: SideBlocks, known: DataFrame | None) -> tuple[str, pa.Table]:
        """Write a side's first vectors."""
        side = rows.side
        place = self._place_of_block()
        nothing = F.lit(b"")
        messages = rows.frame.select(
            place.alias("placement"),
            F.col("block").alias("target"),
            F.lit(NOT_SENT).alias("source"),
            nothing.alias("columns"),
            nothing.alias("vectors"),
        )
        if known is not None:
            split = partial(split_known, places=self._places(), biases=self._config.uses_biases)
            sent = known.select(side.rows, "factors", "bias").mapInArrow(split, MESSAGE_SCHEMA)
            messages = messages.unionByName(sent)
        degree = unobserved_degree(fixed, self._settings.problem)
        first = FirstRows(side, self._config.seed, self._config.rank, degree)
        with shared(self._spark, self._settings) as everywhere:
            copies = Copies(self._copies(rows).ratings)
            return self._write(rows, messages, partial(begin_routed, settings=everywhere, copies=copies, first=first))

    def _measure(self, summary: pa.Table, fixed: SideBlocks, broadcast_bytes: int) -> HalfIterationSizes:
        """Return what a half-iteration took, from what its tasks wrote down."""
        most = {name: max(summary[name].to_pylist()) for name in ("block_bytes", "worker_bytes")}
        received, links = (sum(summary[name].to_pylist()) for name in ("received_bytes", "link_bytes"))
        shuffled = self._stored_bytes(fixed) + links + received
        seconds = summary["seconds"].to_pylist()
        return HalfIterationSizes(
            broadcast_bytes, summary.nbytes, **most, task_seconds=seconds, shuffled_bytes=shuffled
        )

    def _stored_bytes(self, side: SideBlocks) -> int:
        return int(sum(self._summary(self.vectors[side.side])["stored_bytes"].to_pylist()))

    def _all_pairs(self, fixed: SideBlocks) -> AllPairs | None:
        """Sum the fixed side's Gramian over its blocks: exact, so that it does not depend on them."""
        problem = self._settings.problem
        if problem.loss.all_pairs_weight == 0:
            return None
        blocks, exponents = self._blocks(self.vectors[fixed.side]), self._exponents(fixed)
        add_up = partial(block_gramians, settings=self._settings, exponents=exponents)
        total: ExactSum | None = None
        for row in blocks.select("vectors").mapInArrow(add_up, GRAMIAN_SCHEMA).collect():
            high, low = (np.frombuffer(row[name], np.int64).reshape(len(exponents), -1) for name in ("high", "low"))
            part = ExactSum(high, low)
            total = part if total is None else total + part
        assert total is not None
        return all_pairs(
            gramian_of(total, exponents),
            int(fixed.is_trained.sum()),
            problem.loss.all_pairs_weight,
            problem.regularization,
            counts_unobserved=problem.loss.counts_unobserved,
            rotated=not problem.nonnegative,
        )

    def _exponents(self, fixed: SideBlocks) -> Int32Array:
        """Return the powers of two above the columns of the fixed side's design and offsets."""
        blocks = self._blocks(self.vectors[fixed.side]).select("exponents").collect()
        exponents: Int32Array = np.maximum.reduce([np.frombuffer(row["exponents"], np.int32) for row in blocks])
        return exponents

    def _messages(self, rows: SideBlocks, fixed: SideBlocks) -> DataFrame:
        """Return one row per pair of blocks that share a rating, for the block that needs it."""
        links = self._links_to(rows, RATINGS)
        if rows.hot is not None:
            links = links.unionByName(self._links_to(rows, PIECES))
        messages = self._sent(fixed, links)
        if needs_start(self._settings.problem):
            messages = messages.unionByName(self._vectors_of(rows, target=F.col("block"), source=F.lit(NOT_SENT)))
        return messages

    def _sent(self, fixed: SideBlocks, links: DataFrame) -> DataFrame:
        """Return the fixed rows that links ask for, as messages."""
        senders = self._vectors_of(fixed, target=F.lit(NOT_SENT), source=F.col("block"))
        send = partial(send_rows, places=self._places())
        by_sender = senders.unionByName(links).repartition(self._n_blocks, "placement")
        return by_sender.mapInArrow(send, MESSAGE_SCHEMA)

    def _vectors_of(self, side: SideBlocks, *, target: Column, source: Column) -> DataFrame:
        """Return a side's blocks of vectors as messages to where these blocks are."""
        return self._blocks(self.vectors[side.side]).select(
            self._place_of_block().alias("placement"),
            target.alias("target"),
            source.alias("source"),
            F.col("row_index").alias("columns"),
            "vectors",
        )

    def _place_of_block(self) -> Column:
        return F.element_at(F.array(*map(F.lit, self._places())), F.col("block") + 1)

    def _links_to(self, rows: SideBlocks, kind: int) -> DataFrame:
        """Return which columns each block of the rows, or of their pieces, needs of each fixed block; made once."""
        if (rows.side, kind) not in self._links:
            frame, hot = rows.frame, None
            if rows.hot is not None:
                frame, hot = (rows.hot.frame, None) if kind == PIECES else (rows.frame, rows.hot.rows)
            find = partial(find_links, places=self._places(), hot=hot)
            found = frame.mapInArrow(find, MESSAGE_SCHEMA).persist(StorageLevel.MEMORY_AND_DISK)
            self._links[rows.side, kind] = found
        return self._links[rows.side, kind]


def _shares(summary: pa.Table, hot: RowSolution | None = None) -> Shares:
    parts = {name: summary[name].to_pylist() for name in Shares._fields}
    if hot is not None:
        parts = {name: [*values, *getattr(hot, name)] for name, values in parts.items()}
    return Shares(**{name: math.fsum(values) for name, values in parts.items()})
