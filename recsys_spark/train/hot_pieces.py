"""The pieces of a side's hot rows on Spark: spread over all blocks, summed where they are, added up on the driver."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.kernels.arrays import Int64Array
from recsys_spark.kernels.hot_rows import HotRows
from recsys_spark.rating_blocks import Side, blocks_from_arrow, rating_blocks
from recsys_spark.train.block_work import (
    BlockWork,
    copies_of,
    keep_copies,
    numbers_of,
    results_of_blocks,
    results_of_some,
)
from recsys_spark.train.local_copies import remove_copies

_LARGEST_SCHEMA = "block int, value float, weight float"


class HotPieces:
    """The cached pieces of a side's hot rows.

    Parameters
    ----------
    ratings : DataFrame
        As for ``SideBlocks``.
    side : Side
    hot : HotRows
    n_blocks : int
        The pieces are spread over so many: piece p is in block ``p % n_blocks``.

    Attributes
    ----------
    rows : HotRows
    value, weight : float
        Largest absolute value and largest weight of all pieces.
    numbers : list of int
        Blocks that have pieces.

    Notes
    -----
    Building reads the ratings once more and shuffles those of the hot rows; the driver receives a row per block.
    """

    def __init__(self, ratings: DataFrame, side: Side, hot: HotRows, n_blocks: int) -> None:
        self.rows = hot
        training = f"{secrets.token_hex(8)}-pieces"
        self.copies = copies_of(training, side)
        keep = partial(keep_copies, training=training)
        numbered = _numbered(ratings, side, hot)
        self.frame = rating_blocks(numbered, (side,), n_blocks, keep).persist(StorageLevel.MEMORY_AND_DISK)
        self._numbers_frame = numbers_of(self.frame)
        try:
            largest = self.frame.mapInArrow(largest_of_blocks, _LARGEST_SCHEMA).toArrow()
        except BaseException:
            self.release()
            raise
        self.numbers = largest["block"].to_pylist()
        self.value, self.weight = (max(largest[name].to_pylist()) for name in ("value", "weight"))

    def total(self, work: BlockWork, found: Mapping[int, Int64Array] | None = None) -> Int64Array:
        """Do something to the pieces of every block, and add up the results.

        Parameters
        ----------
        work : callable
            For the workers; returns int64 (n_hot, n_sums).
        found : mapping of int to int64 array, optional
            Results by block that are known already; a job over all blocks makes them if not given.

        Notes
        -----
        At most two jobs, see ``results_of_blocks``.
        """
        parts = (
            dict(found)
            if found is not None
            else results_of_blocks(self._numbers_frame, self.frame, self.copies, work, np.int64)
        )
        missing = [number for number in self.numbers if number not in parts]
        if missing:
            parts |= results_of_some(self.frame, self.copies, work, np.int64, missing)
        return np.asarray(sum(parts.values())).reshape(len(self.rows.rows), -1)

    def release(self) -> None:
        """Drop the cached pieces and this machine's copies."""
        self._numbers_frame.unpersist()
        self.frame.unpersist()
        remove_copies(self.copies)


def largest_of_blocks(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Worker: blocks -> their largest absolute value and weight."""
    for number, block in blocks_from_arrow(batches):
        weight = 1.0 if block.weights is None else block.weights.max()
        largest = {"value": np.abs(block.values).max(), "weight": weight}
        yield pa.RecordBatch.from_pydict(
            {"block": pa.array([number], pa.int32())} | {k: pa.array([v], pa.float32()) for k, v in largest.items()}
        )


def _numbered(ratings: DataFrame, side: Side, hot: HotRows) -> DataFrame:
    """Return the ratings of the hot rows with the numbers of their pieces in place of the rows' indexes."""
    cut = pa.table(
        {
            side.rows: hot.rows,
            "first_piece": hot.first_pieces[:-1].astype(np.int32),
            "n_pieces": hot.n_pieces.astype(np.int32),
        }
    )
    piece = F.col("first_piece") + F.col(side.columns) % F.col("n_pieces")
    joined = ratings.join(F.broadcast(ratings.sparkSession.createDataFrame(cut)), side.rows)
    return joined.withColumn(side.rows, piece).drop("first_piece", "n_pieces")
