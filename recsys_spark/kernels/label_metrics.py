"""How well numbers tell labels 0 and 1 apart, exactly, and in parts that add up."""

from typing import NamedTuple

import numpy as np

from recsys_spark.kernels.arrays import BoolArray, Float64Array, Int64Array

_NEVER_CERTAIN = 1e-15


def log_losses(probabilities: Float64Array, labels: Float64Array) -> Float64Array:
    """Return -(y log p + (1 - y) log(1 - p)) of each, with p kept 1e-15 away from 0 and 1."""
    kept = np.clip(probabilities, _NEVER_CERTAIN, 1.0 - _NEVER_CERTAIN)
    return np.asarray(-(labels * np.log(kept) + (1.0 - labels) * np.log1p(-kept)))


class RankedLabels(NamedTuple):
    """What one stretch of scores adds to the area under the ROC curve; no score is in two stretches.

    Attributes
    ----------
    lowest : float
        Its lowest score: stretches are put in order by it.
    n_zeros, n_ones : int
    twice_won : int
        Two for every pair of a one above a zero within the stretch, one for every tie.
    """

    lowest: float
    n_zeros: int
    n_ones: int
    twice_won: int


def rank_labels(scores: Float64Array, is_one: BoolArray) -> RankedLabels:
    """Rank the labels of one stretch of scores: at least one, finite, any order. O(n log n)."""
    values, place = np.unique(scores, return_inverse=True)
    ones = np.bincount(place[is_one], minlength=len(values)).astype(np.int64)
    zeros = np.bincount(place[~is_one], minlength=len(values)).astype(np.int64)
    below = np.cumsum(zeros) - zeros
    return RankedLabels(float(values[0]), int(zeros.sum()), int(ones.sum()), int((ones * (2 * below + zeros)).sum()))


def area_under_roc(stretches: list[RankedLabels]) -> float:
    """Return the chance that a 1 was given a higher score than a 0; a tie counts half.

    Parameters
    ----------
    stretches : list of RankedLabels
        Of ranges of scores that do not overlap, any order.

    Returns
    -------
    float
        Exact, from whole numbers; NaN where one of the labels does not occur.

    References
    ----------
    Hanley, McNeil (1982), The meaning and use of the area under a ROC curve. doi:10.1148/radiology.143.1.7063747
    """
    twice_won = zeros_below = 0
    for stretch in sorted(stretches):
        twice_won += stretch.twice_won + 2 * stretch.n_ones * zeros_below
        zeros_below += stretch.n_zeros
    n_pairs = zeros_below * sum(stretch.n_ones for stretch in stretches)
    return twice_won / (2 * n_pairs) if n_pairs else float("nan")


def auc(scores: Float64Array, is_one: BoolArray) -> float:
    """Return the area under the ROC curve of one array of scores; NaN where one of the labels does not occur."""
    return area_under_roc([rank_labels(scores, is_one)] if len(scores) else [])


def auc_of_rows(indptr: Int64Array, scores: Float64Array, is_one: BoolArray) -> Float64Array:
    """Compute the area under the ROC curve of every row.

    Parameters
    ----------
    indptr : int64 array of shape (m + 1,)
        Row r has the labels ``indptr[r]:indptr[r + 1]``.
    scores : float64 array of shape (nnz,)
    is_one : bool array of shape (nnz,)

    Returns
    -------
    float64 array of shape (m,)
        NaN for rows that lack one of the labels. O(nnz log nnz).
    """
    row = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    order = np.lexsort((scores, row))
    row, scores, is_one = row[order], scores[order], is_one[order]
    is_first = np.concatenate([[True], (row[1:] != row[:-1]) | (scores[1:] != scores[:-1])]) if len(row) else is_one
    tie = np.cumsum(is_first) - 1
    n_ties = int(tie[-1]) + 1 if len(tie) else 0
    zeros = np.bincount(tie, ~is_one, n_ties)
    ones = np.bincount(tie, is_one, n_ties)
    row_of_tie = row[is_first] if len(row) else row
    zeros_of_row = np.bincount(row_of_tie, zeros, len(indptr) - 1)
    before_row = np.concatenate([[0.0], np.cumsum(zeros_of_row)])[:-1]
    below = np.cumsum(zeros) - zeros - before_row[row_of_tie]
    won = np.bincount(row_of_tie, ones * (below + 0.5 * zeros), len(indptr) - 1)
    pairs = zeros_of_row * np.bincount(row_of_tie, ones, len(indptr) - 1)
    return np.asarray(np.divide(won, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0))
