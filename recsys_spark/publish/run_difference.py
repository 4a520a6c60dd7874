"""Two runs side by side: lists, coverage, popularity of what is recommended, metrics."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.publish.churn import compare_lists
from recsys_spark.runs.run_directory import Run
from recsys_spark.storage import Storage
from recsys_spark.tables import ITEM_ELIGIBILITY, ITEM_FACTORS, METRICS, RECOMMENDATIONS, USER_SEGMENTS, Table


def compare_runs(spark: SparkSession, storage: Storage, before: Run, after: Run) -> dict[str, Any]:
    """Say what a reader would notice between two runs.

    Returns
    -------
    dict
        ``churn``, all users first, then by segment (or by source, where the later run has no segments); ``users`` and
        ``items`` with a list or in one, of each run and of both; ``popularity``, the mean number of ratings of what
        each run lists, by the later run's counts; ``metrics`` of both.

    Notes
    -----
    One join of the lists by user, and one pass over the entries of each by item.
    """
    lists = [RECOMMENDATIONS.read(spark, run.table_path(RECOMMENDATIONS)) for run in (before, after)]
    segments = _read_if_there(spark, storage, after, USER_SEGMENTS)
    counts = ITEM_FACTORS.read(spark, after.table_path(ITEM_FACTORS)).select("item_id", "n_ratings")
    entries = [_entries_by_item(each) for each in lists]
    return {
        "before": before.run_id,
        "after": after.run_id,
        "churn": [asdict(churn) for churn in compare_lists(lists[0], lists[1], segments)],
        "users": _in_both([each.select("user_id") for each in lists], "user_id"),
        "items": _in_both([each.select("item_id") for each in entries], "item_id")
        | {"eligible": _count_eligible(spark, storage, after)},
        "popularity": dict(zip(("before", "after"), (_mean_ratings(each, counts) for each in entries), strict=True)),
        "metrics": _metrics(spark, storage, before, after),
    }


def _entries_by_item(lists: DataFrame) -> DataFrame:
    return lists.select(F.explode("recommendations.item_id").alias("item_id")).groupBy("item_id").count()


def _in_both(frames: list[DataFrame], key: str) -> dict[str, int]:
    marked = [frame.select(key, F.lit(k).alias("side")) for k, frame in enumerate(frames, 1)]
    sides = marked[0].unionByName(marked[1]).groupBy(key).agg(F.sum("side").alias("sides"))
    row = sides.agg(*[F.count_if(F.col("sides") == k).alias(f"n{k}") for k in (1, 2, 3)]).collect()[0]
    return {"before": row["n1"] + row["n3"], "after": row["n2"] + row["n3"], "both": row["n3"]}


def _mean_ratings(entries: DataFrame, counts: DataFrame) -> float | None:
    """Return the mean number of ratings of the listed items, None where nothing is listed."""
    weighted = F.sum(F.col("count") * F.coalesce("n_ratings", F.lit(0))).alias("ratings")
    row = entries.join(counts, "item_id", "left").agg(weighted, F.sum("count").alias("entries")).collect()[0]
    return row["ratings"] / row["entries"] if row["entries"] else None


def _count_eligible(spark: SparkSession, storage: Storage, run: Run) -> int | None:
    eligibility = _read_if_there(spark, storage, run, ITEM_ELIGIBILITY)
    return None if eligibility is None else eligibility.where("removed_by is null").count()


def _metrics(spark: SparkSession, storage: Storage, before: Run, after: Run) -> list[dict[str, Any]]:
    found = []
    for run in (before, after):
        table = _read_if_there(spark, storage, run, METRICS)
        rows = [] if table is None else table.where("segment = 'all'").collect()
        found.append({(row["model"], row["metric"]): row["value"] for row in rows})
    keys = sorted(found[0].keys() | found[1].keys())
    return [
        {
            "model": model,
            "metric": metric,
            "before": found[0].get((model, metric)),
            "after": found[1].get((model, metric)),
        }
        for model, metric in keys
    ]


def _read_if_there(spark: SparkSession, storage: Storage, run: Run, table: Table) -> DataFrame | None:
    path = run.table_path(table)
    return table.read(spark, path) if storage.exists(path) else None
