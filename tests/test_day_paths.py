from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_spark.day_paths import describe_fault, has_day, path_of_day

DAYS = st.dates(date(1970, 1, 1), date(9999, 12, 30))


@given(DAYS, st.sampled_from(["{date}", "{date:%Y/%m/%d}", "{date:%Y%j}", "y={date:%Y}/m={date:%m}/{date:%d}"]))
def test_every_day_has_a_path_of_its_own(day: date, template: str) -> None:
    path = f"log/{template}/part-*.csv"
    assert has_day(path)
    assert describe_fault(path) is None
    assert "{" not in path_of_day(path, day)
    assert path_of_day(path, day) != path_of_day(path, day + timedelta(days=1))


def test_days_are_written_as_the_path_says() -> None:
    day = date(2011, 1, 3)
    assert path_of_day("a/{date}.csv", day) == "a/2011-01-03.csv"
    assert path_of_day("a/{date:%Y/%m}/{date:%d}", day) == "a/2011/01/03"
    assert path_of_day("a/{b,c}.csv", day) == "a/{b,c}.csv"
    assert not has_day("a/{b,c}.csv")


@pytest.mark.parametrize("path", ["{date:%Y-%m}", "{date:%d}", "{date:x}"])
def test_paths_that_days_would_share_are_refused(path: str) -> None:
    assert "needs year, month and day" in (describe_fault(path) or "")


def test_a_path_runs_nothing() -> None:
    assert path_of_day("{date.__class__}/{0}/{date!r}", date(2011, 1, 3)) == "{date.__class__}/{0}/{date!r}"
