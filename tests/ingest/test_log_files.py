from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from recsys_spark.config.input import InputConfig
from recsys_spark.errors import ConfigError, ContractError
from recsys_spark.ingest.log_files import check_interval, list_log
from recsys_spark.interval import Interval, parse_interval


def config(folder: Path, **settings: object) -> InputConfig:
    return InputConfig.model_validate({"path": str(folder / "{date}" / "*.csv"), **settings})


def days(first: int, end: int) -> Interval:
    return Interval(datetime(2011, 1, first, tzinfo=UTC), datetime(2011, 1, end, tzinfo=UTC))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("2011-01-03/a.csv", "2011-01-03/b.csv", "2011-01-04/a.csv", "2011-01-06/a.csv", "2011-01-06/b.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("user_id,item_id,rating\n")
    return tmp_path


def test_a_run_reads_the_files_of_its_days(folder: Path) -> None:
    found = list_log(config(folder), days(3, 5))
    names = {file.path.removeprefix(f"{folder}/"): found.day_of[file.path] for file in found.files}
    assert names == {
        "2011-01-03/a.csv": date(2011, 1, 3),
        "2011-01-03/b.csv": date(2011, 1, 3),
        "2011-01-04/a.csv": date(2011, 1, 4),
    }
    assert found.empty_days == []


def test_a_day_without_a_file_stops_the_run_or_is_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ContractError, match=r"1 day\(s\) of the interval have no file[\s\S]*2011-01-05"):
        list_log(config(folder), days(4, 7))
    found = list_log(config(folder, empty_days="warn"), days(4, 7))
    assert [file.path.removeprefix(f"{folder}/") for file in found.files] == ["2011-01-04/a.csv", "2011-01-06/a.csv"]
    assert found.empty_days == [date(2011, 1, 5)]


def test_a_file_of_two_days_is_refused(folder: Path) -> None:
    every_day = InputConfig(path=str(folder / "*[{date}]*" / "a.csv"))
    with pytest.raises(ConfigError, match="a file belongs to two days"):
        list_log(every_day, days(3, 5))


@pytest.mark.parametrize("options", [(None, None, None), (None, "2011-01-03T02:00", "2011-01-04T02:00")])
def test_files_of_days_need_whole_days(folder: Path, options: tuple[str | None, str | None, str | None]) -> None:
    with pytest.raises(ConfigError, match="need an interval of whole days"):
        check_interval(config(folder), parse_interval(*options))
    check_interval(config(folder), parse_interval("2011-01-03", None, None))


@pytest.mark.parametrize(
    ("path", "expected"),
    [("log/{date:%Y-%m}.csv", "needs year, month and day"), (["a.csv", "{date}.csv"], "either all paths or none")],
)
def test_paths_that_do_not_tell_days_apart_are_refused(path: object, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        InputConfig.model_validate({"path": path})
