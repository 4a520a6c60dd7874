"""Several ratings of one user for one item become one, the same one whatever the order of the rows."""

from __future__ import annotations

from typing import Literal

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

Policy = Literal["last", "first", "mean", "sum", "max"]


def merge_duplicates(rows: DataFrame, policy: Policy) -> DataFrame:
    """Merge rows of the same user and item.

    The row that stands for the others is the last by (timestamp, rating, file), or the first for ``first``,
    or the largest rating for ``max``; ``mean`` and ``sum`` keep the last row's time and file. Ties are thus
    broken by content, never by the order in which rows happen to arrive, and sums are taken in sorted order.

    Parameters
    ----------
    rows : DataFrame
        Good rows: ``user_id, item_id, rating, timestamp, source_file``.
    policy : {"last", "first", "mean", "sum", "max"}

    Returns
    -------
    DataFrame
        ``user_id, item_id, rating, timestamp, n_merged, source_file``; one row per pair. One shuffle, by pair.
    """
    by_time = F.struct("timestamp", "rating", "source_file")
    by_rating = F.struct("rating", "timestamp", "source_file")
    kept: dict[Policy, Column] = {"first": F.min(by_time), "max": F.max(by_rating)}
    aggregates = [kept.get(policy, F.max(by_time)).alias("kept"), F.count("*").cast("int").alias("n_merged")]
    rating: Column = F.col("kept.rating")
    if policy in ("mean", "sum"):
        aggregates.append(F.collect_list("rating").alias("all_ratings"))
        total = F.aggregate(F.array_sort("all_ratings"), F.lit(0.0), lambda sum_, value: sum_ + value)
        rating = total / F.col("n_merged") if policy == "mean" else total
    merged = rows.groupBy("user_id", "item_id").agg(*aggregates)
    return merged.select(
        "user_id",
        "item_id",
        rating.alias("rating"),
        F.col("kept.timestamp").alias("timestamp"),
        "n_merged",
        F.col("kept.source_file").alias("source_file"),
    )
