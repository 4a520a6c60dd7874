from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.config.evaluate import EvaluateConfig
from recsys_spark.errors import ContractError
from recsys_spark.evaluate.leaks import find_leaks, require_no_leaks
from recsys_spark.evaluate.splits import FOLD_IN, HELD_OUT, TRAINING, first_held_out_day, split_by

START = datetime(2026, 1, 1, tzinfo=UTC)
SCHEMA = "user_index int, item_index int, rating float, timestamp timestamp"
Pair = tuple[int, int]


def rating_rows(n_users: int = 40, n_items: int = 30) -> list[tuple[int, int, float, datetime | None]]:
    """Every third pair; several ratings of a user share an hour, some have no time, user 0 has one rating."""
    rows = [
        (u, i, 1.0, None if (u + i) % 17 == 0 else START + timedelta(hours=(7 * u + 5 * i) % 240))
        for u in range(n_users)
        for i in range(n_items)
        if (u + i) % 3 == 0
    ]
    return [row for row in rows if row[0] != 0 or row[1] == 3]


def parts_of(frame: DataFrame) -> dict[str, set[Pair]]:
    found: dict[str, set[Pair]] = defaultdict(set)
    for row in frame.select("user_index", "item_index", "part").collect():
        found[row["part"]].add((row["user_index"], row["item_index"]))
    return found


SPLITS = [
    EvaluateConfig(split="random", holdout_share=0.2),
    EvaluateConfig(split="last_k", last_k=2),
    EvaluateConfig(split="time", holdout_share=0.25),
    EvaluateConfig(split="users", holdout_share=0.3),
    EvaluateConfig(split="items", holdout_share=0.3),
]


@pytest.mark.parametrize("config", SPLITS, ids=lambda config: config.split)
def test_a_split_keeps_every_rating_does_not_depend_on_order_and_does_not_leak(
    spark: SparkSession, config: EvaluateConfig
) -> None:
    rows = rating_rows()
    split = split_by(spark.createDataFrame(rows, SCHEMA), config)
    found = parts_of(split.frame)
    again = split_by(spark.createDataFrame(rows[::-1], SCHEMA).repartition(3), config)
    assert parts_of(again.frame) == found
    assert sum(map(len, found.values())) == len(rows)
    assert set().union(*found.values()) == {row[:2] for row in rows}
    assert found[TRAINING]
    assert found[HELD_OUT]
    leaks = find_leaks(split.frame, config, split.from_time)
    assert leaks
    assert not any(leaks.values())
    require_no_leaks(leaks, "split")
    check_rules(config, found, {row[:2]: row[3] for row in rows})


def check_rules(config: EvaluateConfig, found: dict[str, set[Pair]], times: dict[Pair, datetime | None]) -> None:
    """Check by hand what each kind of split promises."""
    early = START - timedelta(days=1)
    held_out, training = found[HELD_OUT], found[TRAINING]
    if config.split == "last_k":
        for user in {pair[0] for pair in times}:
            mine = sorted((times[pair] or early) for pair in times if pair[0] == user)
            out = sorted((times[pair] or early) for pair in held_out if pair[0] == user)
            assert out == (mine[-2:] if len(mine) > 2 else [])
    elif config.split == "time":
        first = min(time for time in (times[pair] for pair in held_out) if time is not None)
        assert all((times[pair] or early) < first for pair in training)
        assert len(held_out) / len(times) == pytest.approx(0.25, abs=0.07)
    elif config.split == "users":
        assert not {u for u, _ in training} & {u for u, _ in held_out | found[FOLD_IN]}
        assert len(found[FOLD_IN]) / len(found[FOLD_IN] | held_out) == pytest.approx(0.8, abs=0.1)
    elif config.split == "items":
        assert not {i for _, i in training} & {i for _, i in held_out}
    else:
        assert len(held_out) / len(times) == pytest.approx(0.2, abs=0.07)


def test_another_seed_holds_out_others(spark: SparkSession) -> None:
    ratings = spark.createDataFrame(rating_rows(), SCHEMA)
    one, other = (parts_of(split_by(ratings, EvaluateConfig(split="users", seed=seed)).frame) for seed in (0, 1))
    assert {u for u, _ in one[HELD_OUT]} != {u for u, _ in other[HELD_OUT]}


def test_the_day_is_the_one_whose_share_is_nearest(spark: SparkSession) -> None:
    days = [0, 0, 0, 0, 1, 1, 2, 2, 2, 3]
    rows = [(0, n, 1.0, START + timedelta(days=day, hours=23)) for n, day in enumerate(days)]
    ratings = spark.createDataFrame([*rows, (0, 99, 1.0, None)], SCHEMA)
    assert first_held_out_day(ratings, 0.15) == START + timedelta(days=3)
    assert first_held_out_day(ratings, 0.35) == START + timedelta(days=2)
    assert first_held_out_day(ratings, 0.9) == START + timedelta(days=1)
    assert first_held_out_day(ratings.where("item_index < 4"), 0.1) is None


PLANTED = [
    (SPLITS[0], "ratings that are in the table twice", lambda f: f.unionByName(f.limit(1))),
    (
        SPLITS[0],
        "ratings without a part",
        lambda f: f.withColumn("part", F.when(F.col("user_index") != 3, F.col("part"))),
    ),
    (
        SPLITS[1],
        "users who trained on what came after a held-out rating",
        lambda f: f.withColumn("timestamp", F.expr("if(part = 'training', timestamp + interval 99 days, timestamp)")),
    ),
    (
        SPLITS[1],
        "users with other than 2 ratings held out, or all of theirs",
        lambda f: f.where("not (user_index = 5 and part = 'training')"),
    ),
    (
        SPLITS[2],
        "training ratings from after the split",
        lambda f: f.withColumn("part", F.when(F.col("user_index") == 4, TRAINING).otherwise(F.col("part"))),
    ),
    (
        SPLITS[2],
        "held-out ratings from before the split",
        lambda f: f.withColumn("part", F.when(F.col("user_index") == 4, HELD_OUT).otherwise(F.col("part"))),
    ),
    (
        SPLITS[3],
        "held-out users with training ratings",
        lambda f: f.withColumn("part", F.when(F.col("item_index") == 6, TRAINING).otherwise(F.col("part"))),
    ),
    (
        SPLITS[4],
        "held-out items with training ratings",
        lambda f: f.withColumn("part", F.when(F.col("user_index") == 6, TRAINING).otherwise(F.col("part"))),
    ),
]


@pytest.mark.parametrize(("config", "name", "plant"), PLANTED, ids=[name for _, name, _ in PLANTED])
def test_planted_leaks_are_found(spark: SparkSession, config: EvaluateConfig, name: str, plant) -> None:
    split = split_by(spark.createDataFrame(rating_rows(), SCHEMA), config)
    leaks = find_leaks(plant(split.frame), config, split.from_time)
    assert leaks[name] > 0
    with pytest.raises(ContractError, match=name):
        require_no_leaks(leaks, "split")
