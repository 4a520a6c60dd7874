"""Rows of different lengths in one array."""

from typing import NamedTuple

import numpy as np

from recsys_spark.kernels.arrays import Int32Array, Int64Array, IntArray


class RaggedRows(NamedTuple):
    """Rows of int32 values: row r is ``values[indptr[r]:indptr[r + 1]]``.

    Attributes
    ----------
    indptr : int64 array of shape (n_rows + 1,)
    values : int32 array
    """

    indptr: Int64Array
    values: Int32Array

    @classmethod
    def by_group(cls, group_of_value: IntArray, n_groups: int) -> "RaggedRows":
        """Return the values 0, 1, ... of each group as a row, ascending; groups are numbered from 0."""
        order = np.argsort(group_of_value, kind="stable").astype(np.int32)
        return cls(starts(np.bincount(group_of_value, minlength=n_groups)), order)

    @property
    def lengths(self) -> Int64Array:
        """Number of values of each row."""
        return np.diff(self.indptr)

    def row(self, number: int) -> Int32Array:
        """Return one row."""
        return self.values[self.indptr[number] : self.indptr[number + 1]]

    def take(self, rows: Int64Array) -> "RaggedRows":
        """Return some of the rows, in that order."""
        lengths = self.lengths[rows]
        indptr = starts(lengths)
        places = np.arange(indptr[-1]) + np.repeat(self.indptr[rows] - indptr[:-1], lengths)
        return RaggedRows(indptr, self.values[places])

    def joined(self, owner: Int64Array, n_owners: int) -> "RaggedRows":
        """Return a row for each of ``n_owners``, of all rows that it owns; ``owner`` of each row is ascending."""
        return RaggedRows(self.indptr[np.searchsorted(owner, np.arange(n_owners + 1))], self.values)

    def beside(self, other: "RaggedRows") -> "RaggedRows":
        """Return as many rows, each with the values of both."""
        values = np.empty(len(self.values) + len(other.values), np.int32)
        for one, before in ((self, other.indptr[:-1]), (other, self.indptr[1:])):
            values[np.arange(len(one.values)) + np.repeat(before, one.lengths)] = one.values
        return RaggedRows(self.indptr + other.indptr, values)


def starts(lengths: IntArray) -> Int64Array:
    """Return where rows of some lengths begin, and the end."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
