"""Stored days that are damaged: written again from the shop's own files, row for row, or refused with a reason."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame

from recsys_spark.errors import RecsysError, error_from_reader
from recsys_spark.ingest.history import Delivery, damaged_days, history_folder, latest_version, version_log
from recsys_spark.ingest.log_files import LogFiles
from recsys_spark.ingest.mended_days import mend_history
from recsys_spark.ingest.stage import run
from recsys_spark.interval import Interval
from recsys_spark.publish.forgetting import forget_user
from recsys_spark.publish.verification import verify
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.storage.numbered_log import NumberedLog
from recsys_spark.tables import RATINGS
from tests.ingest.test_history import (
    MakeContext,
    Nights,
    as_expected,
    copied_rows,
    copy_days,
    expected_ratings,
    rows,
    shop_days,
)

ONE_DAY = timedelta(days=1)


def stored_file(context: StageContext, day: date) -> Path:
    version = latest_version(context)
    (file,) = version.days[str(day)]["files"]
    return Path(version.folder, file["path"])


def without_side_file(path: Path) -> None:
    """Remove the checksums that Hadoop's local file system keeps beside a file, and a storage of objects does not."""
    (path.parent / f".{path.name}.crc").unlink()


def flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 8
    path.write_bytes(content)


def cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def rename_column(path: Path) -> None:
    """Change the name of a column in the schema: read by its name, it would be empty."""
    content = path.read_bytes()
    assert content.count(b"rating") >= 1
    path.write_bytes(content.replace(b"rating", b"rbting"))


def flip_footer_length(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)


def copy_other_day(path: Path) -> None:
    """Put another day's file there, which is whole."""
    (other,) = path.parent.parent.glob("event_date=2010-12-10/*.parquet")
    shutil.copy(other, path)


DAMAGES: list[Callable[[Path], object]] = [
    lambda path: cut(path, 0.5),
    lambda path: cut(path, 0.0),
    lambda path: flip(path, 0.1),
    lambda path: flip(path, 0.4),
    flip_footer_length,
    rename_column,
    lambda path: path.unlink(),
    copy_other_day,
]


def test_damaged_days_are_written_again_from_the_log_row_for_row(make_context: MakeContext, tmp_path: Path) -> None:
    days = [day for day in shop_days(12) if day.weekday() != 5][: len(DAMAGES) + 2]
    copy_days(tmp_path / "files", days, limit=50)
    nights = Nights(make_context, tmp_path / "out", tmp_path / "files")
    context, _ = nights.run(days[0], days[-1])
    version = latest_version(context)
    files = [stored_file(context, day) for day in days[: len(DAMAGES)]]
    for damage, file in zip(DAMAGES, files, strict=True):
        without_side_file(file)
        damage(file)

    after, told_after = nights.run(days[-1], days[-1] + ONE_DAY)
    assert told_after["history"]["mended_days"] == [str(day) for day in days[: len(DAMAGES)]]
    assert told_after["history"]["changed_days"] == [str(days[-1])]
    assert told_after["history"]["version"] == 3
    kept, n_cancelled = expected_ratings(copied_rows(tmp_path / "files", days))
    assert as_expected(after) == kept
    assert told_after["history"]["ratings"]["cancelled"] == n_cancelled
    assert told_after["totals"]["rows_in"] == 50, "rows that are read again are not the run's own"

    mended = NumberedLog(context.storage, f"{history_folder(context.run.root)}/versions").read(2)["days"]
    for day, content in version.days.items():
        assert {k: v for k, v in mended[day].items() if k != "files"} == {
            k: v for k, v in content.items() if k != "files"
        }
    assert not any(file.exists() for file in files), "nothing is left that nobody can read"
    assert verify(context.run.root, context.storage)[1] == []
    newest = latest_version(after)
    assert damaged_days(after, newest, [*newest.days]) == []


def test_a_day_has_its_late_rows_again_and_no_other_day_changes(make_context: MakeContext, tmp_path: Path) -> None:
    first, second, third = days = shop_days(3)
    copy_days(tmp_path / "files", days, limit=40)
    late = (tmp_path / "files" / f"{first}.csv").read_text().splitlines(keepends=True)[1:6]
    with (tmp_path / "files" / f"{second}.csv").open("a") as file:
        file.writelines(late)
    nights = Nights(make_context, tmp_path / "out", tmp_path / "files")
    context, told = nights.run(first, third)
    assert told["history"]["late"] == 5
    before = latest_version(context)
    kept = rows(context, RATINGS)
    cut(stored_file(context, first), 0.7)
    # The second day is read again by this run, whose file brought some of the rows: the first one's brought the others.
    after, told = nights.run(second, third)
    assert (told["history"]["mended_days"], told["history"]["changed_days"]) == ([str(first)], [])
    assert rows(after, RATINGS) == kept
    assert latest_version(context).days[str(second)] == before.days[str(second)]
    assert latest_version(context).content_hash == before.content_hash


def test_a_day_that_the_run_brings_anew_needs_no_other_file(make_context: MakeContext, tmp_path: Path) -> None:
    first, second = days = shop_days(2)
    copy_days(tmp_path / "files", days, limit=40)
    nights = Nights(make_context, tmp_path / "out", tmp_path / "files")
    context, _ = nights.run(first, second)
    kept = rows(context, RATINGS)
    cut(stored_file(context, first), 0.7)
    after, told = nights.run(first, second)
    assert (told["history"]["mended_days"], told["history"]["changed_days"]) == ([], [str(first)])
    assert rows(after, RATINGS) == kept


def lose_source(files: Path, day: date, context: StageContext) -> None:
    (files / f"{day}.csv").unlink()


def change_source(files: Path, day: date, context: StageContext) -> None:
    path = files / f"{day}.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def damage_source(files: Path, day: date, context: StageContext) -> None:
    path = files / f"{day}.csv"
    path.write_bytes(path.read_bytes().replace(b"CustomerID", b"Customer"))


def forget_somebody(files: Path, day: date, context: StageContext) -> None:
    assert forget_user(context.run.root, context.storage, "17850.0")


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (lose_source, "the log has no file any more of 2010-12-01"),
        (change_source, "the log says something else today (2010-12-01: 39 rows for 40)"),
        (damage_source, "the log cannot be read again: the file has no such column"),
        (forget_somebody, "somebody was taken out of it, whom the log would bring back"),
    ],
)
def test_what_the_log_does_not_have_any_more_is_refused_with_a_reason(
    make_context: MakeContext, tmp_path: Path, trouble: Callable[[Path, date, StageContext], None], reason: str
) -> None:
    first, second = days = shop_days(2)
    copy_days(tmp_path / "files", days, limit=40)
    nights = Nights(make_context, tmp_path / "out", tmp_path / "files")
    context, _ = nights.run(first, second)
    trouble(tmp_path / "files", first, context)
    file = stored_file(context, first)
    cut(file, 0.9)
    with pytest.raises(RecsysError) as caught:
        nights.run(second, second + ONE_DAY)
    told = str(caught.value)
    assert reason in told, told
    assert file.name in told
    assert "cannot be had from the log: 2010-12-01" in told
    assert "remedy: restore the files from a copy, or " in told
    assert "ingest 2010-12-01 again in one run (--start 2010-12-01 --end 2010-12-02)" in told
    assert ("put an empty file where that of 2010-12-01 was" in told) == (trouble is lose_source)
    assert ("then run recsys-spark forget again" in told) == (trouble is forget_somebody)
    assert nights.versions() == [1]
    assert file.exists()
    if trouble is change_source:
        _, told_of = nights.run(first, second)
        assert (told_of["history"]["changed_days"], told_of["history"]["rows"]) == ([str(first)], 39)


def test_an_empty_file_gives_up_what_a_lost_one_has_brought(make_context: MakeContext, tmp_path: Path) -> None:
    first, second = days = shop_days(2)
    copy_days(tmp_path / "files", days, limit=20)
    nights = Nights(make_context, tmp_path / "out", tmp_path / "files")
    context, _ = nights.run(first, second + ONE_DAY)
    cut(stored_file(context, first), 0.7)
    (tmp_path / "files" / f"{first}.csv").unlink()
    with pytest.raises(RecsysError, match="put an empty file where that of 2010-12-01 was"):
        nights.run(second, second + ONE_DAY)
    (tmp_path / "files" / f"{first}.csv").write_text("")
    after, told = nights.run(first, second)
    assert told["history"]["changed_days"] == [str(first)]
    assert [*latest_version(after).days] == [str(second)]
    assert as_expected(after) == expected_ratings(copied_rows(tmp_path / "files", [second]))[0]
    assert verify(after.run.root, after.storage)[1] == []


def test_days_that_share_rows_are_ingested_again_in_one_run(make_context: MakeContext, tmp_path: Path) -> None:
    first, second = days = shop_days(2)
    copy_days(tmp_path / "files", days, limit=20)
    late = (tmp_path / "files" / f"{first}.csv").read_text().splitlines(keepends=True)[1:4]
    with (tmp_path / "files" / f"{second}.csv").open("a") as file:
        file.writelines(late)
    nights = Nights(make_context, tmp_path / "out", tmp_path / "files")
    context, _ = nights.run(first, second + ONE_DAY)
    cut(stored_file(context, first), 0.7)
    change_source(tmp_path / "files", second, context)
    for day in days:
        with pytest.raises(RecsysError, match=r"in one run \(--start 2010-12-01 --end 2010-12-03\)"):
            nights.run(day, day + ONE_DAY)
    after, told = nights.run(first, second + ONE_DAY)
    assert str(first) in told["history"]["changed_days"]
    assert verify(after.run.root, after.storage)[1] == []


def test_what_is_no_fault_of_the_logs_files_is_raised_as_it_is(make_context: MakeContext, tmp_path: Path) -> None:
    (first,) = days = shop_days(1)
    copy_days(tmp_path / "files", days, limit=20)
    nights = Nights(make_context, tmp_path / "out", tmp_path / "files")
    context, _ = nights.run(first, first + ONE_DAY)
    cut(stored_file(context, first), 0.7)

    def read_again(_: LogFiles) -> DataFrame:
        Path(context.run.path, "_read_again").mkdir()
        raise MemoryError("no room for more")

    with pytest.raises(MemoryError, match="no room for more"):
        mend_history(context, Delivery(frozenset(), None), read_again)
    assert not Path(context.run.path, "_read_again").exists()


def test_of_a_day_that_somebody_was_taken_out_of_other_rows_are_found(
    make_context: MakeContext, tmp_path: Path
) -> None:
    """As many as there were: only the checksum of the file knows that they are others."""
    (first,) = days = shop_days(1)
    copy_days(tmp_path / "files", days, limit=40)
    nights = Nights(make_context, tmp_path / "out", tmp_path / "files")
    context, _ = nights.run(first, first + ONE_DAY)
    forget_somebody(tmp_path / "files", first, context)
    version = latest_version(context)
    assert damaged_days(context, version, [str(first)]) == []
    file = stored_file(context, first)
    table = pq.ParquetFile(file).read()
    pq.write_table(table.set_column(2, table.schema.field(2), pc.add(table["rating"], 1.0)), file)
    assert damaged_days(context, version, [str(first)]) == [str(first)]


def test_a_damaged_version_of_the_history_is_named_with_a_remedy(make_context: MakeContext, tmp_path: Path) -> None:
    nights = Nights(make_context, tmp_path / "out", tmp_path / "files")
    context = nights.context(date(2010, 12, 1), date(2010, 12, 2))
    for text in ("{", "[]", '{"input": {}}'):
        context.storage.write_text(version_log(context).path(1), text)
        with pytest.raises(RecsysError, match=r"00000001.json[\s\S]*remedy: restore this file"):
            latest_version(context)


def test_of_one_log_the_damaged_days_are_read_again(make_context: MakeContext, tmp_path: Path) -> None:
    log = tmp_path / "ratings.csv"
    settings: dict[str, Any] = {
        "input": {"columns": {"timestamp": "at"}, "timestamp_format": "iso"},
        "history": {},
    }
    lines = [f"u{n},i{n % 3},{1 + n % 5},2011-01-0{1 + n % 3}T10:00:0{n % 10}\n" for n in range(30)]
    log.write_text("user_id,item_id,rating,at\n" + "".join(lines))
    whole = make_context(Interval(*(datetime(2011, 1, day, tzinfo=UTC) for day in (1, 4))), "r1", **settings)
    run(whole)
    flip(stored_file(whole, date(2011, 1, 2)), 0.3)
    night = make_context(Interval(*(datetime(2011, 1, day, tzinfo=UTC) for day in (3, 4))), "r2", **settings)
    told = run(night)
    assert (told["history"]["mended_days"], told["history"]["changed_days"]) == (["2011-01-02"], [])
    assert rows(night, RATINGS) == rows(whole, RATINGS)


def test_a_file_of_the_history_that_a_later_stage_cannot_read_is_named() -> None:
    told = str(
        error_from_reader("[FAILED_READ_FILE.NO_HINT] of file:/o/history/parts/r-1/event_date=2010-12-01/p.parquet.")
    )
    assert "event_date=2010-12-01/p.parquet" in told
    assert "writes 2010-12-01 again where the log still has its rows" in told
