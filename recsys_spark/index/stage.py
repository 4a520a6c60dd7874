"""The index stage: ``ratings`` in, ``user_index``, ``item_index`` and ``indexed_ratings`` out."""

from __future__ import annotations

from typing import Any

from pyspark.sql import functions as F

from recsys_spark.index.id_index import IndexVersion, append_ids
from recsys_spark.index.mended_index import mend_index, places_of_parts
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.storage import join
from recsys_spark.tables import INDEXED_RATINGS, ITEM_INDEX, RATINGS, USER_INDEX, Table

TABLES = (USER_INDEX, ITEM_INDEX, INDEXED_RATINGS)


def run(context: StageContext) -> dict[str, Any]:
    """Give numbers to ids that have none yet, and write the run's ids and ratings in terms of them.

    Shuffles: one of the distinct ids per side, two more of the new ones, and two joins per side, which Spark
    broadcasts where the index is small. The driver receives one number per partition.

    Returns
    -------
    dict
        ``n_users`` and ``n_items``, the numbers given so far, which arrays by index are as long as; ``users`` and
        ``items`` of this run; ``n_ratings``; ``versions`` of the two indexes, the ``parts`` of these, and how many
        were damaged and written again (``mended_parts``).

    Raises
    ------
    RecsysError
        If an index is damaged, and its numbers are not in the tables of published runs.
    """
    ratings = context.read(RATINGS)
    mended = {table.name: mend_index(context, table) for table in (USER_INDEX, ITEM_INDEX)}
    users, items = _write_index(context, USER_INDEX), _write_index(context, ITEM_INDEX)
    indexed = (
        ratings.select(
            "user_id", "item_id", *[F.col(name).cast("float").alias(name) for name in ("rating", "weight")], "timestamp"
        )
        .join(context.read(USER_INDEX), "user_id")
        .join(context.read(ITEM_INDEX), "item_id")
    )
    context.write(INDEXED_RATINGS, indexed)
    n_ratings = context.read(INDEXED_RATINGS).count()
    n_users, n_items = context.read(USER_INDEX).count(), context.read(ITEM_INDEX).count()
    context.progress.say(
        f"index: {n_users:,} users, {n_items:,} items, {n_ratings:,} ratings", users=n_users, items=n_items
    )
    return {
        "n_users": users.n,
        "n_items": items.n,
        "users": n_users,
        "items": n_items,
        "n_ratings": n_ratings,
        "versions": {version.table.name: version.number for version in (users, items)},
        # Should a version's own entry be damaged one day.
        "parts": {version.table.name: places_of_parts(version) for version in (users, items)},
        "mended_parts": mended,
    }


def _write_index(context: StageContext, table: Table) -> IndexVersion:
    work = join(context.run.path, f"_{table.name}")
    context.storage.remove(work)
    context.read(RATINGS).select(table.key[0]).distinct().write.mode("error").parquet(work)
    ids = context.spark.read.schema(table.key[0] + " string").parquet(work)
    version = append_ids(context, table, ids)
    context.write(table, version.read(context.spark).join(ids, table.key[0], "left_semi"))
    context.storage.remove(work)
    return version
