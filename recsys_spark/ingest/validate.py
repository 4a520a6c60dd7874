"""The checks on a raw row: the first that fails names the reason for which the row is set aside."""

from __future__ import annotations

from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.config.input import IngestConfig, InputConfig
from recsys_spark.errors import ConfigError
from recsys_spark.interval import Interval

REASONS = {
    "invalid_encoding": "bytes that are not valid in the configured encoding",
    "header_line": "the header once more, as in files that were joined",
    "malformed_line": "another number of cells than the file's columns, unbalanced quotes, or broken JSON",
    "missing_user_id": "empty or blank user id",
    "missing_item_id": "empty or blank item id",
    "id_too_long": "an id longer than ingest.max_id_length",
    "missing_rating": "empty rating",
    "unparsable_rating": "a rating that is not a number",
    "non_finite_rating": "NaN, infinite, or too large for single precision",
    "rating_out_of_range": "outside ingest.rating_range",
    "bad_timestamp": "an event time that is missing or not in input.timestamp_format",
    "bad_weight": "a weight that is missing, not a number, or not between 1e-6 and 1e6",
}

_NUMBER = r"^\s*[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?\s*$"
# Spark's JSON reader gives NaN and infinite numbers as text in quotes.
_NON_FINITE = r'(?i)^\s*"?[+-]?(nan|inf|infinity)"?\s*$'
# Squares of ratings are summed in single precision, whose largest value is 3.4e38.
_LARGEST_RATING = 1e12
_WEIGHTS = (1e-6, 1e6)
_LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z


def check_rows(rows: DataFrame, input_config: InputConfig, config: IngestConfig) -> DataFrame:
    """Type the columns of raw rows and name what is wrong with each.

    Parameters
    ----------
    rows : DataFrame
        As ``read_raw_rows`` returns them.
    input_config : InputConfig
    config : IngestConfig

    Returns
    -------
    DataFrame
        ``source_file, raw, user_id, item_id, rating double, timestamp, weight double, reason`` with ``reason`` null for
        good rows. A projection: no shuffle, nothing reaches the driver. Every header line is among the rows;
        see ``without_first_headers``.
    """
    has_rating = input_config.columns.rating is not None
    has_timestamp = input_config.columns.timestamp is not None
    has_weight = input_config.columns.weight is not None
    typed = rows.withColumns(
        {
            "number": F.when(F.col("rating").rlike(_NUMBER), F.expr("try_cast(rating as double)"))
            if has_rating
            else F.lit(1.0),
            "time": _event_time(input_config.timestamp_format) if has_timestamp else F.lit(None).cast("timestamp"),
            "weight": F.when(F.col("weight").rlike(_NUMBER), F.expr("try_cast(weight as double)"))
            if has_weight
            else F.lit(None).cast("double"),
        }
    )
    return typed.select(
        "source_file",
        "raw",
        F.col("user").alias("user_id"),
        F.col("item").alias("item_id"),
        F.col("number").alias("rating"),
        F.col("time").alias("timestamp"),
        "weight",
        _reason(config, has_rating=has_rating, has_timestamp=has_timestamp, has_weight=has_weight).alias("reason"),
    )


def _reason(config: IngestConfig, *, has_rating: bool, has_timestamp: bool, has_weight: bool) -> Column:
    number = F.col("number")
    checks: list[tuple[str, Column]] = [
        ("missing_user_id", _is_blank("user")),
        ("missing_item_id", _is_blank("item")),
        ("id_too_long", F.greatest(F.length("user"), F.length("item")) > config.max_id_length),
    ]
    if has_rating:
        checks += [
            ("missing_rating", _is_blank("rating")),
            ("non_finite_rating", F.col("rating").rlike(_NON_FINITE)),
            ("unparsable_rating", number.isNull()),
            ("non_finite_rating", F.isnan(number) | (F.abs(number) > _LARGEST_RATING)),
        ]
    if config.rating_range is not None:
        checks.append(("rating_out_of_range", ~number.between(*config.rating_range)))
    if has_timestamp:
        checks.append(("bad_timestamp", F.col("time").isNull()))
    if has_weight:
        checks.append(("bad_weight", ~F.coalesce(F.col("weight").between(*_WEIGHTS), F.lit(False))))
    return F.coalesce(F.col("fault"), *[F.when(failed, F.lit(reason)) for reason, failed in checks])


def _is_blank(column: str) -> Column:
    # (?U): also the no-break and ideographic spaces that spreadsheets leave behind.
    return F.col(column).isNull() | F.col(column).rlike(r"(?U)^\s*$")


def _event_time(timestamp_format: str) -> Column:
    """Return the event time, or null where the text is not in the format or not in the years 1970 to 9999."""
    if timestamp_format in ("unix_seconds", "unix_millis"):
        per_second = 1 if timestamp_format == "unix_seconds" else 1000
        seconds = F.when(F.col("timestamp").rlike(_NUMBER), F.expr("try_cast(timestamp as double)")) / per_second
        return F.when(seconds.between(0, _LAST_SECOND), F.timestamp_micros(F.round(seconds * 1e6).cast("bigint")))
    text = F.trim("timestamp")
    if timestamp_format == "iso":
        # A bare time of day would be taken for today's, and a bare year for its first day.
        time = F.when(text.rlike(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}"), F.expr("try_cast(trim(timestamp) as timestamp)"))
    else:
        time = F.try_to_timestamp(text, F.lit(timestamp_format))
    return F.when(F.year(time).between(1970, 9999), time)


def check_timestamp_format(spark: SparkSession, timestamp_format: str) -> None:
    """Raise ConfigError where Spark does not know the date pattern; one job of one row."""
    if timestamp_format in ("unix_seconds", "unix_millis", "iso"):
        return
    try:
        # Not a literal: the optimizer drops what it can compute and nobody reads.
        spark.range(1).select(F.date_format(F.timestamp_seconds("id"), timestamp_format)).collect()
        spark.range(1).select(F.try_to_timestamp(F.col("id").cast("string"), F.lit(timestamp_format))).collect()
    except PySparkException as error:
        raise ConfigError(
            "the date pattern cannot be used",
            where="input.timestamp_format",
            got=f"{timestamp_format!r} ({str(error).strip().splitlines()[0][:200]})",
            allowed="unix_seconds, unix_millis, iso, or a pattern of y, M, d, H, m, s, S and quoted text",
            remedy="for example yyyy-MM-dd HH:mm:ss",
        ) from None


def without_first_headers(checked: DataFrame) -> DataFrame:
    """Drop one header line per file, which is no row; further copies of it stay.

    Shuffles the header lines only.
    """
    is_header = F.col("reason").eqNullSafe(F.lit("header_line"))
    per_file = checked.where(is_header).groupBy(*checked.columns).agg(F.count("*").alias("copies"))
    further = per_file.where("copies > 1").withColumn("copy", F.explode(F.expr("sequence(2, copies)")))
    return checked.where(~is_header).unionByName(further.select(*checked.columns))


def in_interval(interval: Interval) -> Column:
    """Return whether a row is in the run's interval; a row without a readable event time is."""
    time = F.col("timestamp")
    return time.isNull() | ((time >= F.lit(interval.start)) & (time < F.lit(interval.end)))
