from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from recsys_spark.evaluate.ranking import measure_ranking, padded_lists, relevant_items
from recsys_spark.evaluate.rating_errors import Predictors, item_means, measure_rating_errors
from recsys_spark.rating_split import split_ratings
from recsys_spark.train import Factorization

RATINGS = [(0, 0, 4.0), (0, 1, 2.0), (1, 0, 5.0), (1, 2, 1.0), (2, 1, 3.0)]
SCHEMA = "user_index int, item_index int, rating float"


def factorization(*, biases: bool) -> Factorization:
    rng = np.random.default_rng(0)
    users, items = (rng.normal(size=(3, 3)).astype(np.float32) for _ in range(2))
    degrees = np.int32([2, 2, 0])
    users[2] = 0
    return Factorization(users, items, degrees, np.int32([2, 2, 1]), 3.0, biases, 3.0 if biases else 0.0)


@pytest.mark.parametrize("limits", [None, (2.5, 3.5)])
def test_errors_equal_a_plain_loop(spark: SparkSession, limits: tuple[float, float] | None) -> None:
    with_biases, without = factorization(biases=True), factorization(biases=False)
    means = np.array([4.5, 2.5, 1.0])
    held_out = spark.createDataFrame(RATINGS, SCHEMA).repartition(3)
    predictors = Predictors({"model": with_biases, "plain": without}, means, 2.2, limits)
    found = measure_rating_errors(held_out, predictors)

    expected: dict[str, list[float]] = {"model": [], "plain": [], "item_mean": []}
    for user, item, rating in RATINGS:
        w, x = with_biases.user_vectors[user].astype(float), with_biases.item_vectors[item].astype(float)
        guesses = {"model": 3.0 + w[:2] @ x[:2] + w[2] + x[2], "item_mean": means[item]}
        w, x = without.user_vectors[user].astype(float), without.item_vectors[item].astype(float)
        guesses["plain"] = w @ x if user != 2 else 2.2
        for name, guess in guesses.items():
            cut = guess if limits is None else min(max(guess, limits[0]), limits[1])
            expected[name].append(cut - rating)
    assert found.keys() == expected.keys()
    for name, errors in expected.items():
        assert found[name].rmse == pytest.approx(math.sqrt(sum(e * e for e in errors) / 5), rel=1e-12)
        assert found[name].mae == pytest.approx(sum(abs(e) for e in errors) / 5, rel=1e-12)
        assert found[name].n == 5


def test_item_means_fall_back_to_the_mean(spark: SparkSession) -> None:
    means = item_means(spark.createDataFrame(RATINGS, SCHEMA), 5, 2.75)
    np.testing.assert_allclose(means, [4.5, 2.5, 1.0, 2.75, 2.75])


def test_ranking_is_averaged_over_users_with_relevant_items(spark: SparkSession) -> None:
    lists = spark.createDataFrame([(0, [5, 6, 7]), (1, [8, 9]), (3, [1])], "user_index int, items array<int>")
    relevant = spark.createDataFrame([(0, [7, 5]), (1, [1]), (2, [4])], "user_index int, relevant array<int>")
    metrics, n_users = measure_ranking(lists, relevant.repartition(2), 3)
    assert n_users == 3
    ideal = 1 + 1 / math.log2(3)
    assert metrics["ndcg"] == pytest.approx((1 + 1 / math.log2(4)) / ideal / 3)
    assert metrics["recall"] == pytest.approx(1 / 3)
    assert metrics["precision"] == pytest.approx((2 / 3) / 3)


def test_no_relevant_items_is_no_number(spark: SparkSession) -> None:
    lists = spark.createDataFrame([], "user_index int, items array<int>")
    relevant = spark.createDataFrame([], "user_index int, relevant array<int>")
    metrics, n_users = measure_ranking(lists, relevant, 3)
    assert n_users == 0
    assert all(math.isnan(value) for value in metrics.values())


def test_lists_are_cut_and_padded() -> None:
    lists = pa.array([[1, 2, 3], None, [4], []], pa.list_(pa.int32()))
    np.testing.assert_array_equal(padded_lists(lists, 2), [[1, 2], [-1, -1], [4, -1], [-1, -1]])
    np.testing.assert_array_equal(padded_lists(lists.slice(1, 2), 2), [[-1, -1], [4, -1]])


def test_relevant_items_are_those_rated_high_enough(spark: SparkSession) -> None:
    held_out = spark.createDataFrame(RATINGS, SCHEMA)
    found = {r["user_index"]: sorted(r["relevant"]) for r in relevant_items(held_out, 3.0).collect()}
    assert found == {0: [0], 1: [0], 2: [1]}
    assert relevant_items(held_out, None).count() == 3


def test_split_is_a_partition_that_does_not_depend_on_order(spark: SparkSession) -> None:
    rows = [(u, i, 1.0) for u in range(60) for i in range(50)]
    first = split_ratings(spark.createDataFrame(rows, SCHEMA), 0.2, 7)
    second = split_ratings(spark.createDataFrame(rows[::-1], SCHEMA).repartition(5), 0.2, 7)
    held_out = {tuple(row) for row in first[1].collect()}
    assert held_out == {tuple(row) for row in second[1].collect()}
    training = {tuple(row) for row in first[0].collect()}
    assert training | held_out == set(rows)
    assert not training & held_out
    assert 0.17 < len(held_out) / len(rows) < 0.23
    other_seed = {tuple(row) for row in split_ratings(spark.createDataFrame(rows, SCHEMA), 0.2, 8)[1].collect()}
    assert other_seed != held_out
