"""Solve all rows of one side: one Spark job, one kernel call per block."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import functions as F

from recsys_spark.kernels.arrays import BoolArray, Float32Array, Int32Array, Int64Array
from recsys_spark.kernels.csr_block import CsrBlock
from recsys_spark.kernels.fixed_side import FixedSide, all_pairs, in_basis, make_fixed_side, with_offsets
from recsys_spark.kernels.gramian import column_exponents, side_gramian
from recsys_spark.kernels.hot_solutions import halvings, longest_safe, solve_hot_rows
from recsys_spark.kernels.hot_sums import Bounds, Halvings, HotTask, add_up_pieces, evaluate_pieces, hot_task
from recsys_spark.kernels.losses import Loss
from recsys_spark.kernels.objective import Regularization
from recsys_spark.kernels.solve_rows import RowProblem, RowSolution, solve_rows
from recsys_spark.rating_blocks import blocks_from_arrow
from recsys_spark.shared_value import SharedValue, leave, pickled_bytes, shared
from recsys_spark.train.block_work import find_again
from recsys_spark.train.hot_pieces import HotPieces
from recsys_spark.train.local_copies import open_copy, save_copy
from recsys_spark.train.peak_memory import peak_memory
from recsys_spark.train.shares import HalfIterationSizes, Shares
from recsys_spark.train.side_blocks import SideBlocks
from recsys_spark.train.standing_tasks import StandingTasks

if TYPE_CHECKING:
    # Workers import this module, and have no pydantic.
    from recsys_spark.config import TrainConfig
    from recsys_spark.train.model import Vectors

_SIZES = ("block_bytes", "worker_bytes")
SOLVED_SCHEMA = (
    "block int, row_index binary, vectors binary, vectors_file string, sums binary, seconds double, "
    + ", ".join([*(f"{name} double" for name in Shares._fields), *(f"{name} long" for name in _SIZES)])
)
# These go on from where a row was; the others forget it, and need not be sent it.
_FROM_START = ("auto", "cg", "subspace", "gradient")
_ROWS_PER_PART = 1 << 14


@dataclass(frozen=True, slots=True)
class HalfIterationInput:
    """What every task of a half-iteration is given.

    Attributes
    ----------
    fixed : FixedSide
    start : float32 array of shape (n_rows, width) or None
        The rows as they were, where they matter.
    problem : RowProblem
    hot : HotTask or None
        The hot rows, where there are some.
    expected : float32 array of shape (n_rows, width) or None
        What the rows are drawn towards, where it is not zero.
    """

    fixed: FixedSide
    start: Float32Array | None
    problem: RowProblem
    hot: HotTask | None = None
    expected: Float32Array | None = None


def row_problem(config: TrainConfig) -> RowProblem:
    """Return what is minimised over each row, and how, from the configuration."""
    regularization = Regularization(
        reg_param=config.reg_param,
        bias_reg_param=config.bias_reg_param,
        reg_exponent=config.reg_exponent,
        biases=config.uses_biases,
    )
    return RowProblem(
        regularization,
        Loss(config.loss, config.alpha, config.unobserved_weight),
        config.solver,
        config.cg_steps,
        config.gradient_steps,
        config.newton_steps,
        config.nonnegative,
    )


def prepare_fixed(
    vectors: Float32Array, is_trained: BoolArray, constant: float, problem: RowProblem, *, rotated: bool = True
) -> FixedSide:
    """Prepare the fixed side, its term of all pairs included where the loss has one; on the driver.

    ``rotated=False`` keeps the model's own basis, as nonnegative factors do anyway.
    """
    regularization, loss = problem.regularization, problem.loss
    fixed = make_fixed_side(vectors, constant, regularization.biases, is_trained=is_trained)
    if loss.all_pairs_weight == 0:
        return fixed
    part = all_pairs(
        side_gramian(with_offsets(fixed)),
        int(is_trained.sum()),
        loss.all_pairs_weight,
        regularization,
        counts_unobserved=loss.counts_unobserved,
        rotated=rotated and not problem.nonnegative,
    )
    return in_basis(fixed, part)


def half_iteration_input(
    vectors: Vectors,
    rows: SideBlocks,
    fixed: SideBlocks,
    constant: float,
    problem: RowProblem,
    *,
    rotated: bool = True,
    expected: Float32Array | None = None,
) -> HalfIterationInput:
    """Return what the tasks are given that solve a side against the fixed one, for both sides' vectors."""
    fixed_vectors, start = vectors.of(fixed.side), vectors.of(rows.side)
    side = prepare_fixed(fixed_vectors, fixed.is_trained, constant, problem, rotated=rotated)
    hot = None
    if rows.hot is not None:
        biases = problem.regularization.biases
        exponents = fixed_exponents(fixed_vectors, fixed.is_trained, constant, biases=biases)
        bounds = Bounds(rows.hot.value, rows.hot.weight, exponents)
        hot = hot_task(rows.hot.rows, bounds, problem, side.all_pairs, start[rows.hot.rows.rows])
    return HalfIterationInput(side, start if needs_start(problem) else None, problem, hot, expected)


def fixed_exponents(vectors: Float32Array, is_trained: BoolArray, constant: float, *, biases: bool) -> Int32Array:
    """Return powers of two above the columns of a fixed side's design and offsets: int32 (width + 1,)."""
    starts = range(0, max(len(vectors), 1), _ROWS_PER_PART)
    parts = (slice(first, first + _ROWS_PER_PART) for first in starts)
    sides = (make_fixed_side(vectors[part], constant, biases, is_trained=is_trained[part]) for part in parts)
    return np.asarray(np.maximum.reduce([column_exponents(with_offsets(side)) for side in sides]))


def needs_start(problem: RowProblem) -> bool:
    """Return whether rows are solved from where they were."""
    return problem.solver in _FROM_START or problem.nonnegative or not problem.loss.is_quadratic


def solve_side(
    blocks: SideBlocks, given: HalfIterationInput, tasks: StandingTasks | None = None
) -> tuple[Float32Array, Shares, HalfIterationSizes]:
    """Solve every row of a side against the fixed side.

    Parameters
    ----------
    blocks : SideBlocks
    given : HalfIterationInput
        ``start`` holds the side's previous vectors, float32 (n_rows, width), or nothing.
    tasks : StandingTasks, optional
        To be called instead of starting a job; they are released before any other job.

    Returns
    -------
    vectors : float32 array of shape (n_rows, width)
        Rows without ratings are zero. The same bit for bit for every number of blocks.
    shares : Shares
    sizes : HalfIterationSizes

    Raises
    ------
    NumericalError
        If a row's solution is not finite.

    Notes
    -----
    ``replicate`` exchange: the fixed side goes to every task as `shared` sends it, each task's solved rows to the
    driver, in local mode as files; no shuffle. A task is sent its block's number alone and reads the block from its
    machine's copy; blocks whose machine lost it (an executor that is new) are sent in full by a second job.

    Each task also sums the hot pieces of its block's number, if they are on its machine too; others are summed by
    a job of their own. The driver adds the sums and solves the hot rows. The logistic loss takes one more job,
    which evaluates the halvings of their Newton steps.
    """
    with shared(blocks.frame.sparkSession, given) as everywhere:
        pieces = blocks.hot.copies if blocks.hot is not None else ""
        by_copy = partial(solve_from_copies, given=everywhere, copies=blocks.copies, pieces=pieces)
        if tasks is not None and everywhere.outbox is None:
            # A job's tasks know of the broadcasts that were there when it began.
            tasks.release()
            tasks = None
        if tasks is None:
            solved = blocks.numbers.mapInArrow(by_copy, SOLVED_SCHEMA).toArrow()
        else:
            solved = tasks.map_blocks(blocks.occupied, by_copy)
        missing = (
            [row["block"] for row in solved.to_pylist() if row["row_index"] is None] if _has_missing(solved) else []
        )
        if missing:
            if tasks is not None:
                tasks.release()
            find_again(blocks.numbers, missing)
            in_full = partial(solve_from_batches, given=everywhere, copies=blocks.copies, pieces=pieces)
            rest = blocks.frame.where(F.col("block").isin(missing)).mapInArrow(in_full, SOLVED_SCHEMA).toArrow()
            solved = pa.concat_tables([solved.filter(pc.is_valid(solved["row_index"])), rest])
        hot = _solve_hot(blocks.hot, given, everywhere, solved, tasks)
        return collect_solved(solved, hot, len(blocks.degrees), given, pickled_bytes(given))


def _solve_hot(
    pieces: HotPieces | None,
    given: HalfIterationInput,
    everywhere: SharedValue[HalfIterationInput],
    solved: pa.Table,
    tasks: StandingTasks | None,
) -> RowSolution | None:
    """Add up the hot rows' sums, those of the tasks that solved blocks and the rest, and solve the rows."""
    task, problem = given.hot, given.problem
    if pieces is None or task is None:
        return None
    pairs_of_blocks = zip(solved["block"].to_pylist(), solved["sums"], strict=True)
    found = {block: np.frombuffer(sums.as_buffer(), np.int64) for block, sums in pairs_of_blocks if sums.is_valid}
    if tasks is not None and not (problem.loss.is_quadratic and found.keys() >= set(pieces.numbers)):
        tasks.release()
    total = pieces.total(partial(sums_of_pieces, given=everywhere), found)
    solution = solve_hot_rows(total, task, problem, given.fixed.all_pairs)
    if problem.loss.is_quadratic:
        return solution
    tried = halvings(solution, task)
    total = pieces.total(partial(losses_of_pieces, given=everywhere, tried=tried))
    return longest_safe(total, tried, problem)


def _has_missing(solved: pa.Table) -> bool:
    return bool(solved["row_index"].null_count)


def collect_solved(
    solved: pa.Table, hot: RowSolution | None, n_rows: int, given: HalfIterationInput, broadcast_bytes: int
) -> tuple[Float32Array, Shares, HalfIterationSizes]:
    """Put the blocks' rows and the hot rows in their places; return vectors, shares and sizes as `solve_side`."""
    width = given.fixed.width
    vectors = np.zeros((n_rows, width), np.float32)
    returned_bytes = solved.nbytes
    for batch in solved.to_batches():
        for rows, values, file in zip(batch["row_index"], batch["vectors"], batch["vectors_file"], strict=True):
            index = np.frombuffer(rows.as_buffer(), np.int32)
            if file.is_valid:
                found = np.fromfile(file.as_py(), np.float32)
                returned_bytes += found.nbytes
            else:
                found = np.frombuffer(values.as_buffer(), np.float32)
            vectors[index] = found.reshape(len(index), width)
    parts = {name: solved[name].to_pylist() for name in Shares._fields}
    if hot is not None and given.hot is not None:
        vectors[given.hot.hot.rows] = hot.vectors
        parts = {name: [*values, *getattr(hot, name)] for name, values in parts.items()}
    shares = Shares(**{name: math.fsum(values) for name, values in parts.items()})
    block_bytes, worker_bytes = (max(solved[name].to_pylist()) for name in _SIZES)
    seconds = solved["seconds"].to_pylist()
    return vectors, shares, HalfIterationSizes(broadcast_bytes, returned_bytes, block_bytes, worker_bytes, seconds)


def solve_from_copies(
    batches: Iterator[pa.RecordBatch], given: SharedValue[HalfIterationInput], copies: str, pieces: str
) -> Iterator[pa.RecordBatch]:
    """Worker: block numbers -> solved rows, or a null where this machine has no copy of the block."""
    for batch in batches:
        for number in batch["block"].to_pylist():
            block = open_copy(copies, number)
            yield (
                missing_block(number)
                if block is None
                else solve_block(number, block, given.value, pieces, given.outbox)
            )


def solve_from_batches(
    batches: Iterator[pa.RecordBatch], given: SharedValue[HalfIterationInput], copies: str, pieces: str
) -> Iterator[pa.RecordBatch]:
    """Worker: blocks -> solved rows, leaving a copy of each block for the next half-iteration."""
    for number, block in blocks_from_arrow(batches):
        save_copy(copies, number, block)
        yield solve_block(number, block, given.value, pieces, given.outbox)


def sums_of_pieces(pieces: CsrBlock, given: SharedValue[HalfIterationInput]) -> Int64Array:
    """Worker: the sums of a block's hot pieces."""
    task = given.value.hot
    assert task is not None
    return add_up_pieces(pieces, given.value.fixed, given.value.problem.loss, task)


def losses_of_pieces(pieces: CsrBlock, given: SharedValue[HalfIterationInput], tried: Halvings) -> Int64Array:
    """Worker: the losses of a block's hot pieces at the ends of halved steps."""
    return evaluate_pieces(pieces, given.value.fixed, given.value.problem.loss, tried)


def solve_block(
    number: int, block: CsrBlock, given: HalfIterationInput, pieces: str, outbox: Path | None = None
) -> pa.RecordBatch:
    """Solve a block's rows, and add up its hot pieces; return one row of ``SOLVED_SCHEMA``.

    The vectors are left in the outbox, where there is one.
    """
    started = time.process_time()
    start, expected = (None if rows is None else rows[block.row_index] for rows in (given.start, given.expected))
    left_out = None if given.hot is None else given.hot.hot.are_in(block)
    solution = solve_rows(block, given.fixed, given.problem, start, left_out, expected)
    held = open_copy(pieces, number) if given.hot is not None else None
    sums = None
    if given.hot is not None and held is not None:
        sums = add_up_pieces(held, given.fixed, given.problem.loss, given.hot).tobytes()
    file = leave(solution.vectors, outbox)
    shares = {name: pa.array([math.fsum(getattr(solution, name))], pa.float64()) for name in Shares._fields}
    return pa.RecordBatch.from_pydict(
        {
            "block": pa.array([number], pa.int32()),
            "row_index": pa.array([block.row_index.tobytes()], pa.binary()),
            "vectors": pa.array([solution.vectors.tobytes() if file is None else None], pa.binary()),
            "vectors_file": pa.array([None if file is None else str(file)], pa.string()),
            "sums": pa.array([sums], pa.binary()),
            "seconds": pa.array([time.process_time() - started], pa.float64()),
            **shares,
            "block_bytes": pa.array([block.nbytes], pa.int64()),
            "worker_bytes": pa.array([peak_memory()], pa.int64()),
        }
    )


def missing_block(number: int) -> pa.RecordBatch:
    """Return the row of a block that this machine has no copy of."""
    nulls = {name: pa.nulls(1, pa.binary()) for name in ("row_index", "vectors")}
    nulls |= {"vectors_file": pa.nulls(1, pa.string()), "sums": pa.nulls(1, pa.binary())}
    zeros = {name: pa.array([0.0], pa.float64()) for name in ("seconds", *Shares._fields)}
    sizes = {name: pa.array([0], pa.int64()) for name in _SIZES}
    return pa.RecordBatch.from_pydict({"block": pa.array([number], pa.int32()), **nulls, **zeros, **sizes})
