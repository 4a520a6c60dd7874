"""Which lists have to be made, and which are taken over as readers see them, because nothing behind them changed."""

from __future__ import annotations

from functools import reduce
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.errors import RecsysError
from recsys_spark.recommend.new_ratings import listed_users
from recsys_spark.recommend.variety import item_categories
from recsys_spark.redaction import redacted
from recsys_spark.row_difference import differing_rows
from recsys_spark.runs.run_directory import Run, StageContext, code_fingerprint
from recsys_spark.runs.sealed_files import table_faults
from recsys_spark.storage import join, read_json
from recsys_spark.tables import (
    CATALOGUE,
    CHANGED_USERS,
    CONTENT_FACTORS,
    ITEM_ELIGIBILITY,
    ITEM_FACTORS,
    RECOMMENDATIONS,
    REFRESHED_USERS,
    USER_BLOCKS,
    USER_FACTORS,
    Table,
)

# Settings whose effect on lists is seen in tables, or which touch only users without a vector, who always get new ones.
_SEEN_IN_TABLES = ("deny", "allow", "blocks", "on_date", "segments", "popularity", "rows")
_READ = (RECOMMENDATIONS, ITEM_FACTORS, ITEM_ELIGIBILITY, USER_BLOCKS, CATALOGUE, CONTENT_FACTORS)


def run_to_take_lists_from(context: StageContext) -> tuple[Run | None, str]:
    """Return the run whose lists stand where nothing changed; None and why, where all have to be made.

    That is the run whose model was taken over, if all that lists of unchanged users are made from is as it was there:
    the items that may be recommended, categories, items without ratings, settings, and the code. ``item_eligibility``
    and ``content_factors`` of this run have to be there.

    Notes
    -----
    Joins and one shuffle of both runs' items; a few numbers reach the driver.
    """
    if context.config.refresh == "all":
        return None, "refresh: all"
    model = context.record("train")
    if model["taken_over"] is None:
        why = f"the model was trained again: {model['why_trained']}"
    else:
        base = Run(context.run.root, model["taken_over"]["run_id"], model["taken_over"]["date"])
        why = _other_run(context, base) or _other_items(context, base)
        if not why:
            return base, ""
    context.progress.say(f"recommend: no list is taken over: {why}", why_all=why)
    return None, why


def write_refreshed_users(context: StageContext, base: Run) -> dict[str, int]:
    """Write ``refreshed_users``: who needs a new list and why; return how many, by the first reason that holds.

    ``ratings``: other ones than in ``base``; ``blocks``: other blocked items; ``no_vector``: the list is by popularity,
    or folded in from ratings that training has kept back; ``no_list``: there is none to take over. Joins by user.
    """
    users = listed_users(context).select("user_id")
    lists = RECOMMENDATIONS.read(context.spark, base.table_path(RECOMMENDATIONS))
    found = {
        "ratings": context.read(CHANGED_USERS),
        "blocks": differing_rows(*(_blocks(context, run) for run in (base, context.run))).select("user_id"),
        "no_vector": users.join(context.read(USER_FACTORS), "user_id", "left_anti"),
        "no_list": users.join(lists, "user_id", "left_anti"),
    }
    named = [
        rows.select("user_id", F.struct(F.lit(place).alias("place"), F.lit(reason).alias("reason")).alias("why"))
        for place, (reason, rows) in enumerate(found.items())
    ]
    first = reduce(DataFrame.unionByName, named).groupBy("user_id").agg(F.min("why").alias("why"))
    context.write(
        REFRESHED_USERS,
        first.join(users, "user_id", "left_semi").select("user_id", F.col("why.reason").alias("reason")),
    )
    rows = context.read(REFRESHED_USERS).groupBy("reason").count().collect()
    return {row["reason"]: row["count"] for row in sorted(rows, key=lambda row: list(found).index(row["reason"]))}


def lists_taken_over(context: StageContext, base: Run) -> DataFrame:
    """Return the rows of another run's ``recommendations`` that stand, as they are: users who are not refreshed."""
    lists = RECOMMENDATIONS.read(context.spark, base.table_path(RECOMMENDATIONS))
    kept = lists.join(listed_users(context), "user_id", "left_semi")
    return kept.join(context.read(REFRESHED_USERS), "user_id", "left_anti")


def tell_refresh(context: StageContext, base: Run | None, why: str, reasons: dict[str, int], n: int) -> dict[str, Any]:
    """Say how many of n lists were made and how many taken over, and return it for the record of the stage."""
    refreshed = n if base is None else sum(reasons.values())
    if base is not None:
        because = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
        context.progress.say(
            f"recommend: {n - refreshed:,} lists are taken over from run {base.run_id}, {refreshed:,} were made"
            + (f" ({because})" if because else ""),
            refreshed=refreshed,
            taken_over=n - refreshed,
        )
    return {
        "taken_over_from": base.run_id if base is not None else None,
        "taken_over": n - refreshed,
        "refreshed": refreshed,
        "reasons": reasons,
        "why_all": why,
    }


def _other_run(context: StageContext, base: Run) -> str:
    """Say what is wrong with another run, or was set or written otherwise; empty: nothing."""
    try:
        faults = [fault for table in _READ for fault in table_faults(base, table.name, context.storage)]
        theirs = read_json(context.storage, join(base.path, "run.json"))
        settings, code = theirs["config"]["recommend"], theirs["code_fingerprint"]
    except (RecsysError, OSError, ValueError, KeyError) as error:
        return f"run {base.run_id} is damaged: {str(error).partition(chr(10))[0]}"
    if faults:
        return f"run {base.run_id} is damaged: {faults[0]}"
    mine = redacted(context.config.recommend.model_dump(mode="json"))
    changed = [f"recommend.{name}" for name in mine if name not in _SEEN_IN_TABLES and mine[name] != settings.get(name)]
    if changed:
        return f"run {base.run_id} has another {', '.join(changed)}"
    return "" if code == code_fingerprint() else f"run {base.run_id} was made by another version of the code"


def _other_items(context: StageContext, base: Run) -> str:
    """Say which items are others than in another run, or otherwise; empty: none."""
    before, after = (_items(context, run) for run in (base, context.run))
    for name, frame in before.items():
        items = differing_rows(frame, after[name]).agg(F.count_distinct("item_id").alias("n"), F.min("item_id"))
        n, first = items.collect()[0]
        if n:
            return f"{name} changed for {n:,} items, such as {first!r}"
    return ""


def _items(context: StageContext, run: Run) -> dict[str, DataFrame]:
    """Return what a run's lists are made from beside its users, by what it is; each with ``item_id``."""
    config = context.config.recommend

    def read(table: Table) -> DataFrame:
        return table.read(context.spark, run.table_path(table))

    eligible = read(ITEM_ELIGIBILITY).where("removed_by is null").select("item_id")
    candidates = read(ITEM_FACTORS).select("item_id").join(eligible, "item_id", "left_semi")
    found = {"what may be recommended": candidates}
    if config.max_per_category is not None:
        found["categories"] = item_categories(read(CATALOGUE)).join(candidates, "item_id", "left_semi")
    if config.max_new_items > 0:
        # Without their numbers, which move up as items come into the index.
        new = read(CONTENT_FACTORS).select("item_id", "factors", "bias")
        found["vectors from features"] = new.join(eligible, "item_id", "left_semi")
    return found


def _blocks(context: StageContext, run: Run) -> DataFrame:
    if not context.storage.exists(run.table_path(USER_BLOCKS)):
        return context.spark.createDataFrame([], USER_BLOCKS.schema)
    return USER_BLOCKS.read(context.spark, run.table_path(USER_BLOCKS))
