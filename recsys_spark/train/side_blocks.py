"""The rating blocks of both sides, kept for the time of one training."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.kernels.arrays import BoolArray, Int32Array
from recsys_spark.rating_blocks import SIDES, Side, assemble_blocks, block_to_arrow, rating_blocks
from recsys_spark.train.local_copies import remove_copies, save_copy


class SideBlocks:
    """The cached rating blocks of one side, and each row's number of ratings; see `block_ratings`.

    Parameters
    ----------
    side : Side
    cached : DataFrame
        Blocks of both sides.
    copies : str
        Name of this side's copies on the workers' machines.
    n_rows : int
        Size of the side's index; rows without ratings have degree 0.
    """

    def __init__(self, side: Side, cached: DataFrame, copies: str, n_rows: int) -> None:
        self.side = side
        self.copies = copies
        self.frame = cached.where(F.col("side") == side.number)
        self.degrees: Int32Array = np.zeros(n_rows, np.int32)
        self._cached = cached

    @property
    def is_trained(self) -> BoolArray:
        """Whether each row has ratings: bool array of shape (n_rows,)."""
        return np.asarray(self.degrees > 0)

    def release(self) -> None:
        """Drop the cached blocks, of both sides, and this machine's copies."""
        self._cached.unpersist()
        remove_copies(self.copies)


def block_ratings(ratings: DataFrame, n_users: int, n_items: int, n_blocks: int) -> tuple[SideBlocks, SideBlocks]:
    """Cut ratings into blocks of users and of items, cache them, and leave a copy of each with its worker.

    Parameters
    ----------
    ratings : DataFrame
        ``user_index int, item_index int, rating float``, optionally ``weight float``.
    n_users, n_items : int
        Sizes of the indexes.
    n_blocks : int
        Of each side.

    Returns
    -------
    users, items : SideBlocks

    Notes
    -----
    One shuffle (see `rating_blocks`); the driver receives the degrees.
    """
    training = secrets.token_hex(8)
    keep = partial(keep_copies, training=training)
    cached = rating_blocks(ratings, n_blocks, keep).persist(StorageLevel.MEMORY_AND_DISK)
    users, items = (
        SideBlocks(side, cached, _copies(training, side), n_rows)
        for side, n_rows in zip(SIDES, (n_users, n_items), strict=True)
    )
    for batch in cached.select("side", "row_index", "indptr").toArrow().to_batches():
        for side, rows, starts in zip(batch["side"].to_pylist(), batch["row_index"], batch["indptr"], strict=True):
            degrees = np.diff(np.frombuffer(starts.as_buffer(), np.int64))
            (users, items)[side].degrees[np.frombuffer(rows.as_buffer(), np.int32)] = degrees
    return users, items


def keep_copies(batches: Iterator[pa.RecordBatch], training: str) -> Iterator[pa.RecordBatch]:
    """Worker: pieces -> blocks, leaving a copy of each on this machine."""
    for side, number, block in assemble_blocks(batches):
        save_copy(_copies(training, side), number, block)
        yield block_to_arrow(side, number, block)


def _copies(training: str, side: Side) -> str:
    return f"{training}-{side.name}"
