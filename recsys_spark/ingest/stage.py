"""The ingest stage: raw log in, ``ratings`` and ``quarantine`` out, and the count of every row."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from recsys_spark.config import InputConfig, PipelineConfig
from recsys_spark.errors import ConfigError, ContractError, NothingToReadError
from recsys_spark.ingest.catalogue import read_catalogue
from recsys_spark.ingest.duplicates import merge_duplicates
from recsys_spark.ingest.headers import list_inputs, require_event_times
from recsys_spark.ingest.raw_rows import read_raw_rows
from recsys_spark.ingest.validate import (
    REASONS,
    check_rows,
    check_timestamp_format,
    in_interval,
    without_first_headers,
)
from recsys_spark.interval import Interval
from recsys_spark.recommend_config import ItemFile, UserItemFile
from recsys_spark.run_directory import StageContext
from recsys_spark.storage import FileStatus, join, storage_for
from recsys_spark.table_files import read_ids, read_table_file
from recsys_spark.tables import CATALOGUE, NEW_QUARANTINE, NEW_RATINGS, QUARANTINE, RATINGS, Table

TABLES = (RATINGS, QUARANTINE, CATALOGUE)
NEW_RATINGS_SETTING = "recommend.new_ratings"
_CHECKED_ROWS = "_checked_rows"
_CHECKED_SCHEMA = (
    "source_file string, raw string, user_id string, item_id string, rating double, timestamp timestamp, "
    "weight double, reason string"
)


@dataclass(frozen=True, slots=True)
class _Log:
    """Where the rows of a log go: those that are ratings, and those that are not."""

    ratings: Table
    quarantine: Table


_LOG, _NEW_LOG = _Log(RATINGS, QUARANTINE), _Log(NEW_RATINGS, NEW_QUARANTINE)


@dataclass(frozen=True, slots=True)
class FileCounts:
    """Where the rows of one input file went: ``rows_in = accepted + merged + quarantined``.

    ``outside_interval`` rows have an event time that this run does not cover; they are not part of ``rows_in``.
    """

    path: str
    rows_in: int
    accepted: int
    merged: int
    quarantined: int
    outside_interval: int


def run(context: StageContext) -> dict[str, Any]:
    """Read the raw log; write ``ratings`` and ``quarantine``.

    The checked rows are written once and read back, so that both tables, and their counts, come from the
    same reading of the input even where a task is retried or a file grows meanwhile. Shuffles: one by
    (user, item). The driver receives one row of counts per input file and reason.

    Returns
    -------
    dict
        Totals, counts per file and per reason, and the input files with sizes and times.

    Raises
    ------
    ConfigError
        If the input cannot be found, or does not have the configured columns.
    ContractError
        If no rating is left, or more than ``ingest.max_quarantined_share`` was set aside. Both tables are
        written before, so that nothing is lost.
    """
    config = context.config
    require_event_times(config.input, context.interval)
    if config.input.columns.timestamp is not None:
        check_timestamp_format(context.spark, config.input.timestamp_format)
    for where, file in config.files.items():
        # Before the long work: a misspelt path or column, or a list that cannot be understood, should not cost a night.
        read = read_ids if isinstance(file, ItemFile | UserItemFile) else read_table_file
        read(context.spark, file, where, file.columns)
    if config.recommend.new_ratings is not None:
        _require_two_logs(context, config)
    details = _read_log(context, config.input, _LOG, context.interval)
    if config.catalogue is not None:
        context.write(CATALOGUE, read_catalogue(context.spark, config.catalogue))
    _report(context, details, "ingest")
    _check_totals(context, details, _LOG)
    return details


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
    details = _read_log(context, context.config.new_ratings_input, _NEW_LOG, None)
    _report(context, details, "new ratings")
    if details["totals"]["rows_in"]:
        _check_totals(context, details, _NEW_LOG)
    return details


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


def _read_log(context: StageContext, config: InputConfig, log: _Log, interval: Interval | None) -> dict[str, Any]:
    """Read a log into its two tables and count where its rows went."""
    files = list_inputs(config, context.spark, "input.path" if log is _LOG else NEW_RATINGS_SETTING)
    work = join(context.run.path, _CHECKED_ROWS)
    context.storage.remove(work)
    _read_and_check(context, config, files, log).write.mode("error").parquet(work)
    checked = without_first_headers(context.spark.read.parquet(work))
    outside = ~in_interval(interval) if interval else F.lit(False)
    covered = checked.where(~outside)
    context.write(log.quarantine, covered.where("reason is not null"))
    _write_ratings(context, covered.where("reason is null"), log.ratings)
    details = _count(context, files, checked.withColumn("outside", outside), log)
    context.storage.remove(work)
    return details


def _read_and_check(context: StageContext, input_config: InputConfig, files: list[FileStatus], log: _Log) -> DataFrame:
    storage = storage_for(files[0].path, context.spark)
    try:
        rows = read_raw_rows(context.spark, input_config, storage, files)
    except NothingToReadError:
        if log is _LOG:
            raise
        # Nothing new is news too.
        return context.spark.createDataFrame([], _CHECKED_SCHEMA)
    checked = check_rows(rows, input_config, context.config.ingest)
    # The text of good rows is not needed again; that of bad ones is what quarantine is for.
    return checked.withColumn("raw", F.when(F.col("reason").isNotNull(), F.col("raw")))


def _write_ratings(context: StageContext, good: DataFrame, table: Table) -> None:
    """Merge duplicates and write the ratings; while rows are shuffled, files go by number instead of name."""
    names = sorted(row["source_file"] for row in good.select("source_file").distinct().collect())
    numbers = F.broadcast(context.spark.createDataFrame(list(enumerate(names)), "file_number int, source_file string"))
    merged = merge_duplicates(good.join(numbers, "source_file"), context.config.ingest.duplicates)
    context.write(table, merged.join(numbers, "file_number"))


def _count(context: StageContext, files: list[FileStatus], checked: DataFrame, log: _Log) -> dict[str, Any]:
    """Count where the rows of each file went, from the tables as they were written."""
    seen = _by_file(
        checked.groupBy("source_file").agg(
            F.count_if(~F.col("outside")).alias("rows_in"),
            F.count_if(F.col("outside")).alias("outside_interval"),
        )
    )
    accepted = _by_file(context.read(log.ratings).groupBy("source_file").agg(F.count("*").alias("accepted")))
    set_aside = context.read(log.quarantine).groupBy("source_file", "reason").count().collect()
    merged_away = context.read(log.ratings).agg(F.sum(F.col("n_merged") - 1)).head()
    counts = []
    for path in sorted(seen.keys() | {_plain_path(file.path) for file in files}):
        rows_in = _get(seen, path, "rows_in")
        kept = _get(accepted, path, "accepted")
        quarantined = sum(row["count"] for row in set_aside if row["source_file"] == path)
        counts.append(
            FileCounts(
                path,
                rows_in,
                kept,
                rows_in - kept - quarantined,
                quarantined,
                _get(seen, path, "outside_interval"),
            )
        )
    totals = {name: sum(getattr(c, name) for c in counts) for name in ("rows_in", "accepted", "merged", "quarantined")}
    _check_conservation(totals, counts, int((merged_away[0] if merged_away else 0) or 0))
    return {
        "totals": {**totals, "outside_interval": sum(c.outside_interval for c in counts)},
        "reasons": {r: sum(row["count"] for row in set_aside if row["reason"] == r) for r in REASONS},
        "files": [asdict(c) for c in counts],
        "inputs": [file.as_dict() for file in files],
    }


def _check_conservation(totals: dict[str, int], counts: list[FileCounts], merged_away: int) -> None:
    """Compare the two independent counts of merged rows: by file, and as the ratings table adds them up."""
    if totals["merged"] != merged_away or any(c.merged < 0 for c in counts):
        raise ContractError(
            "rows were lost or made between reading and writing",
            got=f"{totals}, while the ratings stand for {merged_away} merged rows",
            remedy="do not change the input while it is read; run again under a new run id",
        )


def _by_file(frame: DataFrame) -> dict[str, Row]:
    return {row["source_file"]: row for row in frame.collect()}


def _get(rows: dict[str, Row], path: str, name: str) -> int:
    return int(rows[path][name]) if path in rows else 0


def _plain_path(path: str) -> str:
    return "/" + path.removeprefix("file:").lstrip("/") if path.startswith("file:") else path


def _report(context: StageContext, details: dict[str, Any], title: str) -> None:
    totals = details["totals"]
    context.progress.say(
        f"{title}: {totals['rows_in']:,} rows in = {totals['accepted']:,} accepted + {totals['merged']:,} merged "
        f"duplicates + {totals['quarantined']:,} quarantined",
        **totals,
    )
    for reason, count in details["reasons"].items():
        if count:
            context.progress.say(f"{title}: quarantined {count:,}: {reason} ({REASONS[reason]})")


def _check_totals(context: StageContext, details: dict[str, Any], log: _Log) -> None:
    totals = details["totals"]
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
