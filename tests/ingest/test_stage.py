"""The ingest stage: formats, duplicates, intervals, and the errors for input that cannot be used."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from recsys_spark import cli
from recsys_spark.cli import main
from recsys_spark.errors import ConfigError, ContractError
from recsys_spark.ingest.stage import ingest_new_ratings, run
from recsys_spark.interval import Interval
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.tables import CATALOGUE, NEW_QUARANTINE, NEW_RATINGS, QUARANTINE, RATINGS
from tests.conftest import SHARED_DATA

MakeContext = Callable[..., StageContext]
TIMED = {"columns": {"timestamp": "timestamp"}}


def ratings_of(context: StageContext) -> list[tuple[str, str, float]]:
    rows = context.read(RATINGS).select("user_id", "item_id", "rating").collect()
    return sorted((row["user_id"], row["item_id"], row["rating"]) for row in rows)


def write(folder: Path, text: str, name: str = "ratings.csv") -> None:
    (folder / name).write_text(text, encoding="utf-8")


def test_counts_add_up_for_every_file(make_context: MakeContext, tmp_path: Path) -> None:
    header = "user_id,item_id,rating,timestamp\n"
    write(tmp_path, header + "u,i,1,1767571200\nu,i,2,1767571201\nu,j,x,1767571200\nu,k,1,1\n", "a.csv")
    write(tmp_path, header + "u,i,4,1767571202\nv,i,5,1767571200\nv,j,5,\n", "b.csv")
    day = Interval(datetime(2026, 1, 5, tzinfo=UTC), datetime(2026, 1, 6, tzinfo=UTC))
    context = make_context(
        day,
        input={"path": [str(tmp_path / "a.csv"), str(tmp_path / "?.csv")], **TIMED},
        ingest={"duplicates": "last", "max_quarantined_share": 1.0},
    )
    details = run(context)
    assert ratings_of(context) == [("u", "i", 4.0), ("v", "i", 5.0)]
    by_file = {Path(counts.pop("path")).name: counts for counts in details["files"]}
    assert by_file == {
        "a.csv": {"rows_in": 3, "accepted": 0, "merged": 2, "quarantined": 1, "outside_interval": 1},
        "b.csv": {"rows_in": 3, "accepted": 2, "merged": 0, "quarantined": 1, "outside_interval": 0},
    }
    assert details["totals"] == {"rows_in": 6, "accepted": 2, "merged": 2, "quarantined": 2, "outside_interval": 1}
    assert details["reasons"]["unparsable_rating"] == details["reasons"]["bad_timestamp"] == 1


def test_json_lines(make_context: MakeContext, tmp_path: Path) -> None:
    lines = [
        '{"user": "007", "item": 12345678901234567890, "stars": 4}',
        '{"user": 7, "item": "a", "stars": "3.5", "other": {"x": [1]}}',
        '{"user": "u", "item": "a", "stars": null}',
        '{"user": "u", "item": "a"',
        '{"item": "a", "stars": 1}',
        '{"user": "u", "item": "b", "stars": 1e400}',
        '{"user": "u", "item": "c", "stars": 1}{"user": "u", "item": "d", "stars": 2}',
        '{"user": "u", "item": "c", "stars": 1}, {"user": "u", "item": "d", "stars": 2}',
        '{"user": "u", "item": "e", "stars": 1} and more',
        '[{"user": "u", "item": "f", "stars": 1}]',
        "null",
    ]
    (tmp_path / "r.jsonl").write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode())
    columns = {"user": "user", "item": "item", "rating": "stars"}
    context = make_context(
        input={"path": str(tmp_path / "r.jsonl"), "format": "jsonl", "columns": columns},
        ingest={"max_quarantined_share": 1.0},
    )
    details = run(context)
    assert ratings_of(context) == [("007", "12345678901234567890", 4.0), ("7", "a", 3.5)]
    found = {row["raw"]: row["reason"] for row in context.read(QUARANTINE).collect()}
    assert [found[line] for line in lines[2:]] == [
        "missing_rating",
        "malformed_line",
        "missing_user_id",
        "non_finite_rating",
        *["malformed_line"] * 5,
    ]
    assert details["totals"]["rows_in"] == len(lines)


def test_parquet_with_typed_columns(make_context: MakeContext, tmp_path: Path) -> None:
    times = [datetime(2026, 1, 5, 12, tzinfo=UTC), datetime(2026, 1, 6, tzinfo=UTC), None]
    table = pa.table({"user_id": [1, 2, 3], "item_id": ["a", None, "c"], "rating": [1.5, 2.0, 3.0], "at": times})
    pq.write_table(table, tmp_path / "r.parquet")
    context = make_context(
        input={
            "path": str(tmp_path / "r.parquet"),
            "format": "parquet",
            "columns": {"timestamp": "at"},
            "timestamp_format": "iso",
        },
        ingest={"max_quarantined_share": 1.0},
    )
    run(context)
    assert ratings_of(context) == [("1", "a", 1.5)]
    reasons = {json.loads(row["raw"])["user_id"]: row["reason"] for row in context.read(QUARANTINE).collect()}
    assert reasons == {2: "missing_item_id", 3: "bad_timestamp"}


def test_a_folder_of_day_folders_with_typed_times_needs_no_format(make_context: MakeContext, tmp_path: Path) -> None:
    for day in (5, 6):
        folder = tmp_path / "log" / f"day=2026-01-0{day}"
        (folder / "_temporary").mkdir(parents=True)
        times = [datetime(2026, 1, day, 12, 30, 15, 250_000, tzinfo=UTC)]
        table = pa.table({"user_id": ["u"], "item_id": [f"i{day}"], "rating": [1.0], "at": times})
        pq.write_table(table, folder / "part.parquet")
        pq.write_table(table, folder / "_temporary" / "part.parquet")
    for written in ("unix_seconds", "unix_millis", "iso", "dd.MM.yyyy HH:mm:ss.SSS"):
        context = make_context(
            run_id="".join(c for c in written if c.isalpha()),
            input={
                "path": str(tmp_path / "log"),
                "format": "parquet",
                "columns": {"timestamp": "at"},
                "timestamp_format": written,
            },
        )
        run(context)
        assert ratings_of(context) == [("u", "i5", 1.0), ("u", "i6", 1.0)]
        assert context.read(RATINGS).where("timestamp = '2026-01-05 12:30:15.25'").count() == 1


@pytest.mark.parametrize("pattern", ["DD/MM/YYYY", "not a pattern", "yyyy-MM-dd 'open"])
def test_a_date_pattern_that_spark_does_not_know(make_context: MakeContext, tmp_path: Path, pattern: str) -> None:
    write(tmp_path, "user_id,item_id,rating,timestamp\nu,a,1,05/01/2026\n")
    with pytest.raises(ConfigError, match=r"input\.timestamp_format"):
        run(make_context(input={**TIMED, "timestamp_format": pattern}))


def test_without_a_header_columns_are_numbers(make_context: MakeContext, tmp_path: Path) -> None:
    write(tmp_path, "1::10::4::978300760\n2::10::5::978302109\n")
    columns = {"user": 0, "item": 1, "rating": 2, "timestamp": 3}
    context = make_context(input={"header": False, "delimiter": "::", "columns": columns})
    run(context)
    assert ratings_of(context) == [("1", "10", 4.0), ("2", "10", 5.0)]
    assert context.read(RATINGS).where("timestamp = '2000-12-31 22:12:40'").count() == 1


def test_without_a_rating_column_every_row_is_one(make_context: MakeContext, tmp_path: Path) -> None:
    write(tmp_path, "user_id\titem_id\nu\ta\nu\ta\nv\tb\n\t\n")
    context = make_context(
        input={"delimiter": "\t", "columns": {"rating": None}},
        ingest={"duplicates": "sum", "max_quarantined_share": 0.5},
    )
    details = run(context)
    assert ratings_of(context) == [("u", "a", 2.0), ("v", "b", 1.0)]
    assert details["totals"]["quarantined"] == 1, "a line of nothing but delimiters is a row"


def test_too_many_bad_rows_stop_the_run_and_are_kept(make_context: MakeContext, tmp_path: Path) -> None:
    write(tmp_path, "user_id,item_id,rating\nu,a,1\nu,b,x\nu,c,y\n")
    context = make_context(ingest={"max_quarantined_share": 0.6})
    with pytest.raises(ContractError) as caught:
        run(context)
    text = str(caught.value)
    assert caught.value.exit_code == 3
    assert "2 of 3 rows set aside (2 unparsable_rating)" in text
    assert "max_quarantined_share: 0.6" in text
    assert "'u,b,x'" in text
    assert context.read(QUARANTINE).count() == 2
    assert context.read(RATINGS).count() == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "every input file is empty"),
        ("user_id,item_id,rating\n", "the input holds no rows"),
        ("user_id,item_id,rating\n,,\nu,a,x\n", "no rating is left"),
    ],
)
def test_input_without_ratings_is_a_broken_contract(
    make_context: MakeContext, tmp_path: Path, content: str, expected: str
) -> None:
    write(tmp_path, content)
    with pytest.raises(ContractError, match=expected):
        run(make_context(ingest={"max_quarantined_share": 1.0}))


def parquet_log(make_context: MakeContext, folder: Path, run_id: str = "r1", **columns: Any) -> StageContext:
    """Return a run over a Parquet log with these columns in the place of plain ones."""
    plain = {"user_id": ["u", "v"], "item_id": ["a", "b"], "rating": [1.0, 2.0], "at": ["2010-01-05", "2010-01-06"]}
    pq.write_table(pa.table(plain | columns), folder / "r.parquet")
    return make_context(
        input={
            "path": str(folder / "r.parquet"),
            "format": "parquet",
            "columns": {"timestamp": "at"},
            "timestamp_format": "iso",
        },
        run_id=run_id,
        ingest={"max_quarantined_share": 0.5},
    )


def test_odd_types_of_parquet_are_read_or_named(make_context: MakeContext, tmp_path: Path) -> None:
    typed = {
        "user_id": pa.array([b"caf\xe9", "é".encode()]),
        "item_id": pa.array([7, 8], pa.uint64()),
        "rating": pa.array([Decimal("1.50"), Decimal("2.25")]),
        "at": pa.array([date(2010, 1, 5), date(2010, 1, 6)]),
    }
    context = parquet_log(make_context, tmp_path, **typed)
    record = run(context)
    assert ratings_of(context) == [("é", "8", 2.25)]
    assert record["reasons"]["invalid_encoding"] == 1

    odd = {
        "user_id": (pa.array([{"a": 1}] * 2), "'user_id': struct<a:bigint>"),
        "item_id": (pa.array([["a"], ["b"]]), "'item_id': array<string>\n  allowed: text (binary too), numbers"),
        "rating": (pa.array([date(2010, 1, 5)] * 2), "'rating': date\n  allowed: text (binary too), numbers\n"),
        "at": (pa.array([datetime(2010, 1, 5)] * 2, pa.timestamp("ns")), "TIMESTAMP(NANOS"),
    }
    for number, (column, (cells, told)) in enumerate(odd.items()):
        with pytest.raises((ConfigError, ContractError)) as caught:
            run(parquet_log(make_context, tmp_path, f"odd{number}", **{column: cells}))
        assert told in str(caught.value)
        assert str(tmp_path / "r.parquet") in str(caught.value)
        assert "remedy: " in str(caught.value)


def test_wrong_column_of_parquet(make_context: MakeContext, tmp_path: Path) -> None:
    pq.write_table(pa.table({"userid": [1]}), tmp_path / "r.parquet")
    with pytest.raises(ConfigError, match="allowed: 'userid'"):
        run(make_context(input={"path": str(tmp_path / "r.parquet"), "format": "parquet"}))


def test_a_text_file_is_not_parquet(make_context: MakeContext, tmp_path: Path) -> None:
    (tmp_path / "r.parquet").write_text("user_id,item_id,rating\n")
    with pytest.raises(ContractError, match="cannot be read"):
        run(make_context(input={"path": str(tmp_path / "r.parquet"), "format": "parquet"}))


def test_files_that_cannot_be_read_to_the_end_are_named(
    spark: SparkSession,
    write_config: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "build_session", lambda name: spark)
    whole = gzip.compress(b"user_id,item_id,rating\n" + b"".join(b"%d,%d,1\n" % (n, n * n) for n in range(200_000)))
    (tmp_path / "cut.csv.gz").write_bytes(whole[:-20_000])
    assert main(["ingest", "--config", write_config(input={"path": str(tmp_path / "cut.csv.gz")})]) == 3
    printed = capsys.readouterr().err
    assert "a file cannot be read" in printed
    assert str(tmp_path / "cut.csv.gz") in printed
    assert "Unexpected end of input stream" in printed

    (tmp_path / "days").mkdir()
    for day, user in enumerate((["u1"], [1.5])):
        pq.write_table(pa.table({"user_id": user, "item_id": ["a"], "rating": [1.0]}), tmp_path / f"days/{day}.parquet")
    config = write_config(input={"path": str(tmp_path / "days"), "format": "parquet"})
    assert main(["ingest", "--config", config]) == 3
    printed = capsys.readouterr().err
    assert "unlike the others of its folder" in printed
    assert str(tmp_path / "days") in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_night_without_new_ratings_is_no_error(make_context: MakeContext, tmp_path: Path, kind: str) -> None:
    (tmp_path / "new").write_bytes(b"")
    settings = {"path": str(tmp_path / "ratings.csv"), "format": kind}
    context = make_context(input=settings, recommend={"new_ratings": str(tmp_path / "new")})
    totals = ingest_new_ratings(context)["totals"]
    assert (totals["rows_in"], totals["accepted"]) == (0, 0)
    assert context.read(NEW_RATINGS).count() == context.read(NEW_QUARANTINE).count() == 0


def test_a_file_cannot_be_log_and_new_ratings_at_once(make_context: MakeContext, tmp_path: Path) -> None:
    write(tmp_path, "user_id,item_id,rating\nu,a,1\n")
    context = make_context(recommend={"new_ratings": str(tmp_path / "*.csv")})
    with pytest.raises(ConfigError, match=r"part of the log and of the new ratings"):
        run(context)


def test_columns_of_tables_beside_the_log_are_looked_at_first(make_context: MakeContext, tmp_path: Path) -> None:
    (tmp_path / "deny.csv").write_text("item\na\n")
    context = make_context(recommend={"deny": {"path": str(tmp_path / "deny.csv")}})
    with pytest.raises(ConfigError, match=r"no such column[\s\S]*recommend\.deny\.item"):
        run(context)


def test_interval_needs_event_times(make_context: MakeContext, tmp_path: Path) -> None:
    write(tmp_path, "user_id,item_id,rating\nu,a,1\n")
    day = Interval(datetime(2026, 1, 5, tzinfo=UTC), datetime(2026, 1, 6, tzinfo=UTC))
    with pytest.raises(ConfigError, match="an interval needs event times"):
        run(make_context(day))


def test_latin_1_is_read_when_it_is_configured(make_context: MakeContext, tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_bytes(b"user_id,item_id,rating\nu,caf\xe9,1\n")
    context = make_context(input={"encoding": "iso-8859-1"})
    run(context)
    assert ratings_of(context) == [("u", "café", 1.0)]


def test_catalogue_keeps_one_title_per_item(make_context: MakeContext, tmp_path: Path) -> None:
    write(tmp_path, "user_id,item_id,rating\nu,007,1\n")
    lines = ["id,title,who,until", '007,"A ""b"", c",X,', '007,"A ""b"", a",Y,2026-02-01', ",none,Z,"]
    write(tmp_path, "\n".join(lines) + "\n", "items.csv")
    sections = {"path": str(tmp_path / "items.csv"), "item": "id", "by": "who", "end": "until"}
    context = make_context(catalogue=sections)
    run(context)
    assert [tuple(row) for row in context.read(CATALOGUE).collect()] == [
        ("007", 'A "b", a', "Y", None, None, "2026-02-01", None)
    ]
    with pytest.raises(ConfigError, match=r"catalogue\.title"):
        run(make_context(run_id="r2", catalogue={**sections, "title": "name"}))


BOOK_CROSSING = SHARED_DATA / "book-crossing-dirty"


def rows_in_file(path: Path, *, header: bool) -> int:
    """Count lines that are not empty, independently of the reader under test."""
    content = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return sum(1 for line in content.split(b"\n") if line) - header


@pytest.mark.skipif(not BOOK_CROSSING.is_dir(), reason=f"the Book-Crossing files are not in {BOOK_CROSSING}")
@pytest.mark.parametrize(
    ("name", "settings", "accepted_at_least"),
    [
        pytest.param(
            "cyadusha_BX-Book-Ratings_CR-only_triplequoted.csv", {"delimiter": ","}, 8_900, marks=pytest.mark.slow
        ),
        ("fernandajacob_BX-Book-Ratings_excel.csv", {"delimiter": ";"}, 99_000),
        ("LaxmiVanam_BX-Book-Ratings_rawquoted_crlf.csv", {"delimiter": ";", "header": False}, 39_000),
    ],
)
def test_book_crossing_rows_are_conserved(
    make_context: MakeContext, name: str, settings: dict[str, Any], accepted_at_least: int
) -> None:
    names = {"user": "User-ID", "item": "ISBN", "rating": "Book-Rating"}
    numbers = {"user": 0, "item": 1, "rating": 2}
    has_header = settings.get("header", True)
    context = make_context(
        input={"path": str(BOOK_CROSSING / name), "columns": names if has_header else numbers, **settings},
        ingest={"max_quarantined_share": 1.0, "rating_range": (0.0, 10.0)},
    )
    totals = run(context)["totals"]
    assert totals["rows_in"] == rows_in_file(BOOK_CROSSING / name, header=has_header)
    assert totals["rows_in"] == totals["accepted"] + totals["merged"] + totals["quarantined"]
    assert totals["accepted"] >= accepted_at_least
    assert totals["accepted"] == context.read(RATINGS).count()
    assert totals["quarantined"] == context.read(QUARANTINE).count()
