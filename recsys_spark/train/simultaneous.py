"""Simultaneous gradient steps: all rows of both sides move from the same old values."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from recsys_spark.errors import NumericalError
from recsys_spark.kernels.arrays import Float32Array, Float64Array
from recsys_spark.kernels.csr_block import CsrBlock
from recsys_spark.kernels.fixed_side import FixedSide, make_fixed_side, with_offsets
from recsys_spark.kernels.joint_step import (
    LENGTHS,
    Sides,
    accelerate,
    all_pairs_along,
    change_of_side,
    losses_along,
    penalty_along,
)
from recsys_spark.kernels.losses import Loss
from recsys_spark.kernels.objective import row_penalties
from recsys_spark.kernels.solve_rows import RowProblem
from recsys_spark.rating_blocks import Side
from recsys_spark.shared_value import SharedValue, pickled_bytes, shared
from recsys_spark.train.block_work import results_of_blocks
from recsys_spark.train.first_vectors import unobserved_degree
from recsys_spark.train.half_iteration import half_iteration_input, solve_side
from recsys_spark.train.model import Vectors
from recsys_spark.train.row_errors import with_row
from recsys_spark.train.shares import HalfIterationSizes
from recsys_spark.train.side_blocks import SideBlocks

_ROWS_PER_PART = 1 << 14


@dataclass(frozen=True, slots=True)
class JointStep:
    """What a simultaneous step leads to.

    Attributes
    ----------
    vectors : Vectors
    observed, unobserved : float
        Losses of the observations, and the term of all pairs.
    penalties : dict of Side to float
    sizes : list of HalfIterationSizes
        Of three jobs per step; of the last one, only what travels.
    """

    vectors: Vectors
    observed: float
    unobserved: float
    penalties: dict[Side, float]
    sizes: list[HalfIterationSizes]

    @property
    def objective(self) -> float:
        """Both sides' share of the objective."""
        return self.observed + self.unobserved + math.fsum(self.penalties.values())


@dataclass(frozen=True, slots=True)
class AlongInput:
    """What every task is given that evaluates losses along a joint step."""

    fixed: FixedSide
    fixed_change: FixedSide
    loss: Loss
    rows: Float32Array
    change: Float32Array


def take_steps(
    vectors: Vectors, users: SideBlocks, items: SideBlocks, constant: float, problem: RowProblem
) -> JointStep:
    """Take ``problem.gradient_steps`` accelerated steps with all rows of both sides; see `step_both_sides`.

    The first step has no momentum, so that training goes on from vectors alone, and the objective never rises.
    """
    sizes: list[HalfIterationSizes] = []

    def step(sides: Sides) -> tuple[Sides, float, JointStep]:
        taken = step_both_sides(Vectors(*sides), users, items, constant, problem)
        sizes.extend(taken.sizes)
        return (taken.vectors.users, taken.vectors.items), taken.objective, taken

    return replace(accelerate((vectors.users, vectors.items), problem.gradient_steps, step), sizes=sizes)


def step_both_sides(
    vectors: Vectors, users: SideBlocks, items: SideBlocks, constant: float, problem: RowProblem
) -> JointStep:
    """Take one gradient step with all rows of both sides, from the same old values.

    Parameters
    ----------
    vectors : Vectors
        Where both sides are.
    users, items : SideBlocks
    constant : float
        Part of every score that the observations still hold.
    problem : RowProblem
        With the gradient solver.

    Returns
    -------
    JointStep
        Never of a higher objective than ``vectors``.

    Raises
    ------
    NumericalError
        If the objective is not finite where the step begins, or a row's step is not.

    Notes
    -----
    Each row's step is as long as is safe for it alone; then the objective is evaluated at several lengths of the
    joint step, see ``kernels.joint_step``. Three jobs, no shuffle: one step of each side, as in ``solve_side``, and
    the losses, for which both sides and their changes are shared and a few numbers per row returned.
    """
    one_step = replace(problem, gradient_steps=1)
    sides, changes, sizes = {}, {}, []
    for rows, fixed in ((users, items), (items, users)):
        given = half_iteration_input(vectors, rows, fixed, constant, one_step, rotated=False)
        try:
            stepped, _, size = solve_side(rows, given)
        except Exception as error:
            raise with_row(error, rows.side, f"simultaneous step, {rows.side.name}") from error
        sides[rows.side], changes[rows.side] = rows, stepped - vectors.of(rows.side)
        sizes.append(size)
    # Hot rows are not split here: on the other side their observations are spread over all rows.
    rows, fixed = sorted(sides.values(), key=lambda side: (int(side.degrees.max()), side.side.number))
    after = {side: vectors.of(side) + change for side, change in changes.items()}
    biases = problem.regularization.biases
    before_step, after_step = (
        make_fixed_side(values, constant, biases, is_trained=fixed.is_trained)
        for values in (vectors.of(fixed.side), after[fixed.side])
    )
    along = AlongInput(
        before_step,
        change_of_side(before_step, after_step),
        problem.loss,
        vectors.of(rows.side),
        changes[rows.side],
    )
    observed, size = _observed_along(rows, along)
    unobserved = _unobserved_along(along, rows, fixed)
    penalties = {
        side: _penalty_along(vectors.of(side), changes[side], sides[side], _others(sides, side), problem)
        for side in sides
    }
    objectives = observed + unobserved + sum(penalties.values())
    if not np.isfinite(objectives[0]):
        raise NumericalError("the objective is not finite", got=str(objectives[0]))
    best = int(np.argmin(np.where(np.isfinite(objectives), objectives, np.inf)))
    length = np.float32(LENGTHS[best])
    moved = vectors
    for side, change in changes.items():
        moved = moved.with_side(side, vectors.of(side) + length * change)
    reached = {side: float(values[best]) for side, values in penalties.items()}
    return JointStep(moved, float(observed[best]), float(unobserved[best]), reached, [*sizes, size])


def _others(sides: dict[Side, SideBlocks], side: Side) -> SideBlocks:
    (other,) = (blocks for name, blocks in sides.items() if name != side)
    return other


def _observed_along(rows: SideBlocks, along: AlongInput) -> tuple[Float64Array, HalfIterationSizes]:
    """Return the losses of all observations at every length: sums over rows that their order does not change."""
    with shared(rows.frame.sparkSession, along) as everywhere:
        work = partial(losses_of_block, given=everywhere)
        results = results_of_blocks(rows.numbers, rows.frame, rows.copies, work, np.float64)
    by_row = np.concatenate([*results.values()]).reshape(-1, len(LENGTHS))
    sizes = HalfIterationSizes(pickled_bytes(along), by_row.nbytes, 0, 0, [])
    return np.array([math.fsum(column) for column in by_row.T]), sizes


def losses_of_block(block: CsrBlock, given: SharedValue[AlongInput]) -> npt.NDArray[np.float64]:
    """Worker: the losses of a block's rows at every length."""
    along = given.value
    rows, change = along.rows[block.row_index], along.change[block.row_index]
    return losses_along(block, along.fixed, along.fixed_change, along.loss, rows, change)


def _unobserved_along(along: AlongInput, rows: SideBlocks, fixed: SideBlocks) -> Float64Array:
    if along.loss.all_pairs_weight == 0:
        return np.zeros(len(LENGTHS))
    own, change = along.rows[rows.is_trained], along.change[rows.is_trained]
    ones = np.ones((len(own), 1), np.float32)
    return along.loss.all_pairs_weight * all_pairs_along(
        np.concatenate([own, ones], axis=1),
        np.concatenate([change, 0.0 * ones], axis=1),
        with_offsets(along.fixed)[fixed.is_trained],
        with_offsets(along.fixed_change)[fixed.is_trained],
    )


def _penalty_along(
    vectors: Float32Array, change: Float32Array, rows: SideBlocks, fixed: SideBlocks, problem: RowProblem
) -> Float64Array:
    """Return the regularisation of one side at every length."""
    unobserved = unobserved_degree(fixed, problem)
    coefficients = []
    for first in range(0, len(vectors), _ROWS_PER_PART):
        part = slice(first, first + _ROWS_PER_PART)
        penalties = row_penalties(rows.degrees[part], vectors.shape[1], problem.regularization, unobserved)
        coefficients.append(penalty_along(vectors[part], change[part], penalties))
    constant, slope, bend = (math.fsum(column) for column in np.concatenate(coefficients).T)
    lengths = np.array(LENGTHS)
    return np.asarray(constant + slope * lengths + bend * lengths**2)
