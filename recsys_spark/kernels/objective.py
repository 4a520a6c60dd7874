"""How the regularisation is scaled, and what stands beside a row's observations in the objective.

A row of degree n with vector v adds to the objective the losses of its observations (see ``losses``), the
term of all pairs (see ``fixed_side.AllPairs``), and ``sum_f penalty_f v_f**2`` with
``penalty_f = reg_param * n**reg_exponent`` for a factor and ``bias_reg_param * n**reg_exponent`` for the
bias, the last entry. Exponent 1 is weighted-lambda regularisation (ALS-WR, and Spark MLlib's), 0 the plain
one. Where unobserved pairs have a weight, n counts them at that weight (iALS, eq. 8; not in MLlib's loss).

References
----------
Zhou, Wilkinson, Schreiber, Pan (2008), Large-scale parallel collaborative filtering for the Netflix Prize,
eq. 3. doi:10.1007/978-3-540-68880-8_32
Rendle, Krichene, Zhang, Koren (2022), Revisiting the performance of iALS on item recommendation benchmarks.
doi:10.1145/3523227.3548486
"""

from dataclasses import dataclass

import numpy as np

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.arrays import Float32Array, Float64Array, Int64Array, IntArray


@dataclass(frozen=True, slots=True)
class Regularization:
    """How strongly rows are pulled towards zero.

    Attributes
    ----------
    reg_param : float >= 0
        Penalty of a squared factor, before scaling by the degree.
    bias_reg_param : float >= 0
        Penalty of the squared bias, before scaling by the degree; unused without biases.
    reg_exponent : float >= 0
        Penalties are multiplied by ``degree ** reg_exponent``.
    biases : bool
        Whether the last entry of a vector is a bias.
    """

    reg_param: float
    bias_reg_param: float
    reg_exponent: float
    biases: bool

    def __post_init__(self) -> None:
        """Reject penalties that leave the objective without a minimum."""
        for name in ("reg_param", "bias_reg_param", "reg_exponent"):
            amount = getattr(self, name)
            if not (amount >= 0 and np.isfinite(amount)):
                raise ShapeError(f"{name} must be finite and >= 0, got {amount}")

    @property
    def is_positive(self) -> bool:
        """Whether every entry of a vector has a penalty > 0."""
        return self.reg_param > 0 and (not self.biases or self.bias_reg_param > 0)


def row_penalties(
    degrees: IntArray, width: int, regularization: Regularization, unobserved_degree: float = 0.0
) -> Float64Array:
    """Compute the diagonal of each row's penalty matrix.

    Parameters
    ----------
    degrees : integer array of shape (n_rows,)
        Observations of each row. A row without any counts as one of degree 1, which makes its solution zero.
    width : int >= 1
        Entries of a row's vector, the bias included.
    regularization : Regularization
        Penalties before scaling.
    unobserved_degree : float, default 0
        Added to every degree: the unobserved pairs at their weight.

    Returns
    -------
    float64 array of shape (n_rows, width)
        The last column is the bias's where ``regularization.biases``.
    """
    counted = np.maximum(np.asarray(degrees), 1).astype(np.float64) + unobserved_degree
    scale = counted**regularization.reg_exponent
    penalties = np.repeat((regularization.reg_param * scale)[:, None], width, axis=1)
    if regularization.biases:
        penalties[:, -1] = regularization.bias_reg_param * scale
    return penalties


@dataclass(frozen=True, slots=True)
class Ridge:
    """What stands beside the observations of some rows: v' (diag(diagonal) + matrix) v - 2 pull . v.

    Attributes
    ----------
    diagonal : float64 array of shape (n_rows, width)
        Penalties, and the curvature of all pairs where it is diagonal.
    pull : float64 array of shape (width,) or (n_rows, width), or None
        Linear part of all pairs, and of penalties that are not least at zero; None: zero.
    matrix : float64 array of shape (width, width) or None
        Curvature of all pairs where it is not diagonal.
    """

    diagonal: Float64Array
    pull: Float64Array | None = None
    matrix: Float64Array | None = None

    def of(self, rows: Int64Array) -> "Ridge":
        """Return the ridge of some of the rows."""
        pull = self.pull[rows] if self.pull is not None and self.pull.ndim == 2 else self.pull
        return Ridge(self.diagonal[rows], pull, self.matrix)

    def half_gradient(self, vectors: Float64Array) -> Float64Array:
        """Return half the gradient at row vectors of shape (n_rows, width)."""
        gradient = self.diagonal * vectors
        if self.matrix is not None:
            gradient += np.matmul(self.matrix, vectors[:, :, None])[:, :, 0]
        return gradient if self.pull is None else gradient - self.pull


def penalty(
    vectors: Float32Array, penalties: Float64Array, expected: Float32Array | Float64Array | None = None
) -> Float64Array:
    """Compute each row's regularisation term, in float64.

    Parameters
    ----------
    vectors : float32 array of shape (n_rows, width)
        Solved rows.
    penalties : float64 array of shape (n_rows, width)
        From `row_penalties`.
    expected : float array of shape (n_rows, width), optional
        What rows are drawn towards; default: zero.

    Returns
    -------
    float64 array of shape (n_rows,)
        ``sum_f penalties_f (v_f - expected_f)**2``.
    """
    wide = vectors.astype(np.float64)
    if expected is not None:
        wide -= expected
    wide *= wide
    wide *= penalties
    return np.asarray(wide.sum(axis=1))
