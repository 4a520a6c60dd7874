"""The estimator beside MLlib's own, in one session: objective, columns and types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pyspark.ml.recommendation import ALS as MLlibALS
from pyspark.sql import DataFrame, SparkSession

from recsys_spark.ml import ALS, ALSModel
from tests.ml.small_ratings import RANK, SETTINGS, factors, frame, objective, triples


@pytest.fixture(scope="module")
def mllib(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    # Ten iterations without a checkpoint have overflowed the stack of a task, which ends the session.
    spark.sparkContext.setCheckpointDir(str(tmp_path_factory.mktemp("checkpoints")))
    return {**SETTINGS, "numUserBlocks": 1, "numItemBlocks": 1, "checkpointInterval": 2}


@pytest.fixture(scope="module")
def theirs(ratings: DataFrame, mllib: dict[str, Any]) -> Any:
    return MLlibALS(**mllib).fit(ratings)


def test_explicit_objective_is_that_of_mllib(ratings: DataFrame, model: ALSModel, theirs: Any) -> None:
    ours = objective(model, triples())
    assert ours == pytest.approx(objective(theirs, triples()), rel=0.01)
    assert model.objectiveHistory[-1] == pytest.approx(ours, rel=1e-5)
    assert len(model.objectiveHistory) == 2 * SETTINGS["maxIter"]


def test_implicit_objective_is_that_of_mllib(spark: SparkSession, mllib: dict[str, Any]) -> None:
    # A rating of 0 is no observation, in either.
    ratings = frame(spark, [*triples(), (101, -5, 0.0)])
    theirs = MLlibALS(**mllib, implicitPrefs=True).fit(ratings)
    ours = ALS(**SETTINGS, implicitPrefs=True).fit(ratings)
    found, expected = (objective(model, triples(), implicit=True) for model in (ours, theirs))
    assert found == pytest.approx(expected, rel=0.01)
    assert ours.objectiveHistory[-1] == pytest.approx(found, rel=1e-5)
    np.testing.assert_array_equal(factors(ours)[0][101], np.zeros(RANK))


def test_columns_and_types_are_those_of_mllib(ratings: DataFrame, model: ALSModel, theirs: Any) -> None:
    results: list[Callable[[Any], DataFrame]] = [
        lambda model: model.userFactors,
        lambda model: model.itemFactors,
        lambda model: model.recommendForAllUsers(2),
        lambda model: model.recommendForAllItems(2),
        lambda model: model.recommendForUserSubset(ratings, 2),
        lambda model: model.recommendForItemSubset(ratings, 2),
        lambda model: model.transform(ratings).select("rating", "prediction"),
    ]
    for result in results:
        assert result(model).dtypes == result(theirs).dtypes
    # Ours leaves the dataset's columns as they are.
    assert dict(theirs.transform(ratings).dtypes)["user"] == "int"
    assert model.transform(ratings).dtypes[:3] == ratings.dtypes
    assert model.rank == theirs.rank == RANK
    assert {row["id"] for row in model.userFactors.collect()} == {user for user, _, _ in triples()}
    assert repr(model) == f"ALSModel: uid={model.uid}, rank=2, 12 users, 9 items"


def test_subsets_get_the_lists_that_mllib_gives(spark: SparkSession, model: ALSModel, theirs: Any) -> None:
    # Twice, unknown, and no id at all; more places than there are entries; nobody.
    for users, n in (([103, 103, 999, None, 100], 2), ([106], 50), ([], 3)):
        asked = spark.createDataFrame([(user,) for user in users], "user int")
        ours, expected = (each.recommendForUserSubset(asked, n) for each in (model, theirs))
        assert ours.dtypes == expected.dtypes
        assert lengths(ours) == lengths(expected), users
    for items in ([-5, -5, 77, None], []):
        asked = spark.createDataFrame([(item,) for item in items], "item int")
        ours, expected = (each.recommendForItemSubset(asked, 3) for each in (model, theirs))
        assert lengths(ours) == lengths(expected), items


def lengths(lists: DataFrame) -> list[tuple[int, int]]:
    return sorted((row[0], len(row[1])) for row in lists.collect())


def test_params_of_a_call_count_for_that_call_alone(spark: SparkSession, model: ALSModel, theirs: Any) -> None:
    asked = spark.createDataFrame([(103, -5), (103, 77), (999, -5)], "user int, item int")
    for each in (model, theirs):
        dropped = each.transform(asked, {each.predictionCol: "score", each.coldStartStrategy: "DROP"})
        assert dropped.columns == ["user", "item", "score"]
        assert [tuple(row)[:2] for row in dropped.collect()] == [(103, -5)]
        kept = [row["prediction"] for row in each.transform(asked).orderBy("user", "item").collect()]
        assert [np.isnan(value) for value in kept] == [False, True, True]
        other = each.copy({each.predictionCol: "score"})
        assert (other.getPredictionCol(), each.getPredictionCol()) == ("score", "prediction")
        assert (other.uid, other.rank) == (each.uid, RANK)
        assert "score" in other.transform(asked).columns


def test_several_settings_are_fitted_as_by_mllib(ratings: DataFrame, mllib: dict[str, Any]) -> None:
    for kind in (ALS, MLlibALS):
        als: Any = kind(**{**mllib, "maxIter": 1})
        settings = [{als.rank: 1}, {als.rank: 3, als.predictionCol: "score", als.userCol: "user"}]
        models = dict(als.fitMultiple(ratings, settings))
        assert [models[n].rank for n in range(2)] == [1, 3]
        assert [models[n].getPredictionCol() for n in range(2)] == ["prediction", "score"]
        assert {models[n].uid for n in range(2)} == {als.uid}
        assert als.getRank() == RANK
        one = als.fit(ratings, settings[0])
        assert (one.rank, als.getRank()) == (1, RANK)
        assert factors(one)[0].keys() == factors(models[0])[0].keys()
