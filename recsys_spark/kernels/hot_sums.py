"""Sums of hot rows' pieces, the same to the last bit whoever forms and adds them.

Whoever has a piece forms its normal equations in float64 and rounds them to multiples of a unit that is the same
everywhere; multiples are added as integers, which is exact in any order. The unit is 2**-61 of a bound on the whole
sum, so that rounding to it loses less than float64 does, and no sum overflows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recsys_spark.kernels.arrays import Float32Array, Float64Array, Int32Array, Int64Array
from recsys_spark.kernels.csr_block import CsrBlock
from recsys_spark.kernels.degree_ladder import LADDER, padded_lengths, plan_batches
from recsys_spark.kernels.fixed_side import AllPairs, FixedSide
from recsys_spark.kernels.hot_rows import HotRows
from recsys_spark.kernels.losses import Loss, logistic_terms, observed_loss, quadratic_terms
from recsys_spark.kernels.method_choice import MAX_BATCH_FLOATS
from recsys_spark.kernels.row_batch import BatchGatherer, RowBatch, predict
from recsys_spark.kernels.solve_rows import RowProblem, not_finite

_SUM_BITS = 61


@dataclass(frozen=True, slots=True)
class Bounds:
    """What no observation of a hot row, and no entry of the fixed side, exceeds.

    Attributes
    ----------
    value, weight : float
        Largest absolute value, and largest weight, of the hot rows' observations.
    exponents : int32 array of shape (width + 1,)
        Powers of two above the columns of the fixed side's design and its offsets, before any change of basis.
    """

    value: float
    weight: float
    exponents: Int32Array

    def design(self, pairs: AllPairs | None) -> Float64Array:
        """Return a bound on each column of the design in the basis that rows are solved in."""
        largest = np.ldexp(1.0, self.exponents[:-1])
        if pairs is None:
            return np.asarray(largest)
        # Twice, for the rotation itself is rounded to single precision.
        return np.asarray(2.0 * (np.abs(pairs.from_basis.T) * largest).sum(axis=1))

    def observation(self, loss: Loss) -> tuple[float, float, float]:
        """Return bounds on an observation's curvature, slope and loss at a score that is the offset alone.

        Those of the logistic loss hold anywhere; its loss is not summed here.
        """
        score = float(np.ldexp(1.0, self.exponents[-1]))
        if loss.name == "logistic":
            return self.weight / 4, self.weight, 0.0
        if loss.name == "implicit":
            curvature = loss.alpha * self.weight * self.value
            return curvature, (1 + curvature) * (1 + score), (2 + curvature) * (1 + score) ** 2
        largest = self.value if loss.name == "squared" else 1.0
        return self.weight, self.weight * (largest + score), self.weight * (largest + score) ** 2


@dataclass(frozen=True, slots=True)
class HotTask:
    """What it takes to solve hot rows.

    Attributes
    ----------
    hot : HotRows
    bounds : Bounds
    start : float32 array of shape (n_hot, width)
        Rows as they are.
    around : float32 array of shape (n_hot, width)
        Where the loss is taken to be quadratic: where each row starts if it is not quadratic, else zero.
    units : int32 array of shape (n_sums,)
        Sums are in multiples of ``2**units``.
    steepest : bool
        Whether the logistic loss is given its largest curvature, not that around a point: gradient steps are then
        as safe as those of other rows.
    """

    hot: HotRows
    bounds: Bounds
    start: Float32Array
    around: Float32Array
    units: Int32Array
    steepest: bool


def hot_task(hot: HotRows, bounds: Bounds, problem: RowProblem, pairs: AllPairs | None, start: Float32Array) -> HotTask:
    """Prepare the summation of hot rows.

    Parameters
    ----------
    hot : HotRows
    bounds : Bounds
    problem : RowProblem
    pairs : AllPairs or None
        Of the fixed side.
    start : float32 array of shape (n_hot, width)
        Rows as they are.

    Returns
    -------
    HotTask
        A sum is that of the upper triangle of Z' diag(w) Z, of Z' slope, and of the loss at ``around`` if it is
        quadratic, behind each other: ``n_sums = width (width + 1) / 2 + width + 1``.
    """
    design, largest_degree = bounds.design(pairs), float(hot.degrees.max())
    curvature, slope, loss = (largest_degree * bound for bound in bounds.observation(problem.loss))
    upper = np.triu_indices(len(design))
    bound_of_sums = np.concatenate([curvature * (design[:, None] * design)[upper], slope * design, [loss]])
    around = start if not problem.loss.is_quadratic else np.zeros_like(start)
    units = unit_of_sums(bound_of_sums)
    return HotTask(hot, bounds, start, around, units, steepest=problem.solver == "gradient")


def add_up_pieces(pieces: CsrBlock, fixed: FixedSide, loss: Loss, task: HotTask) -> Int64Array:
    """Form the sums of some pieces.

    Parameters
    ----------
    pieces : CsrBlock
        Some or all pieces of the hot rows: a row for each, whose index is the piece's number. Column indexes point
        into the fixed side.
    fixed : FixedSide
    loss : Loss
    task : HotTask

    Returns
    -------
    int64 array of shape (n_hot, n_sums)
        In multiples of ``2**units``. Arrays of other pieces are added to it: the total does not depend on how
        pieces were divided.

    Raises
    ------
    NumericalError
        If a sum is not finite; names the row.

    Notes
    -----
    O(nnz width**2), in float64 BLAS.
    """
    sums = np.zeros((len(task.hot.rows), len(task.units)), np.int64)
    for place, batch in _batches(pieces, fixed, loss, task.hot):
        _add(sums, place, _whole(_sums(batch, task, place), task.units, task.hot.rows[place]))
    return sums


def unpack_sums(total: Int64Array, units: Int32Array) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return curvature (n_hot, width, width), slope (n_hot, width) and loss (n_hot,) from their sums."""
    sums = np.ldexp(total.astype(np.float64), units)
    width = int((np.sqrt(8.0 * sums.shape[1] + 1.0) - 3.0) / 2.0)
    n_entries = width * (width + 1) // 2
    upper = np.triu_indices(width)
    curvature = np.empty((len(sums), width, width))
    curvature[:, upper[0], upper[1]] = sums[:, :n_entries]
    curvature[:, upper[1], upper[0]] = sums[:, :n_entries]
    return curvature, sums[:, n_entries:-1], sums[:, -1]


@dataclass(frozen=True, slots=True)
class Halvings:
    """A step of each hot row, whole and halved again and again, to be evaluated in the pieces.

    Attributes
    ----------
    hot : HotRows
    vectors : float32 array of shape (n_hot, width, n_lengths)
        The first ones are the starts.
    units : int32 array of shape (n_hot, 1)
        Losses are in multiples of ``2**units``.
    """

    hot: HotRows
    vectors: Float32Array
    units: Int32Array


def evaluate_pieces(pieces: CsrBlock, fixed: FixedSide, loss: Loss, tried: Halvings) -> Int64Array:
    """Sum the losses of some pieces at every point that is tried: int64 array of shape (n_hot, n_lengths).

    The sums are in multiples of ``2**units``, and are added like those of `add_up_pieces`. O(nnz width n_lengths).
    """
    sums = np.zeros((len(tried.vectors), tried.vectors.shape[2]), np.int64)
    for place, batch in _batches(pieces, fixed, loss, tried.hot):
        scores = batch.offsets[:, :, None] + np.matmul(batch.design, tried.vectors[place])
        weights = None if batch.weights is None else batch.weights[:, :, None]
        losses = observed_loss(loss, batch.values[:, :, None], weights, scores)
        # Each sum over contiguous numbers, whose order is then that of the piece alone.
        by_length = np.ascontiguousarray(losses.transpose(0, 2, 1)).sum(axis=2)
        _add(sums, place, _whole(by_length, tried.units[place], tried.hot.rows[place]))
    return sums


def unit_of_sums(bounds: Float64Array) -> Int32Array:
    """Return the power of two whose multiples, as int64, can hold sums up to a bound."""
    return (np.frexp(bounds)[1] - _SUM_BITS).astype(np.int32)


def _batches(pieces: CsrBlock, fixed: FixedSide, loss: Loss, hot: HotRows) -> Iterator[tuple[Int64Array, RowBatch]]:
    """Gather the pieces, with the place of each one's row among the hot ones.

    A piece that is longer than the ladder comes in slices, which depend on the piece alone.
    """
    gatherer = BatchGatherer(pieces, fixed, loss)
    lengths = padded_lengths(pieces.degrees)
    place_of = np.searchsorted(hot.first_pieces, pieces.row_index, side="right") - 1
    rows = np.arange(pieces.n_rows)
    floats = np.minimum(lengths, LADDER[-1]) * fixed.width
    for plan in plan_batches(rows, lengths, np.zeros(len(rows), np.int64), floats, MAX_BATCH_FLOATS):
        for first in range(0, plan.total_length, plan.length):
            yield place_of[plan.rows], gatherer.gather(plan.rows, plan.length, first)


def _sums(batch: RowBatch, task: HotTask, place: Int64Array) -> Float64Array:
    """Return the sums of each piece of a batch, float64 (n_pieces, n_sums)."""
    design = batch.design.astype(np.float64)
    scores = batch.offsets + predict(batch.design, task.around[place])
    curvature: Float32Array | None
    if batch.loss.is_quadratic:
        curvature, linear = quadratic_terms(batch.loss, batch.values, batch.weights)
        wide = scores.astype(np.float64)
        slope = linear - (wide if curvature is None else curvature * wide)
    else:
        curvature, steep = logistic_terms(batch.values, batch.weights, scores)
        slope = steep.astype(np.float64)
        if task.steepest:
            assert batch.weights is not None, "where the loss is logistic, padding has weight 0"
            curvature = np.float32(0.25) * batch.weights
    transposed = design.transpose(0, 2, 1)
    curved = design if curvature is None else design * curvature[:, :, None]
    gramian = np.matmul(transposed, curved)[:, *np.triu_indices(design.shape[2])]
    moment = np.matmul(transposed, slope[:, :, None])[:, :, 0]
    if batch.loss.is_quadratic:
        loss = observed_loss(batch.loss, batch.values, batch.weights, scores).sum(axis=1)
    else:
        loss = np.zeros(len(design))
    return np.concatenate([gramian, moment, loss[:, None]], axis=1)


def _add(sums: Int64Array, place: Int64Array, parts: Int64Array) -> None:
    # A row may have several pieces in one batch.
    for row, part in zip(place.tolist(), parts, strict=True):
        sums[row] += part


def _whole(sums: Float64Array, units: Int32Array, rows: Int32Array) -> Int64Array:
    """Round sums of shape (n, n_sums) to whole multiples of their units."""
    multiples = np.rint(np.ldexp(sums, -units))
    is_usable = (np.abs(multiples) < 2.0 ** (_SUM_BITS + 1)).all(axis=1)
    if not is_usable.all():
        raise not_finite(int((~is_usable).sum()), int(rows[np.argmin(is_usable)]))
    return multiples.astype(np.int64)
