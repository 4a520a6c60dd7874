"""Rows that hold a large part of all observations, and how they are cut for several tasks to share.

Such a row, an item that everybody has rated, would keep one task busy long after the others are done. Its
observations are therefore cut into pieces of about a thousand, by column, in a way that depends on the row alone:
``hot_sums`` forms the normal equations of pieces and adds them exactly, ``hot_solutions`` solves the rows.
"""

from dataclasses import dataclass

import numpy as np

from recsys_spark.kernels.arrays import BoolArray, Int32Array, Int64Array, IntArray
from recsys_spark.kernels.csr_block import CsrBlock

HOT_PARTS = 256
"""A row is hot if it holds more than one in so many of all observations ..."""

HOT_FLOOR = 50_000
"""... and more than these: shorter ones are solved faster than their sums are sent."""

OBSERVATIONS_PER_PIECE = 1024


@dataclass(frozen=True, slots=True)
class HotRows:
    """The hot rows of a side, and how they are cut.

    Attributes
    ----------
    rows : int32 array of shape (n_hot,)
        Global indexes, ascending.
    degrees : int64 array of shape (n_hot,)
    first_pieces : int64 array of shape (n_hot + 1,)
        An observation in column j of the hot row at place p is in piece ``first_pieces[p] + j % n_p``, where n_p =
        ``first_pieces[p + 1] - first_pieces[p]``.
    """

    rows: Int32Array
    degrees: Int64Array
    first_pieces: Int64Array

    @property
    def n_pieces(self) -> Int64Array:
        """Pieces of each row."""
        return np.diff(self.first_pieces)

    def are_in(self, block: CsrBlock) -> BoolArray:
        """Return which rows of a block are hot: bool array of shape (block.n_rows,)."""
        return np.isin(block.row_index, self.rows)

    def without(self, block: CsrBlock) -> CsrBlock:
        """Return a block without the hot rows, or itself where it has none; O(nnz)."""
        kept = ~self.are_in(block)
        if kept.all():
            return block
        entries = np.repeat(kept, block.degrees)
        return CsrBlock(
            row_index=block.row_index[kept],
            indptr=np.concatenate([[0], np.cumsum(block.degrees[kept])]).astype(np.int64),
            column_index=block.column_index[entries],
            values=block.values[entries],
            weights=None if block.weights is None else block.weights[entries],
        )


def find_hot_rows(degrees: IntArray, floor: int | None = None, observations_per_piece: int | None = None) -> HotRows:
    """Find the rows that hold more than ``floor`` and more than one in 256 of all observations.

    Parameters
    ----------
    degrees : integer array of shape (n_rows,)
    floor, observations_per_piece : int, optional
        Default: ``HOT_FLOOR`` and ``OBSERVATIONS_PER_PIECE``.

    Returns
    -------
    HotRows
        255 of them at most. The rule knows the data alone, not the number of blocks, and so does the result.
    """
    floor = HOT_FLOOR if floor is None else floor
    per_piece = OBSERVATIONS_PER_PIECE if observations_per_piece is None else observations_per_piece
    counts = np.asarray(degrees, dtype=np.int64)
    rows = np.flatnonzero((counts > floor) & (counts > counts.sum() / HOT_PARTS))
    pieces = -(-counts[rows] // per_piece)
    return HotRows(rows.astype(np.int32), counts[rows], np.concatenate([[0], np.cumsum(pieces)]).astype(np.int64))
