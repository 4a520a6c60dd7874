"""Gradient steps of both sides at once: how far to go when every row moves from the same old values.

A step that is safe for each row while the other side stands still need not be when both move: a score changes by
the product of the two changes as well. The objective is therefore evaluated at several lengths of the joint step,
0 among them, and the lowest is taken: it cannot rise.

Steps are accelerated: they begin a little ahead of where both sides are, in the direction in which they have just
moved. Where that leads to a higher objective than they had, they stay, and momentum starts anew.

References
----------
Nesterov (1983), A method of solving a convex programming problem with convergence rate O(1/k^2).
O'Donoghue, Candès (2015), Adaptive restart for accelerated gradient schemes, function scheme.
doi:10.1007/s10208-013-9150-3
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from recsys_spark.kernels.arrays import Float32Array, Float64Array
from recsys_spark.kernels.csr_block import CsrBlock
from recsys_spark.kernels.degree_ladder import LADDER, padded_lengths, plan_batches
from recsys_spark.kernels.fixed_side import FixedSide
from recsys_spark.kernels.gramian import side_gramian
from recsys_spark.kernels.losses import Loss, observed_loss
from recsys_spark.kernels.method_choice import MAX_BATCH_FLOATS
from recsys_spark.kernels.row_batch import BatchGatherer, predict

LENGTHS = (0.0, *(2.0**power for power in range(5, -11, -1)))
"""Of the joint step, in steps that are safe for each row alone. Those are shorter than they need be, so that
longer ones are tried too."""

Step = TypeVar("Step")
# Vectors of both sides.
Sides = tuple[Float32Array, Float32Array]


def accelerate(start: Sides, n_steps: int, step: Callable[[Sides], tuple[Sides, float, Step]]) -> Step:
    """Take steps, each from a little ahead of where the one before has led.

    Parameters
    ----------
    start : pair of float32 arrays
        Both sides' vectors. Not changed.
    n_steps : int >= 1
    step : callable
        Takes a joint step from both sides' vectors; returns where it leads, the objective there, and the step itself.

    Returns
    -------
    Step
        The one that led to the lowest objective, the last of several such. No other step is held.
    """
    now, before, n_since_anew = start, start, 0
    best: list[Step] = []
    reached = lowest = np.inf
    for _ in range(n_steps):
        momentum = np.float32(n_since_anew / (n_since_anew + 3))
        ahead = now[0] + momentum * (now[0] - before[0]), now[1] + momentum * (now[1] - before[1])
        found, objective, taken = step(ahead)
        if objective <= lowest:
            best[:], lowest = [taken], objective
        if n_since_anew and objective > reached:
            before, n_since_anew = now, 0
            continue
        # Without momentum, no step leads higher but by rounding.
        now, before, reached, n_since_anew = found, now, objective, n_since_anew + 1
    return best[0]


def change_of_side(before: FixedSide, after: FixedSide) -> FixedSide:
    """Return by how much a fixed side's design and offsets change."""
    return FixedSide(after.design - before.design, after.offsets - before.offsets)


def losses_along(
    block: CsrBlock, fixed: FixedSide, fixed_change: FixedSide, loss: Loss, rows: Float32Array, change: Float32Array
) -> Float64Array:
    """Sum the losses of each row's observations at every length of a joint step.

    Parameters
    ----------
    block : CsrBlock
        Column indexes point into the fixed side.
    fixed, fixed_change : FixedSide
        The other side before the step, and by how much it changes; in the model's own basis.
    loss : Loss
    rows, change : float32 arrays of shape (n_rows, width)
        The block's rows before the step, and by how much they change.

    Returns
    -------
    float64 array of shape (n_rows, len(LENGTHS))
        A row's sums depend on itself alone, not on the block it is in.

    Notes
    -----
    O(nnz (width + len(LENGTHS))): scores are quadratic in the length, so that they are computed once.
    """
    losses = np.zeros((block.n_rows, len(LENGTHS)))
    gatherer, change_gatherer = BatchGatherer(block, fixed, loss), BatchGatherer(block, fixed_change, loss)
    lengths = padded_lengths(block.degrees)
    floats = 2 * np.minimum(lengths, LADDER[-1]) * fixed.width
    every_row = np.arange(block.n_rows)
    for plan in plan_batches(every_row, lengths, np.zeros(block.n_rows, np.int64), floats, MAX_BATCH_FLOATS):
        own, own_change = rows[plan.rows], change[plan.rows]
        for first in range(0, plan.total_length, plan.length):
            here = gatherer.gather(plan.rows, plan.length, first)
            there = change_gatherer.gather(plan.rows, plan.length, first)
            scores = here.scores(own).astype(np.float64)
            slopes = there.scores(own).astype(np.float64) + predict(here.design, own_change)
            bends = predict(there.design, own_change).astype(np.float64)
            for place, length in enumerate(LENGTHS):
                along = scores + length * slopes + length**2 * bends
                losses[plan.rows, place] += observed_loss(loss, here.values, here.weights, along).sum(axis=1)
    return losses


def penalty_along(vectors: Float32Array, change: Float32Array, penalties: Float64Array) -> Float64Array:
    """Return each row's regularisation along a joint step, as coefficients of 1, the length and its square.

    Parameters
    ----------
    vectors, change : float32 arrays of shape (n_rows, width)
        Rows before the step, and by how much they change.
    penalties : float64 array of shape (n_rows, width)
        From `row_penalties`.

    Returns
    -------
    float64 array of shape (n_rows, 3)
    """
    wide, wide_change = vectors.astype(np.float64), change.astype(np.float64)
    terms = (wide * wide, 2.0 * wide * wide_change, wide_change * wide_change)
    return np.stack([(penalties * term).sum(axis=1) for term in terms], axis=1)


def all_pairs_along(
    rows: Float32Array, rows_change: Float32Array, fixed: Float32Array, fixed_change: Float32Array
) -> Float64Array:
    """Sum the squared scores of all pairs at every length: float64 array of shape (len(LENGTHS),).

    Parameters
    ----------
    rows, rows_change : float32 arrays of shape (n_rows, width + 1)
        Vectors with a one behind them, and by how much these change.
    fixed, fixed_change : float32 arrays of shape (n_fixed, width + 1)
        As `with_offsets` returns them. A score is the product of a row of each.

    Notes
    -----
    O((n_rows + n_fixed) width**2): the sum is the product of two Gramians, which are quadratic in the length.
    """
    one, other = _gramians_along(rows, rows_change), _gramians_along(fixed, fixed_change)
    return np.array([float((left * right).sum()) for left, right in zip(one, other, strict=True)])


def _gramians_along(vectors: Float32Array, change: Float32Array) -> list[Float64Array]:
    width = vectors.shape[1]
    both = side_gramian(np.concatenate([vectors, change], axis=1))
    constant, mixed, bend = both[:width, :width], both[:width, width:], both[width:, width:]
    return [constant + length * (mixed + mixed.T) + length**2 * bend for length in LENGTHS]
