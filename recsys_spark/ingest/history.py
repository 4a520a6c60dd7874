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

from recsys_spark.errors import ConfigError, RecsysError
from recsys_spark.interval import Interval
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.storage import join
from recsys_spark.storage.numbered_log import NumberedLog
from recsys_spark.tables import RATING_EVENTS

# Without the file's name: where a day's file lies now is no part of what it says.
_CONTENT = ("user_id", "item_id", "rating", "timestamp", "weight", "delivered")
_ROWS_PER_FILE = 4_000_000


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
        return (time >= F.lit(self.interval.start)) & (time < F.lit(self.interval.end))

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
    log = NumberedLog(context.storage, join(history_folder(context.run.root), "versions"))
    arrived_days = {str(row[0]) for row in arrived.select(_event_date()).distinct().collect()}
    for _ in range(context.config.history.max_attempts):
        before = _latest(context, log)
        found = _next_version(context, before, arrived, arrived_days, delivery)
        if not found.changed_days:
            return before
        if log.append(found.number, _as_entry(context, found)):
            return found
        _discard(context, found)
        context.progress.say(
            "ingest: another run has written to the history meanwhile; merging again with what it left"
        )
    raise RecsysError(
        "other runs keep writing to the history",
        where=log.folder,
        got=f"{context.config.history.max_attempts} attempts",
        remedy="let one run at a time ingest, or raise history.max_attempts; nothing was changed",
    )


def _latest(context: StageContext, log: NumberedLog) -> HistoryVersion:
    folder = history_folder(context.run.root)
    latest = log.latest()
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


def _kind_of_input(context: StageContext) -> dict[str, Any]:
    config = context.config.input
    return {"by": "day" if config.is_by_day else "time", "columns": config.columns.model_dump(mode="json")}


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
    summaries = _summaries(merged)
    stored = {day: {name: before.days[day][name] for name in ("rows", "hash", "delivered")} for day in before.days}
    differing = {day for day in affected if summaries.get(day) != stored.get(day)}
    unread = [day for day in affected if day in stored and day not in needed and day not in differing]
    changed = sorted(differing | _damaged_days(context, before, unread, stored))
    written = _write_days(context, merged, [day for day in changed if day in summaries], summaries)
    days = {day: content for day, content in before.days.items() if day not in changed} | written
    return HistoryVersion(before.number + 1, before.folder, dict(sorted(days.items())), changed)


def _damaged_days(
    context: StageContext, version: HistoryVersion, days: list[str], stored: dict[str, dict[str, Any]]
) -> set[str]:
    """Return those of some event dates whose files do not hold what the version says of them, or cannot be read."""
    try:
        found = _summaries(version.read(context.spark, days)) if days else {}
    except Exception:  # whatever Spark makes of a damaged file
        if len(days) == 1:
            return {*days}
        return {damaged for day in days for damaged in _damaged_days(context, version, [day], stored)}
    return {day for day in days if found.get(day) != stored[day]}


def _event_date() -> Column:
    return F.to_date("timestamp").alias("event_date")


def _summaries(rows: DataFrame) -> dict[str, dict[str, Any]]:
    """Return rows, hash and delivering days of every event date."""
    hashes = F.sum(F.xxhash64(*_CONTENT).cast("decimal(20,0)")).cast("string").alias("hash")
    found = rows.groupBy(_event_date()).agg(
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


def _write_days(
    context: StageContext, rows: DataFrame, days: list[str], summaries: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Write whole event dates as new files; return what the version says of them."""
    if not days:
        return {}
    folder = history_folder(context.run.root)
    part = join("parts", f"{context.run.run_id}-{secrets.token_hex(4)}")
    path = join(folder, part)
    n_files = 1 + max(summaries[day]["rows"] for day in days) // _ROWS_PER_FILE
    chosen = rows.withColumn("event_date", _event_date()).where(F.col("event_date").cast("string").isin(days))
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
    _require_whole(context, path, files, sum(summaries[day]["rows"] for day in days))
    return {day: {**summaries[day], "files": files[day]} for day in days}


def _discard(context: StageContext, version: HistoryVersion) -> None:
    """Remove the files that only this version would have named."""
    files = [file["path"] for day in version.changed_days for file in version.days.get(day, {"files": []})["files"]]
    for part in {"/".join(path.split("/")[:2]) for path in files}:
        context.storage.remove(join(version.folder, part))


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
