from __future__ import annotations

import math

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from recsys_spark.publish.churn import Churn, compare_lists
from recsys_spark.tables import RECOMMENDATIONS, USER_SEGMENTS


def lists(spark: SparkSession, of_user: dict[str, str], source: str = "cf") -> DataFrame:
    rows = [
        (user, [(item, 1.0, k, source) for k, item in enumerate(items, 1)], None, None, "r", "m")
        for user, items in of_user.items()
    ]
    return spark.createDataFrame(rows, RECOMMENDATIONS.schema)


def overlap(a: str, b: str, p: float = 0.9) -> float:
    """Of two lists of the same length."""
    agreement = [len(set(a[:d]) & set(b[:d])) / d for d in range(1, len(a) + 1)]
    return (1 - p) / p * sum(x * p**d for d, x in enumerate(agreement, 1)) + agreement[-1] * p ** len(a)


def test_churn_is_what_a_slow_count_says(spark: SparkSession) -> None:
    rng = np.random.default_rng(0)
    users = [f"u{k}" for k in range(40)]
    before, after = ({user: "".join(rng.permutation(list("abcdefgh"))[:5]) for user in users} for _ in range(2))
    after |= {user: before[user] for user in users[:7]}
    segment = {user: "é'<b>" if k % 3 else None for k, user in enumerate(users)}
    segments = spark.createDataFrame([(u, s) for u, s in segment.items() if s], USER_SEGMENTS.schema)
    found = compare_lists(
        lists(spark, before | {"only before": "a"}).repartition(5), lists(spark, after | {"only after": "b"}), segments
    )
    assert [churn.segment for churn in found] == [None, "é'<b>"]
    for churn in found:
        mine = [user for user in users if churn.segment is None or segment[user] == churn.segment]
        overlaps = [overlap(before[user], after[user]) for user in mine]
        assert churn.users == len(mine)
        assert churn.overlap == pytest.approx(np.mean(overlaps), abs=1e-8)
        assert churn.overlap_margin == pytest.approx(1.96 * np.std(overlaps) / math.sqrt(len(mine)), rel=1e-3)
        changed = sum(x != y for user in mine for x, y in zip(before[user], after[user], strict=True))
        assert churn.changed_positions == pytest.approx(changed / (5 * len(mine)))
        assert churn.same_lists == sum(before[user] == after[user] for user in mine) / len(mine)
    again = compare_lists(lists(spark, before).repartition(3), lists(spark, after).repartition(2), segments)
    assert again == found, "the same whatever the partitions"


def test_without_segments_users_are_told_apart_by_source(spark: SparkSession) -> None:
    before = lists(spark, {"u": "ab", "v": "ab", "w": ""})
    after = lists(spark, {"u": "ab", "w": ""}).unionByName(lists(spark, {"v": "cd"}, "popular"))
    assert compare_lists(before, after)[1:] == [
        Churn("cf", 1, 1.0, 0.0, 0.0, 1.0),
        Churn("popular", 1, 0.0, 0.0, 1.0, 0.0),
    ]


def test_tables_without_a_common_user_have_no_churn(spark: SparkSession) -> None:
    found = compare_lists(lists(spark, {"u": "ab"}), lists(spark, {"v": "ab"}))
    assert found == [Churn(None, 0, 1.0, 0.0, 0.0, 1.0)]
