from __future__ import annotations

from typing import Any

import pytest
from pyspark.sql import SparkSession

from recsys_spark.errors import ContractError
from recsys_spark.publish.gate import check_recommendations, check_rows, require_all
from recsys_spark.tables import ITEM_ELIGIBILITY, RATINGS, RECOMMENDATION_ROWS, RECOMMENDATIONS, USER_INDEX

Entry = tuple[str | None, float | None, int, str]
ORIGIN = (None, "r1", "squared, rank 2")
GOOD: dict[str, list[Entry]] = {
    "u1": [("b", 3.0, 1, "cf"), ("a", 2.0, 2, "cf"), ("c", 2.0, 3, "cf")],
    "u2": [],
}


def broken_checks(
    spark: SparkSession, lists: list[tuple[str, list[Entry] | None]], *, seen: bool = True
) -> dict[str, int]:
    rows = [(user, entries, None if entries and len(entries) == 3 else "few", *ORIGIN) for user, entries in lists]
    frame = spark.createDataFrame(rows, RECOMMENDATIONS.schema)
    users = spark.createDataFrame([("u1", 0), ("u2", 1)], USER_INDEX.schema)
    items = [("a", None), ("b", None), ("c", None), ("d", None), ("e", "denied")]
    eligibility = spark.createDataFrame(items, ITEM_ELIGIBILITY.schema)
    ratings = spark.createDataFrame([("u1", "d", 5.0, None, None, 1, "f")], RATINGS.schema)
    hidden = {"items the user has already rated": ratings} if seen else {}
    checks = check_recommendations(frame, users, eligibility, hidden, 3)
    return {check.name: check.n_broken for check in checks if check.n_broken}


def test_a_good_table_passes(spark: SparkSession) -> None:
    assert broken_checks(spark, list(GOOD.items())) == {}


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([("d", 3.0, 1, "cf")], "items the user has already rated"),
        ([("x", 3.0, 1, "cf")], "entries of unknown items"),
        ([("e", 3.0, 1, "cf")], "items that are not eligible"),
        ([("a", 3.0, 1, "cf"), ("a", 2.0, 2, "cf")], "items twice in one list"),
        ([("a", 3.0, 2, "cf")], "positions that are not 1, 2, 3, ..."),
        ([("a", 3.0, 1, "cf"), ("b", 2.0, 3, "cf")], "positions that are not 1, 2, 3, ..."),
        ([("a", float("nan"), 1, "cf")], "scores that are not finite"),
        ([("a", float("-inf"), 1, "cf")], "scores that are not finite"),
        ([("a", None, 1, "cf")], "scores that are not finite"),
        ([("a", 1.0, 1, "cf"), ("b", 2.0, 2, "cf")], "scores or ties out of order"),
        ([("b", 1.0, 1, "cf"), ("a", 1.0, 2, "cf")], "scores or ties out of order"),
    ],
)
def test_each_fault_is_found(spark: SparkSession, entries: list[Entry], expected: str) -> None:
    assert broken_checks(spark, [("u1", entries), ("u2", [])]).get(expected) == 1


def test_missing_long_and_unexplained_short_lists_are_found(spark: SparkSession) -> None:
    four = [(item, 1.0, k, "cf") for k, item in enumerate("abc", 1)] + [("d", 0.5, 4, "cf")]
    found = broken_checks(spark, [("u1", four), ("u2", None)], seen=False)
    assert found["lists too long, or short without a reason"] == 2
    frame = spark.createDataFrame([("u1", [], None, *ORIGIN)], RECOMMENDATIONS.schema)
    users = spark.createDataFrame([("u1", 0)], USER_INDEX.schema)
    items = spark.createDataFrame([("a", None)], ITEM_ELIGIBILITY.schema)
    broken = [check.name for check in check_recommendations(frame, users, items, {}, 3) if check.n_broken]
    assert broken == ["lists too long, or short without a reason"]


def test_users_twice_missing_or_unknown_are_found(spark: SparkSession) -> None:
    found = broken_checks(spark, [("u1", []), ("u1", []), ("u3", [])])
    assert found == {
        "users with more than one list": 1,
        "lists for unknown users": 1,
        "users without a list": 1,
    }


def test_rows_have_to_be_those_of_the_lists(spark: SparkSession) -> None:
    lists = spark.createDataFrame(
        [(user, entries, None, *ORIGIN) for user, entries in GOOD.items()], RECOMMENDATIONS.schema
    )
    rows = [("u1", *entry, *ORIGIN) for entry in GOOD["u1"]]

    def n_broken(given: list[tuple[Any, ...]]) -> int:
        return check_rows(spark.createDataFrame(given, RECOMMENDATION_ROWS.schema), lists).n_broken

    assert n_broken(rows) == 0
    assert n_broken(rows[1:]) == 1
    assert n_broken([*rows, rows[0]]) == 1
    assert n_broken([("u1", "b", 2.5, 1, "cf", *ORIGIN), *rows[1:]]) == 2


def test_seen_items_may_be_allowed(spark: SparkSession) -> None:
    lists: list[tuple[str, list[Entry] | None]] = [("u1", [("d", 3.0, 1, "cf")]), ("u2", [])]
    assert broken_checks(spark, lists, seen=False) == {}


def test_a_broken_check_stops_publishing_with_examples(spark: SparkSession) -> None:
    frame = spark.createDataFrame([("u1", [("x", 1.0, 1, "cf")], None, *ORIGIN)], RECOMMENDATIONS.schema)
    users = spark.createDataFrame([("u1", 0)], USER_INDEX.schema)
    items = spark.createDataFrame([("a", None)], ITEM_ELIGIBILITY.schema)
    with pytest.raises(ContractError, match=r"1 entries of unknown items \(such as 'u1'\)") as caught:
        require_all(check_recommendations(frame, users, items, {}, 1), "there")
    assert caught.value.exit_code == 3
