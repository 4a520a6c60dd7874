"""Trained vectors -> the factor tables, and back."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from recsys_spark.kernels.arrays import Float32Array, Int32Array, IntArray
from recsys_spark.rating_blocks import Side


def factor_rows(
    spark: SparkSession,
    side: Side,
    vectors: Float32Array,
    degrees: np.ndarray[tuple[int, ...], np.dtype[np.int32]],
    *,
    biases: bool,
    index: Int32Array | None = None,
) -> DataFrame:
    """Return a side's vectors as rows of (index, factors, bias, n_ratings): those in ``index``, or all with ratings.

    The whole side passes from the driver to the cluster as Arrow.
    """
    chosen = np.flatnonzero(degrees).astype(np.int32) if index is None else index
    return spark.createDataFrame(factor_table(side, vectors, degrees, biases=biases, index=chosen))


def factor_table(
    side: Side,
    vectors: Float32Array,
    degrees: np.ndarray[tuple[int, ...], np.dtype[np.int32]],
    *,
    biases: bool,
    index: Int32Array,
) -> pa.Table:
    """Return the vectors of the rows in ``index`` as an Arrow table of (index, factors, bias, n_ratings)."""
    rank = vectors.shape[1] - biases
    factors = np.ascontiguousarray(vectors[index, :rank])
    bias = vectors[index, -1] if biases else np.zeros(len(index), np.float32)
    offsets = np.arange(len(index) + 1, dtype=np.int64) * rank
    return pa.table(
        {
            side.rows: pa.array(index.astype(np.int32, copy=False)),
            "factors": pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(factors.ravel())),
            "bias": pa.array(np.ascontiguousarray(bias)),
            "n_ratings": pa.array(degrees[index]),
        }
    )


def factor_batch(
    side: Side, index: Int32Array, vectors: Float32Array, degrees: IntArray, *, biases: bool
) -> pa.RecordBatch:
    """Return some rows' vectors, float32 (n, width), as a batch of (index, factors, bias, n_ratings)."""
    rank = vectors.shape[1] - biases
    bias = vectors[:, -1] if biases else np.zeros(len(vectors), np.float32)
    offsets = np.arange(len(vectors) + 1, dtype=np.int32) * rank
    factors = pa.array(np.ascontiguousarray(vectors[:, :rank]).ravel())
    return pa.RecordBatch.from_arrays(
        [
            pa.array(index),
            pa.ListArray.from_arrays(pa.array(offsets), factors),
            pa.array(np.ascontiguousarray(bias)),
            pa.array(degrees.astype(np.int32, copy=False)),
        ],
        names=[side.rows, "factors", "bias", "n_ratings"],
    )


def vectors_from_columns(factors: pa.Array, bias: pa.Array, *, biases: bool) -> Float32Array:
    """Return the columns of a factor table as one float32 array (n, width).

    Parameters
    ----------
    factors : Arrow list of float32
        All of one length; no nulls.
    bias : Arrow float32
    biases : bool
        Whether the bias is the last column of the result.
    """
    n_rows = len(factors)
    flat = factors.flatten().to_numpy(zero_copy_only=False)
    matrix = flat.reshape(n_rows, len(flat) // n_rows if n_rows else 0)
    if not biases:
        return np.ascontiguousarray(matrix, np.float32)
    return np.concatenate([matrix, bias.to_numpy(zero_copy_only=False)[:, None]], axis=1, dtype=np.float32)


def collect_rows(rows: DataFrame, side: Side, *, biases: bool) -> tuple[Int32Array, Float32Array]:
    """Collect rows of (index, factors, bias) on the driver: int32 array (n,) and float32 array (n, width)."""
    table = rows.select(side.rows, "factors", "bias").toArrow()
    # Made whole column by column: the table of an empty frame has no batch.
    index, factors, bias = (pa.concat_arrays(column.chunks or [_empty(column)]) for column in table.itercolumns())
    return index.to_numpy(), vectors_from_columns(factors, bias, biases=biases)


def _empty(column: pa.ChunkedArray) -> pa.Array:
    return pa.array([], column.type)
