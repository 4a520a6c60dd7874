"""The evaluate stage: hold ratings out, fit the same configuration to the rest, measure, beside baselines."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.config import TrainConfig
from recsys_spark.evaluate.activity import measure_by_activity
from recsys_spark.evaluate.label_errors import LabelPredictors, item_label_means, measure_label_errors
from recsys_spark.evaluate.new_items import measure_new_items
from recsys_spark.evaluate.ranking import measure_ranking, relevant_items
from recsys_spark.evaluate.rating_errors import Predictors, item_means, measure_rating_errors
from recsys_spark.features import read_item_features
from recsys_spark.rating_blocks import ITEMS
from recsys_spark.rating_split import split_by_item, split_ratings
from recsys_spark.recommend import Candidates, read_categories, users_with_history, with_variety, write_lists
from recsys_spark.run_directory import StageContext
from recsys_spark.storage import join
from recsys_spark.tables import METRICS
from recsys_spark.train import Continuation, Factorization, fit_model, training_ratings

TABLES = (METRICS,)
MODEL, RATING_MODEL, BY_SCORE_ALONE = "model", "rating_model", "by_score_alone"
BIAS_ONLY, ITEM_MEAN, POPULARITY = "bias_only", "item_mean", "popularity"


def run(context: StageContext) -> dict[str, Any]:
    """Measure the configured model on ratings that it was not trained on.

    The published factors are fitted to all ratings, so they cannot be judged by any of them: the same
    configuration is fitted again to the ratings that are not held out, and that model is measured. Rating
    errors stand beside the item mean and a model of biases alone, rankings beside popularity.

    Returns
    -------
    dict
        The metrics as rows, the numbers of training and held-out ratings, and the history of the fit.
    """
    config = context.config.evaluate
    training, held_out = split_ratings(training_ratings(context), config.holdout_share, config.seed)
    training, held_out = training.persist(), held_out.persist()
    try:
        n_training, n_held_out = training.count(), held_out.count()
        if n_held_out == 0 or n_training == 0:
            return _nothing_to_measure(context, n_training, n_held_out)
        model = _fit(context, training, context.config.train, "evaluate")
        rows = _error_rows(context, training, held_out, model) + _ranking_rows(context, training, held_out, model)
        if context.config.train.model == "feature_regression":
            rows += _activity_rows(context, training, held_out, model)
        if config.holdout_items_share > 0:
            rows += _new_item_rows(context)
    finally:
        training.unpersist()
        held_out.unpersist()
        context.storage.remove(_vectors_folder(context))
    context.write(METRICS, context.spark.createDataFrame(rows, METRICS.schema))
    for name, metric, value, _ in rows:
        context.progress.say(f"evaluate: {metric} {value:.5f} ({name})", model=name, metric=metric, value=value)
    return {
        "n_training": n_training,
        "n_held_out": n_held_out,
        "metrics": [dict(zip(METRICS.schema.names, row, strict=True)) for row in rows],
        "history": [asdict(step) for step in model.history],
    }


def _nothing_to_measure(context: StageContext, n_training: int, n_held_out: int) -> dict[str, Any]:
    context.progress.say(
        f"evaluate: nothing measured: {n_held_out:,} ratings held out and {n_training:,} left to train on "
        f"(evaluate.holdout_share {context.config.evaluate.holdout_share:g})"
    )
    context.write(METRICS, context.spark.createDataFrame([], METRICS.schema))
    return {"n_training": n_training, "n_held_out": n_held_out, "metrics": [], "history": []}


def _fit(context: StageContext, training: DataFrame, config: TrainConfig, title: str) -> Factorization:
    sizes = context.record("index")
    folder = join(_vectors_folder(context), title.replace(" ", "-"))
    return fit_model(
        context.spark,
        training,
        config,
        n_users=sizes["n_users"],
        n_items=sizes["n_items"],
        progress=context.progress,
        title=title,
        continuation=Continuation(storage=context.storage, folder=folder),
        features=read_item_features(context) if config.uses_features else None,
    )


def _vectors_folder(context: StageContext) -> str:
    """Return where the vectors of the fits lie that are routed."""
    return join(context.run.path, "_evaluated_vectors")


def _error_rows(
    context: StageContext, training: DataFrame, held_out: DataFrame, model: Factorization
) -> list[tuple[str, str, float, int]]:
    """Measure what the loss makes scores predict: ratings, labels, or (implicit) nothing but an order."""
    config = context.config.train
    if config.loss == "logistic":
        return _label_error_rows(context, training, held_out, model)
    if config.loss != "squared":
        return []
    if config.unobserved_weight == 0:
        return _rating_error_rows(context, training, held_out, MODEL, model)
    # Pulled towards zero by all that was not rated, scores order items but are no ratings any more.
    update = {"unobserved_weight": 0.0, **context.config.evaluate.rating_model.model_dump()}
    rating_model = _fit(context, training, config.model_copy(update=update), "evaluate rating model")
    return _rating_error_rows(context, training, held_out, RATING_MODEL, rating_model)


def _label_error_rows(
    context: StageContext, training: DataFrame, held_out: DataFrame, model: Factorization
) -> list[tuple[str, str, float, int]]:
    threshold = context.config.train.positive_threshold
    label = F.col("rating") if threshold is None else (F.col("rating") >= threshold).cast("float")
    means = item_label_means(training, context.record("index")["n_items"], threshold)
    errors = measure_label_errors(held_out.withColumn("rating", label), LabelPredictors(model, means))
    return [
        (name, metric, value, found.n)
        for name, found in errors.items()
        for metric, value in (("log_loss", found.log_loss), ("auc", found.auc))
    ]


def _rating_error_rows(
    context: StageContext, training: DataFrame, held_out: DataFrame, name: str, model: Factorization
) -> list[tuple[str, str, float, int]]:
    bias_only = context.config.train.model_copy(
        update={
            "model": "factors",
            "unobserved_weight": 0.0,
            "rank": 0,
            "biases": True,
            "nonnegative": False,
            "side_information": None,
            "solver": "auto",
            "updates": "alternating",
        }
    )
    if context.config.train.unobserved_weight > 0:
        bias_only = bias_only.model_copy(update=context.config.evaluate.rating_model.model_dump())
    predictors = Predictors(
        {name: model, BIAS_ONLY: _fit(context, training, bias_only, "evaluate bias-only")},
        item_means(training, context.record("index")["n_items"], model.mean_rating),
        model.mean_rating,
        # Sums of ratings may lie outside the range of a single one.
        None if context.config.ingest.duplicates == "sum" else context.config.ingest.rating_range,
    )
    errors = measure_rating_errors(held_out, predictors)
    return [
        (predictor, metric, value, errors[predictor].n)
        for predictor in (name, BIAS_ONLY, ITEM_MEAN)
        for metric, value in (("rmse", errors[predictor].rmse), ("mae", errors[predictor].mae))
    ]


def _activity_rows(
    context: StageContext, training: DataFrame, held_out: DataFrame, model: Factorization
) -> list[tuple[str, str, float, int]]:
    """Measure errors by the users' number of training ratings."""
    config = context.config
    relevant = config.evaluate.relevant_rating
    if model.loss == "logistic":
        threshold = 1.0 if config.train.positive_threshold is None else config.train.positive_threshold
    else:
        threshold = model.mean_rating if relevant is None else relevant
    limits = None if config.ingest.duplicates == "sum" else config.ingest.rating_range
    found = measure_by_activity(held_out, training, model, threshold=threshold, limits=limits)
    measured = [
        (MODEL, f"{metric}, users of {one.bucket}", float(getattr(one, metric)), one.n)
        for one in found
        for metric in ("rmse", "mae", "log_loss", "auc")
    ]
    return [row for row in measured if not math.isnan(row[2])]


def _new_item_rows(context: StageContext) -> list[tuple[str, str, float, int]]:
    """Measure lists of items whose ratings a fit has not seen, one and all."""
    config = context.config.evaluate
    training, held_out = split_by_item(training_ratings(context), config.holdout_items_share, config.seed)
    if training.isEmpty() or held_out.isEmpty():
        context.progress.say("evaluate: lists of new items are not measured: no item is held out, or every one is")
        return []
    model = _fit(context, training, context.config.train, "evaluate new items")
    return measure_new_items(context, model, held_out)


def _ranking_rows(
    context: StageContext, training: DataFrame, held_out: DataFrame, model: Factorization
) -> list[tuple[str, str, float, int]]:
    """Measure the lists as users get them, beside those by score alone where these differ, and popularity.

    Limits per category, marginal relevance and damping act as in the recommend stage. Deny and allow lists, blocks
    and the days of sale do not: they are about today, and the held-out ratings about the past. Training ratings are
    always left out, for none of them is held out.
    """
    config = context.config.evaluate
    relevant = relevant_items(held_out, config.relevant_rating).persist()
    user_factors = model.rows_for_lists(context.spark)
    users = relevant.selectExpr("user_index", "user_index as user")
    by_score = _candidates(model)
    as_listed = with_variety(by_score, read_categories(context), context.config.recommend)
    kinds = [(MODEL, user_factors, as_listed), (POPULARITY, user_factors.limit(0), as_listed)]
    if as_listed is not by_score:
        kinds.insert(1, (BY_SCORE_ALONE, user_factors, by_score))
    rows = []
    for name, factors, candidates in kinds:
        path = join(context.run.path, "_evaluated_lists")
        context.storage.remove(path)
        with_history = users_with_history(users, factors, training, n_hidden=context.record("index")["n_ratings"])
        write_lists(with_history, candidates, n=config.n, path=path)
        lists = context.spark.read.parquet(path).selectExpr("user as user_index", "recommendations.item_id as items")
        metrics, n_users = measure_ranking(lists, relevant, config.n)
        rows += [(name, f"{metric}@{config.n}", value, n_users) for metric, value in metrics.items() if n_users]
        context.storage.remove(path)
    relevant.unpersist()
    return rows


def _candidates(model: Factorization) -> Candidates:
    """Return the items that the training ratings know, labelled by index; their vectors come to the driver."""
    known, vectors = model.trained_vectors(ITEMS)
    candidates = Candidates.from_items(
        pa.array(known),
        known,
        vectors,
        model.item_degrees[known],
        n_items=len(model.item_degrees),
        global_mean=model.global_mean,
        biases=model.biases,
        as_probability=model.loss == "logistic",
    )
    return replace(candidates, neighbours=model.averages(candidates.column_of_index, len(known)))
