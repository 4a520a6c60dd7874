"""Errors on held-out ratings by how many training ratings the user has."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.kernels.label_metrics import auc, label_histogram, log_loss_sum
from recsys_spark.train import Factorization

_SCHEMA = "bucket int, n long, squared double, absolute double, log_loss double, histogram binary"
_SCORE, _COUNT = "score", "n_training"
# A user's bucket is the last that begins at no more ratings than the user has.
BUCKETS = (0, 1, 5, 10, 20, 50, 100, 200)
_ARROW_SCHEMA = pa.schema(
    [
        ("bucket", pa.int32()),
        ("n", pa.int64()),
        *((name, pa.float64()) for name in ("squared", "absolute", "log_loss")),
        ("histogram", pa.binary()),
    ]
)


@dataclass(frozen=True, slots=True)
class ActivityErrors:
    """What is measured of one bucket of users, over n held-out ratings.

    ``rmse`` and ``mae`` are of ratings, ``log_loss`` is of labels; NaN where scores are the other. ``auc`` is NaN where
    the held-out ratings have one label.
    """

    bucket: str
    rmse: float
    mae: float
    log_loss: float
    auc: float
    n: int


def measure_by_activity(
    held_out: DataFrame,
    training: DataFrame,
    model: Factorization,
    *,
    threshold: float,
    limits: tuple[float, float] | None,
) -> list[ActivityErrors]:
    """Compare a model's predictions with held-out ratings, by the user's number of training ratings.

    Parameters
    ----------
    held_out, training : DataFrame
        ``user_index, item_index, rating``.
    model : Factorization
        With biases. Scores of the logistic loss are log-odds, and ratings from the threshold up are labels 1.
    threshold : float
        From which a rating counts as 1, for the area under the ROC curve.
    limits : tuple of float or None
        Predicted ratings are cut to these; not for the curve, where cut ones would tie.

    Returns
    -------
    list of ActivityErrors
        Of the buckets that have held-out ratings, the least active users first.

    Notes
    -----
    One shuffle of the training ratings' counts, three joins of the held-out ones. The driver receives one histogram
    per task and bucket.
    """
    counts = training.groupBy("user_index").agg(F.count("*").alias(_COUNT))
    pairs = held_out.select("user_index", "item_index", "rating").join(counts, "user_index", "left")
    pairs = pairs.withColumn(_COUNT, F.coalesce(_COUNT, F.lit(0)))
    worker = partial(sum_by_activity, is_label=model.loss == "logistic", threshold=threshold, limits=limits)
    table = model.with_scores(pairs, _SCORE).mapInArrow(worker, _SCHEMA).toArrow()
    rows = sorted(table.to_pylist(), key=lambda row: row["bucket"])
    return [_added_up([row for row in rows if row["bucket"] == k], k) for k in sorted({row["bucket"] for row in rows})]


def sum_by_activity(
    batches: Iterator[pa.RecordBatch], is_label: bool, threshold: float, limits: tuple[float, float] | None
) -> Iterator[pa.RecordBatch]:
    """Worker: held-out ratings with scores -> sums of errors and histograms of scores by bucket."""
    for batch in batches:
        ratings, scores = batch["rating"].to_numpy().astype(np.float64), batch[_SCORE].to_numpy()
        labels = (ratings >= threshold).astype(np.float64)
        # The curve depends on the order of the scores alone.
        probabilities = 0.5 * (1.0 + np.tanh(0.5 * (scores if is_label else scores - threshold)))
        errors = (scores if limits is None else np.clip(scores, *limits)) - ratings
        buckets = np.searchsorted(BUCKETS, batch[_COUNT].to_numpy(), side="right") - 1
        for bucket in np.unique(buckets):
            chosen = buckets == bucket
            own = {
                "bucket": int(bucket),
                "n": int(chosen.sum()),
                "squared": math.nan if is_label else math.fsum(errors[chosen] ** 2),
                "absolute": math.nan if is_label else math.fsum(abs(errors[chosen])),
                "log_loss": log_loss_sum(probabilities[chosen], labels[chosen]) if is_label else math.nan,
                "histogram": label_histogram(probabilities[chosen], labels[chosen]).tobytes(),
            }
            yield pa.RecordBatch.from_pylist([own], schema=_ARROW_SCHEMA)


def _added_up(rows: list[dict[str, Any]], bucket: int) -> ActivityErrors:
    n = int(sum(row["n"] for row in rows))
    squared, absolute, log_loss = (math.fsum(row[name] for row in rows) for name in ("squared", "absolute", "log_loss"))
    histogram = np.sum([np.frombuffer(row["histogram"], np.int64).reshape(2, -1) for row in rows], axis=0)
    return ActivityErrors(_name(bucket), math.sqrt(squared / n), absolute / n, log_loss / n, auc(histogram), n)


def _name(bucket: int) -> str:
    first = BUCKETS[bucket]
    if bucket + 1 == len(BUCKETS):
        return f"{first} ratings or more"
    last = BUCKETS[bucket + 1] - 1
    return f"{first} ratings" if first == last else f"{first} to {last} ratings"
