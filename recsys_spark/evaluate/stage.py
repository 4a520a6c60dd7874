"""The evaluate stage: hold ratings out, fit the same configuration to the rest, measure, beside baselines."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys_spark.config import TrainConfig
from recsys_spark.evaluate.baselines import (
    BIAS_ONLY,
    GLOBAL_MEAN,
    ITEM_KNN,
    ITEM_MEAN,
    ItemTotals,
    bias_only,
    item_totals,
)
from recsys_spark.evaluate.estimates import Estimate, comparisons
from recsys_spark.evaluate.held_out_ratings import HeldOutRatings, hold_out
from recsys_spark.evaluate.list_kinds import BY_SCORE_ALONE, MODEL, measure_lists
from recsys_spark.evaluate.measured_models import fit_measured, fit_together, vectors_folder
from recsys_spark.evaluate.new_items import measure_new_items
from recsys_spark.evaluate.rating_errors import N_BINS, ErrorInput, Errors, measure_errors
from recsys_spark.evaluate.shares import item_classes
from recsys_spark.evaluate.splits import FOLD_IN, HELD_OUT, TRAINING
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.storage import join
from recsys_spark.tables import EVALUATION_SPLIT, METRICS
from recsys_spark.train import Factorization

log = logging.getLogger(__name__)

TABLES = (EVALUATION_SPLIT, METRICS)
RATING_MODEL = "rating_model"
# What nobody would put in the model's place is no baseline of it.
_OURS = (MODEL, RATING_MODEL, BY_SCORE_ALONE)


def run(context: StageContext) -> dict[str, Any]:
    """Measure the configured model on ratings that it was not trained on.

    The published factors are fitted to all ratings, so they cannot be judged by any of them: the same
    configuration is fitted again to the ratings that are not held out, and that model is measured. Errors stand
    beside means and a model of biases alone, rankings beside what is popular.

    Returns
    -------
    dict
        The metrics as rows (none where nothing is held out, or the rest cannot be fitted), the comparisons with
        baselines, what to try where they are lost, the calibration, the numbers of ratings in each part, and the
        history of the fit.
    """
    if context.config.evaluate.holdout_share == 0:
        return _nothing_to_measure(context, {TRAINING: 0, FOLD_IN: 0, HELD_OUT: 0})
    parts = hold_out(context)
    if parts.counts[HELD_OUT] == 0 or parts.counts[TRAINING] == 0:
        return _nothing_to_measure(context, parts.counts)
    only = _only_label(context, parts.training)
    if only is not None:
        log.warning(
            f"evaluate: of the ratings that are not held out, all have the label {only:g}: the logistic loss needs "
            "both. Hold out fewer or others (evaluate.holdout_share, split, seed), or move train.positive_threshold"
        )
        return _nothing_to_measure(context, parts.counts)
    try:
        totals = _item_totals(context, parts)
        model = fit_measured(context, parts, context.config.train, "evaluate")
        item_knn = _item_knn(context, parts)
        errors = _errors(context, parts, totals, model, item_knn)
        estimates = errors.estimates + measure_lists(context, parts, model, totals, item_knn)
        if context.config.evaluate.holdout_items_share > 0:
            estimates += measure_new_items(context)
    finally:
        context.storage.remove(vectors_folder(context))
        context.storage.remove(_scores_path(context))
    rows = [estimate.row() for estimate in estimates]
    context.write(METRICS, context.spark.createDataFrame(rows, METRICS.schema))
    compared = _comparisons(context, estimates)
    advised = advice(context.config.train, compared)
    _say(context, estimates, compared, advised)
    return {
        **_sizes(parts.counts),
        "split": context.config.evaluate.split,
        "from_time": parts.from_time,
        "metrics": [dict(zip(METRICS.schema.names, row, strict=True)) for row in rows],
        "comparisons": compared,
        "advice": advised,
        "calibration": errors.calibration,
        "history": [asdict(step) for step in model.history],
    }


def _sizes(counts: dict[str, int]) -> dict[str, int]:
    return {"n_training": counts[TRAINING], "n_fold_in": counts[FOLD_IN], "n_held_out": counts[HELD_OUT]}


def _nothing_to_measure(context: StageContext, counts: dict[str, int]) -> dict[str, Any]:
    config = context.config.evaluate
    context.progress.say(
        f"evaluate: nothing measured: {counts[HELD_OUT]:,} ratings held out and {counts[TRAINING]:,} left to train on "
        f"(evaluate.holdout_share {config.holdout_share:g}, split {config.split})"
    )
    context.write(METRICS, context.spark.createDataFrame([], METRICS.schema))
    nothing: dict[str, Any] = {name: [] for name in ("metrics", "comparisons", "calibration", "history")}
    return {**_sizes(counts), "split": config.split, "from_time": None, "advice": None, **nothing}


def _label(context: StageContext) -> Column | None:
    """Return the label of a rating where the loss is about labels."""
    config = context.config.train
    if config.loss != "logistic":
        return None
    threshold = config.positive_threshold
    return F.col("rating") if threshold is None else (F.col("rating") >= threshold).cast("double")


def _only_label(context: StageContext, training: DataFrame) -> float | None:
    """Return the label that all training ratings have, where the loss is about labels and they have but one."""
    label = _label(context)
    if label is None:
        return None
    lowest, highest = training.agg(F.min(label), F.max(label)).collect()[0]
    return float(lowest) if lowest == highest else None


def _item_totals(context: StageContext, parts: HeldOutRatings) -> ItemTotals:
    n_items = context.record("index")["n_items"]
    days = context.config.evaluate.recent_days
    return item_totals(parts.training, n_items, label=_label(context), recent_days=days)


def _item_knn(context: StageContext, parts: HeldOutRatings) -> Factorization | None:
    config = context.config
    if not config.evaluate.item_knn or config.train.model == "item_knn":
        return None
    update = {"model": "item_knn", "knn": config.evaluate.knn}
    return fit_measured(context, parts, config.train.model_copy(update=update), "evaluate item_knn")


def _errors(
    context: StageContext,
    parts: HeldOutRatings,
    totals: ItemTotals,
    model: Factorization,
    item_knn: Factorization | None,
) -> Errors:
    """Measure what the loss makes scores predict: ratings, labels, or (implicit) nothing but an order."""
    config = context.config.train
    if config.loss not in ("squared", "logistic"):
        return Errors([], [])
    predictors = {MODEL: model}
    if config.loss == "squared":
        is_pulled = config.unobserved_weight > 0
        penalties = context.config.evaluate.rating_model.model_dump() if is_pulled else {}
        wanted = {BIAS_ONLY: bias_only(config, penalties)}
        if is_pulled:
            # Towards zero, by all that was not rated: scores order items but are no ratings any more.
            plain = config.model_copy(update={"unobserved_weight": 0.0, **penalties})
            predictors, wanted = {}, {RATING_MODEL: plain, **wanted}
        predictors |= fit_together(context, parts, wanted, model)
        if item_knn is not None:
            predictors[ITEM_KNN] = item_knn
    scored = _scored(context, parts, totals, predictors)
    names = (*predictors, ITEM_MEAN, GLOBAL_MEAN)
    return measure_errors(scored, _error_input(context, totals, names, parts.counts[HELD_OUT]))


def _scored(
    context: StageContext, parts: HeldOutRatings, totals: ItemTotals, predictors: dict[str, Factorization]
) -> DataFrame:
    """Write the held-out ratings with a column of predictions per predictor, and read them."""
    label = _label(context)
    scored = parts.held_out.select(
        "user_index", "item_index", (F.col("rating") if label is None else label).alias("rating")
    )
    scored = scored.join(parts.known_counts(), "user_index", "left").fillna(0, ["n_known"])
    for name, model in predictors.items():
        unknown = None if model.biases or label is not None else totals.mean
        scored = model.with_scores(scored, name, unknown=unknown)
        if label is not None:
            # As the logistic function, without overflow.
            scored = scored.withColumn(name, 0.5 * (1.0 + F.tanh(0.5 * F.col(name))))
    scored = scored.join(totals.mean_frame(context.spark), "item_index").withColumn(GLOBAL_MEAN, F.lit(totals.mean))
    path = _scores_path(context)
    context.storage.remove(path)
    scored.write.parquet(path)
    return context.spark.read.parquet(path)


def _scores_path(context: StageContext) -> str:
    return join(context.run.path, "_evaluated_scores")


def _error_input(context: StageContext, totals: ItemTotals, names: tuple[str, ...], n_pairs: int) -> ErrorInput:
    config, evaluation = context.config, context.config.evaluate
    are_labels = config.train.loss == "logistic"
    # Sums of ratings may lie outside the range of a single one.
    limits = None if are_labels or config.ingest.duplicates == "sum" else config.ingest.rating_range
    low, high = (0.0, 1.0) if are_labels else limits or (totals.lowest, totals.highest)
    classes, class_names = item_classes(totals.counts)
    return ErrorInput(
        predictors=names,
        are_labels=are_labels,
        relevant=None if are_labels else evaluation.relevant_rating,
        limits=limits,
        center=totals.mean,
        edges=np.linspace(low, high, N_BINS + 1)[1:-1],
        item_class=classes,
        class_names=tuple(class_names),
        activity_bounds=evaluation.activity_bounds,
        n_pairs=n_pairs,
        replicates=evaluation.replicates,
        seed=evaluation.seed,
    )


def _comparisons(context: StageContext, estimates: list[Estimate]) -> list[dict[str, Any]]:
    """Set the model beside every baseline: by its lists, and by the errors of what predicts ratings or labels."""
    wanted = [
        (MODEL, f"ndcg@{context.config.evaluate.n}"),
        (MODEL, "rmse"),
        (RATING_MODEL, "rmse"),
        (MODEL, "log_loss"),
    ]
    found = [row for model, metric in wanted for row in comparisons(estimates, model, metric)]
    return [row for row in found if row["baseline"] not in _OURS]


def advice(config: TrainConfig, compared: list[dict[str, Any]]) -> str | None:
    """Return what to try where lists are no better than a baseline's, and training saw rated pairs alone.

    Parameters
    ----------
    config : TrainConfig
    compared : list of dict
        Rows of `comparisons`.

    Returns
    -------
    str or None
        None where lists are better, or the loss counts what was not rated already.
    """
    has_lost = any(row["metric"].startswith("ndcg@") and row["advantage"] <= 0 for row in compared)
    if not has_lost or config.model != "factors" or config.unobserved_weight > 0:
        return None
    better = {
        "squared": "unobserved_weight: 0.05, reg_param: 0.01, bias_reg_param: 0.01, reg_exponent: 1.0",
        "logistic": "loss: ials, positive_threshold: 1, unobserved_weight: 0.1, reg_param: 0.005, reg_exponent: 1.0",
    }.get(config.loss)
    if better is None:
        return None
    return (
        "Training saw rated pairs alone: they say how users would rate an item, not whether they would choose it. "
        f"For lists, begin with train: {{{better}}}, and look for better ones with recsys-spark tune."
    )


def _say(context: StageContext, estimates: list[Estimate], compared: list[dict[str, Any]], advised: str | None) -> None:
    headline = (f"ndcg@{context.config.evaluate.n}", "rmse", "mae", "log_loss", "auc")
    for found in estimates:
        if found.metric in headline and found.segment == "all":
            context.progress.say(
                f"evaluate: {found.metric} {found.value:.5f} ({found.model})",
                model=found.model,
                metric=found.metric,
                value=found.value,
            )
    for row in compared:
        if row["verdict"] != "better":
            log.warning(
                f"evaluate: {row['model']} does not beat {row['baseline']} by {row['metric']}: "
                f"{row['verdict']}, {row['advantage']:+.5f}",
                extra={"fields": row},
            )
    if advised:
        log.warning(f"evaluate: {advised}")
