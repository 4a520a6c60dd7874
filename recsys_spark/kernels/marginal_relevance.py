"""Re-ranking for variety: maximal marginal relevance on the cosine of item factors."""

import numpy as np

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.arrays import Float32Array, Float64Array, Int32Array
from recsys_spark.kernels.candidate_pool import take_in_rows

# Entries of pools whose items are scaled to unit vectors together, and how many factors of them stay in the cache.
_MAX_ENTRIES = 1 << 17
_MAX_FLOATS = 1 << 17
# Coordinates of unit vectors are multiples of this, which float32 has; products are multiples of its square, whose
# sums float64 holds exactly: a cosine does not depend on the order in which BLAS adds.
_GRID = 2.0**-24


def rerank(
    columns: Int32Array, scores: Float32Array, item_factors: Float32Array, *, relevance_weight: float, n: int
) -> tuple[Int32Array, Float32Array]:
    """Choose n items of each user's pool one after the other: good ones that are unlike those before them.

    The next item is the one of largest marginal relevance ``weight * relevance(i) - (1 - weight) * max over the
    chosen j of cosine(i, j)``, rounded to float32; equal ones by lower column. Relevance is the score, scaled so
    that the best of the pool has 1 and the last 0 (all 1 where they are equal). Before anything is chosen, the
    largest cosine counts as -1, so that the best of the pool comes first, with 1. As the largest cosine can only
    grow, marginal relevance never rises along a list, and a shorter list is the beginning of a longer one.

    Parameters
    ----------
    columns : int32 array of shape (m, p)
        Each user's pool: items in any order, -1 where there are fewer than p.
    scores : float32 array of shape (m, p)
        Their scores.
    item_factors : float32 array of shape (n_items, rank)
        Of items, by column; one of length 0 has cosine 0 with all.
    relevance_weight : float in (0, 1]
        Lambda of the paper; 1 keeps the order of the scores.
    n : int >= 1
        Length of a list.

    Returns
    -------
    columns : int32 array of shape (m, n)
        -1 where the pool has no more.
    values : float32 array of shape (m, n)
        Marginal relevance when the item was chosen; NaN there.

    Raises
    ------
    ShapeError
        If the shapes differ or the weight is none.

    Notes
    -----
    O(m n p rank). Unit vectors are rounded to multiples of 2**-24, which makes cosines exact sums in float64:
    users have the same lists, bit for bit, in any company.

    References
    ----------
    Carbonell, Goldstein (1998), The use of MMR, diversity-based reranking for reordering documents and producing
    summaries. doi:10.1145/290941.291025
    """
    if columns.shape != scores.shape or columns.ndim != 2 or not 0 < relevance_weight <= 1 or n < 1:
        raise ShapeError(
            "columns and scores must have one shape (m, p), relevance_weight lie in (0, 1] and n be >= 1, got "
            f"{columns.shape}, {scores.shape}, {relevance_weight} and {n}"
        )
    m, p = columns.shape
    chosen, values = np.full((m, n), -1, np.int32), np.full((m, n), np.nan, np.float32)
    if item_factors.size == 0:
        # Without factors all cosines are 0: one coordinate says so.
        item_factors = np.zeros((max(1, len(item_factors)), 1), np.float32)
    rank = item_factors.shape[1]
    together, step = (max(1, most // max(1, p * wide)) for most, wide in ((_MAX_ENTRIES, 1), (_MAX_FLOATS, rank)))
    for start in range(0, m, together):
        items, place_of_entry = np.unique(columns[start : start + together], return_inverse=True)
        units, place_of_entry = (
            _unit_vectors(item_factors.take(items, axis=0, mode="clip")),
            place_of_entry.reshape(-1, p),
        )
        for first in range(start, min(start + together, m), step):
            part = slice(first, min(first + step, start + together))
            # By column, so that the first of equal ones is the lowest.
            order = np.argsort(columns[part], axis=1, kind="stable")
            pool, pool_scores = take_in_rows(columns[part], order), take_in_rows(scores[part], order)
            places = take_in_rows(place_of_entry[first - start : part.stop - start], order)
            chosen[part], values[part] = _choose(pool, pool_scores, units[places], relevance_weight, n)
    return chosen, values


def _choose(
    pool: Int32Array, scores: Float32Array, unit_vectors: Float32Array, weight: float, n: int
) -> tuple[Int32Array, Float32Array]:
    m, p = pool.shape
    units = unit_vectors.astype(np.float64)
    relevance = weight * _scaled(scores, pool >= 0)
    is_open = pool >= 0
    largest_cosine = np.full((m, p), -1.0)
    users = np.arange(m)
    chosen, values = np.full((m, n), -1, np.int32), np.full((m, n), np.nan, np.float32)
    for place in range(min(n, p)):
        marginal = (relevance - (1 - weight) * largest_cosine).astype(np.float32)
        best = np.where(is_open, marginal, np.float32(-np.inf)).argmax(axis=1)
        found = is_open[users, best]
        chosen[found, place], values[found, place] = pool[users, best][found], marginal[users, best][found]
        is_open[users, best] = False
        cosines = np.matmul(units, units[users, best][:, :, None])[:, :, 0]
        np.maximum(largest_cosine, cosines, out=largest_cosine)
    return chosen, values


def _scaled(scores: Float32Array, is_item: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Float64Array:
    """Scale each row's scores to 0..1; rows whose scores are equal get 1."""
    wide = scores.astype(np.float64)
    lowest = np.where(is_item, wide, np.inf).min(axis=1, initial=np.inf, keepdims=True)
    highest = np.where(is_item, wide, -np.inf).max(axis=1, initial=-np.inf, keepdims=True)
    is_spread = highest > lowest
    spread = np.where(is_spread, highest - lowest, 1.0)
    return np.where(
        is_spread & is_item, (np.where(is_item, wide, 0.0) - np.where(is_spread, lowest, 0.0)) / spread, 1.0
    )


def _unit_vectors(vectors: Float32Array) -> Float32Array:
    units = np.empty(vectors.shape, np.float32)
    step = max(1, _MAX_FLOATS // vectors.shape[1])
    for first in range(0, len(vectors), step):
        wide = vectors[first : first + step].astype(np.float64)
        lengths = np.sqrt(np.square(wide).sum(axis=1, keepdims=True))
        wide /= np.where(lengths > 0, lengths, 1.0)
        units[first : first + step] = np.rint(wide / _GRID) * _GRID
    return units
