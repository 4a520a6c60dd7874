"""Indexed ratings -> what the loss is fitted to: centred ratings, positives or labels, and their weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.errors import ContractError, NumericalError
from recsys_spark.train.global_mean import exact_mean

if TYPE_CHECKING:
    # Workers import this package, and have no pydantic.
    from recsys_spark.config import TrainConfig

_SECONDS_PER_DAY = 86_400.0
# Single precision ends at 1e-38; a weight below this one is no weight.
LEAST_WEIGHT = 1e-12


@dataclass(frozen=True, slots=True)
class Observations:
    """What is fitted.

    Attributes
    ----------
    frame : DataFrame
        ``user_index int, item_index int, rating float`` and, where they differ, ``weight float``.
    n : int
    mean_rating : float
        Of the ratings as they came.
    constant : float
        Part of every score: the mean rating (squared loss with biases), the log-odds of the mean label (logistic
        with biases), else 0.
    """

    frame: DataFrame
    n: int
    mean_rating: float
    constant: float


def observations(ratings: DataFrame, config: TrainConfig) -> Observations:
    """Turn ratings into the observations of the configured loss.

    Parameters
    ----------
    ratings : DataFrame
        ``user_index, item_index, rating``, optionally ``weight`` (1 where null) and ``timestamp``.
    config : TrainConfig

    Returns
    -------
    Observations
        With a half-life, weights halve with every ``half_life_days`` before the latest rating.

    Raises
    ------
    NumericalError
        If no observation is left.
    ContractError
        If the logistic loss is given other labels than 0 and 1, or only one of them.

    Notes
    -----
    Two passes over the ratings, one more for a half-life; a few numbers reach the driver. No shuffle.
    """
    mean, n_ratings = exact_mean(ratings)
    if n_ratings == 0:
        raise NumericalError(
            "there are no ratings to train on", remedy="lower evaluate.holdout_share, or check the input"
        )
    ratings = _weighted(ratings, config, latest_time(ratings) if config.half_life_days is not None else None)
    if config.loss == "logistic":
        labels = _labels(ratings, config)
        share, _ = exact_mean(labels)
        if share in (0.0, 1.0):
            raise ContractError(
                "the logistic loss needs both labels",
                where="train.positive_threshold",
                got=f"only {share:g}",
                allowed="some 0 and some 1",
                remedy="move the threshold; for positives alone use loss: ials",
            )
        constant = math.log(share / (1 - share)) if config.uses_biases else 0.0
        return Observations(labels, n_ratings, mean, constant)
    if config.loss in ("implicit", "ials"):
        fitted = fitted_ratings(ratings, config)
        return Observations(fitted, fitted.count(), mean, 0.0)
    constant = mean if config.uses_biases and config.unobserved_weight == 0 else 0.0
    return Observations(_centred(ratings, constant), n_ratings, mean, constant)


def further_observations(
    ratings: DataFrame, config: TrainConfig, constant: float, latest: datetime | None
) -> DataFrame:
    """Turn ratings into observations for a model that is there already.

    Parameters
    ----------
    ratings : DataFrame
        As for `observations`; there may be none.
    config : TrainConfig
        Of the model.
    constant : float
        Part of every score of the model.
    latest : datetime or None
        Time that weights with a half-life are counted back from.

    Returns
    -------
    DataFrame
        ``user_index int, item_index int, rating float`` and, where they differ, ``weight float``. A projection; the
        logistic loss without a threshold looks for other labels than 0 and 1 in one pass.

    Raises
    ------
    ContractError
        If the logistic loss is given other labels than 0 and 1.
    """
    ratings = _weighted(ratings, config, latest)
    if config.loss == "logistic":
        return _labels(ratings, config)
    if config.loss in ("implicit", "ials"):
        return positives(ratings, config)
    return _centred(ratings, constant)


def constant_of_rows(config: TrainConfig, constant: float) -> float:
    """Return what observations still hold of the constant: centred ratings have had it taken off already."""
    return constant if config.loss == "logistic" else 0.0


def latest_time(ratings: DataFrame) -> datetime | None:
    """Return the latest event time, in one pass; None where there is none."""
    latest: datetime | None = ratings.agg(F.max("timestamp")).collect()[0][0]
    return latest


def _centred(ratings: DataFrame, constant: float) -> DataFrame:
    # Taken off in double precision: ratings far from 0 would lose their differences in single precision.
    return ratings.withColumn("rating", (F.col("rating").cast("double") - F.lit(constant)).cast("float"))


def _weighted(ratings: DataFrame, config: TrainConfig, latest: datetime | None) -> DataFrame:
    """Return ``user_index, item_index, rating`` and the weight of each rating, where they do not all weigh the same."""
    weight = F.coalesce(F.col("weight").cast("double"), F.lit(1.0)) if "weight" in ratings.columns else None
    if config.half_life_days is not None:
        age = (F.lit(latest).cast("double") - F.col("timestamp").cast("double")) / _SECONDS_PER_DAY
        decay = F.pow(F.lit(0.5), F.coalesce(age, F.lit(0.0)) / config.half_life_days)
        weight = decay if weight is None else weight * decay
    columns = [F.col(name) for name in ("user_index", "item_index", "rating")]
    if weight is not None:
        columns.append(F.greatest(weight, F.lit(LEAST_WEIGHT)).cast("float").alias("weight"))
    return ratings.select(*columns)


def fitted_ratings(ratings: DataFrame, config: TrainConfig) -> DataFrame:
    """Return the ratings that become observations: all, or for implicit and ials those from a threshold up.

    Raises
    ------
    NumericalError
        If no rating reaches the threshold.
    """
    if config.positive_threshold is None or config.loss not in ("implicit", "ials"):
        return ratings
    fitted = positives(ratings, config)
    if fitted.isEmpty():
        raise NumericalError(
            "no rating reaches the threshold",
            where="train.positive_threshold",
            got=f"{config.positive_threshold:g}",
            remedy="lower it, or leave it out to take every row for a positive",
        )
    return fitted


def positives(ratings: DataFrame, config: TrainConfig) -> DataFrame:
    """Return the ratings that the loss takes for a liking: all, unless it tells positives from others."""
    threshold = config.positive_threshold
    if config.loss == "logistic" and threshold is None:
        threshold = 1.0
    if config.loss == "squared" or threshold is None:
        return ratings
    return ratings.where(F.col("rating") >= threshold)


def _labels(ratings: DataFrame, config: TrainConfig) -> DataFrame:
    rating = F.col("rating")
    if config.positive_threshold is not None:
        labels = ratings.withColumn("rating", (rating >= config.positive_threshold).cast("float"))
    else:
        labels = ratings
        if not ratings.where(~rating.isin(0.0, 1.0)).isEmpty():
            raise ContractError(
                "the logistic loss needs labels",
                where="rating",
                got="values other than 0 and 1",
                allowed="0 and 1",
                remedy="set train.positive_threshold to the rating from which the label is 1",
            )
    return labels
