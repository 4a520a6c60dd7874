"""What the gate says of tables of neighbours."""

from __future__ import annotations

from pyspark.sql import SparkSession

from recsys_spark.publish.gate import check_neighbours
from recsys_spark.tables import ITEM_ELIGIBILITY, ITEM_INDEX, SIMILAR_ITEMS

Entry = tuple[str, float, int, int]
ORIGIN = (None, "r1", "llr")


def broken_checks(spark: SparkSession, lists: dict[str, list[Entry]]) -> dict[str, tuple[int, list[str]]]:
    rows = [(item, entries, None if len(entries) == 2 else "few", *ORIGIN) for item, entries in lists.items()]
    index = spark.createDataFrame([(item, k) for k, item in enumerate("abcde")], ITEM_INDEX.schema)
    eligibility = spark.createDataFrame([(i, "denied" if i == "e" else None) for i in "abcde"], ITEM_ELIGIBILITY.schema)
    checks = check_neighbours(spark.createDataFrame(rows, SIMILAR_ITEMS.schema), index, eligibility, 2)
    return {check.name: (check.n_broken, check.examples) for check in checks if check.n_broken}


def test_a_good_table_passes(spark: SparkSession) -> None:
    good = [("b", 0.5, 1, 3), ("c", 0.5, 2, 3)]
    assert broken_checks(spark, {"a": good, "b": [], "c": [], "d": [], "e": good}) == {}


def test_each_fault_is_found_where_it_is(spark: SparkSession) -> None:
    found = broken_checks(
        spark,
        {
            "a": [("a", 0.5, 1, 3)],
            "b": [("e", 0.5, 1, 3)],
            "c": [("a", 0.0, 1, 3)],
            "d": [("a", 0.1, 1, 3), ("b", 0.2, 2, 3)],
            "x": [("y", 0.1, 1, 3), ("y", 0.1, 2, 3)],
        },
    )
    assert found == {
        "items that are their own neighbours": (1, ["'a'"]),
        "items that are not eligible": (1, ["'b'"]),
        "similarities that are not above 0": (1, ["'c'"]),
        "scores or ties out of order": (1, ["'d'"]),
        "items twice in one list": (1, ["'x'"]),
        "entries of unknown items": (2, ["'x'"]),
        "lists for unknown items": (1, ["'x'"]),
        "items without a list": (1, ["'e'"]),
    }
