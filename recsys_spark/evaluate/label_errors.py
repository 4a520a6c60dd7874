"""Log-loss and AUC of several predictors on held-out labels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.kernels.arrays import Float64Array
from recsys_spark.kernels.label_metrics import auc, label_histogram, log_loss_sum
from recsys_spark.shared_value import SharedValue, shared
from recsys_spark.train import Factorization

_SCHEMA = "predictor string, n long, log_loss double, histogram binary"
MODEL, ITEM_MEAN = "model", "item_mean"
_SCORE = "score"


@dataclass(frozen=True, slots=True)
class LabelPredictors:
    """The model, and each item's mean label."""

    model: Factorization
    item_means: Float64Array


@dataclass(frozen=True, slots=True)
class LabelErrors:
    """Mean log-loss and area under the ROC curve, over n held-out labels."""

    log_loss: float
    auc: float
    n: int


def measure_label_errors(held_out: DataFrame, predictors: LabelPredictors) -> dict[str, LabelErrors]:
    """Compare predicted probabilities with held-out labels.

    Parameters
    ----------
    held_out : DataFrame
        ``user_index, item_index, rating``, the rating 0 or 1.
    predictors : LabelPredictors
        The item means go to every task.

    Returns
    -------
    dict
        By predictor.

    Notes
    -----
    Two joins, see ``Factorization.with_scores``. The driver receives one histogram per task and predictor.
    """
    scored = predictors.model.with_scores(held_out.select("user_index", "item_index", "rating"), _SCORE)
    with shared(held_out.sparkSession, predictors.item_means) as everywhere:
        rows = scored.mapInArrow(partial(sum_label_errors, item_means=everywhere), _SCHEMA).toArrow().to_pylist()
    found = {}
    for name in dict.fromkeys(row["predictor"] for row in rows):
        mine = [row for row in rows if row["predictor"] == name]
        n = sum(row["n"] for row in mine)
        histogram = np.sum([np.frombuffer(row["histogram"], np.int64).reshape(2, -1) for row in mine], axis=0)
        found[name] = LabelErrors(math.fsum(row["log_loss"] for row in mine) / n, auc(histogram), n)
    return found


def sum_label_errors(
    batches: Iterator[pa.RecordBatch], item_means: SharedValue[Float64Array]
) -> Iterator[pa.RecordBatch]:
    """Worker: held-out labels with scores -> sums of log-losses and histograms of probabilities per predictor."""
    for batch in batches:
        if batch.num_rows:
            labels, scores = batch["rating"].to_numpy().astype(np.float64), batch[_SCORE].to_numpy()
            items = batch["item_index"].to_numpy()
            guesses = {MODEL: 0.5 * (1.0 + np.tanh(0.5 * scores)), ITEM_MEAN: item_means.value[items]}
            yield pa.RecordBatch.from_pydict(
                {
                    "predictor": list(guesses),
                    "n": [len(labels)] * len(guesses),
                    "log_loss": [log_loss_sum(guess, labels) for guess in guesses.values()],
                    "histogram": [label_histogram(guess, labels).tobytes() for guess in guesses.values()],
                }
            )


def item_label_means(training: DataFrame, n_items: int, threshold: float | None) -> Float64Array:
    """Return each item's mean training label, smoothed by one label of the overall mean: float64 (n_items,)."""
    label = F.col("rating") if threshold is None else (F.col("rating") >= threshold).cast("double")
    rows = training.groupBy("item_index").agg(F.sum(label).alias("ones"), F.count("*").alias("n")).toArrow()
    ones, counts = (rows[name].to_numpy().astype(np.float64) for name in ("ones", "n"))
    overall = ones.sum() / counts.sum()
    means = np.full(n_items, overall)
    means[rows["item_index"].to_numpy()] = (ones + overall) / (counts + 1.0)
    return means
