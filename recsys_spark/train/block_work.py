"""Doing something to every block where it is: tasks are sent block numbers, and blocks only where copies are lost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.kernels.csr_block import CsrBlock
from recsys_spark.rating_blocks import Side, assemble_blocks, block_to_arrow, blocks_from_arrow
from recsys_spark.train.local_copies import open_copy, save_copy

log = logging.getLogger(__name__)

_RESULT_SCHEMA = "block int, result binary"

BlockWork = Callable[[CsrBlock], npt.NDArray[Any]]
"""What is done to a block; for the workers."""


def numbers_of(blocks: DataFrame) -> DataFrame:
    """Return the numbers of blocks, as a frame that is kept apart from them, where they were first asked for.

    Reading the numbers of blocks that are cached takes 70 ms, whatever the size of the blocks, and this 5. Where a
    machine is lost, its blocks are made again before their numbers, and with them their copies. Numbers that have come
    to stand elsewhere than their blocks are brought together again by `find_again`.

    Parameters
    ----------
    blocks : DataFrame
        Of ``BLOCK_SCHEMA``, persisted.

    Returns
    -------
    DataFrame
        ``block int``, persisted.
    """
    return blocks.select("block").persist(StorageLevel.MEMORY_AND_DISK)


def find_again(numbers: DataFrame, missing: list[int]) -> None:
    """Let the numbers of blocks be where the blocks are, after some were not found on the machines of their numbers."""
    log.info("%d blocks had no copy where they were looked for, and are sent once", len(missing))
    numbers.unpersist()
    numbers.persist(StorageLevel.MEMORY_AND_DISK)


def results_of_blocks(
    numbers: DataFrame, frame: DataFrame, copies: str, work: BlockWork, kind: npt.DTypeLike
) -> dict[int, npt.NDArray[Any]]:
    """Do something to every block.

    Parameters
    ----------
    numbers : DataFrame
        From `numbers_of`.
    frame : DataFrame
        Blocks, persisted.
    copies : str
        Name of their copies.
    work : callable
    kind : dtype
        Of what it returns.

    Returns
    -------
    dict of int to array
        Results by block, flattened.
    """
    by_copy = partial(work_on_copies, work=work, copies=copies)
    done = numbers.mapInArrow(by_copy, _RESULT_SCHEMA).toArrow()
    results = _read(done, kind)
    missing = [number for number in done["block"].to_pylist() if number not in results]
    if missing:
        find_again(numbers, missing)
        results |= results_of_some(frame, copies, work, kind, missing)
    return results


def results_of_some(
    frame: DataFrame, copies: str, work: BlockWork, kind: npt.DTypeLike, numbers: list[int]
) -> dict[int, npt.NDArray[Any]]:
    """Do something to some of the blocks, which are sent to the tasks and leave copies there."""
    in_full = partial(work_on_batches, work=work, copies=copies)
    return _read(frame.where(F.col("block").isin(numbers)).mapInArrow(in_full, _RESULT_SCHEMA).toArrow(), kind)


def keep_copies(batches: Iterator[pa.RecordBatch], training: str) -> Iterator[pa.RecordBatch]:
    """Worker: pieces of blocks -> the blocks, leaving a copy of each on this machine."""
    for side, number, block in assemble_blocks(batches):
        save_copy(copies_of(training, side), number, block)
        yield block_to_arrow(side, number, block)


def copies_of(training: str, side: Side) -> str:
    """Return the name of a side's copies; ``training`` is any name of its own."""
    return f"{training}-{side.name}"


def work_on_copies(batches: Iterator[pa.RecordBatch], work: BlockWork, copies: str) -> Iterator[pa.RecordBatch]:
    """Worker: block numbers -> results, or a null where this machine has no copy of the block."""
    for batch in batches:
        for number in batch["block"].to_pylist():
            block = open_copy(copies, number)
            yield _result(number, None if block is None else work(block))


def work_on_batches(batches: Iterator[pa.RecordBatch], work: BlockWork, copies: str) -> Iterator[pa.RecordBatch]:
    """Worker: blocks -> results, leaving a copy of each block for the next time."""
    for number, block in blocks_from_arrow(batches):
        save_copy(copies, number, block)
        yield _result(number, work(block))


def _result(number: int, result: npt.NDArray[Any] | None) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(
        {
            "block": pa.array([number], pa.int32()),
            "result": pa.array([None if result is None else result.tobytes()], pa.binary()),
        }
    )


def _read(done: pa.Table, kind: npt.DTypeLike) -> dict[int, npt.NDArray[Any]]:
    pairs = zip(done["block"].to_pylist(), done["result"], strict=True)
    return {number: np.frombuffer(result.as_buffer(), kind) for number, result in pairs if result.is_valid}
