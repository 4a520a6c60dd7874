"""How well lists of recommended columns match held-out relevant ones. Relevance is binary.

All functions take the same three arrays:

* ``columns``, int32 of shape (m, n): each user's list, best first, no column twice; -1 where a list is shorter than n.
* ``relevant_indptr``, int64 of shape (m + 1,), and ``relevant_columns``, integers of shape (nnz,): user u's
  held-out columns are ``relevant_columns[relevant_indptr[u]:relevant_indptr[u + 1]]``, each once, any order.

A user without held-out columns has no defined metric and gets NaN, so that all metrics average over the
same users with `numpy.nanmean`. No users give empty arrays. Nothing is changed.
"""

from collections.abc import Sequence

import numpy as np

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.arrays import BoolArray, Float64Array, Int32Array, Int64Array, IntArray

MEASURES = ("ndcg", "recall", "precision", "hit_rate", "map", "mrr")


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
    listed, relevant = _keys(columns, relevant_indptr, relevant_columns)
    return np.isin(listed, relevant) & (columns >= 0)


def recall_of_parts(
    columns: Int32Array, relevant_indptr: Int64Array, relevant_columns: IntArray, part: IntArray, n_parts: int
) -> Float64Array:
    """Compute the share of the relevant columns of each part that the list holds, part by part.

    Parameters
    ----------
    columns, relevant_indptr, relevant_columns : arrays
        As the module describes.
    part : integer array of shape (nnz,)
        Part of each relevant column, from 0.
    n_parts : int

    Returns
    -------
    float64 array of shape (m, n_parts)
        NaN where a user has no relevant column of the part.
    """
    listed, relevant = _keys(columns, relevant_indptr, relevant_columns)
    is_found = np.isin(relevant, listed[columns >= 0])
    row = np.repeat(np.arange(len(columns)), np.diff(relevant_indptr)) * n_parts + part
    n_found, n_relevant = (np.bincount(row, weights, len(columns) * n_parts) for weights in (is_found, None))
    recalls = np.full(len(n_relevant), np.nan)
    np.divide(n_found, n_relevant, out=recalls, where=n_relevant > 0)
    return recalls.reshape(len(columns), n_parts)


def _keys(
    columns: Int32Array, relevant_indptr: Int64Array, relevant_columns: IntArray
) -> tuple[Int64Array, Int64Array]:
    """Return numbers for (user, column): of the lists (m, n), with padding, and of the relevant columns (nnz,)."""
    users = np.arange(len(columns), dtype=np.int64)
    stride = np.int64(max(columns.max(initial=0), relevant_columns.max(initial=0))) + 1
    return users[:, None] * stride + columns, np.repeat(users, np.diff(relevant_indptr)) * stride + relevant_columns


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
    hits = hits_in_lists(columns, relevant_indptr, relevant_columns)
    return _where_defined(_recall(hits, np.diff(relevant_indptr)), relevant_indptr)


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
    return _where_defined(_ndcg(hits, np.diff(relevant_indptr)), relevant_indptr)


def measures_of_lists(
    columns: Int32Array, relevant_indptr: Int64Array, relevant_columns: IntArray, lengths: Sequence[int]
) -> dict[str, Float64Array]:
    """Compute all measures of every list, cut at several lengths.

    Parameters
    ----------
    columns, relevant_indptr, relevant_columns : arrays
        As the module describes.
    lengths : sequence of int
        From 1 to n.

    Returns
    -------
    dict of str to float64 array of shape (m,)
        ``ndcg@10`` and so on, for each of `MEASURES` and each length:

        * ``recall``, ``ndcg``: as the functions of this module.
        * ``precision``: ``hits / n``; a list shorter than n is still divided by n.
        * ``hit_rate``: 1 if any hit is in the list.
        * ``map``: average precision, the sum over hits of the precision up to the hit, over the number of relevant
          columns (all of them, as trec_eval's ``map_cut`` has it).
        * ``mrr``: one over the position of the first hit, 0 without one.
    """
    hits = hits_in_lists(columns, relevant_indptr, relevant_columns)
    n_relevant = np.diff(relevant_indptr)
    found: dict[str, Float64Array] = {}
    for n in lengths:
        cut = hits[:, :n]
        values = (
            _ndcg(cut, n_relevant),
            _recall(cut, n_relevant),
            _precision(cut, n),
            np.asarray(cut.any(axis=1), np.float64),
            _average_precision(cut, n_relevant),
            _reciprocal_rank(cut),
        )
        for name, value in zip(MEASURES, values, strict=True):
            found[f"{name}@{n}"] = _where_defined(value, relevant_indptr)
    return found


def sampled_positions(positives: Float64Array, negatives: Float64Array) -> Int64Array:
    """Rank each relevant column among columns drawn at random that are not: the sampled protocol.

    Parameters
    ----------
    positives : float64 array of shape (m,)
        Score of the relevant column.
    negatives : float64 array of shape (m, s)
        Scores of the columns drawn; NaN where fewer could be drawn.

    Returns
    -------
    int64 array of shape (m,)
        From 1; a tie is lost, and so is a score that is not a number. Numbers from this protocol are higher than those
        of full rankings, cannot be compared with them, and may order models otherwise.

    References
    ----------
    Krichene, Rendle (2020), On sampled metrics for item recommendation. doi:10.1145/3394486.3403226
    """
    with np.errstate(invalid="ignore"):
        is_lost = ~(negatives < positives[:, None]) & ~np.isnan(negatives)
    return np.asarray(1 + is_lost.sum(axis=1))


def _precision(hits: BoolArray, n: int) -> Float64Array:
    return np.asarray(hits.sum(axis=1) / n)


def _recall(hits: BoolArray, n_relevant: Int64Array) -> Float64Array:
    return np.asarray(hits.sum(axis=1) / np.maximum(n_relevant, 1))


def _ndcg(hits: BoolArray, n_relevant: Int64Array) -> Float64Array:
    n = hits.shape[1]
    discounts = 1.0 / np.log2(np.arange(2, n + 2))
    # Where nothing is relevant the measure is undefined; the first 1 only keeps from dividing by zero.
    ideal = np.concatenate([[1.0], np.cumsum(discounts)])
    return np.asarray((hits * discounts).sum(axis=1) / ideal[np.minimum(n_relevant, n)])


def _average_precision(hits: BoolArray, n_relevant: Int64Array) -> Float64Array:
    positions = np.arange(1, hits.shape[1] + 1)
    precisions = np.cumsum(hits, axis=1) / positions
    return np.asarray((hits * precisions).sum(axis=1) / np.maximum(n_relevant, 1))


def _reciprocal_rank(hits: BoolArray) -> Float64Array:
    return np.where(hits.any(axis=1), 1.0 / (hits.argmax(axis=1) + 1), 0.0)


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
