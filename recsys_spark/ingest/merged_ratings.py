"""Good rows -> ``ratings``: one per user and item, and what came of the others."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.ingest.duplicates import merge_duplicates
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.storage import join
from recsys_spark.tables import CANCELLED_RATINGS, Table

_CONTENT = ("user_id", "item_id", "rating", "timestamp", "weight", "n_merged")


@dataclass(frozen=True, slots=True)
class MergedCounts:
    """What good rows became: ``n_ratings``; ``merged`` rows of them stand for others; the rest was ``cancelled``.

    ``content_hash`` is the same for the same ratings, whatever their order and files.
    """

    n_ratings: int
    merged: int
    cancelled: int
    content_hash: str


def write_ratings(context: StageContext, good: DataFrame, table: Table) -> MergedCounts:
    """Merge duplicates and write the ratings; with ``ingest.cancellations``, what they cancelled out goes elsewhere.

    Parameters
    ----------
    context : StageContext
    good : DataFrame
        Good rows: ``user_id, item_id, rating, timestamp, weight, source_file``.
    table : Table
        ``ratings`` or ``new_ratings``. Pairs that are left with 0 or less are written to ``cancelled_ratings``.

    Returns
    -------
    MergedCounts

    Notes
    -----
    One shuffle, by pair. While rows are shuffled, files go by number instead of name. The driver receives the names.
    """
    names = sorted(row["source_file"] for row in good.select("source_file").distinct().collect())
    numbers = F.broadcast(context.spark.createDataFrame(list(enumerate(names)), "file_number int, source_file string"))
    merged = merge_duplicates(good.join(numbers, "source_file"), context.config.ingest.duplicates)
    merged = merged.join(numbers, "file_number")
    if not context.config.ingest.cancellations:
        context.write(table, merged)
        return _count(context, table, 0)
    # Written once: both tables come from it.
    work = join(context.run.path, f"_merged_{table.name}")
    context.storage.remove(work)
    merged.write.mode("error").parquet(work)
    merged = context.spark.read.parquet(work)
    context.write(table, merged.where("rating > 0"))
    context.write(CANCELLED_RATINGS, merged.where("rating <= 0"))
    context.storage.remove(work)
    found = context.read(CANCELLED_RATINGS).agg(F.sum("n_merged").alias("n")).collect()[0]
    return _count(context, table, int(found["n"] or 0))


def _count(context: StageContext, table: Table, cancelled: int) -> MergedCounts:
    found = context.read(table).agg(
        F.count("*").alias("n"),
        F.sum(F.col("n_merged") - 1).alias("merged"),
        F.sum(F.xxhash64(*_CONTENT).cast("decimal(20,0)")).cast("string").alias("hash"),
    )
    row = found.collect()[0]
    return MergedCounts(int(row["n"]), int(row["merged"] or 0), cancelled, f"{row['n']}-{row['hash'] or 0}")
