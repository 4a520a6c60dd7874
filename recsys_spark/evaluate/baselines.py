"""What a model has to beat: means, and what everybody rates."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.config import TrainConfig
from recsys_spark.kernels.arrays import Float64Array, Int64Array

GLOBAL_MEAN, ITEM_MEAN, BIAS_ONLY = "global_mean", "item_mean", "bias_only"
POPULARITY, POPULARITY_RECENT, ITEM_KNN = "popularity", "popularity_recent", "item_knn"


@dataclass(frozen=True, slots=True)
class ItemTotals:
    """What the training ratings say of each item.

    Attributes
    ----------
    counts : int64 array of shape (n_items,)
    recent : int64 array of shape (n_items,), or None
        Ratings of the last days; None: ratings have no times.
    means : float64 array of shape (n_items,)
        Of the ratings, or of the labels; the overall mean where there are none. Means of labels are drawn towards the
        overall mean by one label.
    mean : float
        Overall.
    lowest, highest : float
        Of the ratings.
    """

    counts: Int64Array
    recent: Int64Array | None
    means: Float64Array
    mean: float
    lowest: float
    highest: float

    def mean_frame(self, spark: SparkSession) -> DataFrame:
        """Return ``item_index, item_mean`` of all items."""
        index = np.arange(len(self.means), dtype=np.int32)
        return spark.createDataFrame(pa.table({"item_index": index, ITEM_MEAN: self.means}))


def item_totals(training: DataFrame, n_items: int, *, label: Column | None, recent_days: float) -> ItemTotals:
    """Add up the training ratings by item.

    Parameters
    ----------
    training : DataFrame
        ``item_index, rating``, optionally ``timestamp``.
    n_items : int
    label : Column or None
        What is averaged instead of the rating: labels 0 and 1.
    recent_days : float

    Returns
    -------
    ItemTotals
        One shuffle of partial sums; one row per item comes to the driver.
    """
    value = F.col("rating") if label is None else label
    latest = training.agg(F.max("timestamp").alias("latest")).collect()[0]["latest"] if _has_times(training) else None
    is_recent = F.lit(False) if latest is None else F.col("timestamp") > F.lit(latest - timedelta(days=recent_days))
    rows = (
        training.groupBy("item_index")
        .agg(
            F.count("*").alias("n"),
            F.sum(value.cast("double")).alias("sum"),
            F.count_if(is_recent).alias("recent"),
            F.min("rating").alias("lowest"),
            F.max("rating").alias("highest"),
        )
        .toArrow()
    )
    index = rows["item_index"].to_numpy()
    counts, recent, sums = np.zeros(n_items, np.int64), np.zeros(n_items, np.int64), np.zeros(n_items)
    counts[index], recent[index], sums[index] = (rows[name].to_numpy() for name in ("n", "recent", "sum"))
    mean = float(sums.sum() / counts.sum())
    drawn = 0 if label is None else 1
    means = np.where(counts > 0, (sums + drawn * mean) / np.maximum(counts + drawn, 1), mean)
    lowest, highest = float(rows["lowest"].to_numpy().min()), float(rows["highest"].to_numpy().max())
    return ItemTotals(counts, None if latest is None else recent, means, mean, lowest, highest)


def bias_only(config: TrainConfig, update: dict[str, float]) -> TrainConfig:
    """Return the settings of a model of biases alone; ``update`` are its penalties where they are others."""
    plain = {
        "model": "factors",
        "unobserved_weight": 0.0,
        "rank": 0,
        "biases": True,
        "nonnegative": False,
        "side_information": None,
        "solver": "auto",
        "updates": "alternating",
    }
    return config.model_copy(update=plain | update)


def _has_times(training: DataFrame) -> bool:
    return "timestamp" in training.columns
