"""The ``route`` exchange: each block is sent just the factor rows that it needs, once per half-iteration.

Vectors live in blocks on the run's storage, never whole in one task or on the driver. In a half-iteration every
block of the fixed side sends each block of the rows one message: the vectors of the columns that occur there.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.errors import RecsysError
from recsys_spark.kernels.arrays import Float32Array, Int32Array
from recsys_spark.kernels.fixed_side import AllPairs, all_pairs
from recsys_spark.kernels.gramian import ExactSum, gramian_of
from recsys_spark.kernels.hot_sums import Bounds
from recsys_spark.rating_blocks import Side, placements
from recsys_spark.shared_value import shared
from recsys_spark.storage import Storage, join, literal_path
from recsys_spark.train.half_iteration import needs_start
from recsys_spark.train.route_blocks import (
    FACTOR_BLOCK_SCHEMA,
    GRAMIAN_SCHEMA,
    MESSAGE_SCHEMA,
    NOT_SENT,
    RouteSettings,
    block_gramians,
    find_links,
    first_factor_blocks,
    matrix_of,
    restore_copies,
    send_rows,
    solve_routed,
    unpack_factor_blocks,
)
from recsys_spark.train.shares import Shares
from recsys_spark.train.side_blocks import SideBlocks

_MOST_ATTEMPTS = 3


class RouteExchange:
    """Both sides' vectors in blocks on storage, and the links between the blocks.

    Parameters
    ----------
    spark : SparkSession
    storage : Storage
        Of the folder.
    folder : str
        Where the vectors lie; emptied first.
    settings : RouteSettings
    n_blocks : int
    """

    def __init__(
        self, spark: SparkSession, storage: Storage, folder: str, settings: RouteSettings, n_blocks: int
    ) -> None:
        self._spark, self._storage, self._folder = spark, storage, folder
        self._settings, self._n_blocks = settings, n_blocks
        self._paths: dict[Side, str] = {}
        self._links: dict[Side, DataFrame] = {}
        self._n_written = 0
        storage.remove(folder)

    def begin(self, rows: SideBlocks, fixed: SideBlocks, seed: int, rank: int) -> float:
        """Give a side its first vectors, block by block; return their penalty.

        Notes
        -----
        One job, no shuffle.
        """
        loss = self._settings.problem.loss
        unobserved = loss.all_pairs_weight * fixed.is_trained.sum() if loss.counts_unobserved else 0.0
        make = partial(
            first_factor_blocks, settings=self._settings, seed=seed, side=rows.side.number, rank=rank,
            unobserved_degree=float(unobserved),
        )  # fmt: skip
        self._write(rows.side, rows.frame.mapInArrow(make, FACTOR_BLOCK_SCHEMA))
        shares = self._shares(rows.side)
        assert shares is not None
        return shares.penalty

    def solve(self, rows: SideBlocks, fixed: SideBlocks) -> Shares:
        """Solve every row of a side against the fixed side.

        Notes
        -----
        Two shuffles: the fixed side's blocks to where their links are, and the messages to the blocks that are
        solved. The driver receives a few numbers per block. A hot row is solved whole, by the task of its block.
        Where a machine has lost its copy of a block, copies are made again and the side is solved again.
        """
        before = self._paths.get(rows.side)
        settings = replace(self._settings, all_pairs=self._all_pairs(fixed))
        if rows.hot is not None:
            bounds = Bounds(rows.hot.value, rows.hot.weight, self._exponents(fixed))
            settings = replace(settings, hot=rows.hot.rows, bounds=bounds)
        messages = self._messages(rows, fixed)
        with shared(self._spark, settings) as everywhere:
            solve = partial(solve_routed, settings=everywhere, copies=rows.copies)
            for _ in range(_MOST_ATTEMPTS):
                self._write(rows.side, messages.mapInArrow(solve, FACTOR_BLOCK_SCHEMA))
                shares = self._shares(rows.side)
                if shares is not None:
                    break
                self._storage.remove(self._paths[rows.side])
                restore = partial(restore_copies, copies=rows.copies)
                rows.frame.mapInArrow(restore, "block int").write.format("noop").mode("overwrite").save()
        if shares is None:
            raise RecsysError(f"blocks of the {rows.side.name} cannot be brought to the tasks that solve them")
        if before is not None:
            self._storage.remove(before)
        return shares

    def step_both(self, users: SideBlocks, items: SideBlocks) -> tuple[Shares, dict[Side, float]]:
        """Simultaneous steps need both sides' vectors on the driver; the configuration refuses them here."""
        raise RecsysError("simultaneous updates cannot be routed", remedy="set train.exchange: replicate")

    def vectors(self, side: Side, n_rows: int, width: int) -> Float32Array:
        """Collect a side's vectors on the driver, float32 (n_rows, width)."""
        vectors = np.zeros((n_rows, width), np.float32)
        for batch in self._blocks(side).select("row_index", "vectors").toArrow().to_batches():
            for rows, values in zip(batch["row_index"], batch["vectors"], strict=True):
                vectors[np.frombuffer(rows.as_buffer(), np.int32)] = matrix_of(values, width)
        return vectors

    def rows(self, side: Side, *, biases: bool) -> DataFrame:
        """Return a side's vectors as rows of (index, factors, bias, n_ratings); nothing reaches the driver."""
        schema = f"{side.rows} int, factors array<float>, bias float, n_ratings int"
        unpack = partial(unpack_factor_blocks, index_name=side.rows, biases=biases)
        return self._blocks(side).mapInArrow(unpack, schema)

    def release(self) -> None:
        """Drop links and vectors."""
        for links in self._links.values():
            links.unpersist()
        self._storage.remove(self._folder)

    def _blocks(self, side: Side) -> DataFrame:
        return self._spark.read.schema(FACTOR_BLOCK_SCHEMA).parquet(literal_path(self._paths[side]))

    def _write(self, side: Side, blocks: DataFrame) -> None:
        """Write a side's new blocks: lineage ends here, in files."""
        self._n_written += 1
        self._paths[side] = join(self._folder, f"{self._n_written:06}-{side.name}")
        blocks.write.mode("error").parquet(self._paths[side])

    def _shares(self, side: Side) -> Shares | None:
        """Return the side's shares of the objective, or None where a block is missing."""
        rows = self._blocks(side).select("row_index", *Shares._fields)
        found = rows.withColumn("row_index", F.col("row_index").isNull()).toArrow()
        if any(found["row_index"].to_pylist()):
            return None
        return Shares(*(math.fsum(found[name].to_pylist()) for name in Shares._fields))

    def _all_pairs(self, fixed: SideBlocks) -> AllPairs | None:
        """Sum the fixed side's Gramian over its blocks: exact, so that it does not depend on them."""
        problem = self._settings.problem
        if problem.loss.all_pairs_weight == 0:
            return None
        blocks, exponents = self._blocks(fixed.side), self._exponents(fixed)
        add_up = partial(block_gramians, settings=self._settings, exponents=exponents)
        total: ExactSum | None = None
        for row in blocks.mapInArrow(add_up, GRAMIAN_SCHEMA).collect():
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
        blocks = self._blocks(fixed.side).select("exponents").collect()
        exponents: Int32Array = np.maximum.reduce([np.frombuffer(row["exponents"], np.int32) for row in blocks])
        return exponents

    def _messages(self, rows: SideBlocks, fixed: SideBlocks) -> DataFrame:
        """Return one row per pair of blocks that share a rating, placed with the block that needs it."""
        places = placements(self._spark, self._n_blocks)
        place = F.element_at(F.array(*map(F.lit, places)), F.col("block") + 1)
        blocks = self._blocks(fixed.side)
        senders = blocks.select(
            place.alias("placement"),
            F.lit(NOT_SENT).alias("target"),
            F.col("block").alias("source"),
            F.col("row_index").alias("columns"),
            "vectors",
        )
        send = partial(send_rows, places=places)
        messages = (
            senders.unionByName(self._links_to(rows))
            .repartition(self._n_blocks, "placement")
            .mapInArrow(send, MESSAGE_SCHEMA)
        )
        if needs_start(self._settings.problem) and rows.side in self._paths:
            before = self._blocks(rows.side)
            messages = messages.unionByName(
                before.select(
                    place.alias("placement"),
                    F.col("block").alias("target"),
                    F.lit(NOT_SENT).alias("source"),
                    F.col("row_index").alias("columns"),
                    "vectors",
                )
            )
        return messages.repartition(self._n_blocks, "placement")

    def _links_to(self, rows: SideBlocks) -> DataFrame:
        """Return which columns each block of the rows needs of each block of the fixed side; made once."""
        if rows.side not in self._links:
            find = partial(find_links, places=placements(self._spark, self._n_blocks))
            self._links[rows.side] = rows.frame.mapInArrow(find, MESSAGE_SCHEMA).persist(StorageLevel.MEMORY_AND_DISK)
        return self._links[rows.side]
