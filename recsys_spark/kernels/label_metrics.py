"""How well probabilities predict labels 0 and 1: sums that add up over parts of the data."""

import numpy as np

from recsys_spark.kernels.arrays import Float64Array, Int64Array

N_BINS = 1 << 14
"""Bins of equal width between the probabilities 0 and 1."""

_NEVER_CERTAIN = 1e-15


def log_loss_sum(probabilities: Float64Array, labels: Float64Array) -> float:
    """Sum -(y log p + (1 - y) log(1 - p)), with p kept 1e-15 away from 0 and 1."""
    kept = np.clip(probabilities, _NEVER_CERTAIN, 1.0 - _NEVER_CERTAIN)
    return float(-np.sum(labels * np.log(kept) + (1.0 - labels) * np.log1p(-kept)))


def label_histogram(probabilities: Float64Array, labels: Float64Array) -> Int64Array:
    """Count labels by predicted probability: int64 array of shape (2, N_BINS), zeros then ones."""
    bins = np.minimum((np.clip(probabilities, 0.0, 1.0) * N_BINS).astype(np.int64), N_BINS - 1)
    is_one = labels > 0.5
    return np.stack([np.bincount(bins[kind], minlength=N_BINS) for kind in (~is_one, is_one)]).astype(np.int64)


def auc(histogram: Int64Array) -> float:
    """Return the chance that a 1 was given a higher probability than a 0; a tie, which a bin is, counts half.

    Parameters
    ----------
    histogram : int64 array of shape (2, N_BINS)
        Sum of `label_histogram` over all parts.

    Returns
    -------
    float
        NaN where one of the labels does not occur.

    References
    ----------
    Hanley, McNeil (1982), The meaning and use of the area under a ROC curve. doi:10.1148/radiology.143.1.7063747
    """
    zeros, ones = histogram.astype(np.float64)
    if zeros.sum() == 0 or ones.sum() == 0:
        return float("nan")
    zeros_below = np.cumsum(zeros) - zeros
    return float((ones * (zeros_below + 0.5 * zeros)).sum() / (zeros.sum() * ones.sum()))
