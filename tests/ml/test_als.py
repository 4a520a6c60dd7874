"""The estimator beside MLlib's own, in one session: objective, columns, types and behaviour."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.evaluation import RegressionEvaluator
from pyspark.ml.linalg import Vectors
from pyspark.ml.recommendation import ALS as MLlibALS
from pyspark.ml.tuning import CrossValidator, CrossValidatorModel, ParamGridBuilder, TrainValidationSplit
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.errors import ConfigError, ContractError
from recsys_spark.ml import ALS, ALSModel

N_USERS, N_ITEMS, RANK = 12, 9, 2
REG_PARAM, ALPHA = 0.5, 2.0
# With this penalty, ten iterations from any start come within 0.3 % of the best.
SETTINGS: dict[str, Any] = {"rank": RANK, "maxIter": 10, "regParam": REG_PARAM, "seed": 3, "alpha": ALPHA}
Triples = list[tuple[int, int, float]]


def triples() -> Triples:
    """Ratings near a model of rank 2, with ids that are no indexes: users from 100, items from -5."""
    rng = np.random.default_rng(5)
    scores = rng.uniform(0.5, 2, (N_USERS, RANK)) @ rng.uniform(0.2, 1.5, (RANK, N_ITEMS))
    chosen = rng.random((N_USERS, N_ITEMS)) < 0.7
    scores += rng.normal(0, 0.1, scores.shape)
    return [(100 + 3 * int(u), int(i) - 5, float(np.float32(scores[u, i]))) for u, i in np.argwhere(chosen)]


def frame(spark: SparkSession, rows: Triples) -> DataFrame:
    users, items, ratings = zip(*rows, strict=True)
    return spark.createDataFrame(
        pa.table(
            {
                "user": pa.array(users, pa.int64()),
                "item": pa.array(items, pa.int64()),
                "rating": pa.array(ratings, pa.float64()),
            }
        )
    )


class Both(NamedTuple):
    """One dataset, and the models of both estimators."""

    ratings: DataFrame
    ours: ALSModel
    theirs: Any


@pytest.fixture(scope="module")
def both(spark: SparkSession) -> Both:
    ratings = frame(spark, triples())
    theirs = MLlibALS(**SETTINGS, numUserBlocks=1, numItemBlocks=1).fit(ratings)
    return Both(ratings, ALS(**SETTINGS).fit(ratings), theirs)


def factors(model: Any) -> tuple[dict[Any, np.ndarray], dict[Any, np.ndarray]]:
    users, items = (
        {row["id"]: np.array(row["features"], np.float64) for row in side.collect()}
        for side in (model.userFactors, model.itemFactors)
    )
    return users, items


def objective(model: Any, rows: Triples, implicit: bool = False) -> float:
    """What both estimators minimise, in double precision."""
    users, items = factors(model)
    total = 0.0
    for user, item, rating in rows:
        score = users[user] @ items[item]
        total += (1 + ALPHA * rating) * (1 - score) ** 2 - score**2 if implicit else (rating - score) ** 2
        total += REG_PARAM * (users[user] @ users[user] + items[item] @ items[item])
    if implicit:
        total += sum((u @ i) ** 2 for u in users.values() for i in items.values())
    return total


def brute_force(model: Any, user: int, n: int) -> list[tuple[int, float]]:
    users, items = factors(model)
    scores = [(item, np.float32(users[user] @ vector)) for item, vector in items.items()]
    return [(item, float(score)) for item, score in sorted(scores, key=lambda entry: (-entry[1], entry[0]))[:n]]


def entries(row: Any, name: str = "item") -> list[tuple[int, float]]:
    return [(entry[name], entry["rating"]) for entry in row["recommendations"]]


def test_explicit_objective_is_that_of_mllib(both: Both) -> None:
    ours, theirs = (objective(model, triples()) for model in (both.ours, both.theirs))
    assert ours == pytest.approx(theirs, rel=0.01)
    assert both.ours.objectiveHistory[-1] == pytest.approx(ours, rel=1e-5)
    assert len(both.ours.objectiveHistory) == 2 * SETTINGS["maxIter"]


def test_implicit_objective_is_that_of_mllib(spark: SparkSession) -> None:
    # A rating of 0 is no observation, in either.
    ratings = frame(spark, [*triples(), (101, -5, 0.0)])
    theirs = MLlibALS(**SETTINGS, implicitPrefs=True, numUserBlocks=1, numItemBlocks=1).fit(ratings)
    ours = ALS(**SETTINGS, implicitPrefs=True).fit(ratings)
    found, expected = (objective(model, triples(), implicit=True) for model in (ours, theirs))
    assert found == pytest.approx(expected, rel=0.01)
    assert ours.objectiveHistory[-1] == pytest.approx(found, rel=1e-5)
    np.testing.assert_array_equal(factors(ours)[0][101], np.zeros(RANK))


def test_columns_and_types_are_those_of_mllib(both: Both) -> None:
    results: list[Callable[[Any], DataFrame]] = [
        lambda model: model.userFactors,
        lambda model: model.itemFactors,
        lambda model: model.recommendForAllUsers(2),
        lambda model: model.recommendForAllItems(2),
        lambda model: model.recommendForUserSubset(both.ratings, 2),
        lambda model: model.recommendForItemSubset(both.ratings, 2),
        lambda model: model.transform(both.ratings).select("rating", "prediction"),
    ]
    for result in results:
        assert result(both.ours).dtypes == result(both.theirs).dtypes
    # Ours leaves the dataset's columns as they are.
    assert dict(both.theirs.transform(both.ratings).dtypes)["user"] == "int"
    assert both.ours.transform(both.ratings).dtypes[:3] == both.ratings.dtypes
    assert both.ours.rank == both.theirs.rank == RANK
    assert {row["id"] for row in both.ours.userFactors.collect()} == {user for user, _, _ in triples()}
    assert repr(both.ours) == f"ALSModel: uid={both.ours.uid}, rank=2, 12 users, 9 items"


def test_lists_equal_brute_force(both: Both) -> None:
    found = {row["user"]: entries(row) for row in both.ours.recommendForAllUsers(4).collect()}
    assert found == {user: brute_force(both.ours, user, 4) for user in found}
    assert len(found) == N_USERS
    # More than there are: all.
    items = {row["item"]: entries(row, "user") for row in both.ours.recommendForAllItems(50).collect()}
    assert len(items) == N_ITEMS
    users, vectors = factors(both.ours)
    for item, listed in items.items():
        assert [user for user, _ in listed] == sorted(users, key=lambda u: (-np.float32(users[u] @ vectors[item]), u))


def test_a_subset_gets_one_list_each_and_the_unknown_none(spark: SparkSession, both: Both) -> None:
    asked = frame(spark, [(103, -1, 1.0), (103, -2, 1.0), (2**40, -1, 1.0), (109, 77, 1.0)])
    rows = both.ours.recommendForUserSubset(asked, 3).collect()
    assert {row["user"]: entries(row) for row in rows} == {user: brute_force(both.ours, user, 3) for user in (103, 109)}
    assert len(rows) == 2
    found = both.ours.recommendForItemSubset(asked, 1).collect()
    assert sorted(row["item"] for row in found) == [-2, -1]
    with pytest.raises(ConfigError, match="1 or more"):
        both.ours.recommendForAllUsers(0)


def test_excluded_pairs_are_not_listed(spark: SparkSession, both: Both) -> None:
    excluded = both.ratings.union(frame(spark, [(103, 999, 1.0), (5, -5, 1.0)]))
    rated = {(user, item) for user, item, _ in triples()}
    for row in both.ours.recommendForAllUsers(3, excluded=excluded).collect():
        open_items = [e for e in brute_force(both.ours, row["user"], 9) if (row["user"], e[0]) not in rated]
        assert entries(row) == open_items[:3]
    for row in both.ours.recommendForAllItems(N_USERS, excluded=excluded).collect():
        listed = {user for user, _ in entries(row, "user")}
        assert listed == {100 + 3 * u for u in range(N_USERS)} - {u for u, i in rated if i == row["item"]}


def test_predictions_are_products_and_the_unknown_is_nan_or_dropped(spark: SparkSession, both: Both) -> None:
    names = ["user", "item", "row", "user_index", "v"]
    types = "user double, item int, row string, user_index int"
    asked = [(103.0, -5, "a", 1), (7.0, -5, "b", 2), (103.5, -5, "c", 3), (103.0, None, "d", 4), (2.0**70, -1, "e", 5)]
    dataset = spark.createDataFrame(asked, types).withColumn("v", F.lit(None).cast("string"))
    found = both.ours.transform(dataset)
    assert found.columns == [*names, "prediction"]
    assert found.dtypes[:-1] == dataset.dtypes
    predictions = {row["row"]: row["prediction"] for row in found.collect()}
    users, items = factors(both.ours)
    assert predictions["a"] == pytest.approx(users[103] @ items[-5], rel=1e-6)
    assert all(math.isnan(predictions[name]) for name in "bcde")
    dropping = both.ours.copy().setColdStartStrategy("drop").setPredictionCol("score")
    assert [row["row"] for row in dropping.transform(dataset).where("score is not null").collect()] == ["a"]
    assert both.ours.getPredictionCol() == "prediction"


def test_what_cannot_be_transformed_is_named(spark: SparkSession, both: Both) -> None:
    for dataset, message in (
        (both.ratings.drop("item"), "where: itemCol\n  got: item"),
        (both.ratings.withColumn("user", F.col("user").cast("string")), "another type than those the model"),
        (both.ratings.withColumn("user", F.array("user")), "got: array<bigint>"),
        (both.ratings.withColumn("prediction", F.lit(1)), "a column of this name already"),
    ):
        with pytest.raises(ConfigError, match=message):
            both.ours.transform(dataset)


def test_columns_of_vectors_pass_through(spark: SparkSession, both: Both) -> None:
    dataset = spark.createDataFrame([(103, -5, Vectors.dense([1.0, 2.0]))], ["user", "item", "vector"])
    row = both.ours.transform(dataset).collect()[0]
    assert row["vector"] == Vectors.dense([1.0, 2.0])


def test_a_saved_model_is_the_same(spark: SparkSession, both: Both, tmp_path: Path) -> None:
    path = str(tmp_path / "a [model]")
    both.ours.save(path)
    loaded = ALSModel.load(path)
    for name in ("userFactors", "itemFactors"):
        assert sorted(getattr(loaded, name).collect()) == sorted(getattr(both.ours, name).collect())
    assert (loaded.uid, loaded.rank, loaded.objectiveHistory) == (both.ours.uid, RANK, both.ours.objectiveHistory)
    assert loaded.extractParamMap().keys() == both.ours.extractParamMap().keys()
    expected = sorted(both.ours.transform(both.ratings).collect())
    assert sorted(loaded.transform(both.ratings).collect()) == expected
    # A dataset made of the model's own tables is as good as any other.
    users, items = (
        side.select(F.col("id").alias(name))
        for side, name in ((loaded.userFactors, "user"), (loaded.itemFactors, "item"))
    )
    assert loaded.transform(users.crossJoin(items)).where("not isnan(prediction)").count() == N_USERS * N_ITEMS
    with pytest.raises(ConfigError, match="something is there already"):
        both.ours.write().save(path)
    with pytest.raises(ConfigError, match="over the files that it is read from"):
        loaded.write().overwrite().save(path)
    both.ours.write().overwrite().save(path)
    with pytest.raises(ConfigError, match="no model was saved there"):
        ALSModel.load(str(tmp_path))


def test_a_saved_estimator_is_the_same(spark: SparkSession, tmp_path: Path) -> None:
    als = ALS(rank=3, userCol="reader", solver="cg")
    path = str(tmp_path / "als")
    als.save(path)
    als.setRank(4).write().overwrite().save(path)
    loaded = ALS.load(path)
    assert (repr(loaded), loaded.getRank()) == (repr(als), 4)
    assert loaded.extractParamMap() == als.extractParamMap()
    with pytest.raises(ConfigError, match="something else"):
        ALSModel.load(path)


def test_strings_are_ids_in_a_pipeline(spark: SparkSession, tmp_path: Path) -> None:
    rows = [(f"u{user}", f"été {item}", rating) for user, item, rating in triples()]
    ratings = spark.createDataFrame(rows, "user string, item string, rating double")
    model = Pipeline(stages=[ALS(rank=2, maxIter=1)]).fit(ratings)
    als = model.stages[0]
    assert als.recommendForAllUsers(1).dtypes == [
        ("user", "string"),
        ("recommendations", "array<struct<item:string,rating:float>>"),
    ]
    row = als.recommendForUserSubset(ratings.where("user = 'u103'"), 1).collect()[0]
    assert row["user"] == "u103"
    assert row["recommendations"][0]["item"].startswith("été ")
    predictions = sorted(model.transform(ratings).collect())
    assert not any(math.isnan(row["prediction"]) for row in predictions)
    model.save(str(tmp_path / "pipeline"))
    assert sorted(PipelineModel.load(str(tmp_path / "pipeline")).transform(ratings).collect()) == predictions


def test_ids_may_be_longer_than_32_bits(spark: SparkSession) -> None:
    rows = [(user + 2**40, item, rating) for user, item, rating in triples()]
    model = ALS(rank=2, maxIter=1).fit(frame(spark, rows))
    assert dict(model.userFactors.dtypes)["id"] == "bigint"
    assert dict(model.itemFactors.dtypes)["id"] == "int"
    found = model.recommendForAllItems(1)
    assert found.dtypes[1] == ("recommendations", "array<struct<user:bigint,rating:float>>")
    assert {row["recommendations"][0]["user"] for row in found.collect()} <= {user for user, _, _ in rows}


def test_factors_do_not_depend_on_partitions_or_blocks(spark: SparkSession) -> None:
    one = ALS(rank=2, maxIter=2).fit(frame(spark, triples()).coalesce(1))
    other = ALS(rank=2, maxIter=2, numUserBlocks=3).fit(frame(spark, triples()[::-1]).repartition(5))
    assert sorted(one.userFactors.collect()) == sorted(other.userFactors.collect())
    assert one.objectiveHistory == other.objectiveHistory


def test_repeated_pairs_are_merged_and_told(spark: SparkSession, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "recsys_spark")
    user, item, rating = triples()[0]
    twice = [*triples()[1:], (user, item, rating - 0.25), (user, item, rating + 0.25)]
    implicit = ALS(rank=2, maxIter=1, implicitPrefs=True)
    summed = implicit.fit(frame(spark, [(user, item, 2 * rating), *triples()[1:]]))
    assert not caplog.records
    assert implicit.fit(frame(spark, twice)).objectiveHistory == summed.objectiveHistory
    assert f"{len(twice)} ratings are of {len(twice) - 1} pairs" in caplog.text
    explicit = ALS(rank=2, maxIter=1, regParam=REG_PARAM).fit(frame(spark, twice))
    users, items = factors(explicit)
    expected = objective(explicit, triples()) + (rating - users[user] @ items[item]) ** 2
    assert explicit.objectiveHistory[-1] == pytest.approx(expected, rel=1e-5)


def test_without_a_rating_column_every_row_is_a_one(spark: SparkSession) -> None:
    pairs = frame(spark, triples()).drop("rating").withColumn("user", F.col("user").cast("decimal(12,0)"))
    model = ALS(rank=1, maxIter=1, implicitPrefs=True, ratingCol="", nonnegative=True).fit(pairs)
    ones = ALS(rank=1, maxIter=1, implicitPrefs=True, nonnegative=True).fit(pairs.withColumn("rating", F.lit(1)))
    assert model.objectiveHistory == ones.objectiveHistory
    assert min(vector.min() for side in factors(model) for vector in side.values()) >= 0


def test_rows_that_cannot_be_trained_on_are_counted(spark: SparkSession) -> None:
    rows = [(1.0, 1, 1.0), (1.5, 1, 1.0), (None, 1, 1.0), (2.0, None, 1.0), (2.0, 1, None), (3.0, 1, math.nan)]
    dataset = spark.createDataFrame([*rows, (None, 2, math.inf)], "user double, item long, rating double")
    with pytest.raises(ContractError) as caught:
        ALS().fit(dataset)
    for text in (
        "2 rows where userCol user is null",
        "1 rows where userCol user is no whole number",
        "1 rows where itemCol item is null",
        "1 rows where ratingCol rating is null",
        "1 rows where ratingCol rating is not finite",
    ):
        assert text in str(caught.value)
    with pytest.raises(ContractError, match="no ratings to fit"):
        ALS().fit(dataset.where("user > 5"))


def test_what_cannot_be_fitted_is_named(spark: SparkSession) -> None:
    ratings = frame(spark, triples())
    for als, dataset, message in (
        (ALS(userCol="reader"), ratings, "where: userCol\n  got: reader\n  allowed: user, item, rating"),
        (ALS(ratingCol="stars"), ratings, "where: ratingCol"),
        (ALS(), ratings.withColumn("rating", F.lit("5")), "ratings have to be numbers"),
        (ALS(), ratings.withColumn("item", F.lit(True)), "got: boolean"),
        (ALS(regParam=0.0), ratings, "where: regParam"),
        (ALS(coldStartStrategy="zero"), ratings, "nan or drop"),
    ):
        with pytest.raises(ConfigError, match=message):
            als.fit(dataset)


def test_biases_are_part_of_predictions_and_lists(spark: SparkSession, tmp_path: Path) -> None:
    ratings = frame(spark, triples())
    model = ALS(rank=2, maxIter=2, biases=True, regExponent=0.5).fit(ratings)
    model.save(str(tmp_path / "biased"))
    loaded = ALSModel.load(str(tmp_path / "biased"))
    predicted = {(row["user"], row["item"]): row["prediction"] for row in loaded.transform(ratings).collect()}
    listed = {
        (row["user"], item): rating for row in model.recommendForAllUsers(9).collect() for item, rating in entries(row)
    }
    assert predicted.items() <= listed.items()
    mean = np.mean([rating for _, _, rating in triples()])
    assert abs(np.mean(list(predicted.values())) - mean) < 0.2


@pytest.mark.slow
def test_settings_are_chosen_by_pysparks_own_tuning(spark: SparkSession, tmp_path: Path) -> None:
    ratings = frame(spark, triples())
    als = ALS(rank=2, maxIter=2, seed=1, coldStartStrategy="drop")
    grid = ParamGridBuilder().addGrid(als.regParam, [0.05, 50.0]).build()
    evaluator = RegressionEvaluator(metricName="rmse", labelCol="rating")
    tuning: dict[str, Any] = {"estimator": als, "estimatorParamMaps": grid, "evaluator": evaluator, "seed": 1}
    chosen = CrossValidator(**tuning, numFolds=2, parallelism=2).fit(ratings)
    assert chosen.avgMetrics[0] < chosen.avgMetrics[1]
    assert isinstance(chosen.bestModel, ALSModel)
    # All of the penalty of 50 would leave nothing but zeros.
    assert np.abs(np.array([list(v) for v in factors(chosen.bestModel)[0].values()])).max() > 0.1
    chosen.save(str(tmp_path / "chosen"))
    best = CrossValidatorModel.load(str(tmp_path / "chosen")).bestModel
    assert sorted(best.itemFactors.collect()) == sorted(chosen.bestModel.itemFactors.collect())
    split = TrainValidationSplit(**tuning, trainRatio=0.8, parallelism=2).fit(ratings)
    assert split.validationMetrics[0] < split.validationMetrics[1]
    assert len(als.fit(ratings, grid)) == 2
