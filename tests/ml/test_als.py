"""The estimator and its model: lists, predictions, ids, persistence, and what they refuse."""

from __future__ import annotations

import gc
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.evaluation import RegressionEvaluator
from pyspark.ml.linalg import Vectors
from pyspark.ml.tuning import CrossValidator, CrossValidatorModel, ParamGridBuilder, TrainValidationSplit
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.errors import ConfigError, ContractError, RowError
from recsys_spark.job_labels import labelled_jobs
from recsys_spark.ml import ALS, ALSModel
from tests.ml.small_ratings import (
    N_ITEMS,
    N_USERS,
    RANK,
    REG_PARAM,
    brute_force,
    entries,
    factors,
    frame,
    objective,
    triples,
)
from tests.test_job_labels import descriptions_of


def test_lists_equal_brute_force(model: ALSModel) -> None:
    found = {row["user"]: entries(row) for row in model.recommendForAllUsers(4).collect()}
    users, vectors = both = factors(model)
    assert found == {user: brute_force(both, user, 4) for user in users}
    assert len(found) == N_USERS
    # More than there are: all.
    items = {row["item"]: entries(row, "user") for row in model.recommendForAllItems(50).collect()}
    assert len(items) == N_ITEMS
    for item, listed in items.items():
        assert [user for user, _ in listed] == sorted(users, key=lambda u: (-np.float32(users[u] @ vectors[item]), u))


def test_a_subset_gets_one_list_each_and_the_unknown_none(spark: SparkSession, model: ALSModel) -> None:
    asked = frame(spark, [(103, -1, 1.0), (103, -2, 1.0), (2**40, -1, 1.0), (109, 77, 1.0)])
    rows = model.recommendForUserSubset(asked, 3).collect()
    both = factors(model)
    assert {row["user"]: entries(row) for row in rows} == {user: brute_force(both, user, 3) for user in (103, 109)}
    assert len(rows) == 2
    found = model.recommendForItemSubset(asked, 1).collect()
    assert sorted(row["item"] for row in found) == [-2, -1]
    with pytest.raises(ConfigError, match="1 or more"):
        model.recommendForAllUsers(0)


def test_excluded_pairs_are_not_listed(spark: SparkSession, ratings: DataFrame, model: ALSModel) -> None:
    excluded = ratings.union(frame(spark, [(103, 999, 1.0), (5, -5, 1.0)]))
    rated = {(user, item) for user, item, _ in triples()}
    both = factors(model)
    for row in model.recommendForAllUsers(3, excluded=excluded).collect():
        open_items = [e for e in brute_force(both, row["user"], 9) if (row["user"], e[0]) not in rated]
        assert entries(row) == open_items[:3]
    for row in model.recommendForAllItems(N_USERS, excluded=excluded).collect():
        listed = {user for user, _ in entries(row, "user")}
        assert listed == {100 + 3 * u for u in range(N_USERS)} - {u for u, i in rated if i == row["item"]}


def test_predictions_are_products_and_the_unknown_is_nan_or_dropped(spark: SparkSession, model: ALSModel) -> None:
    names = ["user", "item", "row", "user_index", "v"]
    types = "user double, item int, row string, user_index int"
    asked = [(103.0, -5, "a", 1), (7.0, -5, "b", 2), (103.5, -5, "c", 3), (103.0, None, "d", 4), (2.0**70, -1, "e", 5)]
    dataset = spark.createDataFrame(asked, types).withColumn("v", F.lit(None).cast("string"))
    found = model.transform(dataset)
    assert found.columns == [*names, "prediction"]
    assert found.dtypes[:-1] == dataset.dtypes
    predictions = {row["row"]: row["prediction"] for row in found.collect()}
    users, items = factors(model)
    assert predictions["a"] == pytest.approx(users[103] @ items[-5], rel=1e-6)
    assert all(math.isnan(predictions[name]) for name in "bcde")
    dropping = model.copy().setColdStartStrategy("drop").setPredictionCol("score")
    assert [row["row"] for row in dropping.transform(dataset).where("score is not null").collect()] == ["a"]
    assert model.getPredictionCol() == "prediction"


def test_what_cannot_be_transformed_is_named(ratings: DataFrame, model: ALSModel) -> None:
    for dataset, message in (
        (ratings.drop("item"), "where: itemCol\n  got: item"),
        (ratings.withColumn("user", F.col("user").cast("string")), "another type than those the model"),
        (ratings.withColumn("user", F.array("user")), "got: array<bigint>"),
        (ratings.withColumn("prediction", F.lit(1)), "a column of this name already"),
    ):
        with pytest.raises(ConfigError, match=message):
            model.transform(dataset)


def test_columns_of_vectors_pass_through(spark: SparkSession, model: ALSModel) -> None:
    dataset = spark.createDataFrame([(103, -5, Vectors.dense([1.0, 2.0]))], ["user", "item", "vector"])
    row = model.transform(dataset).collect()[0]
    assert row["vector"] == Vectors.dense([1.0, 2.0])


def test_a_saved_model_is_the_same(ratings: DataFrame, model: ALSModel, tmp_path: Path) -> None:
    path = str(tmp_path / "a [model]")
    model.save(path)
    loaded = ALSModel.load(path)
    for name in ("userFactors", "itemFactors"):
        assert sorted(getattr(loaded, name).collect()) == sorted(getattr(model, name).collect())
    assert (loaded.uid, loaded.rank, loaded.objectiveHistory) == (model.uid, RANK, model.objectiveHistory)
    assert loaded.extractParamMap().keys() == model.extractParamMap().keys()
    expected = sorted(model.transform(ratings).collect())
    assert sorted(loaded.transform(ratings).collect()) == expected
    # A dataset made of the model's own tables is as good as any other.
    users, items = (
        side.select(F.col("id").alias(name))
        for side, name in ((loaded.userFactors, "user"), (loaded.itemFactors, "item"))
    )
    assert loaded.transform(users.crossJoin(items)).where("not isnan(prediction)").count() == N_USERS * N_ITEMS
    with pytest.raises(ConfigError, match="something is there already"):
        model.write().save(path)
    for same in (path, f"{path}/"):
        with pytest.raises(ConfigError, match="over the files that it is read from"):
            loaded.write().overwrite().save(same)
    model.write().overwrite().save(path)
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
    with pytest.raises(ConfigError, match="another type than those the model"):
        als.transform(ratings.withColumn("user", F.lit(103)))
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


def test_jobs_of_a_fit_are_named_by_estimator_and_iteration(spark: SparkSession) -> None:
    als = ALS(rank=1, maxIter=1)
    with labelled_jobs(spark, "around", group="jobs-of-a-fit"):
        als.fit(frame(spark, triples()))
    assert f"{als.uid}: iteration 1, users, and what follows it" in descriptions_of(spark, "jobs-of-a-fit")


def test_factors_do_not_depend_on_partitions_or_blocks(spark: SparkSession) -> None:
    one = ALS(rank=2, maxIter=2).fit(frame(spark, triples()).coalesce(1))
    other = ALS(rank=2, maxIter=2, numUserBlocks=3).fit(frame(spark, triples()[::-1]).repartition(5))
    assert sorted(one.userFactors.collect()) == sorted(other.userFactors.collect())
    assert one.objectiveHistory == other.objectiveHistory


def test_repeated_pairs_are_merged_and_told(
    spark: SparkSession, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("recsys_spark"), "propagate", True)
    caplog.set_level(logging.WARNING, "recsys_spark")
    user, item, rating = triples()[0]
    twice = [*triples()[1:], (user, item, rating - 0.25), (user, item, rating + 0.25)]
    implicit = ALS(rank=2, maxIter=1, implicitPrefs=True)
    summed = implicit.fit(frame(spark, [(user, item, 2 * rating), *triples()[1:]]))
    assert "pairs of user and item" not in caplog.text
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


def test_a_row_that_overflows_is_named_by_its_id_and_nothing_stays_cached(spark: SparkSession) -> None:
    first = triples()[0][:2]
    rows = [(user, item, 1e38 if (user, item) == first else rating) for user, item, rating in triples()]
    cached = spark.sparkContext._jsc.getPersistentRDDs().size()
    with pytest.raises(RowError, match=f"item {first[1]}") as raised:
        # One block: of several that fail at once, any may be the first.
        ALS(rank=2, maxIter=1, regParam=1e-6, numUserBlocks=1).fit(frame(spark, rows))
    assert (raised.value.side, raised.value.row) == ("items", 0)
    assert spark.sparkContext._jsc.getPersistentRDDs().size() == cached


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


# CrossValidator does not close its pool of threads, and pytest would blame whichever test it is collected in.
@pytest.mark.filterwarnings("ignore:unclosed running multiprocessing pool:ResourceWarning")
@pytest.mark.slow
def test_settings_are_chosen_by_pysparks_own_tuning(spark: SparkSession, tmp_path: Path) -> None:
    ratings = frame(spark, triples())
    als = ALS(rank=2, maxIter=5, seed=1, coldStartStrategy="drop")
    grid = ParamGridBuilder().addGrid(als.regParam, [1.0, 50.0]).build()
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
    gc.collect()
