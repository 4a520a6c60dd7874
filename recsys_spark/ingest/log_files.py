"""The files that a run reads: all of the log, or those of the days of its interval."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, time, timedelta

from pyspark.sql import SparkSession

from recsys_spark.config.input import InputConfig
from recsys_spark.day_paths import path_of_day
from recsys_spark.errors import ConfigError, ContractError
from recsys_spark.ingest.headers import list_inputs
from recsys_spark.interval import Interval
from recsys_spark.storage import FileStatus, storage_for

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LogFiles:
    """Files of a log, the day that each belongs to (by path, where files belong to days), and days that have none."""

    files: list[FileStatus]
    day_of: dict[str, date]
    empty_days: list[date]


def check_interval(config: InputConfig, interval: Interval | None) -> None:
    """Refuse an interval that the log cannot be read by, or the lack of one.

    Raises
    ------
    ConfigError
        If files belong to days and the interval is none of whole days; or if they do not, and there are no event times.
    """
    if config.is_by_day:
        if interval is None or any(end.time() != time() for end in (interval.start, interval.end)):
            raise ConfigError(
                "files that belong to days need an interval of whole days (UTC)",
                where=f"input.path: {', '.join(config.paths)}",
                got=f"{interval.start.isoformat()} to {interval.end.isoformat()}" if interval else "no interval",
                remedy="give --date DAY, or --start DAY --end DAY",
            )
    elif interval is not None and config.columns.timestamp is None:
        raise ConfigError(
            "an interval needs event times, and this input has none",
            where="input.columns.timestamp",
            got="null",
            remedy="map the column with the event time, or run without --date, --start and --end",
        )


def list_log(config: InputConfig, interval: Interval | None, spark: SparkSession | None = None) -> LogFiles:
    """Return the files of the log that a run over an interval reads.

    Raises
    ------
    ConfigError
        If a path names nothing, or a file belongs to two days.
    ContractError
        If a day has no file, unless ``input.empty_days`` lets it.
    """
    if not config.is_by_day or interval is None:
        return LogFiles(list_inputs(config, spark), {}, [])
    found = files_of_days(config, list(_days(interval)), spark)
    if found.empty_days:
        tell_empty_days(config, found.empty_days, "have no file")
    return found


def files_of_days(config: InputConfig, days: Sequence[date], spark: SparkSession | None = None) -> LogFiles:
    """Return the files of some days, of a log whose files belong to days.

    Raises
    ------
    ConfigError
        If a file belongs to two days.
    """
    files: dict[str, FileStatus] = {}
    day_of: dict[str, date] = {}
    empty: list[date] = []
    for day in days:
        found = [file for path in config.paths for file in storage_for(path, spark).find(path_of_day(path, day))]
        for file in found:
            if day_of.setdefault(file.path, day) != day:
                raise ConfigError(
                    "a file belongs to two days",
                    where=file.path,
                    got=f"{day_of[file.path]} and {day}",
                    remedy="let input.path tell days apart: {date} is written YYYY-MM-DD",
                )
        files |= {file.path: file for file in found}
        empty += [] if found else [day]
    return LogFiles(list(files.values()), day_of, empty)


def tell_empty_days(config: InputConfig, days: list[date], what: str) -> None:
    """Warn of days without ratings, or refuse them, as ``input.empty_days`` says."""
    names = ", ".join(day.isoformat() for day in days[:10]) + (", ..." if len(days) > 10 else "")
    if config.empty_days == "stop":
        raise ContractError(
            f"{len(days):,} day(s) of the interval {what}",
            where=f"input.path: {', '.join(config.paths)}",
            got=names,
            remedy="check the export; where days may be empty, set input.empty_days: warn",
        )
    log.warning(f"ingest: {len(days):,} day(s) of the interval {what}: {names}", extra={"fields": {"days": len(days)}})


def _days(interval: Interval) -> Iterator[date]:
    day = interval.start
    while day < interval.end:
        yield day.date()
        day += timedelta(days=1)
