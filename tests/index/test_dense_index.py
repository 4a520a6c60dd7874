from __future__ import annotations

from pathlib import Path

import pytest
from chispa import assert_df_equality
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from recsys_spark.errors import ContractError
from recsys_spark.index.dense_index import write_dense_index
from recsys_spark.storage import LocalStorage
from recsys_spark.tables import USER_INDEX

IDS = ["b", "a", "10", "9", "é", "z", " a", "A", "日本", "a", "b", "", "007", "7", "\U0001f388", "\uffff"]


def index_of(spark: SparkSession, folder: Path, ids: list[str], n_partitions: int, start: int = 0) -> dict[str, int]:
    frame = spark.createDataFrame([(text,) for text in ids], "user_id string").repartition(n_partitions)
    path = str(folder / f"index-{n_partitions}-{start}")
    n = write_dense_index(frame, USER_INDEX, path, path + "-work", LocalStorage(), start=start)
    rows = USER_INDEX.read(spark, path).collect()
    assert n == len(rows)
    assert not Path(path + "-work").exists()
    return {row["user_id"]: row["user_index"] for row in rows}


@pytest.mark.parametrize("n_partitions", [1, 7, 40])
def test_ids_are_numbered_in_byte_order_whatever_the_partitions(
    spark: SparkSession, tmp_path: Path, n_partitions: int
) -> None:
    expected = {text: place for place, text in enumerate(sorted(set(IDS), key=lambda text: text.encode()))}
    assert index_of(spark, tmp_path, IDS, n_partitions) == expected


def test_numbering_can_go_on_from_an_older_index(spark: SparkSession, tmp_path: Path) -> None:
    assert index_of(spark, tmp_path, ["x", "y"], 2, start=100) == {"x": 100, "y": 101}


def test_no_ids_give_an_empty_index(spark: SparkSession, tmp_path: Path) -> None:
    frame = spark.createDataFrame([], "user_id string")
    path = str(tmp_path / "index")
    assert write_dense_index(frame, USER_INDEX, path, path + "-work", LocalStorage()) == 0
    empty = spark.createDataFrame([], "user_id string, user_index int")
    assert_df_equality(USER_INDEX.read(spark, path), empty, ignore_metadata=True)


def test_an_index_that_would_overflow_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="too many distinct user_id values"):
        index_of(spark, tmp_path, ["x", "y"], 1, start=2**31 - 1)


def test_many_ids_are_dense_and_unique(spark: SparkSession, tmp_path: Path) -> None:
    n = 20_000
    frame = spark.range(n).select(F.concat(F.lit("u"), F.col("id")).alias("user_id")).repartition(9)
    path = str(tmp_path / "index")
    assert write_dense_index(frame, USER_INDEX, path, path + "-work", LocalStorage()) == n
    index = USER_INDEX.read(spark, path)
    row = index.agg(F.min("user_index"), F.max("user_index"), F.countDistinct("user_index")).collect()[0]
    assert tuple(row) == (0, n - 1, n)
