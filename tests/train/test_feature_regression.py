"""Regression on known features on Spark, against scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession
from sklearn.linear_model import LogisticRegression, Ridge

from recsys_spark.config import TrainConfig
from recsys_spark.errors import ConfigError
from recsys_spark.features import ItemFeatures
from recsys_spark.kernels.neighbour_average import sparse_rows
from recsys_spark.progress import Progress
from recsys_spark.rating_blocks import ITEMS, USERS
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.storage import LocalStorage
from recsys_spark.tables import ITEM_FACTORS, ITEM_INDEX, USER_INDEX
from recsys_spark.train import Continuation, fit_model
from recsys_spark.train.feature_regression import FeatureModel
from recsys_spark.train.stage import _write_factors
from tests.train.test_fit_factors import N_ITEMS, N_USERS, frame, observations

WIDTH, N_NEW = 5, 2


def features() -> ItemFeatures:
    """Of all items but one that is rated, and of two new ones."""
    rng = np.random.default_rng(3)
    values = rng.normal(size=(N_ITEMS + N_NEW, WIDTH)) * (rng.random((N_ITEMS + N_NEW, WIDTH)) < 0.7)
    values[4] = 0
    rows, columns = np.nonzero(values)
    is_known = np.arange(N_ITEMS + N_NEW) != 4
    entries = sparse_rows(rows, columns, values[rows, columns].astype(np.float32), N_ITEMS + N_NEW)
    return ItemFeatures(entries, is_known, [f"f{k}" for k in range(WIDTH)], N_ITEMS)


def fit(spark: SparkSession, ratings: Any, folder: Path, **settings: Any) -> FeatureModel:
    regression = settings.pop("feature_regression", {"population_reg_param": 4.0})
    config = TrainConfig.model_validate(
        {"model": "feature_regression", "reg_param": 2.0, "reg_exponent": 0.5, "bias_reg_param": 0.5, "n_blocks": 2}
        | settings
        | {"feature_regression": regression}
    )
    model = fit_model(
        spark, ratings, config, n_users=N_USERS, n_items=N_ITEMS, progress=Progress(), features=features(),
        continuation=Continuation(storage=LocalStorage(), folder=str(folder)),
    )  # fmt: skip
    assert isinstance(model, FeatureModel)
    return model


def user_rows(spark: SparkSession, model: FeatureModel) -> dict[int, dict[str, Any]]:
    return {row["user_index"]: row.asDict() for row in model.rows(spark, USERS).collect()}


def test_every_user_is_scikit_learns_ridge_and_the_objective_the_sum(spark: SparkSession, tmp_path: Path) -> None:
    triples = observations()
    model = fit(spark, frame(spark, triples), tmp_path / "one")
    users, items, values = (np.array(column) for column in zip(*triples, strict=True))
    x, mean = features().dense()[:N_ITEMS].astype(float), values.mean()
    ones = np.ones((len(users), 1))
    population = Ridge(alpha=4.0, fit_intercept=False).fit(np.hstack([x[items], ones]), values - mean).coef_
    assert model.population is not None
    np.testing.assert_allclose([*model.population.weights, model.population.bias], population, atol=1e-5)
    opinion = x @ population[:-1] + population[-1]
    rows, objective = user_rows(spark, model), 4.0 * (population**2).sum()
    assert set(rows) == set(users.tolist())
    scores = np.full((N_USERS, N_ITEMS), mean + opinion)
    for user, row in rows.items():
        mine = users == user
        scale = mine.sum() ** 0.5
        # A column of 2 has a coefficient half as large, and the penalty of the bias is a quarter of the others'.
        design = np.hstack([x[items[mine]], 2.0 * ones[mine]])
        own = (
            Ridge(alpha=2.0 * scale, fit_intercept=False).fit(design, values[mine] - mean - opinion[items[mine]]).coef_
        )
        own[-1] *= 2.0
        np.testing.assert_allclose([*row["factors"], row["bias"]], own, atol=1e-5)
        np.testing.assert_allclose(row["weights"], population[:-1] + own[:-1], atol=1e-5)
        scores[user] += x @ own[:-1] + own[-1]
        # The item without features is scored by the intercept alone.
        assert row["intercept"] == pytest.approx(scores[user, 4], abs=1e-5)
        objective += ((values[mine] - scores[user, items[mine]]) ** 2).sum()
        objective += scale * (2.0 * own[:-1] @ own[:-1] + 0.5 * own[-1] ** 2)
    assert model.history[0].objective == pytest.approx(objective, rel=1e-6)
    # Items that nobody rated are scored, and users without ratings by the population.
    pairs = spark.createDataFrame(
        [(u, i) for u in (0, N_USERS - 1) for i in range(N_ITEMS)], "user_index int, item_index int"
    )
    scored = {(row[0], row[1]): row[2] for row in model.with_scores(pairs, "score").collect()}
    for (user, item), score in scored.items():
        assert score == pytest.approx(scores[user, item], abs=1e-5)
    index, vectors = model.trained_vectors(ITEMS)
    assert sorted(index.tolist()) == list(range(N_ITEMS)), "all have ratings or features"
    np.testing.assert_array_equal(vectors[np.argsort(index)], model.item_vectors)

    again = fit(spark, frame(spark, triples[::-1], 1), tmp_path / "two", n_blocks=5)
    assert user_rows(spark, again) == rows, "the same bits for other blocks and partitions"
    assert again.history[0].objective == model.history[0].objective
    np.testing.assert_array_equal(again.item_vectors, model.item_vectors)


def test_labels_without_a_population_are_scikit_learns_logistic_regression(spark: SparkSession, tmp_path: Path) -> None:
    triples = [(user, item, rating) for user, item, rating in observations()]
    # As many labels 1 as 0: the constant, which scikit-learn does not have, is then 0.
    ordered = sorted(triples, key=lambda t: (t[2], t[0], t[1]))[: len(triples) // 2 * 2]
    labels = [(u, i, float(k >= len(ordered) // 2)) for k, (u, i, _) in enumerate(ordered)]
    model = fit(
        spark, frame(spark, labels), tmp_path / "fit", loss="logistic", feature_regression={"population": False}
    )
    assert model.global_mean == 0.0
    x, rows, n_compared = features().dense()[:N_ITEMS].astype(float), user_rows(spark, model), 0
    for user, row in rows.items():
        mine = [(i, y) for u, i, y in labels if u == user]
        items, y = np.array([i for i, _ in mine]), np.array([label for _, label in mine])
        if len(set(y)) == 2:
            design = np.hstack([x[items], np.full((len(items), 1), 2.0)])
            oracle = LogisticRegression(
                C=1 / (2.0 * len(items) ** 0.5), fit_intercept=False, solver="newton-cholesky", tol=1e-10
            )
            own = oracle.fit(design, y).coef_[0]
            np.testing.assert_allclose([*row["factors"], row["bias"]], [*own[:-1], 2.0 * own[-1]], atol=1e-5)
            assert row["weights"] == row["factors"]
            n_compared += 1
    assert n_compared > 10


def test_items_without_ratings_are_no_rows_of_the_models_table(
    make_context: Callable[..., StageContext], tmp_path: Path
) -> None:
    context = make_context(
        train={"model": "feature_regression"}, item_features={"path": "x", "features": {"a": {"kind": "numeric"}}}
    )
    # Of an item that was rated on other nights, the index and the features know; lists have it as new, or not at all.
    triples = [(user, item, rating) for user, item, rating in observations() if item != 7]
    model = fit(context.spark, frame(context.spark, triples), tmp_path / "fit")
    assert features().is_known[7]
    assert 7 in model.trained_vectors(ITEMS)[0], "features give it a vector: what is held out is measured by it"
    for table, n_rows in ((USER_INDEX, N_USERS), (ITEM_INDEX, N_ITEMS)):
        context.write(table, context.spark.createDataFrame([(f"x{k}", k) for k in range(n_rows)], table.schema))
    _write_factors(context, model)
    rows = {row["item_index"]: row["n_ratings"] for row in context.read(ITEM_FACTORS).collect()}
    assert set(rows) == {item for _, item, _ in triples}
    assert min(rows.values()) > 0


def test_a_regression_needs_features(spark: SparkSession, tmp_path: Path) -> None:
    config = TrainConfig.model_validate({"model": "feature_regression"})
    with pytest.raises(ConfigError, match="needs features"):
        fit_model(
            spark, frame(spark, observations()), config, n_users=N_USERS, n_items=N_ITEMS, progress=Progress(),
            continuation=Continuation(storage=LocalStorage(), folder=str(tmp_path)),
        )  # fmt: skip
