from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import Row, SparkSession

from recsys_spark.factor_tables import factor_rows
from recsys_spark.kernels.losses import sigmoid
from recsys_spark.kernels.top_n import top_n
from recsys_spark.rating_blocks import USERS
from recsys_spark.recommend import Candidates, users_with_history, write_lists
from recsys_spark.recommend.lists import in_order

N_USERS, N_ITEMS, RANK = 23, 17, 3
# Not in the order of the index, as after ids were appended; names whose byte order is not the numeric one.
ITEM_IDS = [f"item {(7 * k) % N_ITEMS}" for k in range(N_ITEMS)]


def model(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    users = rng.normal(size=(N_USERS, RANK + 1)).astype(np.float32)
    items = rng.normal(size=(N_ITEMS, RANK + 1)).astype(np.float32)
    items[4] = items[9]  # equal scores for every user
    return users, items


def candidates(items: np.ndarray, known: list[int], popularity: np.ndarray) -> Candidates:
    return Candidates.from_items(
        pa.array([ITEM_IDS[k] for k in known]),
        np.array(known, np.int32),
        items[known],
        popularity[known],
        n_items=N_ITEMS,
        global_mean=3.0,
        biases=True,
    )


def brute_force(scores: np.ndarray, known: list[int], seen: set[int], n: int) -> list[tuple[str, np.float32]]:
    left = [(-scores[k], ITEM_IDS[k].encode()) for k in known if k not in seen]
    return [(name.decode(), np.float32(-score)) for score, name in sorted(left)[:n]]


@pytest.mark.parametrize(
    ("exclude_seen", "n", "n_partitions"), [(True, 5, 1), (True, 5, 6), (True, 30, 3), (False, 5, 2)]
)
def test_lists_equal_brute_force(
    spark: SparkSession, tmp_path: Path, exclude_seen: bool, n: int, n_partitions: int
) -> None:
    users, items = model()
    rng = np.random.default_rng(1)
    known = [k for k in range(N_ITEMS) if k not in (2, 11)]
    popularity = rng.integers(1, 4, N_ITEMS)
    seen = {u: set(rng.choice(N_ITEMS, rng.integers(0, N_ITEMS + 1), replace=False).tolist()) for u in range(N_USERS)}
    seen[1] = set(range(N_ITEMS))
    trained = np.ones(N_USERS, np.int32)
    trained[[3, 8]] = 0

    ratings = spark.createDataFrame(
        [(u, i) for u, mine in seen.items() for i in mine], "user_index int, item_index int"
    ).repartition(n_partitions)
    labels = spark.createDataFrame([(u, f"user {u}") for u in range(N_USERS)], "user_index int, user string")
    factors = factor_rows(spark, USERS, users, trained, biases=True)
    path = str(tmp_path / "lists")
    write_lists(
        users_with_history(labels, factors, ratings if exclude_seen else None),
        candidates(items, known, popularity),
        n=n,
        path=path,
    )
    lists: dict[str, Row] = {row["user"]: row for row in spark.read.parquet(path).collect()}

    assert len(lists) == N_USERS
    exact = 3.0 + users[:, :RANK].astype(float) @ items[:, :RANK].T.astype(float) + users[:, -1:] + items[:, -1]
    for user in range(N_USERS):
        row = lists[f"user {user}"]
        is_trained = bool(trained[user])
        scores = exact[user].astype(np.float32) if is_trained else popularity.astype(np.float32)
        expected = brute_force(scores, known, seen[user] if exclude_seen else set(), n)
        entries = row["recommendations"]
        assert [entry["item_id"] for entry in entries] == [name for name, _ in expected]
        np.testing.assert_array_equal(np.float32([e["score"] for e in entries]), np.float32([s for _, s in expected]))
        assert [entry["position"] for entry in entries] == list(range(1, len(expected) + 1))
        assert {entry["source"] for entry in entries} <= {"cf" if is_trained else "popular"}
        if len(expected) < n:
            assert row["short_reason"].startswith(f"only {len(expected)} of {n}")
        else:
            assert row["short_reason"] is None


def test_without_biases_the_score_is_the_product(spark: SparkSession, tmp_path: Path) -> None:
    users, items = np.float32([[1, 2]]), np.float32([[3, 1], [0, 4]])
    no_biases = Candidates.from_items(
        pa.array(["a", "b"]),
        np.int32([0, 1]),
        items,
        np.array([1, 1]),
        n_items=2,
        global_mean=0.0,
        biases=False,
    )
    labels = spark.createDataFrame([(0, 0)], "user_index int, user int")
    nothing = spark.createDataFrame([], "user_index int, item_index int")
    factors = factor_rows(spark, USERS, users, np.int32([1]), biases=False)
    path = str(tmp_path / "lists")
    write_lists(users_with_history(labels, factors, nothing), no_biases, n=2, path=path)
    row = spark.read.parquet(path).collect()[0]
    assert [(e["item_id"], e["score"]) for e in row["recommendations"]] == [("b", 8.0), ("a", 5.0)]


def test_scores_that_become_equal_stand_by_item() -> None:
    columns = np.array([[5, 2, 9, -1], [3, 1, 0, 7]], np.int32)
    scores = np.array([[1.0, 1.0, 0.5, 0.0], [0.25, 0.25, 0.25, 0.125]], np.float32)
    ordered, same = in_order(columns, scores)
    np.testing.assert_array_equal(ordered, [[2, 5, 9, -1], [0, 1, 3, 7]])
    np.testing.assert_array_equal(same, scores)


def test_log_odds_that_share_a_probability_stand_by_item() -> None:
    users = np.full((3, 1), 4.0, np.float32)
    items = np.linspace(4.0, 6.0, 40, dtype=np.float32)[:, None]
    nothing = {"excluded_indptr": np.zeros(4, np.int64), "excluded_columns": np.zeros(0, np.int32)}
    columns, log_odds = top_n(users, items, biases=False, global_mean=0.0, n=40, **nothing)
    probabilities = sigmoid(log_odds)
    assert len(np.unique(log_odds[0])) == 40 > len(np.unique(probabilities[0]))
    ordered, scores = in_order(columns, probabilities)
    pairs = list(zip((-scores[0]).tolist(), ordered[0].tolist(), strict=True))
    assert pairs == sorted(pairs)
    assert sorted(ordered[0].tolist()) == list(range(40))
