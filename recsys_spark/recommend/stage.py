"""The recommend stage: factors and ratings in, ``recommendations`` out."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.errors import ContractError
from recsys_spark.factor_tables import vectors_from_columns
from recsys_spark.features import listed_items, n_listed_items
from recsys_spark.recommend.candidates import Candidates
from recsys_spark.recommend.eligibility import read_eligibility, read_user_blocks, seen_ratings
from recsys_spark.recommend.fold_in import vectors_of_users
from recsys_spark.recommend.lists import users_with_history, write_lists
from recsys_spark.recommend.new_items import CONTENT, with_new_items, write_content_factors
from recsys_spark.recommend.new_ratings import all_indexed_ratings, listed_users
from recsys_spark.recommend.newcomers import with_popularity, write_newcomers
from recsys_spark.recommend.popularity import with_segments
from recsys_spark.recommend.refresh import (
    lists_taken_over,
    run_to_take_lists_from,
    tell_refresh,
    write_refreshed_users,
)
from recsys_spark.recommend.similar import SIMILAR_TABLES, write_similar
from recsys_spark.recommend.variety import count_without_category, read_categories, with_variety
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.storage import join
from recsys_spark.storage.table_files import list_table_files
from recsys_spark.tables import (
    CONTENT_FACTORS,
    FOLDED_FACTORS,
    ITEM_ELIGIBILITY,
    ITEM_FACTORS,
    NEW_QUARANTINE,
    NEW_RATINGS,
    NEW_USERS,
    POPULARITY,
    RECOMMENDATION_ROWS,
    RECOMMENDATIONS,
    REFRESHED_USERS,
    USER_BLOCKS,
    USER_SEGMENTS,
)
from recsys_spark.train import read_neighbourhoods

TABLES = (
    RECOMMENDATIONS,
    RECOMMENDATION_ROWS,
    REFRESHED_USERS,
    ITEM_ELIGIBILITY,
    USER_BLOCKS,
    NEW_RATINGS,
    NEW_QUARANTINE,
    NEW_USERS,
    FOLDED_FACTORS,
    CONTENT_FACTORS,
    USER_SEGMENTS,
    POPULARITY,
    *SIMILAR_TABLES,
)


def run(context: StageContext) -> dict[str, Any]:
    """Write the best items of every user of the index, and of those that only new ratings or segments name.

    And what is similar to what, where that is configured.

    With ``refresh: affected``, lists of users for whom nothing changed are taken over, see `run_to_take_lists_from`.
    Users with new ratings are folded in; users without a vector get what is popular. The item factors are collected
    on the driver and sent to every task. For shuffles see ``users_with_history``.

    Returns
    -------
    dict
        ``n_users``, ``n_candidates``, ``n_short_lists``, how many lists each source made, how many items each
        filter removed, how many ids of each filter's table are unknown, the files of those tables, what came of the
        new ratings, how many lists were taken over and why not more, and what there is of neighbours.

    Raises
    ------
    ContractError
        If the filters leave no item.
    """
    config = context.config.recommend
    started = datetime.now(UTC)
    newcomers = write_newcomers(context) | write_content_factors(context)
    filters = _write_filters(context)
    varied = with_variety(_candidates(context, filters["removed_items"]), read_categories(context), config)
    candidates, segments = with_popularity(context, varied)
    factors = vectors_of_users(context)
    neighbourhoods = read_neighbourhoods(context)
    if neighbourhoods is not None:
        averages = neighbourhoods.averages(candidates.column_of_index, len(candidates.labels))
        candidates = replace(candidates, neighbours=averages)
        factors = neighbourhoods.with_evidence(factors)
    listed, hidden = listed_users(context), _hidden_pairs(context)
    base, why_all = run_to_take_lists_from(context)
    reasons: dict[str, int] = {}
    if base is not None:
        reasons = write_refreshed_users(context, base)
        listed = listed.join(context.read(REFRESHED_USERS), "user_id", "left_semi")
        hidden = None if hidden is None else hidden.join(listed, "user_index", "left_semi")
    users = users_with_history(
        with_segments(listed, context, segments).withColumnRenamed("user_id", "user"),
        factors,
        hidden,
        n_hidden=context.record("index")["n_ratings"],
    )
    work = join(context.run.path, "_lists")
    context.storage.remove(work)
    write_lists(users, candidates, n=config.n, path=work)
    # Written once more as the table: the lists' files follow the tasks, a reader wants them by user.
    lists = _with_origin(context, context.spark.read.parquet(work).withColumnRenamed("user", "user_id"), started)
    if base is not None:
        lists = lists.unionByName(lists_taken_over(context, base))
    context.write(RECOMMENDATIONS, lists.repartitionByRange("user_id").sortWithinPartitions("user_id"))
    context.storage.remove(work)
    if config.rows:
        entries = F.explode("recommendations").alias("entry")
        rows = context.read(RECOMMENDATIONS).select("*", entries).select("*", "entry.*")
        rows = rows.repartitionByRange("user_id").sortWithinPartitions("user_id", "position")
        context.write(RECOMMENDATION_ROWS, rows)
    counts = _count(context, len(candidates.labels)) | filters | newcomers
    counts |= count_without_category(context, candidates)
    counts["refresh"] = tell_refresh(context, base, why_all, reasons, counts["n_users"])
    return counts | {"similar": write_similar(context, started)}


def _with_origin(context: StageContext, lists: DataFrame, started: datetime) -> DataFrame:
    model = context.record("train")
    return lists.withColumns(
        {
            "generated_at": F.lit(started),
            "run_id": F.lit(context.run.run_id),
            "model": F.lit(model["label"]),
        }
    )


def _write_filters(context: StageContext) -> dict[str, Any]:
    """Write what the filters say of items and pairs, as they stood when the lists were made; count it."""
    eligibility, unknown = read_eligibility(context)
    context.write(ITEM_ELIGIBILITY, eligibility)
    blocks, unknown_of_blocks = read_user_blocks(context)
    if blocks is not None:
        context.write(USER_BLOCKS, blocks)
    removed = context.read(ITEM_ELIGIBILITY).where("removed_by is not null").groupBy("removed_by").count().collect()
    counts = {row["removed_by"]: row["count"] for row in sorted(removed, key=lambda row: row["removed_by"])}
    for reason, count in counts.items():
        context.progress.say(f"recommend: {count:,} items may not be recommended: {reason}", reason=reason, n=count)
    files = {
        where: [found.as_dict() for found in list_table_files(file, where, context.spark)]
        for where, file in context.config.recommend.files.items()
    }
    return {"removed_items": counts, "unknown_ids": unknown | unknown_of_blocks, "filter_files": files}


def _hidden_pairs(context: StageContext) -> DataFrame | None:
    """Return ``user_index, item_index`` of what must not be listed: seen items and blocked ones."""
    columns = ("user_index", "item_index")
    hidden = seen_ratings(all_indexed_ratings(context), context.config.recommend)
    if hidden is not None:
        hidden = hidden.select(*columns)
    if context.config.recommend.blocks is not None:
        named = context.read(USER_BLOCKS)
        blocks = named.join(listed_users(context), "user_id").join(listed_items(context), "item_id")
        hidden = blocks.select(*columns) if hidden is None else hidden.unionByName(blocks.select(*columns))
    return hidden


def _candidates(context: StageContext, removed: dict[str, int]) -> Candidates:
    model = context.record("train")
    eligible = context.read(ITEM_ELIGIBILITY).where("removed_by is null").select("item_id")
    has_new = context.config.recommend.max_new_items > 0
    listed = context.read(ITEM_FACTORS)
    if has_new:
        listed = listed.unionByName(context.read(CONTENT_FACTORS))
    items = listed.join(eligible, "item_id", "left_semi").toArrow().combine_chunks()
    if items.num_rows == 0:
        raise ContractError(
            "no item can be recommended to anybody",
            where="recommend",
            got=", ".join(f"{count:,} items {reason}" for reason, count in removed.items()),
            allowed="at least one trained item that no filter removes",
            remedy="check the deny and allow lists, the catalogue's availability and recommend.on_date",
        )
    factors, bias = (items[name].combine_chunks() for name in ("factors", "bias"))
    candidates = Candidates.from_items(
        items["item_id"].combine_chunks(),
        items["item_index"].to_numpy(),
        vectors_from_columns(factors, bias, biases=model["biases"]),
        items["n_ratings"].to_numpy(),
        n_items=n_listed_items(context),
        global_mean=model["global_mean"],
        biases=model["biases"],
        as_probability=model["loss"] == "logistic",
    )
    new = context.read(CONTENT_FACTORS).select("item_index").toArrow() if has_new else None
    return candidates if new is None else with_new_items(candidates, new["item_index"].to_numpy())


def _count(context: StageContext, n_candidates: int) -> dict[str, Any]:
    lists = context.read(RECOMMENDATIONS)
    # New items stand among the others; what made the list is what made the others.
    old = F.filter("recommendations", lambda entry: entry["source"] != CONTENT)
    first = [F.try_element_at(entries, F.lit(1)).getField("source") for entries in (old, F.col("recommendations"))]
    source = F.coalesce(*first, F.lit("none"))
    rows = (
        lists.groupBy(source.alias("source"))
        .agg(
            F.count("*").alias("n"),
            F.count("short_reason").alias("n_short"),
            F.sum(F.size("recommendations")).alias("n_entries"),
            F.sum(F.size("recommendations") - F.size(old)).alias("n_new_entries"),
        )
        .collect()
    )
    counts = {
        "n_users": sum(row["n"] for row in rows),
        "n_candidates": n_candidates,
        "n_entries": sum(row["n_entries"] for row in rows),
        "n_new_entries": sum(row["n_new_entries"] for row in rows),
        "n_short_lists": sum(row["n_short"] for row in rows),
        "lists_by_source": {row["source"]: row["n"] for row in sorted(rows, key=lambda row: row["source"])},
    }
    context.progress.say(
        f"recommend: {counts['n_users']:,} lists from {n_candidates:,} items, {counts['n_short_lists']:,} short",
        **counts,
    )
    return counts
