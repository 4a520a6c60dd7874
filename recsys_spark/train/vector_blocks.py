"""Vectors in blocks: some rows of a side as bytes, on storage and on their way."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.factor_tables import factor_batch
from recsys_spark.kernels.arrays import Float32Array, Int32Array
from recsys_spark.rating_blocks import Side
from recsys_spark.storage import literal_path

VECTOR_BLOCK_SCHEMA = "row_index binary, n_ratings binary, vectors binary"
_BYTES_PER_CHUNK = 64 << 20
_BYTES_UNPACKED = 4 << 20


def vector_chunks(vectors: Float32Array, degrees: Int32Array) -> pa.Table:
    """Cut a side's vectors, float32 (n_rows, width), into blocks of consecutive rows."""
    step = max(1, _BYTES_PER_CHUNK // (4 * max(vectors.shape[1], 1)))
    firsts = range(0, max(len(vectors), 1), step)
    index = np.arange(len(vectors), dtype=np.int32)
    columns = {"row_index": index, "n_ratings": degrees.astype(np.int32, copy=False), "vectors": vectors}
    return pa.table(
        {
            name: pa.array([array[first : first + step].tobytes() for first in firsts], pa.binary())
            for name, array in columns.items()
        }
    )


def read_vector_blocks(spark: SparkSession, folder: str) -> DataFrame:
    """Return the blocks of a side in a folder that an exchange has saved.

    ``route`` leaves an empty row there for a block that its machine had no copy of, before it writes the block itself.
    """
    blocks = spark.read.schema(VECTOR_BLOCK_SCHEMA).parquet(literal_path(folder))
    return blocks.where(F.col("row_index").isNotNull())


def collect_vectors(blocks: DataFrame, n_rows: int, width: int) -> Float32Array:
    """Collect a side's vectors on the driver, float32 (n_rows, width); rows that are in no block are zero."""
    vectors = np.zeros((n_rows, width), np.float32)
    for batch in blocks.select("row_index", "vectors").toArrow().to_batches():
        for rows, values in zip(batch["row_index"], batch["vectors"], strict=True):
            vectors[np.frombuffer(rows.as_buffer(), np.int32)] = matrix_of(values, width)
    return vectors


def vector_rows(blocks: DataFrame, side: Side, *, biases: bool) -> DataFrame:
    """Return one row per vector: (index, factors, bias, n_ratings); rows without ratings are left out."""
    schema = f"{side.rows} int, factors array<float>, bias float, n_ratings int"
    unpack = partial(unpack_vectors, side=side, biases=biases)
    return blocks.select("row_index", "n_ratings", "vectors").mapInArrow(unpack, schema)


def unpack_vectors(batches: Iterator[pa.RecordBatch], side: Side, biases: bool) -> Iterator[pa.RecordBatch]:
    """Worker: blocks of vectors -> one row per vector."""
    for batch in batches:
        for rows, counts, values in zip(batch["row_index"], batch["n_ratings"], batch["vectors"], strict=True):
            n_ratings, index = int32s_of(counts), int32s_of(rows)
            if not len(n_ratings):
                continue
            vectors = matrix_of(values, len(values.as_buffer()) // 4 // len(n_ratings))
            trained = np.flatnonzero(n_ratings)
            # A few at a time: a worker may have room for its blocks and little else.
            step = max(1, _BYTES_UNPACKED // vectors[0].nbytes)
            for first in range(0, len(trained), step):
                part = trained[first : first + step]
                yield factor_batch(side, index[part], vectors[part], n_ratings[part], biases=biases)


def int32s_of(value: pa.Scalar) -> Int32Array:
    """Return integers from their bytes: int32 array, a view."""
    return np.frombuffer(value.as_buffer(), np.int32)


def matrix_of(value: pa.Scalar, width: int) -> Float32Array:
    """Return vectors from their bytes: float32 array of shape (n, width), a view."""
    return np.frombuffer(value.as_buffer(), np.float32).reshape(-1, width)
