"""The item catalogue: titles for people to read, and when items may be recommended."""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.config import CatalogueConfig
from recsys_spark.storage import FileStatus
from recsys_spark.table_files import list_table_files, read_table_file

_ROLES = ("title", "by", "available", "start", "end")


def list_catalogue(config: CatalogueConfig, spark: SparkSession | None = None) -> list[FileStatus]:
    """Return the catalogue's files.

    Raises
    ------
    ConfigError
        If there are none.
    """
    return list_table_files(config, "catalogue", spark)


def read_catalogue(spark: SparkSession, config: CatalogueConfig) -> DataFrame:
    """Read ``item_id, title, by, available, start, end`` as text; null where not configured. One shuffle, by item.

    Of several rows of an item, the first in the order of these columns stands.

    Raises
    ------
    ConfigError
        If the file or a configured column is not there.
    """
    named = {role: getattr(config, role) for role in ("item", *_ROLES)}
    rows = read_table_file(spark, config, "catalogue", {role: name for role, name in named.items() if name is not None})
    absent = {role: F.lit(None).cast("string") for role in _ROLES if named[role] is None}
    by_item = rows.withColumns(absent).where(F.col("item").isNotNull()).groupBy(F.col("item").alias("item_id"))
    return by_item.agg(F.min(F.struct(*_ROLES)).alias("shown")).select("item_id", "shown.*")
