"""Lists of items that nobody has rated: measured on items whose ratings were all held out."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.evaluate.ranking import METRICS, measure_ranking, relevant_items
from recsys_spark.features import ItemFeatures, read_item_features
from recsys_spark.kernels.arrays import Float32Array, Int32Array
from recsys_spark.kernels.ranking_metrics import expected_of_random_lists
from recsys_spark.rating_blocks import ITEMS
from recsys_spark.recommend import Candidates, content_vectors, factor_map_config, users_with_history, write_lists
from recsys_spark.run_directory import StageContext
from recsys_spark.storage import join
from recsys_spark.train import Factorization

CONTENT, HINDSIGHT, RANDOM = "content", "popularity_in_hindsight", "random"


def measure_new_items(
    context: StageContext, model: Factorization, held_out: DataFrame
) -> list[tuple[str, str, float, int]]:
    """Rank the held-out items for every user who has rated some of them, by what their features say of them.

    Parameters
    ----------
    context : StageContext
    model : Factorization
        Fitted to the ratings of the other items.
    held_out : DataFrame
        ``user_index, item_index, rating``: all ratings of the items that were held out.

    Returns
    -------
    list of (model, metric, value, number of users)
        ``content``, by factors from features; ``popularity_in_hindsight``, by how many ratings the items were to get,
        which nobody can know of a new item; ``random``, what lists in random order reach in the mean. Users without a
        vector get lists by hindsight from either.

    Notes
    -----
    Candidates are the held-out items alone: all of them that have features, and that hold a rating. Features and
    item vectors come to the driver, and a number per user.
    """
    config = context.config.evaluate
    features = read_item_features(context)
    assert features is not None
    counts = held_out.groupBy("item_index").count().orderBy("item_index").toArrow()
    has_features = features.is_known[counts["item_index"].to_numpy()]
    items, n_ratings = (counts[name].to_numpy()[has_features] for name in ("item_index", "count"))
    of_candidates = held_out.join(
        context.spark.createDataFrame(pa.table({"item_index": pa.array(items, pa.int32())})), "item_index", "left_semi"
    )
    relevant = relevant_items(of_candidates, config.relevant_rating).persist()
    candidates = _candidates(context, model, features, items.astype(np.int32), n_ratings)
    factors = model.rows_for_lists(context.spark)
    rows = []
    for name, vectors in ((CONTENT, factors), (HINDSIGHT, factors.limit(0))):
        metrics, n_users = _measure(context, relevant, vectors, candidates)
        rows += [(name, f"new items: {metric}@{config.n}", value, n_users) for metric, value in metrics.items()]
    n_relevant = relevant.select(F.size("relevant").alias("n")).toArrow()["n"].to_numpy()
    expected = dict(zip(METRICS, expected_of_random_lists(n_relevant, len(items), config.n), strict=True))
    rows += [(RANDOM, f"new items: {metric}@{config.n}", value, len(n_relevant)) for metric, value in expected.items()]
    relevant.unpersist()
    return [row for row in rows if row[3]]


def _measure(
    context: StageContext, relevant: DataFrame, vectors: DataFrame, candidates: Candidates
) -> tuple[dict[str, float], int]:
    n = context.config.evaluate.n
    path = join(context.run.path, "_lists_of_new_items")
    context.storage.remove(path)
    users = relevant.selectExpr("user_index", "user_index as user")
    write_lists(users_with_history(users, vectors, None), candidates, n=n, path=path)
    lists = context.spark.read.parquet(path).selectExpr("user as user_index", "recommendations.item_id as items")
    found = measure_ranking(lists, relevant, n)
    context.storage.remove(path)
    return found


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
