"""The publish stage: check the written table, seal the run with its manifest, and put it in the log."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark import __version__
from recsys_spark.publication_log import publish_run
from recsys_spark.publish.gate import Check, check_categories, check_neighbours, check_recommendations, require_all
from recsys_spark.recommend import (
    SIMILAR_TABLES,
    item_categories,
    listed_users,
    rated_pairs,
    rows_with_neighbours,
    seen_ratings,
    similar_config,
)
from recsys_spark.run_directory import STAGES, StageContext
from recsys_spark.storage import join, read_json
from recsys_spark.tables import (
    CATALOGUE,
    CONTENT_FACTORS,
    ITEM_ELIGIBILITY,
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
        The checks, the manifest's path, and the entry of the publication log.

    Raises
    ------
    ContractError
        If a table does not pass the gate; nothing is published then.
    """
    checks = check_recommendations(
        context.read(RECOMMENDATIONS),
        listed_users(context),
        context.read(ITEM_ELIGIBILITY),
        _hidden_pairs(context),
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
    require_all(checks, context.run.table_path(RECOMMENDATIONS))
    of_neighbours = {table.name: _check_neighbours(context, table) for table in SIMILAR_TABLES}
    manifest = join(context.run.path, "manifest.json")
    context.storage.write_text(manifest, json.dumps(_manifest(context), indent=2, ensure_ascii=False))
    entry, is_new = publish_run(context.run, context.storage)
    context.progress.say(
        f"publish: run {context.run.run_id} {'is now' if is_new else 'already was'} entry {entry.number} of the log",
        entry=entry.number,
    )
    return {
        "checks": [asdict(check) for check in checks],
        "checks_of_neighbours": {name: [asdict(check) for check in found] for name, found in of_neighbours.items()},
        "manifest": manifest,
        "publication": asdict(entry),
    }


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


def _manifest(context: StageContext) -> dict[str, Any]:
    """Return what made the tables: inputs, configuration, versions, and the record of every stage."""
    done = [stage for stage in STAGES if context.storage.exists(context.run.stage_record(stage))]
    return {
        "run": read_json(context.storage, join(context.run.path, "run.json")),
        "stages": {stage: context.record(stage) for stage in done},
        "versions": {
            "recsys_spark": __version__,
            "spark": context.spark.version,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "pyarrow": pa.__version__,
        },
        "sealed": datetime.now(UTC).isoformat(timespec="seconds"),
    }
