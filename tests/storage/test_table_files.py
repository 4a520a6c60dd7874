from __future__ import annotations

import datetime as dt
import logging
import re
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from recsys_spark.config.features import ItemFeaturesConfig
from recsys_spark.config.recommend import CatalogueConfig, ItemFile, SegmentFile, UserItemFile
from recsys_spark.errors import ConfigError, ContractError
from recsys_spark.ingest.catalogue import read_catalogue
from recsys_spark.storage.table_files import count_undecodable, read_ids, read_table_file

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


# Cells of a Parquet column, and what is read of them: in the text's order where they are no numbers.
TYPES = {
    "decimal": (pa.array([Decimal("1.50"), None]), ["1.50", None]),
    "boolean": (pa.array([True, None]), ["1", None]),
    "date": (pa.array([dt.date(1970, 1, 11), dt.date(1969, 12, 31)]), ["10", "-1"]),
    "time": (pa.array([dt.datetime(1970, 1, 2, 12), None], pa.timestamp("us")), ["1.5", None]),
    "time_utc": (pa.array([dt.datetime(1970, 1, 2, 12), None], pa.timestamp("ms", "UTC")), ["1.5", None]),
    "large": (pa.array([2**63 + 5, None], pa.uint64()), ["9223372036854775813", None]),
    "nothing": (pa.nulls(2), [None, None]),
    "no_text": (pa.array([None, None], pa.string()), [None, None]),
    "day": (pa.array([dt.date(1970, 1, 11), None]), ["1970-01-11", None]),
    "flag": (pa.array([False, None]), ["false", None]),
    "texts": (pa.array([["a", None, 'b"'], []]), ['["a",null,"b\\""]', "[]"]),
    "numbers": (pa.array([[1, 2], None]), ["[1,2]", None]),
    "fixed": (pa.array([[0.5, 2.0], None], pa.list_(pa.float32(), 2)), ["[0.5,2.0]", None]),
    "coded": (pa.array(["x", None]).dictionary_encode(), ["x", None]),
    "bytes": (pa.array(["é".encode(), b"caf\xe9"]), ["é", "caf\ufffd"]),
    "lists_of_bytes": (pa.array([["é".encode(), None, b"b"], [b"caf\xe9"]]), ['["é",null,"b"]', '["caf\ufffd"]']),
}
KINDS = dict.fromkeys(("decimal", "boolean", "date", "time", "time_utc", "large", "nothing"), "numeric")


def test_typed_columns_are_read_as_what_they_say(spark: SparkSession, tmp_path: Path) -> None:
    path = tmp_path / "typed.parquet"
    pq.write_table(pa.table({"item_id": ["a", "b"]} | {name: cells for name, (cells, _) in TYPES.items()}), path)
    features = {name: {"kind": KINDS.get(name, "multi_valued")} for name in TYPES}
    file = ItemFeaturesConfig.model_validate({"path": str(path), "format": "parquet", "features": features})
    frame = read_table_file(spark, file, "item_features", file.columns)
    found = [row.asDict() for row in frame.orderBy("item").collect()]
    assert {name: [row[f"features.{name}"] for row in found] for name in TYPES} == {
        name: expected for name, (_, expected) in TYPES.items()
    }
    assert count_undecodable(frame, file, "item_features") == 1


@pytest.mark.parametrize(
    ("cells", "kind", "told"),
    [
        (
            pa.array([{"a": 1}]),
            "categorical",
            "'x': struct<a:bigint>\n  allowed: text (binary too), numbers, booleans, dates",
        ),
        (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int32())), "text", "'x': map<string,int>\n"),
        (pa.array([[{"a": 1}]]), "multi_valued", "'x': array<struct<a:bigint>>\n"),
        (pa.array([[["a"]]]), "multi_valued", "'x': array<array<string>>\n"),
        (
            pa.array([["a"]]),
            "numeric",
            "'x': array<string>\n  allowed: text (binary too), numbers, booleans, dates, times\n",
        ),
        (pa.array([dt.datetime(2010, 1, 5)], pa.timestamp("ns")), "numeric", "TIMESTAMP(NANOS"),
        (pa.array([dt.time(3)], pa.time64("us")), "text", "TIME"),
        (pa.array([1.5], pa.float16()), "numeric", "FLOAT16"),
    ],
    ids=str,
)
def test_columns_that_hold_no_single_values_are_named(
    spark: SparkSession, tmp_path: Path, cells: pa.Array, kind: str, told: str
) -> None:
    path = tmp_path / "odd.parquet"
    pq.write_table(pa.table({"item_id": ["a"], "x": cells}), path)
    features = {"x": {"kind": kind}}
    file = ItemFeaturesConfig.model_validate({"path": str(path), "format": "parquet", "features": features})
    with pytest.raises((ConfigError, ContractError)) as caught:
        read_table_file(spark, file, "item_features", file.columns)
    assert told in str(caught.value)
    assert f"where: {path}: item_features" in str(caught.value)
    assert "remedy: " in str(caught.value)


def test_objects_and_lists_in_json_lines_are_no_single_values(spark: SparkSession, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"item_id": ["a"], "x": {"y": 1}}\n{"item_id": ["b"], "x": null}\n')
    for column, told in (("item_id", "'item_id': array<string>"), ("x", "'x': struct<y:string>")):
        file = ItemFile.model_validate({"path": str(path), "format": "jsonl", "item": column})
        with pytest.raises(ConfigError, match=rf"a column is of a type that cannot be used[\s\S]*{re.escape(told)}"):
            read_ids(spark, file, "recommend.allow", file.columns)


LATIN = "item_id,title\ncaf\xe9,Men\xfc\nb,B\n".encode("iso-8859-1")
LATIN_LINES = '{"item_id": "caf\xe9", "title": "Men\xfc"}\r\n{"item_id": "b", "title": "B"}\r\n'.encode("iso-8859-1")


@pytest.mark.parametrize(("kind", "content"), [("csv", LATIN), ("jsonl", LATIN_LINES)])
def test_bytes_that_are_no_text_are_counted_and_refused_in_lists(
    spark: SparkSession, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, kind: str,
    content: bytes,
) -> None:  # fmt: skip
    monkeypatch.setattr(logging.getLogger("recsys_spark"), "propagate", True)
    path = tmp_path / f"latin.{kind}"
    path.write_bytes(content)
    file = CatalogueConfig.model_validate({"path": str(path), "format": kind})
    columns = {"item": "item_id", "title": "title"}
    frame = read_table_file(spark, file, "catalogue", columns)
    with caplog.at_level("WARNING"):
        assert count_undecodable(frame, file, "catalogue") == 1
    assert f"catalogue: 1 rows of {path} hold bytes that are no utf-8, or U+FFFD itself, such as" in caplog.text
    assert "'item': 'caf\ufffd'" in caplog.text
    assert "Set catalogue.encoding: iso-8859-1" in caplog.text
    deny = ItemFile.model_validate({"path": str(path), "format": kind})
    with pytest.raises(ContractError, match=r"1 rows, such as[\s\S]*in utf-8[\s\S]*Set recommend.deny.encoding"):
        read_ids(spark, deny, "recommend.deny", {"item": "item_id"})

    told = CatalogueConfig.model_validate({"path": str(path), "format": kind, "encoding": "iso-8859-1"})
    frame = read_table_file(spark, told, "catalogue", columns)
    assert sorted(map(tuple, frame.collect())) == [("b", "B"), ("caf\xe9", "Men\xfc")]
    assert count_undecodable(frame, told, "catalogue") == 0
    listed = read_ids(spark, deny.model_copy(update={"encoding": "iso-8859-1"}), "recommend.deny", {"item": "item_id"})
    assert sorted(row["item"] for row in listed.collect()) == ["b", "caf\xe9"]
