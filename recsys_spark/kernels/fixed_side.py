"""The vectors of the side that stays fixed, prepared for solving the rows of the other."""

from dataclasses import dataclass

import numpy as np

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.arrays import Float32Array


@dataclass(frozen=True, slots=True)
class FixedSide:
    """Design vectors and offsets of the fixed side.

    The last row of both arrays is zero: padding with that index adds nothing to any sum, so that no mask is
    needed.

    Attributes
    ----------
    design : float32 array of shape (n_fixed + 1, width), C-contiguous
        With biases ``[x_j, 1]``, otherwise ``x_j``.
    offsets : float32 array of shape (n_fixed + 1,)
        Global mean plus the fixed bias: what a rating holds before the row being solved adds anything.
    """

    design: Float32Array
    offsets: Float32Array

    @property
    def n_fixed(self) -> int:
        """Number of fixed vectors, the padding row not counted."""
        return len(self.design) - 1

    @property
    def width(self) -> int:
        """Entries of a design vector."""
        return int(self.design.shape[1])


def make_fixed_side(vectors: Float32Array, global_mean: float, biases: bool) -> FixedSide:
    """Prepare the fixed side's vectors.

    Parameters
    ----------
    vectors : float32 array of shape (n_fixed, width)
        Factors, then the bias if ``biases``. Not changed.
    global_mean : float
        Mean rating.
    biases : bool
        Whether the last column is a bias.

    Returns
    -------
    FixedSide
        O(n_fixed width) time; one copy of ``vectors``.

    Raises
    ------
    ShapeError
        If ``vectors`` is not two-dimensional or has no column.
    """
    if vectors.ndim != 2 or vectors.shape[1] < 1:
        raise ShapeError(f"vectors must have shape (n_fixed, width >= 1), got {vectors.shape}")
    n_fixed, width = vectors.shape
    design = np.zeros((n_fixed + 1, width), dtype=np.float32)
    design[:-1] = vectors
    offsets = np.zeros(n_fixed + 1, dtype=np.float32)
    offsets[:-1] = global_mean
    if biases:
        offsets[:-1] = global_mean + vectors[:, -1].astype(np.float64)
        design[:-1, -1] = 1.0
    return FixedSide(design=design, offsets=offsets)
