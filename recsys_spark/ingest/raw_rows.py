"""Input files of any format -> raw rows: the text as it stood, its file, and the mapped columns as strings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, BinaryType, StringType, StructField, StructType

from recsys_spark.config.input import InputConfig
from recsys_spark.errors import ConfigError, ContractError
from recsys_spark.ingest.headers import CsvLayout, check_json_fields, csv_layouts, mapped_columns
from recsys_spark.session import default_parallelism
from recsys_spark.storage import FileStatus, Storage, literal_path
from recsys_spark.storage.table_files import NUMBERS, PLAIN, READABLE_TYPES, WRITE_OTHER_TYPES, require_type

_ROLES = ("user", "item", "rating", "timestamp", "weight")


def read_raw_rows(spark: SparkSession, config: InputConfig, storage: Storage, files: Sequence[FileStatus]) -> DataFrame:
    """Read every row of the input files, well formed or not.

    Parameters
    ----------
    spark : SparkSession
    config : InputConfig
    storage : Storage
        Of the files; their first bytes are read on the driver.
    files : sequence of FileStatus

    Returns
    -------
    DataFrame
        ``source_file, raw, fault, user, item, rating, timestamp, weight`` (strings; a role that is not mapped is
        null). ``fault`` says what is wrong with the line as a whole: ``invalid_encoding``,
        ``header_line``, ``malformed_line`` or null. Empty lines are not rows. A projection: no shuffle,
        nothing reaches the driver.

    Raises
    ------
    ConfigError, ContractError
        If a mapped column is missing, or every file is empty.
    """
    if config.format == "csv":
        return _read_csv(spark, config, csv_layouts(config, storage, files))
    if config.format == "jsonl":
        check_json_fields(config, storage, files)
        return _json_rows(_lines(spark, config, [file.path for file in files]), config)
    return _read_parquet(spark, config, files)


def _read_csv(spark: SparkSession, config: InputConfig, layouts: dict[str, CsvLayout]) -> DataFrame:
    """Read files of one layout together; files may differ in their column order."""
    paths: dict[tuple[str | None, int], list[str]] = defaultdict(list)
    for path, layout in layouts.items():
        paths[layout.header, layout.n_columns].append(path)
    groups = [(layouts[members[0]], members) for members in paths.values()]
    return reduce(
        DataFrame.unionByName,
        [_csv_rows(_lines(spark, config, members), config, layout) for layout, members in groups],
    )


def _lines(spark: SparkSession, config: InputConfig, paths: Sequence[str]) -> DataFrame:
    """Return ``source_file, raw, is_valid`` of every line that is not empty.

    The text reader keeps the bytes as they are and ends lines at LF, CRLF and CR; it drops a byte order mark.
    """
    value = F.col("value")
    as_latin_1 = F.decode(value.cast("binary"), "ISO-8859-1")
    is_valid = F.lit(True) if config.encoding == "iso-8859-1" else F.is_valid_utf8(value)
    raw = as_latin_1 if config.encoding == "iso-8859-1" else F.when(is_valid, value).otherwise(as_latin_1)
    lines = spark.read.text([literal_path(path) for path in paths]).select("value", "_metadata.file_path")
    if all(path.endswith(".gz") for path in paths) and len(paths) < (cores := default_parallelism(spark)):
        # One task reads a gzip file from end to end; the checks on its lines need not be one task too.
        lines = lines.repartition(cores)
    return lines.where(F.length("value") > 0).select(
        _source_file().alias("source_file"), raw.alias("raw"), is_valid.alias("is_valid")
    )


def _source_file() -> Column:
    """Return the path of the row's file as a person writes it: no percent signs, no ``file://`` before local ones."""
    path = F.col("file_path")
    decoded = F.url_decode(F.replace(path, F.lit("+"), F.lit("%2B")))
    plain = F.when(F.contains(path, F.lit("%")), decoded).otherwise(path)
    local = F.concat(F.lit("/"), F.ltrim(F.substring(plain, len("file:/"), 2**31 - 1), F.lit("/")))
    return F.when(F.startswith(path, F.lit("file:/")), local).otherwise(plain)


def _csv_rows(lines: DataFrame, config: InputConfig, layout: CsvLayout) -> DataFrame:
    names = [f"c{position}" for position in range(layout.n_columns)]
    schema = StructType([StructField(name, StringType()) for name in [*names, "malformed_line"]])
    options = {
        "sep": config.delimiter,
        "quote": config.quote or "\u0000",
        # A quote inside a quoted cell is written twice; a backslash is an ordinary character.
        "escape": config.quote or "\u0000",
        "mode": "PERMISSIVE",
        "columnNameOfCorruptRecord": "malformed_line",
        "maxCharsPerColumn": "-1",
    }
    parsed = lines.withColumn("cells", F.from_csv("raw", F.lit(schema.simpleString()), options))
    cells: dict[str, Column] = {role: F.col(f"cells.c{position}") for role, position in layout.positions.items()}
    is_header = F.lit(False) if layout.header is None else F.col("raw") == F.lit(layout.header)
    is_malformed = F.col("cells.malformed_line").isNotNull() | _ends_within_quotes(config)
    return _rows(parsed, _fault(is_header, is_malformed), cells)


def _ends_within_quotes(config: InputConfig) -> Column:
    """Return whether a line's last cell begins with a quote that is never closed, which Spark's parser overlooks."""
    if not config.quote:
        return F.lit(False)
    quote, separator = (f"\\Q{text}\\E" for text in (config.quote, config.delimiter))
    # Possessive throughout: Java's matcher neither backtracks nor recurses, however long the line is.
    inside = f"[^{quote}]*+(?:{quote}{quote}[^{quote}]*+)*+"
    whole_cell = f"(?:{quote}{inside}{quote}|(?!{quote})(?:(?!{separator}).)*+)"
    return F.contains("raw", F.lit(config.quote)) & F.col("raw").rlike(
        f"(?s)^(?:{whole_cell}{separator})*+{quote}{inside}$"
    )


def _json_rows(lines: DataFrame, config: InputConfig) -> DataFrame:
    """Parse each line as the one element of an array: Spark's parser ends at the first object's last brace.

    Of ``{...}{...}``, two records on one line, it would give the first and lose the second in silence.
    """
    columns = mapped_columns(config)
    schema = ArrayType(StructType([StructField(str(name), StringType()) for name in columns.values()]))
    one_element = F.concat(F.lit("["), F.col("raw"), F.lit("]"))
    parsed = lines.withColumn("objects", F.from_json(one_element, schema, {"mode": "PERMISSIVE"}))
    is_one_object = F.coalesce(F.size("objects") == 1, F.lit(False)) & F.get("objects", F.lit(0)).isNotNull()
    parsed = parsed.withColumn("cells", F.get("objects", F.lit(0)))
    cells: dict[str, Column] = {role: F.col("cells").getField(str(name)) for role, name in columns.items()}
    return _rows(parsed, _fault(F.lit(False), ~is_one_object), cells)


def _fault(is_header: Column, is_malformed: Column) -> Column:
    return (
        F.when(~F.col("is_valid"), F.lit("invalid_encoding"))
        .when(is_header, F.lit("header_line"))
        .when(is_malformed, F.lit("malformed_line"))
    )


def _read_parquet(spark: SparkSession, config: InputConfig, files: Sequence[FileStatus]) -> DataFrame:
    try:
        frame = spark.read.parquet(*[literal_path(file.path) for file in files])
    except Exception as error:
        raise ContractError(
            "the Parquet input cannot be read",
            where=", ".join(file.path for file in files[:3]),
            got=str(error).strip().splitlines()[0],
            allowed=READABLE_TYPES,
            remedy=f"check that the files are complete and input.format is right; {WRITE_OTHER_TYPES}",
        ) from error
    columns = mapped_columns(config)
    for role, name in columns.items():
        if frame.columns.count(str(name)) != 1:
            raise ConfigError(
                "the file has no such column",
                where=f"{files[0].path}: input.columns.{role}",
                got=repr(name),
                allowed=", ".join(map(repr, frame.columns)),
                remedy="set input.columns to the file's own names",
            )
        allowed = NUMBERS if role in ("rating", "weight") else PLAIN
        require_type(frame.schema[str(name)].dataType, f"{files[0].path}: input.columns.{role}", str(name), allowed)
    texts = [
        F.col(f"`{name}`").cast("string")
        for name in columns.values()
        if isinstance(frame.schema[str(name)].dataType, StringType | BinaryType)
    ]
    is_valid = reduce(Column.__and__, [F.coalesce(F.is_valid_utf8(text), F.lit(True)) for text in texts], F.lit(True))
    fault = F.when(~is_valid, F.lit("invalid_encoding"))
    rows = frame.select("*", "_metadata.file_path").select(
        _source_file().alias("source_file"),
        F.to_json(F.struct(*[F.col(f"`{name}`") for name in frame.columns])).alias("raw"),
        fault.alias("bad_text"),
        *[_as_text(frame, str(name), config).alias(f"cell_{role}") for role, name in columns.items()],
    )
    return _rows(rows, F.col("bad_text"), {role: F.col(f"cell_{role}") for role in columns})


def _as_text(frame: DataFrame, name: str, config: InputConfig) -> Column:
    """Return a typed column as the text that the checks read; a typed time in ``input.timestamp_format``."""
    column = F.col(f"`{name}`")
    if frame.schema[name].dataType.typeName() not in ("timestamp", "timestamp_ntz", "date"):
        return column.cast("string")
    time, written = column.cast("timestamp"), config.timestamp_format
    if written in ("unix_seconds", "unix_millis"):
        per_unit = 1_000_000 if written == "unix_seconds" else 1_000
        return (F.unix_micros(time).cast("decimal(20,0)") / F.lit(per_unit)).cast("string")
    return F.date_format(time, "yyyy-MM-dd'T'HH:mm:ss.SSSSSS'Z'" if written == "iso" else written)


def _rows(frame: DataFrame, fault: Column, cells: dict[str, Column]) -> DataFrame:
    absent = F.lit(None).cast("string")
    roles = [cells.get(role, absent).alias(role) for role in _ROLES]
    return frame.select("source_file", "raw", fault.alias("fault"), *roles)
