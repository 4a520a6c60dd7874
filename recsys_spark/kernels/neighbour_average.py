"""What neighbours thought of the columns: similarity-weighted averages, and the lists and scores made of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recsys_spark.errors import NumericalError, ShapeError
from recsys_spark.kernels.arrays import Float32Array, Float64Array, Int32Array, Int64Array, IntArray
from recsys_spark.kernels.csr_block import entries_of_rows
from recsys_spark.kernels.full_ranking import best_of_rows

# Averages, and products that go into them, of the rows that are looked at together.
_MAX_AVERAGES = 1 << 21
_MAX_PRODUCTS = 1 << 22


@dataclass(frozen=True, slots=True)
class SparseRows:
    """Rows of a sparse matrix; each column at most once in a row.

    Attributes
    ----------
    indptr : int64 array of shape (n_rows + 1,)
        Row p owns the entries ``indptr[p]:indptr[p + 1]``.
    columns : int32 array of shape (nnz,)
    values : float32 array of shape (nnz,)
    """

    indptr: Int64Array
    columns: Int32Array
    values: Float32Array

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.indptr) - 1

    def take(self, index: IntArray) -> "SparseRows":
        """Return some of the rows, in that order."""
        lengths = np.diff(self.indptr)[index]
        entries = entries_of_rows(self.indptr[index], lengths)
        indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return SparseRows(indptr, self.columns[entries], self.values[entries])

    def transposed(self, n_columns: int) -> "SparseRows":
        """Return the columns as rows: ``n_columns`` of them."""
        rows = np.repeat(np.arange(self.n_rows), np.diff(self.indptr))
        return sparse_rows(self.columns, rows, self.values, n_columns)


def sparse_rows(rows: IntArray, columns: IntArray, values: Float32Array, n_rows: int) -> SparseRows:
    """Sort entries by row and column.

    Parameters
    ----------
    rows, columns : integer arrays of shape (nnz,)
        Each pair once; entries whose column is negative are left out.
    values : float32 array of shape (nnz,)
    n_rows : int
    """
    kept = columns >= 0
    rows, columns, values = rows[kept], columns[kept], values[kept]
    order = np.lexsort((columns, rows))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n_rows))]).astype(np.int64)
    return SparseRows(indptr, columns[order].astype(np.int32), values[order].astype(np.float32))


@dataclass(frozen=True, slots=True)
class NeighbourAverages:
    """Averages of deviations d over neighbours, weighted by similarities s > 0: sum s d / (prior_weight + sum s).

    Attributes
    ----------
    right : SparseRows
        What the entries of a user's row stand for. Neighbouring users: a row per user, with the deviations of the
        user's ratings by column. Neighbouring items: a row per item, with its similarity to each column of whose
        neighbours it is one.
    n_columns : int
    users_are_neighbours : bool
        Whether a user's row has similarities to other users, and not deviations of the user's own ratings.
    prior_weight : float
        At least 0: as if neighbours of so much similarity had no opinion.
    """

    right: SparseRows
    n_columns: int
    users_are_neighbours: bool
    prior_weight: float = 0.0

    def of_rows(self, left: SparseRows) -> Iterator[tuple[int, int, Float64Array]]:
        """Average over the neighbours of each user and column.

        Parameters
        ----------
        left : SparseRows
            A row per user: similarities to users, or deviations by item; its columns are rows of ``right``.

        Yields
        ------
        first, last : int
            Some users.
        averages : float64 array of shape (last - first, n_columns)
            0 where no neighbour knows the column.

        Raises
        ------
        ShapeError
            If an entry of ``left`` has no row in ``right``.

        Notes
        -----
        Time is in proportion to the entries of ``right`` that belong to entries of ``left``, and to the averages.
        Each is added up in float64 in the order of the user's entries, whatever the other users.
        """
        if len(left.columns) and (left.columns.min() < 0 or left.columns.max() >= self.right.n_rows):
            raise ShapeError(
                f"entries must lie in [0, {self.right.n_rows}), got {left.columns.min()} to {left.columns.max()}"
            )
        lengths = np.diff(self.right.indptr)[left.columns]
        done = np.concatenate([[0], np.cumsum(lengths)])[left.indptr]
        first, most_rows = 0, max(1, _MAX_AVERAGES // max(1, self.n_columns))
        while first < left.n_rows:
            fits = int(np.searchsorted(done, done[first] + _MAX_PRODUCTS, side="right")) - 1
            last = min(first + most_rows, max(first + 1, fits), left.n_rows)
            yield first, last, self._averages(left, lengths, first, last)
            first = last

    def _averages(self, left: SparseRows, lengths: Int64Array, first: int, last: int) -> Float64Array:
        chosen = slice(left.indptr[first], left.indptr[last])
        entries = entries_of_rows(self.right.indptr[left.columns[chosen]], lengths[chosen])
        rows = np.repeat(np.arange(last - first), np.diff(left.indptr[first : last + 1]))
        cell = np.repeat(rows * self.n_columns, lengths[chosen]) + self.right.columns[entries]
        own = np.repeat(left.values[chosen].astype(np.float64), lengths[chosen])
        others = self.right.values[entries].astype(np.float64)
        size = (last - first) * self.n_columns
        above = np.bincount(cell, own * others, minlength=size)
        below = np.bincount(cell, own if self.users_are_neighbours else others, minlength=size)
        averages = np.divide(above, below + self.prior_weight, out=np.zeros(size), where=below > 0)
        return np.asarray(averages.reshape(last - first, self.n_columns))


def best_by_neighbours(
    left: SparseRows,
    neighbours: NeighbourAverages,
    user_biases: Float32Array,
    item_biases: Float32Array,
    *,
    global_mean: float,
    n: int,
    excluded_indptr: Int64Array,
    excluded_columns: Int32Array,
) -> tuple[Int32Array, Float32Array]:
    """List each user's n best columns, some of them excluded.

    The score is ``global_mean + user bias + item bias + average over the neighbours``, rounded to float32. Best first;
    equal scores by lower column.

    Parameters
    ----------
    left : SparseRows
        Of m users, see `NeighbourAverages.of_rows`.
    neighbours : NeighbourAverages
    user_biases, item_biases : float32 arrays of shape (m,), (n_columns,)
    global_mean : float
    n : int >= 1
    excluded_indptr, excluded_columns : arrays
        As of `top_n`.

    Returns
    -------
    columns : int32 array of shape (m, n)
        -1 where fewer than n are left.
    scores : float32 array of shape (m, n)
        NaN there.

    Raises
    ------
    NumericalError
        If a score is not finite.
    """
    columns = np.full((left.n_rows, n), -1, np.int32)
    scores = np.full((left.n_rows, n), np.nan, np.float32)
    n_found = min(n, neighbours.n_columns)
    for first, last, averages in neighbours.of_rows(left) if n_found else ():
        averages += (user_biases[first:last, None].astype(np.float64) + item_biases) + global_mean
        predicted = averages.astype(np.float32)
        if not np.isfinite(predicted).all():
            raise NumericalError("predictions must be finite, got some that are not; check the ratings' range")
        rows = np.repeat(np.arange(last - first), np.diff(excluded_indptr[first : last + 1]))
        predicted[rows, excluded_columns[excluded_indptr[first] : excluded_indptr[last]]] = -np.inf
        found, best = best_of_rows(predicted, n_found)
        is_left = best > -np.inf
        columns[first:last, :n_found][is_left] = found[is_left]
        scores[first:last, :n_found][is_left] = best[is_left]
    return columns, scores


def averages_of_pairs(
    left: SparseRows, neighbours: NeighbourAverages, pair_indptr: Int64Array, pair_columns: Int32Array
) -> Float64Array:
    """Return the averages of some columns of each user: those of ``pair_columns[pair_indptr[u]:pair_indptr[u + 1]]``.

    A column of -1, which nobody knows, has average 0.
    """
    found = np.zeros(len(pair_columns))
    for first, last, averages in neighbours.of_rows(left):
        pairs = slice(pair_indptr[first], pair_indptr[last])
        rows = np.repeat(np.arange(last - first), np.diff(pair_indptr[first : last + 1]))
        columns = pair_columns[pairs]
        if neighbours.n_columns:
            found[pairs] = np.where(columns >= 0, averages[rows, np.maximum(columns, 0)], 0.0)
    return found
