"""The index stage: ``ratings`` in, ``user_index``, ``item_index`` and ``indexed_ratings`` out."""

from __future__ import annotations

from typing import Any

from pyspark.sql import functions as F

from recsys_spark.index.dense_index import write_dense_index
from recsys_spark.run_directory import StageContext
from recsys_spark.storage import join
from recsys_spark.tables import INDEXED_RATINGS, ITEM_INDEX, RATINGS, USER_INDEX, Table

TABLES = (USER_INDEX, ITEM_INDEX, INDEXED_RATINGS)


def run(context: StageContext) -> dict[str, Any]:
    """Write the two indexes and the ratings in terms of them.

    Shuffles: two of the distinct ids per side, and one join per side, which Spark broadcasts where the
    index is small. The driver receives one number per partition.

    Returns
    -------
    dict
        ``n_users``, ``n_items``, ``n_ratings``.
    """
    ratings = context.read(RATINGS)
    n_users = _write_index(context, USER_INDEX)
    n_items = _write_index(context, ITEM_INDEX)
    indexed = (
        ratings.select(
            "user_id", "item_id", *[F.col(name).cast("float").alias(name) for name in ("rating", "weight")], "timestamp"
        )
        .join(context.read(USER_INDEX), "user_id")
        .join(context.read(ITEM_INDEX), "item_id")
    )
    context.write(INDEXED_RATINGS, indexed)
    n_ratings = context.read(INDEXED_RATINGS).count()
    context.progress.say(
        f"index: {n_users:,} users, {n_items:,} items, {n_ratings:,} ratings", users=n_users, items=n_items
    )
    return {"n_users": n_users, "n_items": n_items, "n_ratings": n_ratings}


def _write_index(context: StageContext, table: Table) -> int:
    return write_dense_index(
        context.read(RATINGS).select(table.key[0]),
        table,
        context.run.table_path(table),
        join(context.run.path, f"_{table.name}"),
        context.storage,
    )
