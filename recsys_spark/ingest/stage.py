"""The ingest stage: raw log in, ``ratings`` and ``quarantine`` out, and the count of every row."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.config import PipelineConfig
from recsys_spark.config.input import InputConfig
from recsys_spark.config.recommend import ItemFile, SegmentFile, UserItemFile
from recsys_spark.errors import ConfigError, ContractError, NothingToReadError
from recsys_spark.ingest.catalogue import read_catalogue
from recsys_spark.ingest.headers import list_inputs
from recsys_spark.ingest.kept_ratings import keep_ratings
from recsys_spark.ingest.log_files import LogFiles, check_interval, list_log, tell_empty_days
from recsys_spark.ingest.merged_ratings import write_ratings
from recsys_spark.ingest.raw_rows import read_raw_rows
from recsys_spark.ingest.room import require_room
from recsys_spark.ingest.row_counts import count_rows, plain_path
from recsys_spark.ingest.validate import (
    REASONS,
    check_rows,
    check_timestamp_format,
    in_interval,
    without_first_headers,
)
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.storage import FileStatus, join, storage_for
from recsys_spark.storage.table_files import count_undecodable, read_ids, read_table_file
from recsys_spark.tables import (
    CANCELLED_RATINGS,
    CATALOGUE,
    LATE_RATINGS,
    NEW_QUARANTINE,
    NEW_RATINGS,
    QUARANTINE,
    RATINGS,
    Table,
)

TABLES = (RATINGS, QUARANTINE, CATALOGUE, CANCELLED_RATINGS, LATE_RATINGS)
NEW_RATINGS_SETTING = "recommend.new_ratings"
_CHECKED_ROWS = "_checked_rows"
_CHECKED_SCHEMA = (
    "source_file string, raw string, user_id string, item_id string, rating double, timestamp timestamp, "
    "weight double, reason string"
)


@dataclass(frozen=True, slots=True)
class _Log:
    """Where the rows of a log go: those that are ratings, and those that are not."""

    title: str
    ratings: Table
    quarantine: Table


_LOG = _Log("ingest", RATINGS, QUARANTINE)
_NEW_LOG = _Log("new ratings", NEW_RATINGS, NEW_QUARANTINE)


def run(context: StageContext) -> dict[str, Any]:
    """Read the raw log; write ``ratings`` and ``quarantine``.

    The checked rows are written once and read back, so that both tables, and their counts, come from the
    same reading of the input even where a task is retried or a file grows meanwhile. Shuffles: one by
    (user, item). The driver receives one row of counts per input file and reason.

    Returns
    -------
    dict
        Totals, counts per file and per reason, the input files with sizes and times, and by table beside the log how
        many rows hold bytes that are no text.

    Raises
    ------
    ConfigError
        If the input cannot be found, or does not have the configured columns.
    ContractError
        If no rating is left, or more than ``ingest.max_quarantined_share`` was set aside. Both tables are
        written before, so that nothing is lost.
    """
    config = context.config
    check_interval(config.input, context.interval)
    if config.input.columns.timestamp is not None:
        check_timestamp_format(context.spark, config.input.timestamp_format)
    undecodable = _look_at_tables(context)
    if config.recommend.new_ratings is not None:
        _require_two_logs(context, config)
    found = list_log(config.input, context.interval, context.spark)
    require_room(context, found.files)
    if config.catalogue is not None:
        context.write(CATALOGUE, read_catalogue(context.spark, config.catalogue))
    return {**_read_log(context, config.input, _LOG, found), "undecodable_rows": undecodable}


def _look_at_tables(context: StageContext) -> dict[str, int]:
    """Look at the tables beside the log before the long work: a misspelt column should not cost a night.

    Returns
    -------
    dict
        Of the catalogue and the features, how many rows hold bytes that are no text.
    """
    undecodable = {}
    for where, file in context.config.files.items():
        if isinstance(file, ItemFile | UserItemFile):
            read_ids(context.spark, file, where, file.columns)
        elif isinstance(file, SegmentFile):
            read_ids(context.spark, file, where, file.columns, may_be_blank=("segment",))
        else:
            frame = read_table_file(context.spark, file, where, file.columns)
            undecodable[where] = count_undecodable(frame, file, where)
    return undecodable


def ingest_new_ratings(context: StageContext) -> dict[str, Any]:
    """Read ``recommend.new_ratings``, in the format of the log, into ``new_ratings`` and ``new_quarantine``.

    For a later stage; as `run`, whatever the interval of the run. There may be no row.

    Returns
    -------
    dict
        As that of `run`.

    Raises
    ------
    ConfigError, ContractError
        As `run`.
    """
    files = list_inputs(context.config.new_ratings_input, context.spark, NEW_RATINGS_SETTING)
    return _read_log(context, context.config.new_ratings_input, _NEW_LOG, LogFiles(files, {}, []))


def _require_two_logs(context: StageContext, config: PipelineConfig) -> None:
    new = list_inputs(config.new_ratings_input, context.spark, NEW_RATINGS_SETTING)
    both = {file.path for file in list_inputs(config.input, context.spark)} & {file.path for file in new}
    if both:
        raise ConfigError(
            "a file is part of the log and of the new ratings",
            where=NEW_RATINGS_SETTING,
            got=min(both),
            remedy="its ratings would count twice: take it out of either",
        )


def _read_log(context: StageContext, config: InputConfig, log: _Log, found: LogFiles) -> dict[str, Any]:
    """Read a log into its two tables and count where its rows went."""
    interval = context.interval if log is _LOG and not config.is_by_day else None
    work = join(context.run.path, _CHECKED_ROWS)
    context.storage.remove(work)

    def read(files: list[FileStatus]) -> DataFrame:
        return _read_and_check(context, config, files, log)

    read(found.files).write.mode("error").parquet(work)
    checked = without_first_headers(context.spark.read.parquet(work))
    checked = checked.withColumn("outside", ~in_interval(interval) if interval else F.lit(False))
    covered = checked.where("not outside")
    context.write(log.quarantine, covered.where("reason is not null"))
    good = covered.where("reason is null")
    has_history = log is _LOG and context.config.history is not None
    if has_history:
        accepted, merged_away = good, 0
    else:
        counts = write_ratings(context, good, log.ratings)
        accepted, merged_away = context.read(log.ratings), counts.merged + counts.cancelled
    details = count_rows(found.files, checked, accepted, context.read(log.quarantine), merged_away)
    _report(context, details, log)
    _check_totals(context, details, log, found)
    if has_history:
        # Only now: a day that breaks its contract must not become part of what is kept.
        details["history"] = keep_ratings(
            context, good, found, lambda others: without_first_headers(read(others.files)).where("reason is null")
        )
    else:
        details["ratings"] = asdict(counts)
    context.storage.remove(work)
    return details


def _read_and_check(context: StageContext, input_config: InputConfig, files: list[FileStatus], log: _Log) -> DataFrame:
    if not files:
        return context.spark.createDataFrame([], _CHECKED_SCHEMA)
    storage = storage_for(files[0].path, context.spark)
    try:
        rows = read_raw_rows(context.spark, input_config, storage, files)
    except NothingToReadError:
        if log is _LOG and not input_config.is_by_day:
            raise
        # Nothing new is news too.
        return context.spark.createDataFrame([], _CHECKED_SCHEMA)
    checked = check_rows(rows, input_config, context.config.ingest)
    # The text of good rows is not needed again; that of bad ones is what quarantine is for.
    return checked.withColumn("raw", F.when(F.col("reason").isNotNull(), F.col("raw")))


def _report(context: StageContext, details: dict[str, Any], log: _Log) -> None:
    totals, title = details["totals"], log.title
    context.progress.say(
        f"{title}: {totals['rows_in']:,} rows in = {totals['accepted']:,} accepted + {totals['merged']:,} merged "
        f"duplicates + {totals['quarantined']:,} quarantined",
        **totals,
    )
    for reason, count in details["reasons"].items():
        if count:
            context.progress.say(f"{title}: quarantined {count:,}: {reason} ({REASONS[reason]})")


def _check_totals(context: StageContext, details: dict[str, Any], log: _Log, found: LogFiles) -> None:
    totals = details["totals"]
    if totals["rows_in"] == 0 and log is _NEW_LOG:
        return
    if found.day_of:
        with_rows = {file["path"] for file in details["files"] if file["rows_in"]}
        full = {day for path, day in found.day_of.items() if plain_path(path) in with_rows}
        empty = sorted(set(found.day_of.values()) - full)
        if empty:
            tell_empty_days(context.config.input, empty, "have files without rows")
    if totals["rows_in"] == 0 and context.config.history is not None and context.config.input.is_by_day:
        return
    share = totals["quarantined"] / totals["rows_in"] if totals["rows_in"] else 0.0
    allowed = context.config.ingest.max_quarantined_share
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in details["reasons"].items() if count)
    if totals["accepted"] == 0 or share > allowed:
        what = "no rating is left" if totals["accepted"] == 0 else "too many rows were quarantined"
        raise ContractError(
            what,
            where=context.run.table_path(log.quarantine),
            got=f"{totals['quarantined']:,} of {totals['rows_in']:,} rows set aside ({reasons or 'none'})"
            + _samples(context, log),
            allowed=f"ingest.max_quarantined_share: {allowed:g}, and at least one good row",
            remedy=_remedy(details, totals),
        )


def _samples(context: StageContext, log: _Log) -> str:
    rows = context.read(log.quarantine).select("reason", F.substring("raw", 1, 120).alias("raw")).limit(3).collect()
    return "".join(f"\n    {row['reason']}: {row['raw']!r}" for row in rows)


def _remedy(details: dict[str, Any], totals: dict[str, int]) -> str:
    if totals["rows_in"] == 0:
        return "the input holds no rows (only headers or empty lines, or nothing in the interval): check the export"
    worst = max(details["reasons"], key=lambda reason: details["reasons"][reason])
    hints = {
        "malformed_line": "check input.delimiter, input.quote and input.format",
        "invalid_encoding": "check input.encoding",
        "bad_timestamp": "check input.timestamp_format",
        "rating_out_of_range": "check ingest.rating_range and input.columns.rating",
        "unparsable_rating": "check input.columns.rating and input.delimiter",
    }
    return f"{hints.get(worst, 'read the quarantine table')}; the rows are kept there"
