from __future__ import annotations

import math

import pytest
from pyspark.sql import SparkSession

from recsys_spark.ingest.duplicates import Policy, merge_duplicates

SCHEMA = "user_id string, item_id string, rating double, timestamp timestamp, weight double, file_number int"


def merged(spark: SparkSession, rows: list[tuple[float, int, int]], policy: Policy) -> tuple[float, int, int, int]:
    """Merge rows of (rating, second, file) of one pair; return rating, second, n_merged and file."""
    plain = spark.createDataFrame(rows, "rating double, second int, file_number int")
    frame = plain.selectExpr(
        "'u' as user_id",
        "'i' as item_id",
        "rating",
        "timestamp_seconds(second) as timestamp",
        "2 * rating as weight",
        "file_number",
    )
    (row,) = (
        merge_duplicates(frame.repartition(3, "rating"), policy)
        .selectExpr("rating", "int(unix_seconds(timestamp)) as second", "n_merged", "file_number", "weight")
        .collect()
    )
    assert row["weight"] == pytest.approx(2 * row["rating"], rel=1e-12), "weights are merged as ratings are"
    return tuple(row)[:4]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        # Two rows tie at the latest time and two at the earliest: the larger rating is last, the smaller first.
        ("last", (2.0, 3, 5, 0)),
        ("first", (4.0, 1, 5, 1)),
        ("max", (5.0, 3, 5, 1)),
        ("mean", (3.2, 3, 5, 1)),
        ("sum", (16.0, 3, 5, 1)),
    ],
)
@pytest.mark.parametrize("backwards", [False, True])
def test_each_policy_keeps_the_same_row_in_any_order(
    spark: SparkSession, policy: Policy, expected: tuple[float, int, int, int], backwards: bool
) -> None:
    rows = [(5.0, 2, 0), (1.0, 3, 0), (2.0, 3, 0), (4.0, 1, 1), (4.0, 1, 1)]
    assert merged(spark, rows[::-1] if backwards else rows, policy) == expected


def test_sums_do_not_depend_on_the_order_of_rows(spark: SparkSession) -> None:
    values = [0.1 * k for k in range(1, 40)] + [1e10, -1e10, 1e-7]
    orders = (values, values[::-1], sorted(values, key=lambda value: hash((value, 3))))
    sums = {merged(spark, [(value, 0, 0) for value in order], "sum")[0] for order in orders}
    assert len(sums) == 1
    assert sums.pop() == pytest.approx(math.fsum(values), abs=1e-12)


def test_pairs_are_told_apart(spark: SparkSession) -> None:
    rows = [("u", "i", 1.0, None, None, 0), ("u", " i", 2.0, None, None, 0), ("u ", "i", 3.0, None, 2.0, 0)]
    assert merge_duplicates(spark.createDataFrame(rows, SCHEMA), "mean").count() == 3
