"""Two runs side by side: lists, coverage, popularity of what is recommended, metrics."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
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
        each run lists, by the later run's counts; ``segments``, the same three for each segment; ``metrics`` of both,
        with the segments that they are about.

    Notes
    -----
    One join of the lists by user, and one pass over the entries of each by item. The driver receives a few numbers for
    each segment.
    """
    lists = [RECOMMENDATIONS.read(spark, run.table_path(RECOMMENDATIONS)) for run in (before, after)]
    segments = _read_if_there(spark, storage, after, USER_SEGMENTS)
    counts = ITEM_FACTORS.read(spark, after.table_path(ITEM_FACTORS)).select("item_id", "n_ratings")
    sides = _both_sides(lists, segments)
    users = _in_both(sides, "user_id")
    entries = sides.withColumn("item_id", F.explode("item_ids")).groupBy("segment", "item_id").agg(*_n_of_sides())
    items, popularity = _in_both(_one_row_a_side(entries), "item_id"), _mean_ratings(entries, counts)
    nobody = {"before": 0, "after": 0, "both": 0}
    nothing: dict[str, float | None] = {"before": None, "after": None}
    of_segment: dict[str | None, dict[str, Any]] = {
        name: {
            "users": users.get(name, nobody),
            "items": items.get(name, nobody),
            "popularity": popularity.get(name, nothing),
        }
        for name in (None, *sorted(name for name in users if name is not None))
    }
    everybody = of_segment.pop(None)
    return {
        "before": before.run_id,
        "after": after.run_id,
        "churn": [asdict(churn) for churn in compare_lists(lists[0], lists[1], segments)],
        "users": everybody["users"],
        "items": everybody["items"] | {"eligible": _count_eligible(spark, storage, after)},
        "popularity": everybody["popularity"],
        "segments": [{"segment": name, **found} for name, found in of_segment.items()],
        "metrics": _metrics(spark, storage, before, after),
    }


def _both_sides(lists: list[DataFrame], segments: DataFrame | None) -> DataFrame:
    """Return ``side`` (1: before, 2: after), ``user_id, item_ids`` and ``segment``: every user's, and null for all."""
    sides = []
    for side, each in enumerate(lists, 1):
        source = F.get("recommendations.source", F.lit(0)).alias("segment")
        rows = each.select(
            "user_id", F.col("recommendations.item_id").alias("item_ids"), source, F.lit(side).alias("side")
        )
        if segments is not None:
            rows = rows.drop("segment").join(segments.select("user_id", "segment"), "user_id", "left")
        sides.append(rows.select("side", "user_id", "item_ids", "segment"))
    both = sides[0].unionByName(sides[1])
    # Of a user without a segment, one row is enough.
    groups = F.array_distinct(F.array(F.lit(None).cast("string"), F.col("segment")))
    return both.withColumn("segment", F.explode(groups))


def _n_of_sides() -> list[Column]:
    return [F.count_if(F.col("side") == side).alias(f"n{side}") for side in (1, 2)]


def _one_row_a_side(counted: DataFrame) -> DataFrame:
    sides = F.filter(
        F.array(*[F.when(F.col(f"n{side}") > 0, F.lit(side)) for side in (1, 2)]), lambda side: side.isNotNull()
    )
    return counted.withColumn("side", F.explode(sides))


def _in_both(sides: DataFrame, key: str) -> dict[str | None, dict[str, int]]:
    """Return, by segment, how many keys are on either side and on both."""
    marked = sides.groupBy("segment", key).agg(F.sum("side").alias("sides"))
    rows = marked.groupBy("segment").agg(*[F.count_if(F.col("sides") == k).alias(f"n{k}") for k in (1, 2, 3)]).collect()
    return {
        row["segment"]: {"before": row["n1"] + row["n3"], "after": row["n2"] + row["n3"], "both": row["n3"]}
        for row in rows
    }


def _mean_ratings(entries: DataFrame, counts: DataFrame) -> dict[str | None, dict[str, float | None]]:
    """Return, by segment, the mean number of ratings of the listed items of either side, None where none are."""
    n_ratings = F.coalesce("n_ratings", F.lit(0))
    sums = [F.sum(F.col(f"n{side}") * n_ratings).alias(f"ratings{side}") for side in (1, 2)]
    sums += [F.sum(f"n{side}").alias(f"entries{side}") for side in (1, 2)]
    rows = entries.join(counts, "item_id", "left").groupBy("segment").agg(*sums).collect()
    return {
        row["segment"]: {
            name: row[f"ratings{side}"] / row[f"entries{side}"] if row[f"entries{side}"] else None
            for side, name in enumerate(("before", "after"), 1)
        }
        for row in rows
    }


def _count_eligible(spark: SparkSession, storage: Storage, run: Run) -> int | None:
    eligibility = _read_if_there(spark, storage, run, ITEM_ELIGIBILITY)
    return None if eligibility is None else eligibility.where("removed_by is null").count()


def _metrics(spark: SparkSession, storage: Storage, before: Run, after: Run) -> list[dict[str, Any]]:
    found = []
    for run in (before, after):
        table = _read_if_there(spark, storage, run, METRICS)
        rows = [] if table is None else table.collect()
        found.append({(row["model"], row["metric"], row["segment"]): row["value"] for row in rows})
    keys = sorted(found[0].keys() | found[1].keys())
    names = ("model", "metric", "segment")
    return [
        {**dict(zip(names, key, strict=True)), "before": found[0].get(key), "after": found[1].get(key)} for key in keys
    ]


def _read_if_there(spark: SparkSession, storage: Storage, run: Run, table: Table) -> DataFrame | None:
    path = run.table_path(table)
    return table.read(spark, path) if storage.exists(path) else None
