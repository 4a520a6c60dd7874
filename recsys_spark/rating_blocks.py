"""Ratings as blocks of either side: split in NumPy on the map side, shuffled as bytes, assembled as CSR."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.kernels.csr_block import CsrBlock, build_csr_block, split_by_block

BLOCK_SCHEMA = (
    "side int, block int, row_index binary, indptr binary, column_index binary, values binary, weights binary"
)
_PIECE_SCHEMA = (
    "placement int, side int, block int, row_index binary, column_index binary, values binary, weights binary"
)
_PIECE_ARRAYS = (("row_index", np.int32), ("column_index", np.int32), ("values", np.float32), ("weights", np.float32))
_BLOCK_FIELDS = (
    ("row_index", np.int32),
    ("indptr", np.int64),
    ("column_index", np.int32),
    ("values", np.float32),
    ("weights", np.float32),
)
# 12 bytes each: enough observations that the split is one NumPy call per block, few enough for any worker.
OBSERVATIONS_PER_SPLIT = 4_000_000
_OBSERVATIONS_PER_BLOCK = 8_000_000
_FEWEST_OBSERVATIONS_PER_BLOCK = 5_000
# Half of what one Arrow cell can hold.
_VECTOR_BYTES_PER_BLOCK = 1 << 30


@dataclass(frozen=True, slots=True)
class Side:
    """One side of the ratings: the rows being solved; the columns are the other side's rows."""

    name: str
    number: int
    rows: str
    columns: str


USERS = Side("users", 0, "user_index", "item_index")
ITEMS = Side("items", 1, "item_index", "user_index")
SIDES = (USERS, ITEMS)


def choose_n_blocks(cores: int, n_ratings: int, n_rows: int = 0, width: int = 0) -> int:
    """Return a number of blocks per side: all cores busy, no block larger than a worker should hold.

    Parameters
    ----------
    cores : int
        Tasks that run at once.
    n_ratings : int
    n_rows, width : int
        Of the larger side, and entries of a row's vector: a block's vectors return as one cell of a table.

    Returns
    -------
    int
        At least 1.
    """
    waves = -(-n_ratings // (cores * _OBSERVATIONS_PER_BLOCK))
    by_ratings = min(cores * waves, n_ratings // _FEWEST_OBSERVATIONS_PER_BLOCK)
    return max(1, by_ratings, -(-n_rows * width * 4 // _VECTOR_BYTES_PER_BLOCK))


def rating_blocks(
    ratings: DataFrame,
    sides: tuple[Side, ...],
    n_blocks: int,
    assemble: Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]],
) -> DataFrame:
    """Cut ratings into blocks of users, of items, or of both; row ``r`` of a side is in its block ``r % n_blocks``.

    Parameters
    ----------
    ratings : DataFrame
        ``user_index int, item_index int, rating float``, optionally ``weight float``; each pair once.
    sides : tuple of Side
    n_blocks : int
        Of each side.
    assemble : callable
        `assemble_blocks`, or a worker that passes on what that yields.

    Returns
    -------
    DataFrame
        One row per block that has ratings: ``side``, ``block`` and the arrays of a ``CsrBlock`` as bytes. The blocks of
        one number, one of each side, are a partition: a job over one side then has no partitions that are empty. A
        block's content is canonical, whatever the order of the ratings.

    Notes
    -----
    One shuffle for all sides, of byte strings: 12 bytes per rating and side, 16 with weights, in as many records as
    there are pairs of map partition and block. Ratings go from the JVM to Python once, which costs as much as a
    shuffle of them. Nothing but one small lookup table reaches the driver.
    """
    places = placements(ratings.sparkSession, n_blocks)
    split = partial(split_observations, sides=sides, placements=places)
    return (
        ratings.select(USERS.rows, ITEMS.rows, "rating", *(["weight"] if "weight" in ratings.columns else []))
        .mapInArrow(split, _PIECE_SCHEMA)
        .repartition(n_blocks, "placement")
        .mapInArrow(assemble, BLOCK_SCHEMA)
    )


@lru_cache(maxsize=64)
@lru_cache(maxsize=256)
def placements(spark: SparkSession, n_partitions: int) -> tuple[int, ...]:
    """Return one integer per partition that Spark's hash partitioner sends to just that partition.

    Hashing the block numbers themselves would put several blocks into one partition and none into another. A small job,
    whose answer is kept for the session.
    """
    found: dict[int, int] = {}
    n_candidates = 32 * n_partitions
    while len(found) < n_partitions:
        rows = (
            spark.range(n_candidates)
            .select(F.col("id").cast("int").alias("id"))
            .select(F.pmod(F.hash("id"), F.lit(n_partitions)).alias("partition"), "id")
            .groupBy("partition")
            .agg(F.min("id").alias("id"))
            .collect()
        )
        found = {row["partition"]: row["id"] for row in rows}
        n_candidates *= 4
    return tuple(found[partition] for partition in range(n_partitions))


def split_observations(
    batches: Iterator[pa.RecordBatch], sides: tuple[Side, ...], placements: tuple[int, ...]
) -> Iterator[pa.RecordBatch]:
    """Worker: (user, item, rating) -> one piece of bytes per side and block, for every few million rows."""
    held: list[pa.RecordBatch] = []
    n_held = 0
    for batch in batches:
        held.append(batch)
        n_held += batch.num_rows
        if n_held >= OBSERVATIONS_PER_SPLIT:
            yield from _pieces(held, sides, placements)
            held, n_held = [], 0
    if n_held:
        yield from _pieces(held, sides, placements)


def _pieces(
    held: list[pa.RecordBatch], sides: tuple[Side, ...], placements: tuple[int, ...]
) -> Iterator[pa.RecordBatch]:
    table = pa.Table.from_batches(held)
    users, items, *values = (column.to_numpy() for column in table.itercolumns())
    for side in sides:
        pair = (users, items) if side == USERS else (items, users)
        yield _pieces_of_side(side, (*pair, *values), placements)


def _pieces_of_side(side: Side, arrays: tuple[npt.NDArray[Any], ...], placements: tuple[int, ...]) -> pa.RecordBatch:
    n_blocks = len(placements)
    order, bounds = split_by_block(arrays[0], n_blocks)
    filled = [block for block in range(n_blocks) if bounds[block] < bounds[block + 1]]
    cut = [slice(bounds[block], bounds[block + 1]) for block in filled]

    def bytes_of(array: npt.NDArray[Any], kind: npt.DTypeLike) -> pa.Array:
        taken = array.astype(kind, copy=False)[order]
        return pa.array([taken[piece].data for piece in cut], pa.binary())

    pieces = [bytes_of(array, kind) for array, (_, kind) in zip(arrays, _PIECE_ARRAYS, strict=False)]
    pieces += [pa.nulls(len(cut), pa.binary())] * (len(_PIECE_ARRAYS) - len(pieces))
    return pa.RecordBatch.from_arrays(
        [
            pa.array([placements[block] for block in filled], pa.int32()),
            pa.array([side.number] * len(filled), pa.int32()),
            pa.array(filled, pa.int32()),
            *pieces,
        ],
        names=["placement", "side", "block", *(name for name, _ in _PIECE_ARRAYS)],
    )


def assemble_blocks(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[Side, int, CsrBlock]]:
    """Worker: all pieces of a partition's blocks -> the blocks."""
    pieces: dict[tuple[int, int], list[tuple[pa.Scalar, ...]]] = defaultdict(list)
    for batch in batches:
        keys = zip(batch["side"].to_pylist(), batch["block"].to_pylist(), strict=True)
        for key, *arrays in zip(keys, *(batch[name] for name, _ in _PIECE_ARRAYS), strict=True):
            pieces[key].append(tuple(arrays))
    for side, number in sorted(pieces):
        arrays_of_block = zip(*pieces.pop((side, number)), strict=True)
        rows, columns, values, *weights = (
            np.concatenate([np.frombuffer(piece.as_buffer(), kind) for piece in parts])
            for parts, (_, kind) in zip(arrays_of_block, _PIECE_ARRAYS, strict=True)
            if parts[0].is_valid
        )
        yield SIDES[side], number, build_csr_block(rows, columns, values, *weights)


def pass_blocks(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Worker: pieces of blocks -> the blocks."""
    for side, number, block in assemble_blocks(batches):
        yield block_to_arrow(side, number, block)


def block_to_arrow(side: Side, number: int, block: CsrBlock) -> pa.RecordBatch:
    """Return a block as one row of ``BLOCK_SCHEMA``."""
    fields = [getattr(block, name) for name, _ in _BLOCK_FIELDS]
    arrays = [pa.array([None if field is None else field.data], pa.binary()) for field in fields]
    return pa.RecordBatch.from_arrays(
        [pa.array([side.number], pa.int32()), pa.array([number], pa.int32()), *arrays],
        names=["side", "block", *(name for name, _ in _BLOCK_FIELDS)],
    )


def blocks_from_arrow(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, CsrBlock]]:
    """Return the blocks in rows of ``BLOCK_SCHEMA``; the arrays are views of the batch."""
    for batch in batches:
        for row in range(batch.num_rows):
            arrays: dict[str, Any] = {
                name: np.frombuffer(batch[name][row].as_buffer(), kind) if batch[name][row].is_valid else None
                for name, kind in _BLOCK_FIELDS
            }
            yield batch["block"][row].as_py(), CsrBlock(**arrays)
