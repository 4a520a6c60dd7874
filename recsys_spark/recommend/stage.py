"""The recommend stage: factors and ratings in, ``recommendations`` out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.factor_tables import vectors_from_columns
from recsys_spark.recommend.candidates import Candidates
from recsys_spark.recommend.lists import users_with_history, write_lists
from recsys_spark.run_directory import StageContext
from recsys_spark.storage import join
from recsys_spark.tables import (
    INDEXED_RATINGS,
    ITEM_FACTORS,
    RECOMMENDATION_ROWS,
    RECOMMENDATIONS,
    USER_FACTORS,
    USER_INDEX,
)

TABLES = (RECOMMENDATIONS, RECOMMENDATION_ROWS)


def run(context: StageContext) -> dict[str, Any]:
    """Write the best items of every user of the index.

    The item factors are collected on the driver and sent to every task. For shuffles see
    ``users_with_history``.

    Returns
    -------
    dict
        ``n_users``, ``n_candidates``, ``n_short_lists``, and how many lists each source made.
    """
    config = context.config.recommend
    started = datetime.now(UTC)
    candidates = _candidates(context)
    users = users_with_history(
        context.read(USER_INDEX).withColumnRenamed("user_id", "user"),
        context.read(USER_FACTORS),
        context.read(INDEXED_RATINGS),
        exclude_seen=config.exclude_seen,
    )
    work = join(context.run.path, "_lists")
    context.storage.remove(work)
    write_lists(users, candidates, n=config.n, path=work)
    # Written once more as the table: the lists' files follow the tasks, a reader wants them by user.
    lists = _with_origin(context, context.spark.read.parquet(work).withColumnRenamed("user", "user_id"), started)
    context.write(RECOMMENDATIONS, lists.repartitionByRange("user_id").sortWithinPartitions("user_id"))
    context.storage.remove(work)
    if config.rows:
        entries = F.explode("recommendations").alias("entry")
        rows = context.read(RECOMMENDATIONS).select("*", entries).select("*", "entry.*")
        rows = rows.repartitionByRange("user_id").sortWithinPartitions("user_id", "position")
        context.write(RECOMMENDATION_ROWS, rows)
    return _count(context, len(candidates.labels))


def _with_origin(context: StageContext, lists: DataFrame, started: datetime) -> DataFrame:
    model = context.record("train")
    return lists.withColumns(
        {
            "generated_at": F.lit(started),
            "run_id": F.lit(context.run.run_id),
            "model": F.lit(f"{model['loss']}, rank {model['rank']}"),
        }
    )


def _candidates(context: StageContext) -> Candidates:
    model = context.record("train")
    items = context.read(ITEM_FACTORS).toArrow().combine_chunks()
    factors, bias = (items[name].combine_chunks() for name in ("factors", "bias"))
    return Candidates.from_items(
        items["item_id"].combine_chunks(),
        items["item_index"].to_numpy(),
        vectors_from_columns(factors, bias, biases=model["biases"]),
        items["n_ratings"].to_numpy(),
        n_items=context.record("index")["n_items"],
        global_mean=model["global_mean"],
        biases=model["biases"],
        as_probability=model["loss"] == "logistic",
    )


def _count(context: StageContext, n_candidates: int) -> dict[str, Any]:
    lists = context.read(RECOMMENDATIONS)
    source = F.coalesce(F.try_element_at("recommendations", F.lit(1)).getField("source"), F.lit("none"))
    rows = (
        lists.groupBy(source.alias("source"))
        .agg(
            F.count("*").alias("n"),
            F.count("short_reason").alias("n_short"),
            F.sum(F.size("recommendations")).alias("n_entries"),
        )
        .collect()
    )
    counts = {
        "n_users": sum(row["n"] for row in rows),
        "n_candidates": n_candidates,
        "n_entries": sum(row["n_entries"] for row in rows),
        "n_short_lists": sum(row["n_short"] for row in rows),
        "lists_by_source": {row["source"]: row["n"] for row in sorted(rows, key=lambda row: row["source"])},
    }
    context.progress.say(
        f"recommend: {counts['n_users']:,} lists from {n_candidates:,} items, {counts['n_short_lists']:,} short",
        **counts,
    )
    return counts
