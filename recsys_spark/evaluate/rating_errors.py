"""RMSE and MAE of several predictors on held-out ratings."""

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
from recsys_spark.shared_value import SharedValue, shared
from recsys_spark.train import Factorization

_SCHEMA = "predictor string, n long, squared double, absolute double"


@dataclass(frozen=True, slots=True)
class Predictors:
    """All that is needed to predict a rating in each of the ways that are compared."""

    models: dict[str, Factorization]
    item_means: Float64Array
    training_mean: float
    limits: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class RatingGuesses:
    """What tasks need besides the scores of the models, which are columns of these names."""

    models: tuple[str, ...]
    item_means: Float64Array
    limits: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class RatingErrors:
    """Root mean squared error and mean absolute error, in rating units, over n held-out ratings."""

    rmse: float
    mae: float
    n: int


def measure_rating_errors(held_out: DataFrame, predictors: Predictors) -> dict[str, RatingErrors]:
    """Compare predictions with held-out ratings.

    Predictions are cut to the valid range of ratings where one is configured, for every predictor alike. A
    model without biases predicts the mean of the training ratings where it knows the user or item not at all.

    Parameters
    ----------
    held_out : DataFrame
        ``user_index, item_index, rating``.
    predictors : Predictors
        The item means go to every task.

    Returns
    -------
    dict
        By predictor, ``item_mean`` among them; empty where nothing is held out.

    Notes
    -----
    Two joins per model, see ``Factorization.with_scores``. The driver receives one row per task and predictor.
    """
    scored = held_out.select("user_index", "item_index", "rating")
    for name, model in predictors.models.items():
        scored = model.with_scores(scored, name, unknown=None if model.biases else predictors.training_mean)
    guesses = RatingGuesses(tuple(predictors.models), predictors.item_means, predictors.limits)
    with shared(held_out.sparkSession, guesses) as everywhere:
        sums = scored.mapInArrow(partial(sum_errors, guesses=everywhere), _SCHEMA).toArrow().to_pylist()
    result = {}
    for name in dict.fromkeys(row["predictor"] for row in sums):
        mine = [row for row in sums if row["predictor"] == name]
        n = sum(row["n"] for row in mine)
        squared, absolute = (math.fsum(row[kind] for row in mine) for kind in ("squared", "absolute"))
        result[name] = RatingErrors(math.sqrt(squared / n), absolute / n, n)
    return result


def sum_errors(batches: Iterator[pa.RecordBatch], guesses: SharedValue[RatingGuesses]) -> Iterator[pa.RecordBatch]:
    """Worker: held-out ratings with scores -> sums of squared and absolute errors per predictor."""
    for batch in batches:
        if batch.num_rows:
            ratings = batch["rating"].to_numpy()
            errors = {name: values - ratings for name, values in _predictions(batch, guesses.value).items()}
            yield pa.RecordBatch.from_pydict(
                {
                    "predictor": list(errors),
                    "n": [len(ratings)] * len(errors),
                    "squared": [math.fsum(error**2) for error in errors.values()],
                    "absolute": [math.fsum(abs(error)) for error in errors.values()],
                }
            )


def _predictions(batch: pa.RecordBatch, guesses: RatingGuesses) -> dict[str, Float64Array]:
    """Return the predictions for the pairs of a batch, float64 arrays by predictor."""
    predictions = {name: batch[name].to_numpy() for name in guesses.models}
    predictions["item_mean"] = guesses.item_means[batch["item_index"].to_numpy()]
    if guesses.limits is not None:
        predictions = {name: np.clip(values, *guesses.limits) for name, values in predictions.items()}
    return predictions


def item_means(training: DataFrame, n_items: int, training_mean: float) -> Float64Array:
    """Return each item's mean training rating, float64 (n_items,); the overall mean where it has none."""
    rows = training.groupBy("item_index").agg(F.avg("rating").alias("mean")).toArrow()
    means = np.full(n_items, training_mean)
    means[rows["item_index"].to_numpy()] = rows["mean"].to_numpy()
    return means
