"""Hot rows in the ``route`` exchange: their vectors among the blocks on storage, and the sums of their pieces."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from recsys_spark.kernels.arrays import Float32Array, Int32Array, Int64Array
from recsys_spark.kernels.hot_rows import HotRows
from recsys_spark.kernels.solve_rows import RowSolution
from recsys_spark.train.route_blocks import RouteSettings, factor_block
from recsys_spark.train.route_messages import width_of
from recsys_spark.train.vector_blocks import int32s_of, matrix_of

_ROWS_SCHEMA = "row_index binary, vectors binary"


def collect_rows_of(blocks: DataFrame, hot: HotRows, width: int) -> Float32Array:
    """Return the vectors of hot rows, float32 (n_hot, width), from the blocks of their side; one pass over these."""
    vectors = np.zeros((len(hot.rows), width), np.float32)
    find = partial(find_rows, rows=hot.rows)
    found = blocks.select("row_index", "vectors").mapInArrow(find, _ROWS_SCHEMA).toArrow()
    for index, values in zip(found["row_index"], found["vectors"], strict=True):
        vectors[np.searchsorted(hot.rows, int32s_of(index))] = matrix_of(values, width)
    return vectors


def find_rows(batches: Iterator[pa.RecordBatch], rows: Int32Array) -> Iterator[pa.RecordBatch]:
    """Worker: blocks of vectors -> those of some rows, ascending, in as many blocks."""
    for batch in batches:
        for index, vectors in zip(batch["row_index"], batch["vectors"], strict=True):
            own = int32s_of(index)
            place = np.flatnonzero(np.isin(own, rows))
            if len(place):
                found = matrix_of(vectors, width_of(index, vectors))[place]
                columns = {"row_index": own[place], "vectors": found}
                yield pa.RecordBatch.from_pydict({k: pa.array([v.tobytes()], pa.binary()) for k, v in columns.items()})


def total_of_sums(blocks: DataFrame) -> tuple[Int64Array, int]:
    """Add up the sums of pieces in all blocks, in tasks and then here; return the bytes that came here, too."""
    parts = blocks.select("sums").mapInArrow(add_sums, "sums binary").toArrow()
    return sum_of(parts["sums"]), parts.nbytes


def add_sums(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Worker: sums of pieces of hot rows, or nulls -> one row with their sum, or none."""
    total: Int64Array | None = None
    for batch in batches:
        for value in batch["sums"]:
            if value.is_valid:
                part = np.frombuffer(value.as_buffer(), np.int64)
                total = part if total is None else total + part
    if total is not None:
        yield pa.RecordBatch.from_pydict({"sums": pa.array([total.tobytes()], pa.binary())})


def sum_of(values: pa.ChunkedArray) -> Int64Array:
    """Add up arrays of int64 that are given as bytes."""
    return np.asarray(sum(np.frombuffer(value.as_buffer(), np.int64) for value in values))


def append_rows(
    spark: SparkSession, path: str, solution: RowSolution, hot: HotRows, n_blocks: int, settings: RouteSettings
) -> None:
    """Write solved hot rows into the folder of their side, one more record for each block that has some of them."""
    blocks = hot.rows % n_blocks
    records = []
    for number in np.unique(blocks):
        own = blocks == number
        part = RowSolution(*(getattr(solution, name)[own] for name in RowSolution.__slots__))
        records.append(factor_block(int(number), hot.rows[own], hot.degrees[own], part, settings, {}))
    written = spark.createDataFrame(pa.Table.from_batches(records)).coalesce(1)
    written.write.mode("append").option("compression", "none").parquet(path)
