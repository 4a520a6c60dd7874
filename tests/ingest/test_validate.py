from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pyspark.sql import SparkSession

from recsys_spark.config.input import IngestConfig, InputConfig
from recsys_spark.ingest.validate import REASONS, check_rows, in_interval, without_first_headers
from recsys_spark.interval import Interval

RAW = "source_file string, raw string, fault string, user string, item string, rating string, timestamp string"
DAY = Interval(datetime(2026, 1, 5, tzinfo=UTC), datetime(2026, 1, 6, tzinfo=UTC))


def input_config(timestamp_format: str = "unix_seconds") -> InputConfig:
    return InputConfig.model_validate(
        {"path": "x", "columns": {"timestamp": "t"}, "timestamp_format": timestamp_format}
    )


@pytest.mark.parametrize(
    ("timestamp_format", "inside", "outside", "bad"),
    [
        ("unix_seconds", ["1767571200", "1767657599.9"], ["1767571199", "1767657600"], ["1767571200000", "-1"]),
        ("unix_millis", ["1767571200000", "1.767571200001e12"], ["1767571199999", "1767657600000"], ["soon"]),
        (
            "iso",
            ["2026-01-05T02:00:00+02:00", "2026-01-05"],
            ["2026-01-04T23:59:59Z", "2026-01-06 00:00:00"],
            ["05.01.", "12:30", "2026", "+20245-01-01", "1969-12-31"],
        ),
        (
            "dd.MM.yyyy HH:mm",
            ["05.01.2026 00:00"],
            ["04.01.2026 23:59", "06.01.2026 00:00"],
            ["2026-01-05", "31.02.2026 00:00"],
        ),
    ],
)
def test_event_times_and_the_half_open_interval(
    spark: SparkSession, timestamp_format: str, inside: list[str], outside: list[str], bad: list[str]
) -> None:
    rows = [("f", "", None, "u", "i", "1", text) for text in [*inside, *outside, *bad, "", None]]
    checked = check_rows(spark.createDataFrame(rows, RAW), input_config(timestamp_format), IngestConfig())
    found = checked.select("reason", in_interval(DAY).alias("covered")).collect()
    expected = [(None, True)] * len(inside) + [(None, False)] * len(outside)
    expected += [("bad_timestamp", True)] * (len(bad) + 2)
    assert [tuple(row) for row in found] == expected


def test_the_first_fault_names_the_reason(spark: SparkSession) -> None:
    rows = [
        ("malformed_line", None, None, None, None),
        (None, "\u00a0\t\u3000", "i", "x", "x"),
        (None, "u", "", "x", "x"),
        (None, "u" * 9, "i", "x", "x"),
        (None, "u", "i", None, "x"),
        (None, "u", "i", "4,5", "x"),
        (None, "u", "i", "nan", "x"),
        (None, "u", "i", "5.1", "x"),
        (None, "u", "i", "5", "x"),
        (None, "u", "i", "1", "0"),
    ]
    frame = spark.createDataFrame([("f", "", *row) for row in rows], RAW)
    config = IngestConfig(rating_range=(1.0, 5.0), max_id_length=8)
    reasons = [row["reason"] for row in check_rows(frame, input_config(), config).collect()]
    assert reasons == [
        "malformed_line",
        "missing_user_id",
        "missing_item_id",
        "id_too_long",
        "missing_rating",
        "unparsable_rating",
        "non_finite_rating",
        "rating_out_of_range",
        "bad_timestamp",
        None,
    ]
    assert set(reasons) - {None} <= REASONS.keys()


def test_weights_are_numbers_above_zero(spark: SparkSession) -> None:
    texts = ["1", "0.5", " 2e3 ", "0", "-1", "1e-7", "1e9", "NaN", "heavy", "", None]
    rows = [("f", "", None, "u", "i", "1", None, text) for text in texts]
    frame = spark.createDataFrame(rows, f"{RAW}, weight string")
    config = InputConfig.model_validate({"path": "x", "columns": {"weight": "w"}})
    checked = check_rows(frame, config, IngestConfig()).select("weight", "reason").collect()
    assert [row["weight"] for row in checked[:3]] == [1.0, 0.5, 2000.0]
    assert [row["reason"] for row in checked] == [None] * 3 + ["bad_weight"] * 8


def test_one_header_line_per_file_is_no_row(spark: SparkSession) -> None:
    rows = [(file, "u,i,r", "header_line", "u", "i", "r", None) for file in ("a", "a", "a", "b")]
    rows.append(("c", "x,y,1", None, "x", "y", "1", "0"))
    checked = check_rows(spark.createDataFrame(rows, RAW), input_config(), IngestConfig())
    left = without_first_headers(checked).select("source_file", "reason").collect()
    assert sorted(map(tuple, left), key=str) == [("a", "header_line"), ("a", "header_line"), ("c", None)]
