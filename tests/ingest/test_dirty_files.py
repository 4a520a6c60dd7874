"""Files as they really come: one ingest over a folder of them, and what became of each file's rows."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from recsys_spark.config import PipelineConfig
from recsys_spark.ingest.stage import run
from recsys_spark.progress import Progress
from recsys_spark.runs.run_directory import Run, StageContext
from recsys_spark.storage import storage_for
from recsys_spark.tables import QUARANTINE, RATINGS
from tests.conftest import small_config

HEADER = b"user_id,item_id,rating\n"
LONG_LINE = b"long," + b"x" * 10_000_000 + b",3\n"
# name -> (content, good rows as (user, item, rating), reasons of the others)
FILES: dict[str, tuple[bytes, list[tuple[str, str, float]], list[str]]] = {
    "bom.csv": (b"\xef\xbb\xbf" + HEADER + b"bom,a,1\n", [("bom", "a", 1.0)], []),
    "crlf.csv": (
        HEADER.replace(b"\n", b"\r\n") + b"crlf,a,1\r\ncrlf,b,2\r\n",
        [("crlf", "a", 1.0), ("crlf", "b", 2.0)],
        [],
    ),
    "cr_only.csv": (
        HEADER.replace(b"\n", b"\r") + b"cr,a,1\rcr,b,2",
        [("cr", "a", 1.0), ("cr", "b", 2.0)],
        [],
    ),
    "no_last_line_end.csv": (HEADER + b"end,a,1", [("end", "a", 1.0)], []),
    "blank_lines.csv": (b"\n\n" + HEADER + b"\nblank,a,1\n\n\n", [("blank", "a", 1.0)], []),
    "bare_commas.csv": (HEADER + b",,\n,,\ncommas,a,1\n", [("commas", "a", 1.0)], ["missing_user_id"] * 2),
    "header_again.csv": (
        HEADER + b"again,a,1\n" + HEADER + b"again,b,2\n" + HEADER,
        [("again", "a", 1.0), ("again", "b", 2.0)],
        ["header_line"] * 2,
    ),
    "header_only.csv": (HEADER, [], []),
    "empty.csv": (b"", [], []),
    "other_order.csv": (b"rating,extra,item_id,user_id\n4,?,a,order\n", [("order", "a", 4.0)], []),
    "long_line.csv": (HEADER + LONG_LINE + b"short,a,1\n", [("short", "a", 1.0)], ["id_too_long"]),
    "numbers.csv": (
        HEADER + b"n,a,NaN\nn,b,inf\nn,c,-Infinity\nn,d,1e400\nn,e,1e13\nn,f,five\nn,g,\nn,h,5d\nn,i,0x5\n"
        b'n,j,1e0\nn,k, 2 \nn,l,.5\nn,m,-3\nn,n,"4"\nn,o,"4,5"\n',
        [("n", "j", 1.0), ("n", "k", 2.0), ("n", "l", 0.5), ("n", "m", -3.0), ("n", "n", 4.0)],
        ["non_finite_rating"] * 5 + ["unparsable_rating"] * 4 + ["missing_rating"],
    ),
    "quotes.csv": (
        HEADER + b'"q ""x""",a,1\nq\'b,"a,b",2\nq"c,a"d,3\n"q\\",a,4\n"open,a,5\n'
        b'q,open,"5\nq,"a ,""",6\n"q, ""r""", "b",7\n',
        [('q "x"', "a", 1.0), ("q'b", "a,b", 2.0), ('q"c', 'a"d', 3.0), ("q\\", "a", 4.0)]
        + [("q", 'a ,"', 6.0), ('q, "r"', ' "b"', 7.0)],
        ["malformed_line"] * 2,
    ),
    "columns.csv": (HEADER + b"c,a\nc,b,1,9\nc,c,2\nc\n", [("c", "c", 2.0)], ["malformed_line"] * 3),
    "ids.csv": (
        HEADER + " 007,é\u00a0ü,1\n007,日本 語,2\n  ,a,3\nz\x00y,🎈,4\n=1+1,<script>,5\n".encode(),
        [
            (" 007", "é\u00a0ü", 1.0),
            ("007", "日本 語", 2.0),
            ("z\x00y", "🎈", 4.0),
            ("=1+1", "<script>", 5.0),
        ],
        ["missing_user_id"],
    ),
    "latin_1.csv": (
        HEADER + b"latin,caf\xe9,1\nlatin,cafe,2\n",
        [("latin", "cafe", 2.0)],
        ["invalid_encoding"],
    ),
    "zipped.csv.gz": (gzip.compress(b"\xef\xbb\xbf" + HEADER + b"zip,a,1\n"), [("zip", "a", 1.0)], []),
    "odd [name] +%20é.csv": (HEADER + b"odd,a,1\n,b,2\n", [("odd", "a", 1.0)], ["missing_user_id"]),
}


@pytest.fixture(scope="module")
def ingested(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("dirty")
    (folder / "in").mkdir()
    for name, (content, _, _) in FILES.items():
        (folder / "in" / name).write_bytes(content)
    sections = {"input": {"path": str(folder / "in")}, "ingest": {"max_quarantined_share": 1.0}}
    config = PipelineConfig.model_validate(small_config(folder, sections))
    run_of = Run(config.output.path, "r1", "2026-01-05")
    context = StageContext(spark, config, run_of, storage_for(config.output.path), Progress())
    details = run(context)
    return {
        "details": details,
        "counts": {Path(counts["path"]).name: counts for counts in details["files"]},
        "ratings": context.read(RATINGS).collect(),
        "quarantine": context.read(QUARANTINE).collect(),
    }


@pytest.mark.parametrize("name", list(FILES))
def test_each_file_gives_its_good_rows_and_sets_aside_the_rest(ingested: dict[str, Any], name: str) -> None:
    _, good, reasons = FILES[name]
    rows = [row for row in ingested["ratings"] if Path(row["source_file"]).name == name]
    assert sorted((row["user_id"], row["item_id"], row["rating"]) for row in rows) == sorted(good)
    set_aside = [row for row in ingested["quarantine"] if Path(row["source_file"]).name == name]
    assert sorted(row["reason"] for row in set_aside) == sorted(reasons)
    counts = ingested["counts"][name]
    assert counts["rows_in"] == len(good) + len(reasons)
    assert (counts["accepted"], counts["merged"], counts["quarantined"]) == (len(good), 0, len(reasons))


def test_rows_are_conserved_in_total(ingested: dict[str, Any]) -> None:
    assert len(ingested["details"]["files"]) == len(FILES)
    totals = ingested["details"]["totals"]
    assert totals["rows_in"] == sum(len(good) + len(reasons) for _, good, reasons in FILES.values())
    assert totals["rows_in"] == totals["accepted"] + totals["merged"] + totals["quarantined"]
    assert sum(ingested["details"]["reasons"].values()) == totals["quarantined"]


def test_quarantine_keeps_the_raw_text_to_the_last_byte(ingested: dict[str, Any]) -> None:
    raw = {row["raw"] for row in ingested["quarantine"]}
    assert LONG_LINE.decode().rstrip("\n") in raw
    assert "latin,caf\xe9,1" in raw, "bytes that are not UTF-8 are kept as ISO-8859-1"
    assert '"open,a,5' in raw
    assert "c,b,1,9" in raw


def test_source_files_are_named_as_a_person_writes_them(ingested: dict[str, Any]) -> None:
    names = {Path(row["source_file"]).name for row in ingested["ratings"]}
    assert "odd [name] +%20é.csv" in names
    assert all(row["source_file"].startswith("/") for row in ingested["ratings"])
