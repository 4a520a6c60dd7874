"""A ridge regression from items' features to their vectors: what an item without ratings may be expected to be like."""

from dataclasses import dataclass

import numpy as np

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.arrays import Float32Array, Float64Array

# Rows that are made double precision at once.
_ROWS_AT_ONCE = 1 << 12


@dataclass(frozen=True, slots=True)
class FactorMap:
    """Expected vectors: ``mean_vector + (features - mean_features) @ matrix``.

    Attributes
    ----------
    mean_features : float64 array of shape (n_features,)
    mean_vector : float64 array of shape (width,)
    matrix : float64 array of shape (n_features, width)
    """

    mean_features: Float64Array
    mean_vector: Float64Array
    matrix: Float64Array

    def vectors(self, features: Float32Array) -> Float32Array:
        """Return the expected vectors of items: float32 (n, n_features) -> float32 (n, width).

        Each depends on its own features alone, not on the items beside it.
        """
        mapped = [np.einsum("f,fk->k", row - self.mean_features, self.matrix) for row in features.astype(np.float64)]
        offsets = np.array(mapped).reshape(len(features), len(self.mean_vector))
        return np.asarray(self.mean_vector + offsets, np.float32)


def fit_factor_map(features: Float32Array, vectors: Float32Array, reg_param: float) -> FactorMap:
    """Fit the map that minimises ``sum_i |v_i - m - B' x_i|**2 + reg_param |B|**2`` over matrices B and vectors m.

    Parameters
    ----------
    features : float32 array of shape (n, n_features)
    vectors : float32 array of shape (n, width)
        Trained vectors, a bias among them if there is one.
    reg_param : float > 0

    Returns
    -------
    FactorMap
        Of no items, the map to zero.

    Raises
    ------
    ShapeError
        If there is not one row of features per vector.

    Notes
    -----
    O(n n_features**2 + n_features**3), in float64; with fewer items than features, n takes the place of n_features.

    References
    ----------
    Gantner, Drumond, Freudenthaler, Rendle, Schmidt-Thieme (2010), Learning attribute-to-feature mappings for
    cold-start recommendations. doi:10.1109/ICDM.2010.129
    """
    n, n_features = features.shape
    if len(vectors) != n or reg_param <= 0:
        raise ShapeError(f"{n} rows of features need as many vectors and reg_param > 0, got {len(vectors)}")
    if n == 0:
        return FactorMap(np.zeros(n_features), np.zeros(vectors.shape[1]), np.zeros((n_features, vectors.shape[1])))
    mean_features, mean_vector = features.mean(axis=0, dtype=np.float64), vectors.mean(axis=0, dtype=np.float64)
    targets = vectors - mean_vector
    if n < n_features:
        centred = features - mean_features
        matrix = centred.T @ np.linalg.solve(centred @ centred.T + reg_param * np.eye(n), targets)
        return FactorMap(mean_features, mean_vector, np.asarray(matrix, np.float64))
    system, moment = reg_param * np.eye(n_features), np.zeros((n_features, vectors.shape[1]))
    for first in range(0, n, _ROWS_AT_ONCE):
        part = features[first : first + _ROWS_AT_ONCE] - mean_features
        system += part.T @ part
        moment += part.T @ targets[first : first + _ROWS_AT_ONCE]
    return FactorMap(mean_features, mean_vector, np.asarray(np.linalg.solve(system, moment), np.float64))
