"""How many fixed vectors each block of ratings needs, from the degrees alone: what the ``route`` exchange sends."""

import numpy as np

from recsys_spark.kernels.arrays import Float64Array, IntArray


def needed_vectors(fixed_degrees: IntArray, ratings_of_blocks: IntArray) -> Float64Array:
    """Forecast the fixed rows that occur in each block, as if every rating's block were drawn at random.

    Parameters
    ----------
    fixed_degrees : integer array of shape (n_fixed,)
        Observations of each fixed row.
    ratings_of_blocks : integer array of shape (n_blocks,)
        Observations in each block.

    Returns
    -------
    float64 array of shape (n_blocks,)
        Sum over the fixed rows of ``1 - (1 - share)**degree``, with each block's share of all observations.

    Notes
    -----
    O(n_fixed log n_fixed + n_blocks * number of distinct degrees).
    """
    degrees, counts = np.unique(np.asarray(fixed_degrees), return_counts=True)
    shares = np.asarray(ratings_of_blocks) / max(1, int(np.sum(ratings_of_blocks)))
    with np.errstate(divide="ignore", invalid="ignore"):
        absent = np.exp(np.outer(np.log1p(-shares), degrees.astype(np.float64)))
    # All observations in one block: log(0) times degree 0 is no number.
    absent[:, degrees == 0] = 1.0
    return np.asarray((1.0 - absent) @ counts.astype(np.float64))
