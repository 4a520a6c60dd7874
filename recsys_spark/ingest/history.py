"""Ratings kept from run to run: one folder per event date, rewritten only where a run changes it.

``<root>/history/versions/00000001.json`` names the files of every event date; ``<root>/history/parts`` has them.
Files are never changed: a run writes new ones for the days that it changes, and a version that names them.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.errors import ConfigError, DamagedFileError, RecsysError, error_from_reader
from recsys_spark.interval import Interval
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.storage import join
from recsys_spark.storage.numbered_log import NumberedLog
from recsys_spark.tables import RATING_EVENTS

# Without the file's name: where a day's file lies now is no part of what it says.
_CONTENT = ("user_id", "item_id", "rating", "timestamp", "weight", "delivered")
_ROWS_PER_FILE = 4_000_000
FORGOTTEN = "forgotten-"
"""How the hash of a day begins that somebody was taken out of: no delivery makes it what it is now."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """Which stored rows the rows of a run stand in for, so that a day can be read again.

    Attributes
    ----------
    days : frozenset of date or None
        Where files belong to days, the days whose files were read: rows that they have delivered before are replaced,
        whenever they happened. A day whose file is gone keeps its rows. None: the log is one.
    interval : Interval or None
        Of one log, the rows that happened in it are replaced; None: all rows.
    """

    days: frozenset[date] | None
    interval: Interval | None

    def replaces(self) -> Column:
        """Return whether a stored row is replaced."""
        if self.days is not None:
            return F.coalesce(F.col("delivered").isin(sorted(self.days)), F.lit(False))
        if self.interval is None:
            return F.lit(True)
        time = F.col("timestamp")
        happened = (time >= F.lit(self.interval.start)) & (time < F.lit(self.interval.end))
        # Not left to the statistics of a file, which may be damaged where its rows are not.
        return F.coalesce(happened, F.lit(False))

    def may_touch(self, event_date: str, delivered: list[str]) -> bool:
        """Return whether a day of the history can hold rows that are replaced."""
        if self.days is not None:
            return any(date.fromisoformat(day) in self.days for day in delivered)
        if self.interval is None:
            return True
        start, end = _bounds(event_date)
        return start < self.interval.end and self.interval.start < end

    def replaces_all(self, event_date: str, delivered: list[str]) -> bool:
        """Return whether all rows of a day of the history are replaced, so that its files need not be whole."""
        if self.days is not None:
            return bool(delivered) and all(date.fromisoformat(day) in self.days for day in delivered)
        if self.interval is None:
            return True
        start, end = _bounds(event_date)
        return self.interval.start <= start and end <= self.interval.end


def _bounds(event_date: str) -> tuple[datetime, datetime]:
    start = datetime.fromisoformat(event_date).replace(tzinfo=UTC)
    return start, start + timedelta(days=1)


@dataclass(frozen=True, slots=True)
class HistoryVersion:
    """The history as one run has left it.

    Attributes
    ----------
    number : int
        Of the version; 0: there is none yet.
    days : dict
        Event date to ``rows``, ``hash``, ``delivered`` (days that brought them) and ``files`` (path, size).
    changed_days : list of str
        Event dates that differ from the version before; empty where the run has brought nothing new.
    """

    number: int
    folder: str
    days: dict[str, dict[str, Any]]
    changed_days: list[str]

    def __repr__(self) -> str:
        """Return which version, and how large it is."""
        days = f"{len(self.days):,} days, {len(self.changed_days):,} of them changed"
        return f"HistoryVersion: {self.number}, {self.n_rows:,} rows of {days}"

    def summary(self, event_date: str) -> dict[str, Any] | None:
        """Return what a day's rows came to when they were written, as `summaries` does; None where there are none."""
        day = self.days.get(event_date)
        return None if day is None else {name: day[name] for name in ("rows", "hash", "delivered")}

    @property
    def content_hash(self) -> str:
        """A hash of all rows, the same for every order in which they came."""
        return content_hash(self.days)

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return sum(day["rows"] for day in self.days.values())

    def read(self, spark: SparkSession, days: list[str] | None = None) -> DataFrame:
        """Read the rows of some event dates, or of all."""
        chosen = self.days.values() if days is None else [self.days[day] for day in days if day in self.days]
        paths = [join(self.folder, file["path"]) for day in chosen for file in day["files"]]
        if not paths:
            return spark.createDataFrame([], RATING_EVENTS.schema)
        return RATING_EVENTS.read(spark, *paths)


def content_hash(days: dict[str, dict[str, Any]]) -> str:
    """Return one hash for the hashes of all days."""
    lines = [f"{day} {days[day]['rows']} {days[day]['hash']}" for day in sorted(days)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def history_folder(root: str) -> str:
    """Return where the history of an output path lies."""
    return join(root, "history")


def update_history(context: StageContext, arrived: DataFrame, delivery: Delivery) -> HistoryVersion:
    """Put the rows of a run into the history; rows that are there already change nothing.

    Parameters
    ----------
    context : StageContext
    arrived : DataFrame
        ``rating_events``; read several times, and so from files.
    delivery : Delivery

    Returns
    -------
    HistoryVersion
        The version that holds them: a new one, or the newest where they were in it.

    Raises
    ------
    ConfigError
        If the history was made from another kind of input.
    RecsysError
        If other runs write first again and again.

    Notes
    -----
    One shuffle of the rows of the event dates that may change, and reads of their files; other days are not read. The
    driver receives one row per event date.
    """
    assert context.config.history is not None
    log = version_log(context)
    arrived_days = {str(row[0]) for row in arrived.select(event_date()).distinct().collect()}
    for _ in range(context.config.history.max_attempts):
        before = latest_version(context)
        found = _next_version(context, before, arrived, arrived_days, delivery)
        if not found.changed_days:
            return before
        if append_version(context, found):
            return found
        context.progress.say(
            "ingest: another run has written to the history meanwhile; merging again with what it left"
        )
    raise RecsysError(
        "other runs keep writing to the history",
        where=log.folder,
        got=f"{context.config.history.max_attempts} attempts",
        remedy="let one run at a time ingest, or raise history.max_attempts; nothing was changed",
    )


def version_log(context: StageContext) -> NumberedLog:
    """Return the log of the history's versions."""
    return NumberedLog(context.storage, join(history_folder(context.run.root), "versions"))


def latest_version(context: StageContext) -> HistoryVersion:
    """Return the newest version, one without days where there is none.

    Raises
    ------
    ConfigError
        If the history was made from another kind of input.
    """
    folder, log = history_folder(context.run.root), version_log(context)
    latest = _latest_entry(log)
    if latest is None:
        return HistoryVersion(0, folder, {}, [])
    number, content = latest
    if content["input"] != _kind_of_input(context):
        raise ConfigError(
            "the history was made from another kind of input",
            where=log.path(number),
            got=f"{_kind_of_input(context)}",
            allowed=f"{content['input']}",
            remedy="its rows could count twice: choose another output.path, and ingest the old days there again",
        )
    return HistoryVersion(number, folder, content["days"], [])


def _latest_entry(log: NumberedLog) -> tuple[int, dict[str, Any]] | None:
    try:
        latest = log.latest()
        if latest is not None:
            {*latest[1]["input"], *latest[1]["days"]}
    except (DamagedFileError, TypeError, KeyError) as error:
        raise DamagedFileError(
            "the newest version of the history is damaged, and what it named is written down nowhere else",
            where=log.path(log.numbers()[-1]),
            got=repr(error),
            remedy="restore this file from a copy, or ingest all days anew into another output.path; readers keep what "
            "they have",
        ) from None
    return latest


def _kind_of_input(context: StageContext) -> dict[str, Any]:
    config = context.config.input
    return {"by": "day" if config.is_by_day else "time", "columns": config.columns.model_dump(mode="json")}


def append_version(context: StageContext, version: HistoryVersion) -> bool:
    """Add a version to the log; where another run has taken its number, remove its files and return False."""
    if version_log(context).append(version.number, _as_entry(context, version)):
        return True
    files = [file["path"] for day in version.changed_days for file in version.days.get(day, {"files": []})["files"]]
    for part in {"/".join(path.split("/")[:2]) for path in files}:
        context.storage.remove(join(version.folder, part))
    return False


def _as_entry(context: StageContext, version: HistoryVersion) -> dict[str, Any]:
    return {
        "input": _kind_of_input(context),
        "run_id": context.run.run_id,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "content_hash": version.content_hash,
        "rows": version.n_rows,
        "changed_days": version.changed_days,
        "days": version.days,
    }


def _next_version(
    context: StageContext, before: HistoryVersion, arrived: DataFrame, arrived_days: set[str], delivery: Delivery
) -> HistoryVersion:
    """Merge rows into the days that they touch, and write the days that come out differently."""
    touched = {day for day, kept in before.days.items() if delivery.may_touch(day, kept["delivered"])}
    affected = sorted(touched | arrived_days)
    needed = {day for day, kept in before.days.items() if not delivery.replaces_all(day, kept["delivered"])}
    kept = before.read(context.spark, [day for day in affected if day in needed]).where(~delivery.replaces())
    merged = kept.unionByName(RATING_EVENTS.select(arrived))
    found = summaries(merged)
    differing = {day for day in affected if found.get(day) != before.summary(day)}
    unread = [day for day in affected if day in before.days and day not in needed and day not in differing]
    changed = sorted(differing | set(damaged_days(context, before, unread)))
    written = write_days(context, merged, [day for day in changed if day in found], found)
    days = {day: content for day, content in before.days.items() if day not in changed} | written
    return HistoryVersion(before.number + 1, before.folder, dict(sorted(days.items())), changed)


def damaged_days(context: StageContext, version: HistoryVersion, days: list[str]) -> list[str]:
    """Return those of some event dates whose files cannot be read, or do not hold what the version says of them.

    Of a day that somebody was taken out of, the version has no hash of its rows, but the SHA-256 of its files.

    Notes
    -----
    One pass over the days' files; where any cannot be read, further ones over halves of them. The driver reads the
    files of days that somebody was taken out of.
    """
    changed = {day for day in days if _are_changed(context, version, day)}
    damaged = changed | {*_days_with_other_rows(context, version, [day for day in days if day not in changed])}
    return [day for day in days if day in damaged]


def _are_changed(context: StageContext, version: HistoryVersion, day: str) -> bool:
    """Return whether files of a day are not those that `forget` has left; False where it was not at them."""
    sealed = [file for file in version.days[day]["files"] if "sha256" in file]
    paths = {join(version.folder, file["path"]): file["sha256"] for file in sealed}
    storage = context.storage
    return any(not storage.exists(path) or storage.checksum(path) != known for path, known in paths.items())


def _days_with_other_rows(context: StageContext, version: HistoryVersion, days: list[str]) -> list[str]:
    if not days:
        return []
    try:
        found = summaries(version.read(context.spark, days))
    except Exception as error:
        if not isinstance(error, RecsysError) and error_from_reader(str(error)) is None:
            raise
        if len(days) == 1:
            return days
        half = len(days) // 2
        return [day for part in (days[:half], days[half:]) for day in _days_with_other_rows(context, version, part)]
    if len(days) == 1:
        return days if found.keys() - {*days} or not _is_as_stored(found.get(days[0]), version.days[days[0]]) else []
    # Each by itself: rows in a wrong file are too many of their own day's.
    suspects = [day for day in days if not _is_as_stored(found.get(day), version.days[day])]
    return [damaged for day in suspects for damaged in _days_with_other_rows(context, version, [day])]


def _is_as_stored(found: dict[str, Any] | None, stored: dict[str, Any]) -> bool:
    if stored["hash"].startswith(FORGOTTEN):
        return bool((0 if found is None else found["rows"]) == stored["rows"])
    return found is not None and all(found[name] == stored[name] for name in found)


def event_date() -> Column:
    """Return the day of a row's event time, UTC."""
    return F.to_date("timestamp").alias("event_date")


def summaries(rows: DataFrame) -> dict[str, dict[str, Any]]:
    """Return rows, hash and delivering days of every event date."""
    hashes = F.sum(F.xxhash64(*_CONTENT).cast("decimal(20,0)")).cast("string").alias("hash")
    found = rows.groupBy(event_date()).agg(
        F.count("*").alias("rows"), hashes, F.sort_array(F.collect_set("delivered")).alias("delivered")
    )
    return {
        str(row["event_date"]): {
            "rows": int(row["rows"]),
            "hash": row["hash"],
            "delivered": [day.isoformat() for day in row["delivered"]],
        }
        for row in found.collect()
    }


def write_days(
    context: StageContext, rows: DataFrame, days: list[str], known: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Write whole event dates as new files; return what the version says of them."""
    if not days:
        return {}
    folder = history_folder(context.run.root)
    part = join("parts", f"{context.run.run_id}-{secrets.token_hex(4)}")
    path = join(folder, part)
    n_files = 1 + max(known[day]["rows"] for day in days) // _ROWS_PER_FILE
    chosen = rows.withColumn("event_date", event_date()).where(F.col("event_date").cast("string").isin(days))
    pieces = chosen.repartition("event_date", F.pmod(F.hash("user_id", "item_id"), F.lit(n_files)))
    in_order = pieces.sortWithinPartitions("event_date", *_CONTENT, "source_file")
    in_order.select(*RATING_EVENTS.schema.names, "event_date").write.mode("error").partitionBy("event_date").parquet(
        path
    )
    files: dict[str, list[dict[str, Any]]] = {day: [] for day in days}
    for file in context.storage.find(path):
        place = file.path[file.path.index(f"/{part}/") + 1 :]
        day = place.removeprefix(f"{part}/event_date=").partition("/")[0]
        files[day].append({"path": place, "size": file.size})
    _require_whole(context, path, files, sum(known[day]["rows"] for day in days))
    return {day: {**known[day], "files": files[day]} for day in days}


def _require_whole(context: StageContext, path: str, files: dict[str, list[dict[str, Any]]], n_rows: int) -> None:
    """Count what was written, from the files that the version will name."""
    paths = [join(history_folder(context.run.root), file["path"]) for found in files.values() for file in found]
    n_written = RATING_EVENTS.read(context.spark, *paths).count() if paths else 0
    if n_written != n_rows:
        raise RecsysError(
            "the history was not written whole",
            where=path,
            got=f"{n_written:,} rows",
            allowed=f"{n_rows:,}",
            remedy="do not change the input while it is read; run the stage again",
        )
