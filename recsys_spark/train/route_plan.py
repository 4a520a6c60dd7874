"""What the ``route`` exchange takes of bytes, memory and time, beside the plan of ``replicate``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from recsys_spark.kernels.arrays import IntArray
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
    jobs = 2 * (_JOBS + 2 * all_pairs)
    solving = sum(side.seconds for side in sides.values())
    predicted = Footprint(
        broadcast_bytes=sum(side.broadcast_bytes for side in sides.values()),
        returned_bytes=sum(side.returned_bytes for side in sides.values()),
        shuffle_bytes_per_iteration=shuffled,
        largest_block_bytes=plan.predicted.largest_block_bytes,
        worker_bytes=WORKER_BASE + max(plan.blocking_bytes, *(side.solving_bytes for side in sides.values())),
        driver_bytes=DRIVER_BASE + n_rows * _DRIVER_BYTES_PER_ROW,
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
    per_vector, n_blocks = 4 + 4 * plan.width, plan.n_blocks
    needed = needed_vectors(fixed_degrees, sum_by_block(np.asarray(degrees, np.int64), n_blocks))
    rows = sum_by_block((np.asarray(degrees) > 0).astype(np.int64), n_blocks)
    stored = sum_by_block((np.asarray(fixed_degrees) > 0).astype(np.int64), n_blocks) * per_vector
    start = rows * per_vector * needs_start(row_problem(config))
    received = needed * per_vector + start
    # The fixed blocks and the numbers of the rows that are asked of them; then the rows.
    shuffled = stored.sum() + needed.sum() * 4 + received.sum()
    return _Messages(int(shuffled), int(stored.max()), int(received.max()), int(needed.max()), int(start.max()))


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
        returned_bytes=plan.n_blocks * _BYTES_PER_REPORT,
        solving_bytes=max(sent.start + max(gathered, prepared), solving, 3 * sent.stored),
    )
