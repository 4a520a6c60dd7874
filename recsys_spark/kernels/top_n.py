"""The best columns of every row that are not excluded: a matrix product's speed, and exact."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recsys_spark.errors import NumericalError, ShapeError
from recsys_spark.kernels.arrays import BoolArray, Float32Array, Float64Array, Int32Array, Int64Array
from recsys_spark.kernels.candidate_pool import Pool, merge_pools, padded_count, select_pool, take_in_rows
from recsys_spark.kernels.full_ranking import best_of_rows, score_in_full
from recsys_spark.kernels.pair_scores import pair_scores

# 32 MB of float32 scores: enough users at once for a fast product.
_MAX_TILE_FLOATS = 1 << 23
# A block of more items would leave room for fewer users in the tile.
_MAX_BLOCK_COLUMNS = 1 << 15
# Pool places beyond n: what near-ties of float32 need, so that ranking in full stays rare.
_POOL_MARGIN = 6
_UNIT_ROUNDOFF_32 = 2.0**-24
_UNIT_ROUNDOFF_64 = 2.0**-53
_UNDERFLOW = 1e-36
# Half of float32's range: no partial sum of a product can overflow below it.
_MAX_SCORE = 1.7e38


def top_n(
    user_vectors: Float32Array,
    item_vectors: Float32Array,
    *,
    biases: bool,
    global_mean: float,
    n: int,
    excluded_indptr: Int64Array,
    excluded_columns: Int32Array,
) -> tuple[Int32Array, Float32Array]:
    """List each user's n best items, some of them excluded.

    The score is `pair_scores` rounded to float32. Best first; equal scores by lower column. The result is the
    one that scoring and sorting everything gives, bit for bit, whatever the division of users into calls.

    Parameters
    ----------
    user_vectors : float32 array of shape (m, width)
        Factors, then the bias if ``biases``. Not changed.
    item_vectors : float32 array of shape (n_items, width)
        Likewise.
    biases : bool
        Whether the last column holds biases.
    global_mean : float
        Mean rating.
    n : int >= 1
        Length of a list.
    excluded_indptr : int64 array of shape (m + 1,)
        User u must not get the columns ``excluded_columns[excluded_indptr[u]:excluded_indptr[u + 1]]``.
    excluded_columns : int32 array of shape (nnz,)
        In any order within a user; repeats do no harm.

    Returns
    -------
    columns : int32 array of shape (m, n)
        -1 where fewer than n items are left.
    scores : float32 array of shape (m, n)
        NaN there.

    Raises
    ------
    ShapeError
        If widths differ, n < 1, or an excluded column is not an item.
    NumericalError
        If a vector is not finite or scores may overflow float32.

    Notes
    -----
    O(m n_items width) in float32 BLAS, plus little. Items are taken in blocks of at most 32,768, so that working
    memory is one tile of scores (32 MB) and a few of its size in float64, whatever n_items.

    A float32 product picks a pool of candidates slightly larger than n, through the maxima of groups of
    items. The pool is scored again in float64. A dot product of k float32 terms is off by at most
    k u / (1 - k u) times ``|w| . |x|`` with u = 2**-24 (Higham 2002, eq. 3.5), which bounds the true score of
    everything outside the pool. A row whose n-th score does not beat that bound is ranked in full in float64.
    """
    _check_shapes(user_vectors, item_vectors, n, excluded_indptr, excluded_columns)
    n_users, n_items = len(user_vectors), len(item_vectors)
    columns = np.full((n_users, n), -1, dtype=np.int32)
    scores = np.full((n_users, n), np.nan, dtype=np.float32)
    if n_users == 0 or n_items == 0:
        return columns, scores
    ranking = _Ranking.prepare(user_vectors, item_vectors, biases, global_mean, min(n, n_items))
    block_columns = padded_count(min(n_items, _MAX_BLOCK_COLUMNS))
    tile = min(n_users, max(8, _MAX_TILE_FLOATS // block_columns))
    # One buffer for all tiles: a fresh one each time would be mapped and zeroed by the system anew.
    buffer = np.empty(tile * block_columns, dtype=np.float32)
    for first in range(0, n_users, tile):
        last = min(first + tile, n_users)
        rows = np.repeat(np.arange(last - first), np.diff(excluded_indptr[first : last + 1]))
        excluded = _Excluded(rows, excluded_columns[excluded_indptr[first] : excluded_indptr[last]])
        found_columns, found_scores = ranking.rank(first, last, excluded, buffer)
        columns[first:last, : ranking.n] = found_columns
        scores[first:last, : ranking.n] = found_scores
    return columns, scores


@dataclass(frozen=True, slots=True)
class _Excluded:
    """Pairs of a tile's row and an item's column that must not be listed."""

    rows: Int64Array
    columns: Int32Array

    def within(self, first: int, last: int) -> "_Excluded":
        """Return the pairs in a block of columns, which are then counted from its first."""
        is_inside = (self.columns >= first) & (self.columns < last)
        return _Excluded(self.rows[is_inside], self.columns[is_inside] - first)

    def of_rows(self, chosen: Int64Array, n_rows: int) -> "_Excluded":
        """Return the pairs of some of ``n_rows`` rows, which are then counted within the chosen ones."""
        place = np.full(n_rows, -1)
        place[chosen] = np.arange(len(chosen))
        is_chosen = place[self.rows] >= 0
        return _Excluded(place[self.rows[is_chosen]], self.columns[is_chosen])


@dataclass(frozen=True, slots=True)
class _Ranking:
    """What the tiles of one call share."""

    user_vectors: Float32Array
    item_vectors: Float32Array
    biases: bool
    global_mean: float
    n: int
    left: Float32Array
    """[w_u, 1] with biases, else w_u: the left factor of the product with the items."""
    bound: Float64Array
    """Per user: how far a float32 score may lie from the float64 one, the user's constant left out."""

    @classmethod
    def prepare(cls, users: Float32Array, items: Float32Array, biases: bool, global_mean: float, n: int) -> "_Ranking":
        """Lay out the left factor of the product and bound its error."""
        left = np.array(users, dtype=np.float32)
        if biases:
            left[:, -1] = 1.0
        bound = _rounding_bound(left, items, users[:, -1] if biases else None, global_mean)
        return cls(users, items, biases, global_mean, n, left, bound)

    def rank(self, first: int, last: int, excluded: _Excluded, buffer: Float32Array) -> tuple[Int64Array, Float32Array]:
        """List the users first to last: columns of shape (last - first, n) and their scores."""
        pool = self._pool(first, last, excluded, buffer)
        columns, scores = self._rescore(first, pool.columns, pool.values > -np.inf)
        # Rounding is monotone, so nothing outside the pool can score above its bound rounded to float32.
        reach = self._constants(first, last) + pool.outside + self.bound[first:last]
        is_certain = (pool.outside == -np.inf) | (reach.astype(np.float32) < scores[:, -1])
        uncertain = np.flatnonzero(~is_certain)
        step = max(1, _MAX_TILE_FLOATS // (2 * min(len(self.item_vectors), _MAX_BLOCK_COLUMNS)))
        for start in range(0, len(uncertain), step):
            chunk = uncertain[start : start + step]
            columns[chunk], scores[chunk] = self._rank_in_full(first + chunk, excluded.of_rows(chunk, last - first))
        is_empty = scores == -np.inf
        columns[is_empty], scores[is_empty] = -1, np.nan
        return columns, scores

    def _blocks(self) -> Iterator[tuple[int, int]]:
        """First and last column of each block of items."""
        n_items = len(self.item_vectors)
        for first in range(0, n_items, _MAX_BLOCK_COLUMNS):
            yield first, min(first + _MAX_BLOCK_COLUMNS, n_items)

    def _pool(self, first: int, last: int, excluded: _Excluded, buffer: Float32Array) -> Pool:
        """Pick candidates of the users first to last by float32 scores, block of items by block."""
        size, pool = self.n + _POOL_MARGIN, None
        for low, high in self._blocks():
            n_columns, n_padded = high - low, padded_count(high - low)
            scores = buffer[: (last - first) * n_padded].reshape(last - first, n_padded)
            np.matmul(self.left[first:last], self.item_vectors[low:high].T, out=scores[:, :n_columns])
            inside = excluded.within(low, high)
            scores[inside.rows, inside.columns] = -np.inf
            scores[:, n_columns:] = -np.inf
            found = select_pool(scores, size)
            found = found._replace(columns=found.columns + low)
            pool = found if pool is None else merge_pools(pool, found, size)
        assert pool is not None
        return pool

    def _constants(self, first: int, last: int) -> Float64Array:
        """Global mean and user bias: what all scores of a user share."""
        constants = np.full(last - first, self.global_mean)
        if self.biases:
            constants += self.user_vectors[first:last, -1]
        return constants

    def _rescore(self, first: int, pool: Int64Array, is_open: BoolArray) -> tuple[Int64Array, Float32Array]:
        """Score the pool in float64 and sort it: the n best columns and their float32 scores."""
        m, size = pool.shape
        # Padding columns are not items: any item stands in for them, and for -inf it does not matter which.
        columns = np.where(is_open, pool, 0)
        users = np.repeat(self.user_vectors[first : first + m], size, axis=0)
        items = self.item_vectors.take(columns.reshape(-1), axis=0, mode="clip")
        exact = pair_scores(users, items, self.global_mean, self.biases).astype(np.float32)
        scores = np.where(is_open, exact.reshape(m, size), np.float32(-np.inf))
        order = np.lexsort((pool, -scores), axis=1)[:, : self.n]
        return take_in_rows(pool, order), take_in_rows(scores, order)

    def _rank_in_full(self, users: Int64Array, excluded: _Excluded) -> tuple[Int64Array, Float32Array]:
        """Rank every item of a few users by its exact score."""
        vectors = self.user_vectors[users]
        columns, scores = np.empty((len(users), 0), np.int64), np.empty((len(users), 0), np.float32)
        for low, high in self._blocks():
            exact = score_in_full(vectors, self.item_vectors[low:high], self.global_mean, self.biases)
            inside = excluded.within(low, high)
            exact[inside.rows, inside.columns] = -np.inf
            found, found_scores = best_of_rows(exact, min(self.n, high - low))
            columns = np.concatenate([columns, found + low], axis=1)
            scores = np.concatenate([scores, found_scores], axis=1)
            order = np.lexsort((columns, -scores), axis=1)[:, : self.n]
            columns, scores = take_in_rows(columns, order), take_in_rows(scores, order)
        return columns, scores


def _rounding_bound(
    left: Float32Array, items: Float32Array, user_biases: Float32Array | None, global_mean: float
) -> Float64Array:
    """Bound, per user, the distance between the float32 product plus constants and the float64 score."""
    n_terms = left.shape[1]
    # In parts: in double precision the items would be twice their size again.
    parts = (items[low : low + _MAX_BLOCK_COLUMNS] for low in range(0, len(items), _MAX_BLOCK_COLUMNS))
    # Not the built-in max, which would pass over a NaN.
    lengths = _row_norms(left) * np.max([_row_norms(part).max(initial=0.0) for part in parts], initial=0.0)
    constants = abs(global_mean) + (0.0 if user_biases is None else abs(user_biases.astype(np.float64)))
    if not np.isfinite(lengths + constants).all() or (lengths + constants).max() > _MAX_SCORE:
        raise NumericalError(
            "vectors must be finite and their scores fit float32, got some that do not; look for diverged "
            "training: raise reg_param or check the ratings' range"
        )
    gamma = n_terms * _UNIT_ROUNDOFF_32 / (1 - n_terms * _UNIT_ROUNDOFF_32)
    in_float64 = 4 * (n_terms + 3) * _UNIT_ROUNDOFF_64 * (lengths + constants)
    return np.asarray(1.01 * gamma * lengths + in_float64 + _UNDERFLOW)


def _row_norms(vectors: Float32Array) -> Float64Array:
    wide = vectors.astype(np.float64)
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", wide, wide)))


def _check_shapes(
    users: Float32Array, items: Float32Array, n: int, excluded_indptr: Int64Array, excluded_columns: Int32Array
) -> None:
    if users.ndim != 2 or items.ndim != 2 or users.shape[1] != items.shape[1] or users.shape[1] < 1:
        raise ShapeError(
            "user_vectors and item_vectors must have shapes (m, width) and (n_items, width >= 1), got "
            f"{users.shape} and {items.shape}"
        )
    if n < 1:
        raise ShapeError(f"n must be >= 1, got {n}")
    if len(excluded_indptr) != len(users) + 1 or excluded_indptr[-1] != len(excluded_columns):
        raise ShapeError(
            f"excluded_indptr must have {len(users) + 1} entries, the last {len(excluded_columns)}, got "
            f"{len(excluded_indptr)} entries ending in {excluded_indptr[-1:]}"
        )
    if len(excluded_columns) and (excluded_columns.min() < 0 or excluded_columns.max() >= len(items)):
        raise ShapeError(
            f"excluded columns must lie in [0, {len(items)}), got {excluded_columns.min()} to {excluded_columns.max()}"
        )
