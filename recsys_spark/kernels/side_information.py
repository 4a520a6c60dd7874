"""What features say of rows' vectors while these are trained: x_i ~ N(B' f_i, ..), with B fitted along.

To the objective, the rows of a side then add

    min over B of  sum_i sum_k penalty_ik (x_ik - (B' f_i)_k)**2 + reg_param sum_k reg_k |B_k|**2

in place of ``sum_ik penalty_ik x_ik**2``, with ``penalty_ik = reg_k degree_i**reg_exponent`` and a feature that is 1
for every row. This is a function of the rows' vectors alone. Solving the rows with B fixed, and B with the rows fixed,
lowers it in turn.

B follows from ``F' S F``, with S the rows' scales, and from ``F' S X``. The latter is added up in whole numbers, as
Gramians are, and what is said of a row comes from its own entries one after the other: to the last bit, neither depends
on how the rows are spread over blocks.

References
----------
Agarwal, Chen (2009), Regression-based latent factor models. doi:10.1145/1557019.1557029
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recsys_spark.errors import NumericalError, ShapeError
from recsys_spark.kernels.arrays import Float32Array, Float64Array, Int32Array, IntArray
from recsys_spark.kernels.feature_encoding import dense_rows
from recsys_spark.kernels.gramian import WHOLE_BITS, ExactSum, column_exponents
from recsys_spark.kernels.neighbour_average import SparseRows
from recsys_spark.kernels.objective import Regularization, penalty, row_penalties

# Numbers that are held at once, of entries times width; fewer than 2**23 products of 40 bits fit into an integer.
_FLOATS_AT_ONCE = 1 << 20
_DENSE_ROWS_AT_ONCE, _DENSE_FLOATS_AT_ONCE = 1 << 12, 1 << 22


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """Rows of a side with their features: all of the side, or those of a block.

    Attributes
    ----------
    features : SparseRows
        The last column is 1 for every row.
    scales : float64 array of shape (n_rows,)
        What a row's penalties are multiplied by; 0 of rows without observations, which take no part.
    exponents : int32 array of shape (n_columns,)
        Powers of two above the largest entry of each column, times its row's scale, of the whole side.
    """

    features: SparseRows
    scales: Float64Array
    exponents: Int32Array

    @classmethod
    def of_side(cls, features: SparseRows, n_features: int, scales: Float64Array) -> "FeatureRows":
        """Return all rows of a side, of so many features."""
        ends = features.indptr[1:]
        columns = np.insert(features.columns, ends, n_features).astype(np.int32)
        values = np.insert(features.values, ends, 1.0).astype(np.float32)
        rows = SparseRows(features.indptr + np.arange(features.n_rows + 1), columns, values)
        largest = np.zeros(n_features + 1)
        np.maximum.at(largest, columns, np.abs(values) * np.repeat(scales, np.diff(rows.indptr)))
        return cls(rows, scales, np.frexp(largest)[1].astype(np.int32))

    def take(self, index: IntArray) -> "FeatureRows":
        """Return some of the rows, in that order."""
        return FeatureRows(self.features.take(index), self.scales[index], self.exponents)

    def said(self, matrix: Float64Array) -> Float64Array:
        """Return what the features say of the rows by a map B, float64 (n_columns, width): float64 (n_rows, width)."""
        found = np.empty((self.features.n_rows, matrix.shape[1]))
        for rows, entries in self._parts(matrix.shape[1]):
            terms = self.features.values[entries, None] * matrix[self.features.columns[entries]]
            found[rows] = np.add.reduceat(terms, self.features.indptr[rows] - entries.start, axis=0)
        return found

    def moment(self, vectors: Float32Array, exponents: Int32Array) -> ExactSum:
        """Return ``F' S X`` for vectors X of the rows.

        Parameters
        ----------
        vectors : float32 array of shape (n_rows, width)
        exponents : int32 array of shape (width,)
            `column_exponents` of all vectors of the side.

        Raises
        ------
        NumericalError
            If a vector is not finite.
        """
        if not np.isfinite(vectors).all():
            raise NumericalError("vectors must be finite to be regressed on features")
        total = ExactSum.nothing(len(self.exponents), vectors.shape[1])
        for rows, entries in self._parts(vectors.shape[1]):
            columns, lengths = self.features.columns[entries], np.diff(self.features.indptr)[rows]
            order = np.argsort(columns, kind="stable")
            scaled = self.features.values[entries] * np.repeat(self.scales[rows], lengths)
            whole = np.rint(np.ldexp(scaled, WHOLE_BITS - self.exponents[columns])).astype(np.int64)
            of_rows = np.rint(np.ldexp(vectors[rows].astype(np.float64), WHOLE_BITS - exponents)).astype(np.int64)
            owners = np.repeat(np.arange(len(lengths)), lengths)
            found, first = np.unique(columns[order], return_index=True)
            total.add(np.add.reduceat(whole[order, None] * of_rows[owners[order]], first, axis=0), found)
        return total

    def penalty(self, vectors: Float32Array, matrix: Float64Array, regularization: Regularization) -> Float64Array:
        """Return what each row adds to the objective by a map, in float64 (n_rows,); B's own penalty aside."""
        found = np.empty(len(vectors))
        reg_params = _reg_params(regularization, vectors.shape[1])
        for rows, _ in self._parts(vectors.shape[1]):
            own = FeatureRows(self.features.take(np.arange(rows.start, rows.stop)), self.scales[rows], self.exponents)
            found[rows] = penalty(vectors[rows], self.scales[rows, None] * reg_params, own.said(matrix))
        return found

    def _parts(self, width: int) -> Iterator[tuple[slice, slice]]:
        """Return some rows and their entries at a time."""
        indptr, first = self.features.indptr, 0
        while first < self.features.n_rows:
            most = indptr[first] + max(1, _FLOATS_AT_ONCE // max(width, 1))
            last = max(first + 1, int(np.searchsorted(indptr, most, side="right")) - 1)
            yield slice(first, last), slice(int(indptr[first]), int(indptr[last]))
            first = last


class SideInformation:
    """The rows of one side with their features, and the map that fits their vectors best.

    Parameters
    ----------
    features : SparseRows
        Of n_rows rows.
    n_features : int
    degrees : int32 array of shape (n_rows,)
        Rows without observations take no part.
    regularization : Regularization
    unobserved_degree : float
        As of `row_penalties`.
    reg_param : float > 0
        Penalty of B, beside those of the vectors.

    Attributes
    ----------
    rows : FeatureRows

    Notes
    -----
    O(n_rows n_features**2 + n_features**3) once, and for each use O(entries width + n_features**2 width).
    """

    def __init__(
        self,
        features: SparseRows,
        n_features: int,
        degrees: Int32Array,
        regularization: Regularization,
        unobserved_degree: float,
        reg_param: float,
    ) -> None:
        if features.n_rows != len(degrees) or reg_param <= 0:
            raise ShapeError(f"{len(degrees)} rows need as many features and reg_param > 0, got {features.n_rows}")
        self._regularization, self._reg_param = regularization, reg_param
        plain = Regularization(1.0, 1.0, regularization.reg_exponent, biases=False)
        scales = np.where(degrees > 0, row_penalties(degrees, 1, plain, unobserved_degree)[:, 0], 0.0)
        self.rows = FeatureRows.of_side(features, n_features, scales)
        self._inverse = np.linalg.inv(reg_param * np.eye(n_features + 1) + _squares(self.rows))

    def matrix(self, moment: ExactSum, exponents: Int32Array) -> Float64Array:
        """Return the B that fits vectors best, float64 (n_features + 1, width), from `FeatureRows.moment` of all rows.

        ``exponents`` are those of the moment's vectors.
        """
        return np.asarray(self._inverse @ moment.value(self.rows.exponents, exponents))

    def matrix_of(self, vectors: Float32Array) -> Float64Array:
        """Return the B that fits all rows' vectors, float32 (n_rows, width), best."""
        exponents = column_exponents(vectors)
        return self.matrix(self.rows.moment(vectors, exponents), exponents)

    def penalty_of_matrix(self, matrix: Float64Array) -> float:
        """Return what B itself adds to the objective."""
        reg_params = _reg_params(self._regularization, matrix.shape[1])
        return math.fsum((matrix**2).sum(axis=0) * reg_params * self._reg_param)

    def expected(self, vectors: Float32Array) -> Float32Array:
        """Return what the features say of all rows, by the B that fits some vectors best: float32 (n_rows, width)."""
        return self.rows.said(self.matrix_of(vectors)).astype(np.float32)

    def penalty(self, vectors: Float32Array) -> float:
        """Return what rows with some vectors add to the objective."""
        matrix = self.matrix_of(vectors)
        of_rows = self.rows.penalty(vectors, matrix, self._regularization)
        return math.fsum(of_rows) + self.penalty_of_matrix(matrix)


def _reg_params(regularization: Regularization, width: int) -> Float64Array:
    found = np.full(width, regularization.reg_param)
    if regularization.biases:
        found[-1] = regularization.bias_reg_param
    return found


def _squares(rows: FeatureRows) -> Float64Array:
    """Return ``F' S F``."""
    width = len(rows.exponents)
    total = np.zeros((width, width))
    step = max(1, min(_DENSE_ROWS_AT_ONCE, _DENSE_FLOATS_AT_ONCE // width))
    for first in range(0, len(rows.scales), step):
        part = rows.take(np.arange(first, min(first + step, len(rows.scales))))
        dense = dense_rows(part.features, width).astype(np.float64)
        total += dense.T @ (dense * part.scales[:, None])
    return total
