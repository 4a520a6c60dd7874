"""The vectors of the side that stays fixed, prepared for solving the rows of the other."""

from dataclasses import dataclass, replace

import numpy as np

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.arrays import BoolArray, Float32Array, Float64Array, IntArray
from recsys_spark.kernels.objective import Regularization, Ridge, row_penalties


@dataclass(frozen=True, slots=True)
class AllPairs:
    """What the pairs of a row with *every* fixed vector add to its problem, in a basis of their own.

    With S the diagonal matrix that gives the bias the factors' penalty, and Q E Q' the eigendecomposition of
    S^-1 G S^-1, a row is solved for u where v = S^-1 Q u. There both the term of all pairs,
    u' diag(curvature) u - 2 pull . u + constant, and the penalty are diagonal, whatever the row's own penalty.

    Attributes
    ----------
    curvature : float64 array of shape (width,)
        ``weight * E``.
    pull : float64 array of shape (width,)
        Minus ``weight`` times the sum of offset and design vector over the fixed side.
    constant : float
        ``weight`` times the sum of squared offsets.
    degree : float
        What unobserved pairs add to a row's degree in its penalty.
    from_basis, to_basis : float64 arrays of shape (width, width)
        ``v = from_basis @ u`` and ``u = to_basis @ v``.
    matrix : float64 array of shape (width, width) or None
        ``weight * G`` where the basis is the model's own and ``curvature`` is zero; else None.
    """

    curvature: Float64Array
    pull: Float64Array
    constant: float
    degree: float
    from_basis: Float64Array
    to_basis: Float64Array
    matrix: Float64Array | None = None

    def regularization_in_basis(self, regularization: Regularization) -> Regularization:
        """Return the penalties of u: in the basis of the eigenvectors, the factors' for all entries."""
        return replace(regularization, biases=False) if self.matrix is None else regularization


@dataclass(frozen=True, slots=True)
class FixedSide:
    """Design vectors and offsets of the fixed side.

    The last row of both arrays is zero: padding with that index adds nothing to any sum, so that no mask is
    needed.

    Attributes
    ----------
    design : float32 array of shape (n_fixed + 1, width), C-contiguous
        With biases ``[x_j, 1]``, otherwise ``x_j``; in the basis of ``all_pairs`` where there is one. Zero
        where the fixed row was never trained.
    offsets : float32 array of shape (n_fixed + 1,)
        Constant plus the fixed bias: what a score holds before the row being solved adds anything.
    all_pairs : AllPairs or None
    """

    design: Float32Array
    offsets: Float32Array
    all_pairs: AllPairs | None = None

    @property
    def n_fixed(self) -> int:
        """Number of fixed vectors, the padding row not counted."""
        return len(self.design) - 1

    @property
    def width(self) -> int:
        """Entries of a design vector."""
        return int(self.design.shape[1])


def make_fixed_side(
    vectors: Float32Array, constant: float, biases: bool, *, is_trained: BoolArray | None = None
) -> FixedSide:
    """Prepare the fixed side's vectors.

    Parameters
    ----------
    vectors : float32 array of shape (n_fixed, width)
        Factors, then the bias if ``biases``. Not changed.
    constant : float
        Part of every score, such as the mean rating.
    biases : bool
        Whether the last column is a bias.
    is_trained : bool array of shape (n_fixed,), optional
        False for rows that no observation names: they take no part in anything. Default: all are.

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
    offsets[:-1] = constant
    if biases:
        offsets[:-1] = constant + vectors[:, -1].astype(np.float64)
        design[:-1, -1] = 1.0
    if is_trained is not None:
        design[:-1][~is_trained] = 0.0
        offsets[:-1][~is_trained] = 0.0
    return FixedSide(design=design, offsets=offsets)


def with_offsets(fixed: FixedSide) -> Float32Array:
    """Return design vectors and offsets side by side, shape (n_fixed, width + 1): what `all_pairs` sums up."""
    return np.concatenate([fixed.design[:-1], fixed.offsets[:-1, None]], axis=1)


def all_pairs(
    gramian: Float64Array,
    n_trained: int,
    weight: float,
    regularization: Regularization,
    *,
    counts_unobserved: bool,
    rotated: bool = True,
) -> AllPairs:
    """Return the term of all pairs, from the Gramian of the fixed side.

    Parameters
    ----------
    gramian : float64 array of shape (width + 1, width + 1)
        Of `with_offsets`.
    n_trained : int
        Fixed rows that were trained.
    weight : float > 0
        Of every pair.
    regularization : Regularization
        With ``reg_param`` > 0, and ``bias_reg_param`` > 0 if there are biases.
    counts_unobserved : bool
        Whether a row's degree counts ``weight * n_trained`` unobserved pairs.
    rotated : bool, default True
        False: keep the model's own basis, for constraints on its entries.

    Returns
    -------
    AllPairs
        O(width**3).

    Raises
    ------
    ShapeError
        If a penalty is zero: the basis is that of the Gramian beside the penalty.
    """
    reg_param, bias_reg_param = regularization.reg_param, regularization.bias_reg_param
    if reg_param == 0 or (regularization.biases and bias_reg_param == 0):
        raise ShapeError("a weight of unobserved pairs needs reg_param and bias_reg_param > 0")
    width = len(gramian) - 1
    constant = weight * float(gramian[width, width])
    degree = weight * n_trained if counts_unobserved else 0.0
    if not rotated:
        matrix, pull, same = weight * gramian[:width, :width], -weight * gramian[:width, width], np.eye(width)
        return AllPairs(np.zeros(width), pull, constant, degree, same, same, matrix)
    scale = np.ones(width)
    if regularization.biases:
        scale[-1] = np.sqrt(bias_reg_param / reg_param)
    eigenvalues, eigenvectors = np.linalg.eigh(gramian[:width, :width] / np.outer(scale, scale))
    from_basis = eigenvectors / scale[:, None]
    return AllPairs(
        # The smallest ones are rounding, and may come out below zero.
        curvature=weight * np.maximum(eigenvalues, 0.0),
        pull=-weight * (from_basis.T @ gramian[:width, width]),
        constant=constant,
        degree=degree,
        from_basis=from_basis,
        to_basis=eigenvectors.T * scale[None, :],
    )


def in_basis(fixed: FixedSide, part: AllPairs) -> FixedSide:
    """Return the fixed side with its design vectors in the basis of a term of all pairs.

    A design vector's result depends on itself alone, not on the others. O(n_fixed width**2).
    """
    return FixedSide(rotate(fixed.design, part.from_basis.T), fixed.offsets, part)


def rotate(vectors: Float32Array, transform: Float64Array) -> Float32Array:
    """Compute ``transform @ v`` for each row v, in float32: rows of shape (n, width).

    The same bits for a row wherever it stands and whatever stands beside it, since each has a product of its own. In a
    product of two matrices, some BLAS add up the last rows in another order than the others; it is hardly faster.
    """
    return np.asarray(np.matmul(transform.astype(np.float32), vectors[:, :, None])[:, :, 0])


def penalties_in_basis(
    degrees: IntArray, width: int, regularization: Regularization, pairs: AllPairs | None
) -> Float64Array:
    """Return each row's penalties, as `row_penalties` does, in the basis of a term of all pairs if there is one."""
    if pairs is None:
        return row_penalties(degrees, width, regularization)
    return row_penalties(degrees, width, pairs.regularization_in_basis(regularization), pairs.degree)


def ridge_of(penalties: Float64Array, pairs: AllPairs | None, expected: Float32Array | None = None) -> Ridge:
    """Return what stands beside the observations of rows.

    Parameters
    ----------
    penalties : float64 array of shape (n_rows, width)
    pairs : AllPairs or None
    expected : float32 array of shape (n_rows, width), optional
        What the penalties draw rows towards, in the basis of ``pairs``; default: zero.
    """
    pull = None if expected is None else penalties * expected
    if pairs is None:
        return Ridge(penalties, pull)
    return Ridge(penalties + pairs.curvature, pairs.pull if pull is None else pairs.pull + pull, pairs.matrix)


def all_pairs_term(vectors: Float32Array, pairs: AllPairs | None) -> Float64Array:
    """Evaluate the term of all pairs for row vectors in its basis: float64 array of shape (n_rows,)."""
    if pairs is None:
        return np.zeros(len(vectors))
    wide = vectors.astype(np.float64)
    bent = wide * pairs.curvature
    if pairs.matrix is not None:
        bent += np.matmul(pairs.matrix, wide[:, :, None])[:, :, 0]
    return np.asarray(((bent - 2.0 * pairs.pull) * wide).sum(axis=1) + pairs.constant)
