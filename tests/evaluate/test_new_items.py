"""Lists of items whose ratings are all held out, on a catalogue where features decide what is liked."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession
from sklearn.metrics import ndcg_score

from recsys_spark.config.features import FeatureColumn
from recsys_spark.evaluate.new_items import measure_new_items
from recsys_spark.features.encoder import CellStatistics, fit_encoder
from recsys_spark.rating_split import split_by_item
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.tables import INDEXED_RATINGS, ITEM_FEATURES, ITEM_INDEX, NEW_ITEMS

N_USERS, N_COLD, N_ITEMS, N_GENRES, N = 40, 3, 60, 4, 4
SHARE, SEED, BARE = 0.3, 5, 2
COLUMNS = {"genre": FeatureColumn(kind="categorical")}
MODELS: dict[str, dict[str, Any]] = {
    "factors": {"rank": 3, "iterations": 6, "reg_param": 0.3, "bias_reg_param": 0.3},
    "regression": {"model": "feature_regression", "reg_param": 1.0},
}


def held_out_items(spark: SparkSession) -> list[int]:
    everything = spark.range(N_ITEMS).selectExpr("int(id) item_index")
    return sorted(row[0] for row in split_by_item(everything, SHARE, SEED)[1].collect())


def ratings_by_genre(held_out: list[int]) -> list[tuple[int, int, float, None, None]]:
    """Every user likes one genre; the last ones, whom no training rating knows, have rated held-out items alone."""
    rng = np.random.default_rng(1)
    found = []
    for user in range(N_USERS + N_COLD):
        items = np.flatnonzero(rng.random(N_ITEMS) < 0.3) if user < N_USERS else held_out[: 4 + user % 3]
        found += [(user, int(i), 5.0 if i % N_GENRES == user % N_GENRES else 2.0, None, None) for i in items]
    return found


def make_run(
    make_context: Callable[..., StageContext], train: dict[str, Any], held_out: list[int], bare: int
) -> StageContext:
    """Return a run as it is before the evaluation; one held-out item has no features."""
    context = make_context(
        item_features={"path": "x", "features": {name: column.model_dump() for name, column in COLUMNS.items()}},
        train=train,
        evaluate={
            "n": N, "holdout_items_share": SHARE, "seed": SEED, "relevant_rating": 4.0, "replicates": 0,
        },
    )  # fmt: skip
    ratings = context.spark.createDataFrame(ratings_by_genre(held_out), INDEXED_RATINGS.schema)
    context.write(INDEXED_RATINGS, ratings)
    index = [(f"i{k}", k) for k in range(N_ITEMS)]
    context.write(ITEM_INDEX, context.spark.createDataFrame(index, ITEM_INDEX.schema))
    context.write(NEW_ITEMS, context.spark.createDataFrame([], NEW_ITEMS.schema))
    features = [(f"i{k}", k, [k % N_GENRES], [1.0]) for k in range(N_ITEMS) if k != bare]
    context.write(ITEM_FEATURES, context.spark.createDataFrame(features, ITEM_FEATURES.schema))
    counts = {str(k): N_ITEMS // N_GENRES for k in range(N_GENRES)}
    statistics = CellStatistics(N_ITEMS, 1, 0, 0.0, 0.0, counts, N_GENRES, N_ITEMS - 1, N_GENRES)
    context.storage.write_text(
        f"{context.run.path}/item_features_encoder.json", fit_encoder(COLUMNS, {"genre": statistics}).as_json()
    )
    records = {"index": {"n_items": N_ITEMS, "n_users": N_USERS + N_COLD}, "features": {"n_new_items": 0}}
    for stage, record in records.items():
        context.storage.write_text(context.run.stage_record(stage), json.dumps(record))
    return context


@pytest.mark.parametrize("name", list(MODELS))
def test_features_rank_new_items_well_ahead_of_chance_for_users_with_a_vector(
    make_context: Callable[..., StageContext], spark: SparkSession, name: str
) -> None:
    held_out = held_out_items(spark)
    bare = held_out[BARE]
    context = make_run(make_context, MODELS[name], held_out, bare)
    estimates = measure_new_items(context)
    candidates = [item for item in held_out if item != bare]
    assert len(candidates) > 3 * N, "a list cannot hold them all"
    rated = ratings_by_genre(held_out)
    liked = {
        user: {item for u, item, rating, *_ in rated if u == user and rating >= 4 and item in candidates}
        for user in range(N_USERS)
    }
    liked = {user: items for user, items in liked.items() if items}
    cold = {u for u, item, rating, *_ in rated if u >= N_USERS and rating >= 4 and item in candidates}
    assert cold, "users without a vector have liked some, and are not counted"
    found = {(one.model, one.metric.removeprefix("new items: ")): one for one in estimates}
    assert {one.n for one in estimates} == {len(liked)}
    assert set(found) == {
        (model, f"{metric}@{N}")
        for model in ("content", "popularity_in_hindsight", "random")
        for metric in ("ndcg", "recall", "precision")
    }
    recall, ndcg = (
        {model: found[model, f"{metric}@{N}"].value for model in ("content", "popularity_in_hindsight", "random")}
        for metric in ("recall", "ndcg")
    )
    # In the mean, a random list has as many of the liked items as of any others.
    assert recall["random"] == pytest.approx(N / len(candidates))
    assert recall["random"] + 0.3 < recall["content"] < 1.0
    assert ndcg["random"] + 0.3 < ndcg["content"] < 1.0
    # The other baseline is known without a model: by number of ratings, ties by number.
    counts = np.array([sum(item == rated_item for _, rated_item, *_ in rated) for item in candidates])
    order = sorted(range(len(candidates)), key=lambda k: (-counts[k], candidates[k]))
    best = {candidates[k] for k in order[:N]}
    expected = np.mean([len(best & items) / len(items) for items in liked.values()])
    assert recall["popularity_in_hindsight"] == pytest.approx(expected)
    scores = np.zeros(len(candidates))
    scores[order] = -np.arange(len(candidates))
    gains = [ndcg_score([[item in items for item in candidates]], [scores], k=N) for items in liked.values()]
    assert ndcg["popularity_in_hindsight"] == pytest.approx(np.mean(gains))
