"""Which items may be recommended at all, and which pairs of a user and an item may not."""

from __future__ import annotations

import logging
from datetime import date
from typing import TYPE_CHECKING

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys_spark.features import listed_items
from recsys_spark.recommend.new_ratings import listed_users
from recsys_spark.storage.table_files import read_ids
from recsys_spark.tables import CATALOGUE

if TYPE_CHECKING:
    # Workers import this package, and have neither pydantic nor rich.
    from recsys_spark.config.recommend import RecommendConfig
    from recsys_spark.runs.run_directory import StageContext

log = logging.getLogger(__name__)

_YES, _NO = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")


def read_eligibility(context: StageContext) -> tuple[DataFrame, dict[str, int]]:
    """Say of every item of the index, and of those that only the feature table names, whether it may be recommended.

    Returns
    -------
    eligibility : DataFrame
        ``item_id, removed_by``: the first filter that removes the item (denied, not_allowed, not_in_catalogue,
        unreadable_availability, unavailable, not_yet_on_sale, no_longer_on_sale), or null. One join by item per
        table.
    unknown : dict
        By table, how many of its distinct items are not in the index; a warning tells them.
    """
    config, items = context.config.recommend, listed_items(context).select("item_id")
    reasons: list[tuple[str, Column]] = []
    unknown: dict[str, int] = {}
    joined = items
    for name, file in (("deny", config.deny), ("allow", config.allow)):
        if file is not None:
            listed = read_ids(context.spark, file, f"recommend.{name}", {"item": file.item})
            listed = listed.select(F.col("item").alias("item_id")).distinct()
            unknown[name] = _warn_about_unknown(listed.join(items, "item_id", "left_anti"), name, "items")
            joined = joined.join(listed.withColumn(name, F.lit(True)), "item_id", "left")
    if config.deny is not None:
        reasons.append(("denied", F.col("deny").isNotNull()))
    if config.allow is not None:
        reasons.append(("not_allowed", F.col("allow").isNull()))
    catalogue = context.config.catalogue
    if catalogue is not None and catalogue.has_availability:
        offered = context.read(CATALOGUE).withColumn("offered", F.lit(True))
        joined = joined.join(offered, "item_id", "left")
        reasons += availability_reasons(day_of_lists(context))
    removed_by = F.coalesce(*[F.when(holds, F.lit(reason)) for reason, holds in reasons], F.lit(None).cast("string"))
    return joined.select("item_id", removed_by.alias("removed_by")), unknown


def day_of_lists(context: StageContext) -> date:
    """Return the day on which items have to be on sale: the end of the run's interval, unless it is configured.

    A run over years of ratings is filed under their first day; its lists are for the day after the last.
    """
    if context.config.recommend.on_date is not None:
        return context.config.recommend.on_date
    return context.interval.end.date() if context.interval else date.fromisoformat(context.run.date)


def availability_reasons(day: date) -> list[tuple[str, Column]]:
    """Return what may keep a catalogue's item out of the lists of a day, in the order in which it is told.

    An item is on sale from ``start`` (in) to ``end`` (out); a blank cell is no restriction, one that cannot be read
    keeps the item out. Columns: ``offered``, null where the catalogue lacks the item; ``available, start, end``.
    """
    flag = F.lower(F.trim("available"))
    start, end = (_day(name) for name in ("start", "end"))
    is_unreadable = (
        (~_is_blank("available") & ~flag.isin(*_YES, *_NO))
        | (~_is_blank("start") & start.isNull())
        | (~_is_blank("end") & end.isNull())
    )
    return [
        ("not_in_catalogue", F.col("offered").isNull()),
        ("unreadable_availability", is_unreadable),
        ("unavailable", flag.isin(*_NO)),
        ("not_yet_on_sale", start > F.lit(day)),
        ("no_longer_on_sale", end <= F.lit(day)),
    ]


def _is_blank(name: str) -> Column:
    return F.col(name).isNull() | (F.trim(name) == "")


def _day(name: str) -> Column:
    # A bare year or month would be taken for its first day.
    text = F.trim(name)
    return F.when(text.rlike(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([ T].*)?$"), F.expr(f"try_cast(trim(`{name}`) as date)"))


def read_user_blocks(context: StageContext) -> tuple[DataFrame | None, dict[str, int]]:
    """Return the pairs that must not be recommended, ``user_id, item_id``, or None where there are none.

    Pairs of users who get no list or of items that are not in the index can do nothing: they are counted, told, and
    left out. Two joins of the pairs.
    """
    file = context.config.recommend.blocks
    if file is None:
        return None, {}
    pairs = read_ids(context.spark, file, "recommend.blocks", {"user": file.user, "item": file.item})
    named = pairs.distinct().select(F.col("user").alias("user_id"), F.col("item").alias("item_id"))
    users, items = listed_users(context).select("user_id"), listed_items(context).select("item_id")
    unknown_users = named.select("user_id").distinct().join(users, "user_id", "left_anti")
    unknown_items = named.select("item_id").distinct().join(items, "item_id", "left_anti")
    unknown = {
        "blocks_users": _warn_about_unknown(unknown_users, "blocks", "users"),
        "blocks_items": _warn_about_unknown(unknown_items, "blocks", "items"),
    }
    return named.join(users, "user_id").join(items, "item_id"), unknown


def seen_ratings(ratings: DataFrame, config: RecommendConfig) -> DataFrame | None:
    """Return the ratings whose items count as seen: all, those since a day, or None where none do."""
    if not config.exclude_seen:
        return None
    if config.seen_since is None:
        return ratings
    return ratings.where(F.col("timestamp") >= F.lit(config.seen_since).cast("timestamp"))


def _warn_about_unknown(unknown: DataFrame, name: str, kind: str) -> int:
    row = unknown.agg(F.count("*").alias("n"), F.min(unknown.columns[0]).alias("first")).collect()[0]
    if row["n"]:
        log.warning(
            f"recommend.{name} names {row['n']:,} {kind} that the ratings do not have, such as {row['first']!r}",
            extra={"fields": {"table": name, "kind": kind, "unknown": row["n"]}},
        )
    return int(row["n"])
