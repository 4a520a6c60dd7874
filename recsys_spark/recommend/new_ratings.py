"""Users and ratings that came after training: who gets a list, and what is known of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.features import listed_items
from recsys_spark.tables import INDEXED_RATINGS, NEW_RATINGS, NEW_USERS, RATINGS, USER_INDEX

if TYPE_CHECKING:
    # Workers import this package, and have neither pydantic nor rich.
    from recsys_spark.runs.run_directory import StageContext

_PAIR = ["user_index", "item_index"]


def listed_users(context: StageContext) -> DataFrame:
    """Return ``user_id, user_index`` of everybody who gets a list: users of the log, of new ratings and of segments."""
    known = context.read(USER_INDEX)
    config = context.config.recommend
    if config.new_ratings is None and config.segments is None:
        return known
    return known.unionByName(context.read(NEW_USERS))


def rated_pairs(context: StageContext) -> DataFrame:
    """Return ``user_id, item_id, timestamp`` of all ratings, new ones too; a pair may be there twice."""
    columns = ("user_id", "item_id", "timestamp")
    old = context.read(RATINGS).select(*columns)
    if context.config.recommend.new_ratings is None:
        return old
    return old.unionByName(context.read(NEW_RATINGS).select(*columns))


def new_indexed_ratings(context: StageContext) -> DataFrame | None:
    """Return the new ratings of items that have an index, as ``indexed_ratings``, or None where there can be none.

    Two joins of the new ratings.
    """
    if context.config.recommend.new_ratings is None:
        return None
    numbers = [F.col(name).cast("float").alias(name) for name in ("rating", "weight")]
    return (
        context.read(NEW_RATINGS)
        .select("user_id", "item_id", *numbers, "timestamp")
        .join(listed_users(context), "user_id")
        .join(listed_items(context), "item_id")
        .select(*INDEXED_RATINGS.schema.names)
    )


def all_indexed_ratings(context: StageContext) -> DataFrame:
    """Return ``indexed_ratings`` and the new ones; a pair may be there twice."""
    old, new = context.read(INDEXED_RATINGS), new_indexed_ratings(context)
    return old if new is None else old.unionByName(new)


def with_new_ratings(ratings: DataFrame, new: DataFrame | None, duplicates: str) -> DataFrame:
    """Return ratings and newer ones together, each pair of user and item once.

    The new rating of a pair stands, but counts (``ingest.duplicates: sum``) add up.

    Parameters
    ----------
    ratings, new : DataFrame
        As ``indexed_ratings``; no ``new`` leaves the others as they are.
    duplicates : str
        As ``ingest.duplicates``.

    Notes
    -----
    One join of the ratings by pair; for counts, one shuffle of them.
    """
    if new is None:
        return ratings
    new = new.select(*ratings.columns)
    if duplicates != "sum":
        return ratings.join(new, _PAIR, "left_anti").unionByName(new)
    # Two numbers at most, so that their sum does not depend on the order.
    sums = [F.sum(name).cast("float").alias(name) for name in ("rating", "weight") if name in ratings.columns]
    together = ratings.unionByName(new).groupBy(*_PAIR).agg(*sums, F.max("timestamp").alias("timestamp"))
    return together.select(*ratings.columns)
