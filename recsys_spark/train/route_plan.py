"""What the ``route`` exchange takes of bytes, memory and time, beside the plan of ``replicate``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from recsys_spark.kernels.arrays import Int64Array, IntArray
from recsys_spark.kernels.hot_rows import HotRows, find_hot_rows
from recsys_spark.kernels.routing_cost import needed_vectors
from recsys_spark.kernels.training_cost import SideCost, sum_by_block
from recsys_spark.train.half_iteration import needs_start, row_problem
from recsys_spark.train.training_plan import (
    BYTES_PER_SECOND,
    DRIVER_BASE,
    HEAP_BASE,
    SECONDS_PER_JOB,
    WORKER_BASE,
    Footprint,
    TrainingPlan,
)

if TYPE_CHECKING:
    # Workers import this module through its package, and have no pydantic.
    from recsys_spark.config import TrainConfig

# Links, senders, solved blocks, and what the tasks wrote down of them; with a term of all pairs two more.
_JOBS = 3
# And of hot rows: as they were, the sums of their pieces, and the rows themselves.
_JOBS_OF_HOT_ROWS = 3
# Numbers that a task reports for its block.
_BYTES_PER_REPORT = 200
# Copies of a cell on its way through a task's JVM: read, shuffled or sent to Python, written.
_CELLS_IN_JVM = 6
# Degrees, and what the plan works out from them, per row of both sides.
_DRIVER_BYTES_PER_ROW = 40


@dataclass(frozen=True, slots=True)
class _Messages:
    """Bytes of one half-iteration: shuffled in all, and in the largest block sent, received and solved."""

    shuffled: int
    stored: int
    received: int
    needed: int
    start: int


def plan_route(
    config: TrainConfig, replicated: TrainingPlan, user_degrees: IntArray, item_degrees: IntArray
) -> TrainingPlan:
    """Predict what a training takes whose vectors are routed.

    Parameters
    ----------
    config : TrainConfig
    replicated : TrainingPlan
        Of the same training with the ``replicate`` exchange: rows are solved in the same way.
    user_degrees, item_degrees : integer arrays of shape (n_users,), (n_items,)

    Returns
    -------
    TrainingPlan
        It may describe what does not fit, see ``refuse_what_cannot_fit``.
    """
    plan = replicated
    pairs = {"users": (user_degrees, item_degrees), "items": (item_degrees, user_degrees)}
    messages = {name: _messages(config, plan, *degrees) for name, degrees in pairs.items()}
    sides = {name: _side(config, plan, side, messages[name]) for name, side in plan.sides.items()}
    n_rows = sum(side.n_rows for side in sides.values())
    shuffled = sum(part.shuffled for part in messages.values())
    cell = max(max(side.largest_vectors_bytes, side.largest_block_bytes) for side in sides.values())
    tasks = min(plan.limits.cores, plan.n_blocks) if plan.limits.is_local else 1
    all_pairs = row_problem(config).loss.all_pairs_weight > 0
    jobs = sum(_JOBS + 2 * all_pairs + (_JOBS_OF_HOT_ROWS if side.n_split else 0) for side in sides.values())
    splitting_rows = 6 * max(side.sums_bytes for side in sides.values())
    solving = sum(side.seconds for side in sides.values())
    predicted = Footprint(
        broadcast_bytes=sum(side.broadcast_bytes for side in sides.values()),
        returned_bytes=sum(side.returned_bytes for side in sides.values()),
        shuffle_bytes_per_iteration=shuffled,
        largest_block_bytes=plan.predicted.largest_block_bytes,
        worker_bytes=WORKER_BASE + max(plan.blocking_bytes, *(side.solving_bytes for side in sides.values())),
        driver_bytes=DRIVER_BASE + n_rows * _DRIVER_BYTES_PER_ROW + splitting_rows,
        blocking_seconds=plan.predicted.blocking_seconds,
        # Written and read again, on every core.
        iteration_seconds=solving + jobs * SECONDS_PER_JOB + 2 * shuffled / BYTES_PER_SECOND / plan.limits.cores,
    )
    return replace(
        plan,
        exchange="route",
        users=sides["users"],
        items=sides["items"],
        driver_heap_bytes=HEAP_BASE + tasks * _CELLS_IN_JVM * cell,
        predicted=predicted,
    )


def _messages(config: TrainConfig, plan: TrainingPlan, degrees: IntArray, fixed_degrees: IntArray) -> _Messages:
    """Forecast what is sent to solve the rows of one side."""
    per_vector, n_blocks, problem = 4 + 4 * plan.width, plan.n_blocks, row_problem(config)
    hot = find_hot_rows(degrees if config.side_information is None else degrees[:0])
    in_pieces = _ratings_of_pieces(hot, n_blocks)
    cold = np.asarray(degrees, np.int64).copy()
    cold[hot.rows] = 0
    needed = needed_vectors(fixed_degrees, sum_by_block(cold, n_blocks) + in_pieces)
    rows = sum_by_block((cold > 0).astype(np.int64), n_blocks)
    stored = sum_by_block((np.asarray(fixed_degrees) > 0).astype(np.int64), n_blocks) * per_vector
    start = rows * per_vector * needs_start(problem)
    received = needed * per_vector + start
    # The fixed blocks and the numbers of the rows that are asked of them; then the rows.
    shuffled = stored.sum() + needed.sum() * 4 + received.sum()
    if len(hot.rows) and not problem.loss.is_quadratic:
        # Once more, for the halvings of Newton steps.
        shuffled += stored.sum() + _needed_by_pieces(fixed_degrees, cold, in_pieces) * (4 + per_vector)
    return _Messages(int(shuffled), int(stored.max()), int(received.max()), int(needed.max()), int(start.max()))


def _ratings_of_pieces(hot: HotRows, n_blocks: int) -> Int64Array:
    """Return the ratings of hot rows that are in each block's pieces."""
    ratings = np.repeat(hot.degrees // np.maximum(hot.n_pieces, 1), hot.n_pieces)
    return sum_by_block(ratings, n_blocks)


def _needed_by_pieces(fixed_degrees: IntArray, cold: Int64Array, in_pieces: Int64Array) -> float:
    """Forecast the fixed rows that pieces need, if the ratings of hot rows are as those of others."""
    n_pieces, n_cold = int(in_pieces.sum()), int(cold.sum())
    drawn = np.append(in_pieces, n_cold)
    return float(needed_vectors(fixed_degrees, drawn)[:-1].sum()) if n_pieces else 0.0


def _side(config: TrainConfig, plan: TrainingPlan, side: SideCost, sent: _Messages) -> SideCost:
    """Return the cost of a side with what a worker holds, gets and returns when vectors are routed."""
    all_pairs = row_problem(config).loss.all_pairs_weight > 0
    vectors, design = sent.needed * plan.width * 4, sent.needed * (plan.width + 1) * 4
    # The vectors put in order, then their designs; a change of basis holds them twice more.
    gathered = sent.received + vectors
    prepared = vectors + design + 2 * design * all_pairs
    solved = 24 * side.largest_vectors_bytes // 4
    # What a block's rows are drawn towards, in double and in single precision, and made from terms as many.
    expected = 0 if config.side_information is None else 4 * side.largest_vectors_bytes
    solving = design + sent.start + side.working_bytes + solved + expected
    return replace(
        side,
        broadcast_bytes=(2 * plan.width**2 + 2 * plan.width) * 8 * all_pairs + 1_000,
        # Sums are added up by one task per core.
        returned_bytes=plan.n_blocks * _BYTES_PER_REPORT + min(plan.limits.cores, plan.n_blocks) * side.sums_bytes,
        solving_bytes=max(sent.start + max(gathered, prepared), solving + 2 * side.sums_bytes, 3 * sent.stored),
    )
