"""Scores of given (row, column) pairs."""

import numpy as np

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.arrays import Float32Array, Float64Array


def pair_scores(
    row_vectors: Float32Array, column_vectors: Float32Array, global_mean: float, biases: bool
) -> Float64Array:
    """Score pairs: ``global_mean + row bias + column bias + row factors . column factors``.

    Parameters
    ----------
    row_vectors, column_vectors : float32 arrays of shape (m, width)
        The two sides of each pair: factors, then the bias if ``biases``. Not changed.
    global_mean : float
        Mean rating.
    biases : bool
        Whether the last column holds biases.

    Returns
    -------
    float64 array of shape (m,)
        The products of float32 numbers are exact in float64 and each pair's are added in one fixed order, so
        that its score does not depend on the other pairs. Empty input gives an empty array.

    Raises
    ------
    ShapeError
        If the shapes differ.

    Notes
    -----
    O(m width) time and float64 working memory.
    """
    if row_vectors.shape != column_vectors.shape or row_vectors.ndim != 2:
        raise ShapeError(
            "row_vectors and column_vectors must both have shape (m, width), got "
            f"{row_vectors.shape} and {column_vectors.shape}"
        )
    rank = row_vectors.shape[1] - int(biases)
    products = np.empty((len(row_vectors), rank), dtype=np.float64)
    np.multiply(row_vectors[:, :rank], column_vectors[:, :rank], out=products, dtype=np.float64)
    scores = products.sum(axis=1)
    if biases:
        scores += row_vectors[:, -1].astype(np.float64) + column_vectors[:, -1].astype(np.float64)
    scores += global_mean
    return np.asarray(scores)
