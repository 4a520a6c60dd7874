"""Filters against plain Python, and what the stage makes of them."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from recsys_spark.errors import ConfigError, ContractError
from recsys_spark.interval import parse_interval
from recsys_spark.publish.gate import check_recommendations
from recsys_spark.recommend import stage
from recsys_spark.recommend.candidates import Candidates
from recsys_spark.recommend.eligibility import availability_reasons, day_of_lists
from recsys_spark.recommend.lists import rank_users
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.shared_value import SharedValue
from recsys_spark.tables import (
    CATALOGUE,
    INDEXED_RATINGS,
    ITEM_ELIGIBILITY,
    ITEM_FACTORS,
    ITEM_INDEX,
    RECOMMENDATIONS,
    USER_BLOCKS,
    USER_FACTORS,
    USER_INDEX,
)

MakeContext = Callable[..., StageContext]
N_USERS, N_ITEMS, RANK = 7, 12, 2
DAY = date(2026, 1, 5)  # that of the runs that make_context makes


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 14), share=st.sampled_from([0.0, 0.3, 0.9, 1.0]))
def test_lists_equal_brute_force_under_random_filters(seed: int, n: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    eligible = np.flatnonzero(rng.random(N_ITEMS) < rng.choice([0.1, 0.5, 1.0])).astype(np.int32)
    if not len(eligible):
        return
    users = rng.integers(-2, 3, (N_USERS, RANK)).astype(np.float32)
    items = rng.integers(-2, 3, (N_ITEMS, RANK)).astype(np.float32)
    popularity = rng.integers(1, 4, N_ITEMS)
    labels = [f"item {(5 * k) % N_ITEMS}" for k in range(N_ITEMS)]
    hidden = [np.flatnonzero(rng.random(N_ITEMS) < share).tolist() * 2 if rng.random() < 0.8 else None for _ in users]
    candidates = Candidates.from_items(
        pa.array([labels[k] for k in eligible]), eligible, items[eligible], popularity[eligible],
        n_items=N_ITEMS, global_mean=0.5, biases=False,
    )  # fmt: skip
    is_known = rng.random(N_USERS) < 0.7
    factors = [user.tolist() if known else None for user, known in zip(users, is_known, strict=True)]
    batch = pa.RecordBatch.from_pydict(
        {
            "user": pa.array(range(N_USERS)),
            "factors": pa.array(factors, pa.list_(pa.float32())),
            "bias": pa.array([0.0] * N_USERS, pa.float32()),
            "hidden": pa.array(hidden, pa.list_(pa.int32())),
        }
    )
    made = list(rank_users(iter([batch]), SharedValue(candidates), n))
    rows = {row["user"]: row for part in made for row in part.to_pylist()}
    assert len(rows) == N_USERS
    for user, row in rows.items():
        left = [k for k in eligible.tolist() if k not in (hidden[user] or [])]
        score = {k: 0.5 + float(users[user] @ items[k]) if is_known[user] else float(popularity[k]) for k in left}
        expected = sorted(left, key=lambda k: (-score[k], labels[k].encode()))[:n]
        assert [entry["item_id"] for entry in row["recommendations"]] == [labels[k] for k in expected]
        assert [entry["score"] for entry in row["recommendations"]] == [score[k] for k in expected]
        if len(expected) == n:
            assert row["short_reason"] is None
        else:
            gone = len(eligible) - len(expected)
            assert row["short_reason"].startswith(f"only {len(expected)} of {n}: {len(eligible)} items are eligible")
            assert ("the user has rated or blocked" in row["short_reason"]) == (gone > 0)
            assert gone == 0 or f"blocked {gone} of them" in row["short_reason"]


FLAGS = {None: True, "": True, " ": True, "TRUE": True, " yes ": True, "1": True, "no": False, "0": False, "soon": None}
DAYS = {
    None: None,
    "": None,
    "2026-01-04": -1,
    "2026-01-05": 0,
    "2026-01-05T23:00:00": 0,
    "2026-01-06": 1,
    "2026": "unreadable",
    "5.1.2026": "unreadable",
    "2026-02-30": "unreadable",
}


def reason_of(flag: str | None, start: str | None, end: str | None) -> str | None:
    if FLAGS[flag] is None or "unreadable" in (DAYS[start], DAYS[end]):
        return "unreadable_availability"
    if not FLAGS[flag]:
        return "unavailable"
    if (DAYS[start] or 0) > 0:
        return "not_yet_on_sale"
    if DAYS[end] is not None and DAYS[end] <= 0:
        return "no_longer_on_sale"
    return None


def test_every_kind_of_availability_is_read_as_it_is_meant(spark: SparkSession) -> None:
    cells = list(itertools.product(FLAGS, DAYS, DAYS))
    rows = [(True, *row) for row in cells] + [(None, None, None, None)]
    frame = spark.createDataFrame(rows, "offered boolean, available string, start string, end string")
    reason = F.coalesce(*[F.when(holds, F.lit(name)) for name, holds in availability_reasons(DAY)])
    found = {tuple(row)[:4]: row["reason"] for row in frame.withColumn("reason", reason).collect()}
    assert found.pop((None, None, None, None)) == "not_in_catalogue"
    assert found == {(True, *row): reason_of(*row) for row in cells}


def test_items_have_to_be_on_sale_when_the_interval_has_ended(make_context: MakeContext) -> None:
    years = parse_interval(None, "2014-01-01", "2026-01-01")
    assert day_of_lists(make_context()) == DAY
    assert day_of_lists(make_context(years)) == date(2026, 1, 1)
    assert day_of_lists(make_context(years, recommend={"on_date": "2020-02-03"})) == date(2020, 2, 3)


def item(k: int) -> str:
    return f"i{k:02}"


def user(k: int) -> str:
    return f"u{k}"


def write_run(context: StageContext, seed: int = 0) -> tuple[np.ndarray, dict[int, dict[int, datetime]]]:
    """Write what earlier stages leave; return the scores and each user's rated items with their times."""
    rng = np.random.default_rng(seed)
    users, items = (rng.normal(size=(n, RANK)).astype(np.float32) for n in (N_USERS, N_ITEMS))
    times = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3)]
    rated = {
        u: {int(i): times[(u + int(i)) % 3] for i in rng.choice(N_ITEMS, 4, replace=False)} for u in range(N_USERS)
    }
    spark = context.spark
    ratings = [(u, i, 1.0, None, time) for u, mine in rated.items() for i, time in mine.items()]
    tables: list[tuple[Any, list[Any]]] = [
        (USER_INDEX, [(user(k), k) for k in range(N_USERS)]),
        (ITEM_INDEX, [(item(k), k) for k in range(N_ITEMS)]),
        (INDEXED_RATINGS, ratings),
        (USER_FACTORS, [(user(k), k, users[k].tolist(), 0.0, 4) for k in range(N_USERS)]),
        (ITEM_FACTORS, [(item(k), k, items[k].tolist(), 0.0, 2) for k in range(N_ITEMS)]),
    ]
    for table, rows in tables:
        context.write(table, spark.createDataFrame(rows, table.schema))
    train = {"global_mean": 0.0, "biases": False, "loss": "squared", "rank": RANK, "label": "squared, rank 2"}
    context.storage.write_text(context.run.stage_record("train"), json.dumps(train))
    context.storage.write_text(context.run.stage_record("index"), json.dumps({"n_items": N_ITEMS, "n_ratings": 3}))
    return users.astype(float) @ items.T.astype(float), rated


def test_all_filters_act_inside_the_lists(
    make_context: MakeContext, spark: SparkSession, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(logging.getLogger("recsys_spark"), "handlers", [caplog.handler])
    (tmp_path / "deny.csv").write_text(f"item_id\n{item(3)}\n{item(3)}\nno such\n\n")
    allowed = [k for k in range(N_ITEMS) if k != 5]
    (tmp_path / "allow.jsonl").write_text("".join(f'{{"id": "{item(k)}"}}\n' for k in [*allowed, 77, 78]))
    blocks = [(0, 1), (0, 2), (1, 7), (99, 1), (1, 99)]
    (tmp_path / "blocks.csv").write_text("user_id|item_id\n" + "".join(f"{user(u)}|{item(i)}\n" for u, i in blocks))
    context = make_context(
        input={"columns": {"timestamp": "at"}},
        catalogue={"path": "items.csv", "available": "in stock", "end": "until"},
        recommend={
            "n": 6,
            "seen_since": "2026-01-02",
            "deny": {"path": str(tmp_path / "deny.csv")},
            "allow": {"path": str(tmp_path / "allow.jsonl"), "format": "jsonl", "item": "id"},
            "blocks": {"path": str(tmp_path / "blocks.csv"), "delimiter": "|"},
        },
    )  # fmt: skip
    offered = [
        (item(k), "t", None, "no" if k == 8 else None, None, "2026-01-05" if k == 9 else None, None) for k in range(11)
    ]
    context.write(CATALOGUE, spark.createDataFrame(offered, CATALOGUE.schema))
    scores, rated = write_run(context)
    with caplog.at_level("WARNING", "recsys_spark"):
        record = stage.run(context)

    removed = {3: "denied", 5: "not_allowed", 8: "unavailable", 9: "no_longer_on_sale", 11: "not_in_catalogue"}
    eligibility = {row["item_id"]: row["removed_by"] for row in context.read(ITEM_ELIGIBILITY).collect()}
    assert eligibility == {item(k): removed.get(k) for k in range(N_ITEMS)}
    assert record["removed_items"] == dict.fromkeys(sorted(removed.values()), 1)
    (deny_file,) = record["filter_files"]["recommend.deny"]
    assert deny_file["size"] == (tmp_path / "deny.csv").stat().st_size
    assert record["unknown_ids"] == {"deny": 1, "allow": 2, "blocks_users": 1, "blocks_items": 1}
    assert "recommend.allow names 2 items that the ratings do not have, such as 'i77'" in caplog.text
    assert "recommend.blocks names 1 users that the ratings do not have, such as 'u99'" in caplog.text

    lists = {row["user_id"]: row for row in context.read(RECOMMENDATIONS).collect()}
    n_short = 0
    for u in range(N_USERS):
        seen = {i for i, time in rated[u].items() if time >= datetime(2026, 1, 2, tzinfo=UTC)}
        left = [k for k in range(N_ITEMS) if k not in removed and k not in seen and (u, k) not in blocks]
        expected = sorted(left, key=lambda k: -scores[u, k])[:6]
        assert [entry["item_id"] for entry in lists[user(u)]["recommendations"]] == [item(k) for k in expected]
        assert (lists[user(u)]["short_reason"] is None) == (len(expected) == 6)
        n_short += len(expected) < 6
    assert 0 < n_short == record["n_short_lists"]

    hidden = {"blocked": context.read(USER_BLOCKS)}
    users = context.read(USER_INDEX)
    checks = check_recommendations(context.read(RECOMMENDATIONS), users, context.read(ITEM_ELIGIBILITY), hidden, 6)
    assert not [check for check in checks if check.n_broken]


def test_filters_that_leave_nothing_are_an_error(make_context: MakeContext, tmp_path: Path) -> None:
    (tmp_path / "allow.csv").write_text("item_id\nno such\n")
    context = make_context(recommend={"allow": {"path": str(tmp_path / "allow.csv")}})
    write_run(context)
    with pytest.raises(ContractError, match=r"no item can be recommended to anybody(.|\n)*12 items not_allowed"):
        stage.run(context)


def test_a_filter_without_its_file_or_column_is_refused(make_context: MakeContext, tmp_path: Path) -> None:
    context = make_context(recommend={"deny": {"path": str(tmp_path / "absent.csv")}})
    write_run(context)
    with pytest.raises(ConfigError, match=r"no such file was found\n  where: recommend\.deny\.path"):
        stage.run(context)
    (tmp_path / "absent.csv").write_text("sku\nx\n")
    context.storage.remove(context.run.table_path(ITEM_ELIGIBILITY))
    with pytest.raises(ConfigError, match=r"recommend\.deny\.item\n  got: 'item_id'\n  allowed: 'sku'"):
        stage.run(context)
