"""The best unseen columns of every row: a matrix product's speed, and exact."""

from dataclasses import dataclass

import numpy as np

from recsys_spark.errors import NumericalError, ShapeError
from recsys_spark.kernels.arrays import BoolArray, Float32Array, Float64Array, Int32Array, Int64Array
from recsys_spark.kernels.candidate_pool import padded_count, select_pool, take_in_rows
from recsys_spark.kernels.full_ranking import best_of_rows, score_in_full
from recsys_spark.kernels.pair_scores import pair_scores

# 16 MB of float32 scores: a tile is read again while still in the third-level cache.
_MAX_TILE_FLOATS = 1 << 22
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
    seen_indptr: Int64Array,
    seen_columns: Int32Array,
) -> tuple[Int32Array, Float32Array]:
    """List each user's n best unseen items.

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
    seen_indptr : int64 array of shape (m + 1,)
        User u must not get the columns ``seen_columns[seen_indptr[u]:seen_indptr[u + 1]]``.
    seen_columns : int32 array of shape (nnz,)
        In any order within a user; repeats do no harm.

    Returns
    -------
    columns : int32 array of shape (m, n)
        -1 where fewer than n unseen items exist.
    scores : float32 array of shape (m, n)
        NaN there.

    Raises
    ------
    ShapeError
        If widths differ, n < 1, or a seen column is not an item.
    NumericalError
        If a vector is not finite or scores may overflow float32.

    Notes
    -----
    O(m n_items width) in float32 BLAS, plus little. Working memory is one tile of scores (16 MB, or 8 users)
    and two copies of the items.

    A float32 product picks a pool of candidates slightly larger than n, through the maxima of groups of
    items. The pool is scored again in float64. A dot product of k float32 terms is off by at most
    k u / (1 - k u) times |w| . |x| with u = 2**-24 (Higham 2002, eq. 3.5), which bounds the true score of
    everything outside the pool. A row whose n-th score does not beat that bound is ranked in full in float64.
    """
    _check_shapes(user_vectors, item_vectors, n, seen_indptr, seen_columns)
    n_users, n_items = len(user_vectors), len(item_vectors)
    columns = np.full((n_users, n), -1, dtype=np.int32)
    scores = np.full((n_users, n), np.nan, dtype=np.float32)
    if n_users == 0 or n_items == 0:
        return columns, scores
    ranking = _Ranking.prepare(user_vectors, item_vectors, biases, global_mean, min(n, n_items))
    tile = min(n_users, max(8, _MAX_TILE_FLOATS // padded_count(n_items)))
    # One buffer for all tiles: a fresh one each time would be mapped and zeroed by the system anew.
    buffer = np.empty((tile, padded_count(n_items)), dtype=np.float32)
    for first in range(0, n_users, tile):
        last = min(first + tile, n_users)
        seen_rows = np.repeat(np.arange(last - first), np.diff(seen_indptr[first : last + 1]))
        seen = seen_rows, seen_columns[seen_indptr[first] : seen_indptr[last]]
        found_columns, found_scores = ranking.rank(first, last, seen, buffer[: last - first])
        columns[first:last, : ranking.n] = found_columns
        scores[first:last, : ranking.n] = found_scores
    return columns, scores


@dataclass(frozen=True, slots=True)
class _Ranking:
    """What the tiles of one call share."""

    user_vectors: Float32Array
    item_vectors: Float32Array
    biases: bool
    global_mean: float
    n: int
    left: Float32Array
    """[w_u, 1] with biases, else w_u: the product's left factor."""
    right: Float32Array
    """[x_i, c_i] with biases, else x_i, one column per item, padded with zero columns."""
    bound: Float64Array
    """Per user: how far a float32 score may lie from the float64 one, the user's constant left out."""

    @classmethod
    def prepare(cls, users: Float32Array, items: Float32Array, biases: bool, global_mean: float, n: int) -> "_Ranking":
        """Lay out the factors of the product and bound its error."""
        left = np.array(users, dtype=np.float32)
        if biases:
            left[:, -1] = 1.0
        right = np.zeros((items.shape[1], padded_count(len(items))), dtype=np.float32)
        right[:, : len(items)] = items.T
        bound = _rounding_bound(left, items, users[:, -1] if biases else None, global_mean)
        return cls(users, items, biases, global_mean, n, left, right, bound)

    def rank(
        self, first: int, last: int, seen: tuple[Int64Array, Int32Array], approximate: Float32Array
    ) -> tuple[Int64Array, Float32Array]:
        """List the users first to last: columns of shape (last - first, n) and their scores."""
        np.matmul(self.left[first:last], self.right, out=approximate)
        approximate[seen] = -np.inf
        approximate[:, len(self.item_vectors) :] = -np.inf
        pool, values, outside = select_pool(approximate, self.n + _POOL_MARGIN)
        columns, scores = self._rescore(first, pool, values > -np.inf)
        # Rounding is monotone, so nothing outside the pool can score above its bound rounded to float32.
        reach = self._constants(first, last) + outside + self.bound[first:last]
        is_certain = (outside == -np.inf) | (reach.astype(np.float32) < scores[:, -1])
        uncertain = np.flatnonzero(~is_certain)
        step = max(1, _MAX_TILE_FLOATS // (2 * approximate.shape[1]))
        for start in range(0, len(uncertain), step):
            chunk = uncertain[start : start + step]
            is_open = approximate[chunk, : len(self.item_vectors)] > -np.inf
            columns[chunk], scores[chunk] = self._rank_in_full(first + chunk, is_open)
        is_empty = scores == -np.inf
        columns[is_empty], scores[is_empty] = -1, np.nan
        return columns, scores

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

    def _rank_in_full(self, users: Int64Array, is_open: BoolArray) -> tuple[Int64Array, Float32Array]:
        """Rank every open item of a few users by its exact score."""
        vectors = self.user_vectors[users]
        scores = score_in_full(vectors, self.item_vectors, self.global_mean, self.biases)
        scores[~is_open] = -np.inf
        return best_of_rows(scores, self.n)


def _rounding_bound(
    left: Float32Array, items: Float32Array, user_biases: Float32Array | None, global_mean: float
) -> Float64Array:
    """Bound, per user, the distance between the float32 product plus constants and the float64 score."""
    n_terms = left.shape[1]
    lengths = _row_norms(left) * _row_norms(items).max(initial=0.0)
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
    users: Float32Array, items: Float32Array, n: int, seen_indptr: Int64Array, seen_columns: Int32Array
) -> None:
    if users.ndim != 2 or items.ndim != 2 or users.shape[1] != items.shape[1] or users.shape[1] < 1:
        raise ShapeError(
            "user_vectors and item_vectors must have shapes (m, width) and (n_items, width >= 1), got "
            f"{users.shape} and {items.shape}"
        )
    if n < 1:
        raise ShapeError(f"n must be >= 1, got {n}")
    if len(seen_indptr) != len(users) + 1 or seen_indptr[-1] != len(seen_columns):
        raise ShapeError(
            f"seen_indptr must have {len(users) + 1} entries, the last {len(seen_columns)}, got "
            f"{len(seen_indptr)} entries ending in {seen_indptr[-1:]}"
        )
    if len(seen_columns) and (seen_columns.min() < 0 or seen_columns.max() >= len(items)):
        raise ShapeError(
            f"seen columns must lie in [0, {len(items)}), got {seen_columns.min()} to {seen_columns.max()}"
        )
