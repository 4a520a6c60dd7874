"""What lists are like beside being right: known or new, alike or varied, shared or personal."""

import numpy as np

from recsys_spark.kernels.arrays import Float32Array, Float64Array, Int32Array, Int64Array

_LISTS_AT_ONCE = 1 << 10


def mean_of_lists(values: Float64Array, columns: Int32Array) -> Float64Array:
    """Average a value of each item over every list.

    Parameters
    ----------
    values : float64 array of shape (n_items,)
    columns : int32 array of shape (m, n)
        Lists; -1 where a list is shorter.

    Returns
    -------
    float64 array of shape (m,)
        NaN for empty lists.
    """
    filled = columns >= 0
    sums = np.where(filled, values[columns], 0.0).sum(axis=1)
    counts = filled.sum(axis=1)
    return np.asarray(np.divide(sums, counts, out=np.full(len(columns), np.nan), where=counts > 0))


def self_information(n_ratings: Int64Array, n_users: int) -> Float64Array:
    """Return -log2 of the share of users who have rated each item, in bits; an unrated item counts as rated once.

    References
    ----------
    Zhou et al. (2010), Solving the apparent diversity-accuracy dilemma of recommender systems.
    doi:10.1073/pnas.1000488107
    """
    return np.asarray(np.log2(max(n_users, 1)) - np.log2(np.maximum(n_ratings, 1).astype(np.float64)))


def diversity_of_lists(columns: Int32Array, item_vectors: Float32Array) -> Float64Array:
    """Average 1 - cosine over the pairs of different items in every list.

    Parameters
    ----------
    columns : int32 array of shape (m, n)
        Lists; -1 where a list is shorter.
    item_vectors : float32 array of shape (n_items, rank)
        A zero vector is like nothing: cosine 0.

    Returns
    -------
    float64 array of shape (m,)
        NaN for lists of fewer than two items.

    Notes
    -----
    The cosines of all pairs add up to ``(|sum of the unit vectors|^2 - sum of their squares) / 2``: O(m n rank).
    """
    mean = np.full(len(columns), np.nan)
    for first in range(0, len(columns), _LISTS_AT_ONCE):
        part = columns[first : first + _LISTS_AT_ONCE]
        filled = part >= 0
        vectors = np.where(filled[..., None], item_vectors[part], 0).astype(np.float64)
        lengths = np.sqrt(np.einsum("mnk,mnk->mn", vectors, vectors))
        unit = vectors / np.where(lengths > 0, lengths, 1.0)[..., None]
        total = unit.sum(axis=1)
        cosines = (np.einsum("mk,mk->m", total, total) - (lengths > 0).sum(axis=1)) / 2
        counts = filled.sum(axis=1)
        pairs = counts * (counts - 1) / 2
        found = mean[first : first + _LISTS_AT_ONCE]
        np.divide(cosines, pairs, out=found, where=pairs > 0)
        found[pairs > 0] = 1.0 - found[pairs > 0]
    return mean


def overlap_of_lists(columns: Int32Array, others: Int32Array) -> Float64Array:
    """Compute the share of places of every list whose item another list of the same user has too.

    Parameters
    ----------
    columns, others : int32 arrays of shape (m, n)
        -1 where a list is shorter; no item twice in a list.

    Returns
    -------
    float64 array of shape (m,)
        NaN where the first list is empty.
    """
    stride = np.int64(max(columns.max(initial=0), others.max(initial=0))) + 1
    rows = np.arange(len(columns), dtype=np.int64)[:, None] * stride
    common = (np.isin(rows + columns, (rows + others)[others >= 0]) & (columns >= 0)).sum(axis=1)
    counts = (columns >= 0).sum(axis=1)
    return np.asarray(np.divide(common, counts, out=np.full(len(columns), np.nan), where=counts > 0))


def gini(times_listed: Int64Array, n_items: Int64Array) -> float:
    """Compute how unevenly places are shared among items: 0 all alike, near 1 a few items have all.

    Parameters
    ----------
    times_listed : int64 array of shape (k,)
        Different numbers of lists that an item can be in, 0 included.
    n_items : int64 array of shape (k,)
        How many items are in so many lists.

    Returns
    -------
    float
        NaN where no item is in any list.

    Notes
    -----
    With values v ascending, ``sum((2 i - N - 1) v_i) / (N sum(v))``, i from 1; a run of c equal values from place a + 1
    adds ``v c (2 a + c - N)``.
    """
    order = np.argsort(times_listed)
    values, counts = times_listed[order].astype(object), n_items[order].astype(object)
    total, n = int((values * counts).sum()), int(counts.sum())
    if total == 0:
        return float("nan")
    before = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return float(int((values * counts * (2 * before + counts - n)).sum()) / (n * total))


def shared_places(times_listed: Int64Array, n_items: Int64Array, n_lists: int, n: int) -> float:
    """Return the mean share of n places that the lists of two different users have in common; NaN for one list.

    Parameters
    ----------
    times_listed, n_items : int64 arrays of shape (k,)
        As of `gini`.
    n_lists, n : int

    Notes
    -----
    An item that is in c lists is common to ``c (c - 1) / 2`` pairs of them: no pair of lists is looked at.
    """
    if n_lists < 2:
        return float("nan")
    values, counts = times_listed.astype(object), n_items.astype(object)
    return float(int((counts * values * (values - 1)).sum()) / (n_lists * (n_lists - 1) * n))
