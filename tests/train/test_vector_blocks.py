"""Blocks of vectors on storage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from recsys_spark.train.vector_blocks import collect_vectors, read_vector_blocks, vector_chunks


def test_a_row_for_a_block_that_was_sent_anew_is_none_of_the_blocks(spark: SparkSession, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).random((5, 3), np.float32)
    chunks = vector_chunks(vectors, np.arange(5, dtype=np.int32))
    empty = pa.table({name: pa.nulls(1, pa.binary()) for name in chunks.column_names})
    for number, table in enumerate((empty, chunks)):
        pq.write_table(table, tmp_path / f"part-{number}.parquet")
    blocks = read_vector_blocks(spark, str(tmp_path))
    assert blocks.count() == 1
    np.testing.assert_array_equal(collect_vectors(blocks, 6, 3), np.vstack([vectors, np.zeros((1, 3))]))
