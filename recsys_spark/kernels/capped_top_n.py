"""The best columns of every row with at most so many of each category: exact, by a few calls of top-n."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.arrays import BoolArray, Float32Array, Int32Array, Int64Array
from recsys_spark.kernels.candidate_pool import take_in_rows
from recsys_spark.kernels.ragged_rows import RaggedRows, starts
from recsys_spark.kernels.top_n import top_n

# Places of a walk: so many that nearly all users are done with the first one.
_PLACES_PER_ITEM, _SPARE_PLACES = 2, 32
# So many categories may take a call of top_n each.
_FEW_CATEGORIES = 128
# Pairs of a user and an item that are held at once: 48 MB.
_MAX_PAIRS = 1 << 22


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
    A walk down the best ``2 n + 32`` items is enough for nearly all users. The others are finished in one of two
    ways. Where categories are at most 128, the best of each are found, one category after the other: that costs a
    `top_n` of these users and about a millisecond per category. Otherwise the categories that are full are excluded
    whole before the next walk. Each walk fills one category of every user at least, so that there are at most
    ``1 + (n - 1) // max_per_category``.
    """
    if categories.shape != (len(item_vectors),) or max_per_category < 1:
        raise ShapeError(
            f"categories must have shape ({len(item_vectors)},) and max_per_category be >= 1, got "
            f"{categories.shape} and {max_per_category}"
        )
    ranking = _Ranking(
        user_vectors, item_vectors, biases, global_mean, n, categories, max_per_category,
        # The items without a category are the first row.
        RaggedRows.by_group(categories + 1, int(categories.max(initial=-1)) + 2),
        RaggedRows(excluded_indptr, excluded_columns),
        np.full((len(user_vectors), n), -1, np.int32),
        np.full((len(user_vectors), n), np.nan, np.float32),
    )  # fmt: skip
    nothing = ranking.columns[:, :0], ranking.scores[:, :0]
    waiting = _Waiting(np.arange(len(user_vectors)), *nothing)
    has_few = np.count_nonzero(ranking.members.lengths) <= _FEW_CATEGORIES
    # No walk is long enough where all that may be listed is not.
    if not (has_few and ranking.shares.sum() < n):
        waiting = ranking.walk(waiting)
    if has_few:
        ranking.list_by_category(waiting.users)
        return ranking.columns, ranking.scores
    parts = ranking.in_parts(waiting)
    while parts:
        parts += ranking.in_parts(ranking.walk(parts.pop()))
    return ranking.columns, ranking.scores


def capped_top_n_with_new(
    user_vectors: Float32Array,
    item_vectors: Float32Array,
    *,
    is_new: BoolArray,
    max_new: int,
    excluded_indptr: Int64Array,
    excluded_columns: Int32Array,
    **limits: Any,
) -> tuple[Int32Array, Float32Array]:
    """List each user's n best items, no more than some of each category, and no more than some new ones in all.

    The list is what a walk gives that passes over items whose category has its share, and over new items once there
    are enough of them.

    Parameters
    ----------
    user_vectors, item_vectors, excluded_indptr, excluded_columns
        As of `capped_top_n`.
    is_new : bool array of shape (n_items,)
    max_new : int >= 1
        New items in a list, of whatever category.
    **limits
        The other parameters of `capped_top_n`.

    Returns
    -------
    columns : int32 array of shape (m, n)
    scores : float32 array of shape (m, n)
        As of `capped_top_n`.

    Raises
    ------
    ShapeError
        As `capped_top_n`, or if ``is_new`` does not fit the items, or max_new < 1.

    Notes
    -----
    Up to its last new item, the walk is the one of `capped_top_n`; from there on, it is that of a user who may have no
    other new item. So those whose list has too many of them are ranked once more, without any but their first: the cost
    is that of a second list, and for each of these users of as many pairs as there are new items, 4 million at once.
    """
    if is_new.shape != (len(item_vectors),) or max_new < 1:
        raise ShapeError(
            f"is_new must have shape ({len(item_vectors)},) and max_new be >= 1, got {is_new.shape} and {max_new}"
        )
    excluded = RaggedRows(excluded_indptr, excluded_columns)
    columns, scores = capped_top_n(
        user_vectors, item_vectors, excluded_indptr=excluded_indptr, excluded_columns=excluded_columns, **limits
    )
    new = np.flatnonzero(is_new).astype(np.int32)
    takes_new = np.isin(columns, new)
    number = np.cumsum(takes_new, axis=1)
    over = np.flatnonzero(number[:, -1] > max_new)
    step = max(1, _MAX_PAIRS // max(1, len(new)))
    for users in (over[first : first + step] for first in range(0, len(over), step)):
        is_passed = np.ones((len(users), len(new)), bool)
        rows, places = np.nonzero(takes_new[users] & (number[users] <= max_new))
        is_passed[rows, np.searchsorted(new, columns[users[rows], places])] = False
        passed = RaggedRows(starts(is_passed.sum(axis=1)), new[np.nonzero(is_passed)[1]])
        hidden = excluded.take(users).beside(passed)
        columns[users], scores[users] = capped_top_n(
            user_vectors[users], item_vectors, excluded_indptr=hidden.indptr, excluded_columns=hidden.values, **limits
        )
    return columns, scores


def places_walked(n: int) -> int:
    """Return how many places of the ranking of each user the first walk for a list of n takes."""
    return _PLACES_PER_ITEM * n + _SPARE_PLACES


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
    begins = np.ones(columns.shape, bool)
    begins[:, 1:] = groups[:, 1:] != groups[:, :-1]
    place = np.arange(columns.shape[1])
    first = np.maximum.accumulate(np.where(begins, place, 0), axis=1)
    number = place - first
    fills = np.zeros(columns.shape, bool)
    rows, places = np.nonzero((number == max_per_category - 1) & (groups >= 0))
    fills[rows, first[rows, places]] = True
    is_taken, is_full = np.empty(columns.shape, bool), np.empty(columns.shape, bool)
    np.put_along_axis(is_taken, order, (groups < 0) | (number < max_per_category), axis=1)
    np.put_along_axis(is_full, order, take_in_rows(fills, first), axis=1)
    return is_taken & (columns >= 0), is_full


class _Waiting(NamedTuple):
    """Users whose lists are not done, and what they have of the categories that are full, as (m, n) arrays."""

    users: Int64Array
    columns: Int32Array
    scores: Float32Array


@dataclass(frozen=True, slots=True)
class _Ranking:
    user_vectors: Float32Array
    item_vectors: Float32Array
    biases: bool
    global_mean: float
    n: int
    categories: Int32Array
    max_per_category: int
    members: RaggedRows
    """Columns without a category, then those of each category."""
    excluded: RaggedRows
    columns: Int32Array
    """The lists that are done, as far as they are."""
    scores: Float32Array

    @property
    def shares(self) -> Int64Array:
        """How many of each row of ``members`` a list may have."""
        shares = np.minimum(self.members.lengths, min(self.max_per_category, self.n))
        shares[0] = min(int(self.members.lengths[0]), self.n)
        return shares

    def walk(self, waiting: _Waiting) -> _Waiting:
        """Walk down the best items of users, store the lists that are done, and return the others."""
        users = waiting.users
        owner, category = self._distinct_categories(waiting.columns)
        full = self.members.take(category + 1).joined(owner, len(users))
        excluded = self.excluded.take(users).beside(full)
        size = max(1, min(len(self.item_vectors), places_walked(self.n)))
        best, best_scores = self._top(users, slice(None), size, excluded)
        is_last = best[:, -1] < 0 if size < len(self.item_vectors) else np.full(len(users), True)
        if waiting.columns.shape[1]:
            best = np.concatenate([waiting.columns, best], axis=1)
            best, best_scores = _best_first(best, np.concatenate([waiting.scores, best_scores], axis=1))
        is_taken, is_full = walk_down(best, self.categories, self.max_per_category)
        is_done = is_last | (is_taken.sum(axis=1) >= self.n)
        done, rest = np.flatnonzero(is_done), np.flatnonzero(~is_done)
        lists = _leftmost(best[done], best_scores[done], is_taken[done], self.n)
        self.columns[users[done]], self.scores[users[done]] = lists
        return _Waiting(users[rest], *_leftmost(best[rest], best_scores[rest], (is_taken & is_full)[rest], self.n))

    def list_by_category(self, users: Int64Array) -> None:
        """Find the best of each category for some users, and of these the best; store the lists."""
        ends = starts(self.shares)
        step = max(1, _MAX_PAIRS // max(1, int(ends[-1])))
        for chunk in (users[first : first + step] for first in range(0, len(users), step)):
            columns = np.full((len(chunk), ends[-1]), -1, np.int32)
            scores = np.full((len(chunk), ends[-1]), np.nan, np.float32)
            for group, excluded in self._excluded_by_group(chunk):
                part = slice(ends[group], ends[group + 1])
                items = self.members.row(group)
                places, scores[:, part] = self._top(chunk, items, int(self.shares[group]), excluded)
                columns[:, part] = np.where(places >= 0, items.take(places, mode="clip"), -1)
            columns, scores = _best_first(columns, scores)
            self.columns[chunk, : ends[-1]], self.scores[chunk, : ends[-1]] = columns[:, : self.n], scores[:, : self.n]

    def in_parts(self, waiting: _Waiting) -> list[_Waiting]:
        """Divide users so that the items of their full categories are not too many at once."""
        if not len(waiting.users):
            return []
        owner, category = self._distinct_categories(waiting.columns)
        pairs = np.bincount(owner, weights=self.members.lengths[category + 1], minlength=len(waiting.users))
        bounds = np.flatnonzero(np.diff(np.cumsum(pairs) // _MAX_PAIRS)) + 1
        return [_Waiting(*arrays) for arrays in zip(*(np.split(array, bounds) for array in waiting), strict=True)]

    def _top(
        self, users: Int64Array, items: Int32Array | slice, n: int, excluded: RaggedRows
    ) -> tuple[Int32Array, Float32Array]:
        return top_n(
            self.user_vectors[users],
            self.item_vectors[items],
            biases=self.biases,
            global_mean=self.global_mean,
            n=n,
            excluded_indptr=excluded.indptr,
            excluded_columns=excluded.values,
        )

    def _distinct_categories(self, columns: Int32Array) -> tuple[Int64Array, Int64Array]:
        """Return the distinct pairs (row, category) of the entries, by row."""
        rows, places = np.nonzero(columns >= 0)
        stride = np.int64(len(self.members.indptr))
        keys = np.unique(rows * stride + self.categories[columns[rows, places]])
        return keys // stride, keys % stride

    def _excluded_by_group(self, users: Int64Array) -> Iterator[tuple[int, RaggedRows]]:
        """Return what is excluded by row of ``members``, as places in it; rows without members are left out."""
        lengths = self.members.lengths
        place = np.empty(len(self.categories), np.int32)
        place[self.members.values] = np.arange(len(place)) - np.repeat(self.members.indptr[:-1], lengths)
        own = self.excluded.take(users)
        groups = self.categories[own.values] + 1
        order = np.argsort(groups, kind="stable")
        rows = np.repeat(np.arange(len(users)), own.lengths)[order]
        places, ends = place[own.values[order]], starts(np.bincount(groups, minlength=len(lengths)))
        for group in np.flatnonzero(lengths).tolist():
            part = slice(ends[group], ends[group + 1])
            yield group, RaggedRows(np.searchsorted(rows[part], np.arange(len(users) + 1)), places[part])


def _best_first(columns: Int32Array, scores: Float32Array) -> tuple[Int32Array, Float32Array]:
    """Sort the entries of each row: largest score first, equal ones by column, -1 last."""
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
