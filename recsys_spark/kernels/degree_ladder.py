"""A fixed ladder of padded lengths, and the batches of rows that share one.

Rows of unequal degree cannot be stacked. Padding each to the next rung of a FIXED ladder makes stacks
possible while a row's arithmetic still depends on the row alone: which other rows are present changes neither
its padded length nor the shape of the matrices that BLAS sees.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from recsys_spark.kernels.arrays import Int64Array, IntArray

_TOP_LENGTH = 16384


def _build_ladder(top: int) -> tuple[int, ...]:
    """Four rungs to every doubling, so that padding adds 11 % on average and 25 % at most above 8."""
    rungs = [8]
    while rungs[-1] < top:
        rungs.append(rungs[-1] + (1 << (rungs[-1].bit_length() - 3)))
    return tuple(rungs)


LADDER: Final = _build_ladder(_TOP_LENGTH)
"""Padded lengths: 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, ... 16384."""


@dataclass(frozen=True, slots=True)
class LengthBatch:
    """Rows that are solved together.

    Attributes
    ----------
    method : int
        How they are solved, as given to `plan_batches`.
    total_length : int
        Padded length of every row.
    rows : int64 array
        Positions of the rows in their block.
    """

    method: int
    total_length: int
    rows: Int64Array

    @property
    def is_sliced(self) -> bool:
        """Whether this is one row beyond the ladder's top, to be taken in slices."""
        return self.total_length > _TOP_LENGTH

    @property
    def length(self) -> int:
        """Padded length of one gathering: of the rows, or of a slice."""
        return min(self.total_length, _TOP_LENGTH)


def padded_lengths(degrees: IntArray) -> Int64Array:
    """Find the rung of each row.

    Parameters
    ----------
    degrees : integer array of shape (n_rows,)
        Observations of each row.

    Returns
    -------
    int64 array of shape (n_rows,)
        The least rung that holds the row; for a row beyond the top, the least multiple of the top.
    """
    rungs = np.asarray(LADDER, dtype=np.int64)
    degrees = np.asarray(degrees, dtype=np.int64)
    on_ladder = rungs[np.minimum(np.searchsorted(rungs, degrees), len(rungs) - 1)]
    in_slices = -(-degrees // _TOP_LENGTH) * _TOP_LENGTH
    return np.where(degrees <= _TOP_LENGTH, on_ladder, in_slices)


def possible_lengths(largest_degree: int) -> Int64Array:
    """Return every padded length of rows up to a degree, ascending, before them 0 for rows without observations.

    ``np.searchsorted(possible_lengths(...), degrees)`` finds the padded length of each row.
    """
    beyond = np.arange(2 * _TOP_LENGTH, largest_degree + _TOP_LENGTH, _TOP_LENGTH)
    return np.concatenate([[0], LADDER, beyond]).astype(np.int64)


def plan_batches(
    rows: Int64Array, lengths: Int64Array, methods: IntArray, floats_per_row: Int64Array, max_floats: int
) -> Iterator[LengthBatch]:
    """Divide rows into batches of one method and one padded length.

    Parameters
    ----------
    rows : int64 array of shape (n,)
        Positions of the rows in their block.
    lengths : int64 array of shape (n,)
        From `padded_lengths`.
    methods : integer array of shape (n,)
        How each row is solved.
    floats_per_row : int64 array of shape (n,)
        Working floats that each row needs, >= 1; equal for rows of equal method and length.
    max_floats : int
        Working floats of a batch; a batch holds at least one row all the same, and a row beyond the ladder's
        top is always alone.

    Yields
    ------
    LengthBatch
        Every row exactly once.
    """
    order = np.lexsort((lengths, methods))
    is_change = (np.diff(lengths[order]) != 0) | (np.diff(methods[order]) != 0)
    for group in np.split(order, np.flatnonzero(is_change) + 1):
        if len(group) == 0:
            continue
        method, length = int(methods[group[0]]), int(lengths[group[0]])
        size = 1 if length > _TOP_LENGTH else max(1, max_floats // int(floats_per_row[group[0]]))
        for first in range(0, len(group), size):
            yield LengthBatch(method, length, rows[group[first : first + size]])
