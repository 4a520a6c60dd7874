from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from recsys_spark.config.recommend import CatalogueConfig, SegmentFile, UserItemFile
from recsys_spark.errors import ConfigError, ContractError
from recsys_spark.ingest.catalogue import read_catalogue
from recsys_spark.storage.table_files import read_ids

PAIR = {"user": "user_id", "item": "item_id"}


def pairs(spark: SparkSession, path: Path, kind: str = "csv") -> list[tuple[str, str]]:
    frame = read_ids(spark, UserItemFile(path=str(path), format=kind), "recommend.blocks", PAIR)
    return sorted(map(tuple, frame.collect()))


def test_files_of_a_folder_may_differ_in_their_column_order(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("item_id,user_id\ni1,u1\n")
    (tmp_path / "b.csv").write_text("user_id,why,item_id\nu2,x,i2\n\n")
    assert pairs(spark, tmp_path) == [("u1", "i1"), ("u2", "i2")]


def test_numbers_stay_as_they_are_written(spark: SparkSession, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"user_id": 7, "item_id": 1}\n{"user_id": 7.5, "item_id": "01"}\n')
    assert pairs(spark, path, "jsonl") == [("7", "1"), ("7.5", "01")]


@pytest.mark.parametrize(
    ("kind", "content", "n"),
    [
        ("jsonl", '{"user_id": "u1", "item_id": "i1"}\n{"user_id": "u2", "item_id": "i', 1),
        ("jsonl", '{"user_id": "u1", "item_id": "i1"}{"user_id": "u2", "item_id": "i2"}\n', 1),
        ("jsonl", '{"user_id": "u1", "item_id": "i1"}\n{"user_id": "u2"}\n', 1),
        ("csv", 'user_id,item_id\nu1,i1\nu0,"i07\nu01,i10\nu01,i13\n', 1),
        ("csv", "user_id,item_id\nu1,i1\n,i2\nu3,\n", 2),
    ],
    ids=["cut off", "two objects on a line", "no item", "stray quote", "empty cells"],
)
def test_rows_that_cannot_be_understood_stop_the_run(
    spark: SparkSession, tmp_path: Path, kind: str, content: str, n: int
) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_text(content)
    with pytest.raises(ContractError, match=rf"cannot be understood[\s\S]*{n} rows, such as"):
        pairs(spark, path, kind)


def test_cells_that_may_be_blank_are_kept(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user,country\nu1,\nu2,is\n")
    file = SegmentFile(path=str(tmp_path / "a.csv"), segment="country")
    columns = {"user": "user", "segment": "country"}
    rows = read_ids(spark, file, "recommend.segments", columns, may_be_blank=("segment",)).collect()
    assert {(row["user"], row["segment"]) for row in rows} == {("u1", None), ("u2", "is")}


def test_a_column_is_looked_for_in_every_file(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user_id,item_id\nu1,i1\n")
    (tmp_path / "b.csv").write_text("user_id,item\nu1,i1\n")
    with pytest.raises(ConfigError, match=r"no such column[\s\S]*b\.csv: recommend\.blocks\.item"):
        pairs(spark, tmp_path)


def test_an_item_whose_rows_disagree_on_its_availability_is_kept_out(spark: SparkSession, tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("item_id,title,stock\na,A,yes\na,Withdrawn,no\nb,B,yes\nb,Bee,yes\nc,C,\n")
    found = read_catalogue(spark, CatalogueConfig(path=str(path), available="stock"))
    shown = {row["item_id"]: (row["title"], row["available"]) for row in found.collect()}
    assert shown == {"a": ("A", "rows disagree"), "b": ("B", "yes"), "c": ("C", None)}
