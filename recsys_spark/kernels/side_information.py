"""What features say of rows' vectors while these are trained: x_i ~ N(B' f_i, ..), with B fitted along.

To the objective, the rows of a side then add

    min over B of  sum_i sum_k penalty_ik (x_ik - (B' f_i)_k)**2 + reg_param sum_k reg_k |B_k|**2

in place of ``sum_ik penalty_ik x_ik**2``, with ``penalty_ik = reg_k degree_i**reg_exponent`` and a feature that is 1
for every row. This is a function of the rows' vectors alone. Solving the rows with B fixed, and B with the rows fixed,
lowers it in turn.

References
----------
Agarwal, Chen (2009), Regression-based latent factor models. doi:10.1145/1557019.1557029
"""

import math

import numpy as np

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.arrays import Float32Array, Float64Array, Int32Array
from recsys_spark.kernels.objective import Regularization, penalty, row_penalties

_ROWS_AT_ONCE = 1 << 12


class SideInformation:
    """The rows of one side with their features.

    Parameters
    ----------
    features : float32 array of shape (n_rows, n_features)
    degrees : int32 array of shape (n_rows,)
        Rows without observations take no part.
    regularization : Regularization
    unobserved_degree : float
        As of `row_penalties`.
    reg_param : float > 0
        Penalty of B, beside those of the vectors.

    Notes
    -----
    O(n_rows n_features**2 + n_features**3) once, and O(n_rows n_features width) for each use.
    """

    def __init__(
        self,
        features: Float32Array,
        degrees: Int32Array,
        regularization: Regularization,
        unobserved_degree: float,
        reg_param: float,
    ) -> None:
        if len(features) != len(degrees) or reg_param <= 0:
            raise ShapeError(f"{len(degrees)} rows need as many features and reg_param > 0, got {len(features)}")
        self._regularization, self._reg_param = regularization, reg_param
        self._degrees, self._unobserved_degree = degrees, unobserved_degree
        self._features = np.concatenate([features, np.ones((len(features), 1), np.float32)], axis=1)
        scale = Regularization(1.0, 1.0, regularization.reg_exponent, biases=False)
        self._scale = np.where(degrees > 0, row_penalties(degrees, 1, scale, unobserved_degree)[:, 0], 0.0)
        system = reg_param * np.eye(self._features.shape[1])
        for part in self._parts():
            rows = self._features[part].astype(np.float64)
            system += rows.T @ (rows * self._scale[part, None])
        self._inverse = np.linalg.inv(system)

    def expected(self, vectors: Float32Array) -> Float32Array:
        """Return what the features say of all rows, by the B that fits some vectors best: float32 (n_rows, width)."""
        matrix = self._fitted(vectors)
        return np.concatenate([self._say(part, matrix).astype(np.float32) for part in self._parts()])

    def penalty(self, vectors: Float32Array) -> float:
        """Return what rows with some vectors add to the objective."""
        matrix, width = self._fitted(vectors), vectors.shape[1]
        shares = [
            penalty(vectors[part], self._penalties(part, width), self._say(part, matrix))[self._degrees[part] > 0]
            for part in self._parts()
        ]
        of_map = (matrix**2).sum(axis=0) * self._reg_params(width) * self._reg_param
        return math.fsum(np.concatenate([*shares, of_map]))

    def _fitted(self, vectors: Float32Array) -> Float64Array:
        moment = np.zeros((self._features.shape[1], vectors.shape[1]))
        for part in self._parts():
            moment += self._features[part].astype(np.float64).T @ (vectors[part] * self._scale[part, None])
        return np.asarray(self._inverse @ moment)

    def _say(self, part: slice, matrix: Float64Array) -> Float64Array:
        return np.asarray(self._features[part].astype(np.float64) @ matrix)

    def _penalties(self, part: slice, width: int) -> Float64Array:
        return row_penalties(self._degrees[part], width, self._regularization, self._unobserved_degree)

    def _reg_params(self, width: int) -> Float64Array:
        found = np.full(width, self._regularization.reg_param)
        if self._regularization.biases:
            found[-1] = self._regularization.bias_reg_param
        return found

    def _parts(self) -> list[slice]:
        return [slice(first, first + _ROWS_AT_ONCE) for first in range(0, max(len(self._degrees), 1), _ROWS_AT_ONCE)]
