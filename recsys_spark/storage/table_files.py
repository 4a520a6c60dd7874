"""Tables that lie beside the log: catalogues and lists of items."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, StringType, StructField, StructType

from recsys_spark.errors import ConfigError, ContractError
from recsys_spark.storage.base import FileStatus, literal_path, storage_for

if TYPE_CHECKING:
    # Workers import this module through a stage, and have no pydantic.
    from recsys_spark.config.recommend import TableFile


def list_table_files(file: TableFile, where: str, spark: SparkSession | None = None) -> list[FileStatus]:
    """Return the files of a configured table; ``where`` is the section that names it.

    Raises
    ------
    ConfigError
        If there are none.
    """
    files = storage_for(file.path, spark).find(file.path)
    if not files:
        raise ConfigError(
            "no such file was found",
            where=f"{where}.path",
            got=file.path,
            remedy="check the path, folder or glob; it begins in the folder where the command is run",
        )
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
    # One by one: files of a folder may differ in their column order.
    parts = [_select(_read(spark, file, path), path, where, columns) for path in paths]
    return reduce(DataFrame.unionByName, parts)


def read_ids(
    spark: SparkSession, file: TableFile, where: str, columns: dict[str, str], may_be_blank: tuple[str, ...] = ()
) -> DataFrame:
    """Read columns of ids, of a table whose every row has to be understood: what is not would be recommended.

    Cells of the roles in ``may_be_blank`` may be. Parameters, returns and raises as `read_table_file`; one pass over
    the table to look for rows at fault.

    Raises
    ------
    ContractError
        If a row lacks an id, or an id goes over the end of a line, as it does behind a stray quote.
    """
    frame = read_table_file(spark, file, where, columns)
    faults = [F.coalesce(F.col(role).rlike(r"[\r\n]"), F.lit(role not in may_be_blank)) for role in columns]
    is_faulty = reduce(Column.__or__, faults)
    faulty = frame.where(is_faulty).agg(F.count("*").alias("n"), F.min(F.struct(*columns)).alias("first")).collect()[0]
    if faulty["n"]:
        raise ContractError(
            "rows of a list cannot be understood",
            where=f"{where}: {file.path}",
            got=f"{faulty['n']:,} rows, such as {faulty['first'].asDict()}",
            allowed="an id in every row",
            remedy="mend or remove these rows (a cut-off line, a stray quote, an empty cell)",
        )
    return frame


def _read(spark: SparkSession, file: TableFile, path: str) -> DataFrame:
    if file.format == "csv":
        return spark.read.csv(path, sep=file.delimiter, header=True, escape='"', multiLine=True)
    if file.format == "parquet":
        return spark.read.parquet(path)
    # As one element of an array: of two objects on a line, Spark's parser would lose the second in silence. Numbers
    # as they are written: 1 beside 2.5 would become 1.0.
    fields = spark.read.json(path, primitivesAsString=True).drop("_corrupt_record").schema
    lines = spark.read.text(path).where(F.trim("value") != "")
    schema = ArrayType(StructType([StructField(field.name, StringType()) for field in fields]))
    objects = F.from_json(F.concat(F.lit("["), F.col("value"), F.lit("]")), schema)
    one = F.when(F.size(objects) == 1, F.get(objects, F.lit(0)))
    return lines.select(one.alias("one")).select(
        *[F.col("one").getField(field.name).alias(field.name) for field in fields]
    )


def _select(frame: DataFrame, path: str, where: str, columns: dict[str, str]) -> DataFrame:
    for role, column in columns.items():
        if frame.columns.count(column) != 1:
            raise ConfigError(
                "the file has no such column",
                where=f"{path}: {where}.{role}",
                got=repr(column),
                allowed=", ".join(map(repr, frame.columns)),
                remedy=_remedy(frame.columns, where),
            )
    return frame.select(*[_text(frame, column).alias(role) for role, column in columns.items()])


def _remedy(columns: list[str], where: str) -> str:
    if not columns:
        return f"check whether the file is empty, and {where}.format: a file of JSON lines has one object on each line"
    or_delimiter = f", or {where}.delimiter to what stands between them" if len(columns) == 1 else ""
    return f"set it to one of the file's own columns{or_delimiter}"


def _text(frame: DataFrame, column: str) -> Column:
    """Return a column as text; lists as JSON, as they stand in JSON lines too."""
    cell = F.col("`" + column.replace("`", "``") + "`")
    return F.to_json(cell) if isinstance(frame.schema[column].dataType, ArrayType) else cell.cast("string")
