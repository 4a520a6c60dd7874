"""Pairs of users and hidden items on their way to the lists."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from recsys_spark.recommend import hidden_items
from recsys_spark.recommend.hidden_items import beside_users, split_pairs, with_hidden_items


@pytest.mark.parametrize("n_tasks", [1, 3])
def test_every_user_meets_their_items(spark: SparkSession, n_tasks: int) -> None:
    rng = np.random.default_rng(0)
    pairs = [(int(u), int(i)) for u, i in rng.integers(0, 12, (80, 2)) if u != 5]
    pairs += [(40, 3), (7, 0), (7, 0)]  # of nobody who gets a list; and one that repeats
    users = spark.createDataFrame([(u, f"user {u}") for u in range(12)], "user_index int, user string")
    hidden = spark.createDataFrame(pairs, "user_index int, item_index int").repartition(4)
    together = beside_users(users, hidden, n_tasks)
    assert together.rdd.getNumPartitions() == n_tasks
    schema = "user_index int, user string, hidden array<int>"
    found = {row["user"]: row for row in together.mapInArrow(with_hidden_items, schema).collect()}
    assert len(found) == 12
    for user in range(12):
        assert found[f"user {user}"]["hidden"] == sorted({i for u, i in pairs if u == user})


def test_pairs_are_split_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hidden_items, "OBSERVATIONS_PER_SPLIT", 5)
    users, items = np.arange(16, dtype=np.int32), np.arange(16, dtype=np.int32)[::-1]
    table = pa.table({"user_index": users, "item_index": items})
    pieces = [
        row for made in split_pairs(iter(table.to_batches(max_chunksize=4)), (70, 50)) for row in made.to_pylist()
    ]
    assert [piece["placement"] for piece in pieces] == [70, 50, 70, 50]
    found = [
        (int(user), int(item), piece["placement"])
        for piece in pieces
        for user, item in zip(*(np.frombuffer(piece[name], np.int32) for name in hidden_items._PIECE), strict=True)
    ]
    assert sorted(found) == [(u, 15 - u, (70, 50)[u % 2]) for u in range(16)]
