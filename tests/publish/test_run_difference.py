"""Two runs side by side, beside a count in plain Python."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession
from rich.console import Console

from recsys_spark.publish.run_difference import compare_runs
from recsys_spark.report.run_pages import print_difference
from recsys_spark.runs.run_directory import Run
from recsys_spark.storage import LocalStorage
from recsys_spark.tables import ITEM_FACTORS, METRICS, RECOMMENDATIONS, USER_SEGMENTS

N_RATINGS = {item: k + 1 for k, item in enumerate("abcdef")}
METRIC_ROWS = {"before": [("all", 0.1), ("few ratings", 0.2)], "after": [("all", 0.3), ("many ratings", 0.4)]}


def write_run(spark: SparkSession, root: Path, name: str, lists: dict[str, str], segments: dict[str, str]) -> Run:
    run = Run(str(root), name, "2026-01-05")
    rows = [
        (user, [(item, 1.0, k, "cf") for k, item in enumerate(items, 1)], None, None, name, "m")
        for user, items in lists.items()
    ]
    vector = {"item_index": 0, "factors": [1.0], "bias": 0.0}
    factors = [
        tuple(({"item_id": item, "n_ratings": n} | vector)[name] for name in ITEM_FACTORS.schema.names)
        for item, n in N_RATINGS.items()
    ]
    metrics = [("model", "ndcg@3", segment, value, None, None, 5) for segment, value in METRIC_ROWS[name]]
    for table, content in (
        (RECOMMENDATIONS, rows),
        (ITEM_FACTORS, factors),
        (USER_SEGMENTS, list(segments.items())),
        (METRICS, metrics),
    ):
        if content:
            table.write(spark.createDataFrame(content, table.schema), run.table_path(table))
    return run


def counted(before: set[str], after: set[str]) -> dict[str, int]:
    return {"before": len(before), "after": len(after), "both": len(before & after)}


@pytest.mark.parametrize("has_segments", [True, False])
def test_every_number_is_what_a_slow_count_says(spark: SparkSession, tmp_path: Path, has_segments: bool) -> None:
    rng = np.random.default_rng(0)
    users = [f"u{k}" for k in range(12)]
    before, after = (
        {user: "".join(rng.permutation(list("abcdef"))[: rng.integers(0, 4)]) for user in some}
        for some in (users[:10], users[2:])
    )
    segments = {user: "é'<b>" if k % 2 else "[red]" for k, user in enumerate(users[:9])} if has_segments else {}
    runs = [write_run(spark, tmp_path, name, lists, segments) for name, lists in (("before", before), ("after", after))]
    found = compare_runs(spark, LocalStorage(), *runs)
    names = sorted(set(segments.values())) if has_segments else ["cf"]
    assert [row["segment"] for row in found["segments"]] == names
    for row in (found, *found["segments"]):
        name = row.get("segment")
        mine = [
            {
                user: items
                for user, items in lists.items()
                if name in (None, segments.get(user) if has_segments else "cf" if items else None)
            }
            for lists in (before, after)
        ]
        assert row["users"] == counted(*[set(lists) for lists in mine])
        listed = [[item for items in lists.values() for item in items] for lists in mine]
        assert {key: row["items"][key] for key in ("before", "after", "both")} == counted(*[set(s) for s in listed])
        means = [float(np.mean([N_RATINGS[item] for item in items])) for items in listed]
        assert list(row["popularity"].values()) == pytest.approx(means)
    by_segment = {row["segment"]: (row["before"], row["after"]) for row in found["metrics"]}
    assert by_segment == {"all": (0.1, 0.3), "few ratings": (0.2, None), "many ratings": (None, 0.4)}
    console = Console(file=io.StringIO(), width=100)
    print_difference(console, found)
    printed = console.file.getvalue().splitlines()
    assert any(
        line.split() == ["model", "│", "ndcg@3", "│", "0.1000", "│", "0.3000", "│", "+0.2000"] for line in printed
    )
    assert "of the model, by segment: 2 more of one of the runs alone" in printed
