"""Configurations guessed from real logs, and from small ones of every shape."""

from __future__ import annotations

import gzip
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_spark import cli
from recsys_spark.cli import main
from recsys_spark.config import PipelineConfig
from recsys_spark.config.file import load_config
from recsys_spark.errors import ConfigError
from recsys_spark.starter.column_names import role_of_name
from recsys_spark.starter.event_times import find_time_format
from recsys_spark.starter.sample import read_sample
from recsys_spark.starter.write import starter_config
from tests.conftest import ROOT, SHARED_DATA


@pytest.fixture(autouse=True)
def no_spark(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(app_name: str) -> None:
        raise AssertionError("init must not start Spark")

    monkeypatch.setattr(cli, "build_session", refuse)


def real(path: str) -> str:
    file = SHARED_DATA / path
    if not file.exists():
        pytest.skip(f"{path} of the shared data is not on this machine")
    return str(file)


def configured(source: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> PipelineConfig:
    """Return what init writes for a log; it has to load and to pass the dry run."""
    target = str(folder / "conf.yaml")
    assert main(["init", source, "--output", target]) == 0, capsys.readouterr().err
    assert main(["pipeline", "--config", target, "--dry-run"]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert target in printed
    assert "nothing was written (--dry-run)" in printed
    return load_config(target)


def columns_of(config: PipelineConfig) -> tuple[Any, ...]:
    columns = config.input.columns
    return columns.user, columns.item, columns.rating, columns.timestamp


def test_goodbooks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configured(str(ROOT / "examples/goodbooks/ratings.csv.gz"), tmp_path, capsys)
    assert columns_of(config) == ("user_id", "book_id", "rating", None)
    assert (config.input.delimiter, config.input.header) == (",", True)
    assert config.ingest.rating_range == (1, 5)
    assert (config.ingest.duplicates, config.train.loss) == ("mean", "squared")
    assert config.evaluate.relevant_rating == 4


def test_movielens_100k(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configured(real("ml-100k/u.data"), tmp_path, capsys)
    assert columns_of(config) == (0, 1, 2, 3)
    assert (config.input.delimiter, config.input.header) == ("\t", False)
    assert config.input.timestamp_format == "unix_seconds"
    assert (config.ingest.rating_range, config.ingest.duplicates) == ((1, 5), "last")
    written = (tmp_path / "conf.yaml").read_text()
    assert "lines have 4 cells, split at tab" in written
    assert "Seconds since 1970: 1997-09-" in written
    assert written.count("CHECK THIS") == 3, "without names, users, items and ratings are guesses"


def test_book_crossing_with_semicolons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configured(real("book-crossing-dirty/fernandajacob_BX-Book-Ratings_excel.csv"), tmp_path, capsys)
    assert columns_of(config) == ("User-ID", "ISBN", "Book-Rating", None)
    assert config.input.delimiter == ";"
    assert config.ingest.rating_range == (0, 10)
    assert "are 0, which often means that no rating was given" in (tmp_path / "conf.yaml").read_text()


def test_book_crossing_without_header_and_with_carriage_returns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured(real("book-crossing-dirty/LaxmiVanam_BX-Book-Ratings_rawquoted_crlf.csv"), tmp_path, capsys)
    assert (config.input.delimiter, config.input.header) == (";", False)
    assert columns_of(config) == (0, 1, 2, None)


def test_book_crossing_of_another_computer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = real("book-crossing-dirty/cyadusha_BX-Book-Ratings_CR-only_triplequoted.csv")
    config = configured(source, tmp_path, capsys)
    assert columns_of(config) == ("User-ID", "ISBN", "Book-Rating", None)


@pytest.mark.parametrize("source", ["online-retail/by-day", "online-retail/by-day/2010-12-01.csv"])
def test_online_retail(tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str) -> None:
    config = configured(real(source), tmp_path, capsys)
    assert columns_of(config) == ("CustomerID", "StockCode", "Quantity", "InvoiceDate")
    assert config.input.timestamp_format == "iso"
    assert (config.train.loss, config.ingest.duplicates, config.ingest.cancellations) == ("ials", "sum", True)
    assert config.ingest.max_quarantined_share > 0.2, "sales without a customer"


def test_play_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configured(real("hetrec-lastfm-2k/user_artists.dat"), tmp_path, capsys)
    assert columns_of(config) == ("userID", "artistID", "weight", None)
    assert (config.train.loss, config.ingest.rating_range, config.ingest.cancellations) == ("ials", None, False)


def written(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_double_colons_and_half_stars(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"{u}::{i}::{1 + (u + i) % 9 / 2}::{978300760 + u}" for u in range(30) for i in range(10)]
    config = configured(written(tmp_path, "ratings.dat", "\n".join(lines)), tmp_path, capsys)
    assert columns_of(config) == (0, 1, 2, 3)
    assert (config.input.delimiter, config.ingest.rating_range) == ("::", (1, 5))


def test_json_lines_with_milliseconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {
            "asin": f"B{i:03}",
            "reviewerID": f"u{i % 7}",
            "overall": 1.0 + i % 5,
            "timestamp": 1588615855070 + i,
            "style": {},
        }
        for i in range(50)
    ]
    source = tmp_path / "reviews.jsonl.gz"
    source.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    config = configured(str(source), tmp_path, capsys)
    assert columns_of(config) == ("reviewerID", "asin", "overall", "timestamp")
    assert (config.input.format, config.input.timestamp_format) == ("jsonl", "unix_millis")


def test_parquet_with_typed_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = [datetime(2026, 1, 5, hour) for hour in range(20)]
    columns = {"uid": list(range(20)), "track": ["a", "b"] * 10, "listened_at": times, "tags": [["x"]] * 20}
    source = tmp_path / "listens.parquet"
    pq.write_table(pa.table(columns), source)
    config = configured(str(source), tmp_path, capsys)
    assert columns_of(config) == ("uid", "track", None, "listened_at")
    assert (config.input.format, config.train.loss, config.ingest.duplicates) == ("parquet", "ials", "sum")


def test_labels_and_latin_letters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["user|film|score", *(f"u{n}|é{n % 5}|{n % 2}" for n in range(40))]
    (tmp_path / "likes.txt").write_bytes("\n".join(lines).encode("iso-8859-1"))
    config = configured(str(tmp_path / "likes.txt"), tmp_path, capsys)
    assert (config.input.delimiter, config.input.encoding) == ("|", "iso-8859-1")
    assert columns_of(config) == ("user", "film", "score", None)
    assert (config.train.loss, config.evaluate.relevant_rating) == ("logistic", 1)


def test_stray_quotes_are_ordinary_characters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["user\titem\ttitle\trating", *(f'u{n}\ti{n}\t"{n} inch\t{n % 5 + 1}' for n in range(20))]
    config = configured(written(tmp_path, "log.tsv", "\n".join(lines)), tmp_path, capsys)
    assert (config.input.delimiter, config.input.quote) == ("\t", "")


def test_words_between_spaces_are_no_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["user_id,title of the whole work,rating", *(f"u{n},the old book of {n},{n % 5 + 1}" for n in range(20))]
    config = configured(written(tmp_path, "log.csv", "\n".join(lines)), tmp_path, capsys)
    assert config.input.delimiter == ","


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = written(tmp_path, "ratings.csv", "user_id,item_id,rating\nu,a,1\nu,b,2\n")
    target = written(tmp_path, "conf.yaml", "mine")
    assert main(["init", source, "--output", target]) == 2
    assert "is left as it is" in capsys.readouterr().err
    assert Path(target).read_text() == "mine"


def test_the_default_name_is_that_of_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "my ratings.csv", "user_id,item_id,rating\nu,a,1\nu,b,2\n")
    assert main(["init", "my ratings.csv"]) == 0
    assert "recsys-spark pipeline --config my-ratings.yaml --dry-run" in capsys.readouterr().out
    assert load_config("my-ratings.yaml").output.path == "runs/my-ratings"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "there is no file with content"),
        (b"\n\n", "the file has no lines"),
        (b"one\ntwo\n", "no delimiter was found"),
        (b"user_id,item_id,rating\n", "the file has a header and no rows"),
        ("user,item".encode("utf-16"), "the file is UTF-16"),
        (gzip.compress(b"user,item\n", mtime=0), "the file is compressed, and its name does not say so"),
        (b"rating,date\n4,2026-01-01\n3,2026-01-02\n", "no column is left that could hold the users' ids"),
    ],
)
def test_what_cannot_be_understood_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, expected: str
) -> None:
    (tmp_path / "log.csv").write_bytes(content)
    assert main(["init", str(tmp_path / "log.csv"), "--output", str(tmp_path / "conf.yaml")]) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert said.splitlines()[-1].startswith("  remedy: ")
    assert not (tmp_path / "conf.yaml").exists()


def test_files_of_another_shape_beside_the_sample_are_found_out(tmp_path: Path) -> None:
    written(tmp_path, "a.csv", "user_id,item_id,rating\nu,a,1\nu,b,2\n")
    written(tmp_path, "b.csv", "user;item\nu;a\n")
    with pytest.raises(ConfigError, match="the file has no such column"):
        starter_config(str(tmp_path))


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["881250949", "891717742"], "unix_seconds"),
        (["881250949.5"], "unix_seconds"),
        (["1588615855070"], "unix_millis"),
        (["2010-12-01 08:26:00", "2010-12-01"], "iso"),
        (["2010-12-01T08:26:00.123Z", "2010-12-01T08:26+01:00"], "iso"),
        (["12/1/2010 8:26", "12/13/2010 18:26"], "M/d/yyyy H:mm"),
        (["1/12/2010", "13/12/2010"], "d/M/yyyy"),
        (["01.12.2010 08:26:00"], "d.M.yyyy H:mm:ss"),
        (["09 13, 2009"], "M d, yyyy"),
        (["2010/12/01"], "yyyy/M/d"),
        (["20101201", "20110131"], "yyyyMMdd"),
        (["1588615855070123"], None),
        (["3", "4"], None),
        (["yesterday"], None),
    ],
)
def test_formats_of_times(texts: list[str], expected: str | None) -> None:
    found = find_time_format(texts, is_named_so=True)
    assert (found.format if found else None) == expected


def test_a_day_that_could_be_a_month_is_a_doubt() -> None:
    found = find_time_format(["01/02/2010", "03/04/2010"], is_named_so=False)
    assert found is not None
    assert "could be d/M/yyyy as well: CHECK THIS" in found.why
    certain = find_time_format(["01/02/2010", "03/14/2010"], is_named_so=False)
    assert certain is not None
    assert "CHECK" not in certain.why
    assert find_time_format(["20101201"], is_named_so=False) is None, "without a name it may be an id"


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("userId", "user"),
        ("CustomerID", "user"),
        ("reviewer_id", "user"),
        ("Book-Rating", "rating"),
        ("StockCode", "item"),
        ("parent_asin", "item"),
        ("movieid", "item"),
        ("unixReviewTime", "timestamp"),
        ("InvoiceDate", "timestamp"),
        ("InvoiceNo", None),
        ("UnitPrice", None),
        ("id", None),
    ],
)
def test_names_tell_by_their_last_word(name: str, role: str | None) -> None:
    assert role_of_name(name) == role


_CELL = st.text(st.characters(codec="utf-8", exclude_characters='\r\n"\x00,;|\t: '), min_size=1, max_size=8)


@given(st.lists(st.tuples(_CELL, _CELL, st.integers(1, 5)), min_size=3, max_size=20), st.sampled_from(",;\t|"))
def test_any_log_with_names_is_read_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, int]], delimiter: str
) -> None:
    file = tmp_path_factory.mktemp("log") / "log.csv"
    lines = [("user_id", "item_id", "rating"), *rows]
    file.write_text("\n".join(delimiter.join(map(str, line)) for line in lines), encoding="utf-8", newline="")
    sample = read_sample(str(file))
    assert sample.settings["delimiter"][0] == delimiter
    assert [column.cells for column in sample.columns] == [tuple(str(row[place]) for row in rows) for place in range(3)]
