"""Several ratings of one user for one item become one, the same one whatever the order of the rows."""

from __future__ import annotations

from typing import Literal

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

Policy = Literal["last", "first", "mean", "sum", "max"]

# Sums of decimals are exact, and so do not depend on the order of rows; ratings are at most 1e12.
_EXACT = "decimal(33,15)"


def merge_duplicates(rows: DataFrame, policy: Policy) -> DataFrame:
    """Merge rows of the same user and item.

    ``last`` and ``first`` keep the row with the latest or earliest event time; rows that tie are ordered by
    rating, then file: by content, never by the order in which they happen to arrive. The other policies
    combine the ratings, and the weights likewise, and keep the latest event time.

    Parameters
    ----------
    rows : DataFrame
        Good rows: ``user_id, item_id, rating, timestamp, weight, file_number``.
    policy : {"last", "first", "mean", "sum", "max"}

    Returns
    -------
    DataFrame
        ``user_id, item_id, rating, timestamp, weight, n_merged, file_number``; one row per pair. One shuffle, by
        pair.
    """
    n_merged = F.count("*").cast("int").alias("n_merged")
    if policy in ("last", "first"):
        row = F.struct("timestamp", "rating", "file_number", "weight")
        kept = (F.max(row) if policy == "last" else F.min(row)).alias("kept")
        merged = rows.groupBy("user_id", "item_id").agg(kept, n_merged)
        kept_columns = [f"kept.{name}" for name in ("rating", "timestamp", "weight", "file_number")]
        return merged.select("user_id", "item_id", *kept_columns, "n_merged")

    def combined(name: str) -> Column:
        total = F.sum(F.col(name).cast(_EXACT)).cast("double")
        by_policy: dict[Policy, Column] = {"max": F.max(name), "sum": total, "mean": total / F.count("*")}
        return by_policy[policy].alias(name)

    # Numbers only: aggregates of strings or structs would make Spark sort all rows instead of hashing them.
    return rows.groupBy("user_id", "item_id").agg(
        combined("rating"),
        combined("weight"),
        F.max("timestamp").alias("timestamp"),
        n_merged,
        F.max("file_number").alias("file_number"),
    )
