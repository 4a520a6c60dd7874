"""Picking the few largest scores of each row of a wide tile."""

from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from recsys_spark.kernels.arrays import Float32Array, Int64Array

_GROUP_SIZE = 16
_Entry = TypeVar("_Entry", bound=np.generic)


class Pool(NamedTuple):
    """Some of each row's largest entries, in no particular order.

    Attributes
    ----------
    columns : int64 array of shape (m, p)
        Which entries.
    values : float32 array of shape (m, p)
        Their scores.
    outside : float32 array of shape (m,)
        Largest entry that is not in the pool; -inf where none is left.
    """

    columns: Int64Array
    values: Float32Array
    outside: Float32Array


def padded_count(n_columns: int) -> int:
    """Columns that a tile must have: the next multiple of the group size."""
    return -(-n_columns // _GROUP_SIZE) * _GROUP_SIZE


def select_pool(scores: Float32Array, size: int) -> Pool:
    """Pick the ``size`` largest entries of each row.

    Parameters
    ----------
    scores : float32 array of shape (m, n_padded), C-contiguous
        ``n_padded`` from `padded_count`; -inf where a column is out of question. Not changed.
    size : int >= 1
        Entries to pick; all of them where a row has no more.

    Returns
    -------
    Pool
        Of ``min(size, n_padded)`` entries per row.

    Notes
    -----
    Column c belongs to group ``c % n_groups``, so that the maxima of all groups are a few elementwise maxima
    of long runs. The ``size`` largest entries lie in the ``size`` groups of largest maxima, and only the
    members of those are looked at one by one.
    """
    m, n_padded = scores.shape
    n_groups = n_padded // _GROUP_SIZE
    if n_groups <= size:
        picked, outside = _largest(scores, min(size, n_padded))
        return Pool(picked, take_in_rows(scores, picked), outside)
    maxima = scores.reshape(m, _GROUP_SIZE, n_groups).max(axis=1)
    groups, outside_groups = _largest(maxima, size)
    offsets = np.arange(_GROUP_SIZE) * n_groups
    members = (groups[:, :, None] + offsets).reshape(m, -1)
    values = take_in_rows(scores, members)
    picked, outside_members = _largest(values, size)
    outside = np.maximum(outside_groups, outside_members)
    return Pool(take_in_rows(members, picked), take_in_rows(values, picked), outside)


def merge_pools(one: Pool, other: Pool, size: int) -> Pool:
    """Keep the ``size`` largest entries of two pools of the same rows, whose columns are already global."""
    columns = np.concatenate([one.columns, other.columns], axis=1)
    values = np.concatenate([one.values, other.values], axis=1)
    picked, left_over = _largest(values, min(size, values.shape[1]))
    outside = np.maximum(np.maximum(one.outside, other.outside), left_over)
    return Pool(take_in_rows(columns, picked), take_in_rows(values, picked), outside)


def take_in_rows(values: npt.NDArray[_Entry], columns: Int64Array) -> npt.NDArray[_Entry]:
    """Take ``values[r, columns[r, j]]`` of a C-contiguous array: `numpy.take_along_axis`, but faster.

    Parameters
    ----------
    values : array of shape (m, n)
        C-contiguous. Not changed.
    columns : int64 array of shape (m, p)
        From 0 to n - 1.

    Returns
    -------
    array of shape (m, p)
        Of the dtype of ``values``.
    """
    starts = np.arange(len(values))[:, None] * values.shape[1]
    return np.asarray(values.reshape(-1).take(columns + starts, mode="clip"))


def _largest(values: Float32Array, size: int) -> tuple[Int64Array, Float32Array]:
    """Positions of each row's ``size`` largest values, and the next largest value."""
    m, count = values.shape
    if size == count:
        return np.tile(np.arange(count), (m, 1)), np.full(m, -np.inf, dtype=np.float32)
    order = np.argpartition(values, count - size - 1, axis=1)
    next_largest = values[np.arange(m), order[:, count - size - 1]]
    return order[:, count - size :], next_largest
