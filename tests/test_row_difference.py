"""Rows in which two frames differ."""

from __future__ import annotations

from chispa import assert_df_equality
from pyspark.sql import SparkSession

from recsys_spark.row_difference import differing_rows

SCHEMA = "id string, n double, values array<float>"


def test_rows_of_one_side_and_rows_that_are_there_more_often(spark: SparkSession) -> None:
    same = [("a", 1.0, [1.0, 2.0]), ("b", None, None), (None, 0.5, [])]
    gone, more = ("a", 1.0, [2.0, 1.0]), ("b", None, [1.0])
    before = spark.createDataFrame([*same, gone, more], SCHEMA)
    after = spark.createDataFrame([*reversed(same), more, more, ("c", None, None)], SCHEMA)
    expected = spark.createDataFrame([gone, more, ("c", None, None)], SCHEMA)
    for frames in ((before, after), (after, before)):
        assert_df_equality(differing_rows(*frames), expected, ignore_row_order=True, ignore_nullable=True)
    assert differing_rows(before, before).isEmpty()
