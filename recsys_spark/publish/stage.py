"""The publish stage: check the written table, seal the run with its manifest, and put it in the log."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.index import index_faults, index_version, mend_index, seal_parts
from recsys_spark.publish.gate import (
    Check,
    check_categories,
    check_ids,
    check_neighbours,
    check_recommendations,
    check_rows,
    require_all,
)
from recsys_spark.publish.judgement import ask_oracle, judge
from recsys_spark.publish.limits import require_limits
from recsys_spark.publish.manifest import write_manifest
from recsys_spark.recommend import (
    SIMILAR_TABLES,
    item_categories,
    listed_users,
    rated_pairs,
    rows_with_neighbours,
    seen_ratings,
    similar_config,
)
from recsys_spark.runs.publication_log import publish_run
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.tables import (
    CATALOGUE,
    CONTENT_FACTORS,
    ITEM_ELIGIBILITY,
    ITEM_INDEX,
    RECOMMENDATION_ROWS,
    RECOMMENDATIONS,
    USER_BLOCKS,
    USER_INDEX,
    Table,
)

TABLES: tuple[Table, ...] = ()


def run(context: StageContext) -> dict[str, Any]:
    """Publish the run's recommendations, and its neighbours where there are any.

    Returns
    -------
    dict
        The checks and limits, what the oracle says, the manifest's path, and the entry of the publication log.

    Raises
    ------
    ContractError
        If a table does not pass the gate; nothing is published then. Limits can be forced, checks cannot.
    """
    checked = _check_tables(context)
    limits, compared = judge(context)
    forced = require_limits(limits, context.run.table_path(RECOMMENDATIONS), force=context.force)
    if forced:
        context.progress.say(f"publish: forced beyond {', '.join(f'gate.{name}' for name in forced)}", forced=forced)
    result = {**checked, "limits": [asdict(limit) for limit in limits], "compared": compared, "forced": forced}
    # The checks took a while: whoever was paused meanwhile must not publish what another process works on.
    context.require_lease()
    manifest = write_manifest(context, result)
    entry, is_new = publish_run(context.run, context.storage, forced)
    context.progress.say(
        f"publish: run {context.run.run_id} {'is now' if is_new else 'already was'} entry {entry.number} of the log"
        + (
            f"; readers stay with run {entry.run_id}"
            if entry.newest(context.run.root) != entry.run(context.run.root)
            else ""
        ),
        entry=entry.number,
    )
    return {**result, "manifest": manifest, "publication": asdict(entry)}


def _check_tables(context: StageContext) -> dict[str, Any]:
    """Check all tables that readers use; raise where one is at fault."""
    of_indexes = [check for table in (USER_INDEX, ITEM_INDEX) for check in _check_index(context, table)]
    hidden = _hidden_pairs(context)
    checks = check_recommendations(
        context.read(RECOMMENDATIONS),
        listed_users(context),
        context.read(ITEM_ELIGIBILITY),
        hidden,
        context.config.recommend.n,
    )
    limit = context.config.recommend.max_per_category
    if limit is not None:
        categories = item_categories(context.read(CATALOGUE))
        checks.append(check_categories(context.read(RECOMMENDATIONS), categories, limit))
    if context.config.recommend.max_new_items > 0:
        new = context.read(CONTENT_FACTORS).select("item_id", F.lit("new").alias("category"))
        limit = context.config.recommend.max_new_items
        checks.append(check_categories(context.read(RECOMMENDATIONS), new, limit, "new items"))
    if context.config.recommend.rows:
        checks.append(check_rows(context.read(RECOMMENDATION_ROWS), context.read(RECOMMENDATIONS)))
    require_all(checks, context.run.table_path(RECOMMENDATIONS))
    oracle, of_oracle = ask_oracle(context, hidden)
    require_all(of_oracle, context.run.table_path(RECOMMENDATIONS))
    of_neighbours = {table.name: _check_neighbours(context, table) for table in SIMILAR_TABLES}
    return {
        "checks_of_indexes": [asdict(check) for check in of_indexes],
        "checks": [asdict(check) for check in checks + of_oracle],
        "checks_of_neighbours": {name: [asdict(check) for check in found] for name, found in of_neighbours.items()},
        "oracle": oracle,
    }


def _check_index(context: StageContext, table: Table) -> list[Check]:
    """Prove that ids and numbers belong to each other one to one, in the version of the index that the run has used."""
    # Damage since then must not keep this run from its readers for ever.
    mend_index(context, table)
    n = context.record("index")["n_users" if table is USER_INDEX else "n_items"]
    version = index_version(context.run.root, table, context.storage, n)
    checks = check_ids(index_faults(version, context.read(table)))
    require_all(checks, version.folder)
    seal_parts(context, version)
    return checks


def _check_neighbours(context: StageContext, table: Table) -> list[Check]:
    """Check a table of neighbours; where it was not asked for, there is nothing to check."""
    config = similar_config(context, table)
    if config is None:
        return []
    users = context.read(USER_INDEX)
    is_of_items = table.key == ITEM_ELIGIBILITY.key
    eligibility = (
        context.read(ITEM_ELIGIBILITY) if is_of_items else users.withColumn("removed_by", F.lit(None).cast("string"))
    )
    checks = check_neighbours(context.read(table), rows_with_neighbours(context, table), eligibility, config.n)
    require_all(checks, context.run.table_path(table))
    return checks


def _hidden_pairs(context: StageContext) -> dict[str, DataFrame]:
    seen = seen_ratings(rated_pairs(context), context.config.recommend)
    hidden = {} if seen is None else {"items the user has already rated": seen}
    if context.config.recommend.blocks is not None:
        hidden["items that are blocked for the user"] = context.read(USER_BLOCKS)
    return hidden
