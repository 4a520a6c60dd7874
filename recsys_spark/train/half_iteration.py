"""Solve all rows of one side: one Spark job, one kernel call per block."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.errors import NumericalError
from recsys_spark.kernels.arrays import Float32Array
from recsys_spark.kernels.csr_block import CsrBlock
from recsys_spark.kernels.fixed_side import FixedSide
from recsys_spark.kernels.objective import Regularization
from recsys_spark.kernels.solve_rows import solve_rows
from recsys_spark.rating_blocks import BLOCK_SCHEMA, Side, block_to_arrow, blocks_from_arrow, rating_blocks
from recsys_spark.shared_value import SharedValue, shared
from recsys_spark.train.local_copies import open_copy, remove_copies, save_copy

if TYPE_CHECKING:
    from recsys_spark.config import TrainConfig

_SOLVED_SCHEMA = "block int, row_index binary, vectors binary, squared_error double, penalty double"


@dataclass(frozen=True, slots=True)
class SolverSettings:
    """What a row's solution depends on besides its ratings and the fixed side."""

    regularization: Regularization
    solver: str
    cg_steps: int


@dataclass(frozen=True, slots=True)
class HalfIterationInput:
    """What every task of a half-iteration is given: the fixed side, and the rows as they were before."""

    fixed: FixedSide
    start: Float32Array
    settings: SolverSettings


@dataclass(frozen=True, slots=True)
class HalfIterationResult:
    """A side's new vectors, float32 (n_rows, width), and its share of the objective."""

    vectors: Float32Array
    squared_error: float
    penalty: float


class SideBlocks:
    """The cached rating blocks of one side, and each row's number of ratings.

    Parameters
    ----------
    ratings : DataFrame
        ``user_index int, item_index int, rating float``.
    side : Side
    n_rows : int
        Size of the side's index; rows without ratings have degree 0.
    n_blocks : int

    Notes
    -----
    Building is one shuffle (see ``rating_blocks``); the driver receives the degrees.
    """

    def __init__(self, ratings: DataFrame, side: Side, n_rows: int, n_blocks: int) -> None:
        self.side = side
        self.copies = f"{secrets.token_hex(8)}-{side.name}"
        self.frame = (
            rating_blocks(ratings, side, n_blocks)
            .mapInArrow(partial(keep_copies, copies=self.copies), BLOCK_SCHEMA)
            .persist(StorageLevel.MEMORY_AND_DISK)
        )
        self.degrees = np.zeros(n_rows, np.int32)
        for row in self.frame.select("row_index", "indptr").toArrow().to_batches():
            for rows, starts in zip(row["row_index"], row["indptr"], strict=True):
                self.degrees[np.frombuffer(rows.as_buffer(), np.int32)] = np.diff(
                    np.frombuffer(starts.as_buffer(), np.int64)
                )

    def release(self) -> None:
        """Drop the cached blocks and this machine's copies."""
        self.frame.unpersist()
        remove_copies(self.copies)


def solve_side(blocks: SideBlocks, given: HalfIterationInput) -> HalfIterationResult:
    """Solve every row of a side against the fixed side.

    Parameters
    ----------
    blocks : SideBlocks
    given : HalfIterationInput
        ``start`` holds the side's previous vectors, float32 (n_rows, width).

    Returns
    -------
    HalfIterationResult
        Rows without ratings are zero. The same bit for bit for every number of blocks.

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
    return _collect(solved, given.start.shape)


def _has_missing(solved: pa.Table) -> bool:
    return bool(solved["row_index"].null_count)


def _collect(solved: pa.Table, shape: tuple[int, ...]) -> HalfIterationResult:
    """Put the blocks' rows in their places."""
    vectors = np.zeros(shape, np.float32)
    for batch in solved.to_batches():
        for rows, values in zip(batch["row_index"], batch["vectors"], strict=True):
            index = np.frombuffer(rows.as_buffer(), np.int32)
            vectors[index] = np.frombuffer(values.as_buffer(), np.float32).reshape(len(index), shape[1])
    squared_error = math.fsum(solved["squared_error"].to_pylist())
    penalty = math.fsum(solved["penalty"].to_pylist())
    if not math.isfinite(squared_error + penalty):
        raise NumericalError("the objective is not finite", got=f"squared error {squared_error}, penalty {penalty}")
    return HalfIterationResult(vectors, squared_error, penalty)


def keep_copies(batches: Iterator[pa.RecordBatch], copies: str) -> Iterator[pa.RecordBatch]:
    """Worker: pass blocks on, leaving a copy of each on this machine."""
    for number, block in blocks_from_arrow(batches):
        save_copy(copies, number, block)
        yield block_to_arrow(number, block)


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
    solution = solve_rows(
        block,
        given.fixed,
        given.settings.regularization,
        solver=given.settings.solver,  # type: ignore[arg-type]
        start=given.start[block.row_index],
        cg_steps=given.settings.cg_steps,
    )
    return pa.RecordBatch.from_pydict(
        {
            "block": pa.array([number], pa.int32()),
            "row_index": pa.array([block.row_index.tobytes()], pa.binary()),
            "vectors": pa.array([solution.vectors.tobytes()], pa.binary()),
            "squared_error": pa.array([math.fsum(solution.squared_error)], pa.float64()),
            "penalty": pa.array([math.fsum(solution.penalty)], pa.float64()),
        }
    )


def _missing(number: int) -> pa.RecordBatch:
    nulls = {name: pa.nulls(1, pa.binary()) for name in ("row_index", "vectors")}
    zeros = {name: pa.array([0.0], pa.float64()) for name in ("squared_error", "penalty")}
    return pa.RecordBatch.from_pydict({"block": pa.array([number], pa.int32()), **nulls, **zeros})


def solver_settings(config: TrainConfig) -> SolverSettings:
    """Return the kernel's settings from the configuration."""
    regularization = Regularization(
        reg_param=config.reg_param,
        bias_reg_param=config.bias_reg_param,
        reg_exponent=config.reg_exponent,
        biases=config.biases,
    )
    return SolverSettings(regularization, config.solver, config.cg_steps)
