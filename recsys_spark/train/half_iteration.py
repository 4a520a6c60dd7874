"""Solve all rows of one side: one Spark job, one kernel call per block."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import functions as F

from recsys_spark.kernels.arrays import BoolArray, Float32Array
from recsys_spark.kernels.csr_block import CsrBlock
from recsys_spark.kernels.fixed_side import FixedSide, all_pairs, in_basis, make_fixed_side, with_offsets
from recsys_spark.kernels.gramian import side_gramian
from recsys_spark.kernels.losses import Loss
from recsys_spark.kernels.objective import Regularization
from recsys_spark.kernels.solve_rows import RowProblem, solve_rows
from recsys_spark.rating_blocks import blocks_from_arrow
from recsys_spark.shared_value import SharedValue, pickled_bytes, shared
from recsys_spark.train.local_copies import open_copy, save_copy
from recsys_spark.train.shares import HalfIterationSizes, Shares
from recsys_spark.train.side_blocks import SideBlocks

if TYPE_CHECKING:
    # Workers import this module, and have no pydantic.
    from recsys_spark.config import TrainConfig

_SIZES = ("block_bytes", "worker_bytes")
_SOLVED_SCHEMA = "block int, row_index binary, vectors binary, " + ", ".join(
    [*(f"{name} double" for name in Shares._fields), *(f"{name} long" for name in _SIZES)]
)
# These go on from where a row was; the others forget it, and need not be sent it.
_FROM_START = ("auto", "cg", "subspace", "gradient")


@dataclass(frozen=True, slots=True)
class HalfIterationInput:
    """What every task of a half-iteration is given: the fixed side, and the rows as they were, where they matter."""

    fixed: FixedSide
    start: Float32Array | None
    problem: RowProblem


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


def prepare_fixed(vectors: Float32Array, is_trained: BoolArray, constant: float, problem: RowProblem) -> FixedSide:
    """Prepare the fixed side, its term of all pairs included where the loss has one; on the driver."""
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
        rotated=not problem.nonnegative,
    )
    return in_basis(fixed, part)


def needs_start(problem: RowProblem) -> bool:
    """Return whether rows are solved from where they were."""
    return problem.solver in _FROM_START or problem.nonnegative or not problem.loss.is_quadratic


def solve_side(blocks: SideBlocks, given: HalfIterationInput) -> tuple[Float32Array, Shares, HalfIterationSizes]:
    """Solve every row of a side against the fixed side.

    Parameters
    ----------
    blocks : SideBlocks
    given : HalfIterationInput
        ``start`` holds the side's previous vectors, float32 (n_rows, width), or nothing.

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
    ``replicate`` exchange: the fixed side goes to every task by broadcast, each task's solved rows to the
    driver; no shuffle. A task is sent its block's number alone and reads the block from its machine's copy;
    blocks whose machine lost it (an executor that is new) are sent in full by a second job.
    """
    with shared(blocks.frame.sparkSession, given) as everywhere:
        by_copy = partial(solve_from_copies, given=everywhere, copies=blocks.copies)
        solved = blocks.frame.select("block").mapInArrow(by_copy, _SOLVED_SCHEMA).toArrow()
        missing = (
            [row["block"] for row in solved.to_pylist() if row["row_index"] is None] if _has_missing(solved) else []
        )
        if missing:
            in_full = partial(solve_from_batches, given=everywhere, copies=blocks.copies)
            rest = blocks.frame.where(F.col("block").isin(missing)).mapInArrow(in_full, _SOLVED_SCHEMA).toArrow()
            solved = pa.concat_tables([solved.filter(pc.is_valid(solved["row_index"])), rest])
    return _collect(solved, (len(blocks.degrees), given.fixed.width), pickled_bytes(given))


def _has_missing(solved: pa.Table) -> bool:
    return bool(solved["row_index"].null_count)


def _collect(
    solved: pa.Table, shape: tuple[int, int], broadcast_bytes: int
) -> tuple[Float32Array, Shares, HalfIterationSizes]:
    """Put the blocks' rows in their places."""
    vectors = np.zeros(shape, np.float32)
    for batch in solved.to_batches():
        for rows, values in zip(batch["row_index"], batch["vectors"], strict=True):
            index = np.frombuffer(rows.as_buffer(), np.int32)
            vectors[index] = np.frombuffer(values.as_buffer(), np.float32).reshape(len(index), shape[1])
    shares = Shares(*(math.fsum(solved[name].to_pylist()) for name in Shares._fields))
    sizes = HalfIterationSizes(broadcast_bytes, solved.nbytes, *(max(solved[name].to_pylist()) for name in _SIZES))
    return vectors, shares, sizes


def solve_from_copies(
    batches: Iterator[pa.RecordBatch], given: SharedValue[HalfIterationInput], copies: str
) -> Iterator[pa.RecordBatch]:
    """Worker: block numbers -> solved rows, or a null where this machine has no copy of the block."""
    for batch in batches:
        for number in batch["block"].to_pylist():
            block = open_copy(copies, number)
            yield _missing(number) if block is None else _solve(number, block, given.value)


def solve_from_batches(
    batches: Iterator[pa.RecordBatch], given: SharedValue[HalfIterationInput], copies: str
) -> Iterator[pa.RecordBatch]:
    """Worker: blocks -> solved rows, leaving a copy of each block for the next half-iteration."""
    for number, block in blocks_from_arrow(batches):
        save_copy(copies, number, block)
        yield _solve(number, block, given.value)


def _solve(number: int, block: CsrBlock, given: HalfIterationInput) -> pa.RecordBatch:
    start = None if given.start is None else given.start[block.row_index]
    solution = solve_rows(block, given.fixed, given.problem, start)
    shares = {name: pa.array([math.fsum(getattr(solution, name))], pa.float64()) for name in Shares._fields}
    return pa.RecordBatch.from_pydict(
        {
            "block": pa.array([number], pa.int32()),
            "row_index": pa.array([block.row_index.tobytes()], pa.binary()),
            "vectors": pa.array([solution.vectors.tobytes()], pa.binary()),
            **shares,
            "block_bytes": pa.array([block.nbytes], pa.int64()),
            "worker_bytes": pa.array([peak_memory()], pa.int64()),
        }
    )


def peak_memory() -> int:
    """Return the most memory that this process has held so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _missing(number: int) -> pa.RecordBatch:
    nulls = {name: pa.nulls(1, pa.binary()) for name in ("row_index", "vectors")}
    zeros = {name: pa.array([0.0], pa.float64()) for name in Shares._fields}
    sizes = {name: pa.array([0], pa.int64()) for name in _SIZES}
    return pa.RecordBatch.from_pydict({"block": pa.array([number], pa.int32()), **nulls, **zeros, **sizes})
