"""The rating blocks of both sides, kept for the time of one training."""

from __future__ import annotations

import secrets
from functools import cached_property, partial

import numpy as np
from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.kernels.arrays import BoolArray, Int32Array
from recsys_spark.kernels.hot_rows import find_hot_rows
from recsys_spark.rating_blocks import SIDES, Side, rating_blocks
from recsys_spark.session import small_rows
from recsys_spark.train.block_work import copies_of, keep_copies, numbers_of
from recsys_spark.train.hot_pieces import HotPieces
from recsys_spark.train.local_copies import remove_copies


class SideBlocks:
    """The cached rating blocks of one side, and each row's number of ratings; see `block_ratings`.

    Parameters
    ----------
    side : Side
    cached : DataFrame
        Blocks of both sides.
    copies : str
        Name of this side's copies on the workers' machines.
    degrees : int32 array of shape (n_rows,)
    n_blocks : int
    hot : HotPieces or None
        The ratings of hot rows once more: these stay in their blocks, but are solved from the pieces.
    """

    def __init__(
        self, side: Side, cached: DataFrame, copies: str, degrees: Int32Array, n_blocks: int, hot: HotPieces | None
    ) -> None:
        self.side = side
        self.copies = copies
        self.frame = cached.where(F.col("side") == side.number)
        self.degrees = degrees
        self.n_blocks = n_blocks
        self.hot = hot
        self.numbers = numbers_of(self.frame)
        self._cached = cached

    @property
    def is_trained(self) -> BoolArray:
        """Whether each row has ratings: bool array of shape (n_rows,)."""
        return np.asarray(self.degrees > 0)

    @cached_property
    def occupied(self) -> list[int]:
        """Numbers of the blocks that hold ratings, those of most ratings first."""
        ratings = np.bincount(np.arange(len(self.degrees)) % self.n_blocks, self.degrees, self.n_blocks)
        order = np.argsort(-ratings, kind="stable")
        return [int(number) for number in order if ratings[number]]

    def release(self) -> None:
        """Drop the cached blocks, of both sides, and this machine's copies."""
        self.numbers.unpersist()
        self._cached.unpersist()
        remove_copies(self.copies)
        if self.hot is not None:
            self.hot.release()


def block_ratings(
    ratings: DataFrame, n_users: int, n_items: int, n_blocks: int, *, splits_hot: bool = True
) -> tuple[SideBlocks, SideBlocks]:
    """Cut ratings into blocks of users and of items, cache them, and leave a copy of each with its worker.

    Parameters
    ----------
    ratings : DataFrame
        ``user_index int, item_index int, rating float``, optionally ``weight float``.
    n_users, n_items : int
        Sizes of the indexes; rows without ratings have degree 0.
    n_blocks : int
        Of each side.
    splits_hot : bool, default True
        Whether hot rows are cut into pieces; else they are solved whole, in their blocks.

    Returns
    -------
    users, items : SideBlocks

    Notes
    -----
    One shuffle (see `rating_blocks`), and one more for each side with hot rows (see `HotPieces`); the driver
    receives the degrees.
    """
    with small_rows(ratings.sparkSession):
        return _cache_blocks(ratings, (n_users, n_items), n_blocks, splits_hot=splits_hot)


def _cache_blocks(
    ratings: DataFrame, n_rows: tuple[int, int], n_blocks: int, *, splits_hot: bool
) -> tuple[SideBlocks, SideBlocks]:
    training = secrets.token_hex(8)
    keep = partial(keep_copies, training=training)
    cached = rating_blocks(ratings, SIDES, n_blocks, keep).persist(StorageLevel.MEMORY_AND_DISK)
    users, items = sides = [
        SideBlocks(side, cached, copies_of(training, side), np.zeros(n, np.int32), n_blocks, None)
        for side, n in zip(SIDES, n_rows, strict=True)
    ]
    try:
        for batch in cached.select("side", "row_index", "indptr").toArrow().to_batches():
            for side, rows, starts in zip(batch["side"].to_pylist(), batch["row_index"], batch["indptr"], strict=True):
                degrees_of_block = np.diff(np.frombuffer(starts.as_buffer(), np.int64))
                sides[side].degrees[np.frombuffer(rows.as_buffer(), np.int32)] = degrees_of_block
        for blocks in sides if splits_hot else ():
            blocks.hot = _hot_pieces(ratings, blocks.side, blocks.degrees, n_blocks)
    except BaseException:
        for blocks in sides:
            blocks.release()
        raise
    return users, items


def _hot_pieces(ratings: DataFrame, side: Side, degrees: Int32Array, n_blocks: int) -> HotPieces | None:
    hot = find_hot_rows(degrees)
    return HotPieces(ratings, side, hot, n_blocks) if len(hot.rows) else None
