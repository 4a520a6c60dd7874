"""Gramians of a whole side, the same to the last bit however its rows are spread over blocks.

A floating-point sum depends on the order of its terms. Here each column is first rounded to multiples of
2**-20 of its largest entry: products of two such numbers are whole, of 40 bits, and a float64 matrix product of
4,096 rows holds their sums without rounding. Those sums are added as integers, which is exact in any order.
"""

from dataclasses import dataclass

import numpy as np

from recsys_spark.errors import NumericalError
from recsys_spark.kernels.arrays import Float32Array, Float64Array, Int32Array, Int64Array, IntArray

WHOLE_BITS = 20
"""Bits of the whole numbers that are multiplied: those of a column's largest entry."""

_ROWS_PER_PRODUCT = 1 << 12
_LIMB_BITS = 20


@dataclass(frozen=True, slots=True)
class ExactSum:
    """A sum of whole matrices, as two limbs of int64: high * 2**20 + low.

    Attributes
    ----------
    high, low : int64 arrays of shape (n, m)
    """

    high: Int64Array
    low: Int64Array

    @classmethod
    def nothing(cls, n: int, m: int) -> "ExactSum":
        """Return a sum of no matrices, of shape (n, m)."""
        return cls(np.zeros((n, m), np.int64), np.zeros((n, m), np.int64))

    def add(self, matrix: Int64Array, rows: IntArray | slice = slice(None)) -> None:
        """Add a matrix to some of the rows, in place."""
        self.high[rows] += matrix >> _LIMB_BITS
        self.low[rows] += matrix & ((1 << _LIMB_BITS) - 1)

    def value(self, row_exponents: Int32Array, column_exponents: Int32Array) -> Float64Array:
        """Return the sum of products whose factors were cut to `WHOLE_BITS` below these powers of two, as float64."""
        whole = np.ldexp(self.high.astype(np.float64), _LIMB_BITS) + self.low
        return np.asarray(np.ldexp(whole, row_exponents[:, None] + column_exponents[None, :] - 2 * WHOLE_BITS))

    def __add__(self, other: "ExactSum") -> "ExactSum":
        """Add two sums, exactly."""
        return ExactSum(self.high + other.high, self.low + other.low)


def column_exponents(vectors: Float32Array) -> Int32Array:
    """Return the least powers of two above the columns' largest entries; those of parts combine by ``maximum``.

    Parameters
    ----------
    vectors : float32 array of shape (n, width)

    Returns
    -------
    int32 array of shape (width,)
        For a column of zeros, and for no rows, a power below that of every float32 number.
    """
    largest = np.abs(vectors).max(axis=0, initial=0.0)
    exponents = np.frexp(largest)[1].astype(np.int32)
    return np.where(largest > 0, exponents, np.int32(-200)).astype(np.int32)


def partial_gramian(vectors: Float32Array, exponents: Int32Array) -> ExactSum:
    """Compute V'V of some rows, as whole numbers.

    Parameters
    ----------
    vectors : float32 array of shape (n, width)
    exponents : int32 array of shape (width,)
        Of all rows of the side.

    Returns
    -------
    ExactSum
        In units of 2**(exponents[f] + exponents[g] - 40). O(n width**2), in float64 BLAS.

    Raises
    ------
    NumericalError
        If a vector is not finite.
    """
    if not np.isfinite(vectors).all():
        raise NumericalError("vectors must be finite to form their gramian")
    width = vectors.shape[1]
    total = ExactSum.nothing(width, width)
    for first in range(0, len(vectors), _ROWS_PER_PRODUCT):
        part = vectors[first : first + _ROWS_PER_PRODUCT].astype(np.float64)
        whole = np.rint(np.ldexp(part, WHOLE_BITS - exponents))
        total.add(np.matmul(whole.T, whole).astype(np.int64))
    return total


def gramian_of(total: ExactSum, exponents: Int32Array) -> Float64Array:
    """Return the sum of all rows' partial Gramians as a float64 matrix of shape (width, width).

    Every entry is off by at most 2**-20 of the products of its columns' largest entries, per row, at random.
    """
    return total.value(exponents, exponents)


def side_gramian(vectors: Float32Array) -> Float64Array:
    """Compute V'V of a whole side that is at hand: float64 array of shape (width, width)."""
    exponents = column_exponents(vectors)
    return gramian_of(partial_gramian(vectors, exponents), exponents)
