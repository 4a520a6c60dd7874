"""The one place that defines the objective and scales its regularisation.

For row vectors v over the fixed side's design vectors z and targets t (rating minus global mean minus the
fixed bias), a row of degree n adds to the objective

    sum_j (t_j - z_j . v)**2  +  sum_f penalty_f v_f**2

with ``penalty_f = reg_param * n**reg_exponent`` for a factor and ``bias_reg_param * n**reg_exponent`` for
the bias, the last entry. Exponent 1 is weighted-lambda regularisation (ALS-WR, and Spark MLlib's), 0 the
plain one.

References
----------
Zhou, Wilkinson, Schreiber, Pan (2008), Large-scale parallel collaborative filtering for the Netflix Prize,
eq. 3. doi:10.1007/978-3-540-68880-8_32
"""

from dataclasses import dataclass

import numpy as np

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.arrays import Float32Array, Float64Array, IntArray


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


def row_penalties(degrees: IntArray, width: int, regularization: Regularization) -> Float64Array:
    """Compute the diagonal of each row's penalty matrix.

    Parameters
    ----------
    degrees : integer array of shape (n_rows,)
        Observations of each row. A row without any counts as one of degree 1, which makes its solution zero.
    width : int >= 1
        Entries of a row's vector, the bias included.
    regularization : Regularization
        Penalties before scaling.

    Returns
    -------
    float64 array of shape (n_rows, width)
        The last column is the bias's where ``regularization.biases``.
    """
    scale = np.maximum(np.asarray(degrees), 1).astype(np.float64) ** regularization.reg_exponent
    penalties = np.repeat((regularization.reg_param * scale)[:, None], width, axis=1)
    if regularization.biases:
        penalties[:, -1] = regularization.bias_reg_param * scale
    return penalties


def squared_error(residuals: Float32Array) -> Float64Array:
    """Sum the squares of each row's residuals, in float64.

    Parameters
    ----------
    residuals : float32 array of shape (n_rows, length)
        Targets minus predictions; zero where a row is padded.

    Returns
    -------
    float64 array of shape (n_rows,)
        Rating units squared.
    """
    wide = residuals.astype(np.float64)
    wide *= wide
    return np.asarray(wide.sum(axis=1))


def penalty(vectors: Float32Array, penalties: Float64Array) -> Float64Array:
    """Compute each row's regularisation term, in float64.

    Parameters
    ----------
    vectors : float32 array of shape (n_rows, width)
        Solved rows.
    penalties : float64 array of shape (n_rows, width)
        From `row_penalties`.

    Returns
    -------
    float64 array of shape (n_rows,)
        ``sum_f penalties_f v_f**2``.
    """
    wide = vectors.astype(np.float64)
    wide *= wide
    wide *= penalties
    return np.asarray(wide.sum(axis=1))
