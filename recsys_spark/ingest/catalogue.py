"""The item catalogue: titles for people to read, categories, and when items may be recommended."""

from __future__ import annotations

from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.config.recommend import CatalogueConfig
from recsys_spark.storage.table_files import read_table_file

_ROLES = ("title", "by", "available", "start", "end", "category")


def read_catalogue(spark: SparkSession, config: CatalogueConfig) -> DataFrame:
    """Read ``item_id, title, by, available, start, end, category`` as text; null where not configured.

    One shuffle, by item. Of several rows of an item, the first title and the first category in the order of the
    letters stand; where they disagree on when the item may be recommended, blank cells aside, ``available`` says so
    and cannot be read, which keeps the item out.

    Raises
    ------
    ConfigError
        If the file or a configured column is not there.
    """
    rows = read_table_file(spark, config, "catalogue", config.columns)
    absent = {role: F.lit(None).cast("string") for role in _ROLES if role not in config.columns}
    by_item = rows.withColumns(absent).where(F.col("item").isNotNull()).groupBy(F.col("item").alias("item_id"))
    offers = {role: F.when(F.trim(role) != "", F.col(role)) for role in ("available", "start", "end")}
    disagreeing = reduce(Column.__or__, [F.count_distinct(cell) > 1 for cell in offers.values()])
    one = by_item.agg(
        F.min(F.struct("title", "by")).alias("shown"),
        F.when(disagreeing, F.lit("rows disagree")).otherwise(F.min(offers["available"])).alias("available"),
        *[F.min(offers[role]).alias(role) for role in ("start", "end")],
        F.min(F.when(F.trim("category") != "", F.col("category"))).alias("category"),
    )
    return one.select("item_id", "shown.*", "available", "start", "end", "category")
