"""Tables that lie beside the log: catalogues and lists of items."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.errors import ConfigError
from recsys_spark.storage import FileStatus, literal_path, storage_for

if TYPE_CHECKING:
    # Workers import this module through a stage, and have no pydantic.
    from recsys_spark.config import TableFile


def list_table_files(file: TableFile, where: str, spark: SparkSession | None = None) -> list[FileStatus]:
    """Return the files of a configured table; ``where`` is the section that names it.

    Raises
    ------
    ConfigError
        If there are none.
    """
    files = storage_for(file.path, spark).find(file.path)
    if not files:
        raise ConfigError("no such file was found", where=f"{where}.path", got=file.path)
    return files


def read_table_file(spark: SparkSession, file: TableFile, where: str, columns: dict[str, str]) -> DataFrame:
    """Read some columns of a configured table as text.

    Parameters
    ----------
    spark : SparkSession
    file : TableFile
    where : str
        The section that names it.
    columns : dict
        Role to column of the file.

    Returns
    -------
    DataFrame
        One string column per role. A projection.

    Raises
    ------
    ConfigError
        If the file or a column is not there.
    """
    paths = [literal_path(found.path) for found in list_table_files(file, where, spark)]
    if file.format == "csv":
        frame = spark.read.csv(paths, sep=file.delimiter, header=True, escape='"', multiLine=True)
    elif file.format == "jsonl":
        frame = spark.read.json(paths)
    else:
        frame = spark.read.parquet(*paths)
    for role, column in columns.items():
        if frame.columns.count(column) != 1:
            raise ConfigError(
                "the file has no such column",
                where=f"{file.path}: {where}.{role}",
                got=repr(column),
                allowed=", ".join(map(repr, frame.columns)),
                remedy="set it to one of the file's own columns",
            )
    return frame.select(*[F.col(f"`{column}`").cast("string").alias(role) for role, column in columns.items()])
