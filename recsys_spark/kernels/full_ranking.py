"""Ranking all columns of a few rows in float64, where float32 cannot tell them apart."""

import numpy as np

from recsys_spark.kernels.arrays import Float32Array, Float64Array, Int64Array
from recsys_spark.kernels.pair_scores import pair_scores

_UNIT_ROUNDOFF = 2.0**-53
_UNDERFLOW = 1e-290
# Of the vectors of pairs that are scored again together: they are copied, 64 MB in all.
_MAX_FLOATS = 1 << 22


def score_in_full(
    user_vectors: Float32Array, item_vectors: Float32Array, global_mean: float, biases: bool
) -> Float32Array:
    """Score all pairs of some users with all items: `pair_scores` rounded to float32, exactly.

    Parameters
    ----------
    user_vectors : float32 array of shape (m, width)
        Factors, then the bias if ``biases``.
    item_vectors : float32 array of shape (n_items, width)
        Likewise.
    global_mean : float
        Mean rating.
    biases : bool
        Whether the last column holds biases.

    Returns
    -------
    float32 array of shape (m, n_items)
        A float64 BLAS product, which adds in another order than `pair_scores`, rounds to the same float32
        unless it lies within its error of a rounding boundary; those few pairs are scored again. They are many only
        where most products are zero but for rounding, as of vectors that have nothing in common.

    Notes
    -----
    O(m n_items width) in float64 BLAS; several (m, n_items) float64 arrays of working memory.
    """
    left, right = user_vectors.astype(np.float64), item_vectors.astype(np.float64)
    constants = np.full(len(left), global_mean)
    if biases:
        constants += left[:, -1]
        left[:, -1] = 1.0
    scores = left @ right.T
    scores += constants[:, None]
    error = _rounding_bound(left, right, constants + abs(global_mean))
    rounded = (scores - error[:, None]).astype(np.float32)
    scores += error[:, None]
    users, items = np.nonzero(rounded != scores.astype(np.float32))
    step = max(1, _MAX_FLOATS // left.shape[1])
    for first in range(0, len(users), step):
        pairs = users[first : first + step], items[first : first + step]
        rounded[pairs] = pair_scores(user_vectors[pairs[0]], item_vectors[pairs[1]], global_mean, biases)
    return rounded


def best_of_rows(scores: Float32Array, n: int) -> tuple[Int64Array, Float32Array]:
    """Sort each row's n best: largest first, equal scores by lower column.

    Parameters
    ----------
    scores : float32 array of shape (m, n_columns), n_columns >= n
        -inf where a column is out of question.
    n : int >= 1
        Length of a list.

    Returns
    -------
    columns : int64 array of shape (m, n)
        Best first.
    scores : float32 array of shape (m, n)
        Their scores.

    Notes
    -----
    O(n_columns) per row, however many tie.
    """
    columns = np.empty((len(scores), n), dtype=np.int64)
    last = np.partition(scores, scores.shape[1] - n, axis=1)[:, scores.shape[1] - n]
    for row, threshold, found in zip(scores, last, columns, strict=True):
        above = np.flatnonzero(row > threshold)
        above = above[np.argsort(-row[above], kind="stable")]
        found[: len(above)] = above
        found[len(above) :] = np.flatnonzero(row == threshold)[: n - len(above)]
    return columns, np.take_along_axis(scores, columns, axis=1)


def _rounding_bound(left: Float64Array, right: Float64Array, constants: Float64Array) -> Float64Array:
    """Bound the distance between two float64 orders of adding a pair's terms, per row of ``left``."""
    n_terms = left.shape[1] + 3
    lengths = np.sqrt(np.einsum("ij,ij->i", left, left))
    lengths *= np.sqrt(np.einsum("ij,ij->i", right, right).max(initial=0.0))
    return np.asarray(4 * n_terms * _UNIT_ROUNDOFF * (lengths + abs(constants)) + _UNDERFLOW)
