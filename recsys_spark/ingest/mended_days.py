"""Stored event dates that are damaged, written again from the log that once brought them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from typing import Any

from pyspark.sql import DataFrame

from recsys_spark.config.input import InputConfig
from recsys_spark.errors import RecsysError, error_from_reader
from recsys_spark.ingest.headers import list_inputs
from recsys_spark.ingest.history import (
    FORGOTTEN,
    Delivery,
    HistoryVersion,
    append_version,
    damaged_days,
    event_date,
    latest_version,
    summaries,
    version_log,
    write_days,
)
from recsys_spark.ingest.log_files import LogFiles, files_of_days
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.storage import join
from recsys_spark.tables import RATING_EVENTS

_WORK = "_read_again"


def mend_history(context: StageContext, delivery: Delivery, read_again: Callable[[LogFiles], DataFrame]) -> list[str]:
    """Write damaged days of the history again, where the log still has the very rows that they had.

    The rows of a day are known by their number and their hash. So what the log says of them today is taken where it is
    what was stored, row for row, and refused otherwise: whether something else is right, a person has to say.

    Parameters
    ----------
    context : StageContext
    delivery : Delivery
        What the run brings. Days that it replaces altogether are left to it.
    read_again : callable
        Good rows of files of the log, as ``rating_events``.

    Returns
    -------
    list of str
        The event dates that were damaged, and are whole in a new version of the history.

    Raises
    ------
    RecsysError
        If a day is damaged whose files are gone, cannot be read or say something else, or that a person was taken out
        of: the log would bring the person back. Nothing is changed then.

    Notes
    -----
    One pass over the stored rows, every night. Where a day is damaged, the files of the days that brought its rows are
    read, or the whole log where it is one.
    """
    assert context.config.history is not None
    for _ in range(context.config.history.max_attempts):
        before = latest_version(context)
        needed = [day for day, kept in before.days.items() if not delivery.replaces_all(day, kept["delivered"])]
        damaged = damaged_days(context, before, needed)
        if not damaged:
            return []
        after = _mended(context, before, damaged, read_again)
        if append_version(context, after):
            _remove_damaged(context, before, damaged)
            context.progress.say(
                f"ingest: {len(damaged):,} stored day(s) were damaged, and written again from the log, row for row: "
                f"{_names(damaged)}",
                mended=len(damaged),
            )
            return damaged
    raise RecsysError(
        "other runs keep writing to the history",
        where=version_log(context).folder,
        got=f"{context.config.history.max_attempts} attempts",
        remedy="let one run at a time ingest, or raise history.max_attempts; nothing was changed",
    )


def _mended(
    context: StageContext, before: HistoryVersion, damaged: list[str], read_again: Callable[[LogFiles], DataFrame]
) -> HistoryVersion:
    found = _files_that_brought(context, before, damaged)
    work = join(context.run.path, _WORK)
    context.storage.remove(work)
    try:
        again = _read_again(context, before, damaged, lambda: read_again(found), work)
        known = summaries(again)
        other = [day for day in damaged if known.get(day) != before.summary(day)]
        if other:
            counts = [f"{day}: {_rows_of(known.get(day))} rows for {before.days[day]['rows']:,}" for day in other[:3]]
            raise _cannot_mend(before, other, f"the log says something else today ({', '.join(counts)})")
        written = write_days(context, again, damaged, known)
    finally:
        context.storage.remove(work)
    return HistoryVersion(before.number + 1, before.folder, dict(sorted((before.days | written).items())), damaged)


def _read_again(
    context: StageContext, before: HistoryVersion, damaged: list[str], rows: Callable[[], DataFrame], work: str
) -> DataFrame:
    """Write what the log says of the damaged days; lack of room or memory is raised as it is."""
    try:
        of_days = rows().where(event_date().cast("string").isin(damaged))
        RATING_EVENTS.select(of_days).write.mode("error").parquet(work)
    except Exception as error:
        if not isinstance(error, RecsysError) and error_from_reader(str(error)) is None:
            raise
        reason = " ".join(line.strip() for line in str(error).strip().splitlines()[:3])
        raise _cannot_mend(before, damaged, f"the log cannot be read again: {reason}") from error
    return RATING_EVENTS.read(context.spark, work)


def _files_that_brought(context: StageContext, before: HistoryVersion, damaged: list[str]) -> LogFiles:
    forgotten = [day for day in damaged if before.days[day]["hash"].startswith(FORGOTTEN)]
    if forgotten:
        raise _cannot_mend(
            before,
            forgotten,
            "somebody was taken out of it, whom the log would bring back",
            then=", then run recsys-spark forget again for everybody who was taken out, for they are back then",
        )
    config: InputConfig = context.config.input
    if not config.is_by_day:
        return LogFiles(list_inputs(config, context.spark), {}, [])
    brought_by = {day: [date.fromisoformat(each) for each in before.days[day]["delivered"]] for day in damaged}
    found = files_of_days(config, sorted({each for days in brought_by.values() for each in days}), context.spark)
    gone = [day for day, days in brought_by.items() if set(days) & set(found.empty_days)]
    if gone:
        names = _names(sorted(map(str, found.empty_days)))
        raise _cannot_mend(
            before,
            gone,
            f"the log has no file any more of {names}",
            first=f"put an empty file where that of {names} was, to give up the rows that it brought, set "
            "input.empty_days: warn, and ",
        )
    return found


def _remove_damaged(context: StageContext, before: HistoryVersion, damaged: list[str]) -> None:
    """Remove files that were damaged: their rows are elsewhere, and whoever is forgotten has to be taken out of all."""
    for day in damaged:
        for file in before.days[day]["files"]:
            context.storage.remove(join(before.folder, file["path"]))


def _cannot_mend(before: HistoryVersion, days: list[str], why: str, *, first: str = "", then: str = "") -> RecsysError:
    """Return the error; ``first`` and ``then`` are what to do before the days are ingested again, and afterwards."""
    files = [join(before.folder, file["path"]) for day in days for file in before.days[day]["files"]]
    brought_by = sorted({each for day in days for each in before.days[day]["delivered"]} or days)
    end = date.fromisoformat(brought_by[-1]) + timedelta(days=1)
    again = (
        f"{first}ingest {_names(brought_by)} again in one run (--start {brought_by[0]} --end {end}), to keep what the "
        f"log says of these days now{then}"
    )
    return RecsysError(
        f"{len(days):,} stored day(s) of the history are damaged, and cannot be had from the log: {_names(days)}",
        where=", ".join(files[:3]) + (", ..." if len(files) > 3 else ""),
        got=why,
        allowed="files as they were written, or a log that still has the same rows",
        remedy=f"restore the files from a copy, or {again}; readers keep what they have",
    )


def _rows_of(summary: dict[str, Any] | None) -> str:
    return f"{0 if summary is None else summary['rows']:,}"


def _names(days: Sequence[str]) -> str:
    return ", ".join(days[:10]) + (", ..." if len(days) > 10 else "")
