"""How alike two rows are: by their vectors, or by what they have in common."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from recsys_spark.errors import NumericalError, ShapeError
from recsys_spark.kernels.arrays import Float32Array, Float64Array, Int64Array, IntArray

USES_RATINGS = frozenset({"rating_cosine", "pearson"})
"""Measures that look at the ratings; the others only at which columns two rows have in common."""


@dataclass(frozen=True, slots=True)
class CommonSums:
    """What m rows have in common with p others.

    Attributes
    ----------
    n_common : int64 array of shape (m, p)
        Columns that both have.
    products : float64 array of shape (m, p) or None
        Sum over those of the product of their values; None where the values are not looked at.
    squares : float64 array of shape (2, m, p) or None
        Sums over those of the row's own squared values, and of the other's.
    """

    n_common: Int64Array
    products: Float64Array | None = None
    squares: Float64Array | None = None


@dataclass(frozen=True, slots=True)
class RowSizes:
    """What is known of rows one by one.

    Attributes
    ----------
    n_ratings : int64 array of shape (n,)
        Columns that each has.
    lengths : float64 array of shape (n,)
        Euclidean length of each one's values.
    """

    n_ratings: Int64Array
    lengths: Float64Array

    def take(self, places: IntArray) -> "RowSizes":
        """Return the sizes of some rows."""
        return RowSizes(self.n_ratings[places], self.lengths[places])


def similarity(measure: str, sums: CommonSums, own: RowSizes, others: RowSizes, n_columns: int) -> Float64Array:
    """Compare m rows with p others.

    With c columns in common, n_a and n_b columns of each row, and n columns in all:

    * ``cosine``: c / sqrt(n_a n_b)
    * ``jaccard``: c / (n_a + n_b - c)
    * ``llr``: twice the log-likelihood ratio of "independent" in the 2 x 2 table of c, n_a - c, n_b - c and the
      rest, 2 sum k log(k n / (row sum * column sum)); 0 where c is no more than chance would make it
    * ``rating_cosine``: sum of a b over the common columns, by both rows' lengths over all their columns
    * ``pearson``: with a and b as deviations from each row's mean over all its columns, the sum of a b over the
      common columns by the square root of their sums of squares there; 0 where one of those is 0

    Parameters
    ----------
    measure : str
        One of these.
    sums : CommonSums
        With products for the last two, and squares for the last.
    own, others : RowSizes
        Of the m rows and of the p others.
    n_columns : int
        Columns that have any value.

    Returns
    -------
    float64 array of shape (m, p)
        0 where nothing is in common.

    References
    ----------
    Dunning (1993), Accurate methods for the statistics of surprise and coincidence, for llr. Breese, Heckerman, Kadie
    (1998), Empirical analysis of predictive algorithms for collaborative filtering, for the last two.
    """
    return _MEASURES[measure](sums, own, others, n_columns)


def _cosine(sums: CommonSums, own: RowSizes, others: RowSizes, n_columns: int) -> Float64Array:
    sizes = own.n_ratings[:, None].astype(np.float64) * others.n_ratings
    return sums.n_common / np.sqrt(sizes)


def _jaccard(sums: CommonSums, own: RowSizes, others: RowSizes, n_columns: int) -> Float64Array:
    return sums.n_common / (own.n_ratings[:, None] + others.n_ratings - sums.n_common)


def _llr(sums: CommonSums, own: RowSizes, others: RowSizes, n_columns: int) -> Float64Array:
    n_own, n_others = own.n_ratings[:, None].astype(np.float64), others.n_ratings.astype(np.float64)
    both = sums.n_common.astype(np.float64)
    cells = (
        (both, n_own, n_others),
        (n_own - both, n_own, n_columns - n_others),
        (n_others - both, n_columns - n_own, n_others),
        (n_columns - n_own - n_others + both, n_columns - n_own, n_columns - n_others),
    )
    ratio = np.zeros(both.shape)
    for count, row_sum, column_sum in cells:
        expected = row_sum * column_sum / n_columns
        # An empty cell adds nothing, and may be one that chance leaves empty as well.
        ratio += 2.0 * count * np.log(np.where(count > 0, count, 1.0) / np.where(count > 0, expected, 1.0))
    return np.where(both > n_own * n_others / n_columns, np.maximum(ratio, 0.0), 0.0)


def _rating_cosine(sums: CommonSums, own: RowSizes, others: RowSizes, n_columns: int) -> Float64Array:
    assert sums.products is not None
    return _ratio(sums.products, own.lengths[:, None] * others.lengths)


def _pearson(sums: CommonSums, own: RowSizes, others: RowSizes, n_columns: int) -> Float64Array:
    assert sums.products is not None
    assert sums.squares is not None
    return np.clip(_ratio(sums.products, np.sqrt(sums.squares[0] * sums.squares[1])), -1.0, 1.0)


def _ratio(above: Float64Array, below: Float64Array) -> Float64Array:
    return np.divide(above, below, out=np.zeros(above.shape), where=below > 0)


_MEASURES: dict[str, Callable[[CommonSums, RowSizes, RowSizes, int], Float64Array]] = {
    "cosine": _cosine,
    "jaccard": _jaccard,
    "llr": _llr,
    "rating_cosine": _rating_cosine,
    "pearson": _pearson,
}


def evidence(n: IntArray, shrink: float) -> Float64Array:
    """Return how far n observations are believed, ``n / (n + shrink)``: from 0 to 1, float64 of the shape of ``n``."""
    counts = n.astype(np.float64)
    return np.divide(counts, counts + shrink, out=np.zeros(counts.shape), where=counts > 0)


def similarity_vectors(factors: Float32Array, n_ratings: IntArray, shrink: float) -> Float32Array:
    """Scale factors so that the product of two rows is their shrunk cosine.

    Parameters
    ----------
    factors : float32 array of shape (n, rank)
        Not changed.
    n_ratings : integer array of shape (n,)
        Ratings behind each row.
    shrink : float
        At least 0.

    Returns
    -------
    float32 array of shape (n, rank)
        Each row of length ``n_ratings / (n_ratings + shrink)``; a row of zeros stays one. The product of rows a and b
        is ``cos(a, b) * n_a / (n_a + shrink) * n_b / (n_b + shrink)``: beside a row with many ratings, the other's
        number decides.

    Raises
    ------
    ShapeError
        If there is not one number of ratings per row.
    NumericalError
        If a factor is not finite.
    """
    if factors.ndim != 2 or n_ratings.shape != factors.shape[:1]:
        raise ShapeError(f"factors (n, rank) need n_ratings (n,), got {factors.shape} and {n_ratings.shape}")
    wide = factors.astype(np.float64)
    lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    if not np.isfinite(lengths).all():
        raise NumericalError("factors must be finite, got some that are not; look for diverged training")
    scale = np.divide(evidence(n_ratings, shrink), lengths, out=np.zeros(len(wide)), where=lengths > 0)
    return np.asarray(wide * scale[:, None], np.float32)


def blended_vectors(collaborative: Float32Array, content: Float32Array, weight: float) -> Float32Array:
    """Return vectors whose product is ``(1 - weight)`` times that of one kind of vectors, and ``weight`` of another.

    Parameters
    ----------
    collaborative, content : float32 arrays of shape (n, rank), (n, width)
        Each from `similarity_vectors`; a row of zeros is similar to nothing.
    weight : float
        From 0 to 1.

    Returns
    -------
    float32 array of shape (n, rank + width)
        Without the vectors that do not count.
    """
    parts = [(collaborative, 1.0 - weight), (content, weight)]
    counted = [vectors * np.float32(np.sqrt(share)) for vectors, share in parts if share > 0]
    return np.concatenate(counted, axis=1)
