"""One piece of the ratings, stored by row; and the grouping of observations into such pieces."""

from dataclasses import dataclass

import numpy as np

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.arrays import Float32Array, FloatArray, Int32Array, Int64Array, IntArray

_SORT_KEY_BITS = 63


@dataclass(frozen=True, slots=True)
class CsrBlock:
    """Observations of some rows of one side, in compressed sparse row form.

    The three observations (row 7, column 2, 4.0), (7, 5, 1.0) and (3, 5, 2.0) are stored as::

        row_index    [3, 7]          global indexes of the rows, ascending
        indptr       [0, 1, 3]       row 3 owns entry 0; row 7 owns entries 1 and 2
        column_index [5, 2, 5]       ascending within each row
        values       [2.0, 4.0, 1.0]

    Attributes
    ----------
    row_index : int32 array of shape (n_rows,)
        Global index of each row, ascending.
    indptr : int64 array of shape (n_rows + 1,)
        Row p owns the entries ``indptr[p]:indptr[p + 1]``.
    column_index : int32 array of shape (nnz,)
        Global index of each entry's column on the other side, ascending within a row.
    values : float32 array of shape (nnz,)
        The observed ratings.
    weights : float32 array of shape (nnz,) or None
        How much each of them counts; None: all ones.
    """

    row_index: Int32Array
    indptr: Int64Array
    column_index: Int32Array
    values: Float32Array
    weights: Float32Array | None = None

    def __repr__(self) -> str:
        """Return the sizes."""
        return f"CsrBlock: {self.n_rows:,} rows, {self.nnz:,} entries, {self.nbytes:,} bytes"

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.row_index)

    @property
    def nnz(self) -> int:
        """Number of observations."""
        return len(self.column_index)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = (self.row_index, self.indptr, self.column_index, self.values, self.weights)
        return sum(array.nbytes for array in arrays if array is not None)

    @property
    def degrees(self) -> Int64Array:
        """Observations per row: int64 array of shape (n_rows,)."""
        return np.diff(self.indptr)


def build_csr_block(
    row_index: IntArray, column_index: IntArray, values: FloatArray, weights: FloatArray | None = None
) -> CsrBlock:
    """Sort observations into a block.

    The result is canonical: any order of the same observations gives the same block.

    Parameters
    ----------
    row_index, column_index : integer arrays of shape (nnz,)
        Global indexes from 0 to 2**31 - 1; each (row, column) pair at most once.
    values : float array of shape (nnz,)
        One value per pair.
    weights : float array of shape (nnz,), optional
        One weight per pair.

    Returns
    -------
    CsrBlock
        Holds only the rows that occur. Empty input gives a block without rows.

    Raises
    ------
    ShapeError
        If lengths differ, an index is negative or too large, or a pair occurs twice.

    Notes
    -----
    O(nnz log nnz), in practice bound by one SIMD sort of int64 keys; about 40 bytes per observation of
    working memory. The inputs are not changed.
    """
    rows, columns = _as_index(row_index, "row_index"), _as_index(column_index, "column_index")
    n_weights = len(values) if weights is None else len(weights)
    if not len(rows) == len(columns) == len(values) == n_weights:
        raise ShapeError(
            "row_index, column_index, values and weights must have one entry per observation, got lengths "
            f"{len(rows)}, {len(columns)}, {len(values)} and {n_weights}"
        )
    order = _order_by_row_then_column(rows, columns)
    rows, columns = rows[order], columns[order]
    starts = _row_starts(rows)
    _reject_duplicates(rows, columns)
    return CsrBlock(
        row_index=rows[starts[:-1]].astype(np.int32),
        indptr=starts,
        column_index=columns.astype(np.int32),
        values=np.asarray(values, dtype=np.float32)[order],
        weights=None if weights is None else np.asarray(weights, dtype=np.float32)[order],
    )


def split_by_block(row_index: IntArray, n_blocks: int) -> tuple[Int64Array, Int64Array]:
    """Group observations by ``row_index % n_blocks``.

    Parameters
    ----------
    row_index : integer array of shape (nnz,)
        Global row index of each observation, >= 0.
    n_blocks : int >= 1
        Number of blocks.

    Returns
    -------
    order : int64 array of shape (nnz,)
        Positions of the observations, block after block; input order is kept within a block.
    bounds : int64 array of shape (n_blocks + 1,)
        Block b is ``order[bounds[b]:bounds[b + 1]]``; it may be empty.

    Raises
    ------
    ShapeError
        If ``n_blocks`` < 1.

    Notes
    -----
    O(nnz): up to 65,536 blocks NumPy sorts 16-bit keys by radix.
    """
    if n_blocks < 1:
        raise ShapeError(f"n_blocks must be >= 1, got {n_blocks}")
    blocks = np.asarray(row_index) % n_blocks
    narrow = np.uint16 if n_blocks <= 1 << 16 else np.int64
    order = np.argsort(blocks.astype(narrow), kind="stable")
    bounds = np.zeros(n_blocks + 1, dtype=np.int64)
    np.cumsum(np.bincount(blocks, minlength=n_blocks), out=bounds[1:])
    return order.astype(np.int64, copy=False), bounds


def entries_of_rows(starts: Int64Array, lengths: Int64Array) -> Int64Array:
    """Return the places of the entries of some rows, one row after the other.

    Parameters
    ----------
    starts, lengths : int64 arrays of shape (m,)
        First entry of each row, and how many it has; a row may come twice, and be empty.

    Returns
    -------
    int64 array of shape (sum of lengths,)
    """
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.asarray(np.arange(total) + np.repeat(starts - (ends - lengths), lengths))


def _as_index(index: IntArray, name: str) -> Int64Array:
    as_int64 = np.asarray(index).astype(np.int64, copy=False)
    if len(as_int64) and (as_int64.min() < 0 or as_int64.max() >= 1 << 31):
        raise ShapeError(
            f"{name} must lie in [0, 2**31), got values from {as_int64.min()} to {as_int64.max()}; "
            "map ids to dense indexes first"
        )
    return as_int64


def _order_by_row_then_column(rows: Int64Array, columns: Int64Array) -> Int64Array:
    """Positions that sort by row, then column.

    Sorting plain int64 keys is several times faster than an argsort, so the position rides in the key's low
    bits wherever row, column and position fit into one key together.
    """
    nnz = len(rows)
    if nnz == 0:
        return np.zeros(0, dtype=np.int64)
    first_row = int(rows.min())
    row_bits = int(rows.max() - first_row).bit_length()
    column_bits = int(columns.max()).bit_length()
    position_bits = (nnz - 1).bit_length()
    key = ((rows - first_row) << column_bits) | columns
    if row_bits + column_bits + position_bits > _SORT_KEY_BITS:
        return np.argsort(key)
    key <<= position_bits
    key |= np.arange(nnz)
    key.sort()
    key &= (1 << position_bits) - 1
    return key


def _row_starts(sorted_rows: Int64Array) -> Int64Array:
    """Entry at which each distinct row starts, then the number of entries."""
    is_start = np.ones(len(sorted_rows) + 1, dtype=np.bool_)
    np.not_equal(sorted_rows[1:], sorted_rows[:-1], out=is_start[1:-1])
    return np.flatnonzero(is_start).astype(np.int64, copy=False)


def _reject_duplicates(rows: Int64Array, columns: Int64Array) -> None:
    repeated = (rows[1:] == rows[:-1]) & (columns[1:] == columns[:-1])
    if repeated.any():
        first = int(np.argmax(repeated))
        raise ShapeError(
            f"each (row, column) pair must occur once, got {int(repeated.sum())} repeats, first of them "
            f"(row {rows[first]}, column {columns[first]}); merge duplicates during ingest"
        )
