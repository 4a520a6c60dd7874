"""The best columns of every row with at most so many of each category: exact, by a few rounds of top-n."""

from typing import NamedTuple

import numpy as np

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.arrays import BoolArray, Float32Array, Int32Array, Int64Array
from recsys_spark.kernels.candidate_pool import take_in_rows
from recsys_spark.kernels.top_n import top_n

# Places of a round: so many that nearly all users are done with the first one.
_PLACES_PER_ITEM, _SPARE_PLACES = 2, 32
# Pairs of a user and an item of a full category that one call excludes: 48 MB.
_MAX_PAIRS = 1 << 22


class _Waiting(NamedTuple):
    """Users whose lists are not full yet, and what they were given of the categories that are."""

    users: Int64Array
    columns: Int32Array
    scores: Float32Array


def capped_top_n(
    user_vectors: Float32Array,
    item_vectors: Float32Array,
    *,
    biases: bool,
    global_mean: float,
    n: int,
    categories: Int32Array,
    max_per_category: int,
    excluded_indptr: Int64Array,
    excluded_columns: Int32Array,
) -> tuple[Int32Array, Float32Array]:
    """List each user's n best items, no more than some of each category.

    The list is what a walk down the user's whole ranking gives (`top_n` without end) that passes over items whose
    category has its share already, until n items are found or the ranking ends. A shorter list is therefore the
    beginning of a longer one.

    Parameters
    ----------
    user_vectors, item_vectors, biases, global_mean, n, excluded_indptr, excluded_columns
        As of `top_n`.
    categories : int32 array of shape (n_items,)
        Number of each item's category, from 0; -1: none, and no limit.
    max_per_category : int >= 1
        Items of one category in a list.

    Returns
    -------
    columns : int32 array of shape (m, n)
        -1 where fewer items are left under the limit.
    scores : float32 array of shape (m, n)
        NaN there.

    Raises
    ------
    ShapeError
        As `top_n`, or if ``categories`` does not fit the items, or max_per_category < 1.
    NumericalError
        As `top_n`.

    Notes
    -----
    A round takes the best ``2 n + 32`` items of each user and walks down them. Where that is not enough, the
    categories that are full are excluded whole and the user goes into the next round. Each round that does not
    finish a user fills one category more of theirs, so that there are at most ``1 + (n - 1) // max_per_category``
    rounds, each as dear as `top_n` for the users that are left; nearly all need one or two.
    """
    if categories.shape != (len(item_vectors),) or max_per_category < 1:
        raise ShapeError(
            f"categories must have shape ({len(item_vectors)},) and max_per_category be >= 1, got "
            f"{categories.shape} and {max_per_category}"
        )
    n_users = len(user_vectors)
    columns, scores = np.full((n_users, n), -1, np.int32), np.full((n_users, n), np.nan, np.float32)
    size = max(1, min(len(item_vectors), _PLACES_PER_ITEM * n + _SPARE_PLACES))
    members = _Ragged.of_groups(categories)
    everything = _Ragged(excluded_indptr, excluded_columns)
    waiting = [_Waiting(np.arange(n_users), columns[:, :0], scores[:, :0])]
    while waiting:
        users, full_columns, full_scores = waiting.pop()
        excluded = everything
        if full_columns.shape[1]:
            full = members.rows_of_groups(*_distinct_groups(full_columns, categories), len(users))
            excluded = everything.take(users).beside(full)
        best, best_scores = top_n(
            user_vectors[users] if full_columns.shape[1] else user_vectors,
            item_vectors,
            biases=biases,
            global_mean=global_mean,
            n=size,
            excluded_indptr=excluded.indptr,
            excluded_columns=excluded.values,
        )
        is_last = best[:, -1] < 0 if size < len(item_vectors) else np.full(len(users), True)
        best, best_scores = _in_one_order(full_columns, full_scores, best, best_scores)
        is_taken, is_full = walk_down(best, categories, max_per_category)
        is_done = is_last | (is_taken.sum(axis=1) >= n)
        done, rest = np.flatnonzero(is_done), np.flatnonzero(~is_done)
        columns[users[done]], scores[users[done]] = _leftmost(best[done], best_scores[done], is_taken[done], n)
        if len(rest):
            left = _leftmost(best[rest], best_scores[rest], (is_taken & is_full)[rest], n)
            waiting += _in_parts(_Waiting(users[rest], *left), categories, members)
    return columns, scores


def walk_down(columns: Int32Array, categories: Int32Array, max_per_category: int) -> tuple[BoolArray, BoolArray]:
    """Say which entries of some rankings a walk takes that passes over full categories.

    Parameters
    ----------
    columns : int32 array of shape (m, p)
        Best first; -1 where a ranking is shorter.
    categories : int32 array of shape (n_items,)
        -1: none.
    max_per_category : int >= 1

    Returns
    -------
    is_taken : bool array of shape (m, p)
    is_full : bool array of shape (m, p)
        Whether the entry's category has as many entries in the row as may be taken, or more.
    """
    of_entry = np.where(columns >= 0, categories.take(columns, mode="clip"), -1) if categories.size else columns
    # Stable: the entries of one category stay in their order.
    order = np.argsort(of_entry, axis=1, kind="stable")
    groups = take_in_rows(of_entry, order)
    place = np.broadcast_to(np.arange(columns.shape[1]), columns.shape)
    begins = np.ones(columns.shape, bool)
    begins[:, 1:] = groups[:, 1:] != groups[:, :-1]
    first = np.maximum.accumulate(np.where(begins, place, 0), axis=1)
    number = place - first
    last_of_share = number == max_per_category - 1
    fills = np.zeros(columns.shape, bool)
    rows, places = np.nonzero(last_of_share & (groups >= 0))
    fills[rows, first[rows, places]] = True
    is_taken, is_full = np.empty(columns.shape, bool), np.empty(columns.shape, bool)
    np.put_along_axis(is_taken, order, (groups < 0) | (number < max_per_category), axis=1)
    np.put_along_axis(is_full, order, take_in_rows(fills, first), axis=1)
    return is_taken & (columns >= 0), is_full


class _Ragged(NamedTuple):
    """Rows of different lengths: row r is ``values[indptr[r]:indptr[r + 1]]``."""

    indptr: Int64Array
    values: Int32Array

    @classmethod
    def of_groups(cls, group_of_value: Int32Array) -> "_Ragged":
        """Return the values 0, 1, ... by group, those of group -1 left out."""
        grouped = np.flatnonzero(group_of_value >= 0)
        order = grouped[np.argsort(group_of_value[grouped], kind="stable")]
        sizes = np.bincount(group_of_value[grouped])
        return cls(_starts(sizes), order.astype(np.int32))

    def take(self, rows: Int64Array) -> "_Ragged":
        """Return some of the rows."""
        lengths = np.diff(self.indptr)[rows]
        indptr = _starts(lengths)
        places = np.arange(indptr[-1]) + np.repeat(self.indptr[rows] - indptr[:-1], lengths)
        return _Ragged(indptr, self.values[places])

    def rows_of_groups(self, rows: Int64Array, groups: Int64Array, n_rows: int) -> "_Ragged":
        """Return rows that hold the values of the groups that pairs (row, group), sorted by row, name."""
        taken = self.take(groups)
        first_pair = np.searchsorted(rows, np.arange(n_rows + 1))
        return _Ragged(taken.indptr[first_pair], taken.values)

    def beside(self, other: "_Ragged") -> "_Ragged":
        """Return rows that hold the values of both."""
        values = np.empty(len(self.values) + len(other.values), np.int32)
        for one, before in ((self, other.indptr[:-1]), (other, self.indptr[1:])):
            values[np.arange(len(one.values)) + np.repeat(before, np.diff(one.indptr))] = one.values
        return _Ragged(self.indptr + other.indptr, values)


def _starts(lengths: Int64Array) -> Int64Array:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _distinct_groups(columns: Int32Array, categories: Int32Array) -> tuple[Int64Array, Int64Array]:
    """Return the distinct pairs (row, category) of the entries, sorted by row."""
    rows, places = np.nonzero(columns >= 0)
    stride = np.int64(categories.max(initial=0)) + 1
    keys = np.unique(rows * stride + categories[columns[rows, places]])
    return keys // stride, keys % stride


def _in_one_order(
    one: Int32Array, one_scores: Float32Array, other: Int32Array, other_scores: Float32Array
) -> tuple[Int32Array, Float32Array]:
    """Sort the entries of two lists per row: best first, ties by lower column."""
    if not one.shape[1]:
        return other, other_scores
    columns, scores = np.concatenate([one, other], axis=1), np.concatenate([one_scores, other_scores], axis=1)
    order = np.lexsort((columns, -scores, columns < 0), axis=1)
    return take_in_rows(columns, order), take_in_rows(scores, order)


def _leftmost(
    columns: Int32Array, scores: Float32Array, is_chosen: BoolArray, n: int
) -> tuple[Int32Array, Float32Array]:
    """Return the first n chosen entries of each row, filled up with -1 and NaN."""
    place = np.cumsum(is_chosen, axis=1) - 1
    rows, entries = np.nonzero(is_chosen & (place < n))
    chosen, chosen_scores = np.full((len(columns), n), -1, np.int32), np.full((len(columns), n), np.nan, np.float32)
    chosen[rows, place[rows, entries]] = columns[rows, entries]
    chosen_scores[rows, place[rows, entries]] = scores[rows, entries]
    return chosen, chosen_scores


def _in_parts(waiting: _Waiting, categories: Int32Array, members: _Ragged) -> list[_Waiting]:
    """Divide users so that the items of their full categories are not too many for one call."""
    rows, groups = _distinct_groups(waiting.columns, categories)
    pairs = np.bincount(rows, weights=np.diff(members.indptr)[groups], minlength=len(waiting.users))
    part = (np.cumsum(pairs) // _MAX_PAIRS).astype(np.int64)
    bounds = np.flatnonzero(np.diff(part)) + 1
    return [_Waiting(*arrays) for arrays in zip(*(np.split(array, bounds) for array in waiting), strict=True)]
