"""How well lists of recommended columns match held-out relevant ones. Relevance is binary.

All functions take the same three arrays:

* ``columns``, int32 of shape (m, n): each user's list, best first; -1 where a list is shorter than n.
* ``relevant_indptr``, int64 of shape (m + 1,), and ``relevant_columns``, integers of shape (nnz,): user u's
  held-out columns are ``relevant_columns[relevant_indptr[u]:relevant_indptr[u + 1]]``, each once, any order.

A user without held-out columns has no defined metric and gets NaN, so that all three metrics average over the
same users with `numpy.nanmean`. No users give empty arrays. Nothing is changed.
"""

import numpy as np

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.arrays import BoolArray, Float64Array, Int32Array, Int64Array, IntArray


def hits_in_lists(columns: Int32Array, relevant_indptr: Int64Array, relevant_columns: IntArray) -> BoolArray:
    """Mark the entries of each list that are held out for its user.

    Parameters
    ----------
    columns, relevant_indptr, relevant_columns : arrays
        As the module describes.

    Returns
    -------
    bool array of shape (m, n)
        False for padding.

    Raises
    ------
    ShapeError
        If ``columns`` is not (m, n >= 1) or ``relevant_indptr`` does not fit the other two.

    Notes
    -----
    O((m n + nnz) log nnz).
    """
    _check_shapes(columns, relevant_indptr, relevant_columns)
    n_users = len(columns)
    stride = np.int64(max(columns.max(initial=0), relevant_columns.max(initial=0))) + 1
    users = np.arange(n_users, dtype=np.int64)
    relevant = np.repeat(users, np.diff(relevant_indptr)) * stride + relevant_columns
    listed = users[:, None] * stride + columns
    return np.isin(listed, relevant) & (columns >= 0)


def precision_at_n(columns: Int32Array, relevant_indptr: Int64Array, relevant_columns: IntArray) -> Float64Array:
    """Compute the share of each list's n places that hold a relevant column.

    Parameters
    ----------
    columns, relevant_indptr, relevant_columns : arrays
        As the module describes.

    Returns
    -------
    float64 array of shape (m,)
        ``hits / n``; a list shorter than n is still divided by n.
    """
    hits = hits_in_lists(columns, relevant_indptr, relevant_columns).sum(axis=1)
    return _where_defined(hits / columns.shape[1], relevant_indptr)


def recall_at_n(columns: Int32Array, relevant_indptr: Int64Array, relevant_columns: IntArray) -> Float64Array:
    """Compute the share of each user's relevant columns that the list holds.

    Parameters
    ----------
    columns, relevant_indptr, relevant_columns : arrays
        As the module describes.

    Returns
    -------
    float64 array of shape (m,)
        ``hits / n_relevant``, which cannot reach 1 for a user with more than n relevant columns.
    """
    hits = hits_in_lists(columns, relevant_indptr, relevant_columns).sum(axis=1)
    return _where_defined(hits / np.maximum(np.diff(relevant_indptr), 1), relevant_indptr)


def ndcg_at_n(columns: Int32Array, relevant_indptr: Int64Array, relevant_columns: IntArray) -> Float64Array:
    """Compute normalised discounted cumulative gain, with binary gains.

    Parameters
    ----------
    columns, relevant_indptr, relevant_columns : arrays
        As the module describes.

    Returns
    -------
    float64 array of shape (m,)
        ``sum over hits of 1 / log2(position + 1)``, positions from 1, over the same sum for an ideal list,
        whose first ``min(n, n_relevant)`` places are hits. 1 is best.

    References
    ----------
    Järvelin, Kekäläinen (2002), Cumulated gain-based evaluation of IR techniques. doi:10.1145/582415.582418
    """
    hits = hits_in_lists(columns, relevant_indptr, relevant_columns)
    n = columns.shape[1]
    discounts = 1.0 / np.log2(np.arange(2, n + 2))
    ideal = np.concatenate([[1.0], np.cumsum(discounts)])
    ideal[0] = 1.0  # nothing relevant: undefined below; only keep from dividing by zero
    n_ideal = np.minimum(np.diff(relevant_indptr), n)
    return _where_defined((hits * discounts).sum(axis=1) / ideal[n_ideal], relevant_indptr)


def expected_of_random_lists(n_relevant: IntArray, n_candidates: int, n: int) -> tuple[float, float, float]:
    """Return what lists of candidates in random order reach in the mean: NDCG, recall and precision at n.

    Parameters
    ----------
    n_relevant : integer array of shape (m,)
        Relevant columns of each user, at least one, all of them candidates.
    n_candidates : int
        At least the largest of these.
    n : int >= 1

    Returns
    -------
    ndcg, recall, precision : float
        Expected values of the means over users; NaN without users.
    """
    if not len(n_relevant):
        return float("nan"), float("nan"), float("nan")
    length = min(n, n_candidates)
    discounts = 1.0 / np.log2(np.arange(2, n + 2))
    ideal = np.cumsum(discounts)[np.minimum(n_relevant, n) - 1]
    share = n_relevant / n_candidates
    ndcg = np.mean(share * discounts[:length].sum() / ideal)
    return float(ndcg), length / n_candidates, float(np.mean(share) * length / n)


def _where_defined(metric: Float64Array, relevant_indptr: Int64Array) -> Float64Array:
    return np.where(np.diff(relevant_indptr) > 0, metric, np.nan)


def _check_shapes(columns: Int32Array, relevant_indptr: Int64Array, relevant_columns: IntArray) -> None:
    if columns.ndim != 2 or columns.shape[1] < 1:
        raise ShapeError(f"columns must have shape (m, n >= 1), got {columns.shape}")
    if len(relevant_indptr) != len(columns) + 1 or relevant_indptr[-1] != len(relevant_columns):
        raise ShapeError(
            f"relevant_indptr must have {len(columns) + 1} entries, the last {len(relevant_columns)}, got "
            f"{len(relevant_indptr)} entries ending in {relevant_indptr[-1:]}"
        )
