"""Pairs of a row and a column, gathered by row."""

from typing import NamedTuple

import numpy as np

from recsys_spark.kernels.arrays import Int32Array, Int64Array
from recsys_spark.kernels.ragged_rows import RaggedRows

_COLUMN_BITS = 32


class RowPairs(NamedTuple):
    """The columns of some rows, each pair once.

    Attributes
    ----------
    row_index : int64 array of shape (n_rows,)
        Ascending.
    columns : RaggedRows
        Of each of them, ascending; and an empty row at the end.
    """

    row_index: Int64Array
    columns: RaggedRows

    @classmethod
    def gather(cls, rows: Int32Array, columns: Int32Array) -> "RowPairs":
        """Gather pairs by row: int32 arrays of shape (nnz,), not negative, in any order; repeats count once.

        O(nnz log nnz), in practice one sort of int64 keys.
        """
        keys = np.unique((rows.astype(np.int64) << _COLUMN_BITS) | columns)
        row_index, first = np.unique(keys >> _COLUMN_BITS, return_index=True)
        indptr = np.concatenate([first, [len(keys), len(keys)]]).astype(np.int64)
        return cls(row_index, RaggedRows(indptr, (keys & ((1 << _COLUMN_BITS) - 1)).astype(np.int32)))

    def of_rows(self, wanted: Int32Array) -> RaggedRows:
        """Return the columns of some rows, in that order; a row without pairs has none."""
        place = np.searchsorted(self.row_index, wanted)
        is_known = place < len(self.row_index)
        is_known[is_known] = self.row_index[place[is_known]] == wanted[is_known]
        return self.columns.take(np.where(is_known, place, len(self.row_index)))
