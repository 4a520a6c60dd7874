"""The cached rating blocks of one side."""

from __future__ import annotations

import secrets
from functools import partial

import numpy as np
from pyspark import StorageLevel
from pyspark.sql import DataFrame

from recsys_spark.kernels.arrays import BoolArray, Int32Array
from recsys_spark.kernels.hot_rows import find_hot_rows
from recsys_spark.rating_blocks import BLOCK_SCHEMA, Side, rating_blocks
from recsys_spark.train.block_work import keep_copies
from recsys_spark.train.hot_pieces import HotPieces
from recsys_spark.train.local_copies import remove_copies


class SideBlocks:
    """The cached rating blocks of one side, and each row's number of ratings.

    Parameters
    ----------
    ratings : DataFrame
        ``user_index int, item_index int, rating float``, optionally ``weight float``.
    side : Side
    n_rows : int
        Size of the side's index; rows without ratings have degree 0.
    n_blocks : int

    Notes
    -----
    Building is one shuffle (see ``rating_blocks``); the driver receives the degrees. The ratings of hot rows are
    shuffled once more, see ``HotPieces``: they stay in their blocks, but are solved from the pieces.
    """

    def __init__(self, ratings: DataFrame, side: Side, n_rows: int, n_blocks: int) -> None:
        self.side = side
        self.copies = f"{secrets.token_hex(8)}-{side.name}"
        self.frame = (
            rating_blocks(ratings, side, n_blocks)
            .mapInArrow(partial(keep_copies, copies=self.copies), BLOCK_SCHEMA)
            .persist(StorageLevel.MEMORY_AND_DISK)
        )
        self.degrees: Int32Array = np.zeros(n_rows, np.int32)
        for row in self.frame.select("row_index", "indptr").toArrow().to_batches():
            for rows, starts in zip(row["row_index"], row["indptr"], strict=True):
                self.degrees[np.frombuffer(rows.as_buffer(), np.int32)] = np.diff(
                    np.frombuffer(starts.as_buffer(), np.int64)
                )
        hot = find_hot_rows(self.degrees)
        self.hot = HotPieces(ratings, side, hot, n_blocks) if len(hot.rows) else None

    @property
    def is_trained(self) -> BoolArray:
        """Whether each row has ratings: bool array of shape (n_rows,)."""
        return np.asarray(self.degrees > 0)

    def release(self) -> None:
        """Drop the cached blocks and this machine's copies."""
        self.frame.unpersist()
        remove_copies(self.copies)
        if self.hot is not None:
            self.hot.release()
