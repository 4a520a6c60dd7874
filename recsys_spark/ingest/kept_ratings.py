"""What a run with a history does with its good rows: keeps them, and makes its ratings from all that were kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.errors import ContractError
from recsys_spark.ingest.history import Delivery, HistoryVersion, update_history
from recsys_spark.ingest.log_files import LogFiles
from recsys_spark.ingest.mended_days import mend_history
from recsys_spark.ingest.merged_ratings import MergedCounts, write_ratings
from recsys_spark.ingest.row_counts import plain_path
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.storage import join
from recsys_spark.tables import LATE_RATINGS, RATING_EVENTS, RATINGS


def keep_ratings(
    context: StageContext, good: DataFrame, found: LogFiles, read_again: Callable[[LogFiles], DataFrame]
) -> dict[str, Any]:
    """Put good rows into the history, and write ``ratings`` from all of it.

    Parameters
    ----------
    context : StageContext
    good : DataFrame
        Of the files that the run reads.
    found : LogFiles
        These files.
    read_again : callable
        Good rows of other files of the log, for stored days that are damaged.

    Returns
    -------
    dict
        The version, its rows and their hash, the event dates that changed and those that were mended, what came late,
        and what all rows became.

    Raises
    ------
    ContractError
        If the history holds no rating, or rows were lost.
    RecsysError
        If a stored day is damaged, and the log does not have its rows any more.
    """
    work = join(context.run.path, "_arrived")
    context.storage.remove(work)
    _delivered(context, good, found).write.mode("error").parquet(work)
    arrived = RATING_EVENTS.read(context.spark, work)
    off_day = _off_day(context, arrived)
    days = frozenset(found.day_of.values()) if context.config.input.is_by_day else None
    delivery = Delivery(days, context.interval)
    mended = mend_history(context, delivery, lambda others: _delivered(context, read_again(others), others))
    version = update_history(context, arrived, delivery)
    context.storage.remove(work)
    counts = write_ratings(context, version.read(context.spark), RATINGS)
    _require_all(context, version, counts)
    context.progress.say(
        f"ingest: history version {version.number} has {version.n_rows:,} rows of {len(version.days):,} days, "
        f"{len(version.changed_days):,} of them changed by this run; they make {counts.n_ratings:,} ratings"
        + (f", {counts.cancelled:,} rows were cancelled" if counts.cancelled else ""),
        version=version.number,
    )
    return {
        "version": version.number,
        "rows": version.n_rows,
        "content_hash": version.content_hash,
        "changed_days": version.changed_days,
        "mended_days": mended,
        **off_day,
        "ratings": asdict(counts),
    }


def _delivered(context: StageContext, good: DataFrame, found: LogFiles) -> DataFrame:
    rows = good.select("user_id", "item_id", "rating", "timestamp", "weight", "source_file")
    if not context.config.input.is_by_day:
        return RATING_EVENTS.select(rows.withColumn("delivered", F.lit(None).cast("date")))
    days = [(plain_path(path), day) for path, day in found.day_of.items()]
    of_file = F.broadcast(context.spark.createDataFrame(days, "source_file string, delivered date"))
    return RATING_EVENTS.select(rows.join(of_file, "source_file"))


def _off_day(context: StageContext, arrived: DataFrame) -> dict[str, Any]:
    """Count and list the rows that did not happen on the day that delivered them; they are kept by event time."""
    happened = F.to_date("timestamp")
    off = arrived.where(happened != F.col("delivered"))
    counted = off.groupBy("delivered", happened.alias("event_date")).count().orderBy("delivered", "event_date")
    days = [
        {"delivered": str(row["delivered"]), "event_date": str(row["event_date"]), "rows": row["count"]}
        for row in counted.collect()
    ]
    late = sum(day["rows"] for day in days if day["event_date"] < day["delivered"])
    early = sum(day["rows"] for day in days if day["event_date"] > day["delivered"])
    if days:
        context.write(LATE_RATINGS, off)
        context.progress.say(
            f"ingest: {late:,} rows came later than their day and {early:,} before it; they count where they belong, "
            f"and are listed in {LATE_RATINGS.name}",
            late=late,
            early=early,
        )
    return {"late": late, "early": early, "off_day": days}


def _require_all(context: StageContext, version: HistoryVersion, merged: MergedCounts) -> None:
    if merged.n_ratings + merged.merged + merged.cancelled != version.n_rows:
        raise ContractError(
            "rows were lost or made between the history and the ratings",
            where=context.run.table_path(RATINGS),
            got=f"{merged}, of {version.n_rows:,} rows",
            remedy="run the stage again; if it happens twice, keep the run directory and report it",
        )
    if merged.n_ratings == 0:
        raise ContractError(
            "no rating is left",
            where=context.run.table_path(RATINGS),
            got=f"{version.n_rows:,} rows in the history, {merged.cancelled:,} of them cancelled",
            remedy="ingest days with ratings first",
        )
