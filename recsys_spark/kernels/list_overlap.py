"""How much two lists of items agree, the places near the top counting most."""

from __future__ import annotations

import numpy as np

from recsys_spark.kernels.arrays import Float64Array, Int64Array

# Entries of the cube of comparisons that are held at once.
_LARGEST_CUBE = 1 << 23


def padded_lists(items: Int64Array, lengths: Int64Array, padding: int) -> Int64Array:
    """Return lists of different lengths as the rows of one array.

    Parameters
    ----------
    items : int64 array of shape (lengths.sum(),)
        All lists, one after the other; numbers of items, at least 0.
    lengths : int64 array of shape (n_lists,)
    padding : int
        Below 0: what stands after the end of a list.

    Returns
    -------
    int64 array of shape (n_lists, lengths.max())
    """
    width = int(lengths.max(initial=0))
    rows = np.full((len(lengths), width), padding, np.int64)
    rows[np.arange(width) < lengths[:, None]] = items
    return rows


def rank_biased_overlap(a: Int64Array, b: Int64Array, persistence: float = 0.9) -> Float64Array:
    """Return the extrapolated rank-biased overlap of pairs of lists (Webber, Moffat, Zobel 2010, equation 32).

    With ``X_d`` items that both lists have among their first ``d``, lengths ``s <= l`` and persistence ``p``::

        RBO = (1 - p) / p * (sum_{d=1..l} X_d / d * p^d + sum_{d=s+1..l} X_s (d - s) / (s d) * p^d)
              + ((X_l - X_s) / l + X_s / s) * p^l

    Parameters
    ----------
    a, b : int64 arrays of shape (n_pairs, width_a) and (n_pairs, width_b)
        Distinct numbers from 0, best first; behind the end of a list, -1 in ``a`` and -2 in ``b``.
    persistence : float
        In (0, 1): the smaller, the more the first places count.

    Returns
    -------
    float64 array of shape (n_pairs,)
        From 0, nothing in common, to 1, the same list. Two empty lists are the same; one empty list has nothing in
        common with another. Cost: n_pairs * width_a * width_b comparisons.
    """
    width = max(a.shape[1], b.shape[1], 1)
    overlap = _overlap_by_depth(a, b, width)
    lengths = np.sort(np.stack([(a >= 0).sum(axis=1), (b >= 0).sum(axis=1)]), axis=0)
    shorter, longer = lengths
    depth = np.arange(1, width + 1)
    within = depth <= longer[:, None]
    weight = persistence**depth
    last = np.take_along_axis(overlap, np.maximum(longer, 1)[:, None] - 1, axis=1)[:, 0]
    at_short = np.take_along_axis(overlap, np.maximum(shorter, 1)[:, None] - 1, axis=1)[:, 0]
    s = np.maximum(shorter, 1)[:, None]
    beyond = at_short[:, None] * np.maximum(depth - s, 0) / (s * depth)
    total = ((overlap / depth + beyond) * weight * within).sum(axis=1)
    rest = ((last - at_short) / np.maximum(longer, 1) + at_short / np.maximum(shorter, 1)) * persistence**longer
    found = (1 - persistence) / persistence * total + rest
    return np.where(longer == 0, 1.0, np.where(shorter == 0, 0.0, found))


def changed_positions(a: Int64Array, b: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Return how many places of pairs of lists hold another item, and how many places there are: int64 (n_pairs,) each.

    Arrays as those of `rank_biased_overlap`. A place that only one of the lists has counts as changed.
    """
    width = max(a.shape[1], b.shape[1])
    wide_a = np.pad(a, ((0, 0), (0, width - a.shape[1])), constant_values=-1)
    wide_b = np.pad(b, ((0, 0), (0, width - b.shape[1])), constant_values=-2)
    is_place = (wide_a >= 0) | (wide_b >= 0)
    return ((wide_a != wide_b) & is_place).sum(axis=1), is_place.sum(axis=1)


def _overlap_by_depth(a: Int64Array, b: Int64Array, width: int) -> Int64Array:
    """Return how many items pairs of lists have in common among their first 1, 2, ... width: (n_pairs, width)."""
    counts = np.zeros((len(a), width), np.int64)
    step = max(1, _LARGEST_CUBE // max(1, a.shape[1] * b.shape[1]))
    for first in range(0, len(a), step):
        row, place_a, place_b = np.nonzero(a[first : first + step, :, None] == b[first : first + step, None, :])
        np.add.at(counts, (row + first, np.maximum(place_a, place_b)), 1)
    return counts.cumsum(axis=1)
