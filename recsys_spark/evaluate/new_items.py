"""Lists of items that nobody has rated: measured on items whose ratings were all held out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.evaluate.estimates import Estimate, single
from recsys_spark.evaluate.measured_models import fit_to
from recsys_spark.evaluate.ranking import RankingInput, measure_ranking, relevant_items
from recsys_spark.evaluate.shares import ALL, number_of_shares
from recsys_spark.features import ItemFeatures, read_item_features
from recsys_spark.kernels.arrays import Float32Array, Int32Array
from recsys_spark.kernels.ranking_metrics import expected_of_random_lists
from recsys_spark.rating_blocks import ITEMS
from recsys_spark.rating_split import split_by_item
from recsys_spark.recommend import Candidates, content_vectors, factor_map_config, users_with_history, write_lists
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.storage import join
from recsys_spark.train import Factorization, training_ratings

CONTENT, HINDSIGHT, RANDOM = "content", "popularity_in_hindsight", "random"
_METRICS = ("ndcg", "recall", "precision")


def measure_new_items(context: StageContext) -> list[Estimate]:
    """Hold out whole items, fit the model to the others, and rank the held-out ones for every user who has rated some.

    Returns
    -------
    list of Estimate
        ``content``, by what their features say of them; ``popularity_in_hindsight``, by how many ratings the items were
        to get, which nobody can know of a new item; ``random``, what lists in random order reach in the mean. Of users
        with a vector: the others have no list by features. Empty where no item is held out, or every one is.

    Notes
    -----
    Candidates are the held-out items alone: all of them that have features, and that hold a rating. Features and
    item vectors come to the driver, and a number per user; for the rest see `measure_ranking`.
    """
    config = context.config.evaluate
    training, held_out = split_by_item(training_ratings(context), config.holdout_items_share, config.seed)
    if training.isEmpty() or held_out.isEmpty():
        context.progress.say("evaluate: lists of new items are not measured: no item is held out, or every one is")
        return []
    model = fit_to(context, training, context.config.train, "evaluate new items")
    features = read_item_features(context)
    assert features is not None
    counts = held_out.groupBy("item_index").count().orderBy("item_index").toArrow()
    has_features = features.is_known[counts["item_index"].to_numpy()]
    items, n_ratings = (counts[name].to_numpy()[has_features] for name in ("item_index", "count"))
    of_candidates = held_out.join(
        context.spark.createDataFrame(pa.table({"item_index": pa.array(items, pa.int32())})), "item_index", "left_semi"
    )
    vectors = model.rows_for_lists(context.spark)
    of_known = of_candidates.join(vectors.select("user_index"), "user_index", "left_semi")
    relevant = relevant_items(of_known, context.config.relevant_rating).persist()
    try:
        n_relevant = relevant.select(F.size("relevant").alias("n")).toArrow()["n"].to_numpy()
        if len(n_relevant) == 0:
            return []
        candidates = _candidates(context, model, features, items.astype(np.int32), n_ratings)
        estimates = _measure(context, relevant, vectors, candidates)
    finally:
        relevant.unpersist()
        context.storage.remove(_lists_folder(context))
    expected = expected_of_random_lists(n_relevant, len(items), config.n)
    for name, value in zip(_METRICS, expected, strict=True):
        estimates.append(single(RANDOM, f"{name}@{config.n}", value, len(n_relevant)))
    return [replace(found, metric=f"new items: {found.metric}") for found in estimates]


def _measure(context: StageContext, relevant: DataFrame, vectors: DataFrame, candidates: Candidates) -> list[Estimate]:
    config = context.config.evaluate
    n_items = len(candidates.column_of_index)
    given = RankingInput(
        kinds=(CONTENT, HINDSIGHT),
        lengths=(config.n,),
        n=config.n,
        n_ratings=np.zeros(n_items, np.int64),
        n_users=1,
        item_class=np.zeros(n_items, np.int32),
        class_names=("new items",),
        item_vectors=None,
        activity_bounds=config.activity_bounds,
        replicates=config.replicates,
        seed=config.seed,
        n_shares=number_of_shares(relevant.count()),
    )
    lists = {}
    users = relevant.selectExpr("user_index", "user_index as user")
    context.storage.remove(_lists_folder(context))
    for name, rows in ((CONTENT, vectors), (HINDSIGHT, vectors.limit(0))):
        path = join(_lists_folder(context), name)
        write_lists(users_with_history(users, rows, None), candidates, n=config.n, path=path)
        lists[name] = context.spark.read.parquet(path).selectExpr(
            "user as user_index", "recommendations.item_id as items"
        )
    found = measure_ranking(lists, relevant.withColumn("n_known", F.lit(0)), given)
    wanted = {f"{name}@{config.n}" for name in _METRICS}
    return [estimate for estimate in found if estimate.metric in wanted and estimate.segment == ALL]


def _lists_folder(context: StageContext) -> str:
    return join(context.run.path, "_lists_of_new_items")


def _candidates(
    context: StageContext, model: Factorization, features: ItemFeatures, items: Int32Array, n_ratings: Int32Array
) -> Candidates:
    """Return the held-out items, with vectors from their features."""
    index, vectors = model.trained_vectors(ITEMS)
    return Candidates.from_items(
        pa.array(items),
        items,
        _vectors(context, model, features, items, index, vectors),
        n_ratings,
        n_items=features.n_items,
        global_mean=model.global_mean,
        biases=model.biases,
        as_probability=model.loss == "logistic",
    )


def _vectors(
    context: StageContext,
    model: Factorization,
    features: ItemFeatures,
    items: Int32Array,
    index: Int32Array,
    vectors: Float32Array,
) -> Float32Array:
    if context.config.train.model == "feature_regression":
        # Its item vectors are features, of rated items and others alike.
        return model.item_vectors[items]
    degrees = model.item_degrees[index]
    return content_vectors(features, items, index, vectors, degrees, factor_map_config(context))
