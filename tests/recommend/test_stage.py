"""The recommend stage on a run whose earlier tables are written by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from recsys_spark.storage import local_path
from recsys_spark.tables import RECOMMENDATIONS


def test_a_point_read_prunes_all_other_row_groups(spark: SparkSession, tmp_path: Path) -> None:
    n_users = 6_000
    entry = F.struct(
        F.format_string("item %d", F.pmod(F.hash("id"), F.lit(9_000))).alias("item_id"),
        F.rand(1).cast("float").alias("score"),
        F.lit(1).alias("position"),
        F.lit("cf").alias("source"),
    )
    lists = spark.range(n_users).select(
        F.format_string("user %05d", "id").alias("user_id"),
        F.array(*[entry] * 10).alias("recommendations"),
        F.lit(None).cast("string").alias("short_reason"),
        F.lit("2026-01-05").cast("timestamp").alias("generated_at"),
        F.lit("r1").alias("run_id"),
        F.lit("squared, rank 2").alias("model"),
    )
    path = str(tmp_path / "lists")
    table = replace(RECOMMENDATIONS, row_group_bytes=1 << 17)
    table.write(lists.repartitionByRange(2, "user_id").sortWithinPartitions("user_id"), path)

    wanted = ds.field("user_id") == "user 04321"
    fragments = list(ds.dataset(local_path(path), format="parquet").get_fragments())
    assert sum(len(fragment.row_groups) for fragment in fragments) >= 6
    left = [group for fragment in fragments for group in fragment.split_by_row_group(wanted)]
    assert len(left) == 1
    (row,) = pq.read_table(path, filters=[("user_id", "=", "user 04321")]).to_pylist()
    assert row["user_id"] == "user 04321"
    assert len(row["recommendations"]) == 10
