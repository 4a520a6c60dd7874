"""Tables that lie beside the log: catalogues and lists of items."""

from __future__ import annotations

import logging
from functools import reduce
from typing import TYPE_CHECKING

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    BinaryType,
    BooleanType,
    DataType,
    DateType,
    NumericType,
    StringType,
    StructField,
    StructType,
    TimestampNTZType,
    TimestampType,
)

from recsys_spark.errors import ConfigError, ContractError
from recsys_spark.storage.base import FileStatus, literal_path, storage_for

if TYPE_CHECKING:
    # Workers import this module through a stage, and have no pydantic.
    from recsys_spark.config.recommend import TableFile


log = logging.getLogger(__name__)

READABLE_TYPES = "columns of the types that Spark reads: not times of day, times in nanoseconds or half floats"
WRITE_OTHER_TYPES = (
    "write times in microseconds (pyarrow and pandas: coerce_timestamps='us'), others as numbers or text"
)
NUMBERS = (StringType, BinaryType, NumericType)
PLAIN = (*NUMBERS, BooleanType, DateType, TimestampType, TimestampNTZType)
_NAMES = {
    StringType: "text (binary too)",
    NumericType: "numbers",
    BooleanType: "booleans",
    DateType: "dates",
    TimestampType: "times",
    ArrayType: "lists of these",
}


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
        If the file or a column is not there, or a column holds neither single values nor, where these may be, lists.
    ContractError
        If a file cannot be read.
    """
    # One by one: files of a folder may differ in their column order.
    parts = [_columns_of(spark, file, found.path, where, columns) for found in list_table_files(file, where, spark)]
    return reduce(DataFrame.unionByName, parts)


def count_undecodable(frame: DataFrame, file: TableFile, where: str) -> int:
    """Return how many rows of a configured table hold bytes that are no text in its encoding; warn of them.

    Such bytes are read as U+FFFD. A U+FFFD that stands in the file counts too: it is what an earlier conversion has
    left of such bytes. One pass over the table.
    """
    found = frame.where(_is_undecodable(frame)).agg(
        F.count("*").alias("n"), F.first(F.struct(*map(_named, frame.columns)))
    )
    n, sample = found.collect()[0]
    if n:
        log.warning(
            f"{where}: {n:,} rows of {file.path} hold bytes that are no {file.encoding}, or U+FFFD itself, such as "
            f"{sample.asDict()}; each is read as U+FFFD. {_encoding_remedy(file, where)}",
            extra={"fields": {"file": where, "n_undecodable": n}},
        )
    return int(n)


def _is_undecodable(frame: DataFrame) -> Column:
    return reduce(
        Column.__or__, [F.coalesce(F.contains(_named(name), F.lit("\ufffd")), F.lit(False)) for name in frame.columns]
    )


def _encoding_remedy(file: TableFile, where: str) -> str:
    if file.format == "parquet" or file.encoding != "utf-8":
        return "Write the file anew, as UTF-8"
    return f"Set {where}.encoding: iso-8859-1 if it is in that encoding, or write it anew as UTF-8"


def read_ids(
    spark: SparkSession, file: TableFile, where: str, columns: dict[str, str], may_be_blank: tuple[str, ...] = ()
) -> DataFrame:
    """Read columns of ids, of a table whose every row has to be understood: what is not would be recommended.

    Cells of the roles in ``may_be_blank`` may be. Parameters, returns and raises as `read_table_file`; one pass over
    the table to look for rows at fault.

    Raises
    ------
    ContractError
        If a row lacks an id, or an id goes over the end of a line, as it does behind a stray quote, or has bytes that
        are no text.
    """
    frame = read_table_file(spark, file, where, columns)
    faults = [F.coalesce(F.col(role).rlike(r"[\r\n]"), F.lit(role not in may_be_blank)) for role in columns]
    is_faulty = reduce(Column.__or__, faults) | _is_undecodable(frame)
    faulty = frame.where(is_faulty).agg(F.count("*").alias("n"), F.min(F.struct(*columns)).alias("first")).collect()[0]
    if faulty["n"]:
        raise ContractError(
            "rows of a list cannot be understood",
            where=f"{where}: {file.path}",
            got=f"{faulty['n']:,} rows, such as {faulty['first'].asDict()}",
            allowed=f"an id in every row, in {file.encoding}",
            remedy="mend or remove these rows (a cut-off line, a stray quote, an empty cell); where they hold \ufffd: "
            + _encoding_remedy(file, where),
        )
    return frame


def _columns_of(spark: SparkSession, file: TableFile, path: str, where: str, columns: dict[str, str]) -> DataFrame:
    try:
        frame, types = _read(spark, file, literal_path(path))
    except Exception as error:
        raise _unreadable(path, where, error) from error
    for role, column in columns.items():
        if frame.columns.count(column) != 1:
            raise ConfigError(
                "the file has no such column",
                where=f"{path}: {where}.{role}",
                got=repr(column),
                allowed=", ".join(map(repr, frame.columns)),
                remedy=_remedy(frame.columns, where),
            )
        allowed = PLAIN if role in file.roles_of_one else (*PLAIN, ArrayType)
        require_type(types[column].dataType, f"{path}: {where}.{role}", column, allowed)
    cells = [
        _text(column, frame.schema[column].dataType, is_number=role in file.roles_of_numbers).alias(role)
        for role, column in columns.items()
    ]
    return frame.select(*cells)


def _read(spark: SparkSession, file: TableFile, path: str) -> tuple[DataFrame, StructType]:
    """Return the rows of a file, and the types of its columns; those of JSON lines are in the rows as text."""
    if file.format == "csv":
        # Over several lines, Spark's reader decodes by itself, and puts U+FFFD where it cannot.
        frame = spark.read.csv(
            path, sep=file.delimiter, header=True, escape='"', multiLine=True, encoding=file.encoding
        )
        return frame, frame.schema
    if file.format == "parquet":
        frame = spark.read.parquet(path)
        return frame, frame.schema
    # As one element of an array: of two objects on a line, Spark's parser would lose the second in silence. Numbers
    # as they are written: 1 beside 2.5 would become 1.0.
    types = spark.read.json(path, primitivesAsString=True, encoding=file.encoding, lineSep="\n")
    fields = types.drop("_corrupt_record").schema
    value = F.col("value")
    text = F.decode(value.cast("binary"), file.encoding) if file.encoding != "utf-8" else F.make_valid_utf8(value)
    lines = spark.read.text(path).select(text.alias("value")).where(F.trim("value") != "")
    schema = ArrayType(StructType([StructField(field.name, StringType()) for field in fields]))
    objects = F.from_json(F.concat(F.lit("["), F.col("value"), F.lit("]")), schema)
    one = F.when(F.size(objects) == 1, F.get(objects, F.lit(0)))
    frame = lines.select(one.alias("one")).select(
        *[F.col("one").getField(field.name).alias(field.name) for field in fields]
    )
    return frame, fields


def _unreadable(path: str, where: str, error: Exception) -> ContractError:
    return ContractError(
        "a table cannot be read",
        where=f"{path}: {where}",
        got=str(error).strip().splitlines()[0],
        allowed=READABLE_TYPES,
        remedy=f"check whether the file is whole, and {where}.format; {WRITE_OTHER_TYPES}",
    )


def require_type(kind: DataType, where: str, column: str, allowed: tuple[type[DataType], ...] = PLAIN) -> None:
    """Refuse a column of other types than are allowed; lists are, of the others, with ``ArrayType`` among these.

    Raises
    ------
    ConfigError
        It names the column and its type.
    """
    of_one = kind.elementType if isinstance(kind, ArrayType) and ArrayType in allowed else kind
    if isinstance(of_one, allowed) and not isinstance(of_one, ArrayType):
        return
    names = [name for each, name in _NAMES.items() if each in allowed]
    raise ConfigError(
        "a column is of a type that cannot be used",
        where=where,
        got=f"{column!r}: {kind.simpleString()[:200]}",
        allowed=", ".join(names),
        remedy="write one of these into the column, or name another column",
    )


def _remedy(columns: list[str], where: str) -> str:
    if not columns:
        return f"check whether the file is empty, and {where}.format: a file of JSON lines has one object on each line"
    or_delimiter = f", or {where}.delimiter to what stands between them" if len(columns) == 1 else ""
    return f"set it to one of the file's own columns{or_delimiter}"


def _text(column: str, kind: DataType, *, is_number: bool) -> Column:
    """Return a column as text; lists as JSON, as they stand in JSON lines too; times that are numbers, in days."""
    cell = _named(column)
    if isinstance(kind, ArrayType):
        # Of bytes, JSON would have Base64.
        is_text = isinstance(kind.elementType, StringType | BinaryType)
        cell = F.transform(cell, lambda each: F.make_valid_utf8(each.cast("string"))) if is_text else cell
        return F.to_json(cell)
    if is_number and isinstance(kind, BooleanType):
        cell = cell.cast("int")
    elif is_number and isinstance(kind, DateType):
        cell = F.unix_date(cell)
    elif is_number and isinstance(kind, TimestampType | TimestampNTZType):
        cell = F.unix_micros(cell.cast("timestamp")) / F.lit(86_400_000_000)
    return F.make_valid_utf8(cell.cast("string"))


def _named(column: str) -> Column:
    """Return a column by a name that may have dots and backticks."""
    return F.col("`" + column.replace("`", "``") + "`")
