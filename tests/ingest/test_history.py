"""Nights on a real log: a shop's daily files, in any order, late rows, repetitions and cancellations."""

from __future__ import annotations

import csv
import gzip
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from recsys_spark.errors import ConfigError, ContractError
from recsys_spark.ingest.history import history_folder
from recsys_spark.ingest.stage import run
from recsys_spark.interval import Interval
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.storage.numbered_log import NumberedLog
from recsys_spark.tables import CANCELLED_RATINGS, LATE_RATINGS, QUARANTINE, RATINGS, Table
from tests.conftest import ROOT
from tests.faulty_storage import WatchedStorage

MakeContext = Callable[..., StageContext]
SHOP = ROOT / "examples" / "online-retail" / "by-day"
COLUMNS = {"user": "CustomerID", "item": "StockCode", "rating": "Quantity", "timestamp": "InvoiceDate"}


def shop_days(n: int) -> list[date]:
    """Return the first days of the shop's calendar, Saturdays too."""
    return [date(2010, 12, 1) + timedelta(days=k) for k in range(n)]


def sections(files: Path, **more: Any) -> dict[str, Any]:
    return {
        "input": {
            "path": str(files / "{date}.csv*"),
            "empty_days": "warn",
            "columns": COLUMNS,
            "timestamp_format": "yyyy-MM-dd HH:mm:ss",
        },
        "ingest": {"duplicates": "sum", "cancellations": True, "max_quarantined_share": 0.8},
        "history": {},
        **more,
    }


class Nights:
    """Runs over days of the shop, in one output folder."""

    def __init__(self, make_context: MakeContext, out: Path, files: Path = SHOP) -> None:
        self._make, self._out, self._files, self._n = make_context, out, files, 0

    def context(self, first: date, end: date, **more: Any) -> StageContext:
        self._n += 1
        start, stop = (datetime(day.year, day.month, day.day, tzinfo=UTC) for day in (first, end))
        more.setdefault("output", {"path": str(self._out)})
        return self._make(Interval(start, stop), f"r{self._n}", **sections(self._files, **more))

    def run(self, first: date, end: date) -> tuple[StageContext, dict[str, Any]]:
        context = self.context(first, end)
        return context, run(context)

    def versions(self) -> list[int]:
        context = self.context(date(2010, 12, 1), date(2010, 12, 2))
        return NumberedLog(context.storage, f"{history_folder(context.run.root)}/versions").numbers()


def rows(context: StageContext, table: Table) -> list[tuple[Any, ...]]:
    return sorted((tuple(row) for row in context.read(table).collect()), key=repr)


def shop_rows(days: Sequence[date]) -> list[dict[str, str]]:
    found = []
    for day in days:
        path = SHOP / f"{day}.csv.gz"
        if path.exists():
            with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
                found += list(csv.DictReader(file))
    return found


def copied_rows(folder: Path, days: Sequence[date]) -> list[dict[str, str]]:
    texts = [(folder / f"{day}.csv").read_text(encoding="utf-8") for day in days]
    return [row for text in texts for row in csv.DictReader(text.splitlines())]


def expected_ratings(rows: Sequence[dict[str, str]]) -> tuple[dict[tuple[str, str], tuple[float, int, str]], int]:
    """Add up what was bought and sent back: pair to (quantity, rows, last time); and how many rows cancelled out."""
    sums: dict[tuple[str, str], tuple[Decimal, int, str]] = {}
    for row in rows:
        if row["CustomerID"]:
            pair = (row["CustomerID"], row["StockCode"])
            total, n, last = sums.get(pair, (Decimal(0), 0, ""))
            sums[pair] = (total + Decimal(row["Quantity"]), n + 1, max(last, row["InvoiceDate"]))
    kept = {pair: (float(total), n, last) for pair, (total, n, last) in sums.items() if total > 0}
    return kept, sum(n for total, n, _ in sums.values() if total <= 0)


def as_expected(context: StageContext) -> dict[tuple[str, str], tuple[float, int, str]]:
    found = context.read(RATINGS).collect()
    return {
        (row["user_id"], row["item_id"]): (row["rating"], row["n_merged"], f"{row['timestamp']:%Y-%m-%d %H:%M:%S}")
        for row in found
    }


def check_any_order(make_context: MakeContext, folder: Path, intervals: Sequence[tuple[date, date]], n: int) -> None:
    days = shop_days(n)
    one = Nights(make_context, folder / "one")
    at_once, told = one.run(days[0], days[-1] + timedelta(days=1))
    several = Nights(make_context, folder / "several")
    for first, end in intervals:
        last, last_told = several.run(first, end)
    for table in (RATINGS, CANCELLED_RATINGS):
        assert rows(last, table) == rows(at_once, table), "row for row"
    for name in ("content_hash", "rows", "ratings"):
        assert last_told["history"][name] == told["history"][name]
    raw = shop_rows(days)
    kept, n_cancelled = expected_ratings(raw)
    assert as_expected(last) == kept
    assert told["history"]["ratings"]["cancelled"] == n_cancelled > 0
    assert told["totals"]["rows_in"] == len(raw)
    assert told["totals"]["quarantined"] == sum(not row["CustomerID"] for row in raw) == len(rows(at_once, QUARANTINE))
    assert told["history"]["rows"] == told["totals"]["accepted"]


def test_days_in_any_order_give_the_tables_of_one_run(make_context: MakeContext, tmp_path: Path) -> None:
    days = shop_days(10)
    # Backwards, one interval over days that were there already, Saturday the 4th in between.
    intervals = [(days[6], days[9] + timedelta(days=1)), (days[0], days[2]), (days[1], days[6])]
    check_any_order(make_context, tmp_path, intervals, 10)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_thirty_nights_in_any_order_give_the_tables_of_one_run(make_context: MakeContext, tmp_path: Path) -> None:
    days = [day for day in shop_days(45) if (SHOP / f"{day}.csv.gz").exists()]
    random.Random(0).shuffle(days)
    assert len(days) == 30, "the shop is closed on Saturdays and over Christmas"
    check_any_order(make_context, tmp_path, [(day, day + timedelta(days=1)) for day in days], 45)


def copy_days(folder: Path, days: Sequence[date], limit: int = 300) -> None:
    """Unpack the first rows of some days, to be changed."""
    folder.mkdir()
    for day in days:
        with gzip.open(SHOP / f"{day}.csv.gz", "rt", encoding="utf-8", newline="") as file:
            (folder / f"{day}.csv").write_text("".join(file.readlines()[: limit + 1]), encoding="utf-8")


def stored_files(context: StageContext) -> dict[str, float]:
    root = Path(history_folder(context.run.root))
    return {str(path): path.stat().st_mtime for path in sorted(root.rglob("*.parquet"))}


def test_a_night_again_changes_nothing_and_a_mended_day_only_itself(make_context: MakeContext, tmp_path: Path) -> None:
    first, second, _ = days = shop_days(3)
    files = tmp_path / "files"
    copy_days(files, days)
    nights = Nights(make_context, tmp_path / "out", files)
    context, told = nights.run(first, second + timedelta(days=1))
    before = stored_files(context)
    _, again = nights.run(second, second + timedelta(days=1))
    assert again["history"]["content_hash"] == told["history"]["content_hash"]
    assert (again["history"]["version"], again["history"]["changed_days"]) == (1, [])
    assert stored_files(context) == before

    lines = (files / f"{second}.csv").read_text().splitlines(keepends=True)
    (files / f"{second}.csv").write_text("".join(lines[:-40]))
    mended, told = nights.run(second, second + timedelta(days=1))
    assert told["history"]["changed_days"] == ["2010-12-02"]
    after = stored_files(context)
    assert before.items() <= after.items(), "no file was touched"
    assert all("event_date=2010-12-02" in path for path in after.keys() - before.keys())
    kept, _ = expected_ratings(copied_rows(files, days[:2]))
    assert as_expected(mended) == kept

    (files / f"{second}.csv").unlink()
    _, gone = nights.run(second, second + timedelta(days=1))
    assert gone["history"]["changed_days"] == [], "a file that is gone takes nothing back"
    assert nights.versions() == [1, 2]


def test_late_rows_are_placed_by_event_time_counted_and_listed(make_context: MakeContext, tmp_path: Path) -> None:
    first, second, third = days = shop_days(3)
    (on_time := tmp_path / "files").parent.mkdir(exist_ok=True)
    copy_days(on_time, days)
    shutil.copytree(on_time, late := tmp_path / "late")
    lines = (late / f"{first}.csv").read_text().splitlines(keepends=True)
    moved = [line for line in lines[1:] if ",17850.0," in line][:7]
    (late / f"{first}.csv").write_text("".join(line for line in lines if line not in moved))
    with (late / f"{third}.csv").open("a") as file:
        file.writelines(moved)
    n_moved = sum(line in moved for line in lines)
    with (late / f"{third}.csv").open("a") as file:
        file.writelines(moved[:1] * (n_moved - len(moved)))

    expected, _ = Nights(make_context, tmp_path / "out", on_time).run(first, third + timedelta(days=1))
    nights = Nights(make_context, tmp_path / "out-late", late)
    _, told = nights.run(first, third)
    assert (told["history"]["late"], told["history"]["off_day"]) == (0, [])
    context, told = nights.run(third, third + timedelta(days=1))
    assert (told["history"]["late"], told["history"]["early"]) == (n_moved, 0)
    assert told["history"]["off_day"] == [{"delivered": "2010-12-03", "event_date": "2010-12-01", "rows": n_moved}]
    assert told["history"]["changed_days"] == ["2010-12-01", "2010-12-03"], "the second day is not rewritten"
    listed = context.read(LATE_RATINGS).collect()
    assert {(row["user_id"], row["timestamp"].date()) for row in listed} == {("17850.0", first)}
    assert as_expected(context) == as_expected(expected)

    _, again = nights.run(third, third + timedelta(days=1))
    assert again["history"]["changed_days"] == []
    _, told = nights.run(first, second)
    assert told["history"]["changed_days"] == [], "the first day's own file does not take late rows away"


def test_of_two_nights_that_write_at_once_both_are_in_the_history(make_context: MakeContext, tmp_path: Path) -> None:
    first, second = days = shop_days(2)
    copy_days(tmp_path / "files", days, limit=60)
    nights = Nights(make_context, tmp_path / "out", tmp_path / "files")
    waiting = [lambda: nights.run(first, second)]

    def others_first(n: int, name: str, arguments: tuple[Any, ...]) -> None:
        if name == "create_if_absent" and waiting:
            waiting.pop()()

    context = replace(nights.context(second, second + timedelta(days=1)), storage=WatchedStorage(before=others_first))
    told = run(context)
    kept, _ = expected_ratings(copied_rows(tmp_path / "files", days))
    assert as_expected(context) == kept
    assert told["history"]["version"] == 2
    named = {
        file["path"]
        for entry in NumberedLog(context.storage, f"{history_folder(context.run.root)}/versions")
        .read(2)["days"]
        .values()
        for file in entry["files"]
    }
    root = Path(history_folder(context.run.root))
    assert {str(path.relative_to(root)) for path in root.rglob("*.parquet")} == named, "nothing of the lost attempt"


def test_a_bad_day_does_not_get_into_the_history(make_context: MakeContext, tmp_path: Path) -> None:
    (first, second) = days = shop_days(2)
    copy_days(tmp_path / "files", days, limit=60)
    nights = Nights(make_context, tmp_path / "out", tmp_path / "files")
    nights.run(first, second)
    day = tmp_path / "files" / f"{second}.csv"
    lines = day.read_text().splitlines(keepends=True)
    day.write_text("".join(lines[:5]) + "".join(lines[5:]).replace(",2010-12-02 ", ",02.12.2010 "))
    with pytest.raises(ContractError, match="too many rows were quarantined"):
        nights.run(second, second + timedelta(days=1))
    assert nights.versions() == [1]


def test_one_log_is_kept_by_event_time(make_context: MakeContext, tmp_path: Path) -> None:
    """Without a day in the path, what happened in the interval is replaced by what the log says of it now."""
    log = tmp_path / "ratings.csv"
    settings: dict[str, Any] = {
        "input": {"columns": {"timestamp": "at"}, "timestamp_format": "iso"},
        "ingest": {"duplicates": "sum"},
        "history": {},
    }

    def ingest(run_id: str, first: str, end: str, lines: str) -> tuple[list[tuple[Any, ...]], dict[str, Any]]:
        log.write_text("user_id,item_id,rating,at\n" + lines)
        interval = Interval(*(datetime.fromisoformat(time).replace(tzinfo=UTC) for time in (first, end)))
        context = make_context(interval, run_id, **settings)
        told = run(context)["history"]
        return sorted(tuple(row)[:3] for row in context.read(RATINGS).collect()), told

    early = "u,a,1,2011-01-03T10:00:00\nu,b,1,2011-01-03T23:59:59\n"
    found, _ = ingest("r1", "2011-01-03", "2011-01-04", early + "u,a,5,2011-01-04T00:00:00\n")
    assert found == [("u", "a", 1.0), ("u", "b", 1.0)]
    found, told = ingest("r2", "2011-01-04", "2011-01-05", "u,a,5,2011-01-04T00:00:00\n")
    assert found == [("u", "a", 6.0), ("u", "b", 1.0)]
    assert told["changed_days"] == ["2011-01-04"]
    found, told = ingest("r3", "2011-01-03T12:00", "2011-01-04", "u,c,1,2011-01-03T12:00:00\n")
    assert found == [("u", "a", 6.0), ("u", "c", 1.0)], "only the afternoon was read again"
    assert told["changed_days"] == ["2011-01-03"]

    settings["input"] = {**settings["input"], "columns": {"timestamp": "at", "weight": "rating", "rating": None}}
    with pytest.raises(ConfigError, match="the history was made from another kind of input"):
        run(make_context(None, "r4", **settings))
