from __future__ import annotations

from datetime import UTC, datetime

import pytest

from recsys_spark.errors import ConfigError
from recsys_spark.interval import parse_interval


def test_a_day_is_half_open_in_utc() -> None:
    interval = parse_interval("2026-02-28", None, None)
    assert interval is not None
    assert interval.start == datetime(2026, 2, 28, tzinfo=UTC)
    assert interval.end == datetime(2026, 3, 1, tzinfo=UTC)


def test_offsets_are_turned_into_utc() -> None:
    interval = parse_interval(None, "2026-01-01T02:00:00+02:00", "2026-01-01T01:00")
    assert interval is not None
    assert interval.as_dict() == {"start": "2026-01-01T00:00:00+00:00", "end": "2026-01-01T01:00:00+00:00"}


def test_nothing_given_is_all_times() -> None:
    assert parse_interval(None, None, None) is None


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("2026-01-01", "2026-01-01", None), "--date already is an interval"),
        (("yesterday", None, None), "--date is not a date or time"),
        (("2026-01-01T01:00", None, None), "--date takes a day"),
        (("20260101", None, None), "--date takes a day"),
        (("9999-12-31", None, None), "--date takes a day"),
        ((None, "2026-01-01", None), "belong together"),
        ((None, "2026-01-02", "2026-01-02"), "the interval is empty"),
        ((None, "2026-01-03", "2026-01-02"), "the interval is empty"),
        ((None, "2026-13-01", "2026-01-02"), "--start is not a date or time"),
        ((None, "0001-01-01T00:00+14:00", "2026-01-02"), "--start is not a date or time"),
    ],
)
def test_bad_intervals_are_refused(arguments: tuple[str | None, str | None, str | None], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        parse_interval(*arguments)
