"""The item catalogue: titles for people to read."""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.config import CatalogueConfig
from recsys_spark.errors import ConfigError
from recsys_spark.storage import FileStatus, literal_path, storage_for


def list_catalogue(config: CatalogueConfig, spark: SparkSession | None = None) -> list[FileStatus]:
    """Return the catalogue's files.

    Raises
    ------
    ConfigError
        If there are none.
    """
    files = storage_for(config.path, spark).find(config.path)
    if not files:
        raise ConfigError("no catalogue file was found", where="catalogue.path", got=config.path)
    return files


def read_catalogue(spark: SparkSession, config: CatalogueConfig) -> DataFrame:
    """Read ``item_id, title, by``, one row per item (the first title in sorted order). One shuffle, by item.

    Raises
    ------
    ConfigError
        If the file or a configured column is not there.
    """
    paths = [literal_path(file.path) for file in list_catalogue(config, spark)]
    if config.format == "csv":
        frame = spark.read.csv(paths, sep=config.delimiter, header=True, escape='"', multiLine=True)
    elif config.format == "jsonl":
        frame = spark.read.json(paths)
    else:
        frame = spark.read.parquet(*paths)
    wanted = {"item": config.item, "title": config.title} | ({"by": config.by} if config.by else {})
    for role, column in wanted.items():
        if frame.columns.count(column) != 1:
            raise ConfigError(
                "the catalogue has no such column",
                where=f"{config.path}: catalogue.{role}",
                got=repr(column),
                allowed=", ".join(map(repr, frame.columns)),
                remedy="set it to one of the file's own columns",
            )
    columns = {role: F.col(f"`{column}`").cast("string") for role, column in wanted.items()}
    rows = frame.select(
        columns["item"].alias("item_id"),
        F.struct(columns["title"].alias("title"), columns.get("by", F.lit(None).cast("string")).alias("by")).alias(
            "shown"
        ),
    )
    named = rows.where(F.col("item_id").isNotNull()).groupBy("item_id").agg(F.min("shown").alias("shown"))
    return named.select("item_id", "shown.title", "shown.by")
