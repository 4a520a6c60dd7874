"""The half-open UTC interval of event times that a run covers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from recsys_spark.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Interval:
    """Event times from ``start`` (in) to ``end`` (out), both UTC."""

    start: datetime
    end: datetime

    def as_dict(self) -> dict[str, str]:
        """Return both ends as ISO 8601 text."""
        return {"start": self.start.isoformat(), "end": self.end.isoformat()}


def parse_interval(day: str | None, start: str | None, end: str | None) -> Interval | None:
    """Read ``--date`` or ``--start`` with ``--end``.

    Parameters
    ----------
    day : str or None
        ``YYYY-MM-DD``: the interval is that day in UTC.
    start, end : str or None
        ISO 8601 dates or times; without an offset they are UTC.

    Returns
    -------
    Interval or None
        None where nothing was given: all event times.

    Raises
    ------
    ConfigError
        If the texts are not dates, only one end is given, or ``start`` is not before ``end``.
    """
    if day is not None:
        if start is not None or end is not None:
            raise ConfigError(
                "--date already is an interval", got="--date with --start or --end", remedy="give one of them"
            )
        first = _parse("--date", day)
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", day) or first.year > 9998:
            raise ConfigError(
                "--date takes a day", got=day, allowed="YYYY-MM-DD", remedy="use --start and --end for times"
            )
        return Interval(first, first + timedelta(days=1))
    if start is None and end is None:
        return None
    if start is None or end is None:
        raise ConfigError("--start and --end belong together", got="only one of them", remedy="give both")
    interval = Interval(_parse("--start", start), _parse("--end", end))
    if not interval.start < interval.end:
        raise ConfigError(
            "the interval is empty: --start must be before --end",
            got=f"--start {start} --end {end}",
            remedy="the interval is half-open; for one day give --date, or --end at the next day",
        )
    return interval


def _parse(option: str, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ConfigError(
            f"{option} is not a date or time",
            got=text,
            allowed="ISO 8601, such as 2026-01-31 or 2026-01-31T02:00:00+00:00",
        ) from None


def logical_date(interval: Interval | None, now: datetime) -> date:
    """Return the day that a run is filed under: the first of its interval, or today."""
    return interval.start.date() if interval else now.date()
