"""Cells of a feature table as numbers: standardised, one column per value, or TF-IDF of hashed words."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.arrays import Float32Array, Float64Array, Int64Array, IntArray
from recsys_spark.kernels.neighbour_average import SparseRows, sparse_rows


class Entries(NamedTuple):
    """What one feature puts into the rows: int64, int64 and float64 arrays of shape (nnz,), each pair once.

    Columns are counted from 0 within the feature.
    """

    rows: Int64Array
    columns: Int64Array
    values: Float64Array


def mean_and_deviation(values: Float64Array) -> tuple[float, float]:
    """Return mean and standard deviation (of the population) of the values that are not NaN; 0 and 0 of none.

    The sums are exact before they are rounded once, so that the order of the values does not matter. Equal values have
    a deviation of 0, and so have those whose deviation may be the rounding of their mean alone.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return 0.0, 0.0
    if known.min() == known.max():
        return float(known[0]), 0.0
    mean = math.fsum(known) / len(known)
    deviation = math.sqrt(math.fsum((known - mean) ** 2) / len(known))
    return mean, deviation if deviation > len(known) * float(np.finfo(np.float64).eps) * abs(mean) else 0.0


def standardised(values: Float64Array, mean: float, deviation: float) -> Entries:
    """Return how many standard deviations each value lies above the mean; NaN, a missing value, is at the mean.

    Without a deviation all values are at the mean.
    """
    rows = np.flatnonzero(~np.isnan(values)) if deviation > 0 else np.zeros(0, np.int64)
    scaled = (values[rows] - mean) / deviation if deviation > 0 else np.zeros(0)
    return Entries(rows, np.zeros(len(rows), np.int64), scaled)


def indicated(lengths: IntArray, codes: IntArray) -> Entries:
    """Return 1 in the column of each value that a row has.

    Parameters
    ----------
    lengths : integer array of shape (n_rows,)
        Values of each row, all different.
    codes : integer array of shape (sum of lengths,)
        Column of each value, row after row; -1 where it has none.
    """
    rows = np.repeat(np.arange(len(lengths)), lengths)
    known = codes >= 0
    return Entries(rows[known], codes[known].astype(np.int64), np.ones(int(known.sum())))


def inverse_document_frequencies(n_with: IntArray, n_documents: int) -> Float64Array:
    """Return ``log((1 + n) / (1 + n_with)) + 1`` of n documents, of which ``n_with`` have each word."""
    return np.asarray(np.log((1.0 + n_documents) / (1.0 + n_with.astype(np.float64))) + 1.0)


def tf_idf(lengths: IntArray, words: IntArray, idf: Float64Array) -> Entries:
    """Return each row's counts of its words times ``idf``, scaled to length 1.

    Parameters
    ----------
    lengths : integer array of shape (n_rows,)
        Words of each row.
    words : integer array of shape (sum of lengths,)
        Number of each word, row after row; words may repeat.
    idf : float64 array of shape (n_words,)

    Raises
    ------
    ShapeError
        If a word has no number in ``idf``.

    References
    ----------
    Salton, Buckley (1988), Term-weighting approaches in automatic text retrieval. doi:10.1016/0306-4573(88)90021-0
    """
    if len(words) and (words.min() < 0 or words.max() >= len(idf)):
        raise ShapeError(f"words must lie in [0, {len(idf)}), got {words.min()} to {words.max()}")
    keys = np.repeat(np.arange(len(lengths)), lengths) * len(idf) + words
    found, counts = np.unique(keys, return_counts=True)
    rows, columns = found // max(len(idf), 1), found % max(len(idf), 1)
    weights = counts * idf[columns]
    squares = np.bincount(rows, weights**2, minlength=len(lengths))
    return Entries(rows, columns, weights / np.sqrt(squares)[rows])


def beside_each_other(features: Sequence[tuple[int, float, Entries]], n_rows: int) -> SparseRows:
    """Put features into rows.

    Parameters
    ----------
    features : sequence of (first, weight, entries)
        Column that the feature begins at, and what its values are multiplied by.
    n_rows : int

    Returns
    -------
    SparseRows
        Columns ascend within a row; what is rounded to 0 in single precision is left out.
    """
    nothing = Entries(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    parts = [(entries.rows, entries.columns + first, entries.values * weight) for first, weight, entries in features]
    rows, columns, values = (np.concatenate(arrays) for arrays in zip(nothing, *parts, strict=True))
    narrow = values.astype(np.float32)
    kept = narrow != 0
    return sparse_rows(rows[kept], columns[kept], narrow[kept], n_rows)


def dense_rows(rows: SparseRows, width: int) -> Float32Array:
    """Return sparse rows as a float32 array of shape (n_rows, width)."""
    dense = np.zeros((rows.n_rows, width), np.float32)
    dense[np.repeat(np.arange(rows.n_rows), np.diff(rows.indptr)), rows.columns] = rows.values
    return dense


def mean_shift(mean_before: float, deviation_before: float, mean_now: float) -> float:
    """Return by how many of its former standard deviations a mean has moved; infinite where it had none."""
    moved = abs(mean_now - mean_before)
    if moved == 0.0:
        return 0.0
    return moved / deviation_before if deviation_before > 0 else math.inf


def shares_moved(before: IntArray, now: IntArray) -> float:
    """Return the total variation between two distributions, given as counts of the same values: from 0 to 1.

    Nothing counted on either side is no distribution: 0 where both are so, else 1.
    """
    totals = float(before.sum()), float(now.sum())
    if 0.0 in totals:
        return 0.0 if totals[0] == totals[1] else 1.0
    return 0.5 * math.fsum(np.abs(before / totals[0] - now / totals[1]))
