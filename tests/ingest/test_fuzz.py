"""Lines that nobody has thought of: no crash, and never a lost row."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
from hypothesis import HealthCheck, given, settings
from pyspark.sql import functions as F

from recsys_spark.ingest.stage import run
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.tables import QUARANTINE, RATINGS
from tests.conftest import ROOT

MakeContext = Callable[..., StageContext]
SHOP = ROOT / "examples" / "online-retail" / "by-day"
HOSTILE = [
    *(
        b"\x00",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\xc3",
        b"\xed\xa0\x80",
        b"\r",
        b"\n",
        b"\r\n",
        b"\x0b",
        b"\x1c",
        b"\x85",
    ),
    *(
        b'"',
        b'""',
        b",",
        b",,,,",
        b"\\",
        b"'",
        b"'; DROP TABLE users; --",
        b"<script>alert(1)</script>",
        b"${jndi:ldap://x}",
    ),
    *(
        b"../../etc/passwd",
        b"$(reboot)",
        b"`id`",
        b"%00",
        b"%2e%2e",
        b"1e309",
        b"-0",
        b"NaN",
        b"9" * 400,
        "é日🎈\u202e".encode(),
    ),
]


def rows_in(content: bytes) -> int:
    """Count lines that are not empty, independently of the reader under test."""
    return sum(1 for line in content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n") if line)


def mutated(line: bytes, rng: np.random.Generator) -> bytes:
    """Damage a line in up to three places."""
    for _ in range(rng.integers(1, 4)):
        place, kind = int(rng.integers(0, len(line) + 1)), rng.integers(0, 5)
        piece = HOSTILE[rng.integers(0, len(HOSTILE))]
        if kind == 0:
            line = line[:place] + piece + line[place:]
        elif kind == 1:
            line = line[:place] + bytes([rng.integers(0, 256)]) + line[place + 1 :]
        elif kind == 2:
            line = line[:place]
        elif kind == 3:
            line = line[:place] + line[place + int(rng.integers(1, 9)) :]
        else:
            cells = line.split(b",")
            cells[rng.integers(0, len(cells))] = piece
            line = b",".join(cells)
    return line


def check_conservation(context: StageContext, content: bytes, n_headers: int) -> dict[str, int]:
    totals: dict[str, int] = run(context)["totals"]
    assert totals["rows_in"] == rows_in(content) - n_headers
    assert totals["rows_in"] == totals["accepted"] + totals["merged"] + totals["quarantined"]
    kept = context.read(RATINGS).agg(F.sum("n_merged").alias("n")).collect()[0]["n"] or 0
    assert kept + context.read(QUARANTINE).count() == totals["rows_in"]
    return totals


def test_ten_thousand_damaged_lines_of_a_real_log_lose_no_row(make_context: MakeContext, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with gzip.open(SHOP / "2010-12-01.csv.gz") as first, gzip.open(SHOP / "2010-12-06.csv.gz") as second:
        header, *lines = first.read().splitlines()
        lines += second.read().splitlines()[1:]
    damaged = [mutated(lines[k % len(lines)], rng) for k in range(10_000)]
    content = header + b"\n" + b"\n".join(damaged) + b"\n"
    (tmp_path / "ratings.csv").write_bytes(content)
    context = make_context(
        input={
            "columns": {"user": "CustomerID", "item": "StockCode", "rating": "Quantity", "timestamp": "InvoiceDate"},
            "timestamp_format": "yyyy-MM-dd HH:mm:ss",
        },
        ingest={"duplicates": "sum", "max_quarantined_share": 1.0},
    )
    totals = check_conservation(context, content, 1)
    assert totals["rows_in"] > 10_000, "some of them were broken in two"
    assert min(totals["accepted"], totals["quarantined"]) > 1000


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.sampled_from(HOSTILE) | st.binary(max_size=12), max_size=5), min_size=30, max_size=60))
def test_lines_made_of_hostile_pieces_lose_no_row(
    make_context: MakeContext, tmp_path: Path, pieces: list[list[bytes]]
) -> None:
    content = b"user_id,item_id,rating\nu,a,1\n" + b"\n".join(b",".join(line) for line in pieces) + b"\n"
    (tmp_path / "ratings.csv").write_bytes(content)
    runs = tmp_path / "out" / "runs" / "date=2026-01-05"
    number = len(list(runs.iterdir())) if runs.exists() else 0
    context = make_context(run_id=f"r{number}", ingest={"max_quarantined_share": 1.0})
    repeated = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n").count(b"user_id,item_id,rating")
    assert repeated == 1
    check_conservation(context, content, 1)


def test_an_id_of_a_megabyte_is_set_aside_or_kept_whole(make_context: MakeContext, tmp_path: Path) -> None:
    long_id = "é" * 500_000
    content = f"user_id,item_id,rating\n{long_id},a,1\nu,{long_id},2\nu,b,3\n".encode()
    (tmp_path / "ratings.csv").write_bytes(content)
    context = make_context(ingest={"max_quarantined_share": 1.0})
    assert check_conservation(context, content, 1)["quarantined"] == 2
    assert {row["reason"] for row in context.read(QUARANTINE).collect()} == {"id_too_long"}
    context = make_context(run_id="r2", ingest={"max_id_length": 100_000})
    (tmp_path / "ratings.csv").write_bytes(content.replace(long_id.encode(), long_id[:100_000].encode()))
    run(context)
    found = {(len(row["user_id"]), len(row["item_id"])) for row in context.read(RATINGS).collect()}
    assert found == {(100_000, 1), (1, 100_000), (1, 1)}
